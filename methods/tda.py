"""TDA: a training-free dynamic adapter.

Shapes: B images, C classes, K slots of a class, D joint width.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from core.clip.frozen import FrozenCLIP
from core.clip.templates import Templates
from core.config import NonNegativeFloat, PositiveFloat, PositiveInt, Reference, register
from core.interfaces import Score
from core.precision import in_full_precision
from core.seeding import Seeds
from core.types import Batch, ClassNames, Forward
from methods.zero_shot import ZeroShot

POSITIVE_OFF = {"positive_capacity": 3, "positive_alpha": 2.0, "positive_beta": 5.0}
NEGATIVE_OFF = {
    "negative_capacity": 2,
    "negative_alpha": 0.117,
    "negative_beta": 1.0,
    "entropy_lower": 0.2,
    "entropy_upper": 0.5,
    "mask_lower": 0.03,
    "mask_upper": 1.0,
    "entropy_unit": "released",
}


@register("method")
class TDA(ZeroShot):
    """Two caches of test images, filled as the stream goes by, correct zero-shot predictions.

    An image v with zero-shot probabilities p, of entropy H(p) and largest at class c, is offered to
    the K slots of c in the positive cache, and in the negative one as well if
    ``entropy_lower < H(p) / log2 C < entropy_upper``. It takes a free slot, or that of the image
    with the highest entropy if its own is lower. Then, with keys k_i (the unit image features)::

        logits = s v T' + alpha_p sum_i exp(-beta_p (1 - v k_i')) onehot(c_i)
                        - alpha_n sum_j exp(-beta_n (1 - v k_j')) m_j

    where ``m_j`` (C,) marks the classes with ``mask_lower < p_j < mask_upper``. The image itself is
    in the caches when it is scored, as released. ``positive`` and ``negative`` switch the caches.
    The release divides H in nats by log2 C, so that the quotient ends at 0.693; ``entropy_unit``
    "nats" divides by log C.

    Nothing is trained and images are cached features. The order of the stream is drawn from the
    run's seed, anew for every list of test images, and the caches start empty for each. On top of
    a refiner p are the refined probabilities, with the logits that it adds. ``templates`` as in
    ZeroShot.

    Differences: ImageNet's variants are published with 63 AugMix views of each image, of which the
    confident tenth is averaged; here every image is its evaluation view. s is the backbone's scale
    (100 as released).

    Source: Karmanov et al., Efficient Test-Time Adaptation of Vision-Language Models, CVPR 2024,
    arXiv 2403.18293.
    """

    adapts_to = "stream"
    batch_coupled = True
    positive_cache: "StreamCache | None"
    negative_cache: "StreamCache | None"

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        templates: Templates = (),
        positive: bool = True,
        positive_capacity: PositiveInt = 3,
        positive_alpha: NonNegativeFloat = 2.0,
        positive_beta: PositiveFloat = 5.0,
        negative: bool = True,
        negative_capacity: PositiveInt = 2,
        negative_alpha: NonNegativeFloat = 0.117,
        negative_beta: PositiveFloat = 1.0,
        entropy_lower: NonNegativeFloat = 0.2,
        entropy_upper: NonNegativeFloat = 0.5,
        mask_lower: NonNegativeFloat = 0.03,
        mask_upper: NonNegativeFloat = 1.0,
        entropy_unit: Literal["released", "nats"] = "released",
    ) -> None:
        super().__init__(clip, classes, seeds, templates=templates)
        self.positive, self.positive_capacity = positive, positive_capacity
        self.positive_alpha, self.positive_beta = positive_alpha, positive_beta
        self.negative, self.negative_capacity = negative, negative_capacity
        self.negative_alpha, self.negative_beta = negative_alpha, negative_beta
        self.entropy_range = _limits("entropy", entropy_lower, entropy_upper)
        self.mask_range = _limits("mask", mask_lower, mask_upper)
        self.entropy_unit = entropy_unit

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """A cache of weight 0 is none; settings of a cache that is off do not matter."""
        simple = super().simplify(parameters)
        for name, off in (("positive", POSITIVE_OFF), ("negative", NEGATIVE_OFF)):
            if not simple[name] or simple[f"{name}_alpha"] == 0:
                simple |= {name: False, **off}
        return simple

    @classmethod
    def simplify_below(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """With both caches off it is zero-shot CLIP, whatever the order of the stream."""
        if values.get("experiment.method") != Reference("TDA"):
            return {}
        if values["TDA.positive"] or values["TDA.negative"]:
            return {}
        return {
            "experiment.method": Reference("ZeroShot"),
            "ZeroShot.templates": values["TDA.templates"],
        }

    def set_classes(self, classes: ClassNames) -> None:
        super().set_classes(classes)
        self.reset_adaptation()

    def reset_adaptation(self) -> None:
        self.positive_cache = self.negative_cache = None

    @torch.no_grad()
    def adapt(self, batch: Batch, score: Score) -> None:
        """Offer the images of the batch to the caches, one after the other."""
        with self._without_caches():
            out = score(batch)
        log_p_BC = out.logits().log_softmax(dim=-1)
        p_BC = log_p_BC.exp()
        entropy_B = -(p_BC * log_p_BC).sum(dim=-1)
        label_B = log_p_BC.argmax(dim=-1)
        if self.positive_cache is None:
            self._begin(out.image, p_BC.shape[-1])
        whole = math.log2 if self.entropy_unit == "released" else math.log
        share_B = entropy_B / max(whole(p_BC.shape[-1]), torch.finfo(entropy_B.dtype).tiny)
        uncertain_B = _between(share_B, self.entropy_range)
        masks_BC = _between(p_BC, self.mask_range).to(p_BC.dtype)
        assert self.positive_cache is not None and self.negative_cache is not None
        for row in range(len(batch)):
            one = slice(row, row + 1)
            image = CachedImage(out.image[one], entropy_B[one], masks_BC[one])
            if self.positive:
                self.positive_cache.offer(image, label_B[one], torch.ones_like(uncertain_B[one]))
            if self.negative:
                self.negative_cache.offer(image, label_B[one], uncertain_B[one])

    @contextmanager
    def _without_caches(self) -> Iterator[None]:
        """A context in which images are scored as if nothing had been seen."""
        caches = self.positive_cache, self.negative_cache
        self.positive_cache = self.negative_cache = None
        try:
            yield
        finally:
            self.positive_cache, self.negative_cache = caches

    def _begin(self, image_BD: Tensor, num_classes: int) -> None:
        sizes = (self.positive_capacity, self.negative_capacity)
        self.positive_cache, self.negative_cache = (
            StreamCache.empty(image_BD, num_classes, size) for size in sizes
        )

    def forward(self, batch: Batch) -> Forward:
        out = super().forward(batch)
        if self.positive_cache is None or self.negative_cache is None:
            return out
        logits_BC = torch.zeros_like(out.image[:, :1])
        if self.positive:
            weight_BCK = self.positive_cache.affinity(out.image, self.positive_beta)
            logits_BC = logits_BC + self.positive_alpha * weight_BCK.sum(dim=-1)
        if self.negative:
            weight_BCK = self.negative_cache.affinity(out.image, self.negative_beta)
            masked_BC = self.negative_cache.marked(weight_BCK)
            logits_BC = logits_BC - self.negative_alpha * masked_BC
        return replace(out, extra_logits=logits_BC)


@dataclass(frozen=True, slots=True)
class CachedImage:
    """What a slot keeps of an image: unit feature (1, D), entropy (1,), marked classes (1, C)."""

    key_1D: Tensor
    entropy_1: Tensor
    mask_1C: Tensor


@dataclass(frozen=True, slots=True)
class StreamCache:
    """K slots per class, of images in order of their entropy; that of a free slot is infinite."""

    keys_CKD: Tensor
    entropy_CK: Tensor
    masks_CKC: Tensor

    @classmethod
    def empty(cls, like_BD: Tensor, num_classes: int, capacity: int) -> "StreamCache":
        """A cache without images, of the type and on the device of the features."""
        return cls(
            like_BD.new_zeros(num_classes, capacity, like_BD.shape[-1]),
            like_BD.new_full((num_classes, capacity), torch.inf),
            like_BD.new_zeros(num_classes, capacity, num_classes),
        )

    def offer(self, image: CachedImage, label_1: Tensor, wanted_1: Tensor) -> None:
        """Take the image in the last slot of its class if it is wanted and more certain."""
        entropy_K = self.entropy_CK[label_1][0]
        taken = wanted_1 & (image.entropy_1 < entropy_K[-1])
        entropy_K = torch.cat([entropy_K[:-1], torch.where(taken, image.entropy_1, entropy_K[-1:])])
        entropy_K, order_K = entropy_K.sort(stable=True)
        self.entropy_CK.index_copy_(0, label_1, entropy_K[None])
        for slots, value in ((self.keys_CKD, image.key_1D), (self.masks_CKC, image.mask_1C)):
            row = slots[label_1][0]
            row = torch.cat([row[:-1], torch.where(taken, value, row[-1:])])
            slots.index_copy_(0, label_1, row[order_K][None])

    def affinity(self, image_BD: Tensor, beta: float) -> Tensor:
        """``exp(-beta (1 - v k'))`` (B, C, K) of every image and slot; 0 for free slots."""
        cosine_BCK = in_full_precision(_cosines, image_BD, self.keys_CKD)
        return (-beta * (1 - cosine_BCK)).exp() * self.entropy_CK.isfinite()

    def marked(self, weight_BCK: Tensor) -> Tensor:
        """The sum (B, C) of the marks of all slots, with a weight for each."""
        return in_full_precision(_weighted_marks, weight_BCK, self.masks_CKC)


def _cosines(image_BD: Tensor, keys_CKD: Tensor) -> Tensor:
    return torch.einsum("bd,ckd->bck", image_BD, keys_CKD)


def _weighted_marks(weight_BCK: Tensor, masks_CKC: Tensor) -> Tensor:
    return torch.einsum("bck,ckd->bd", weight_BCK, masks_CKC)


def _limits(what: str, low: float, high: float) -> tuple[float, float]:
    """Raise ValueError for limits that nothing lies between."""
    if low >= high:
        raise ValueError(
            f"TDA.{what}_lower must be below TDA.{what}_upper, got {low} and {high}; "
            "use TDA.negative = False for no negative cache"
        )
    return low, high


def _between(values: Tensor, limits: tuple[float, float]) -> Tensor:
    """Whether values lie strictly within the limits."""
    low, high = limits
    return (values > low) & (values < high)
