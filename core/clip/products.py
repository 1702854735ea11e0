"""The one door for matrix products with frozen weights of a tower.

Letters: R rows, W width of the input, V width of the output.
"""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

ALL_ROWS = slice(None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, rows: slice = ALL_ROWS) -> Tensor:
    """``x weight' + bias``: (..., V) for x (..., W), with these ``rows`` of the weight (V, W)."""
    return F.linear(x, weight[rows], None if bias is None else bias[rows])


def feed_forward(mlp: Any, x: Tensor) -> Tensor:
    """A block's MLP: ``c_fc``, ``gelu``, ``c_proj``."""
    hidden = mlp.gelu(linear(x, mlp.c_fc.weight, mlp.c_fc.bias))
    return linear(hidden, mlp.c_proj.weight, mlp.c_proj.bias)
