"""Device, folders and precision of a run, decided here and nowhere else.

Drivers of studies import this module without training anything, so torch is imported where it is
used.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.machine import onednn_setting
from experiments.run.devices import CPU, one_device

Precision = Literal["float32", "float64", "bfloat16"]
FeaturePrecision = Literal["float32", "bfloat16"]

# The dtype in which weights and features are stored; "bfloat16" is autocast over float32.
STORED_AS: dict[Precision, str] = {
    "float32": "float32",
    "float64": "float64",
    "bfloat16": "float32",
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

            # Convolutions would round their inputs to TF32 unless told otherwise: 3 digits, not 7.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False

    def autocast(self, precision: Precision) -> AbstractContextManager[Any]:
        """Mixed precision around a forward pass for "bfloat16", nothing for the others.

        What it leaves in full precision: ``core/precision.py``.
        """
        if precision != "bfloat16":
            return nullcontext()
        import torch

        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)
