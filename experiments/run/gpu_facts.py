"""What is known of the GPUs of this machine and of the libraries that compute on them."""

import subprocess
from collections.abc import Iterator
from typing import Any

import torch

NO_CUDA = "this torch has no CUDA"


def libraries() -> dict[str, Any]:
    """The versions of the driver, of CUDA and of cuDNN, None where there is none."""
    cudnn = torch.backends.cudnn
    return {
        "driver": driver(),
        "cuda": torch.version.cuda,
        "cudnn": _dotted(cudnn.version()) if torch.version.cuda and cudnn.is_available() else None,
    }


def gpu_facts(device: str) -> dict[str, Any]:
    """A GPU as a record holds it: its model, memory and compute capability as far as the driver
    says, and the libraries.
    """
    return {"name": torch.cuda.get_device_name(device), **_properties(device), **libraries()}


def _properties(device: str) -> dict[str, Any]:
    try:
        found = torch.cuda.get_device_properties(device)
    except (RuntimeError, AssertionError):  # torch's own, of a driver that does not answer
        return {}
    memory = round(found.total_memory / 1e9, 1)
    return {"memory_gb": memory, "capability": f"{found.major}.{found.minor}"}


def visible_gpus() -> Iterator[str]:
    """Every GPU that torch sees, in words."""
    for number in range(torch.cuda.device_count()):
        device = f"cuda:{number}"
        words = [torch.cuda.get_device_name(device)]
        if known := _properties(device):
            words.append(f"{known['memory_gb']:.0f} GB, compute capability {known['capability']}")
        yield ", ".join(words)


def driver() -> str | None:
    """The driver's version, asked of the driver's own tool; None without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.splitlines() or [""])[0].strip() or None


def _dotted(version: int | None) -> str | None:
    """CuDNN's version: 91002 is 9.10.2, and 8907 was 8.9.7."""
    if version is None:
        return None
    thousand = 10000 if version >= 90000 else 1000
    major, rest = divmod(version, thousand)
    return f"{major}.{rest // 100}.{rest % 100}"
