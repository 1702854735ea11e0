"""One driver a study: a lock that says who holds it, and that a dead holder cannot keep."""

import contextlib
import errno
import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from core.store.names import LOCK_NAME


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, told apart from later ones of its number by when it and its machine started."""

    host: str
    pid: int
    process_start: str
    boot: str

    @classmethod
    def current(cls) -> Self:
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _process_start(pid), _boot())

    def is_gone(self) -> bool:
        """True when the process has certainly ended; another host's processes cannot be seen."""
        if self.host != socket.gethostname():
            return False
        return self.boot != _boot() or self.process_start != _process_start(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class StudyLock:
    """Held while a driver works on a study folder; use it with ``with``.

    The kernel's file lock ends with its process. Where a file system has none, or does not carry it
    to other hosts, the text inside the file decides: an empty file is free, and so is one whose
    holder is gone.

    Raises:
        ValueError: somebody else holds it.
    """

    def __init__(self, study_dir: Path, *, steal: bool = False) -> None:
        self.path = study_dir / LOCK_NAME
        self.steal = steal
        self.handle = -1

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _try_lock(self.handle):
                raise ValueError(self._refusal(read_holder(self.path.parent)))
            holder = read_holder(self.path.parent)
            if holder is not None and not holder.is_gone() and not self.steal:
                raise ValueError(self._refusal(holder))
            self._write(json.dumps(asdict(Holder.current())))
        except BaseException:
            os.close(self.handle)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._write("")
        os.close(self.handle)

    def _write(self, text: str) -> None:
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, text.encode(), 0)
        os.fsync(self.handle)

    def _refusal(self, holder: Holder | None) -> str:
        return (
            f"study {self.path.parent.name!r} is in use by {holder or 'another process'}: "
            f"wait for it or stop it; if it no longer exists, remove {self.path}"
        )


def read_holder(study_dir: Path) -> Holder | None:
    """Who wrote the lock file last and has not let go; None for a free or unreadable one."""
    try:
        return Holder(**json.loads((study_dir / LOCK_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def living_holder(study_dir: Path) -> Holder | None:
    """Who works on the study now, as far as it can be known from here."""
    holder = read_holder(study_dir)
    return None if holder is None or holder.is_gone() else holder


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """When a process started, in kernel ticks; "gone" for none, "" where that is not told."""
    if Path("/proc/self/stat").exists():
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            return "gone"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass
    return ""
