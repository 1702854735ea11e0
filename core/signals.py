"""The signals that interrupt a command: Ctrl-C, SIGTERM, and SIGHUP of a terminal that has closed.

A closed terminal often sends SIGHUP twice, once from the shell and once from the system, so only
the first one counts; where it is ignored, as below ``nohup``, it stays ignored.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

HANGUP: int | None = getattr(signal, "SIGHUP", None)
"""None where the system has no such signal."""
INTERRUPTING: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, *([HANGUP] if HANGUP else []))

Handler = Callable[[int, FrameType | None], object] | signal.Handlers


def handle(handler: Handler) -> dict[int, Any]:
    """From now on these signals call ``handler``; returns the handlers that they had.

    Outside the main thread, where Python allows none, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    wanted = (n for n in INTERRUPTING if n != HANGUP or signal.getsignal(n) is not signal.SIG_IGN)
    return {number: signal.signal(number, handler) for number in wanted}


def ignore_hangup() -> None:
    """From now on a closed terminal changes nothing for this process."""
    if HANGUP and threading.current_thread() is threading.main_thread():
        signal.signal(HANGUP, signal.SIG_IGN)
