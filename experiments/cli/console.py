"""Formatting for terminals: tables (in color where supported), percentages and JSON."""

import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from core.streams import one_line, printable
from experiments.study.terminal import PrintableConsole

READABLE_WIDTH = 8
"""A column of longer cells must have this width at least, or the table is shown row by row."""
BETWEEN_COLUMNS = 3


def console() -> Console:
    """A console on standard output; wide where the output is not a terminal."""
    return PrintableConsole(sys.stdout)


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalTable:
    """Rows under columns; on a terminal that is too narrow for them, a block of lines per row.

    The last ``numbers`` columns are right-aligned. Square brackets are plain text.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = not (console.is_terminal or options.ascii_only) and self._is_simple()
        lines = self._lines() if plain else []
        if lines and len(lines[0]) <= options.max_width:
            yield Segment("\n".join((*lines, "")))
            return
        if self._least_width() <= options.max_width:
            yield self._table()
            return
        yield Text(printable(self.title), style="bold")
        for row in self.rows:
            yield Text("")
            for column, cell in zip(self.columns, row, strict=True):
                yield Text(printable(f"{column}: {cell}"), overflow="fold")

    def _is_simple(self) -> bool:
        """Whether every character takes one place, so that no library has to measure it."""
        texts = (self.title, *self.columns, *itertools.chain(*self.rows))
        return all(text.isascii() and text.isprintable() for text in texts)

    def _lines(self) -> list[str]:
        """The lines of ``_table`` without colors, for long tables in files: the library takes a
        hundred times as long. Empty where the title is wider than the table.
        """
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        bars = ["─" * (width + 2) for width in widths]
        right = len(widths) - self.numbers
        pads = [str.ljust if i < right else str.rjust for i in range(len(widths))]

        def joined(cells: Sequence[str], bar: str) -> str:
            texts = [pad(cell, n) for pad, cell, n in zip(pads, cells, widths, strict=True)]
            return f"{bar} {f' {bar} '.join(texts)} {bar}"

        thick = ["━" * len(bar) for bar in bars]
        head = joined(self.columns, "┃")
        if len(self.title) > len(head):
            return []
        return [
            self.title.ljust(len(head)),
            f"┏{'┳'.join(thick)}┓",
            head,
            f"┡{'╇'.join(thick)}┩",
            *(joined(row, "│") for row in self.rows),
            f"└{'┴'.join(bars)}┘",
        ]

    def _least_width(self) -> int:
        longest = (max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True))
        least = sum(min(width, READABLE_WIDTH) for width in longest)
        return least + BETWEEN_COLUMNS * len(self.columns) + 1

    def _table(self) -> Table:
        made = Table(title=escape(self.title), title_justify="left", header_style="bold")
        for index, column in enumerate(self.columns):
            right = index >= len(self.columns) - self.numbers
            justify = "right" if right else "left"
            made.add_column(escape(column), justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in self.rows:
            made.add_row(*map(escape, row))
        return made


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: int = 0
) -> TerminalTable:
    """A table for ``console``; its last ``numbers`` columns are right-aligned."""
    texts = tuple(tuple(map(one_line, row)) for row in rows)
    return TerminalTable(title=title, columns=tuple(columns), rows=texts, numbers=numbers)


def percent(value: float | None) -> str:
    """A fraction in percent with two decimals, or a dash."""
    return "-" if value is None else f"{100 * value:.2f}"


def print_notes(notes: Iterable[str]) -> None:
    """Print what a user should know before the work begins, on standard error."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def print_json(value: object) -> None:
    """Print a value as indented JSON on standard output."""
    print(json.dumps(value, indent=1, default=str))
