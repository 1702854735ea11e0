"""The one rule for numbers: no tensor that is read, learned or scored holds a NaN or an infinity,
and weights are real numbers of a usual precision.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

REAL = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


class NotFiniteError(ValueError):
    """A NaN or an infinity where a number should be."""


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a NaN or an infinity; None where all are finite.

    Reads every tensor once, and waits for the device once.
    """
    checked = _checked(tensors)
    if not checked or bool(all_sums_finite(tensors)):
        return None
    return next((name for name, tensor in checked.items() if not _all_finite(tensor)), None)


def all_sums_finite(tensors: Mapping[str, Tensor]) -> Tensor:
    """Whether the sum of every tensor is finite, 0-d on their device, without waiting for it.

    It is only if every summand is; where it is not, it may only have overflowed.
    """
    sums = [tensor.sum().reshape(()).float() for tensor in _checked(tensors).values()]
    return torch.stack(sums).isfinite().all() if sums else torch.tensor(True)


def _checked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in tensors.items() if v.is_floating_point() and v.numel()}


def _all_finite(tensor: Tensor) -> bool:
    low, high = tensor.aminmax()  # a NaN among the entries is both
    return bool(low.isfinite() & high.isfinite())


def check_finite(tensors: Mapping[str, Tensor], what: str, way_out: str) -> None:
    """Raise NotFiniteError, naming the tensor, unless every number is finite."""
    name = not_finite(tensors)
    if name is not None:
        kind = "NaN" if bool(tensors[name].isnan().any()) else "an infinity"
        raise NotFiniteError(f"{what} holds {kind} in the tensor {name!r}; {way_out}")


def check_real(tensors: Mapping[str, Tensor], what: str, *, whole: Collection[str] = ()) -> None:
    """Raise ValueError, naming the tensor, unless all are dense and hold real numbers.

    Other kinds would be cast in silence: imaginary parts, scales of quantized numbers and fractions
    would be lost. Those named in ``whole``, such as counters, hold integers or real numbers.
    """
    for name, tensor in tensors.items():
        if tensor.is_meta:
            kind = "no numbers (device meta)"
        elif tensor.layout != torch.strided:
            kind = str(tensor.layout).removeprefix("torch.")
        elif tensor.dtype in REAL or (name in whole and _is_whole(tensor)):
            continue
        else:
            kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(
            f"{what} holds {kind} in the tensor {name!r}; weights are dense tensors of float16, "
            "bfloat16, float32 or float64: save it as one of these"
        )


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized)
