"""DataReading one of the fifteen sets below a data root. Nothing is ever written there.

A split file, if present, is the only source of names, labels and lists. If it is absent, a split is
created (``split_creation.py``) and a copy is kept in the cache for inspection, below
``splits/<set>-seed<N>-<hash>/``. It is recomputed each time, so no stale copy can be used and no
run depends on which one came first.

Two published runs draw different shots from a created split: the run that creates it continues the
same random stream, every later one starts a new one. ``read_benchmark`` followed by ``few_shot``
corresponds to the later run, the default; ``first_run`` is the other.
"""

import hashlib
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.data.benchmarks.class_folders import create_from_folders
from core.data.benchmarks.definitions import BENCHMARKS, Benchmark, BenchmarkKind
from core.data.benchmarks.image_tree import ImageTree
from core.data.benchmarks.imagenet import list_imagenet, list_variant
from core.data.benchmarks.official_lists import create_from_official_lists
from core.data.benchmarks.split_creation import SplitRows
from core.data.dataset import Dataset
from core.data.fewshot import continue_draw
from core.data.folder import FolderReader
from core.data.folder_settings import SETTINGS_NAME
from core.data.reading import DataReading, name_notes
from core.data.split_file import Split, make_split, read_split, split_text
from core.store.atomic import write_atomic
from core.streams import printable

log = logging.getLogger(__name__)

FIRST_SEED = 1  # split seed 0 means this one: the published code takes 0 for "not seeded"

_CREATE: dict[BenchmarkKind, Callable[[Benchmark, Path, ImageTree, random.Random], SplitRows]] = {
    "class_folders": create_from_folders,
    "lists": create_from_official_lists,
    "imagenet": list_imagenet,
    "variant": list_variant,
}


class MissingImagesError(ValueError):
    """Listed images are not on disk: how many of how many, and the first, relative to the root."""

    def __init__(self, message: str, *, count: int, total: int, first: str) -> None:
        super().__init__(message)
        self.count, self.total, self.first = count, total, first


@dataclass(frozen=True, kw_only=True)
class BenchmarkDataset:
    """A dataset and where its split came from.

    ``split_file`` is the one on disk, or None; ``created`` is our copy of one that was created with
    ``seed``, and ``stream`` the random stream after that.
    """

    dataset: Dataset
    split_file: Path | None
    created: Path | None
    seed: int
    stream: random.Random


def read_benchmark(
    name: str, *, root: Path, cache_dir: Path, split_seed: int = 0, relist: bool = False
) -> BenchmarkDataset:
    """Read a set of the table below ``root``. Every listed image must exist; none is opened.

    ``split_seed`` is only used where the split file is absent; 0 means 1. ``relist`` ignores the
    index of the image folder (``image_tree.py`` says what makes that stale).

    Raises ValueError, one line, for whatever is missing, broken or contradictory.
    """
    row = BENCHMARKS[name]
    home, images = _folders(row, root)
    tree = ImageTree(images, cache_dir, relist=relist)
    seed = split_seed or FIRST_SEED
    stream = random.Random(seed)
    split_file = _split_file(row, home)
    if split_file is not None:
        split, source = read_split(split_file), split_file.name
    else:
        lists = _CREATE[row.kind](row, home, tree, stream)
        split, source = make_split(lists, str(home)), "its lists"
    paths = split.paths()
    sizes = tree.sizes(paths)
    _require_all(row, tree, paths, sizes, source)
    creates = split_file is None and row.split_file is not None
    reading = _reading(row, split, home, tree, creates=creates, split_file=split_file)
    dataset = _dataset(row, split, tree.root, _content(paths, sizes), reading)
    tree.save()
    created = None
    if split_file is None and row.split_file is not None:
        created = _keep(dataset, cache_dir, seed, row.split_file)
    return BenchmarkDataset(
        dataset=dataset, split_file=split_file, created=created, seed=seed, stream=stream
    )


def first_run(name: str, *, root: Path, cache_dir: Path, shots: int, seed: int) -> Dataset:
    """The draw of the published run that also creates the split: split and shots from one stream.

    The same as any other run where a split file exists. Raises ValueError.
    """
    found = read_benchmark(name, root=root, cache_dir=cache_dir, split_seed=seed)
    stream = found.stream if found.created is not None else random.Random(seed)
    return continue_draw(found.dataset, shots=shots, rng=stream)


