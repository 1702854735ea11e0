"""KgCoOp: knowledge-guided context optimization. Shapes: C classes, D joint width."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from core.clip.frozen import FrozenCLIP
from core.clip.prompts import DEFAULT_NUM_CTX, settled_context
from core.config import NonNegativeFloat, PositiveInt, register
from core.interfaces import Criterion, LossTerm
from core.seeding import Seeds
from core.train.losses import TextDistance, text_distance
from core.types import Batch, ClassNames, Forward
from methods.base import hand_made_texts
from methods.coop import CoOp


@register("method")
class KgCoOp(CoOp):
    """CoOp whose class texts stay near those of the hand-made prompt.

    With t the learned and K the hand-made texts of all C classes, unit norm, both (C, D)::

        loss = ce + weight * (1 - mean_c cos(t_c, K_c))

    ``distance`` "squared" is the paper's ``mean_c |t_c - K_c| ** 2``, twice the released cosine
    form. K comes from the dataset's template (``experiment.template`` replaces it). Where that is
    "a photo of a {}." and the context starts from the same words, the term starts at exactly 0 with
    zero gradient. The weight is 8 as in the released scripts, where the code's own default is 1.

    The released code takes any true CTX_INIT for "a photo of a", ignores the number of vectors and
    class-specific contexts then, and always puts the class name at the end, whatever its option
    says. Here the words are those of ``ctx_init``, as in CoOp. Its checkpoints hold a bias, a
    network and an adapter that are frozen and unused.

    Source: Yao et al., Visual-Language Prompt Tuning with Knowledge-guided Context Optimization,
    CVPR 2023, arXiv 2303.13283.
    """

    released_unused = ("bias_vectors", r"meta_net\..*")

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        num_ctx: PositiveInt = DEFAULT_NUM_CTX,
        ctx_init: str = "a photo of a",
        class_specific: bool = False,
        weight: NonNegativeFloat = 8.0,
        distance: TextDistance = "cosine",
    ) -> None:
        super().__init__(
            clip, classes, seeds, num_ctx=num_ctx, ctx_init=ctx_init, class_specific=class_specific
        )
        self.weight = weight
        self.distance: TextDistance = distance
        self.register_buffer("fixed_CD", hand_made_texts(clip, classes), persistent=False)

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """With words their number is the context's; a distance of weight 0 does not matter."""
        context = settled_context(parameters["num_ctx"], parameters["ctx_init"])
        distance = parameters["distance"] if parameters["weight"] else "cosine"
        return {**parameters, **context, "distance": distance}

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        return bool(parameters["weight"] > 0)

    def set_classes(self, classes: ClassNames) -> None:
        super().set_classes(classes)
        self.register_buffer("fixed_CD", hand_made_texts(self.clip, classes), persistent=False)

    def forward(self, batch: Batch) -> Forward:
        """The output of CoOp; ``aux`` holds ``own_text``, the class texts before a refiner."""
        out = super().forward(batch)
        return replace(out, aux={"own_text": out.text})

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {**super().loss_terms(), "knowledge": self.knowledge}

    def knowledge(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        """The learned texts of all classes stay near the hand-made ones."""
        fixed = self.get_buffer("fixed_CD")
        return self.weight * text_distance(out.aux["own_text"], fixed, self.distance)
