"""A linear probe on image features, and CLAP's constraint on it.

Shapes: B images, C classes, D joint width.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.clip.frozen import FrozenCLIP
from core.clip.templates import Templates
from core.config import register
from core.interfaces import Criterion, LossTerm
from core.precision import scaled_products
from core.seeding import Seeds, seeded_normal
from core.train.losses import cross_entropy
from core.types import Batch, ClassNames, Forward
from methods.base import ClosedSetMethod, HandMadeTextMethod, all_views, unit

Start = Literal["zero_shot", "random"]
Constraint = Literal["none", "class_adaptive", "constant"]


@register("method")
class LinearProbe(HandMadeTextMethod, ClosedSetMethod):
    """Learns one weight vector for every class, from its zero-shot text on.

    With f the unit image feature and W (C, D) learned, without bias::

        logits = s f unit(W)'

    W starts from z, the mean over ``templates`` of the text features, not normalized, as released
    (``init`` "zero_shot", ZS-LP), or from N(0, 2 / D) ("random"). With a ``constraint`` (CLAP) the
    loss is::

        ce + mean_c lambda_c * ||W_c - z_c||^2

    lambda_c is the mean zero-shot probability of class c over its training images, all their fixed
    views included: classes that CLIP knows well stay close to it. It is computed once before the
    first step and then fixed, as in the release, which is the first outer step of an augmented
    Lagrangian method. "constant" gives every class the mean of all lambda_c. The paper writes a sum
    over classes where the release takes the mean.

    Other probes start from texts as well, with W free in length (Lin et al., Multimodality Helps
    Unimodality, CVPR 2023, arXiv 2301.06267, who also train on texts as if they were images).

    Source: Silva-Rodriguez et al., A Closer Look at the Few-Shot Adaptation of Large
    Vision-Language Models, CVPR 2024, arXiv 2312.12730.
    """

    why_closed = "every class has weights of its own"
    released_unused = ("base_text_features",)
    zero_shot_CD: Tensor
    multipliers_C: Tensor | None

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        init: Start = "zero_shot",
        constraint: Constraint = "none",
        templates: Templates = (),
    ) -> None:
        super().__init__(clip, classes, templates)
        self.constraint = constraint
        texts_CD = self.template_features(classes).mean(dim=0)
        self.register_buffer("zero_shot_CD", texts_CD, persistent=False)
        start = nn.Parameter(texts_CD.clone())
        if init == "random":
            std = math.sqrt(2 / texts_CD.shape[1])
            start = seeded_normal(*texts_CD.shape, std=std, generator=seeds.generator("weight"))
        self.weight = start
        constrained = None if constraint == "none" else torch.zeros(len(classes))
        self.register_buffer("multipliers_C", constrained)

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        """Random weights without a constraint have nothing to do with texts."""
        used = parameters["init"] == "zero_shot" or parameters["constraint"] != "none"
        return used and super().reads_template(parameters, values)

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        simple = super().simplify(parameters)
        if simple["init"] == "random" and simple["constraint"] == "none":
            simple["templates"] = ()
        return simple

    def class_texts(self) -> Tensor:
        return unit(self.weight)[self.rows_C]

    @torch.no_grad()
    def begin_training(self, batches: Iterable[Batch], num_epochs: int) -> None:
        if self.multipliers_C is None:
            return
        texts_CD = unit(self.zero_shot_CD)
        sums, counts = torch.zeros_like(self.multipliers_C), torch.zeros_like(self.multipliers_C)
        for view in (view for batch in batches for view in all_views(batch)):
            image_BD = unit(self.image_features(view).pooled)
            probability_BC = scaled_products(self.clip.scale, image_BD, texts_CD).softmax(dim=-1)
            one_hot_BC = F.one_hot(view.labels, len(sums)).to(sums)
            sums += (probability_BC * one_hot_BC).sum(dim=0)
            counts += one_hot_BC.sum(dim=0)
        mean_C = sums / counts.clamp(min=1)
        if self.constraint == "constant":
            mean_C = mean_C.mean().expand_as(mean_C)
        self.multipliers_C.copy_(mean_C)

    def penalty(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        """How far the weights are from the zero-shot texts: the mean over classes."""
        assert self.multipliers_C is not None
        distance_C = (self.weight - self.zero_shot_CD).square().sum(dim=-1)
        return (self.multipliers_C * distance_C).mean()

    def released_names(self) -> Mapping[str, str | None]:
        return {"weight": "prototypes"}

    def loss_terms(self) -> Mapping[str, LossTerm]:
        constrained = {} if self.multipliers_C is None else {"constraint": self.penalty}
        return {"ce": cross_entropy, **constrained}
