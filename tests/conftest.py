"""What several test files share: one thread, and a small Mosaic that is drawn in a moment."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import core.clip  # noqa: F401  (declares operators that torchvision needs beside a CPU-only torch)
from core.mosaic import datasets
from tests.helpers.benchmark_fixtures import bare_trees, copied, trees  # noqa: F401

os.environ.setdefault("REFINELAB_TRACK", "none")  # a mirror process costs a test seconds
os.environ.setdefault("REFINELAB_ONEDNN", "off")  # bitwise comparisons, on any machine
torch.set_num_threads(1)  # bitwise comparisons, and less noise where several runs share a machine


@pytest.fixture(scope="module")
def small_mosaic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Five training, two validation and five test pictures a class; gives the shared cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "PER_CLASS", {"train": 5, "val": 2, "test": 5})
        yield tmp_path_factory.getbasetemp() / "small-mosaic"


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images and image features that the runs of all tests may share."""
    return tmp_path_factory.getbasetemp() / "cache"
