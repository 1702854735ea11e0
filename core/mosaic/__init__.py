"""Mosaic, the embedded benchmark: a drawn world, six datasets, four shifts, and a mini CLIP.

Code outside the package imports nothing else from it. It offers

* ``DATASETS``, the names of the ten sets, and ``load_mosaic(name, cache_dir)``, one of them;
* the mini CLIP for ``core/clip/backbone.py`` to build: ``MODEL_CONFIG`` (in open_clip's terms),
  ``NUM_MERGES`` of its tokenizer, ``IMAGE_MEAN`` and ``IMAGE_STD``, and ``WEIGHTS_PATH``;
* ``pretrain``, which trains those weights.

Importing it does not import torch.
"""

from pathlib import Path
from typing import Any

from core.mosaic.architecture import (
    IMAGE_MEAN,
    IMAGE_STD,
    MODEL_CONFIG,
    NUM_MERGES,
    WEIGHTS_PATH,
)
from core.mosaic.datasets import DATASETS
from core.mosaic.datasets import load as load_mosaic

__all__ = [
    "DATASETS",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "MODEL_CONFIG",
    "NUM_MERGES",
    "WEIGHTS_PATH",
    "load_mosaic",
    "pretrain",
]


def pretrain(out: Path, build_model: Any, **options: Any) -> dict[str, Any]:
    """Pre-train the mini CLIP in a folder, as ``core.mosaic.pretraining.pretrain`` does.

    ``build_model`` makes a randomly initialized model of a ``MODEL_CONFIG``.
    """
    from core.mosaic import pretraining  # torch, which the datasets do not need

    return pretraining.pretrain(out, build_model, **options)
