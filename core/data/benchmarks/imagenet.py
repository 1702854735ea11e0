"""imagenet and its variants imagenetv2, imagenet_sketch, imagenet_a, imagenet_r.

Names come from ``classnames.txt`` (each line: wnid, space, name; those of the CLIP notebook), by
wnid, for imagenetv2 by line. Plain files beside the class folders are ignored.

* imagenet: the label is the position of the class folder among those sorted by name, the same in
  ``train`` and ``val``; the official validation set is val and test.
* imagenet_sketch, imagenet_a, imagenet_r: the label is the position among the folders present.
* imagenetv2: exactly the folders 0 to 999; the folder's name is the label.

The variants are test sets: train is the test list, val is empty.
"""

import random
from pathlib import Path

from core.data.benchmarks.class_folders import class_files
from core.data.benchmarks.definitions import Benchmark
from core.data.benchmarks.image_tree import ImageTree
from core.data.benchmarks.split_creation import SplitRows
from core.data.benchmarks.text_files import lines_of
from core.data.split_file import SplitRow

_V2_CLASSES = 1000


def list_imagenet(row: Benchmark, home: Path, tree: ImageTree, rng: random.Random) -> SplitRows:
    """Train and validation entries; ``rng`` is not used.

    Raises ValueError for class folders that differ between train and val, or without a name.
    """
    names = _names(home)
    wnids = _class_folders(tree, "train")
    others = _class_folders(tree, "val")
    if wnids != others:
        odd = sorted(set(wnids) ^ set(others))
        place, lack = ("train", "val") if odd[0] in wnids else ("val", "train")
        raise ValueError(
            f"{tree.root}: class folder {odd[0]!r} ({len(odd)} in all) is in {place} and not in "
            f"{lack}; labels would shift, complete the download or remove it"
        )
    train, val = (_entries(tree, f"{part}/", wnids, names) for part in ("train", "val"))
    return {"train": train, "val": val, "test": val}


def list_variant(row: Benchmark, home: Path, tree: ImageTree, rng: random.Random) -> SplitRows:
    """The test entries of a variant, as train and as test; ``rng`` is not used. Raises
    ValueError.
    """
    if row.name == "imagenetv2":
        images = _list_v2(home, tree)
    else:
        images = _entries(tree, "", _class_folders(tree, ""), _names(home))
    return {"train": images, "val": [], "test": images}


def _list_v2(home: Path, tree: ImageTree) -> list[SplitRow]:
    names = list(_names(home).values())
    if len(names) < _V2_CLASSES:
        raise ValueError(
            f"{home / 'classnames.txt'} has {len(names)} classes, ImageNetV2 needs {_V2_CLASSES} "
            "in the order of their wnids"
        )
    folders = [str(label) for label in range(_V2_CLASSES)]
    if absent := sorted(set(folders) - set(tree.folders()), key=int):
        raise ValueError(
            f"{tree.root}: class folder {absent[0]!r} ({len(absent)} in all) is missing; "
            "folders 0 to 999 are needed (releases with wnid folders are older ones)"
        )
    return [
        SplitRow(f"{folder}/{file}", label, names[label])
        for label, folder in enumerate(folders)
        for file in class_files(tree, folder)
    ]


def _entries(
    tree: ImageTree, prefix: str, wnids: list[str], names: dict[str, str]
) -> list[SplitRow]:
    if unnamed := [wnid for wnid in wnids if wnid not in names]:
        raise ValueError(
            f"{tree.root}: class folder {unnamed[0]!r} ({len(unnamed)} in all) is not in "
            "classnames.txt; is it a wnid?"
        )
    return [
        SplitRow(f"{prefix}{wnid}/{file}", label, names[wnid])
        for label, wnid in enumerate(wnids)
        for file in class_files(tree, prefix + wnid)
    ]


def _class_folders(tree: ImageTree, folder: str) -> list[str]:
    found = tree.folders(folder)
    where = tree.root / folder if folder else tree.root
    if not found:
        raise ValueError(
            f"{where} has no class folders; expected {where}/<wnid>/<image> (a flat validation "
            "set must be sorted into wnid folders first)"
        )
    return found


def _names(home: Path) -> dict[str, str]:
    """Class names by wnid, in the order of the file."""
    file = home / "classnames.txt"
    if not file.is_file():
        raise ValueError(
            f"{file} does not exist; copy it there (one class per line: wnid, space, name)"
        )
    names: dict[str, str] = {}
    for where, line in lines_of(file):
        wnid, _, name = line.partition(" ")
        if not name:
            raise ValueError(f"{where} must be a wnid, a blank and a name, got {line!r}")
        if wnid in names:
            raise ValueError(f"{where}: wnid {wnid} is there twice; keep one")
        names[wnid] = name
    return names
