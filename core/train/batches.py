"""Batches of a run: for a given seed, the same images in the same order for every variant.

Order, views and augmentation come from separate random streams, so that neither the method nor the
refiner can affect them.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from core.clip.features import FeatureStore, view_seed
from core.clip.frozen import FrozenCLIP
from core.clip.image_towers import POOLED
from core.data.crops import CropCache
from core.data.dataset import Dataset, Item
from core.data.pixels import PixelsAhead
from core.data.transforms import (
    CROP_SCALE,
    EvalTransform,
    TrainTransform,
    Transform,
    Views,
    cache_key,
)
from core.derived_seeds import derive_seed
from core.lockstep import ALONE, Alone
from core.seeding import Seeds
from core.types import NO_FROZEN_USE, Batch, FrozenUse, ImageFeatures


class TestViews(NamedTuple):
    """How many random views evaluation batches carry, and the random streams that draw them."""

    number: int
    seeds: Seeds


NO_VIEWS = TestViews(0, Seeds(0))
AHEAD_BYTES = 64 * 2**20  # larger evaluation batches are not decoded ahead of time


class ImageSource(ABC):
    """The source of the images of batches: cached frozen features, or pixels."""

    @abstractmethod
    def training(
        self,
        dataset: Dataset,
        *,
        need: frozenset[str],
        num_views: int,
        batch_size: int,
        drop_last: bool = True,
        views_per_image: int = 1,
        reads_frozen: frozenset[FrozenUse] = NO_FROZEN_USE,
        fixed_views: bool = False,
    ) -> "TrainingBatches":
        """Batches of the training images, with ``views_per_image - 1`` further views of each.

        ``reads_frozen`` says where frozen features come beside pixels (``Method.reads_frozen``);
        ``fixed_views`` that also pixels are of ``num_views`` fixed views instead of new ones.
        """

    @abstractmethod
    def evaluation(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        batch_size: int,
        *,
        order: Sequence[int] | None = None,
        test_views: TestViews = NO_VIEWS,
        reads_frozen: frozenset[FrozenUse] = NO_FROZEN_USE,
    ) -> Iterator[Batch]:
        """The items in ``order``, or their own; each batch with their positions as ``index``."""


class TrainingBatches(ABC):
    """Batches of each epoch. With ``drop_last`` a short last batch is dropped unless it is the only
    one, as published; without it every epoch has every image, as in SEP's loader.
    """

    def __init__(
        self, labels: Tensor, batch_size: int, device: torch.device, *, drop_last: bool = True
    ) -> None:
        self.labels = labels.to(device)
        self.batch_size = batch_size
        self.device = device
        self.drop_last = drop_last

    share: Alone = ALONE

    def __len__(self) -> int:
        full, rest = divmod(len(self.labels), self.batch_size)
        return max(full if self.drop_last else full + bool(rest), 1)

    def epoch(self, epoch: int, seeds: Seeds) -> Iterator[Batch]:
        """Batches of epoch ``epoch``; the order depends on the seed and the epoch alone."""
        order = torch.randperm(len(self.labels), generator=seeds.generator("order", epoch))
        for step in range(len(self)):
            yield self.take(order[step * self.batch_size :][: self.batch_size], epoch, seeds)

    def every_image(self, seeds: Seeds) -> Iterator[Batch]:
        """The batches of epoch 0, followed by the images that the epoch drops."""
        yield from self.epoch(0, seeds)
        order = torch.randperm(len(self.labels), generator=seeds.generator("order", 0))
        if len(dropped := order[len(self) * self.batch_size :]):
            yield self.take(dropped, 0, seeds)

    @abstractmethod
    def take(self, index: Tensor, epoch: int, seeds: Seeds) -> Batch: ...


class FeatureSource(ImageSource):
    """Frozen features from the shared store; training may use several fixed augmented views."""

    def __init__(self, store: FeatureStore, device: torch.device, dtype: torch.dtype) -> None:
        self.store, self.device, self.dtype = store, device, dtype

    def training(
        self,
        dataset: Dataset,
        *,
        need: frozenset[str],
        num_views: int,
        batch_size: int,
        drop_last: bool = True,
        views_per_image: int = 1,
        reads_frozen: frozenset[FrozenUse] = NO_FROZEN_USE,
        fixed_views: bool = False,
    ) -> TrainingBatches:
        views = range(num_views) if num_views else (None,)
        features = [
            self.store.get(dataset, dataset.train, fields=need, view=view).to(
                self.device, self.dtype
            )
            for view in views
        ]
        return FeatureBatches(
            features,
            _labels(dataset.train),
            batch_size,
            self.device,
            need,
            drop_last=drop_last,
            views_per_image=views_per_image,
        )

    def evaluation(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        batch_size: int,
        *,
        order: Sequence[int] | None = None,
        test_views: TestViews = NO_VIEWS,
        reads_frozen: frozenset[FrozenUse] = NO_FROZEN_USE,
    ) -> Iterator[Batch]:
        if test_views.number:
            raise ValueError("random views of test images need pixels: set image_input = 'pixels'")
        features = self.store.get(dataset, items, fields=POOLED, view=None)
        labels = _labels(items)
        for index in _indices(len(items), order).split(batch_size):
            chunk = features[index].to(self.device, self.dtype)
            on_device = _sent(index, self.device)
            known = _sent(labels[index], self.device)
            positions = tuple(index.tolist())
            yield Batch(labels=known, features=chunk, index=on_device, positions=positions)


class FeatureBatches(TrainingBatches):
    """Rows of cached features; with several views, each image uses a random one per epoch, and its
    further views in a batch are the next ones. ``every_image`` comes with all of them.
    """

    def __init__(
        self,
        views: Sequence[ImageFeatures],
        labels: Tensor,
        batch_size: int,
        device: torch.device,
        need: frozenset[str],
        *,
        drop_last: bool = True,
        views_per_image: int = 1,
    ) -> None:
        super().__init__(labels, batch_size, device, drop_last=drop_last)
        self.need = need
        self.views_per_image = views_per_image
        self.num_images = len(labels)
        self.num_views = len(views)
        self.features = views[0] if len(views) == 1 else _stack(views)

    def every_image(self, seeds: Seeds) -> Iterator[Batch]:
        whole = copy(self)
        whole.views_per_image = max(self.views_per_image, self.num_views)
        return super(FeatureBatches, whole).every_image(seeds)

    def take(self, index: Tensor, epoch: int, seeds: Seeds) -> Batch:
        view = drawn_views(self.num_views, self.num_images, epoch, seeds)[index]
        first, *others = (
            self._rows(index, (view + n) % self.num_views) for n in range(self.views_per_image)
        )
        return replace(first, views=tuple(others))

    def _rows(self, index: Tensor, view: Tensor) -> Batch:
        """One view of each of these images."""
        row = _sent(view * self.num_images + index, self.device)
        positions = tuple(index.tolist())
        index = _sent(index, self.device)
        return Batch(
            labels=self.labels[index],
            features=self.features[row],
            need=self.need,
            index=index,
            positions=positions,
        )


class FrozenPasses:
    """The frozen tower over batches of pixels, without gradient and in the precision of a run.

    ``autocast`` makes the context of the run's mixed precision. With a ``store``, which computes in
    float32, images whose view is fixed are encoded once for all runs.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        *,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        store: FeatureStore | None = None,
    ) -> None:
        self.clip, self.autocast, self.store = clip, autocast, store

    def unrounded(self) -> "FrozenPasses":
        """The same outside mixed precision."""
        return FrozenPasses(self.clip, store=self.store)

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
        found = [self.store.get(dataset, items, fields=POOLED, view=view) for view in views]
        return found[0] if len(found) == 1 else _stack(found)


