"""A process that works on a study, told apart from later ones of the same number."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self


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
