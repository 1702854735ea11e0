"""Datasets by name: one of the fifteen benchmarks, ``<family>/<rest>``, or one that a plug-in has
registered. A new family is one loader in ``_FAMILIES``.
"""

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from core import mosaic
from core.data.benchmarks.definitions import BENCHMARKS, Benchmark
from core.data.benchmarks.read_benchmark import read_benchmark
from core.data.dataset import Dataset
from core.data.dataset_names import FOLDER, canonical_name, data_root, folder_path
from core.data.digits import NAME as DIGITS
from core.data.digits import load_digits
from core.data.folder import read_folder
from core.data.splits import SplitFractions
from core.suggestions import closest


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """The location of datasets, and the split of trees that have none."""

    root: Path | None
    cache_dir: Path
    fractions: SplitFractions
    split_seed: int


_Loader = Callable[[str, ReadOptions], Dataset]
DatasetLoader = Callable[[ReadOptions], Dataset]
L = TypeVar("L", bound=DatasetLoader)


@dataclass(frozen=True, slots=True)
class RegisteredDataset:
    """A dataset outside this package: its name, its loader, a line of help, and the hash of the
    code that reads it, "" where it is unknown.
    """

    name: str
    load: DatasetLoader
    summary: str
    code: str = ""


_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)
_REGISTERED: dict[str, RegisteredDataset] = {}


