"""The one rule for NaN and infinity: no tensor that is read, learned or scored holds one."""

from collections.abc import Mapping

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """A NaN or an infinity where a number should be."""


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a NaN or an infinity; None where all are finite.

    Reads every tensor once, and waits for the device once.
    """
    names, flags = [], []
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = tensor.detach().aminmax()  # a NaN among the entries is both
            names.append(name)
            flags.append((low.isfinite() & high.isfinite()).reshape(()))
    if not flags or bool((finite := torch.stack(flags)).all()):
        return None
    return names[finite.tolist().index(False)]


def check_finite(tensors: Mapping[str, Tensor], what: str, way_out: str) -> None:
    """Raise NotFiniteError, naming the tensor, unless every number is finite."""
    name = not_finite(tensors)
    if name is not None:
        kind = "NaN" if bool(tensors[name].isnan().any()) else "an infinity"
        raise NotFiniteError(f"{what} holds {kind} in the tensor {name!r}; {way_out}")
