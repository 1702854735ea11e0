"""Sets with official lists: oxford_pets, stanford_cars, sun397, ucf101 (train and test lists, val
is cut from train), oxford_flowers (labels only, split 50/20/30) and fgvc_aircraft (three lists).

All but fgvc_aircraft come here only where their split file is absent. Each function reads the
annotation files of one dataset below ``home``; ``files`` are those named in its row of the table,
in that order. Both kinds of line ends are accepted.
"""

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from core.data.benchmarks.definitions import Benchmark
from core.data.benchmarks.image_tree import ImageTree
from core.data.benchmarks.mat_files import annotations_of, class_names_of, labels_of
from core.data.benchmarks.split_creation import SplitRows, by_label, cut_in_three, cut_validation
from core.data.benchmarks.text_files import json_of, lines_of
from core.data.split_file import SplitRow, require_inside


def create_from_official_lists(
    row: Benchmark, home: Path, tree: ImageTree, rng: random.Random
) -> SplitRows:
    """Train, val and test entries of a set of this module; advances ``rng``, except for
    fgvc_aircraft.

    Raises ValueError naming file and line for an annotation that cannot be understood.
    """
    lists = _READERS[row.name]([home / name for name in row.annotations])
    if lists.keys() == {"all"}:
        lists = cut_in_three(by_label(lists["all"]), rng)
    elif "val" not in lists:
        train, val = cut_validation(lists["train"], rng)
        lists = {"train": train, "val": val, "test": lists["test"]}
    for part, entries in lists.items():
        for entry in entries:
            require_inside(entry.path, f"{home}: {part}")
    return lists


def _oxford_pets(files: Sequence[Path]) -> SplitRows:
    """Lines "Egyptian_Mau_14 9 1 3": image stem, class from 1, species, breed. The class name is
    the stem without its number, in lower case.
    """

    def entry(where: str, line: str) -> SplitRow:
        stem, *numbers = line.split(" ")
        breed, _, _ = stem.rpartition("_")
        if len(numbers) != 3 or not breed or not numbers[0].isdecimal() or numbers[0] == "0":
            raise ValueError(
                f"{where} must be 'Breed_name_12 class species breed' with a class from 1, "
                f"got {line!r}"
            )
        return SplitRow(f"{stem}.jpg", int(numbers[0]) - 1, breed.lower())

    train, test = ([entry(*line) for line in lines_of(file)] for file in files)
    return {"train": train, "test": test}


def _stanford_cars(files: Sequence[Path]) -> SplitRows:
    """Class names with their last word, the year, moved to the front."""
    models = class_names_of(files[2])
    words = [model.split(" ") for model in models]
    names = [" ".join([model[-1], *model[:-1]]) for model in words]

    def entries(file: Path, folder: str) -> list[SplitRow]:
        made = []
        for name, number in annotations_of(file):
            if not 1 <= number <= len(names):
                raise ValueError(
                    f"{file}: image {name!r} has class {number}, {files[2]} names {len(names)}"
                )
            made.append(SplitRow(f"{folder}/{name}", number - 1, names[number - 1]))
        return made

    return {"train": entries(files[0], "cars_train"), "test": entries(files[1], "cars_test")}


def _oxford_flowers(files: Sequence[Path]) -> SplitRows:
    """The i-th number of ``imagelabels.mat`` is the class (from 1) of ``image_<i>.jpg``. The
    official ``setid.mat`` is not used, as published.
    """
    names = json_of(files[1])
    labels = labels_of(files[0])
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise ValueError(f"{files[1]} must be an object that gives each class number a name")
    if unnamed := sorted({n for n in labels if n < 1 or str(n) not in names}):
        raise ValueError(f"{files[0]} has class {unnamed[0]}, {files[1]} does not name it")
    numbered = enumerate(labels, start=1)
    return {"all": [SplitRow(f"image_{i:05d}.jpg", n - 1, names[str(n)]) for i, n in numbered]}


def _fgvc_aircraft(files: Sequence[Path]) -> SplitRows:
    """Lines "0481847 Cessna 172": image number and variant. Labels are lines of
    ``variants.txt``.
    """
    labels = _numbered(files[0])

    def entry(where: str, line: str) -> SplitRow:
        number, _, variant = line.partition(" ")
        if variant not in labels:
            raise ValueError(f"{where}: variant {variant!r} is not in {files[0]}")
        return SplitRow(f"{number}.jpg", labels[variant], variant)

    return {
        part: [entry(*line) for line in lines_of(file)]
        for part, file in zip(("train", "val", "test"), files[1:], strict=True)
    }


def _sun397(files: Sequence[Path]) -> SplitRows:
    """Lines "/a/apartment_building/outdoor/sun_x.jpg"; labels are lines of ``ClassName.txt``, names
    the folders after the letter in reverse: "outdoor apartment_building".
    """
    labels = _numbered(files[0])

    def entry(where: str, line: str) -> SplitRow:
        folder = str(PurePosixPath(line).parent)
        if not line.startswith("/") or folder not in labels:
            raise ValueError(f"{where}: {line!r} is in no class of {files[0]}")
        return SplitRow(line[1:], labels[folder], " ".join(reversed(folder.split("/")[2:])))

    train, test = ([entry(*line) for line in lines_of(file)] for file in files[1:])
    return {"train": train, "test": test}


def _ucf101(files: Sequence[Path]) -> SplitRows:
    """Lines "TaiChi/v_TaiChi_g01_c01.avi", optionally followed by a number; the middle frame is
    "Tai_Chi/v_TaiChi_g01_c01.jpg". Folder and class name are the action cut before each capital.
    """
    labels = {}
    for where, line in lines_of(files[0]):
        number, _, action = line.partition(" ")
        if not number.isdecimal() or number == "0" or not action or action in labels:
            raise ValueError(f"{where} must be a number from 1 and a new action, got {line!r}")
        labels[action] = int(number) - 1

    def entry(where: str, line: str) -> SplitRow:
        action, _, clip = line.split(" ")[0].partition("/")
        if action not in labels or not clip.endswith(".avi"):
            raise ValueError(f"{where}: {line!r} is not a clip of an action in {files[0]}")
        name = "_".join(re.findall("[A-Z][^A-Z]*", action))
        return SplitRow(f"{name}/{clip.removesuffix('.avi')}.jpg", labels[action], name)

    train, test = ([entry(*line) for line in lines_of(file)] for file in files[1:])
    return {"train": train, "test": test}


def _numbered(file: Path) -> dict[str, int]:
    """The lines of a file of class names, numbered from 0. Raises ValueError for a repeated one."""
    labels: dict[str, int] = {}
    for where, line in lines_of(file):
        if line in labels:
            raise ValueError(f"{where}: class {line!r} is there twice; keep one")
        labels[line] = len(labels)
    return labels


_READERS: dict[str, Callable[[Sequence[Path]], SplitRows]] = {
    "oxford_pets": _oxford_pets,
    "stanford_cars": _stanford_cars,
    "oxford_flowers": _oxford_flowers,
    "fgvc_aircraft": _fgvc_aircraft,
    "sun397": _sun397,
    "ucf101": _ucf101,
}
