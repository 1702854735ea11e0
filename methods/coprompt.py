"""CoPrompt: consistency-guided prompt learning. Shapes: B images, C classes, D joint width."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from core.clip.deep_prompts import PromptDtype
from core.clip.frozen import FrozenCLIP
from core.clip.templates import Templates, templates_of
from core.config import NonNegativeFloat, PositiveInt, Probability, register
from core.interfaces import Criterion, LossTerm
from core.seeding import Seeds, seeded_linear
from core.types import NO_FROZEN_USE, Batch, ClassNames, Forward, ImageFeatures
from methods.base import unit
from methods.maple import MaPLe


@register("method")
class CoPrompt(MaPLe):
    """MaPLe with adapters on both towers, kept near what the frozen model sees in other inputs.

    With f (B, D) the pooled features and g (C, D) the text features of MaPLe, not normalized::

        v = unit((1 - m_v) f + m_v relu(W2 relu(W1 f))),   W1 (D / reduction, D), W2 back
        t = unit((1 - m_t) g + m_t relu(U2 relu(U1 g)))
        loss = ce + weight (1 - mean_b v_b z_b') + weight (1 - mean_c t_c mean_j F_jc')

    z_b is the frozen feature of another augmented view of the same image (``Batch.views``), F_jc
    the frozen text of class c in sentence j; all are unit. The release draws one sentence in every
    step, the same j for all classes; the mean over them is the expectation of that loss, and needs
    no draw. Its mean squared error is the same distance times 2 / D.

    Differences: the sentences of the release are descriptions of each class by GPT-3; here they are
    ``templates``, as in ZeroShot. Its views are resized and changed by RandAugment without a crop;
    here they are those of training (``experiment.augmentation``). A batch that was made without
    further views has its own in their place.

    Source: Roy and Etemad, Consistency-guided Prompt Learning for Vision-Language Models, ICLR
    2024, arXiv 2306.01195.
    """

    views_per_image = 2
    reads_frozen = frozenset({"views"})
    released_unused = (r"model_distill\..*",)
    sentences_CD: Tensor | None

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        num_ctx: PositiveInt = 2,
        depth: PositiveInt | None = None,
        ctx_init: str = "a photo of a",
        prompt_dtype: PromptDtype = "parameter",
        reduction: PositiveInt = 4,
        image_mix: Probability = 0.1,
        text_mix: Probability = 0.2,
        weight: NonNegativeFloat = 8.0,
        templates: Templates = (),
    ) -> None:
        super().__init__(
            clip,
            classes,
            seeds,
            num_ctx=num_ctx,
            depth=depth,
            ctx_init=ctx_init,
            prompt_dtype=prompt_dtype,
        )
        width = clip.spec.joint_width
        self.image_adapter, self.text_adapter = (
            Bottleneck(width, reduction, mix, seeds.at("adapter", tower))
            for tower, mix in (("image", image_mix), ("text", text_mix))
        )
        self.weight = weight
        if not weight:
            self.reads_frozen = NO_FROZEN_USE
        self.templates = templates_of(templates)
        self.register_buffer("sentences_CD", None, persistent=False)

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """Words in one spelling; without consistency there are no sentences."""
        words = " ".join(parameters["ctx_init"].replace("_", " ").split())
        used = templates_of(parameters["templates"]) if parameters["weight"] else ()
        simple = {**parameters, "ctx_init": words, "templates": used}
        if simple["image_mix"] == simple["text_mix"] == 0:
            simple["reduction"] = 4
        return simple

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        return bool(parameters["weight"] and not parameters["templates"])

    def set_classes(self, classes: ClassNames) -> None:
        super().set_classes(classes)
        self.sentences_CD = None

    def class_texts(self) -> Tensor:
        return unit(self.text_adapter(self.text_prompts.encode(self.clip)))

    def image_features(self, batch: Batch) -> ImageFeatures:
        """Features of the prompted image tower; the pooled ones are adapted."""
        features = super().image_features(batch)
        return replace(features, pooled=self.image_adapter(features.pooled))

    def forward(self, batch: Batch) -> Forward:
        """``aux`` holds the texts that the method itself made and the frozen image and texts.

        Inside ``texts_once``, where nothing trains, it stays empty.
        """
        out = super().forward(batch)
        if self._texts is not None or not self.weight:
            return out
        other = batch.views[0] if batch.views else batch
        frozen_BD = unit(self.frozen_features(other).pooled)
        own = {
            "own_text": out.text,
            "other_image": frozen_BD,
            "other_text": self.frozen_sentences(),
        }
        return replace(out, aux=own)

    def frozen_sentences(self) -> Tensor:
        """The mean (C, D) over sentences of their unit frozen features."""
        if self.sentences_CD is None:
            sentences = self.templates or (self.classes.template,)
            self.sentences_CD = self.clip.kept(
                ("mean of unit sentences", sentences, self.classes.names),
                lambda: _mean_of(sentences, self.classes.names, self.clip),
            )
        return self.sentences_CD

    def released_names(self) -> Mapping[str, str | None]:
        adapters: dict[str, str | None] = {
            f"{tower}_adapter.{ours}.weight": f"adapter_{tower}.fc.{place}.weight"
            for tower in ("image", "text")
            for ours, place in (("down", 0), ("up", 2))
        }
        return {**super().released_names(), **adapters}

    def loss_terms(self) -> Mapping[str, LossTerm]:
        own = {
            "image_consistency": self.image_consistency,
            "text_consistency": self.text_consistency,
        }
        return {**super().loss_terms(), **(own if self.weight else {})}

    def image_consistency(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        """The cosine distance of images to the frozen features of their other views."""
        return self.weight * (1 - (out.image * out.aux["other_image"]).sum(dim=-1).mean())

    def text_consistency(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        """The mean cosine distance of class texts to the frozen features of the sentences."""
        return self.weight * (1 - (out.aux["own_text"] * out.aux["other_text"]).sum(dim=-1).mean())


class Bottleneck(nn.Module):
    """``(1 - mix) x + mix relu(W2 relu(W1 x))``, without biases."""

    def __init__(self, width: int, reduction: int, mix: float, seeds: Seeds) -> None:
        super().__init__()
        hidden = max(width // reduction, 1)
        self.mix = mix
        self.down = seeded_linear(width, hidden, seeds.generator("down"), bias=False)
        self.up = seeded_linear(hidden, width, seeds.generator("up"), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.up(self.down(x).relu()).relu()
        return self.mix * inner + (1 - self.mix) * x


def _mean_of(sentences: Sequence[str], names: tuple[str, ...], clip: FrozenCLIP) -> Tensor:
    texts = [
        unit(clip.encode_texts(ClassNames(names=names, template=sentence).prompts()))
        for sentence in sentences
    ]
    return torch.stack(texts).mean(dim=0)
