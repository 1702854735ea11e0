"""Batches of a run: for a given seed, the same images in the same order for every variant.

Order, views and augmentation come from separate random streams, so that neither the method nor the
refiner can affect them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
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
from core.data.pixels import PixelsAhead, decoded_ahead, num_begun
from core.data.transforms import (
    CROP_SCALE,
    EvalTransform,
    TrainTransform,
    Transform,
    Views,
    cache_key,
)
from core.derived_seeds import derive_seed
from core.devices import sent
from core.lockstep import ALONE, Alone
from core.seeding import Seeds
from core.train.feeding import FeatureRows, LastScored, labels_of, stacked
from core.train.frozen_passes import FrozenPasses
from core.types import NO_FROZEN_USE, Batch, FrozenUse, ImageFeatures


class TestViews(NamedTuple):
    """How many random views evaluation batches carry, and the random streams that draw them."""

    number: int
    seeds: Seeds


NO_VIEWS = TestViews(0, Seeds(0))


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

    @property
    def resident(self) -> bool:
        """Whether all that steps read of the images is on the device before an epoch begins."""
        return False

    def __len__(self) -> int:
        full, rest = divmod(len(self.labels), self.batch_size)
        return max(full if self.drop_last else full + bool(rest), 1)

    def order(self, epoch: int, seeds: Seeds) -> Tensor:
        """The images (N,) in the order of an epoch, which depends on it and the seed alone."""
        return torch.randperm(len(self.labels), generator=seeds.generator("order", epoch))

    def epoch(self, epoch: int, seeds: Seeds) -> Iterator[Batch]:
        """Batches of epoch ``epoch``."""
        return self.walk(self.index(epoch, seeds), epoch, seeds)

    def index(self, epoch: int, seeds: Seeds) -> Tensor:
        """The images that the batches of an epoch have, in their order."""
        return self.order(epoch, seeds)[: len(self) * self.batch_size]

    def begin(self, epoch: int, seeds: Seeds) -> None:
        """Start on the first batches of an epoch that comes next; it has the same batches."""
        return

    def every_image(self, seeds: Seeds) -> Iterator[Batch]:
        """The batches of epoch 0, followed by the images that the epoch drops."""
        yield from self.epoch(0, seeds)
        if len(dropped := self.order(0, seeds)[len(self) * self.batch_size :]):
            yield self.take(dropped, 0, seeds)

    def walk(self, index: Tensor, epoch: int, seeds: Seeds) -> Iterator[Batch]:
        """Batches of these images (M,), in their order, as they are in an epoch."""
        for some in index.split(self.batch_size):
            yield self.take(some, epoch, seeds)

    @abstractmethod
    def take(self, index: Tensor, epoch: int, seeds: Seeds) -> Batch:
        """These images as one batch."""


class WalkedBatches(TrainingBatches):
    """Batches for which something is done once for all of a walk."""

    @abstractmethod
    def walk(self, index: Tensor, epoch: int, seeds: Seeds) -> Iterator[Batch]: ...

    def take(self, index: Tensor, epoch: int, seeds: Seeds) -> Batch:
        whole = copy(self)
        whole.batch_size = len(index)
        return next(whole.walk(index, epoch, seeds))


class FeatureSource(ImageSource):
    """Frozen features from the shared store; training may use several fixed augmented views."""

    def __init__(self, store: FeatureStore, device: torch.device, dtype: torch.dtype) -> None:
        self.store, self.device, self.dtype = store, device, dtype
        self.scored = LastScored(device, dtype)

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
        found = (self.store.get(dataset, dataset.train, fields=need, view=v) for v in views)
        return FeatureBatches(
            stacked(found, len(views)),
            labels_of(dataset.train),
            batch_size,
            self.device,
            need,
            num_views=len(views),
            drop_last=drop_last,
            views_per_image=views_per_image,
            dtype=self.dtype,
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
        find = partial(self.store.get, dataset, items, fields=POOLED, view=None)
        labels, rows = self.scored.of(dataset, items, find)
        assert rows is not None
        indices = _indices(len(items), order)
        on_device = sent(indices, self.device).split(batch_size)
        for index, place in zip(indices.split(batch_size), on_device, strict=True):
            yield Batch(
                labels=labels[place],
                features=rows.take(index, place),
                index=place,
                positions=tuple(index.tolist()),
            )


class FeatureBatches(WalkedBatches):
    """Rows of cached features; with several views, each image uses a random one per epoch, and its
    further views in a batch are the next ones. ``every_image`` comes with all of them.
    """

    def __init__(
        self,
        features: ImageFeatures,
        labels: Tensor,
        batch_size: int,
        device: torch.device,
        need: frozenset[str],
        *,
        num_views: int = 1,
        drop_last: bool = True,
        views_per_image: int = 1,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(labels, batch_size, device, drop_last=drop_last)
        self.need = need
        self.views_per_image = views_per_image
        self.num_images = len(labels)
        self.num_views = num_views
        self.features = FeatureRows(features, device, dtype or features.pooled.dtype)

    @property
    def resident(self) -> bool:
        return self.features.on_device

    def every_image(self, seeds: Seeds) -> Iterator[Batch]:
        whole = copy(self)
        whole.views_per_image = max(self.views_per_image, self.num_views)
        return super(FeatureBatches, whole).every_image(seeds)

    def walk(self, index: Tensor, epoch: int, seeds: Seeds) -> Iterator[Batch]:
        """What says which rows are read is sent once for all of them."""
        view = drawn_views(self.num_views, self.num_images, epoch, seeds)[index]
        numbers = [(view + n) % self.num_views for n in range(self.views_per_image)]
        picked = torch.stack([index, *(number * self.num_images + index for number in numbers)])
        on_device = sent(picked, self.device).split(self.batch_size, dim=1)
        for host_XB, device_XB in zip(picked.split(self.batch_size, dim=1), on_device, strict=True):
            yield self._made(host_XB, device_XB)

    def _made(self, host_XB: Tensor, device_XB: Tensor) -> Batch:
        """A batch of the images in the first row; the others are the rows of their views."""
        index, positions = device_XB[0], tuple(host_XB[0].tolist())
        labels = self.labels[index]
        first, *others = (
            Batch(
                labels=labels,
                features=self.features.take(on_host, on_device),
                need=self.need,
                index=index,
                positions=positions,
            )
            for on_host, on_device in zip(host_XB[1:], device_XB[1:], strict=True)
        )
        return replace(first, views=tuple(others))


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
        self.scored = LastScored(device, dtype)

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
        seed = test_views.seeds.seed

        def decode(index: Tensor) -> PixelsAhead:
            chunk = [items[i] for i in index.tolist()]
            draws = [derive_seed(seed, "test view", item.path) for item in chunk]
            return PixelsAhead(dataset, chunk, views, seeds=draws)

        fixed = partial(self.frozen.fixed, dataset, items) if reads else None
        labels, rows = self.scored.of(dataset, items, fixed)
        indices = _indices(len(items), order)
        places = iter(sent(indices, self.device).split(batch_size))
        image_bytes = 12 * math.prod(self.clip.spec.image_size) * (1 + test_views.number)
        for index, decoded in decoded_ahead(indices.split(batch_size), decode, image_bytes):
            place, positions = next(places), tuple(index.tolist())
            batch = self.batch(self.views(decoded), labels[place], place, positions, POOLED)
            features = None if rows is None else rows.take(index, place)
            yield self.frozen.beside(batch, features) if reads else batch

    def holding(self, dataset: Dataset, items: Sequence[Item]) -> Dataset:
        """The dataset with the evaluation crops of these images in the cache, if there is one."""
        return dataset if self.crops is None else self.crops.holding(dataset, items)

    def views(self, decoded: PixelsAhead, num_fixed: int = 0) -> tuple[Tensor, ...]:
        """Each view of the images (B, C, H, W), on the device: of (B, V, C, H, W), or of
        (V B, 1, C, H, W) where there are ``num_fixed`` of them.
        """
        pixels = sent(decoded.wait(pinned=self.device.type == "cuda"), self.device, self.dtype)
        if num_fixed:
            pixels = pixels.view(num_fixed, -1, *pixels.shape[2:]).transpose(0, 1)
        return tuple(view.contiguous() for view in pixels.unbind(dim=1))

    def batch(
        self,
        views: Sequence[Tensor],
        labels_B: Tensor,
        index_B: Tensor,
        positions: tuple[int, ...],
        need: frozenset[str],
    ) -> Batch:
        """A batch of the first view of each image, with the others as its views."""
        first, *others = (
            Batch(labels=labels_B, pixels=view, need=need, index=index_B, positions=positions)
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


class PixelBatches(WalkedBatches):
    """Decodes the images of a batch, and the next one while a step runs, be it of the next epoch.

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
        super().__init__(labels_of(dataset.train), batch_size, source.device, drop_last=drop_last)
        self.source, self.need, self.share = source, need, source.share
        self.dataset = dataset if augment else source.holding(dataset, dataset.train)
        self.view: Transform = source.augmentation if augment else EvalTransform(source.clip.spec)
        self.fixed = fixed
        self.views_per_image = views_per_image
        self.image_bytes = 12 * math.prod(source.clip.spec.image_size) * views_per_image
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
        self.known = None if known is None else FeatureRows(known, source.device, source.dtype)
        self._begun: dict[Hashable, PixelsAhead] = {}

    def begin(self, epoch: int, seeds: Seeds) -> None:
        first = self.index(epoch, seeds).split(self.batch_size)
        number = num_begun(self.batch_size, self.image_bytes, least=1)
        begun = [self._decode(index, epoch, seeds) for index in first[:number]]
        self._begun = {decoded.key: decoded for decoded in begun}

    def every_image(self, seeds: Seeds) -> Iterator[Batch]:
        """What is learned before the first step is computed outside mixed precision."""
        whole = copy(self)
        whole.share = ALONE  # it is no step at which the others stand
        whole.source = copy(self.source)
        whole.source.frozen = self.source.frozen.unrounded()
        return super(PixelBatches, whole).every_image(seeds)

    def walk(self, index: Tensor, epoch: int, seeds: Seeds) -> Iterator[Batch]:
        """Which images these are is sent once for all of them; pixels batch by batch."""
        view = self._first_view(index, epoch, seeds)
        numbers = [(view + n) % max(self.fixed, 1) for n in range(self.views_per_image)]
        picked = torch.stack([index, *(number * len(self.labels) + index for number in numbers)])
        on_device = sent(picked, self.device).split(self.batch_size, dim=1)
        rows = iter(zip(picked.split(self.batch_size, dim=1), on_device, strict=True))
        decode = partial(self._decode, epoch=epoch, seeds=seeds)
        cancel = self.share.size == 1  # companions may need what this run does not
        indices = index.split(self.batch_size)
        for _, decoded in decoded_ahead(indices, decode, self.image_bytes, least=1, cancel=cancel):
            yield self._made(decoded, *next(rows))

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
        if images in self._begun:
            return self._begun.pop(images)
        return self.share.ahead(
            images, lambda: PixelsAhead(self.dataset, items, views, seeds=draws, key=images)
        )

    def _made(self, decoded: PixelsAhead, host_XB: Tensor, device_XB: Tensor) -> Batch:
        """A batch of the images in the first row; the others are the rows of their views."""
        index = device_XB[0]
        self.share.at(decoded.key)
        fixed = self.views_per_image if self.fixed else 0
        pixels = self.share.once("pixels", lambda: self.source.views(decoded, fixed))
        positions = tuple(host_XB[0].tolist())
        batch = self.source.batch(pixels, self.labels[index], index, positions, self.need)
        views = tuple(
            self._with_frozen(view, host_B, device_B, "views" if n else "training")
            for n, (view, host_B, device_B) in enumerate(
                zip((batch, *batch.views), host_XB[1:], device_XB[1:], strict=True)
            )
        )
        return replace(views[0], views=views[1:])

    def _with_frozen(self, batch: Batch, row: Tensor, place: Tensor, use: FrozenUse) -> Batch:
        """One view of the images with its place among the fixed ones, on the host and the device,
        and its frozen features where they are read.
        """
        batch = replace(batch, positions=tuple(row.tolist()))
        if use not in self.reads_frozen:
            return batch
        known = None if self.known is None else self.known.take(row, place)
        return self.source.frozen.beside(batch, known, self.share)


