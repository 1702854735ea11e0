"""PromptSRC: self-regulating prompts."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from core.clip.deep_prompts import ContextTokens, PromptDtype
from core.clip.frozen import FrozenCLIP
from core.clip.templates import CLIP_TEMPLATES_60, checked_templates
from core.config import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PromptTemplate,
    register,
)
from core.interfaces import Criterion, LossTerm
from core.precision import scaled_products
from core.seeding import Seeds
from core.train.averaging import EpochAverage, gaussian_weights
from core.train.losses import KlReduction, kl_divergence
from core.types import Batch, ClassNames, Forward
from methods.base import unit
from methods.ivlp import IVLP

NO_AVERAGE = {"average_mean": 15.0, "average_std": 1.0, "average_starts_at": 1}


@register("method")
class PromptSRC(IVLP):
    """IVLP that stays near the frozen model, averaged over the epochs of its training.

    With t, v the prompted unit texts and images, F, z the frozen ones and s the scale::

        ce + text_weight * mean|t - F| + image_weight * mean|v - z| + kl_weight * KL(p0 || p)

    where ``p0 = softmax(s z F')`` and ``p = softmax(logits)``. The L1 terms are means over all
    entries, including dimensions; so is the KL with ``kl_reduction`` "mean", as released, so that
    it shrinks with the number of classes; "batchmean" is the mean over images.

    F (C, D) is the unit mean of the raw text features of ``templates`` ("clip60": the released
    list, "dataset": the dataset's own, or strings with one ``{}``); ``template_average`` "unit"
    normalizes each template's features first. The depths are 9 as released, or every block of a
    shallower tower.

    With ``average`` "gaussian" the reported weights are the sum over epochs e of w_e times the
    state at the end of e, w_e proportional to a Gaussian of ``average_mean`` and ``average_std``,
    from epoch ``average_starts_at`` on. The release averages the whole model, whose frozen tensors
    fp16 rounds; here only trained parameters are averaged. If an epoch is selected on validation
    images, the state of that epoch is used, not the average.

    The released code runs only in fp16: amp fails on a tuple, fp32 mixes precisions.

    Source: Khattak et al., Self-regulating Prompts: Foundational Model Adaptation without
    Forgetting, ICCV 2023, arXiv 2307.06948.
    """

    reads_frozen = frozenset({"training"})
    default_depth = 9
    default_num_ctx_text = 4
    frozen_text_CD: Tensor | None

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        num_ctx_text: PositiveInt = 4,
        num_ctx_vision: NonNegativeInt = 4,
        depth_text: PositiveInt | None = None,
        depth_vision: NonNegativeInt | None = None,
        ctx_init: str = "a photo of a",
        ctx_init_tokens: ContextTokens = "first_n",
        prompt_dtype: PromptDtype = "parameter",
        text_weight: NonNegativeFloat = 25.0,
        image_weight: NonNegativeFloat = 10.0,
        kl_weight: NonNegativeFloat = 1.0,
        kl_reduction: KlReduction = "mean",
        templates: Literal["clip60", "dataset"] | tuple[PromptTemplate, ...] = "clip60",
        template_average: Literal["raw", "unit"] = "raw",
        average: Literal["gaussian", "none"] = "gaussian",
        average_mean: PositiveFloat = 15.0,
        average_std: PositiveFloat = 1.0,
        average_starts_at: PositiveInt = 1,
    ) -> None:
        super().__init__(
            clip,
            classes,
            seeds,
            num_ctx_text=num_ctx_text,
            num_ctx_vision=num_ctx_vision,
            depth_text=depth_text,
            depth_vision=depth_vision,
            ctx_init=ctx_init,
            ctx_init_tokens=ctx_init_tokens,
            prompt_dtype=prompt_dtype,
        )
        self.text_weight, self.image_weight, self.kl_weight = text_weight, image_weight, kl_weight
        self.kl_reduction: KlReduction = kl_reduction
        self.templates = _checked_templates(templates)
        self.template_average = template_average
        self.average, self.average_starts_at = average, average_starts_at
        self.average_mean, self.average_std = average_mean, average_std
        self.epoch_average: EpochAverage | None = None
        self.register_buffer("frozen_text_CD", None, persistent=False)

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """As IVLP; and settings of terms of weight 0 and of no average do not matter."""
        simple = super().simplify(parameters)
        if simple["kl_weight"] == 0:
            simple["kl_reduction"] = "mean"
            if simple["text_weight"] == 0:
                simple |= {"templates": "clip60", "template_average": "raw"}
        if simple["average"] == "none":
            simple |= NO_AVERAGE
        return simple

    @classmethod
    def simplify_below(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The average over one epoch is that epoch; a selected epoch is not averaged."""
        epochs = values.get("experiment.epochs", 0)
        alone = epochs == 1 or values.get("experiment.selection") != "last"
        if not alone or values["PromptSRC.average_starts_at"] > epochs:
            return {}
        return {"PromptSRC.average": "none"}

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        used = parameters["text_weight"] > 0 or parameters["kl_weight"] > 0
        return bool(used and parameters["templates"] == "dataset")

    def set_classes(self, classes: ClassNames) -> None:
        super().set_classes(classes)
        self.frozen_text_CD = None

    def forward(self, batch: Batch) -> Forward:
        """The output of IVLP; ``aux`` holds ``own_text``, ``frozen_text`` and ``frozen_image``.

        Inside ``texts_once``, where nothing trains, ``aux`` stays empty.
        """
        out = super().forward(batch)
        if self._texts is not None:
            return out
        own = {
            "own_text": out.text,
            "frozen_text": self.frozen_text(),
            "frozen_image": unit(self.frozen_pooled(batch)),
        }
        return replace(out, aux=own)

    def frozen_pooled(self, batch: Batch) -> Tensor:
        """Image features (B, D) of the tower without prompts, not normalized."""
        return self.frozen_features(batch).pooled

    def frozen_text(self) -> Tensor:
        """F (C, D), unit norm; encoded once for each list of classes, and kept for other runs
        unless a subclass makes the mean in another way.
        """
        if self.frozen_text_CD is None:
            if type(self).template_mean is not PromptSRC.template_mean:
                self.frozen_text_CD = unit(self.template_mean())
                return self.frozen_text_CD
            templates = self.templates or (self.classes.template,)
            self.frozen_text_CD = self.clip.kept(
                ("mean of templates", self.template_average, templates, self.classes.names),
                lambda: unit(self.template_mean()),
            )
        return self.frozen_text_CD

    def template_mean(self) -> Tensor:
        """Mean (C, D) of the frozen text features over templates, not normalized."""
        total = torch.zeros((), device=self.clip.scale.device, dtype=self.clip.scale.dtype)
        templates = self.templates or (self.classes.template,)
        for template in templates:
            prompts = ClassNames(names=self.classes.names, template=template).prompts()
            texts = self.clip.encode_texts(prompts)
            total = total + (unit(texts) if self.template_average == "unit" else texts)
        return total / len(templates)

    def loss_terms(self) -> Mapping[str, LossTerm]:
        own = {"text_l1": self.text_l1, "image_l1": self.image_l1, "logit_kl": self.logit_kl}
        return {**super().loss_terms(), **own}

    def text_l1(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        """Prompted texts of all classes stay near the frozen ones."""
        return self.text_weight * (out.aux["own_text"] - out.aux["frozen_text"]).abs().mean()

    def image_l1(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        """Prompted images stay near the frozen ones."""
        return self.image_weight * (out.image - out.aux["frozen_image"]).abs().mean()

    def logit_kl(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        """Predictions stay near the frozen ones; at temperature 1."""
        log_p = out.logits().log_softmax(dim=-1)
        log_p0 = self.frozen_logits(out).log_softmax(dim=-1)
        return self.kl_weight * kl_divergence(log_p0, log_p, reduction=self.kl_reduction)

    def frozen_logits(self, out: Forward) -> Tensor:
        """Zero-shot logits (B, C) of the frozen model with the averaged templates."""
        return scaled_products(out.logit_scale, out.aux["frozen_image"], out.aux["frozen_text"])

    def begin_training(self, batches: Iterable[Batch], num_epochs: int) -> None:
        if self.average == "gaussian":
            weights = gaussian_weights(
                num_epochs,
                mean=self.average_mean,
                std=self.average_std,
                starts_at=self.average_starts_at,
            )
            trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
            self.epoch_average = EpochAverage(trained, weights)

    def training_state(self) -> Mapping[str, Tensor]:
        """The weighted sum of the parameters so far."""
        sums = [] if self.epoch_average is None else self.epoch_average.sums
        return {str(number): total for number, total in enumerate(sums)}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        if self.epoch_average is not None:
            for number, total in enumerate(self.epoch_average.sums):
                total.copy_(state[str(number)])

    def end_epoch(self, epoch: int) -> None:
        if self.epoch_average is not None:
            self.epoch_average.add(epoch)

    def end_training(self) -> None:
        if self.epoch_average is not None:
            self.epoch_average.apply()
        self.epoch_average = None


def _checked_templates(templates: str | tuple[str, ...]) -> tuple[str, ...]:
    """The templates by name or as given; empty means the dataset's own."""
    if isinstance(templates, str):
        return CLIP_TEMPLATES_60 if templates == "clip60" else ()
    return checked_templates(templates)
