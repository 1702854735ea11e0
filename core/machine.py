"""Resources of this machine. Needs the standard library only."""

import os


def available_cores() -> int:
    """The number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


WORKERS_VARIABLE = "REFINELAB_WORKERS"
"""How many worker processes share this machine, in the environment of each of them."""


def share_of_cores() -> int:
    """The cores that this process may use, divided among the workers that it is one of."""
    workers = os.environ.get(WORKERS_VARIABLE, "")
    number = int(workers) if workers.isascii() and workers.isdecimal() else 1
    return max(available_cores() // max(number, 1), 1)
