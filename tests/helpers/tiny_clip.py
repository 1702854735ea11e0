"""A random CLIP with towers of width 32, batches for it, and methods and refiners on it: what the
contract suites of plug-ins use (``experiments/contracts/tiny_model.py``), for all tests.
"""

from dataclasses import replace

import torch

from core.types import Batch
from experiments.contracts.tiny_model import (
    CLASSES,
    EVERYTHING,
    OTHER_CLASSES,
    PARTS_OFF,
    PARTS_ON,
    SETTINGS,
    ListBatches,
    batch,
    images,
    logits,
    make_method,
    make_model,
    objective_of,
    one_step,
    part,
    shared_tiny_clip,
    small_step,
    tiny_clip,
    tokenizer,
    training,
)

__all__ = [
    "CLASSES",
    "EVERYTHING",
    "OTHER_CLASSES",
    "PARTS_OFF",
    "PARTS_ON",
    "SETTINGS",
    "ListBatches",
    "batch",
    "images",
    "logits",
    "make_method",
    "make_model",
    "objective_of",
    "one_step",
    "part",
    "shared_tiny_clip",
    "small_step",
    "tiny_clip",
    "tokenizer",
    "training",
    "with_views",
]


def with_views(
    count: int, num_views: int, *, seed: int = 1, dtype: torch.dtype = torch.float32
) -> Batch:
    """A batch of pixels with further views, images of their own."""
    views = [batch(count, seed=1000 * seed + n, dtype=dtype) for n in range(num_views)]
    return replace(batch(count, seed=seed, dtype=dtype), views=tuple(views))
