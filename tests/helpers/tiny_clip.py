"""A random CLIP with towers of width 32, batches for it, and methods and refiners on it: what the
contract suites of plug-ins use (``experiments/contracts/tiny_model.py``), for all tests.
"""

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
]
