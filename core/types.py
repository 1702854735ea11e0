"""The values that are passed between the parts. Shapes: B images, C classes, P patches, D joint
width.

Frozen dataclasses without behavior beyond what follows from their fields.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from core.devices import sent
from core.precision import in_full_precision, scaled_products

Tower = Literal["image", "text"]

FrozenUse = Literal["training", "views", "evaluation"]
"""Which images a method that sees pixels reads through the frozen tower as well: those of training
batches, their further views, those of evaluation batches.
"""
NO_FROZEN_USE: frozenset[FrozenUse] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassNames:
    """The classes a method scores, in label order, and the dataset's zero-shot template."""

    names: tuple[str, ...]
    template: str = "a photo of a {}."

    def __len__(self) -> int:
        return len(self.names)

    def prompts(self) -> tuple[str, ...]:
        """One hand-made prompt per class; underscores in names become spaces."""
        return tuple(self.template.format(name.replace("_", " ")) for name in self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerSupport:
    """What the towers of a backbone can do: the one thing that is compared with what a method or a
    refiner needs.

    ``image`` and ``text`` say in words what the towers are; ``image_fields`` are the fields of
    ImageFeatures that there are; ``hooked`` the towers whose blocks deep prompts can enter.
    ``causal_text`` is False where every token of a text sees all others, so that texts are computed
    at full length, one by one.
    """

    image: str = "ViT"
    text: str = "causal transformer"
    image_fields: frozenset[str] = frozenset({"pooled", "local", "attention"})
    hooked: frozenset[Tower] = frozenset(("image", "text"))
    causal_text: bool = True


NATIVE = TowerSupport()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """The dimensions of a backbone.

    ``grid`` counts patches (rows, columns); ``fingerprint`` hashes the weights; ``quick_gelu`` is
    the activation, which cannot be inferred from the weights. ``squash`` resizes an evaluated image
    to the square without keeping its aspect, as SigLIP was trained. ``support`` says which features
    and which ways into the towers there are.
    """

    joint_width: int
    vision_width: int
    vision_depth: int
    text_width: int
    text_depth: int
    context_length: int
    image_size: tuple[int, int]
    grid: tuple[int, int]
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    fingerprint: str
    quick_gelu: bool = False
    squash: bool = False
    support: TowerSupport = NATIVE

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeatures:
    """The outputs of the frozen image tower; none of them is normalized.

    ``pooled`` (B, D) is the global feature. ``local`` (B, 1+P, D) are the last block's tokens
    projected like the global one, CLS first. ``attention`` (B, P) is the CLS row of the last
    block's attention, mean over heads, without the CLS column. The last two are None unless
    requested. What they are for towers that pool by attention: ``core/clip/image_towers.py``.
    """

    pooled: Tensor
    local: Tensor | None = None
    attention: Tensor | None = None

    def __getitem__(self, index: Tensor | slice) -> "ImageFeatures":
        return self.each(lambda tensor: tensor[index])

    def __len__(self) -> int:
        return len(self.pooled)

    def has(self, fields: frozenset[str]) -> bool:
        """Whether all of these fields are there."""
        return all(getattr(self, name) is not None for name in fields)

    @property
    def nbytes(self) -> int:
        """Bytes of all fields."""
        fields = (self.pooled, self.local, self.attention)
        return sum(field.nbytes for field in fields if field is not None)

    def each(self, change: Callable[[Tensor], Tensor]) -> "ImageFeatures":
        """The same fields, each changed."""
        return ImageFeatures(
            pooled=change(self.pooled),
            local=None if self.local is None else change(self.local),
            attention=None if self.attention is None else change(self.attention),
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> "ImageFeatures":
        return self.each(lambda tensor: tensor.to(device, dtype))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Images of one step: ``pixels`` (B, 3, H, W), already normalized, for a method that asks for
    pixels, and ``features``, what the frozen tower gives for these images, where that is known.

    ``labels`` (B,) int64. At least one of the two image inputs is given; both for a method that
    sees pixels and reads the frozen tower as well (``Method.reads_frozen``). ``need`` names the
    fields of ImageFeatures that this step uses; ``features`` beside pixels may have fewer.
    ``index`` (B,) int64 are the images' positions in the list that the batches walk through, if
    there is one, and ``positions`` the same on the host, which need not wait for a device to know
    them; a fixed view k of N images counts on there, k N + position. ``views`` are further views of
    the same images, each a batch of its own, as many as the method asks for.
    """

    labels: Tensor
    pixels: Tensor | None = None
    features: ImageFeatures | None = None
    need: frozenset[str] = frozenset({"pooled"})
    index: Tensor | None = None
    views: tuple["Batch", ...] = ()
    positions: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: Sequence[int]) -> "Batch":
        """Some of the images with their views, by their places in the batch."""
        rows = sent(torch.tensor(chosen, dtype=torch.int64), self.labels.device)
        positions = self.positions
        return replace(
            self,
            labels=self.labels[rows],
            pixels=None if self.pixels is None else self.pixels[rows],
            features=None if self.features is None else self.features[rows],
            index=None if self.index is None else self.index[rows],
            positions=None if positions is None else tuple(positions[row] for row in chosen),
            views=tuple(view.rows(chosen) for view in self.views),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOutput:
    """What a refiner receives from a base method: widths, counts, and the provided image fields.

    ``classification`` are the terms of the method's loss that are its criterion on the logits, by
    name, with their weights: those that a refiner may share.
    """

    text_width: int
    local_width: int
    num_patches: int
    num_classes: int
    provides: frozenset[str]
    classification: Mapping[str, float] = field(default_factory=lambda: {"ce": 1.0})


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """The output of a base method, or of a refiner on top of it, for a batch.

    ``image`` (B, D) unit norm; ``text`` (C, D), or (B, C, D) when conditioned on the image;
    ``logit_scale`` (); ``local`` (B, 1+P, D) and ``attention`` (B, P) as in ImageFeatures, prompt
    tokens removed; ``aux`` holds what the method's or refiner's own loss terms need.
    ``extra_logits`` (B, C), or (1, C), are added to the logits: those of a cache of training
    images, or of a probe, which no class text explains.
    """

    image: Tensor
    text: Tensor
    logit_scale: Tensor
    local: Tensor | None = None
    attention: Tensor | None = None
    aux: Mapping[str, Tensor] = field(default_factory=dict)
    extra_logits: Tensor | None = None

    def logits(self) -> Tensor:
        """(B, C): ``text_logits`` and what is added to them."""
        logits_BC = self.text_logits()
        return logits_BC if self.extra_logits is None else logits_BC + self.extra_logits

    def text_logits(self) -> Tensor:
        """(B, C): scale times the inner product of images and class texts.

        In float32 or float64, also inside autocast.
        """
        if self.text.dim() == 2:
            return scaled_products(self.logit_scale, self.image, self.text)
        return self.logit_scale * in_full_precision(_own_products, self.image, self.text)


def _own_products(image_BD: Tensor, text_BCD: Tensor) -> Tensor:
    """Inner products (B, C) of every image with the texts that were made for it."""
    return torch.einsum("bd,bcd->bc", image_BD, text_BCD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The content of a refiner's memory: slots (M, D) in the space of the class texts.

    ``labels`` (M,) int64 is the training class of each slot, None where slots have no class.
    """

    slots: Tensor
    labels: Tensor | None = None
