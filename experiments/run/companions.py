"""What the runs of one process share that advance side by side."""

import functools
from functools import partial

import torch

from core.lockstep import ALONE, Alone, Companion, SharedParts


def share_of(size: int, device: str) -> Alone:
    """The share of one of ``size`` runs on a device of this process."""
    if size == 1:
        return ALONE
    return Companion(_shared(device), size, partial(_wait_for, torch.device(device)))


@functools.cache
def _shared(device: str) -> SharedParts:
    """What the runs of this process share on a device."""
    return SharedParts()


def _wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given, so that times are of the run that they belong
    to.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
