"""The few-shot images of a run: written with each run, read back, and read from other projects.

``write_shots`` writes the suite's own format (``core.store.shots``); ``with_shots`` replaces the
images of a dataset by those of such a file, or of another project's file
(``core.data.foreign_shots``). Paths are relative to the data root.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from core.data.dataset import Dataset, Item
from core.data.foreign_shots import read_foreign_shots
from core.data.item_hashes import hash_rows, item_rows
from core.store.shots import Shot, Shots, read_shot_file, write_shot_file


def write_shots(path: Path, dataset: Dataset) -> str:
    """Write the train and val items of a dataset, after its few-shot draw and before a class
    subset; returns the sha256 of the training list.
    """
    train, val = item_rows(dataset, dataset.train), item_rows(dataset, dataset.val)
    tested = dataset.val == dataset.test and bool(dataset.val)
    hashes = {"train": hash_rows(train), "val": hash_rows(val)}
    write_shot_file(
        path,
        dataset.name,
        train=[row[:2] for row in train],
        val=None if tested else [row[:2] for row in val],
        hashes=hashes,
    )
    return hashes["train"]


def with_shots(dataset: Dataset, path: Path) -> Dataset:
    """The dataset with the train and val images that a file names; test is unchanged.

    ``path`` is a file of ``write_shots`` (.json), a few-shot pickle of CoOp and other Dassl code
    (.pkl), one JSON object per line as 2SFS publishes its splits (.jsonl), or a plain list (.txt).
    Images are matched by their relative path, regardless of any prefix in the file. Labels are
    those of the whole dataset, so apply this before a class subset. If the file names no validation
    images, val is empty, or remains the test list if it was that.

    Raises ValueError, one line, for a file that cannot be read or was modified, and for an image
    that is not in the dataset, has a different label, is listed twice or is a test image; also if a
    class has no training image, since the base and new halves are derived from the classes present.
    """
    if dataset.test_only:
        raise ValueError(
            f"{dataset.name} is a test set and takes no shots; use a dataset with training images"
        )
    shots = read_shot_file(path) if path.suffix == ".json" else read_foreign_shots(path)
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


class _Finder:
    """Finds a dataset's items by paths from other machines."""

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
                f"{place} has label {shot.label}, but in {self._dataset.name} it is {label} "
                f"({self._dataset.class_names[label]!r}); the label order differs"
            )
        if path in self._used:
            raise ValueError(f"{place} is also {self._used[path]}; list an image once")
        self._used[path] = where
        return Item(path, label)

    @staticmethod
    def _own_path(given: str, known: Mapping[str, int] | set[str]) -> str | None:
        """The longest suffix of a path that is an item's path."""
        parts = given.replace("\\", "/").split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((end for end in ends if end in known), None)


def _require_hashes(shots: Shots, drawn: Dataset, path: Path) -> None:
    """The hashes cover the paths in the file, so the dataset may have been moved since."""
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
                f"differs); it was edited, or the class names of {drawn.name} have changed"
            )
