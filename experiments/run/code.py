"""The code that a run executes: its plugged-in classes, what every run passes through, and all that
these call in the project or in the repository of a plug-in.

Left out is what cannot change the numbers of a run: commands, planning, reports, the format of
files, the reading of configurations. So is what is in a run's identity already: the reading of
datasets and weights, whose result has a fingerprint.
"""

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from core.config import Config, config_from_text, lookup, references
from core.source.tree import Called, Place, SourceFolder, SourceTree
from core.store.code import RunCode
from core.store.names import CONFIG_NAME

ROOT = "experiment"
HOME = Path(__file__).resolve().parents[2]
PACKAGES = frozenset({"core", "methods", "refiners", "experiments"})
INSTALLED = frozenset({"site-packages", "dist-packages"})

ENGINE = "experiments.run.run:run"
ENTRY_POINTS = (
    "experiments.run.run:assemble",
    "experiments.run.run:train",
    "experiments.run.run:score_images",
    "core.data.fewshot:few_shot",
    "core.data.shots:with_shots",
    "core.data.validation_only:validation_only",
    "core.data.images:open_rgb",
)
"""What every run passes through; which images, classes and weights it gets is its identity's."""

OUTSIDE = (
    *("core.config", "core.program", "core.store", "core.streams", "core.suggestions"),
    *("experiments.cli", "experiments.configs", "experiments.search", "experiments.study"),
    *("experiments.verify", "experiments.workers"),
    # in the identity, as fingerprints of the data and of the frozen weights
    *("core.clip.maker", "core.clip.model_names", "core.clip.torchscript"),
    *("core.clip.transformers_clip", "core.clip.weights", "core.data.benchmarks"),
    *("core.data.catalog", "core.data.dataset_names", "core.mosaic", "core.tensor_files"),
    *("experiments.run.data_inputs", "experiments.run.dataset_names"),
    *("experiments.run.experiment", "experiments.run.runtime"),
    *("experiments.run.scorable_data", "experiments.run.unchanged"),
)


def source_tree() -> SourceTree:
    """The source code as it is on disk now."""
    return SourceTree(HOME, [SourceFolder(HOME, PACKAGES)], outside=OUTSIDE)


def code_of(config: Config) -> RunCode:
    """The code that a run of this configuration executes in this process.

    The files of loaded modules are read at the first call, and not again: an edit made later is
    not what the process runs.
    """
    return _code_of_classes(_loaded_sources(), tuple(dict.fromkeys(_classes(config))))


def called_by(tree: SourceTree, keys: Iterable[str]) -> Called:
    """All definitions behind classes and the engine, as ``RunCode.classes`` names them."""
    return tree.called(place for key in keys for place in places_of(tree, key))


def places_of(tree: SourceTree, key: str) -> list[Place]:
    """The definition of a class, wherever it was moved in its package; empty where it is gone."""
    names = ENTRY_POINTS if key == ENGINE else (key,)
    pairs = [name.partition(":") for name in names]
    found = [tree.find(module, name) or _moved(tree, module, name) for module, _, name in pairs]
    return [place for places in found for place in places]


def plug_in_folder(module: str, stored: Mapping[str, str] | None = None) -> SourceFolder | None:
    """The folder from which a plug-in's module is imported, or else the ``stored`` one of its
    package; None for a module of the project, and where there is no such folder.
    """
    top, *below = module.split(".")
    if top in PACKAGES:
        return None
    file = getattr(sys.modules.get(module), "__file__", None)
    if file:
        path = Path(file).resolve()
        return _folder(path.parents[len(below) + (path.name == "__init__.py")], top)
    folder = Path((stored or {}).get(top, ""))
    return _folder(folder, top) if folder.is_absolute() and folder.is_dir() else None


def _folder(path: Path, package: str) -> SourceFolder:
    """What is installed is read for this package alone, not for all that is installed beside it."""
    installed = INSTALLED & set(path.parts)
    return SourceFolder(path, frozenset({package}) if installed else frozenset())


def _moved(tree: SourceTree, module: str, name: str) -> list[Place]:
    return tree.search(module.partition(".")[0], name.partition(".")[0])


@functools.cache
def _loaded_sources() -> SourceTree:
    """The source code of the modules that this process has loaded."""
    tree = source_tree()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES and (file := getattr(module, "__file__", None)):
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
            yield f"{cls.__module__}:{cls.__qualname__}"
        own = {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{name}.")}
        for path in cls.input_files(own):
            if path.name == CONFIG_NAME and path.is_file():
                yield from _classes(config_from_text(path.read_text(), str(path)))
    yield ENGINE


@functools.cache
def _code_of_classes(tree: SourceTree, keys: tuple[str, ...]) -> RunCode:
    folders = dict(_plug_ins(keys))
    for folder in folders.values():
        tree.add(folder)
    classes = {key: called_by(tree, [key]) for key in keys}
    together = called_by(tree, keys)
    return RunCode(
        classes={key: found.hash for key, found in classes.items() if found.hashes},
        files=together.listing(),
        folders={name: str(folder.path) for name, folder in folders.items()},
    )


def _plug_ins(keys: Iterable[str]) -> Iterator[tuple[str, SourceFolder]]:
    """The folders of the classes that are not the project's, by top-level package."""
    for module in dict.fromkeys(key.partition(":")[0] for key in keys):
        if folder := plug_in_folder(module):
            yield module.partition(".")[0], folder
