"""The interface of a base method. Shapes: B images, C classes, D joint width."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.clip.frozen import FrozenCLIP
from core.train.losses import LossTerm
from core.types import Batch, ClassNames, Forward, ImageFeatures


def unit(x: Tensor) -> Tensor:
    """x / ||x|| over the last axis, without an epsilon, as the released code divides."""
    return x / x.norm(dim=-1, keepdim=True)


class Method(nn.Module, ABC):
    """Learns prompts for a frozen CLIP. One subclass a file, built as ``Method(clip, classes, seeds)``.

    ``regime`` says which images training may see; ``provides`` which image fields a refiner may ask
    for; ``batch_coupled`` that a prediction depends on the other images of its batch; ``image_input``
    whether training can run on cached frozen features or must see pixels; ``trains`` that there is
    something to learn.
    """

    regime: ClassVar[str] = "inductive"
    provides: ClassVar[frozenset[str]] = frozenset({"pooled", "local", "attention"})
    batch_coupled: ClassVar[bool] = False
    image_input: ClassVar[Literal["features", "pixels"]] = "features"
    trains: ClassVar[bool] = True

    def __init__(self, clip: FrozenCLIP, classes: ClassNames) -> None:
        super().__init__()
        self.clip = clip
        self.classes = classes

    @abstractmethod
    def forward(self, batch: Batch) -> Forward:
        """Unit image features, unit class texts and what a refiner needs, for one batch."""

    @abstractmethod
    def set_classes(self, classes: ClassNames) -> None:
        """Score other classes from now on, with what was learned. Raises ValueError where it cannot."""

    @abstractmethod
    def loss_terms(self) -> Mapping[str, LossTerm]:
        """The method's own objective; the loss is the sum."""

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The classification loss that a refiner's semantic term re-uses; mean over rows."""
        return F.cross_entropy(logits, targets)

    def image_features(self, batch: Batch) -> ImageFeatures:
        """Frozen features of the batch: the cached ones, or those of its pixels."""
        if batch.features is not None:
            return batch.features
        assert batch.pixels is not None
        with torch.no_grad():
            return self.clip.encode_image(batch.pixels, need=batch.need)


class TextMethod(Method):
    """A method whose class texts do not depend on the image: it only has to write ``class_texts``."""

    _texts: Tensor | None = None

    @abstractmethod
    def class_texts(self) -> Tensor:
        """Class texts (C, D), unit norm."""

    def forward(self, batch: Batch) -> Forward:
        features = self.image_features(batch)
        return Forward(
            image=unit(features.pooled),
            text=self.class_texts() if self._texts is None else self._texts,
            logit_scale=self.clip.scale,
            local=features.local,
            attention=features.attention,
        )

    @contextmanager
    def texts_once(self) -> Iterator[None]:
        """Inside, class texts are encoded once and kept; for evaluation over many batches."""
        with torch.no_grad():
            self._texts = self.class_texts()
        try:
            yield
        finally:
            self._texts = None


MethodFactory = Callable[..., Method]
