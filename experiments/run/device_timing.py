"""Time, arithmetic and waits of what runs on a device."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

WAITS = "synchronizing CUDA operation"  # what torch warns of


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(device: torch.device, work: Callable[[], object], repetitions: int = 5) -> float:
    """The median time of a call, the first not counted."""
    found = []
    for _ in range(repetitions + 1):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        found.append(time.perf_counter() - started)
    return median(found[1:])


class Counts:
    """What was counted: floating point operations of matrix products, convolutions and attention,
    and how often the host waited for the device; None where nobody can say.
    """

    flops = 0
    waits: int | None = None


@contextmanager
def counting() -> Iterator[Counts]:
    """A context whose operations are counted; they take longer meanwhile."""
    found, counter = Counts(), FlopCounterMode(display=False)
    if not torch.cuda.is_available():
        with counter:
            yield found
        found.flops = counter.get_total_flops()
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with counter:
                yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found.flops = counter.get_total_flops()
    found.waits = sum(WAITS in str(warning.message) for warning in told)
