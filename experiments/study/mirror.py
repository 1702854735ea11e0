"""Mirrors: copies of finished runs in a tracking service, written by a process of their own.

Records are authoritative; a mirror is for inspection. Its process, at low priority, writes every
finished run: neither the driver nor a worker imports the service's library, waits for it, or fails
with it. A run is written again when its description has changed.
"""

import json
import os
import subprocess
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol, TextIO, cast

from filelock import FileLock, Timeout

from core.program import command_line
from core.store.names import MIRROR_LOG_NAME, RECORD_NAME
from core.store.record import check_place, read_record, record_paths
from core.store.secrets import without_secrets
from experiments.study.run_description import RunDescription, describe_run

NICENESS = 10
CLOSE_SECONDS = 60.0
LOCK_SECONDS = 30.0
ADDRESS_VARIABLE = "REFINELAB_MIRROR_URI"
ONLY, EXTRA = "only", "extra"


class Tracker(Protocol):
    """Is notified of finished runs."""

    def finished(self, run_dir: Path) -> None:
        """The record in ``run_dir`` is written. Returns at once and never raises."""
        ...

    def close(self, *, seconds: float = CLOSE_SECONDS) -> str:
        """Wait at most ``seconds`` for pending work; returns a warning for the user, or nothing."""
        ...


class NullTracker:
    """Does nothing."""

    def finished(self, run_dir: Path) -> None:
        return

    def close(self, *, seconds: float = CLOSE_SECONDS) -> str:
        return ""


