"""The environment of a run: versions, code and device."""

import functools
import platform
import resource
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from core.source.changes import git
from experiments.run.gpu_facts import gpu_facts

HERE = Path(__file__).parent
PACKAGES = ("torch", "open_clip_torch", "gin-config", "numpy", "pillow", "scikit-learn")

RESET_PEAK = "5"  # what proc(5) has for the peak of the resident set


def describe_environment(device: str) -> dict[str, Any]:
    """Package versions, Python, the commit and whether the tree was modified, device, threads, and
    for a GPU its model and libraries.
    """
    return {**_lasting(device), "threads": torch.get_num_threads()}


def device_facts(device: str) -> dict[str, Any]:
    """What a device is, and for a GPU its libraries, without its number among others."""
    known = _lasting(device)
    name = "gpu" if "gpu" in known else "device"
    return {name: known[name]}


@functools.cache
def _lasting(device: str) -> dict[str, Any]:
    """What stays the same as long as a process lives."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        **commit(),
        "device": f"{device} ({name})",
        **({"gpu": gpu_facts(device)} if device.startswith("cuda") else {}),
    }


@functools.cache
def commit() -> dict[str, Any]:
    """The commit when this process first asks, and whether the tree was modified."""
    return {
        "commit": git(HERE, "rev-parse", "--short=12", "HEAD"),
        "dirty": bool(git(HERE, "status", "--porcelain", "--untracked-files=no")),
    }


def reset_peak_memory(device: str) -> None:
    """Let the peak of memory begin anew, on the CPU where the system can (Linux)."""
    if device.startswith("cuda"):
        if torch.cuda.is_initialized():  # nothing was used before, and torch refuses "cuda:0"
            torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)


def peak_memory_mb(device: str) -> float:
    """Peak memory in MiB since the last reset: of the GPU, or of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
