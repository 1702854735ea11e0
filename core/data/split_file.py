"""The split files ``split_zhou_<Name>.json`` of the published prompt-tuning datasets: reading and
writing.

One JSON object with keys ``train``, ``val``, ``test``, each a list of ``[path, label, class
name]``. The path uses ``/`` and is relative to the image folder. The order of the lists determines
few-shot draws and is kept. Format: K. Zhou et al., arXiv:2109.01134 (their released splits).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from core.data.benchmarks.definitions import BENCHMARKS, PLAIN_TEMPLATE
from core.data.dataset import Dataset, Item
from core.data.reading import name_problem
from core.store.documents import parse_json

PREFIX = "split_zhou_"
PARTS = ("train", "val", "test")


class SplitRow(NamedTuple):
    """One row of a split file."""

    path: str
    label: int
    class_name: str


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
    """The published template for a split file's name, or the generic one for an unknown name."""
    published = {row.split_file: row.template for row in BENCHMARKS.values()}
    return published.get(split_file.name, PLAIN_TEMPLATE)


def read_split(path: Path) -> Split:
    """Read a split file. Class names are collected from all three lists, so a test-only class keeps
    its name.

    (The published code takes names from train only; a label without training images then shifts
    every later name.)

    Raises ValueError naming the file for broken JSON, a malformed entry, a path that leaves the
    image folder, a label with two names, an image with two labels, or labels that are not 0..C-1.
    """
    try:
        # a file name that is not UTF-8 keeps its bytes
        raw = parse_json(path.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except (OSError, ValueError) as error:
        raise ValueError(f"split file {path} cannot be read: {error}") from error
    if not isinstance(raw, dict) or any(not isinstance(raw.get(part), list) for part in PARTS):
        raise ValueError(f"split file {path} must be an object with lists train, val and test")
    lists = {
        part: [_entry(raw[part][n], f"{path}: {part}[{n}]") for n in range(len(raw[part]))]
        for part in PARTS
    }
    return make_split(lists, f"split file {path}")


def make_split(lists: Mapping[str, Sequence[SplitRow]], where: str) -> Split:
    """Three lists of entries as a split. ``where`` names their source in an error.

    Raises ValueError for a label with two names, an image with two labels, or labels that are not
    0..C-1.
    """
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for part in PARTS:
        for n, (path, label, name) in enumerate(lists[part]):
            place = f"{where}: {part}[{n}]"
            if names.setdefault(label, name) != name:
                raise ValueError(
                    f"{place}: label {label} is named {name!r} and {names[label]!r}; keep one"
                )
            if labels.setdefault(path, label) != label:
                raise ValueError(
                    f"{place}: image {path} has the labels {labels[path]} and {label}; keep one"
                )
    if not names:
        raise ValueError(f"{where} lists no images; train, val and test are all empty")
    if gaps := sorted(set(range(max(names))) - set(names)):
        raise ValueError(
            f"{where}: labels must be 0..{max(names)} without gaps, {gaps[0]} is missing"
        )
    made = {id(rows): tuple(Item(e.path, e.label) for e in rows) for rows in lists.values()}
    items = {part: made[id(lists[part])] for part in PARTS}  # ImageNet's val and test are one list
    return Split(class_names=tuple(names[n] for n in range(len(names))), **items)


def _entry(entry: Any, where: str) -> SplitRow:
    """A row of the file, checked by itself."""
    if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str)):
        raise ValueError(f"{where} must be [path, label, class name], got {entry!r}")
    path, label, name = entry
    problem = ""
    if isinstance(label, str) and label.isascii() and label.isdigit():
        label = int(label)
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        raise ValueError(f"{where}: label must be an integer of at least 0, got {label!r}")
    if not isinstance(name, str) or not name or (problem := name_problem(name)):
        why = f"; it {problem}" if problem else ""
        raise ValueError(f"{where}: class name must be non-empty UTF-8 text, got {name!r}{why}")
    require_inside(path, where)
    return SplitRow(path, label, name)


def require_inside(path: str, where: str) -> None:
    """Raises ValueError unless ``path`` is a relative ``/`` path that stays in its folder."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
        raise ValueError(
            f"{where}: path must be relative and stay in the image folder, got {path!r}"
        )


def split_text(dataset: Dataset) -> str:
    """A dataset's listing in the exact text form of the published files (4 spaces, no final
    newline).
    """

    def rows(items: Sequence[Item]) -> list[list[str | int]]:
        return [[i.path, i.label, dataset.class_names[i.label]] for i in items]

    listing = {"train": rows(dataset.train), "val": rows(dataset.val), "test": rows(dataset.test)}
    return json.dumps(listing, indent=4, separators=(",", ": "))
