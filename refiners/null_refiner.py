"""The refiner that does nothing."""

from core.config import register
from core.interfaces import Refiner
from core.seeding import Seeds
from core.types import Forward, MethodOutput


@register("refiner")
class NullRefiner(Refiner):
    """No refiner: the base method unchanged."""

    def __init__(self, source: MethodOutput, seeds: Seeds) -> None:
        super().__init__()

    def forward(self, out: Forward) -> Forward:
        return out