class EncodedBatches(TrainingBatches):
    """Batches of pixels with the frozen features that they need in place of the pixels."""

    def __init__(self, pixels: PixelBatches) -> None:
        super().__init__(
            pixels.labels, pixels.batch_size, pixels.device, drop_last=pixels.drop_last
        )
        self.pixels, self.share = pixels, pixels.share

    def begin(self, epoch: int, seeds: Seeds) -> None:
        self.pixels.begin(epoch, seeds)

    def every_image(self, seeds: Seeds) -> Iterator[Batch]:
        passes = self.pixels.source.frozen.unrounded()
        yield from map(passes.instead, self.pixels.every_image(seeds))

    def walk(self, index: Tensor, epoch: int, seeds: Seeds) -> Iterator[Batch]:
        for batch in self.pixels.walk(index, epoch, seeds):
            yield self.pixels.source.frozen.instead(batch, self.share)

    def take(self, index: Tensor, epoch: int, seeds: Seeds) -> Batch:
        batch = self.pixels.take(index, epoch, seeds)
        return self.pixels.source.frozen.instead(batch, self.share)


def drawn_views(num_views: int, num_images: int, epoch: int, seeds: Seeds) -> Tensor:
    """Which of its fixed views each image has in an epoch: (N,) int64."""
    if num_views <= 1:
        return torch.zeros(num_images, dtype=torch.int64)
    return torch.randint(num_views, (num_images,), generator=seeds.generator("view", epoch))


def _indices(number: int, order: Sequence[int] | None) -> Tensor:
    """Positions 0 to N - 1 in their order or another one: (N,) int64."""
    return torch.arange(number) if order is None else torch.tensor(order, dtype=torch.int64)
