"""What decides the last digits on a GPU: TF32, and operators that add in no fixed order.

A CPU has neither: nothing is set for one. What is set is the state of the process: runs that train
in lockstep agree in it (``experiments/run/bundles.py``), and every other run sets it anew.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from core.machine import CUBLAS_VARIABLE, ORDERED_CUBLAS

NO_ORDER = "does not have a deterministic implementation"  # the words of torch


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """``tf32`` lets products and convolutions in float32 round their inputs to 10 bits on a GPU.
    ``deterministic`` makes a GPU give the same bits in every run: where torch knows an operator
    with a fixed order it takes that one, and where it knows none the run fails instead.
    """

    tf32: bool
    deterministic: bool

    def require(self, device: str) -> None:
        """Raise ValueError where cuBLAS is told otherwise, by the environment of this process."""
        given = os.environ.get(CUBLAS_VARIABLE, "")
        if device.startswith("cuda") and self.deterministic and given not in ORDERED_CUBLAS:
            raise ValueError(
                f"experiment.deterministic needs {CUBLAS_VARIABLE} to be "
                f"{' or '.join(ORDERED_CUBLAS)}, got {given!r}; unset it, or set "
                "experiment.deterministic = False"
            )

    def apply(self, device: str) -> None:
        """Set this process up for a run. Raises ValueError as ``require`` does."""
        self.require(device)
        if not device.startswith("cuda"):
            return
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.benchmark = False  # it would choose by time
        # What makes reading memory that nobody wrote reproducible; nothing here reads any.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(self.deterministic)


@contextmanager
def order_required() -> Iterator[None]:
    """A context in which an operator that is refused for want of a fixed order is a ValueError with
    the way out.
    """
    try:
        yield
    except RuntimeError as error:
        operator, refused, _ = str(error).partition(NO_ORDER)
        if not refused:
            raise
        raise ValueError(
            f"{operator.strip() or 'an operator'} adds in no fixed order on a GPU, which "
            "experiment.deterministic = True refuses; set it to False, and the record will say so"
        ) from error
