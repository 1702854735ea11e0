"""What a search may see of a dataset: its base classes and their validation images only."""

from collections.abc import Set
from dataclasses import dataclass, replace

from PIL import Image

from core.data.dataset import Dataset, ImageReader
from core.data.splits import class_subset


@dataclass(frozen=True, slots=True)
class RestrictedReader:
    """Reads the images of allowed paths; raises ValueError for any other path."""

    reader: ImageReader
    paths: Set[str]

    def read(self, path: str) -> Image.Image:
        """The RGB image of a path."""
        if path not in self.paths:
            raise ValueError(f"{path!r} cannot be read here: it is withheld from the search")
        return self.reader.read(path)


def validation_only(dataset: Dataset) -> Dataset:
    """The base half of a dataset after its few-shot draw, tested on its validation images.

    The names of new classes are removed, and so are all test images; the reader refuses everything
    but training and validation images of base classes. Anything built from the result, including
    pseudo-new halves, cannot leak the data on which the winner of a search is evaluated.

    Raises ValueError for a dataset without validation images of its own.
    """
    tested = {item.path for item in dataset.test}
    if dataset.test_only or any(item.path in tested for item in (*dataset.train, *dataset.val)):
        raise ValueError(
            f"{dataset.name} has no validation images of its own: they are its test images, which "
            "a search must not see; use other datasets for the search"
        )
    base = class_subset(dataset, "base")
    if not base.val:
        raise ValueError(
            f"{dataset.name} has no validation images, and a search selects by them; use a split "
            "with a val part"
        )
    paths = frozenset(item.path for item in (*base.train, *base.val))
    return replace(base, test=base.val, reader=RestrictedReader(dataset.reader, paths))
