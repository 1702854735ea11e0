"""What a long study shows while it runs: a bar on a terminal, plain lines anywhere else."""

import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 10.0
UNKNOWN = "unknown until the first runs are done"


class Progress(Protocol):
    """What a driver tells whoever watches."""

    def begin(self, *, total: int, done: int) -> None:
        """``done`` of ``total`` runs were there already."""
        ...

    def running(self, key: str, label: str, fraction: float) -> None:
        """A run started, or a fraction of it is done."""
        ...

    def finished(self, key: str, label: str, status: str) -> None:
        """A run ended."""
        ...

    def catch_up(self, done: int) -> None:
        """``done`` runs are behind us, some of which need not have been made."""
        ...

    def note(self, text: str) -> None:
        """Something the user should read."""
        ...

    def end(self) -> None:
        """No more of this study."""
        ...


class NoProgress:
    """Shows nothing."""

    def begin(self, *, total: int, done: int) -> None:
        return

    def running(self, key: str, label: str, fraction: float) -> None:
        return

    def finished(self, key: str, label: str, status: str) -> None:
        return

    def catch_up(self, done: int) -> None:
        return

    def note(self, text: str) -> None:
        return

    def end(self) -> None:
        return


@dataclass(slots=True)
class Pace:
    """Counts runs and estimates when the rest will be done, from the runs of this call alone."""

    total: int
    done: int
    already: int
    problems: int
    since: float

    @classmethod
    def begin(cls, *, total: int, done: int) -> "Pace":
        return cls(total=total, done=done, already=done, problems=0, since=time.monotonic())

    def count(self, status: str) -> None:
        self.done += 1
        self.problems += status != "finished"

    def catch_up(self, done: int) -> bool:
        """Count runs that took no time; whether there were any."""
        spared = max(0, done - self.done)
        self.done += spared
        self.already += spared
        return spared > 0

    def remaining_seconds(self, fractions: float = 0.0) -> float | None:
        """Seconds to go, ``fractions`` of runs being under way; None before anything is known."""
        work = self.done - self.already + fractions
        if work <= 0:
            return None
        return (time.monotonic() - self.since) / work * (self.total - self.done - fractions)


def duration(seconds: float | None) -> str:
    """Seconds as h:mm:ss; "unknown ..." for None."""
    return UNKNOWN if seconds is None else str(timedelta(seconds=round(seconds)))


class PlainProgress:
    """One line every ``seconds`` in which runs ended, and one at the end: for logs."""

    def __init__(self, stream: TextIO, *, seconds: float = PLAIN_SECONDS) -> None:
        self.stream = stream
        self.seconds = seconds
        self.pace = Pace.begin(total=0, done=0)
        self.last = 0.0

    def begin(self, *, total: int, done: int) -> None:
        self.pace = Pace.begin(total=total, done=done)
        self.last = time.monotonic()
        self.note(f"{total} runs, {done} already there, {total - done} to do")

    def running(self, key: str, label: str, fraction: float) -> None:
        return

    def finished(self, key: str, label: str, status: str) -> None:
        self.pace.count(status)
        if status != "finished":
            self.note(f"{label}: {status}")
        if time.monotonic() - self.last >= self.seconds or self.pace.done == self.pace.total:
            self.last = time.monotonic()
            self.note(self._counts())

    def catch_up(self, done: int) -> None:
        if self.pace.catch_up(done) and self.pace.done == self.pace.total:
            self.note(self._counts())

    def _counts(self) -> str:
        pace = self.pace
        problems = f", {pace.problems} with problems" if pace.problems else ""
        if pace.done == pace.total:
            rest = f"all done in {duration(time.monotonic() - pace.since)}"
        else:
            rest = f"about {duration(pace.remaining_seconds())} to go"
        return f"{pace.done}/{pace.total} runs{problems}, {rest}"

    def note(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def end(self) -> None:
        return


class BarProgress:
    """A bar over all runs, with what runs now, on a terminal."""

    def __init__(self, console: Console) -> None:
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rest]}"),
            console=console,
        )
        self.pace = Pace.begin(total=0, done=0)
        self.task = TaskID(0)
        self.fractions: dict[str, float] = {}

    def begin(self, *, total: int, done: int) -> None:
        self.pace = Pace.begin(total=total, done=done)
        self.task = self.bar.add_task("runs", total=total, completed=done, rest="")
        self.bar.start()

    def running(self, key: str, label: str, fraction: float) -> None:
        self.fractions[key] = min(max(fraction, 0.0), 1.0)
        self._show(label)

    def finished(self, key: str, label: str, status: str) -> None:
        self.fractions.pop(key, None)
        self.pace.count(status)
        if status != "finished":
            self.note(f"{label}: {status}")
        self._show(label)

    def catch_up(self, done: int) -> None:
        if self.pace.catch_up(done):
            self.bar.update(self.task, completed=self.pace.done)

    def _show(self, label: str) -> None:
        under_way = sum(self.fractions.values())
        rest = self.pace.remaining_seconds(under_way)
        self.bar.update(
            self.task,
            completed=self.pace.done,
            description=label,
            rest="" if rest is None else f"about {duration(rest)} to go",
        )

    def note(self, text: str) -> None:
        self.bar.console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        self.bar.stop()


def make_progress(stream: TextIO | None = None) -> Progress:
    """A bar where the stream (standard error by default) is a terminal, plain lines elsewhere."""
    stream = stream or sys.stderr
    console = Console(file=stream)
    watched = stream.isatty() and console.is_interactive
    return BarProgress(console) if watched else PlainProgress(stream)
