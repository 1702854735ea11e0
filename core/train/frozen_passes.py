"""What the frozen image tower gives for the pixels of batches."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch

from core.clip.features import FeatureStore
from core.clip.frozen import FrozenCLIP
from core.clip.image_towers import POOLED
from core.data.dataset import Dataset, Item
from core.lockstep import ALONE, Alone
from core.train.feeding import stacked
from core.types import Batch, ImageFeatures


class FrozenPasses:
    """The frozen tower over batches of pixels, without gradient and in the precision of a run.

    ``autocast`` makes the context of the run's mixed precision. With a ``store``, which computes in
    float32, images whose view is fixed are encoded once for all runs. ``whole`` computes what must
    not be rounded, by default the same tower.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        *,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        store: FeatureStore | None = None,
        whole: FrozenCLIP | None = None,
    ) -> None:
        self.clip, self.autocast, self.store = clip, autocast, store
        self.whole = whole or clip

    def unrounded(self) -> "FrozenPasses":
        """The same outside mixed precision."""
        return FrozenPasses(self.whole, store=self.store)

    def encode(self, batch: Batch, share: Alone = ALONE) -> ImageFeatures:
        """The fields of the frozen features that a batch needs."""
        assert batch.pixels is not None
        with torch.no_grad(), self.autocast():
            return self.clip.encode_shared(batch.pixels, share, need=batch.need)

    def beside(self, batch: Batch, known: ImageFeatures | None, share: Alone = ALONE) -> Batch:
        """The batch with the pooled frozen features of its pixels: those known, or computed."""
        return replace(batch, features=known or self.encode(replace(batch, need=POOLED), share))

    def instead(self, batch: Batch, share: Alone = ALONE) -> Batch:
        """The batch and its views with the frozen features that they need in place of pixels."""
        views = tuple(self.instead(view, share) for view in batch.views)
        return replace(batch, features=self.encode(batch, share), pixels=None, views=views)

    def fixed(
        self, dataset: Dataset, items: Sequence[Item], views: Sequence[int | None] = (None,)
    ) -> ImageFeatures | None:
        """The stored pooled features of some views, one after the other: the evaluation view, or
        fixed augmented ones by their number. None without a store.
        """
        if self.store is None:
            return None
        found = (self.store.get(dataset, items, fields=POOLED, view=view) for view in views)
        return stacked(found, len(views))
