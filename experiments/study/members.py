"""The drivers that share a study folder, and which of them live.

Each driver lists itself and increases a counter every few seconds. Whether another one lives is
judged by how long its counter has stood still on the observer's own clock, so that clocks of
different machines are never compared. Nothing here needs file locks: a file is created exclusively,
or written by its owner alone.

::

    STUDY/.share/drivers/ID.json    the process of a driver, written once
    STUDY/.share/drivers/ID.beat    its counter, overwritten in place
    STUDY/.share/drivers/ID.idle    it makes no runs: others do, and it watches
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
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from core.store.names import SHARE_FOLDER
from experiments.study.holder import Holder

SILENT_SECONDS = 60.0
BEAT_SECONDS = 5.0
BEATS = 4  # in the time after which silence counts, at least
DRIVERS = "drivers"
WHO, BEAT, ENDED, IDLE = ".json", ".beat", ".ended", ".idle"
COMPLETE, EARLY = "complete", "early"


def create(path: Path, text: str) -> bool:
    """Create a file exclusively; False where it exists already.

    A server may have created it although its answer was lost, so what is in the file decides.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return read(path) == text
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return True


def read(path: Path) -> str:
    """The text of a file that may be missing or half written, or that a server has removed."""
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE, errno.EISDIR, errno.ENOTDIR):
            raise
        return ""


class Member:
    """A driver, in the list of those that share a study; a context manager.

    ``silent_seconds`` is how long drivers may be silent before their runs are taken over. One that
    is ``idle`` makes no runs.
    """

    def __init__(
        self, study_dir: Path, silent_seconds: float = SILENT_SECONDS, *, idle: bool = False
    ) -> None:
        self.idle = idle
        self.folder = study_dir / SHARE_FOLDER / DRIVERS
        self.id = secrets.token_hex(6)
        self.period = min(BEAT_SECONDS, silent_seconds / BEATS)
        self.count = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self.beat()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def beat(self) -> None:
        """Show that this driver lives; it is listed again where the list was removed."""
        self.count += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.idle:
            create(self._file(IDLE), "")
        create(self._file(WHO), json.dumps({**asdict(Holder.current()), "space": _pid_space()}))
        with self._file(BEAT).open("w") as file:
            file.write(str(self.count))
            file.flush()
            os.fsync(file.fileno())

    def end(self, *, complete: bool = False) -> None:
        """End: what this driver has claimed is free at once. Only the first call counts."""
        if self._stop():
            with contextlib.suppress(OSError):
                create(self._file(ENDED), COMPLETE if complete else EARLY)

    def withdraw(self) -> None:
        """End before anything was claimed, and leave no trace."""
        if self._stop():
            with contextlib.suppress(OSError):
                for kind in (WHO, BEAT, IDLE):
                    self._file(kind).unlink(missing_ok=True)
                self.folder.rmdir()
                self.folder.parent.rmdir()

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
        if driver in self.ended or silent or _has_died(self.folder / f"{driver}{WHO}"):
            self.gone.add(driver)
        else:
            self.gone.discard(driver)

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
        return any(
            not (self.folder / f"{driver}{IDLE}").exists() for driver in self.listed - self.gone
        )

    def name(self, driver: str) -> str:
        """The process of a driver, for messages."""
        holder = _holder(self.folder / f"{driver}{WHO}")
        return str(holder or "another process")


def listed(folder: Path) -> set[str]:
    """The drivers in a list."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = os.listdir(folder)
        return {name.removesuffix(WHO) for name in names if name.endswith(WHO)}
    return set()


def registered(study_dir: Path) -> list[Holder]:
    """The drivers that share a study and have neither ended nor, as far as it can be determined
    from here, died.
    """
    folder = study_dir / SHARE_FOLDER / DRIVERS
    left = [driver for driver in listed(folder) if not (folder / f"{driver}{ENDED}").exists()]
    found = [_holder(folder / f"{driver}{WHO}") for driver in left]
    living = [holder for holder in found if holder is not None and not holder.is_gone()]
    return sorted(living, key=lambda holder: (holder.host, holder.pid))


def _holder(path: Path) -> Holder | None:
    raw = _content(path)
    raw.pop("space", None)
    try:
        return Holder(**raw)
    except TypeError:
        return None


def _content(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(read(path))
    except ValueError:
        return {}
    return raw if isinstance(raw, dict) else {}


def _has_died(path: Path) -> bool:
    """Whether the process of a driver is one whose number says something here, and has ended.

    Machines and containers may share a host name: only what sees the same processes can tell.
    """
    raw, holder = _content(path), _holder(path)
    if holder is None or not raw.get("space") or raw["space"] != _pid_space():
        return False
    return holder.boot == Holder.current().boot and holder.is_gone()


def _pid_space() -> str:
    """The name of what this process shares process numbers with, "" where the system has none."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""
