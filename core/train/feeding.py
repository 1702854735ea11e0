"""Where the cached features of a run are, and how those of a batch are read."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.data.dataset import Dataset, Item
from core.devices import sent, stays_on
from core.types import ImageFeatures


class FeatureRows:
    """Rows of cached features (N, ...), read by their positions: on the device where they stay, or
    else from the host, batch by batch. Rows come in ``dtype``, whatever they are stored as.
    """

    def __init__(self, features: ImageFeatures, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.on_device = stays_on(device, features.nbytes)
        self.features = features.each(lambda rows: rows.to(device)) if self.on_device else features

    def take(self, on_host: Tensor, on_device: Tensor) -> ImageFeatures:
        """The rows at these positions, given on both sides."""
        if self.on_device:
            return self.features[on_device].each(lambda rows: rows.to(self.dtype))
        return self.features[on_host].each(lambda rows: sent(rows, self.device, self.dtype))


class ScoredImages(NamedTuple):
    """The labels (N,) of images to score, on the device, and their cached features, if any."""

    labels_N: Tensor
    rows: FeatureRows | None


class LastScored:
    """The images that were scored last: on a GPU they stay there if they fit, since a run that
    chooses among its epochs scores the same ones after each of them.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._kept: tuple[object, ScoredImages] | None = None

    def of(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        find: Callable[[], ImageFeatures | None] | None,
    ) -> ScoredImages:
        """Images of a dataset; ``find`` is asked for the features of those that are not there, if
        they are needed at all.
        """
        asked = (dataset.name, dataset.content, tuple(items), find is None)
        if self._kept is not None and self._kept[0] == asked:
            return self._kept[1]
        self._kept = None  # what is not scored again makes room
        features = None if find is None else find()
        rows = None if features is None else FeatureRows(features, self.device, self.dtype)
        scored = ScoredImages(sent(labels_of(items), self.device), rows)
        if self.device.type != "cpu" and (rows is None or rows.on_device):
            self._kept = asked, scored
        return scored


def labels_of(items: Sequence[Item]) -> Tensor:
    """The labels (N,) of images, int64."""
    return torch.tensor([item.label for item in items], dtype=torch.int64)


def stacked(views: Iterable[ImageFeatures], number: int) -> ImageFeatures:
    """A number of views of the same images, one after the other (V N, ...). Beside the result there
    is never more than one of them in memory.
    """
    for place, view in enumerate(views):
        if number == 1:
            return view
        if not place:
            joined = view.each(lambda field: field.new_empty(number, *field.shape))
        for name in ("pooled", "local", "attention"):
            if (field := getattr(view, name)) is not None:
                getattr(joined, name)[place] = field
    return joined.each(lambda field: field.flatten(0, 1))
