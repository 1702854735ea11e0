"""Where the cached features of a training are, and how those of a batch are read."""

from collections.abc import Iterable

import torch
from torch import Tensor

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
