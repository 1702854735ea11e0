"""How many threads a process computes with: measured once a machine and size of backbone.

More threads make large products faster and leave small ones as they are, while they take
processors from others. So a block of the backbone is timed with one thread, two, four, up to as
many as the process may use, and the fewest are taken that are almost as fast as the fastest. Where
the user has said how many (``OMP_NUM_THREADS``, ``MKL_NUM_THREADS``), that many are used.
"""

import functools
import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.clip import blocks
from core.clip.measured import cache_folder, decided_once
from core.machine import MEASURED_THREADS_VARIABLE, available_cores

ALMOST = 1.1
"""How many times as long as the fastest a number of threads may take."""
SHAPE = (8, 16)  # texts and tokens
ROUNDS, STEPS = 5, 2


def choose(clip: Any) -> None:
    """Set the number of threads for a backbone, inside ``measured_in`` only, and in processes that
    were started for it (``core.machine.MEASURED_THREADS_VARIABLE``).

    A run asks for its own backbone last, so that a teacher's does not count.
    """
    cache_dir = cache_folder()
    if cache_dir is None or not os.environ.get(MEASURED_THREADS_VARIABLE):
        return
    most, block = most_threads(), clip.text.transformer.resblocks[0]
    weight = block.mlp.c_fc.weight
    if weight.device.type != "cpu":
        return
    numbers = candidates(most)
    facts = {"threads": most, "widths": [weight.shape[1]], "dtype": str(weight.dtype)}
    found = decided_once(
        cache_dir, "threads", facts, lambda: _measured(block, numbers), numbers.__contains__
    )
    torch.set_num_threads(found or most)


@functools.cache
def most_threads() -> int:
    """How many threads this process may use, as it was started."""
    return max(1, min(torch.get_num_threads(), available_cores()))


def candidates(most: int) -> list[int]:
    """One, two, four, ... and ``most``."""
    powers = [2**exponent for exponent in range(most.bit_length())]
    return sorted({*powers, most})


def fewest(seconds: Mapping[int, float]) -> int:
    """The fewest threads that take at most ``ALMOST`` times as long as the fastest."""
    limit = ALMOST * min(seconds.values())
    return min(number for number, taken in seconds.items() if taken <= limit)


def _measured(block: Any, numbers: list[int]) -> Mapping[str, Any]:
    seconds = {numbers[0]: 1.0} if len(numbers) == 1 else measure(block, numbers)
    shown = {str(number): round(1000 * taken, 3) for number, taken in seconds.items()}
    return {"milliseconds": shown, "answer": fewest(seconds)}


def measure(block: Any, numbers: list[int]) -> dict[int, float]:
    """Seconds of a block, forward and backward, by number of threads: the best of several
    interleaved rounds.
    """
    weight = block.mlp.c_fc.weight
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(*SHAPE, weight.shape[1], generator=drawn).to(weight.dtype).requires_grad_()
    best = dict.fromkeys(numbers, float("inf"))
    before = torch.get_num_threads()
    try:
        for _ in range(ROUNDS):
            for number in numbers:
                torch.set_num_threads(number)
                _steps(block, x, 1)  # the threads are there
                started = time.perf_counter()
                _steps(block, x, STEPS)
                best[number] = min(best[number], (time.perf_counter() - started) / STEPS)
    finally:
        torch.set_num_threads(before)
    return best


def _steps(block: Any, x: Tensor, count: int) -> None:
    with torch.enable_grad():
        for _ in range(count):
            torch.autograd.grad(blocks.full_block(block, x, causal=True).sum(), x)
