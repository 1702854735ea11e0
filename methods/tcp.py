"""TCP: textual-based class-aware prompts.

Shapes: C classes, D joint width, H hidden width, L tokens, N class-aware tokens, W text width.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from core.clip.prompts import (
    DEFAULT_NUM_CTX,
    ContextPrompts,
    idle_number,
    initial_context,
    settled_context,
)
from core.config import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Probability,
    PromptTemplate,
    register,
)
from core.interfaces import Criterion, LossTerm
from core.seeding import Seeds, seeded_linear
from core.train.losses import cross_entropy, text_distance
from core.types import Batch, ClassNames, Forward, Tower
from methods.base import TextMethod, hand_made_texts, unit

RELEASED_BLOCK = 8
MetaActivation = Literal["quick_gelu", "relu"]
LongContext = Literal["refuse", "overwrite"]
KINDS = ("weight", "bias")
NO_TOKENS: dict[str, Any] = {
    "class_prompt_length": None,
    "injection_block": None,
    "meta_hidden": None,
    "meta_activation": "quick_gelu",
}


class ClassAwareTokens:
    """Before one block tokens 1..N of class c become ``weight * p_c + (1 - weight) * tokens``."""

    def __init__(self, block: int, weight: float, prompts_CNW: Tensor) -> None:
        self.block, self.weight, self.prompts_CNW = block, weight, prompts_CNW

    def enter(self, x_BLW: Tensor) -> Tensor:
        return x_BLW

    def before_block(self, layer: int, x_BLW: Tensor) -> Tensor:
        if layer != self.block:
            return x_BLW
        behind = 1 + self.prompts_CNW.shape[1]
        mixed = self.weight * self.prompts_CNW + (1 - self.weight) * x_BLW[:, 1:behind]
        return torch.cat([x_BLW[:, :1], mixed, x_BLW[:, behind:]], dim=1)


@register("method")
class TCP(TextMethod):
    """A learned context that a block replaces by tokens made of each class's hand-made text.

    With K (C, D) the unit hand-made texts and t the learned ones, U1 (H, D) and U2 (N W, H)::

        p_c  = reshape(U2 q(U1 K_c + u1) + u2, (N, W)),   q(z) = z sigmoid(1.702 z)
        before block b:  tokens 1..N := m p_c + (1 - m) tokens 1..N
        loss = ce + weight * (1 - mean_c cos(t_c, K_c))

    b is ``injection_block``, counted from 0; None is 8 as released, or the middle block of a tower
    of fewer than 9. m is ``injection_weight``: at 1, as released, the context acts through the
    blocks before b alone. N is ``class_prompt_length``; None is ``num_ctx``. H is ``meta_hidden``;
    None is a quarter of D. In the release b, m, N and the weight are literals, and its option W is
    overwritten. New classes get their tokens from their own K.

    ``ctx_init`` is empty as in the released configuration: ``num_ctx`` vectors from N(0, 0.02
    squared). ``prompt_template`` is the prompt whose first tokens are the context; None is one "X"
    for each vector and the name. The released table has four literal "X", and a suffix for some
    datasets; with fewer vectors the others stay as fixed tokens. With more tokens to replace than
    stand before the name, it overwrites class names silently: ``long_context`` "overwrite" does,
    "refuse" is an error. K comes from the dataset's template (``experiment.template`` replaces it).
    The release fails with class-specific contexts, which are not offered.

    Source: Yao et al., TCP: Textual-based Class-aware Prompt tuning for Visual-Language Model,
    CVPR 2024, arXiv 2311.18231.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        num_ctx: PositiveInt = DEFAULT_NUM_CTX,
        ctx_init: str = "",
        prompt_template: PromptTemplate | None = None,
        class_prompt_length: PositiveInt | None = None,
        injection_block: NonNegativeInt | None = None,
        injection_weight: Probability = 1.0,
        meta_hidden: PositiveInt | None = None,
        meta_activation: MetaActivation = "quick_gelu",
        weight: NonNegativeFloat = 8.0,
        long_context: LongContext = "refuse",
    ) -> None:
        super().__init__(clip, classes)
        spec = clip.spec
        self.ctx = nn.Parameter(
            initial_context(clip, ctx_init, num_ctx, seeds.generator("context")).clone()
        )
        self.template = prompt_template or default_template(len(self.ctx))
        self.class_prompt_length = class_prompt_length or len(self.ctx)
        self.injection_block = _checked_block(injection_block, spec.text_depth)
        self.injection_weight, self.weight = injection_weight, weight
        self.meta_activation: MetaActivation = meta_activation
        self._check_length(long_context)
        hidden = meta_hidden or max(1, spec.joint_width // 4)
        out = self.class_prompt_length * spec.text_width
        self.fc1 = seeded_linear(spec.joint_width, hidden, seeds.generator("fc1"))
        self.fc2 = seeded_linear(hidden, out, seeds.generator("fc2"))
        self.set_classes(classes)

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """With words their number is the context's; tokens of weight 0 are none; what overwrites
        nothing needs no permission; the template may be the default.
        """
        context = settled_context(parameters["num_ctx"], parameters["ctx_init"])
        simple = {**parameters, **context, "long_context": "refuse"}
        number = len(context["ctx_init"].split()) or simple["num_ctx"]
        if simple["class_prompt_length"] == number:
            simple["class_prompt_length"] = None
        if simple["prompt_template"] == default_template(number):
            simple["prompt_template"] = None
        if not simple["injection_weight"]:
            simple |= NO_TOKENS
        return simple

    @classmethod
    def idle(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
        return idle_number("TCP", parameters["num_ctx"], parameters["ctx_init"])

    @classmethod
    def hooked_towers(cls, parameters: Mapping[str, Any]) -> frozenset[Tower]:
        return frozenset(("text",))

    def set_classes(self, classes: ClassNames) -> None:
        self.classes = classes
        self.prompts = ContextPrompts(
            self.clip,
            classes,
            placeholder="",
            num_ctx=len(self.ctx),
            template=self.template,
            min_length=1 + max(len(self.ctx), self.class_prompt_length),
        )
        self.register_buffer("fixed_CD", hand_made_texts(self.clip, classes), persistent=False)

    def class_prompts(self) -> Tensor:
        """The class-aware tokens p (C, N, W)."""
        hidden_CH: Tensor = self.fc1(self.get_buffer("fixed_CD"))
        if self.meta_activation == "relu":
            hidden_CH = hidden_CH.relu()
        else:
            hidden_CH = hidden_CH * (1.702 * hidden_CH).sigmoid()
        flat: Tensor = self.fc2(hidden_CH)
        return flat.reshape(len(flat), self.class_prompt_length, -1)

    def encode(self) -> Tensor:
        """Class texts (C, D), not normalized."""
        hook = ClassAwareTokens(self.injection_block, self.injection_weight, self.class_prompts())
        return self.prompts.encode_each(self.clip, self.ctx, hook)

    def class_texts(self) -> Tensor:
        return unit(self.encode())

    def forward(self, batch: Batch) -> Forward:
        """``aux`` holds ``own_text``, the class texts before a refiner."""
        out = super().forward(batch)
        return replace(out, aux={"own_text": out.text})

    def context_vectors(self) -> Mapping[str, Tensor]:
        return {"ctx": self.ctx}

    def released_names(self) -> Mapping[str, str | None]:
        layers = {f"fc{n}.{k}": f"meta_net.linear{n}.{k}" for n in (1, 2) for k in KINDS}
        return {"ctx": "ctx", **layers}

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy, "knowledge": self.knowledge}

    def knowledge(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        """The learned texts of all classes stay near the hand-made ones."""
        fixed = self.get_buffer("fixed_CD")
        return self.weight * text_distance(out.aux["own_text"], fixed, "cosine")

    def _check_length(self, long_context: LongContext) -> None:
        """Raise ValueError where tokens are replaced that do not stand before the name."""
        before = self.template.partition("{}")[0]
        found = len(self.clip.tokenizer.encode(before))
        for name, number in (
            ("num_ctx", len(self.ctx)),
            ("class_prompt_length", self.class_prompt_length),
        ):
            if number > found and long_context == "refuse":
                raise ValueError(
                    f"TCP.{name} is {number}, but TCP.prompt_template {self.template!r} has "
                    f"{found} token{'s' * (found != 1)} before the name, and the rest would "
                    "overwrite the class names; use a longer template, or TCP.long_context = "
                    "'overwrite' as the release does"
                )
            if 1 + number > self.clip.spec.context_length:
                raise ValueError(
                    f"TCP.{name} is {number}, but the text tower takes "
                    f"{self.clip.spec.context_length} tokens; use a smaller number"
                )


def default_template(num_ctx: int) -> str:
    """A placeholder for each context token, the name and a period."""
    return " ".join(["X"] * num_ctx) + " {}."


def _checked_block(block: int | None, text_depth: int) -> int:
    """The block with the class-aware tokens; ValueError for one that the tower lacks."""
    if block is None:
        return RELEASED_BLOCK if text_depth > RELEASED_BLOCK else text_depth // 2
    if block >= text_depth:
        raise ValueError(
            f"TCP.injection_block is {block}, counted from 0, but the text tower has {text_depth} "
            f"blocks; use at most {text_depth - 1}, or None for the default"
        )
    return block
