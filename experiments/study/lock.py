"""One driver per study: a lock that names its holder and does not outlive it."""

import contextlib
import errno
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from core.store.names import LOCK_NAME

NO_FILE_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, distinguished from later ones of the same number by its start and boot times."""

    host: str
    pid: int
    process_start: str
    boot: str

    @classmethod
    def current(cls) -> Self:
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _process_start(pid), _boot())

    def is_gone(self) -> bool:
        """True if the process has certainly ended; processes of other hosts cannot be checked."""
        if self.host != socket.gethostname():
            return False
        return self.boot != _boot() or self.process_start != _process_start(self.pid)

    def is_here(self) -> bool:
        """True if the process certainly exists."""
        own = (socket.gethostname(), _boot(), _process_start(self.pid))
        return bool(self.boot) and (self.host, self.boot, self.process_start) == own

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class StudyLock:
    """Held while a driver works on a study folder; a context manager.

    The kernel's file lock ends with its process. Where a file system has no locks, or does not
    share them with other hosts, the text inside the file decides: an empty file is free, and so is
    one whose holder is gone. ``steal`` overrides the text, never the kernel.

    Raises: ValueError: another process holds it.
    """

    def __init__(self, study_dir: Path, *, steal: bool = False) -> None:
        self.path = study_dir / LOCK_NAME
        self.steal = steal
        self.file_lock = FileLock(self.path, timeout=0, fallback_to_soft=False)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.file_lock.acquire()
        except Timeout:
            raise ValueError(self._refusal(read_holder(self.path.parent))) from None
        except OSError as error:
            if error.errno not in NO_FILE_LOCKS:
                raise
        try:
            holder = read_holder(self.path.parent)
            if holder is not None and not holder.is_gone() and not self.steal:
                raise ValueError(self._refusal(holder))
            self._write(json.dumps(asdict(Holder.current())))
        except BaseException:
            self.file_lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._write("")
        self.file_lock.release()

    def _write(self, text: str) -> None:
        with self.path.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _refusal(self, holder: Holder | None) -> str:
        """The message; with a way to override the lock where nobody can say that it is right."""
        rule = (
            f"study {self.path.parent.name!r} is in use by {holder or 'another process'}: "
            "wait for it to finish or stop it"
        )
        if holder is not None and holder.is_here():
            return rule
        return f"{rule}; if it no longer exists, give --steal-lock, or remove {self.path}"


def read_holder(study_dir: Path) -> Holder | None:
    """The last process that wrote the lock file and has not released it; None for a free lock."""
    try:
        return Holder(**json.loads((study_dir / LOCK_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def living_holder(study_dir: Path) -> Holder | None:
    """The process that works on the study now, as far as it can be determined from here."""
    holder = read_holder(study_dir)
    return None if holder is None or holder.is_gone() else holder


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """When a process started, in kernel ticks; "gone" if it has ended, "" if unavailable."""
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