def register_dataset(name: str) -> Callable[[L], L]:
    """A decorator: the function reads the dataset of this name, such as ``my_paper/birds``.

    It is called with ``ReadOptions`` and returns a ``Dataset`` of the same name. The first line of
    its docstring is the line of help. Of a plug-in, the hash of the code that reads the dataset is
    added to its ``content``: an edited reader makes other runs. Files that it opens are not seen,
    so that ``content`` should say what they are, such as a version or a hash.

    Raises ValueError for a name that is taken, or that is not words of letters, digits, ``_``,
    ``.`` and ``-``, separated by ``/``.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a dataset: use words of letters, digits, _, . and -, separated "
            "by /, such as 'my_paper/birds'"
        )
    taken = {known.casefold() for known, _ in dataset_names()}
    if name.casefold() in taken or name.casefold().partition("/")[0] in _FAMILIES:
        raise ValueError(f"the dataset {name!r} is already registered: give it another name")

    def add(load: L) -> L:
        summary = inspect.cleandoc(load.__doc__ or "").partition("\n")[0]
        _REGISTERED[name] = RegisteredDataset(name, load, summary)
        return load

    return add


def registered_datasets() -> list[RegisteredDataset]:
    """The datasets that ``register_dataset`` has added, by name."""
    return [_REGISTERED[name] for name in sorted(_REGISTERED)]


def note_code(name: str, code: str) -> None:
    """Make the hash of the code that reads a registered dataset a part of its ``content``."""
    _REGISTERED[name] = replace(_REGISTERED[name], code=code)


def forget_dataset(name: str) -> None:
    """Undo ``register_dataset``."""
    _REGISTERED.pop(name, None)


def load_dataset(
    name: str,
    *,
    root: Path | None,
    cache_dir: Path,
    fractions: SplitFractions | None = None,
    split_seed: int = 0,
) -> Dataset:
    """The dataset of a name, under its canonical name (``core.data.dataset_names``).

    * ``caltech101``, ``imagenet``, ...: the benchmarks of ``core.data.benchmarks``, below ``root``
      (below the working folder without one), split by ``split_seed`` where the split file is
      absent; ``cache_dir`` keeps an index of their folders and a copy of the split.
    * ``mosaic/<set>``: rendered by the embedded benchmark; ``cache_dir`` keeps the images.
    * ``sklearn/digits``: handwritten digits that come with scikit-learn.
    * a name of ``register_dataset``: whatever its function returns.
    * ``folder/<path>``: a tree on disk, absolute or below ``root`` (below the working folder
      without one); ``fractions`` and ``split_seed`` split a plain ``class/image`` tree.

    Raises ValueError, one line, for an unknown name or a tree that cannot be read.
    """
    given, name = name, canonical_name(name, root)
    if name in BENCHMARKS:
        place = data_root(root)
        return read_benchmark(name, root=place, cache_dir=cache_dir, split_seed=split_seed).dataset
    options = ReadOptions(
        root=root,
        cache_dir=cache_dir,
        fractions=fractions or SplitFractions(),
        split_seed=split_seed,
    )
    if name in _REGISTERED:
        return _load_registered(_REGISTERED[name], options)
    family, _, rest = name.partition("/")
    if family not in _FAMILIES or not rest:
        raise ValueError(_unknown(given, root))
    return _FAMILIES[family](rest, options)


def dataset_names() -> list[tuple[str, str]]:
    """Every name with a line of help; ``folder/<path>`` stands for all trees on disk."""
    return [
        *((f"mosaic/{name}", "embedded benchmark, rendered on demand") for name in mosaic.DATASETS),
        *((name, _summary(row)) for name, row in BENCHMARKS.items()),
        *((found.name, found.summary) for found in registered_datasets()),
        (DIGITS, "1797 real handwritten digits of 8 x 8 pixels, 10 classes; nothing to download"),
        (
            "folder/<path>",
            "a tree on disk: split_zhou_*.json, train/val/test folders, or class/image",
        ),
    ]


def _summary(row: Benchmark) -> str:
    kind = "test set" if row.kind == "variant" else "images"
    return (
        f"{kind} below {row.image_folder} of the data root; published: {row.counts.classes} "
        f"classes, {row.counts.test} test images"
    )


def _unknown(name: str, root: Path | None) -> str:
    known = [n for n, _ in dataset_names() if "<" not in n]
    short = {n.rpartition("/")[2]: n for n in known}
    last = name.rpartition("/")[2]
    near = closest(name.strip("/"), known) or short.get(closest(last, short) or "")
    hint = f"; did you mean {near!r}?" if near else "."
    typed = name.strip("/").casefold()
    if typed not in known and (path := _tree_of(name, root)):
        hint = f": a folder of images is named {path!r}."
    return f"unknown dataset {name!r}{hint} Names: {', '.join(known)}, folder/<path>"


def _tree_of(name: str, root: Path | None) -> str:
    """``folder/<path>`` where a name is the path of a folder, or is written like a path."""
    rest = name.replace("\\", "/")
    rest = rest[len(FOLDER) + 1 :] if rest.casefold().startswith(f"{FOLDER}/") else rest
    if not rest.strip("/") or "\0" in rest:
        return ""
    path = Path(os.path.expanduser(rest))
    for place in (data_root(root), Path.cwd()):
        if os.path.isdir(place / path):
            return canonical_name(f"{FOLDER}/{place / path}", root)
    like_a_path = path.is_absolute() or rest.startswith(("./", "../")) or rest != name
    return f"{FOLDER}/{rest}" if like_a_path else ""


def _load_registered(found: RegisteredDataset, options: ReadOptions) -> Dataset:
    dataset = found.load(options)
    if not isinstance(dataset, Dataset) or dataset.name != found.name:
        named = dataset.name if isinstance(dataset, Dataset) else type(dataset).__name__
        raise ValueError(
            f"the function that reads the dataset {found.name!r} must return a Dataset of this "
            f"name, got {named!r}"
        )
    return replace(dataset, content=f"{dataset.content} {found.code}") if found.code else dataset


def _load_mosaic(rest: str, options: ReadOptions) -> Dataset:
    if rest not in mosaic.DATASETS:
        raise ValueError(_unknown(f"mosaic/{rest}", options.root))
    return mosaic.load_mosaic(rest, options.cache_dir)


def _load_sklearn(rest: str, options: ReadOptions) -> Dataset:
    if rest != DIGITS.partition("/")[2]:
        raise ValueError(_unknown(f"sklearn/{rest}", options.root))
    return load_digits()


def _load_folder(rest: str, options: ReadOptions) -> Dataset:
    name = f"{FOLDER}/{rest}"
    return read_folder(
        folder_path(name, options.root),
        name=name,
        fractions=options.fractions,
        split_seed=options.split_seed,
    )


_FAMILIES: dict[str, _Loader] = {
    "mosaic": _load_mosaic,
    "sklearn": _load_sklearn,
    "folder": _load_folder,
}