class PixelSource(ImageSource):
    """Normalized pixels, newly augmented in every epoch, for methods that change the image tower.

    ``crop_scale`` bounds the fraction of the area that an augmented crop covers; ``augmentation``
    replaces the published crop and flip. ``frozen`` makes the features that some of these methods
    read beside pixels, by default in float32 and in every step. ``crops`` keeps decoded images
    whose view is fixed. What is made in a training step, pixels and features, is made once for all
    runs of ``share``.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        device: torch.device,
        dtype: torch.dtype,
        *,
        crop_scale: tuple[float, float] = CROP_SCALE,
        augmentation: Transform | None = None,
        frozen: FrozenPasses | None = None,
        crops: CropCache | None = None,
        share: Alone = ALONE,
    ) -> None:
        self.clip, self.device, self.dtype, self.share = clip, device, dtype, share
        self.augmentation: Transform = augmentation or TrainTransform(clip.spec, crop_scale)
        self.frozen = frozen or FrozenPasses(clip)
        self.crops = crops

    def training(
        self,
        dataset: Dataset,
        *,
        need: frozenset[str],
        num_views: int,
        batch_size: int,
        drop_last: bool = True,
        views_per_image: int = 1,
        reads_frozen: frozenset[FrozenUse] = NO_FROZEN_USE,
        fixed_views: bool = False,
    ) -> "PixelBatches":
        return PixelBatches(
            self,
            dataset,
            need,
            augment=num_views > 0,
            batch_size=batch_size,
            drop_last=drop_last,
            views_per_image=views_per_image,
            reads_frozen=reads_frozen,
            fixed=num_views if fixed_views else 0,
        )

    def evaluation(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        batch_size: int,
        *,
        order: Sequence[int] | None = None,
        test_views: TestViews = NO_VIEWS,
        reads_frozen: frozenset[FrozenUse] = NO_FROZEN_USE,
    ) -> Iterator[Batch]:
        plain: Transform = EvalTransform(self.clip.spec)
        views = Views([plain, *[self.augmentation] * test_views.number])
        if not test_views.number:  # further views are of the whole image
            dataset = self.holding(dataset, items)
        reads = "evaluation" in reads_frozen
        known = self.frozen.fixed(dataset, items) if reads else None
        seed = test_views.seeds.seed

        def decode(index: Tensor) -> PixelsAhead:
            chunk = [items[i] for i in index.tolist()]
            draws = [derive_seed(seed, "test view", item.path) for item in chunk]
            return PixelsAhead(dataset, chunk, views, seeds=draws)

        labels = _labels(items)
        image_bytes = 12 * math.prod(self.clip.spec.image_size) * (1 + test_views.number)
        ahead = batch_size * image_bytes <= AHEAD_BYTES
        indices = _indices(len(items), order).split(batch_size)
        for index, decoded in _decoded(indices, decode, ahead=ahead):
            batch = self.batch(self.sent(decoded.wait()), labels[index], index, POOLED)
            rows = None if known is None else known[index].to(self.device, self.dtype)
            yield self.frozen.beside(batch, rows) if reads else batch

    def holding(self, dataset: Dataset, items: Sequence[Item]) -> Dataset:
        """The dataset with the evaluation crops of these images in the cache, if there is one."""
        return dataset if self.crops is None else self.crops.holding(dataset, items)

    def sent(self, pixels_BVCHW: Tensor) -> tuple[Tensor, ...]:
        """Each view of the images (B, C, H, W), on the device."""
        pixels = _sent(pixels_BVCHW, self.device, self.dtype).unbind(dim=1)
        return tuple(view.contiguous() for view in pixels)

    def batch(
        self, views: Sequence[Tensor], labels_B: Tensor, index_B: Tensor, need: frozenset[str]
    ) -> Batch:
        """A batch of the first view of each image, with the others as its views."""
        labels, index = _sent(labels_B, self.device), _sent(index_B, self.device)
        positions = tuple(index_B.tolist())
        first, *others = (
            Batch(labels=labels, pixels=view, need=need, index=index, positions=positions)
            for view in views
        )
        return replace(first, views=tuple(others))


class FreshViewSource(FeatureSource):
    """Trains on views that are newly augmented in every epoch, evaluates on cached features.

    For methods that leave the image tower alone and could train on cached features: as published,
    at the cost of encoding every image in every step. The source encodes, so that such a method
    gets features here as well, and whoever trains several side by side encodes a batch once.
    """

    def __init__(self, store: FeatureStore, pixels: PixelSource) -> None:
        super().__init__(store, pixels.device, pixels.dtype)
        self.pixels = pixels

    def training(
        self,
        dataset: Dataset,
        *,
        need: frozenset[str],
        num_views: int,
        batch_size: int,
        drop_last: bool = True,
        views_per_image: int = 1,
        reads_frozen: frozenset[FrozenUse] = NO_FROZEN_USE,
        fixed_views: bool = False,
    ) -> TrainingBatches:
        return EncodedBatches(
            self.pixels.training(
                dataset,
                need=need,
                num_views=num_views,
                batch_size=batch_size,
                drop_last=drop_last,
                views_per_image=views_per_image,
            )
        )


class PixelBatches(TrainingBatches):
    """Decodes the images of a batch, and the next one while a step runs.

    Augmented views are new ones in every epoch, or with ``fixed`` one of so many fixed views, those
    of the feature cache, drawn as ``FeatureBatches`` draws them.
    """

    def __init__(
        self,
        source: PixelSource,
        dataset: Dataset,
        need: frozenset[str],
        *,
        augment: bool,
        batch_size: int,
        drop_last: bool = True,
        views_per_image: int = 1,
        reads_frozen: frozenset[FrozenUse] = NO_FROZEN_USE,
        fixed: int = 0,
    ) -> None:
        super().__init__(_labels(dataset.train), batch_size, source.device, drop_last=drop_last)
        self.source, self.need, self.share = source, need, source.share
        self.dataset = dataset if augment else source.holding(dataset, dataset.train)
        self.view: Transform = source.augmentation if augment else EvalTransform(source.clip.spec)
        self.fixed = fixed
        self.views_per_image = views_per_image
        self.label_N = _labels(dataset.train)  # on the host
        self.made_by = (
            dataset.name,
            dataset.content,
            cache_key(self.view),
            views_per_image,
            fixed > 0,
            source.device,
            source.dtype,
        )
        self.reads_frozen = reads_frozen
        known = None
        if reads_frozen & {"training", "views"} and (fixed or not augment):
            views = range(fixed) if fixed else (None,)
            known = source.frozen.fixed(self.dataset, dataset.train, views)
        self.known = None if known is None else known.to(source.device, source.dtype)

    def every_image(self, seeds: Seeds) -> Iterator[Batch]:
        """What is learned before the first step is computed outside mixed precision."""
        whole = copy(self)
        whole.share = ALONE  # it is no step at which the others stand
        whole.source = copy(self.source)
        whole.source.frozen = self.source.frozen.unrounded()
        return super(PixelBatches, whole).every_image(seeds)

    def epoch(self, epoch: int, seeds: Seeds) -> Iterator[Batch]:
        order = torch.randperm(len(self.labels), generator=seeds.generator("order", epoch))
        indices = order.split(self.batch_size)[: len(self)]
        decode = partial(self._decode, epoch=epoch, seeds=seeds)
        cancel = self.share.size == 1  # companions may need what this run does not
        for index, decoded in _decoded(indices, decode, cancel=cancel):
            yield self._made(index, decoded, self._first_view(index, epoch, seeds))

    def take(self, index: Tensor, epoch: int, seeds: Seeds) -> Batch:
        decoded = self._decode(index, epoch, seeds)
        return self._made(index, decoded, self._first_view(index, epoch, seeds))

    def _first_view(self, index: Tensor, epoch: int, seeds: Seeds) -> Tensor:
        """Which of the fixed views (B,) these images have in an epoch; 0 without any."""
        return drawn_views(self.fixed, len(self.labels), epoch, seeds)[index]

    def _decode(self, index: Tensor, epoch: int, seeds: Seeds) -> PixelsAhead:
        """The views of each image: (B, V, 3, H, W), or (V B, 1, 3, H, W) where they are fixed."""
        items = [self.dataset.train[i] for i in index.tolist()]
        if self.fixed:
            first, views = self._first_view(index, epoch, seeds), Views([self.view])
            numbers = [(first + n) % self.fixed for n in range(self.views_per_image)]
            items = items * self.views_per_image
            drawn = torch.cat(numbers).tolist()
            draws = [view_seed(item.path, n) for item, n in zip(items, drawn, strict=True)]
        else:
            views = Views([self.view] * self.views_per_image)
            draws = [derive_seed(seeds.seed, "augment", epoch, item.path) for item in items]
        images = (*self.made_by, tuple(item.path for item in items), tuple(draws))
        return self.share.ahead(
            images, lambda: PixelsAhead(self.dataset, items, views, seeds=draws, key=images)
        )

    def _made(self, index: Tensor, decoded: PixelsAhead, first: Tensor) -> Batch:
        self.share.at(decoded.key)
        pixels = self.share.once("pixels", lambda: self.source.sent(self._by_image(decoded)))
        batch = self.source.batch(pixels, self.label_N[index], index, self.need)
        views = tuple(
            self._with_frozen(view, index, first + n, "views" if n else "training")
            for n, view in enumerate((batch, *batch.views))
        )
        return replace(views[0], views=views[1:])

    def _by_image(self, decoded: PixelsAhead) -> Tensor:
        """The views of each image: (B, V, 3, H, W)."""
        pixels = decoded.wait()
        if not self.fixed:
            return pixels
        return pixels.view(self.views_per_image, -1, *pixels.shape[2:]).transpose(0, 1)

    def _with_frozen(self, batch: Batch, index: Tensor, view: Tensor, use: FrozenUse) -> Batch:
        """One view of the images with its place among the fixed ones, and its frozen features where
        they are read.
        """
        row = view % max(self.fixed, 1) * len(self.labels) + index
        batch = replace(batch, positions=tuple(row.tolist()))
        if use not in self.reads_frozen:
            return batch
        known = None if self.known is None else self.known[_sent(row, self.device)]
        return self.source.frozen.beside(batch, known, self.share)


class EncodedBatches(TrainingBatches):
    """Batches of pixels with the frozen features that they need in place of the pixels."""

    def __init__(self, batches: PixelBatches) -> None:
        super().__init__(
            batches.labels, batches.batch_size, batches.device, drop_last=batches.drop_last
        )
        self.batches, self.share = batches, batches.share

    def every_image(self, seeds: Seeds) -> Iterator[Batch]:
        passes = self.batches.source.frozen.unrounded()
        yield from map(passes.instead, self.batches.every_image(seeds))

    def epoch(self, epoch: int, seeds: Seeds) -> Iterator[Batch]:
        for batch in self.batches.epoch(epoch, seeds):
            yield self.batches.source.frozen.instead(batch, self.share)

    def take(self, index: Tensor, epoch: int, seeds: Seeds) -> Batch:
        batch = self.batches.take(index, epoch, seeds)
        return self.batches.source.frozen.instead(batch, self.share)


def drawn_views(num_views: int, num_images: int, epoch: int, seeds: Seeds) -> Tensor:
    """Which of its fixed views each image has in an epoch: (N,) int64."""
    if num_views <= 1:
        return torch.zeros(num_images, dtype=torch.int64)
    return torch.randint(num_views, (num_images,), generator=seeds.generator("view", epoch))


def _decoded(
    indices: Sequence[Tensor],
    decode: Callable[[Tensor], PixelsAhead],
    *,
    ahead: bool = True,
    cancel: bool = True,
) -> Iterator[tuple[Tensor, PixelsAhead]]:
    """The pixels of each batch of images; the next one is decoded while one is in use."""
    waiting: deque[PixelsAhead] = deque()
    try:
        for place, index in enumerate(indices):
            begun = min(place + (2 if ahead else 1), len(indices))
            waiting += [decode(later) for later in indices[place + len(waiting) : begun]]
            yield index, waiting.popleft()
    finally:
        for batch in waiting if cancel else ():
            batch.cancel()


def _indices(number: int, order: Sequence[int] | None) -> Tensor:
    """Positions 0 to N - 1 in their order or another one: (N,) int64."""
    return torch.arange(number) if order is None else torch.tensor(order, dtype=torch.int64)


def _sent(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on a device. The host goes on at once: what it sends is never changed later."""
    return tensor.to(device, dtype or tensor.dtype, non_blocking=True)


def _labels(items: Sequence[Item]) -> Tensor:
    return torch.tensor([item.label for item in items], dtype=torch.int64)


def _stack(views: Sequence[ImageFeatures]) -> ImageFeatures:
    """Views concatenated along the image axis."""

    def join(name: str) -> Tensor | None:
        tensors = [getattr(view, name) for view in views]
        return None if tensors[0] is None else torch.cat(tensors)

    pooled = torch.cat([view.pooled for view in views])
    return ImageFeatures(pooled=pooled, local=join("local"), attention=join("attention"))
