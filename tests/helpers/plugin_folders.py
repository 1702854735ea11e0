"""Plug-ins to load in tests, and a process that forgets them afterwards."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import core.plugins
import experiments.cli.registered  # noqa: F401  (fills the registry, which is then left alone)
from core.config import isolated_registry
from core.data import catalog

METHOD = '''
from refinelab.core.config import Probability, register
from refinelab.core.seeding import Seeds
from refinelab.methods.base import unit
from refinelab.methods.coop import CoOp

from {package}strength import half


@register("method")
class PulledCoOp(CoOp):
    """CoOp whose class texts are pulled towards their mean.

    Source: ours, 2026, an example.
    """

    def __init__(self, clip, classes, seeds: Seeds, *, pull: Probability = 0.2) -> None:
        super().__init__(clip, classes, seeds)
        self.pull = half(pull)

    def class_texts(self):
        text = super().class_texts()
        return unit((1 - self.pull) * text + self.pull * text.mean(dim=0))
'''
PART = '''
from refinelab.core.config import register
from refinelab.refiners.cache import EmaCache


@register("cache")
class OwnCache(EmaCache):
    """EmaCache under another name.

    Source: ours, an example.
    """
'''
DATASET = '''
from dataclasses import dataclass

from PIL import Image

from refinelab.core.data.catalog import ReadOptions, register_dataset
from refinelab.core.data.dataset import Dataset, Item

COLORS = ("red", "green", "blue", "yellow", "black", "white")


@dataclass(frozen=True)
class Squares:
    def read(self, path):
        return Image.new("RGB", (40, 40), path.partition("/")[0])


def items(count, first):
    return tuple(
        Item(f"{color}/{first + n}", label)
        for label, color in enumerate(COLORS)
        for n in range(count)
    )


@register_dataset("my_paper/squares")
def squares(options: ReadOptions) -> Dataset:
    """Six colors, drawn on demand."""
    return Dataset(
        name="my_paper/squares",
        class_names=COLORS,
        template="a {} square.",
        train=items(3, 0),
        val=items(1, 10),
        test=items(2, 20),
        reader=Squares(),
    )
'''
PRESET = """# PulledCoOp as in the paper.
include 'mosaic.gin'
experiment.method = @PulledCoOp
experiment.epochs = 1
experiment.shots = 2
PulledCoOp.pull = 0.3
"""
STUDY = """
plugins = ('my_paper',)
include 'pulled.gin'
include 'text_refiner_parts.gin'
grid.study = 'pulled'
grid.datasets = ('my_paper/squares',)
grid.seeds = (1,)
grid.baseline = 'CoOp'
grid.variants = {
    'CoOp': {'experiment.method': @CoOp, 'experiment.refiner': @NullRefiner},
    'PulledCoOp': {'experiment.refiner': @NullRefiner},
    'PulledCoOp + OwnCache': {'TextRefiner.cache': @OwnCache},
}
"""


def write_plugin(folder: Path, *, package: bool = True) -> Path:
    """A paper's repository: ``my_paper`` with a method, a part, a dataset and a preset, and a study
    beside it; with ``package`` the folder has an ``__init__.py``.
    """
    home = folder / "my_paper"
    home.mkdir(parents=True)
    if package:
        (home / "__init__.py").write_text("")
    (home / "strength.py").write_text("def half(x):\n    return x / 2\n")
    (home / "method.py").write_text(METHOD.format(package="my_paper." if package else ""))
    (home / "parts.py").write_text(PART)
    (home / "data.py").write_text(DATASET)
    (home / "pulled.gin").write_text(PRESET)
    (folder / "study.gin").write_text(STUDY)
    return home


@contextmanager
def forgotten_plugins() -> Iterator[None]:
    """What plug-ins register inside the context, and their modules, are forgotten afterwards."""
    places = list(sys.path)
    tables: list[dict[Any, Any]] = [core.plugins._LOADED, catalog._REGISTERED]
    before = [dict(table) for table in tables]
    with isolated_registry():
        try:
            yield
        finally:
            for plugin in core.plugins.loaded_plugins():
                core.plugins.forget_modules(plugin.folder, list(sys.modules))
            for table, content in zip(tables, before, strict=True):
                table.clear()
                table.update(content)
            sys.path[:] = places
