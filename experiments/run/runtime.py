"""Device, folders and precision of a run, decided here and nowhere else.

Drivers of studies import this module without training anything, so torch is imported where it is
used.
"""

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.device_faults import fault_of
from core.machine import onednn_setting, prepare_cublas
from experiments.run.devices import CPU, one_device

Precision = Literal["float32", "float64", "bfloat16", "float16"]
FeaturePrecision = Literal["float32", "bfloat16"]
FeatureStorage = Literal["float32", "float16"]

HALVES = ("bfloat16", "float16")
"""Precisions that are autocast, over frozen matrices of the same precision."""

# The dtype in which prompts, losses, optimizers and features are.
STORED_AS: dict[Precision, str] = {
    "float32": "float32",
    "float64": "float64",
    "bfloat16": "float32",
    "float16": "float32",
}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The device a run computes on, the folder of its caches, and the root of its datasets."""

    cache_dir: Path
    data_root: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        onednn_setting()  # a misspelt one is refused before any work
        object.__setattr__(self, "device", one_device(self.device))
        if self.device != CPU:
            import torch

            prepare_cublas()
            # Convolutions would round their inputs to TF32 unless told otherwise: 3 digits, not 7.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False

    def autocast(self, precision: Precision) -> AbstractContextManager[Any]:
        """Mixed precision around a forward pass for "bfloat16" and "float16", nothing for others.

        What it leaves in full precision: ``core/precision.py``.
        """
        if precision not in HALVES:
            return nullcontext()
        import torch

        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=getattr(torch, precision))

    def require(self, precision: Precision) -> None:
        """Raise ValueError where this device cannot compute in a precision."""
        if precision in HALVES and (problem := _missing_kernel(self.device, precision)):
            raise ValueError(
                f"experiment.precision = {precision!r} does not work on {self.device} with this "
                f"version of torch ({problem}); set experiment.precision = 'float32'"
            )


@functools.cache
def _missing_kernel(device: str, precision: Precision) -> str:
    """Why the operators of a frozen tower do not run under autocast, forward and backward; "" where
    they do.
    """
    import torch
    from torch.nn import functional as F

    dtype = getattr(torch, precision)
    x = torch.zeros(2, 3, 4, 4, device=device, requires_grad=True)
    weight = torch.zeros(8, 3, 2, 2, device=device, dtype=dtype)
    try:
        with torch.autocast(x.device.type, dtype=dtype):
            y = F.conv2d(x, weight, stride=2).flatten(2).transpose(1, 2)
            y = F.layer_norm(y, y.shape[-1:])
            y = F.gelu(F.linear(y, torch.zeros(8, 8, device=device, dtype=dtype)))
            y = y * y.sigmoid()
            heads = y.unflatten(-1, (2, 4)).transpose(1, 2)
            y = F.scaled_dot_product_attention(heads, heads, heads).float().softmax(dim=-1)
        torch.autograd.grad(y.sum(), x)
    except RuntimeError as error:
        if fault_of(error):
            raise  # it says nothing of the precision
        return str(error).splitlines()[0]
    return ""
