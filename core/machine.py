"""Resources of this machine, and what its user says of them. Needs the standard library only."""

import os
import platform
from pathlib import Path

ONEDNN_VARIABLE = "REFINELAB_ONEDNN"
ONEDNN_SETTINGS = ("auto", "on", "off")


def available_cores() -> int:
    """The number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The model of this machine's processor, as far as the system says."""
    known = ("vendor_id", "cpu family", "model", "model name", "stepping")
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    facts = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    found = [facts[name] for name in known if facts.get(name)]
    return ", ".join(found) or platform.processor() or platform.machine()


def onednn_setting() -> str:
    """Whether frozen weights are multiplied by oneDNN, as the environment says: "auto" (measured
    once a machine), "on" or "off". Raises ValueError for another word.
    """
    given = os.environ.get(ONEDNN_VARIABLE, "").strip().lower() or "auto"
    if given not in ONEDNN_SETTINGS:
        raise ValueError(
            f"{ONEDNN_VARIABLE} must be auto, on or off, got {given!r}; unset it to use whichever "
            "matrix product is faster on this machine"
        )
    return given


WORKERS_VARIABLE = "REFINELAB_WORKERS"
"""How many worker processes share this machine, in the environment of each of them."""


def share_of_cores() -> int:
    """The cores that this process may use, divided among the workers that it is one of."""
    workers = os.environ.get(WORKERS_VARIABLE, "")
    number = int(workers) if workers.isascii() and workers.isdecimal() else 1
    return max(available_cores() // max(number, 1), 1)