def _folders(row: Benchmark, root: Path) -> tuple[Path, Path]:
    """The folder of the set and its image folder. Raises ValueError when one is missing."""
    home = root / row.folder
    images = home / row.images if row.images else home
    for folder, place in ((home, root), (images, home)):
        if not folder.is_dir():
            names = [name for name in row.also_called if (place / name).is_dir()]
            hint = (
                f"rename or link {place / names[0]} to it"
                if names
                else "check the name and give the folder above it as data root"
                if folder == home
                else "complete the download"
            )
            raise ValueError(f"data folder {folder} of {row.name} does not exist; {hint}")
    return home, images


def _split_file(row: Benchmark, home: Path) -> Path | None:
    """The split file where there is one. Raises ValueError for a dead link or a folder instead."""
    if row.split_file is None:
        return None
    file = home / row.split_file
    if (file.is_symlink() or file.exists()) and not file.is_file():
        raise ValueError(f"split file {file} is a dead link or not a file; replace or remove it")
    return file if file.is_file() else None


def _require_all(
    row: Benchmark, tree: ImageTree, paths: Sequence[str], sizes: Sequence[int], source: str
) -> None:
    if min(sizes) >= 0:
        return
    missing = [path for path, size in zip(paths, sizes, strict=True) if size < 0]
    near = tree.near(missing[0])
    hint = (
        f"the folder has {near!r}, names must match exactly"
        if near
        else f"complete the download or correct {source}"
    )
    raise MissingImagesError(
        f"{tree.root}: {len(missing)} of {len(paths)} listed images are missing or unreadable, "
        f"first {missing[0]}; {hint}",
        count=len(missing),
        total=len(paths),
        first=f"{row.image_folder}/{missing[0]}",
    )


def _content(paths: Sequence[str], sizes: Sequence[int]) -> str:
    """Fingerprint (16 hex digits) of the files: paths and sizes, independent of the order of the
    list.
    """
    lines = sorted(f"{path}\0{size}\n" for path, size in zip(paths, sizes, strict=True))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _reading(
    row: Benchmark,
    split: Split,
    home: Path,
    tree: ImageTree,
    *,
    creates: bool,
    split_file: Path | None,
) -> DataReading:
    """How a set was read. Only a created split depends on a setting, its seed."""
    images = printable(str(tree.root))
    if split_file is not None:
        source = f"split file {printable(str(split_file))}"
    elif creates:
        source = f"split created by the published rule ({row.split_file} is absent)"
    else:
        source = "test set only" if row.kind == "variant" else "the official lists"
    notes = list(name_notes(split.class_names))
    if (home / SETTINGS_NAME).is_file():
        notes.append(f"{SETTINGS_NAME} in {printable(str(home))} is not read: {row.name} is fixed")
    return DataReading(
        layout=f"{source}, images below {images}",
        notes=tuple(notes),
        split_settings=frozenset({"split_seed"}) if creates else frozenset(),
    )


def _dataset(
    row: Benchmark, split: Split, images: Path, content: str, reading: DataReading
) -> Dataset:
    return Dataset(
        name=row.name,
        class_names=split.class_names,
        template=row.template,
        train=split.train,
        val=split.val,
        test=split.test,
        reader=FolderReader(root=images),
        content=content,
        folder=row.image_folder,
        test_only=row.kind == "variant",
        reading=reading,
    )


def _keep(dataset: Dataset, cache_dir: Path, seed: int, name: str) -> Path:
    text = split_text(dataset)
    key = hashlib.sha256(text.encode()).hexdigest()[:8]
    file = cache_dir / "splits" / f"{dataset.name}-seed{seed}-{key}" / name
    try:
        if file.is_file() and file.read_bytes() != text.encode():
            log.warning("the copy of the split %s is damaged; it is written again", file)
            file.unlink()
        if not file.is_file():
            write_atomic(file, text)
    except OSError as error:
        log.warning("the copy of the split %s cannot be written (%s)", file, error)
    return file
