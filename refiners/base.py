"""The interface of a refiner, and the refiner that does nothing."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from core.registry import register
from core.seeding import Seeds
from core.train.losses import LossTerm
from core.types import Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinerInput:
    """What a refiner will get from the base method: widths, counts and the fields it can ask for."""

    text_width: int
    local_width: int
    num_patches: int
    num_classes: int
    provides: frozenset[str]


class Refiner(nn.Module, ABC):
    """Takes a base method's output and improves its class texts. Built as ``Refiner(source, seeds)``."""

    @abstractmethod
    def forward(self, out: Forward) -> Forward:
        """The same output with refined ``text``; never changes state."""

    def observe(self, out: Forward) -> None:
        """State change of one training step, such as a cache write; gets what forward returned."""

    def needs(self) -> frozenset[str]:
        """Image fields that training uses beyond ``pooled``."""
        return frozenset()

    def loss_terms(self) -> Mapping[str, LossTerm]:
        """Terms added to the method's own."""
        return {}


@register("refiner")
class NullRefiner(Refiner):
    """No refiner: the base method as it is."""

    def __init__(self, source: RefinerInput, seeds: Seeds) -> None:
        super().__init__()

    def forward(self, out: Forward) -> Forward:
        return out


RefinerFactory = Callable[..., Refiner]
