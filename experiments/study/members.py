"""The drivers that share a study folder, and which of them live.

Each driver lists itself and increases a counter every few seconds. Whether another one lives is
judged by how long its counter has stood still on the observer's own clock, so that clocks of
different machines are never compared. Nothing here needs file locks: a file is created exclusively,
or written by its owner alone.

::

    STUDY/.share/drivers/ID.json    the process of a driver and what it does, written once
    STUDY/.share/drivers/ID.beat    its counter, overwritten in place
    STUDY/.share/drivers/ID.ended   it has ended in order; "complete" where no run was left
"""

import contextlib
import errno
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from core.store.names import SHARE_FOLDER
from experiments.study.holder import Holder

SILENT_SECONDS = 60.0
BEAT_SECONDS = 5.0
BEATS = 4  # in the time after which silence counts, at least
DRIVERS = "drivers"
WHO, BEAT, ENDED = ".json", ".beat", ".ended"
COMPLETE, EARLY = "complete", "early"
HOLDER = tuple(field.name for field in fields(Holder))
ENTRY_TRIALS = 5


def create(path: Path, text: str) -> bool:
    """Create a file exclusively; False where it exists already.

    A server may have created it although its answer was lost, so what is in the file decides. One
    that cannot be written is removed: it would belong to nobody.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return read(path) == text
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return True


def read(path: Path) -> str:
    """The text of a file that may be missing or half written, or that a server has removed."""
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE, errno.EISDIR, errno.ENOTDIR):
            raise
        return ""


@dataclass(frozen=True, slots=True)
class Listed:
    """What the list has of a driver: its process, a digest of its plan ("" where an earlier version
    wrote it), whether it tries failed runs again, and whether it is idle: it makes no runs itself,
    others do.
    """

    id: str
    holder: Holder
    plan: str = ""
    retries: bool = False
    idle: bool = False


class Member:
    """A driver, in the list of those that share a study; a context manager.

    ``silent_seconds`` is how long drivers may be silent before their runs are taken over; ``plan``,
    ``retries`` and ``idle`` are those of ``Listed``.
    """

    def __init__(
        self,
        study_dir: Path,
        silent_seconds: float = SILENT_SECONDS,
        *,
        plan: str = "",
        retries: bool = False,
        idle: bool = False,
    ) -> None:
        self.study_dir = study_dir
        self.folder = study_dir / SHARE_FOLDER / DRIVERS
        self.plan = plan
        self.facts = {**asdict(Holder.current()), "plan": plan, "retries": retries}
        self.facts |= {"idle": True} if idle else {}
        self.made: list[Path] = []
        self.id = secrets.token_hex(6)
        self.period = min(BEAT_SECONDS, silent_seconds / BEATS)
        self.count = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self.made = [p for p in (self.study_dir, *self.study_dir.parents) if not p.exists()]
        for trial in reversed(range(ENTRY_TRIALS)):
            try:
                self.study_dir.mkdir(parents=True, exist_ok=True)
                self.beat()
                break
            except FileNotFoundError:  # one that ends removes what they shared at this moment
                if not trial:
                    raise
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def beat(self) -> None:
        """Show that this driver lives; it is listed again where the list was removed.

        Raises FileNotFoundError where the study was removed: it is not made again half.
        """
        self.count += 1
        self.folder.parent.mkdir(exist_ok=True)
        self.folder.mkdir(exist_ok=True)
        create(self._file(WHO), json.dumps(self.facts))
        descriptor = os.open(self._file(BEAT), os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, str(self.count).encode())  # in place: that a full disk allows
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def end(self, *, complete: bool = False) -> None:
        """End: what this driver has claimed is free at once. Only the first call counts."""
        if self._stop():
            with contextlib.suppress(OSError):
                create(self._file(ENDED), COMPLETE if complete else EARLY)

    def withdraw(self) -> None:
        """End before anything was claimed, and leave no trace."""
        if self._stop():
            with contextlib.suppress(OSError):
                for kind in (WHO, BEAT):
                    self._file(kind).unlink(missing_ok=True)
                for folder in (self.folder, self.folder.parent, *self.made):
                    folder.rmdir()  # where it is empty

    def _stop(self) -> bool:
        """Stop beating; False where that was done before."""
        if self.over.is_set():
            return False
        self.over.set()
        self.thread.join()
        return True

    def _file(self, kind: str) -> Path:
        return self.folder / f"{self.id}{kind}"

    def _keep_beating(self) -> None:
        while not self.over.wait(self.period):
            with contextlib.suppress(OSError):  # a full disk: the next beat may succeed
                self.beat()


class Watch:
    """Which of the other drivers live, as this process has seen it."""

    def __init__(
        self,
        study_dir: Path,
        silent_seconds: float = SILENT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = study_dir / SHARE_FOLDER / DRIVERS
        self.silent_seconds = silent_seconds
        self.clock = clock
        self.looked = clock()
        self.listed: set[str] = set()
        self.beats: dict[str, str] = {}
        self.silent: dict[str, float] = {}
        self.gone: set[str] = set()
        self.ended: dict[str, str] = {}

    def look(self, unknown: frozenset[str] = frozenset()) -> None:
        """Note the counter of every driver, and of ``unknown`` ones that are not listed.

        Time between two looks counts only in part where there is much of it: then this process has
        stood still itself.
        """
        now = self.clock()
        passed, self.looked = min(now - self.looked, self.silent_seconds / BEATS), now
        self.listed = listed(self.folder)
        for driver in self.listed | unknown:
            if driver in self.ended:
                continue
            if text := read(self.folder / f"{driver}{ENDED}"):
                self.ended[driver] = text
            beat = read(self.folder / f"{driver}{BEAT}")
            if driver not in self.beats or beat != self.beats[driver]:
                self.beats[driver], self.silent[driver] = beat, 0.0
            else:
                self.silent[driver] += passed
            self._judge(driver)

    def _judge(self, driver: str) -> None:
        silent = self.silent[driver] > self.silent_seconds
        if driver in self.ended or silent or self._has_died(driver):
            self.gone.add(driver)
        else:
            self.gone.discard(driver)

    def _has_died(self, driver: str) -> bool:
        found = read_listed(self.folder, driver)
        return found is not None and found.holder.is_gone()

    def is_gone(self, driver: str) -> bool:
        """Whether a driver has ended, died, or been silent for too long."""
        return driver in self.gone

    def is_complete(self, driver: str) -> bool:
        """Whether a driver has ended with no run left."""
        return self.ended.get(driver) == COMPLETE

    def num_living(self) -> int:
        return len(self.listed - self.gone)

    def some_work(self) -> bool:
        """Whether a driver lives that makes runs."""
        others = (read_listed(self.folder, driver) for driver in self.listed - self.gone)
        return any(other is None or not other.idle for other in others)

    def name(self, driver: str) -> str:
        """The process of a driver, for messages."""
        found = read_listed(self.folder, driver)
        return "another process" if found is None else str(found.holder)

    def retries(self, driver: str) -> bool:
        """Whether a driver tries failed runs again."""
        found = read_listed(self.folder, driver)
        return found is not None and found.retries


def listed(folder: Path) -> set[str]:
    """The drivers in a list."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = os.listdir(folder)
        return {name.removesuffix(WHO) for name in names if name.endswith(WHO)}
    return set()


