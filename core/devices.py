"""How tensors reach a device, and how much of its memory may be taken to keep them there.

The host never waits for the device: what it sends lies in pinned memory. Large tensors are copied
on a stream of their own, while the device computes what it was given before. On a CPU nothing is
sent.
"""

import functools

import torch
from torch import Tensor

from core.machine import workers_of_device

KEPT_PART = 0.5
"""How much of a process's share of a device's free memory may be kept for a whole training."""
LARGE_BYTES = 2**20


def free_memory(device: torch.device) -> int | None:
    """How many bytes of a device's memory are this process's to take: an equal share of what is
    free for each worker of the device, and what its own allocator holds unused. None for the CPU.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free // workers_of_device() + max(unused, 0)


def total_memory(device: torch.device) -> int:
    """How many bytes of memory a GPU has, whatever is in use and by how many workers."""
    return torch.cuda.mem_get_info(device)[1]


def stays_on(device: torch.device, nbytes: int) -> bool:
    """Whether so many bytes that a training reads in every epoch are kept on its device."""
    free = free_memory(device)
    return free is None or nbytes <= KEPT_PART * free


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor in memory from which a device copies without the host."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def sent(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of the host on a device. The host goes on at once: what it sends is never changed
    later. Numbers are converted there.
    """
    if device.type == "cpu":
        return tensor.to(device, dtype or tensor.dtype)
    ready = pinned(tensor, device)
    large = tensor.nbytes >= LARGE_BYTES
    moved = _copied(ready, device) if large else ready.to(device, non_blocking=True)
    return moved if dtype is None else moved.to(dtype)


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    """The copy is made beside what the device computes, which waits for it from here on."""
    copies, steps = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        moved = tensor.to(device, non_blocking=True)
    steps.wait_stream(copies)
    moved.record_stream(steps)  # its memory is not given away before the step has read it
    return moved


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
