"""Aggregation: combines class texts with the cache. Shapes: texts (..., D), M slots."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import (
    Configurable,
    NonNegativeFloat,
    PositiveInt,
    Probability,
    Reference,
    register,
)
from core.seeding import Seeds, seeded_linear
from refiners.cache import Cache, softmax_of


class Aggregation(nn.Module, Configurable, ABC):
    """Refines texts (..., D) with a cache. Built as ``Aggregation(width, seeds)``.

    ``reads_cache``: the result depends on the cache.
    """

    reads_cache: ClassVar[bool] = True

    @abstractmethod
    def forward(self, text: Tensor, cache: Cache) -> Tensor: ...


@register("aggregation")
class LinearAggregation(Aggregation):
    """``t + alpha * W [t, f]`` with f the cache's read-out and a learned W (D, 2D), no bias.

    As released, the result is not normalized again before the logits; ``renormalise`` does that.

    Source: Xie et al., TextRefiner, AAAI 2025, arXiv 2412.08176.
    """

    def __init__(
        self,
        width: int,
        seeds: Seeds,
        *,
        alpha: NonNegativeFloat = 0.2,
        renormalise: bool = False,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.renormalise = renormalise
        self.extractor = seeded_linear(2 * width, width, seeds.generator("extractor"), bias=False)

    def forward(self, text: Tensor, cache: Cache) -> Tensor:
        joined = torch.cat([text, cache.read(text)], dim=-1)
        refined: Tensor = text + self.alpha * self.extractor(joined)
        return F.normalize(refined, dim=-1) if self.renormalise else refined

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any] | Reference:
        """With ``alpha`` 0 nothing is added."""
        nothing = parameters.get("alpha") == 0 and not parameters.get("renormalise")
        return Reference("NoAggregation") if nothing else parameters


@register("aggregation")
class GatedAggregation(Aggregation):
    """``t + g * W [t, f]``; a gate g in (0, 1) controls how much is added for each class.

    ``g = sigmoid(w [t, f] + b)``; b starts such that the gate is ``initial_gate``, so that training
    starts near LinearAggregation with that alpha.

    Source: ours; gating as in Srivastava et al., Highway Networks, 2015, arXiv 1505.00387.
    """

    def __init__(
        self,
        width: int,
        seeds: Seeds,
        *,
        initial_gate: Probability = 0.2,
        renormalise: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < initial_gate < 1:
            raise ValueError(
                f"GatedAggregation.initial_gate must be above 0 and below 1, got {initial_gate}"
            )
        self.renormalise = renormalise
        self.extractor = seeded_linear(2 * width, width, seeds.generator("extractor"), bias=False)
        self.gate = seeded_linear(2 * width, 1, seeds.generator("gate"))
        nn.init.constant_(self.gate.bias, float(torch.logit(torch.tensor(initial_gate))))

    def forward(self, text: Tensor, cache: Cache) -> Tensor:
        joined = torch.cat([text, cache.read(text)], dim=-1)
        refined: Tensor = text + self.gate(joined).sigmoid() * self.extractor(joined)
        return F.normalize(refined, dim=-1) if self.renormalise else refined


@register("aggregation")
class FusionAggregation(Aggregation):
    """Texts attend to the cache's slots, in the form of SEP's token fusion.

    ``m = s1 * t + (1 - s1) * attention(LN t, LN M)``, ``r = s2 * m + (1 - s2) * MLP(LN m)`` with
    learned scalars that start at ``initial_mix``. It reads slots directly: a cache's read
    temperature has no effect here. An empty cache leaves only the MLP.

    Source: ours, after SEP's fusion (arXiv 2405.15549).
    """

    def __init__(
        self,
        width: int,
        seeds: Seeds,
        *,
        hidden_width: PositiveInt = 256,
        initial_mix: Probability = 0.75,
        renormalise: bool = True,
    ) -> None:
        super().__init__()
        self.renormalise = renormalise
        self.query = seeded_linear(width, width, seeds.generator("query"))
        self.key_value = seeded_linear(width, 2 * width, seeds.generator("key_value"))
        self.text_norm, self.slot_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp_norm = nn.LayerNorm(width)
        self.enter = seeded_linear(width, hidden_width, seeds.generator("enter"), bias=False)
        self.leave = seeded_linear(hidden_width, width, seeds.generator("leave"), bias=False)
        self.mix = nn.Parameter(torch.full((2,), initial_mix))

    def forward(self, text: Tensor, cache: Cache) -> Tensor:
        first, second = self.mix
        fused = text
        if len(slots_MD := cache.slots()):
            filled_M = cache.filled()
            fused = first * text + (1 - first) * self._attend(text, slots_MD, filled_M)
            fused = fused if filled_M is None else torch.where(filled_M.any(), fused, text)
        changed = self.leave(F.gelu(self.enter(self.mlp_norm(fused))))
        refined: Tensor = second * fused + (1 - second) * changed
        return F.normalize(refined, dim=-1) if self.renormalise else refined

    def _attend(self, text: Tensor, slots_MD: Tensor, filled_M: Tensor | None) -> Tensor:
        query = self.query(self.text_norm(text))
        key_MD, value_MD = self.key_value(self.slot_norm(slots_MD)).chunk(2, dim=-1)
        similarity = query @ key_MD.t() / query.shape[-1] ** 0.5
        attended: Tensor = softmax_of(similarity, filled_M) @ value_MD
        return attended


@register("aggregation")
class AdapterAggregation(Aggregation):
    """``t + alpha * W2 relu(W1 t)``: an adapter on texts alone, with no memory to read.

    A control for LinearAggregation: what is left of a gain that needs learned weights on the texts
    but no visual concepts? W1 is (H, D) and W2 (D, H) without bias; H is ``hidden_width``, or D if
    None, which gives as many weights, 2 D squared, as LinearAggregation has.

    Source: ours, as a control; after the text adapter of Gao et al., CLIP-Adapter, IJCV 2024,
    arXiv 2110.04544.
    """

    reads_cache = False

    def __init__(
        self,
        width: int,
        seeds: Seeds,
        *,
        alpha: NonNegativeFloat = 0.2,
        hidden_width: PositiveInt | None = None,
        renormalise: bool = False,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.renormalise = renormalise
        hidden = hidden_width or width
        self.enter = seeded_linear(width, hidden, seeds.generator("enter"), bias=False)
        self.leave = seeded_linear(hidden, width, seeds.generator("leave"), bias=False)

    def forward(self, text: Tensor, cache: Cache) -> Tensor:
        refined: Tensor = text + self.alpha * self.leave(self.enter(text).relu())
        return F.normalize(refined, dim=-1) if self.renormalise else refined

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any] | Reference:
        """With ``alpha`` 0 nothing is added."""
        nothing = parameters.get("alpha") == 0 and not parameters.get("renormalise")
        return Reference("NoAggregation") if nothing else parameters


@register("aggregation")
class NoAggregation(Aggregation):
    """Off: texts are unchanged, regardless of the cache."""

    reads_cache = False

    def __init__(self, width: int, seeds: Seeds) -> None:
        super().__init__()

    def forward(self, text: Tensor, cache: Cache) -> Tensor:
        return text
