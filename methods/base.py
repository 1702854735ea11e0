"""Code shared by base methods. Shapes: B images, C classes, D joint width."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from core.clip.frozen import FrozenCLIP
from core.interfaces import Method
from core.types import Batch, ClassNames, Forward


def unit(x: Tensor) -> Tensor:
    """X / ||x|| over the last axis, without an epsilon, as the released code divides."""
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length


def hand_made_texts(clip: FrozenCLIP, classes: ClassNames) -> Tensor:
    """Frozen class texts (C, D) of the dataset's template, unit norm."""
    return unit(clip.encode_texts(classes.prompts()))


class TextMethod(Method):
    """A method whose class texts do not depend on the image; subclasses write ``class_texts``."""

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
        """A context in which class texts are encoded once and kept, for evaluation."""
        with torch.no_grad():
            texts = self.class_texts()
        with self.given_texts(texts):
            yield

    @contextmanager
    def given_texts(self, texts_CD: Tensor) -> Iterator[None]:
        """A context in which these tensors replace the class texts."""
        self._texts = texts_CD.view_as(texts_CD)  # a Parameter would be registered as one of ours
        try:
            yield
        finally:
            self._texts = None
