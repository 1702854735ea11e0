"""What the settings of runs ask of a device, told before any work rather than by every run.

A driver whose workers have GPUs uses none itself: a process that has once used a GPU keeps memory
there. So a precision is tried on one of theirs in a process that ends at once.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import get_args

from core.config import Config
from experiments.run.devices import CUDA, THIS_PROCESS, VISIBLE_VARIABLE, WorkPlace
from experiments.run.numerics import Numerics
from experiments.run.runtime import HALVES, Precision, Runtime

ROOT = "experiment"
TRIAL_SECONDS = 120


def require_device(
    configs: Iterable[Config], runtime: Runtime, place: WorkPlace = THIS_PROCESS
) -> None:
    """Raise ValueError where a run would be refused for what it asks of its device."""
    if not place.here:
        return
    asked = {_asked(config) for config in configs}
    for _, deterministic in sorted(asked):
        Numerics(tf32=False, deterministic=deterministic).require(runtime.device)
    for precision in sorted({precision for precision, _ in asked}.intersection(HALVES)):
        if place.gpus and place.workers:
            _require_on(place.gpus[0], precision)
        else:
            runtime.require(precision)


def _asked(config: Config) -> tuple[Precision, bool]:
    values = config.operative(ROOT)
    (precision,) = (p for p in get_args(Precision) if p == values[f"{ROOT}.precision"])
    return precision, bool(values[f"{ROOT}.deterministic"])


def _require_on(gpu: str, precision: Precision) -> None:
    """Raise ValueError where a GPU cannot compute in a precision; where that cannot be found out,
    the runs will tell.
    """
    if problem := trial(CUDA, precision, {VISIBLE_VARIABLE: gpu}):
        raise ValueError(problem)


def trial(device: str, precision: Precision, environment: Mapping[str, str]) -> str:
    """Why a process of its own cannot compute in a precision; "" where it can, or ends badly."""
    call = f"from {__name__} import tell; tell({device!r}, {precision!r})"
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", call],
            env={**os.environ, "PYTHONPATH": paths, **environment},
            capture_output=True,
            text=True,
            timeout=TRIAL_SECONDS,
            check=True,
        )
        return str(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""


def tell(device: str, precision: Precision) -> None:
    """What ``trial`` asks its process."""
    problem = ""
    try:
        Runtime(cache_dir=Path(), device=device).require(precision)
    except ValueError as error:
        problem = str(error)
    print(json.dumps(problem))
