"""Whether a study would survive its workers: one is killed, one breaks the device, one needs more
memory than there is, and the others go on.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.streams import one_line
from experiments.run.device_loads import FINE
from experiments.run.devices import CPU, gpus_of
from experiments.workers.jobs import Event, Job
from experiments.workers.local import LocalExecutor

ENTRY = "experiments.run.device_cases:measure_case"
LOG_NAME = "faults.log"
WORKERS, OTHERS = 2, 4
POLL_SECONDS = 0.5
# How the job of each kind must end, after how many attempts, and what it says of the device.
EXPECTED: Mapping[str, tuple[str, int, str]] = {
    "kill": ("done", 2, ""),
    "memory": ("failed", 2, "memory"),
    "assert": ("failed", 3, "device"),
}
ON_CPU = {"assert": ("failed", 3, "")}  # an index out of range is an ordinary error there


def check_faults(device: str, out: Path, *, seconds: float) -> Iterator[dict[str, Any]]:
    """A row for each kind of fault: how its job ended beside ``OTHERS``, and whether that is
    right. Two workers share the device.
    """
    gpus = () if device == CPU else gpus_of((device,))[:1]
    expected = {**EXPECTED, **ON_CPU} if device == CPU else EXPECTED
    deadline = time.monotonic() + seconds
    with (
        tempfile.TemporaryDirectory(dir=out) as marks,
        LocalExecutor(WORKERS, log_dir=out, entry=ENTRY, gpus=gpus) as executor,
    ):
        for kind, ending in expected.items():
            started = time.monotonic()
            for name in (kind, *(f"{kind} {number}" for number in range(OTHERS))):
                payload = {
                    "case": "fault",
                    "kind": kind if name == kind else FINE,
                    "device": "cuda" if gpus else device,
                    "marks": marks,
                }
                executor.submit(Job(key=name, payload=payload, log=out / LOG_NAME))
            row = _row(kind, ending, _ended(executor, deadline))
            yield row | {"seconds": time.monotonic() - started}


def _ended(executor: LocalExecutor, deadline: float) -> dict[str, Event]:
    """How the jobs ended; those are missing that did not in time."""
    found: dict[str, Event] = {}
    while len(found) <= OTHERS and time.monotonic() < deadline:
        for event in executor.poll(POLL_SECONDS):
            if event.kind in ("done", "failed"):
                found[event.key] = event
    return found


def _row(kind: str, ending: tuple[str, int, str], found: Mapping[str, Event]) -> dict[str, Any]:
    one = found.get(kind)
    fine = [event for key, event in found.items() if key != kind and event.kind == "done"]
    right = sum(bool(event.result["right"]) and event.attempt == 1 for event in fine)
    as_expected = one is not None and (one.kind, one.attempt, one.fault) == ending
    return {
        "fault": kind,
        "ended": one.kind if one else "not in time",
        "attempts": one.attempt if one else None,
        "others": f"{right} of {OTHERS}",
        "message": one_line(one.message) if one else "",
        "ok": as_expected and right == OTHERS,
    }
