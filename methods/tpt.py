"""TPT: test-time prompt tuning.

Shapes: B images, V views of an image, C classes, N context tokens, W text width, D joint width.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from core.clip.frozen import FrozenCLIP
from core.clip.prompts import (
    DEFAULT_NUM_CTX,
    ContextPrompts,
    idle_number,
    initial_context,
    placeholder_of,
    settled_context,
)
from core.config import NonNegativeFloat, PositiveFloat, PositiveInt, Probability, register
from core.interfaces import LossTerm, Score
from core.precision import gradient_of, scaled_products
from core.seeding import Seeds
from core.train.eager_optimizers import EagerAdamW
from core.train.losses import cross_entropy
from core.types import Batch, ClassNames, Forward
from methods.base import TextMethod, unit

PROMPTS_AT_ONCE = 1024


@register("method")
class TPT(TextMethod):
    """Tunes the context for every test image alone, so that its views agree with confidence.

    With the image and ``test_views`` random crops and flips of it as rows v of (V, D), the context
    of the image takes ``steps`` steps of AdamW down the gradient of

        H(mean of p_i over i in I),  p_i = softmax(s v_i T(ctx)'),

    where I are the ``selection`` share of views with the lowest entropy H(p_i) before the first
    step, rounded down and at least one. The image itself, not augmented, is then scored with the
    texts T (C, D) of its own context. Every image starts from the same context, the words of
    ``ctx_init`` or ``num_ctx`` vectors from N(0, 0.02 squared), and from an optimizer without
    memory. Images share nothing: B of them are adapted at once with texts (B, C, D).

    Nothing is trained. The context that images start from is stored, so that a released CoOp
    checkpoint can be imported (TPT + CoOp). Class texts that a refiner refines are tuned through
    it, and logits that it adds are part of p; it is trained with the context that is not tuned.

    Differences: on datasets other than ImageNet and its variants the release mixes its crops with
    AugMix; here they are the crops and flips of training (``experiment.crop_scale``) on all, drawn
    from the run's seed and the path of the image. The release computes in mixed precision, with
    the gradient in fp16 scaled by 1000.

    Source: Shu et al., Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language
    Models, NeurIPS 2022, arXiv 2209.07511.
    """

    trains = False
    adapts_to = "image"
    image_input = "pixels"
    eval_batch_size = 16
    test_views = 63
    ctx: Tensor

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        num_ctx: PositiveInt = DEFAULT_NUM_CTX,
        ctx_init: str = "a photo of a",
        test_views: PositiveInt = 63,
        selection: Probability = 0.1,
        steps: PositiveInt = 1,
        lr: PositiveFloat = 0.005,
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.01,
    ) -> None:
        super().__init__(clip, classes)
        self.placeholder = placeholder_of(ctx_init, num_ctx)
        self.prompts = self._prompts(classes)
        start = initial_context(clip, ctx_init, num_ctx, seeds.generator("context"))
        self.register_buffer("ctx", start.detach().clone())
        self.test_views, self.selection = test_views, selection
        self.steps, self.lr, self.eps, self.weight_decay = steps, lr, eps, weight_decay
        self.reset_adaptation()

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """With words their number is the context's."""
        return {
            **parameters,
            **settled_context(parameters["num_ctx"], parameters["ctx_init"]),
        }

    @classmethod
    def idle(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
        return idle_number("TPT", parameters["num_ctx"], parameters["ctx_init"])

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        return False

    def set_classes(self, classes: ClassNames) -> None:
        self.classes = classes
        self.prompts = self._prompts(classes)
        self.reset_adaptation()

    def _prompts(self, classes: ClassNames) -> ContextPrompts:
        return ContextPrompts(self.clip, classes, placeholder=self.placeholder)

    def class_texts(self) -> Tensor:
        return unit(self.prompts.encode(self.clip, self.ctx))

    def context_vectors(self) -> Mapping[str, Tensor]:
        return {"ctx": self.ctx}

    def released_names(self) -> Mapping[str, str | None]:
        return {"ctx": "ctx"}

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy}

    def forward(self, batch: Batch) -> Forward:
        out = super().forward(batch)
        return out if self._tuned_BCD is None else replace(out, text=self._tuned_BCD)

    def reset_adaptation(self) -> None:
        self._tuned_BCD: Tensor | None = None

    def adapt(self, batch: Batch, score: Score) -> None:
        """Tune the context of every image of the batch to its views."""
        self._tuned_BCD = None
        tuned = [self._tune(part, score) for part in self._parts(batch)]
        self._tuned_BCD = torch.cat(tuned)

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """The batch as features, in pieces of a bounded number of prompts."""
        views = [
            replace(view, features=self.image_features(view), pixels=None, views=())
            for view in (batch, *batch.views)
        ]
        size = max(PROMPTS_AT_ONCE // len(self.classes), 1)
        for start in range(0, len(batch), size):
            rows = range(start, min(start + size, len(batch)))
            first, *others = (view.rows(rows) for view in views)
            yield replace(first, views=tuple(others))

    def _tune(self, batch: Batch, score: Score) -> Tensor:
        """Class texts (B, C, D) of the tuned contexts, without a gradient."""
        images = [unit(self.image_features(view).pooled) for view in (batch, *batch.views)]
        image_BVD = torch.stack(images, dim=1)
        ctx_BNW = self.ctx.expand(len(batch), -1, -1).clone().requires_grad_()
        optimizer = EagerAdamW([ctx_BNW], lr=self.lr, eps=self.eps, weight_decay=self.weight_decay)
        chosen_BV1: Tensor | None = None
        for _ in range(self.steps):
            self._tuned_BCD = unit(self.prompts.encode_groups(self.clip, ctx_BNW))
            out = score(batch)
            logits_BVC = _logits_of_views(out, image_BVD, batch, score)
            if chosen_BV1 is None:
                chosen_BV1 = confident_views(logits_BVC, self.selection)[..., None]
            loss = entropy_of_the_mean(logits_BVC.take_along_dim(chosen_BV1, dim=1)).sum()
            # the gradient of the context alone: a refiner's parameters keep theirs
            ctx_BNW.grad = gradient_of(loss, ctx_BNW)
            optimizer.step()
        with torch.no_grad():
            return unit(self.prompts.encode_groups(self.clip, ctx_BNW))


def _logits_of_views(out: Forward, image_BVD: Tensor, batch: Batch, score: Score) -> Tensor:
    """The logits (B, V, C) of all views, given the output for the first."""
    if out.extra_logits is None:
        return scaled_products(out.logit_scale, image_BVD, out.text)
    outputs = (out, *(score(view) for view in batch.views))  # a refiner adds logits of its own
    return torch.stack([one.logits() for one in outputs], dim=1)


def confident_views(logits_BVC: Tensor, share: float) -> Tensor:
    """The views (B, V') of each image with the lowest entropy: a share of them, at least one."""
    log_p_BVC = logits_BVC.detach().log_softmax(dim=-1)
    entropy_BV = -(log_p_BVC.exp() * log_p_BVC).sum(dim=-1)
    number = max(int(entropy_BV.shape[1] * share), 1)
    return entropy_BV.argsort(dim=-1, stable=True)[:, :number]


def entropy_of_the_mean(logits_BVC: Tensor) -> Tensor:
    """The entropy (B,) of the mean over views of the predicted distributions."""
    log_p_BVC = F.log_softmax(logits_BVC, dim=-1)
    log_mean_BC = log_p_BVC.logsumexp(dim=1) - math.log(logits_BVC.shape[1])
    return -(log_mean_BC.exp() * log_mean_BC).sum(dim=-1)
