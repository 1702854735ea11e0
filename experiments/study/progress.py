"""Progress of long computations: a bar on a terminal, plain lines anywhere else."""

import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, Self, TextIO

import rich.progress

from core.store.secrets import without_secrets
from core.streams import one_line, printable
from experiments.study.terminal import PrintableConsole

PLAIN_SECONDS = 10.0
UNKNOWN = "unknown until the first runs are done"


class Progress(Protocol):
    """What a driver reports about a study."""

    def begin(self, *, total: int, done: int) -> None:
        """The study begins: ``done`` of ``total`` runs were finished before."""
        ...

    def running(self, key: str, label: str, fraction: float) -> None:
        """A run has started, or a fraction of it is done."""
        ...

    def finished(self, key: str, label: str, status: str) -> None:
        """A run has ended."""
        ...

    def catch_up(self, done: int) -> None:
        """``done`` runs are over, some of which were not needed."""
        ...

    def note(self, text: str) -> None:
        """Something the user should read."""
        ...

    def end(self) -> None:
        """The study is over."""
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
    """Counts what is done and estimates the remaining time, from the work of this call alone."""

    total: float
    done: float
    already: float
    problems: int
    since: float

    @classmethod
    def begin(cls, *, total: float, done: float) -> Self:
        return cls(total=total, done=done, already=done, problems=0, since=time.monotonic())

    def count(self, status: str) -> None:
        self.done += 1
        self.problems += status != "finished"

    def catch_up(self, done: float) -> bool:
        """Count runs that took no time; returns whether there were any."""
        spared = max(0, done - self.done)
        self.done += spared
        self.already += spared
        return spared > 0

    def remaining_seconds(self, fractions: float = 0.0) -> float | None:
        """Remaining seconds, given the ``fractions`` of running runs; None before any estimate."""
        work = self.done - self.already + fractions
        if work <= 0:
            return None
        return (time.monotonic() - self.since) / work * (self.total - self.done - fractions)


def duration(seconds: float | None) -> str:
    """Seconds as h:mm:ss; ``UNKNOWN`` for None."""
    return UNKNOWN if seconds is None else str(timedelta(seconds=round(seconds)))


class Bar:
    """One line of progress: a bar with an estimate of the remaining time on a terminal, a plain
    line every ten seconds elsewhere.

    Nothing is shown before the first update, so that an error message stands alone. The stream is
    standard error by default.
    """

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self.label = label
        self.stream = stream or sys.stderr
        self.console = PrintableConsole(self.stream)
        self.on_terminal = is_terminal(self.stream)
        self.pace: Pace | None = None
        self.last = 0.0
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[count]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("{task.fields[rest]}"),
            console=self.console,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def show(self, done: float, total: float, label: str = "") -> None:
        """Show that ``done`` of ``total`` are done; a new label replaces the old one."""
        if self.pace is None:
            self.pace = Pace.begin(total=total, done=done)
            self.last = self.pace.since
        self.pace.total, self.pace.done = total, done
        self.label = label or self.label
        percent = f"{100 * done / total:.0f} %"
        if self.on_terminal:
            self.draw(done, total, percent, self.pace.remaining_seconds())
        elif time.monotonic() - self.last >= PLAIN_SECONDS:
            self.last = time.monotonic()
            self.note(f"{self.label}: {percent}")

    def draw(self, done: float, total: float, count: str, seconds: float | None) -> None:
        """Draw the bar, with a count and the estimated remaining time beside it."""
        rest = "" if seconds is None else f"about {duration(seconds)} left"
        if not self.bar.task_ids:
            self.bar.add_task(printable(self.label), total=total, count=count, rest=rest)
            self.bar.start()
        task = self.bar.task_ids[0]
        self.bar.update(
            task,
            description=printable(self.label),
            completed=done,
            total=total,
            count=count,
            rest=rest,
        )

    def note(self, text: str) -> None:
        """Print a line of text, above the bar if there is one."""
        text = one_line(without_secrets(text))
        if self.on_terminal:
            self.console.print(text, markup=False)
        else:
            print(text, file=self.stream, flush=True)

    def end(self) -> None:
        """End the line."""
        if self.bar.task_ids:
            self.bar.stop()


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
        self.note(f"{total} runs, {done} already done, {total - done} left")

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
            rest = f"about {duration(pace.remaining_seconds())} left"
        return f"{pace.done:g}/{pace.total:g} runs{problems}, {rest}"

    def note(self, text: str) -> None:
        print(one_line(without_secrets(text)), file=self.stream, flush=True)

    def end(self) -> None:
        return


class BarProgress:
    """A bar over all runs on a terminal, labeled with the run that last reported."""

    def __init__(self, stream: TextIO) -> None:
        self.bar = Bar("runs", stream)
        self.pace = Pace.begin(total=0, done=0)
        self.fractions: dict[str, float] = {}

    def begin(self, *, total: int, done: int) -> None:
        self.pace = Pace.begin(total=total, done=done)
        self._draw()

    def running(self, key: str, label: str, fraction: float) -> None:
        self.fractions[key] = min(max(fraction, 0.0), 1.0)
        self.bar.label = label
        self._draw()

    def finished(self, key: str, label: str, status: str) -> None:
        self.fractions.pop(key, None)
        self.pace.count(status)
        self.bar.label = label
        if status != "finished":
            self.note(f"{label}: {status}")
        self._draw()

    def catch_up(self, done: int) -> None:
        if self.pace.catch_up(done):
            self._draw()

    def _draw(self) -> None:
        pace = self.pace
        seconds = pace.remaining_seconds(sum(self.fractions.values()))
        self.bar.draw(pace.done, pace.total, f"{pace.done:g}/{pace.total:g}", seconds)

    def note(self, text: str) -> None:
        self.bar.note(text)

    def end(self) -> None:
        self.bar.end()


def make_progress(stream: TextIO | None = None) -> Progress:
    """The progress of a study: a bar where the stream (standard error by default) is a terminal,
    plain lines elsewhere.
    """
    stream = stream or sys.stderr
    return BarProgress(stream) if is_terminal(stream) else PlainProgress(stream)


def is_terminal(stream: TextIO) -> bool:
    """Whether the stream is a terminal on which a line can be redrawn."""
    return stream.isatty() and PrintableConsole(stream).is_interactive
