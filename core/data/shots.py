"""The exact images of a run: written with each run, read back, and read from other projects.

``write_shots`` writes our own form, one JSON object:

    {"format": "refinelab shots 1", "dataset": NAME, "train": [[path, label], ...],
     "val": [[path, label], ...] or "test", "train_sha256": ..., "val_sha256": ...}

Paths are relative to the data root; the hashes are those of ``core.data.item_hashes``; ``val`` is
the word "test" where the validation list is the test list. ``with_shots`` replaces the images of a
dataset by those of such a file, or of another project's (``core.data.foreign_shots``).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.data.dataset import Dataset, Item
from core.data.foreign_shots import Shot, Shots, read_foreign_shots, shots_of_pairs
from core.data.item_hashes import ItemRow, hash_rows, item_rows
from core.store.atomic import write_atomic

FORMAT = "refinelab shots 1"


def write_shots(path: Path, dataset: Dataset) -> str:
    """Write the train and val items of a dataset, after its few-shot draw and before a class
    subset; gives the sha256 of the training list.
    """
    train, val = item_rows(dataset, dataset.train), item_rows(dataset, dataset.val)
    tested = dataset.val == dataset.test and bool(dataset.val)
    digest = hash_rows(train)
    values = {
        "format": json.dumps(FORMAT),
        "dataset": json.dumps(dataset.name),
        "train": _one_a_line(train),
        "val": json.dumps("test") if tested else _one_a_line(val),
        "train_sha256": json.dumps(digest),
        "val_sha256": json.dumps(hash_rows(val)),
    }
    body = ",\n".join(f'"{key}": {value}' for key, value in values.items())
    write_atomic(path, f"{{\n{body}\n}}\n")
    return digest


def with_shots(dataset: Dataset, path: Path) -> Dataset:
    """The dataset with the train and val images that a file names; test is untouched.

    ``path`` is a file of ``write_shots`` (.json), a few-shot pickle of CoOp and other Dassl code
    (.pkl), one JSON object per line as 2SFS publishes its splits (.jsonl), or a plain list (.txt).
    Images are found by their relative path, whatever stands before it in the file. Labels are those
    of the whole dataset, so apply this before a class subset. Where the file names no validation
    images, val is empty, or the test list where it was that.

    Raises ValueError, one line, for a file that cannot be read or was changed, and for an image
    that is not in the dataset, has another label, is listed twice or is a test image; also when a
    class has no training image, since the base and new halves follow from those present.
    """
    if dataset.test_only:
        raise ValueError(f"{dataset.name} is a test set, it takes no shots; name a set that trains")
    shots = read_shots(path)
    finder = _Finder(dataset, path)
    train = finder.find(shots.train, "train")
    tested = bool(dataset.val) and dataset.val == dataset.test
    val = dataset.val if tested else finder.find(shots.val, "val")
    absent = sorted(set(range(len(dataset.class_names))) - {item.label for item in train})
    if absent:
        raise ValueError(
            f"shots file {path}: {len(absent)} of {len(dataset.class_names)} classes of "
            f"{dataset.name} have no training image, first {dataset.class_names[absent[0]]!r}; "
            "every class needs one"
        )
    drawn = dataset.with_splits(train=train, val=val)
    _require_hashes(shots, drawn, path)
    return drawn


def read_shots(path: Path) -> Shots:
    """The images that a file names. Raises ValueError for a file that cannot be read."""
    if path.suffix != ".json":
        return read_foreign_shots(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"shots file {path} cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(
            f'shots file {path} must be a JSON object with "format": "{FORMAT}"; lists of other '
            "projects are .pkl, .jsonl or .txt"
        )
    hashes = {part: document.get(f"{part}_sha256") for part in ("train", "val")}
    return Shots(
        train=_pairs(document, "train", path),
        val=() if document.get("val") == "test" else _pairs(document, "val", path),
        sha256={part: value for part, value in hashes.items() if isinstance(value, str)},
    )


def _one_a_line(listing: Sequence[ItemRow]) -> str:
    lines = ",\n".join(json.dumps([path, label]) for path, label, _ in listing)
    return f"[\n{lines}\n]"


def _pairs(document: Mapping[str, Any], part: str, path: Path) -> tuple[Shot, ...]:
    return shots_of_pairs(document.get(part), f"shots file {path}: {part}")


class _Finder:
    """Finds a dataset's own items by the paths of other people's disks."""

    def __init__(self, dataset: Dataset, path: Path) -> None:
        self._dataset = dataset
        self._path = path
        self._tested = {i.path for i in dataset.test}
        self._labels = {
            i.path: i.label for i in (*dataset.train, *dataset.val) if i.path not in self._tested
        }
        self._used: dict[str, str] = {}

    def find(self, shots: Iterable[Shot], part: str) -> list[Item]:
        """The items of one part of the file, in its order."""
        return [self._item(shot, f"{part}[{n}]") for n, shot in enumerate(shots)]

    def _item(self, shot: Shot, where: str) -> Item:
        place = f"shots file {self._path}: {where}: {shot.path!r}"
        path = self._own_path(shot.path, self._labels)
        if path is None:
            if self._own_path(shot.path, self._tested) is not None:
                raise ValueError(
                    f"{place} is a test image of {self._dataset.name} here; the file belongs to "
                    "another split"
                )
            raise ValueError(f"{place} is not an image of {self._dataset.name}; use the same split")
        label = self._labels[path]
        if shot.label is not None and shot.label != label:
            raise ValueError(
                f"{place} has label {shot.label}, in {self._dataset.name} it is {label} "
                f"({self._dataset.class_names[label]!r}); the label order differs"
            )
        if path in self._used:
            raise ValueError(f"{place} is also {self._used[path]}; list an image once")
        self._used[path] = where
        return Item(path, label)

    @staticmethod
    def _own_path(given: str, known: Mapping[str, int] | set[str]) -> str | None:
        """The longest end of a path that is an item's path."""
        parts = given.replace("\\", "/").split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((end for end in ends if end in known), None)


def _require_hashes(shots: Shots, drawn: Dataset, path: Path) -> None:
    """The hashes are over the paths of the file, so a dataset may have moved since."""
    parts = {"train": (shots.train, drawn.train), "val": (shots.val, drawn.val)}
    for part, expected in shots.sha256.items():
        listed, items = parts[part]
        found = item_rows(drawn, items)
        if listed:
            own = zip(listed, found, strict=True)
            found = [(shot.path, label, name) for shot, (_, label, name) in own]
        if hash_rows(found) != expected:
            raise ValueError(
                f"shots file {path}: the {part} list is not the one that was written (sha256 "
                f"differs); it was edited, or {drawn.name} has other class names now"
            )
