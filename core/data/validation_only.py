"""What a search may see of a dataset: its base classes and their validation images, no more."""

from collections.abc import Set
from dataclasses import dataclass, replace

from PIL import Image

from core.data.dataset import Dataset, ImageReader
from core.data.splits import class_subset


@dataclass(frozen=True, slots=True)
class RestrictedReader:
    """Reads the images of some paths; raises ValueError for every other one."""

    reader: ImageReader
    paths: Set[str]

    def read(self, path: str) -> Image.Image:
        """The RGB image of a path."""
        if path not in self.paths:
            raise ValueError(f"{path!r} cannot be read here: it is held out of the search")
        return self.reader.read(path)


def validation_only(dataset: Dataset) -> Dataset:
    """The base half of a dataset after its few-shot draw, tested on its validation images.

    The names of new classes are gone, and so are all test images; the reader refuses what is not a
    training or validation image of a base class. Whatever is built from the result, pseudo-new
    halves included, cannot leak what the winner of a search is evaluated on.

    Raises ValueError for a dataset without validation images of its own.
    """
    tested = {item.path for item in dataset.test}
    if dataset.test_only or any(item.path in tested for item in (*dataset.train, *dataset.val)):
        raise ValueError(
            f"{dataset.name} has no validation images of its own: they are its test images, which "
            "a search must not see; search on other datasets"
        )
    base = class_subset(dataset, "base")
    if not base.val:
        raise ValueError(
            f"{dataset.name} has no validation images, and a search selects by them; use a split "
            "with a val part"
        )
    paths = frozenset(item.path for item in (*base.train, *base.val))
    return replace(base, test=base.val, reader=RestrictedReader(dataset.reader, paths))
