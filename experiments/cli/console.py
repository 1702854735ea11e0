"""What the commands print: rich tables on a terminal, the same text without color elsewhere."""

import sys
import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

PLAIN_WIDTH = 160
PLAIN_SECONDS = 10.0


def console(*, error: bool = False) -> Console:
    """A console on standard output, or on standard error; wide where it is not a terminal."""
    stream = sys.stderr if error else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: int = 0
) -> Table:
    """A table; the last ``numbers`` columns are flush right."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        right = index >= len(columns) - numbers
        made.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made


def escape(cell: object) -> str:
    """Text of a cell; square brackets in it are text, not markup."""
    return str(cell).replace("[", "\\[")


class Bar:
    """One progress line on standard error: a bar with an ETA on a terminal, a plain line every ten
    seconds elsewhere. Nothing is shown before the first news, so that errors stand alone.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.last: float | None = None
        self.terminal = sys.stderr.isatty()
        self.bar = Progress(console=console(error=True), disable=not self.terminal)
        self.task: TaskID | None = None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *problem: object) -> None:
        self.bar.stop()

    def show(self, done: float, total: float, label: str = "") -> None:
        """``done`` of ``total`` are done; a new label replaces the old one."""
        self.label = label or self.label
        if not self.terminal:
            self._line(done, total)
            return
        if self.task is None:
            self.task = self.bar.add_task(self.label, total=total)
            self.bar.start()
        self.bar.update(self.task, description=self.label, completed=done, total=total)

    def _line(self, done: float, total: float) -> None:
        now = time.monotonic()
        self.last = now if self.last is None else self.last
        if now - self.last >= PLAIN_SECONDS:
            self.last = now
            print(f"{self.label}: {100 * done / total:.0f} %", file=sys.stderr, flush=True)


def percent(value: float | None) -> str:
    """A fraction as percent with two digits, or a dash."""
    return "-" if value is None else f"{100 * value:.2f}"
