"""Full precision inside mixed precision: what autocast must not round.

Under bfloat16 autocast every matrix product is rounded to 8 bits. That is right inside the towers;
logits of nearby classes would tie, and what is computed once and kept would carry the rounding into
all later uses.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

HALF = frozenset({torch.float16, torch.bfloat16})
LOSS_SCALE = 2.0**10
"""The factor of a loss in float16 that keeps small gradients from becoming 0."""


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context on a device in which nothing is rounded to half precision."""
    return torch.autocast(device.type, enabled=False)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a matrix product of x here, inside autocast or not."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def widened(x: Tensor) -> Tensor:
    """X in float32 if it is of half precision, else x itself."""
    return x.float() if x.dtype in HALF else x


def in_full_precision(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)`` outside autocast, of tensors in float32 or float64."""
    with without_autocast(tensors[0].device):
        return function(*map(widened, tensors))


def gradient_of(loss: Tensor, x: Tensor) -> Tensor:
    """The gradient of a loss of which nobody keeps a loss scale. Under float16 autocast it is
    computed of a multiple, and what overflows there counts as 0.
    """
    if product_dtype(x) != torch.float16:
        return torch.autograd.grad(loss, x)[0]
    gradient = torch.autograd.grad(loss * LOSS_SCALE, x)[0] / LOSS_SCALE
    return gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def scaled_products(scale: Tensor, rows: Tensor, texts: Tensor) -> Tensor:
    """``scale * rows @ texts'`` in full precision: (..., B, C) for (..., B, D) and (..., C, D)."""
    return in_full_precision(_scaled_products, scale, rows, texts)


def _scaled_products(scale: Tensor, rows: Tensor, texts: Tensor) -> Tensor:
    return scale * rows @ texts.transpose(-1, -2)
