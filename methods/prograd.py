"""ProGrad: prompt-aligned gradient. Shapes: B images, C classes, D joint width, N vectors."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.clip.frozen import FrozenCLIP
from core.clip.prompts import DEFAULT_NUM_CTX, ClassPosition, initial_context
from core.config import NonNegativeFloat, PositiveFloat, PositiveInt, register
from core.interfaces import Criterion, Gradients, LossTerm
from core.precision import scaled_products
from core.seeding import Seeds
from core.types import ClassNames, Forward
from methods.base import hand_made_texts
from methods.coop import CoOp

ProjectionScope = Literal["tensor", "vector"]
GUIDE = "zero_shot"


@register("method")
class ProGrad(CoOp):
    """CoOp whose gradient loses the component that works against the zero-shot predictions.

    With K (C, D) the unit hand-made texts, s the scale, v the unit images, T ``temperature``::

        zs = s v K',   kl = T^2 * mean_b(-sum_c softmax(zs / T) log softmax(logits / T))
        a = grad of the loss (ce),   b = grad of kl,   u = b / |b|,   both for ``ctx``
        g = a - strength * <a, u> u   where <a, b> < 0,   else g = a

    The update is made with g; kl itself is never descended. The entropy of its target is not
    subtracted, which leaves the gradient. There is one sign for the whole context, class-specific
    ones included; ``projection_scope`` "vector" has one for each vector of the context. A gradient
    of 0 is not projected. With a refiner a is the gradient of all terms of the loss, and kl sees
    the refined texts; the refiner's own parameters are not projected. K comes from the dataset's
    template (``experiment.template`` replaces it).

    ``ctx_init`` None takes the words before the name in the dataset's template, "" is N(0, 0.02
    squared). ``num_ctx`` None is one vector for each word; the released scripts have 16. As
    released, the last vectors start from the first tokens of the words, as many as there are words,
    and those before them at zero; fewer vectors than words are an error. A comma is a token, but no
    word: with "a type of pet, a photo of a" the last "a" stays as a fixed token. The release
    ignores class-specific contexts if there are words, and fails for names in the middle; here both
    work. Its projection is part of a modified Dassl.

    Source: Zhu et al., Prompt-aligned Gradient for Prompt Tuning, ICCV 2023, arXiv 2205.14865.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        num_ctx: PositiveInt | None = None,
        ctx_init: str | None = None,
        class_position: ClassPosition = "end",
        class_specific: bool = False,
        strength: NonNegativeFloat = 1.0,
        temperature: PositiveFloat = 1.0,
        projection_scope: ProjectionScope = "tensor",
    ) -> None:
        words = _words(ctx_init, classes)
        super().__init__(
            clip,
            classes,
            seeds,
            num_ctx=num_ctx or len(words) or DEFAULT_NUM_CTX,
            ctx_init="",
            class_position=class_position,
            class_specific=class_specific,
        )
        self.strength, self.temperature = strength, temperature
        self.projection_scope: ProjectionScope = projection_scope
        if words:
            self._start_from(words, seeds)
        self.register_buffer("fixed_CD", hand_made_texts(clip, classes), persistent=False)
        self._cosines: list[Tensor] = []

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """Words in one spelling, their number left out; half of one vector is none; nothing is
        projected at strength 0.
        """
        simple = dict(parameters)
        if simple["ctx_init"] is not None:
            words = _split(simple["ctx_init"])
            simple["ctx_init"] = " ".join(words)
            if simple["num_ctx"] == (len(words) or DEFAULT_NUM_CTX):
                simple["num_ctx"] = None
        if simple["num_ctx"] == 1 and simple["class_position"] == "middle":
            simple["class_position"] = "front"
        if simple["strength"] == 0:
            simple |= {"temperature": 1.0, "projection_scope": "tensor"}
        if simple["num_ctx"] == 1 and not simple["class_specific"]:
            simple["projection_scope"] = "tensor"
        return simple

    @classmethod
    def idle(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
        return {}

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        return bool(parameters["ctx_init"] is None or parameters["strength"] > 0)

    def set_classes(self, classes: ClassNames) -> None:
        super().set_classes(classes)
        self.register_buffer("fixed_CD", hand_made_texts(self.clip, classes), persistent=False)

    def guide_terms(self) -> Mapping[str, LossTerm]:
        return {GUIDE: self.zero_shot_kl}

    def zero_shot_kl(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        """The cross-entropy of the predictions with those of zero-shot CLIP, times T squared."""
        t = self.temperature
        wanted_BC = (self.zero_shot_logits(out) / t).softmax(dim=-1)
        return t**2 * F.cross_entropy(out.logits() / t, wanted_BC)

    def zero_shot_logits(self, out: Forward) -> Tensor:
        """Logits (B, C) of the hand-made texts."""
        return scaled_products(out.logit_scale, out.image.detach(), self.get_buffer("fixed_CD"))

    def after_backward(self, gradients: Mapping[str, Gradients]) -> None:
        guide = gradients[GUIDE].get("ctx")
        if guide is None or self.ctx.grad is None:
            return
        axes = [-1] if self.projection_scope == "vector" else list(range(guide.dim()))
        projected, cosine = project(self.ctx.grad, guide, self.strength, axes)
        self.ctx.grad.copy_(projected)
        self._cosines.append(cosine.flatten())

    def metrics(self) -> Mapping[str, Tensor]:
        """How often a gradient is projected, and the mean cosine of a and b."""
        if not self._cosines:
            return {}
        cosines = torch.cat(self._cosines)
        self._cosines = []
        return {
            "projected": (cosines < 0).double().mean(),
            "gradient_cosine": cosines.double().mean(),
        }

    def _start_from(self, words: list[str], seeds: Seeds) -> None:
        """Zeros, then the tokens of the words: (N, W), or one copy of it per class."""
        number = self.ctx.shape[-2]
        if number < len(words):
            raise ValueError(
                f"ProGrad.num_ctx is {number}, but its context starts from the {len(words)} words "
                f"{' '.join(words)!r}; use ProGrad.num_ctx = {len(words)} or more, or "
                "ProGrad.ctx_init = '' for a random start"
            )
        text = " ".join(words)
        tokens_NW = initial_context(self.clip, text, number, seeds.generator("context"))
        start = torch.zeros_like(self.ctx)
        start[..., number - len(words) :, :] = tokens_NW
        self.ctx = nn.Parameter(start)
        self.placeholder = " ".join(["X"] * (number - len(words)) + words)
        self.prompts = self._prompts(self.classes)


def project(
    gradient: Tensor, guide: Tensor, strength: float, axes: list[int]
) -> tuple[Tensor, Tensor]:
    """A gradient without the part of it that opposes the guide, and the cosine of the two, 0 where
    one is 0; ``axes`` are those of one vector.
    """
    along = guide / torch.linalg.vector_norm(guide, dim=axes, keepdim=True)
    component = (gradient * along).sum(dim=axes, keepdim=True)
    length = torch.linalg.vector_norm(gradient, dim=axes, keepdim=True)
    cosine = (component / length).nan_to_num(nan=0.0)
    opposed = torch.where(cosine < 0, strength * component, 0.0) * along
    return gradient - opposed.nan_to_num(nan=0.0), cosine


def _split(words: str) -> list[str]:
    return words.replace("_", " ").split()


def _words(ctx_init: str | None, classes: ClassNames) -> list[str]:
    """The words to start from; ValueError where the template has none before the name."""
    if ctx_init is not None:
        return _split(ctx_init)
    words = _split(classes.template.partition("{}")[0])
    if not words:
        raise ValueError(
            f"ProGrad.ctx_init is None, but the template {classes.template!r} has no words before "
            "the name to start from; set experiment.template, or ProGrad.ctx_init = '' for a "
            "random start"
        )
    return words
