"""The code that a run executes: its plugged-in classes, what every run passes through, and all that
these call in the project or in the repository of a plug-in. Of a plug-in it is the whole module
besides, with the modules of its own that it imports: what these do when they are imported counts.

Left out is what cannot change the numbers of a run: commands, planning, reports, the format of
files, the reading of configurations. So is what is in a run's identity already: the reading of
datasets and weights, whose result has a fingerprint.
"""

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from core.config import Config, config_from_text, lookup, references
from core.program import PREFIX, SCRIPT
from core.source.tree import Called, Place, SourceFolder, SourceTree
from core.store.code import EVERY_RUN, RunCode
from core.store.names import CONFIG_NAME

ROOT = "experiment"
HOME = Path(__file__).resolve().parents[2]
PACKAGES = frozenset({"core", "methods", "refiners", "experiments"})
INSTALLED = frozenset({"site-packages", "dist-packages"})

ENTRY_POINTS = (
    "experiments.run.run:assemble",
    "experiments.run.run:train",
    "experiments.run.run:score_images",
    "experiments.run.few_shot_draw:drawn",
    "experiments.run.runtime:Runtime",
    "core.data.dataset:Dataset",
    "core.data.images:open_rgb",
    "core.train.resume:TrainingCheckpoints",
)
"""What every run passes through, the classes of the objects that it is given among it; which
images, classes and weights it gets is its identity's.
"""

OUTSIDE = (
    *("core.config", "core.program", "core.store", "core.streams", "core.suggestions"),
    *("experiments.cli", "experiments.configs", "experiments.search", "experiments.study"),
    *("experiments.verify", "experiments.workers"),
    # in the identity, as fingerprints of the data and of the frozen weights
    *("core.clip.maker", "core.clip.model_names", "core.clip.torchscript"),
    *("core.clip.transformers_clip", "core.clip.weights", "core.data.benchmarks"),
    *("core.data.catalog", "core.data.dataset_names", "core.mosaic", "core.tensor_files"),
    *("experiments.run.code", "experiments.run.data_inputs", "experiments.run.dataset_names"),
    *("experiments.run.experiment", "experiments.run.known_hashes"),
    *("experiments.run.scorable_data", "experiments.run.unchanged"),
)


def source_tree() -> SourceTree:
    """The source code as it is on disk now."""
    aliases = {SCRIPT: ""}  # the project under the name by which it is installed
    return SourceTree(HOME, [SourceFolder(HOME, PACKAGES)], outside=OUTSIDE, aliases=aliases)


def code_of(config: Config) -> RunCode:
    """The code that a run of this configuration executes in this process.

    The files of loaded modules are read at the first call, and not again: an edit made later is
    not what the process runs.
    """
    return _code_of_classes(loaded_sources(), tuple(dict.fromkeys(_classes(config))))


def hash_of(*defined: Any) -> str:
    """One hash for the code of some classes or functions, as this process runs it."""
    return _code_of_classes(loaded_sources(), tuple(dict.fromkeys(map(_key, defined)))).hash


def _key(defined: Any) -> str:
    """A class or function as ``RunCode.classes`` names it."""
    return f"{defined.__module__.removeprefix(PREFIX)}:{defined.__qualname__}"


def called_by(tree: SourceTree, keys: Iterable[str]) -> Called:
    """All definitions behind classes and the engine, as ``RunCode.classes`` names them."""
    return tree.called(place for key in keys for place in places_of(tree, key))


def places_of(tree: SourceTree, key: str) -> list[Place]:
    """The definition of a class, wherever it was moved in its package; empty where it is gone. That
    of a plug-in's class comes with all else in its module, and in those that this imports.
    """
    names = ENTRY_POINTS if key == EVERY_RUN else (key,)
    pairs = [name.partition(":") for name in names]
    found = [tree.find(module, name) or _moved(tree, module, name) for module, _, name in pairs]
    named = [place for places in found for place in places]
    modules = dict.fromkeys(p.module.name for p in named if not is_own(p.module.name))
    whole = [place for module in modules for place in tree.whole(module, _is_plugins)]
    return [*named, *whole]


def is_own(module: str) -> bool:
    """Whether a module is the project's."""
    return module.partition(".")[0] in PACKAGES


def _is_plugins(module: str) -> bool:
    return not is_own(module)


def add_plugin(tree: SourceTree, module: str, stored: Mapping[str, str]) -> Path | None:
    """Make the module of a plug-in readable, where it was loaded from or else where it was stored
    to be; returns the place of its top-level module, None where there is nothing.
    """
    top, *below = module.split(".")
    file = getattr(sys.modules.get(module), "__file__", None)
    place = Path(stored.get(top, ""))
    if file:
        path = Path(file).resolve()
        path = path.parent if path.name == "__init__.py" else path
        place = path.parents[len(below) - 1] if below else path
    if not place.is_absolute() or not place.exists():
        return None
    tree.add(top, place, alone=bool(INSTALLED & set(place.parts)))
    return place


def _moved(tree: SourceTree, module: str, name: str) -> list[Place]:
    return tree.search(module.partition(".")[0], name.partition(".")[0])


@functools.cache
def loaded_sources() -> SourceTree:
    """The source code of the modules that this process has loaded when it is first asked."""
    tree = source_tree()
    for name, module in list(sys.modules.items()):
        if is_own(name.removeprefix(PREFIX)) and (file := getattr(module, "__file__", None)):
            tree.keep(Path(file))
    return tree


def _classes(config: Config) -> Iterator[str]:
    """The classes that a configuration plugs in, and those of earlier runs that it reads."""
    values = config.canonical(ROOT)
    names = {key.partition(".")[0]: None for key in values}
    names |= {r.name: None for value in values.values() for r in references(value)}
    for name in names:
        cls = lookup(name).cls
        if name != ROOT and cls.__module__ != "__main__":
            yield _key(cls)
        own = {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{name}.")}
        for path in lookup(name).ask("input_files", own):
            if path.name == CONFIG_NAME and path.is_file():
                yield from _classes(config_from_text(path.read_text(), str(path)))
    yield EVERY_RUN


@functools.cache
def _code_of_classes(tree: SourceTree, keys: tuple[str, ...]) -> RunCode:
    modules = dict.fromkeys(key.partition(":")[0] for key in keys)
    places = {name: add_plugin(tree, name, {}) for name in modules if not is_own(name)}
    added = tuple(tree.places.items())
    hashes = {key: _hash_of_class(tree, key, added) for key in keys}
    return RunCode(
        classes={key: found for key, found in hashes.items() if found},
        files=called_by(tree, keys).listing(),
        plugins={name.partition(".")[0]: str(path) for name, path in places.items() if path},
    )


@functools.cache
def _hash_of_class(tree: SourceTree, key: str, added: tuple[tuple[str, Path], ...]) -> str:
    """The hash of a class with all that it calls, once for all configurations that plug it in; ""
    where it has no source code. What it calls may lie in the modules of plug-ins that were added.
    """
    found = called_by(tree, [key])
    return found.hash if found.hashes else ""
