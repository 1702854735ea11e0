"""Datasets: class names, a prompt template, and three lists of items with a reader."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from PIL import Image

from core.data.reading import DataReading

SplitName = Literal["train", "val", "test"]
ClassSubset = Literal["all", "base", "new"]


@dataclass(frozen=True, slots=True)
class Item:
    """One labeled image. ``path`` is relative to the dataset and is the item's identity."""

    path: str
    label: int


class ImageReader(Protocol):
    """Turns an item's path into an RGB image; must be picklable (it travels to worker
    processes).
    """

    def read(self, path: str) -> Image.Image: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset as lists of items. ``class_names[label]`` is the class; a split may be empty.

    ``content`` fingerprints the images themselves where that is cheap (renderer version, file
    sizes); it enters ``fingerprint`` together with the listing, and the key of cached features. For
    a dataset of a plug-in, the hash of the code that reads it is added. Item paths are relative to
    ``folder``, which is relative to the data root and is used for listings only. For a
    ``test_only`` set, ``train`` is the test list: few-shot draws and class subsets leave it
    unchanged. ``reading`` says how the data on disk were recognized; it is no part of them.
    """

    name: str
    class_names: tuple[str, ...]
    template: str
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    reader: ImageReader
    content: str = ""
    folder: str = ""
    test_only: bool = False
    reading: DataReading | None = field(default=None, compare=False)

    def split(self, name: SplitName) -> tuple[Item, ...]:
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def with_splits(self, *, train: Sequence[Item], val: Sequence[Item]) -> "Dataset":
        """The same dataset with other training and validation items."""
        return replace(self, train=tuple(train), val=tuple(val))

    @property
    def fingerprint(self) -> str:
        """sha256 (16 hex digits) of the class names, the three listings and ``content``."""
        listing = [
            self.content,
            self.class_names,
            *(
                [[item.path, item.label] for item in self.split(name)]
                for name in ("train", "val", "test")
            ),
        ]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]

    @property
    def test_fingerprint(self) -> str:
        """The same hash over the class names, the ordered test list and ``content`` alone: the test
        questions, independent of training.
        """
        asked = [self.content, self.class_names, [[item.path, item.label] for item in self.test]]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