def read_listed(folder: Path, driver: str) -> Listed | None:
    """What a list has of a driver; None where that is missing, or half written."""
    try:
        raw = json.loads(read(folder / f"{driver}{WHO}"))
        holder = Holder(**{name: raw[name] for name in HOLDER if name in raw})
        plan, retries, idle = (raw.get(name, "") for name in ("plan", "retries", "idle"))
        return Listed(driver, holder, str(plan), bool(retries), bool(idle))
    except (ValueError, TypeError, AttributeError):
        return None


def listed_now(study_dir: Path) -> list[Listed]:
    """The drivers that share a study and have neither ended nor, as far as it can be determined
    from here, died.
    """
    folder = study_dir / SHARE_FOLDER / DRIVERS
    left = [driver for driver in listed(folder) if not (folder / f"{driver}{ENDED}").exists()]
    found = [read_listed(folder, driver) for driver in left]
    living = [driver for driver in found if driver is not None and not driver.holder.is_gone()]
    return sorted(living, key=lambda driver: (driver.holder.host, driver.holder.pid))


def registered(study_dir: Path) -> list[Holder]:
    """The processes of ``listed_now``."""
    return [driver.holder for driver in listed_now(study_dir)]


def strike(study_dir: Path, driver: str) -> None:
    """Note the end of a driver that could not do so itself."""
    create(study_dir / SHARE_FOLDER / DRIVERS / f"{driver}{ENDED}", EARLY)