class Trackers:
    """Several trackers as one; they share the time at the end."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers

    def finished(self, run_dir: Path) -> None:
        for tracker in self.trackers:
            tracker.finished(run_dir)

    def close(self, *, seconds: float = CLOSE_SECONDS) -> str:
        return "; ".join(filter(None, [t.close(seconds=seconds) for t in self.trackers]))


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorReport:
    """Counts of runs that were written, were already there, or were not written, and why."""

    written: int = 0
    present: int = 0
    left: int = 0
    error: str = ""
    mirror: str = "MLflow"

    def __str__(self) -> str:
        reason = f" ({self.error})" if self.error else ""
        return (
            f"{self.written} runs written, {self.present} already in {self.mirror}, "
            f"{self.left} not written{reason}"
        )


class MirrorTracker(ABC):
    """Starts the mirror process of a folder of runs with the first finished one; later runs wake it
    up.
    """

    title: ClassVar[str]
    resync: ClassVar[tuple[str, ...]] = ()

    def __init__(self, study_dir: Path) -> None:
        self.study_dir = study_dir
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> subprocess.Popen[bytes]:
        """A new mirror process."""

    def finished(self, run_dir: Path) -> None:
        with suppress(OSError):  # a full pipe or a dead mirror: its last pass, or sync, catches up
            if self.process is None:
                self.process = self.start()
                os.set_blocking(_wake_up(self.process), False)
            os.write(_wake_up(self.process), b"\n")

    def close(self, *, seconds: float = CLOSE_SECONDS) -> str:
        if self.process is None:
            return ""
        report = end_mirror(self.process, seconds)
        self.process = None
        if not report.error:
            return ""
        missing = f", {report.left} runs are missing" if report.left else ""
        command = command_line("sync", self.study_dir, *self.resync)
        return f"{self.title} is behind{missing} ({report.error}): {command}"


def start_mirror(
    module: str,
    study_dir: Path,
    *,
    niceness: int,
    environment: Mapping[str, str],
    extra: Sequence[Path] = (),
    only: Sequence[Path] = (),
) -> subprocess.Popen[bytes]:
    """Start the mirror process of a module. ``extra`` are run folders outside the study folder,
    ``only`` those that are written alone.
    """
    search_path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    choice, named = (ONLY, only) if only else (EXTRA, extra)
    words = [study_dir.absolute(), niceness, choice, *(path.absolute() for path in named)]
    arguments = [str(word) for word in words]
    with _log_file(study_dir / MIRROR_LOG_NAME) as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**environment, "PYTHONPATH": search_path},
            process_group=0,
        )


def _log_file(path: Path) -> BinaryIO:
    """The log, or nothing where it cannot be written."""
    try:
        return path.open("ab")
    except OSError:
        return open(os.devnull, "wb")


def _wake_up(process: subprocess.Popen[bytes]) -> int:
    """The descriptor of the pipe that wakes a mirror process; closing it ends the process."""
    assert process.stdin is not None
    return process.stdin.fileno()


def end_mirror(process: subprocess.Popen[bytes], seconds: float | None) -> MirrorReport:
    """The report of a mirror process that is told to end; it is killed after ``seconds``."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return MirrorReport(error=f"not finished after {seconds:g} seconds")
    try:
        return MirrorReport(**json.loads(output.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return MirrorReport(error=f"the mirror process ended with exit code {process.returncode}")


def serve_mirror(make: Callable[..., "StudyMirror"]) -> None:
    """The mirror process, with the arguments of ``start_mirror``: one pass per wake-up, one when
    the driver ends, then a report. ``make`` is given the study folder, and run folders by keyword.
    """
    place, niceness, choice, *named = sys.argv[1:]
    mirror = make(Path(place), **{choice: [Path(text) for text in named]})
    os.nice(int(niceness))
    sys.stderr = cast(TextIO, _WithoutSecrets(sys.stderr, mirror.address))
    mirror.run_pass()
    while os.read(0, 65536):
        mirror.run_pass()
    report = mirror.run_pass()
    mirror.close()
    print(json.dumps(asdict(report)), flush=True)


class _WithoutSecrets:
    """A stream that masks passwords and tokens in what is written to it, line by line."""

    def __init__(self, stream: TextIO, address: str) -> None:
        self.stream = stream
        self.address = address

    def write(self, text: str) -> int:
        self.stream.write(without_secrets(text, self.address))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class StudyMirror(ABC):
    """Writes the runs of a folder to a tracking service; imports its library with the first one.

    After an error of the service, nothing more is written. ``extra`` are run folders elsewhere;
    ``only``, where given, are the run folders that are written, and no others.
    """

    title: ClassVar[str]

    def __init__(
        self,
        study_dir: Path,
        address: str = "",
        extra: Sequence[Path] = (),
        only: Sequence[Path] = (),
    ) -> None:
        self.study_dir = study_dir
        self.address = address
        self.extra = tuple(extra)
        self.only = tuple(only)
        self.seen: dict[Path, int] = {}
        self.written = 0
        self.error = ""
        self.locks = ExitStack()

    @abstractmethod
    def connect(self) -> None:
        """Prepare for writing, if that is not done yet, and read what the service holds."""

    @abstractmethod
    def write(self, run: RunDescription) -> bool:
        """Write one run; False where the service holds it as it is."""

    def finish_pass(self) -> None:
        """Called after the new runs of a pass are written."""
        return

    def run_pass(self) -> MirrorReport:
        """Write every record that is new since the last pass; damaged ones are skipped."""
        paths = self._records()
        new = {path: path.stat().st_mtime_ns for path in paths}.items() - self.seen.items()
        damaged: list[str] = []
        if new and not self.error:
            try:
                self.connect()
                damaged = [text for path, stamp in sorted(new) if (text := self._take(path, stamp))]
                self.finish_pass()
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                text = without_secrets(f"{type(error).__name__}: {error}", self.address)
                self.error = text.splitlines()[0][:300]
        return MirrorReport(
            written=self.written,
            present=len(self.seen) - self.written,
            left=len(paths) - len(self.seen),
            error=self.error or "; ".join(damaged[:1]),
            mirror=self.title,
        )

    def _records(self) -> list[Path]:
        """The records to write that exist now."""
        named = [folder / RECORD_NAME for folder in self.only or self.extra]
        paths = named if self.only else [*record_paths(self.study_dir), *named]
        return [path for path in dict.fromkeys(paths) if path.is_file()]

    def _take(self, path: Path, stamp: int) -> str:
        """Mirror one record; returns what is wrong with it, or nothing."""
        try:
            record = read_record(path.parent)
            if record is None:
                return ""
            check_place(path.parent, record)
            outside = path.parent.parent != self.study_dir
            run = describe_run(path.parent, record, str(path.parent) if outside else "")
        except ValueError as error:
            return str(error)
        self.written += self.write(run)
        self.seen[path] = stamp
        return ""

    def close(self) -> None:
        """Let other processes mirror this study."""
        self.locks.close()


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a file's lock; raises TimeoutError when another process keeps it for long."""
    lock = FileLock(path, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise TimeoutError(f"another process is mirroring this study: it holds {path}") from None
    try:
        yield
    finally:
        lock.release()
