"""The split files ``split_zhou_<Name>.json`` of the published prompt-tuning data sets: reading and
writing.

One JSON object with keys ``train``, ``val``, ``test``, each a list of ``[path, label, class
name]``. The path uses ``/`` and is relative to the image folder. The order of the lists decides
few-shot draws and is kept. Format: K. Zhou et al., arXiv:2109.01134 (their released splits).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from core.data.dataset import Dataset, Item

PREFIX = "split_zhou_"
PARTS = ("train", "val", "test")

# Zero-shot templates the published code pairs with its split files, by <Name>.
TEMPLATES = {
    "Caltech101": "a photo of a {}.",
    "OxfordPets": "a photo of a {}, a type of pet.",
    "StanfordCars": "a photo of a {}.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "Food101": "a photo of {}, a type of food.",
    "SUN397": "a photo of a {}.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "UCF101": "a photo of a person doing {}.",
}
DEFAULT_TEMPLATE = "a photo of a {}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The contents of a split file: class names in label order and three lists of items."""

    class_names: tuple[str, ...]
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]

    def paths(self) -> list[str]:
        """Every listed path once, in file order."""
        return list(dict.fromkeys(i.path for i in (*self.train, *self.val, *self.test)))


def template_of(split_file: Path) -> str:
    """The published template for a split file's name, or the general one for an unknown name."""
    return TEMPLATES.get(split_file.stem.removeprefix(PREFIX), DEFAULT_TEMPLATE)


def read_split(path: Path) -> Split:
    """Read a split file. Class names are collected from all three lists, so a test-only class keeps
    its name.

    (The published code takes names from train only; a label without training images then shifts
    every later name.)

    Raises ValueError naming the file for broken JSON, a malformed entry, a path that leaves the
    image folder, a label with two names, or labels that are not 0..C-1.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"split file {path} cannot be read: {error}") from error
    if not isinstance(raw, dict) or any(not isinstance(raw.get(part), list) for part in PARTS):
        raise ValueError(f"split file {path} must be an object with lists train, val and test")
    names: dict[int, str] = {}
    lists = {
        part: tuple(
            _item(raw[part][n], names, f"{path}: {part}[{n}]") for n in range(len(raw[part]))
        )
        for part in PARTS
    }
    if not names:
        raise ValueError(f"split file {path} lists no images; train, val and test are all empty")
    if gaps := sorted(set(range(max(names))) - set(names)):
        raise ValueError(
            f"split file {path}: labels must be 0..{max(names)} without gaps, {gaps[0]} is missing"
        )
    return Split(class_names=tuple(names[n] for n in range(len(names))), **lists)


def _item(entry: Any, names: dict[int, str], where: str) -> Item:
    """One entry as an item; enters its class name into ``names``."""
    if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str)):
        raise ValueError(f"{where} must be [path, label, class name], got {entry!r}")
    path, label, name = entry
    if isinstance(label, str) and label.isascii() and label.isdigit():
        label = int(label)
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        raise ValueError(f"{where}: label must be an integer from 0, got {label!r}")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: class name must be a non-empty text, got {name!r}")
    if names.setdefault(label, name) != name:
        raise ValueError(f"{where}: label {label} is named {name!r} and {names[label]!r}; keep one")
    require_inside(path, where)
    return Item(path, label)


def require_inside(path: str, where: str) -> None:
    """Raises ValueError unless ``path`` is a relative ``/`` path that stays in its folder."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
        raise ValueError(
            f"{where}: path must be relative and stay in the image folder, got {path!r}"
        )


def split_text(dataset: Dataset) -> str:
    """A data set's listing in the exact text form of the published files (4 blanks, no final
    newline).
    """

    def rows(items: Sequence[Item]) -> list[list[str | int]]:
        return [[i.path, i.label, dataset.class_names[i.label]] for i in items]

    listing = {"train": rows(dataset.train), "val": rows(dataset.val), "test": rows(dataset.test)}
    return json.dumps(listing, indent=4, separators=(",", ": "))
