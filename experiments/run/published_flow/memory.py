"""The peak memory of a step above what is resident before it, in a process of its own."""

import ctypes
import gc
import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MIB = 2**20
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_above_start(work: Callable[[], object]) -> float:
    """MiB that the second call of ``work`` needs at most, above what is resident before the first.

    What the first call keeps for later ones, such as packed weights, counts; what it alone does,
    such as answers that are computed once, does not. Where the system cannot forget an earlier
    peak, the first call counts as well.
    """
    trim()
    before = _resident()
    work()
    trim()
    _forget_peak()
    work()
    return max(0, _highest() - before) / MIB


def trim() -> None:
    """Give freed memory back to the system, where the C library can."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def in_own_process(function: Callable[..., T], *given: object) -> T:
    """Call a function of a module in a new process, which ends afterwards."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *given).result()


def _forget_peak() -> None:
    """Let the system's peak start from what is resident now."""
    with suppress(OSError):
        CLEAR.write_text("5")


def _resident() -> int:
    return _field("VmRSS") if STATUS.is_file() else _highest()


def _highest() -> int:
    if STATUS.is_file():
        return _field("VmHWM")
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _field(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
