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


LONG = (
    *("experiments/test_tracking.py", "project/test_matrix.py", "project/test_settings_matter.py"),
    *("experiments/test_verify_constants.py", "experiments/test_resume.py"),
    *("experiments/test_driver.py", "project/test_adding_a_method.py", "project/test_device.py"),
    *("experiments/test_presets.py", "methods/test_methods.py", "experiments/test_workers.py"),
    *("experiments/test_verify.py", "experiments/test_lockstep.py", "core/test_clip_weights.py"),
)
"""Files that take a while, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that in the end no process waits for another one with a long file."""
    folder = Path(__file__).parent
    ranks = {folder / name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="module")
def small_mosaic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Five training, two validation and five test pictures a class; gives the shared cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "PER_CLASS", {"train": 5, "val": 2, "test": 5})
        yield tmp_path_factory.getbasetemp() / "small-mosaic"


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on the tiny random CLIP, whatever their configuration names, where it does not matter
    what the towers have learned: it takes half the time.
    """
    from tests.helpers.tiny_clip import shared_tiny_clip  # with torch, which few reports need

    for module in ("experiments.run.run", "experiments.run.image_source"):
        monkeypatch.setattr(f"{module}.shared_clip", lambda *_: shared_tiny_clip())


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images and image features that the runs of all tests may share."""
    return tmp_path_factory.getbasetemp() / "cache"
