"""Aggregation: joins what a text is with what the cache said. Shapes: texts (..., D)."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.initial import seeded_linear
from core.registry import NonNegativeFloat, register
from core.seeding import Seeds


class Aggregation(nn.Module, ABC):
    """Refines texts (..., D) with what the cache read. Built as ``Aggregation(width, seeds)``."""

    @abstractmethod
    def forward(self, text: Tensor, read: Tensor) -> Tensor: ...


@register("aggregation")
class LinearAggregation(Aggregation):
    """``t + alpha * W [t, f]`` with a learned W (D, 2D), no bias.

    As released the result is not made unit again before the logits; ``renormalise`` does that.

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

    def forward(self, text: Tensor, read: Tensor) -> Tensor:
        refined: Tensor = text + self.alpha * self.extractor(torch.cat([text, read], dim=-1))
        return F.normalize(refined, dim=-1) if self.renormalise else refined


@register("aggregation")
class NoAggregation(Aggregation):
    """Off: texts stay as they are, whatever the cache says."""

    def __init__(self, width: int, seeds: Seeds) -> None:
        super().__init__()

    def forward(self, text: Tensor, read: Tensor) -> Tensor:
        return text
