"""Fixtures: miniature trees of the fifteen benchmarks, made once per test session."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from core.data.benchmarks.definitions import BENCHMARKS
from tests.helpers.benchmark_trees import CREATED, GOLDEN


def _made(base: Path, splits: bool) -> Path:
    root = base / ("trees" if splits else "trees-without-splits")
    specification = importlib.util.spec_from_file_location("make_trees", GOLDEN / "make_trees.py")
    make_trees = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(make_trees)
    for maker in make_trees.MAKERS:
        if splits or maker.__name__ in CREATED:
            maker(root, splits)
    return root


@pytest.fixture(scope="session")
def trees(tmp_path_factory):
    """A data root with all fifteen sets; do not change it."""
    return _made(tmp_path_factory.mktemp("benchmarks"), True)


@pytest.fixture(scope="session")
def bare_trees(tmp_path_factory):
    """The nine sets that have split files, without them; do not change it."""
    return _made(tmp_path_factory.mktemp("benchmarks"), False)


@pytest.fixture
def copied(request, tmp_path):
    """Copies one set into a data root of its own: ``copied(name)``, or without its split file."""

    def copy(name: str, *, splits: bool = True) -> Path:
        source = request.getfixturevalue("trees" if splits else "bare_trees")
        folder = BENCHMARKS[name].folder
        shutil.copytree(source / folder, tmp_path / "root" / folder)
        return tmp_path / "root"

    return copy
