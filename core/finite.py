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
    checked = {k: v.detach() for k, v in tensors.items() if v.is_floating_point() and v.numel()}
    # A sum is finite only if every summand is; where it is not, it may only have overflowed.
    sums = [tensor.sum().reshape(()).float() for tensor in checked.values()]
    if not sums or bool(torch.stack(sums).isfinite().all()):
        return None
    return next((name for name, tensor in checked.items() if not _all_finite(tensor)), None)


def _all_finite(tensor: Tensor) -> bool:
    low, high = tensor.aminmax()  # a NaN among the entries is both
    return bool(low.isfinite() & high.isfinite())


def check_finite(tensors: Mapping[str, Tensor], what: str, way_out: str) -> None:
    """Raise NotFiniteError, naming the tensor, unless every number is finite."""
    name = not_finite(tensors)
    if name is not None:
        kind = "NaN" if bool(tensors[name].isnan().any()) else "an infinity"
        raise NotFiniteError(f"{what} holds {kind} in the tensor {name!r}; {way_out}")
