"""Ctrl-C, SIGTERM and a closed terminal at any command: one line on what is kept, and exit code 3.

The first signal unwinds the command, which leaves no half-written file; a second one ends the
process at once. Grids and searches handle the signals themselves while their runs are under way.
"""

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from core.signals import HANGUP, handle, ignore_hangup

INTERRUPTED = 3
NOTHING_KEPT = "nothing was written"

# What a command keeps when it is interrupted; every file is written whole or not at all.
KEPT = {
    "train": "the run's settings and the log of its epochs are kept, its weights are written at "
    "the end, and training starts again, or goes on from its last checkpoint",
    "grid": "the finished runs are kept",
    "search": "the finished runs are kept",
    "rerun": "the run's earlier record and files are kept",
    "report": "a report that was there before is kept where no page was written yet",
    "inspect": "the run is as it was",
    "pretrain": "what was drawn and the last saved step are kept",
    "import": "the finished run is not there; what was read is kept in the cache",
    "data": "what was read is kept in the cache",
    "sync": "what was copied is kept",
}


@contextmanager
def listening() -> Iterator[None]:
    """A context in which SIGINT, SIGTERM and SIGHUP interrupt this process; afterwards as before,
    unless one of them came.
    """
    before = listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _first:
                signal.signal(number, handler)


def listen() -> dict[int, Any]:
    """From now on SIGINT, SIGTERM and SIGHUP interrupt this process: the first one raises
    KeyboardInterrupt, the second one ends it. Returns the handlers that they had.
    """
    return handle(_first)


def _first(number: int, frame: FrameType | None) -> None:
    handle(_second)
    if number == HANGUP:
        ignore_hangup()
    raise KeyboardInterrupt


def _second(number: int, frame: FrameType | None) -> None:
    """End at once: whatever the first signal unwinds takes too long."""
    os.write(2, f"{sentence()}\n".encode(errors="replace"))
    os._exit(INTERRUPTED)


def sentence() -> str:
    """The one line about an interrupted command: what is kept, and how to go on."""
    from core.program import same_command
    from core.store.secrets import without_secrets

    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    kept = KEPT.get(command, NOTHING_KEPT)
    return f"interrupted; {kept}; to continue, rerun: {without_secrets(same_command())}"


def _third(number: int, frame: FrameType | None) -> None:
    """End without another word: the line was printed."""
    os._exit(INTERRUPTED)


def leave() -> int:
    """Print the line; a signal that comes later ends the process without a traceback."""
    handle(_third)
    # The interpreter puts its own handlers back while it ends, which would change the exit code.
    atexit.register(handle, signal.SIG_IGN)
    with suppress(OSError, ValueError):  # standard error may be closed
        print(sentence(), file=sys.stderr, flush=True)
    return INTERRUPTED
