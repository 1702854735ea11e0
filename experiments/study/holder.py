"""A process that works on a study, told apart from later ones of the same number."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ENDED_STATES = "ZX"  # of /proc/PID/stat: killed, but its parent has not asked for its exit code yet


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, distinguished from later ones of the same number by its start and boot times.

    ``space`` is what it shares process numbers with: "" where the system has no such thing, or the
    process was written down by an earlier version.
    """

    host: str
    pid: int
    process_start: str
    boot: str
    space: str = ""

    @classmethod
    def current(cls) -> Self:
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _process_start(pid), _boot(), _pid_space())

    def is_gone(self) -> bool:
        """True if the process has certainly ended.

        Machines and containers may share a host name: only what sees the same processes can tell.
        After a restart of the machine nothing does.
        """
        return self._is_visible() and self.process_start != _process_start(self.pid)

    def is_of_earlier_boot(self) -> bool:
        """True if this machine has been started again since, or another one has its name."""
        return self._is_of_this_host() and self.boot != _boot()

    def is_here(self) -> bool:
        """True if the process certainly exists."""
        visible = bool(self.boot) and self._is_visible()
        return visible and self.process_start == _process_start(self.pid)

    def _is_visible(self) -> bool:
        """Whether its number means the same process here."""
        return self._is_of_this_host() and self.boot == _boot()

    def _is_of_this_host(self) -> bool:
        """Whether host and process numbers have the same names here."""
        return self.host == socket.gethostname() and self.space in ("", _pid_space())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_space() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _process_start(pid: int) -> str:
    """When a process started, in kernel ticks; "gone" if it has ended, "" if unavailable."""
    if Path("/proc/self/stat").exists():
        try:
            facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return "gone"
        return "gone" if facts[0] in ENDED_STATES else facts[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass
    return ""
