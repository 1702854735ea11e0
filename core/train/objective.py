"""The objective of a run: the method's terms and the refiner's terms, by name."""

from collections.abc import Mapping

from torch import Tensor

from core.interfaces import Criterion, LossTerm
from core.types import Forward


class Objective:
    """Calls every term and returns them by name; the loss is their sum."""

    def __init__(
        self,
        method_terms: Mapping[str, LossTerm],
        refiner_terms: Mapping[str, LossTerm],
        criterion: Criterion,
    ) -> None:
        if both := sorted(set(method_terms) & set(refiner_terms)):
            raise ValueError(f"method and refiner both have loss terms named {both}; rename one")
        self.terms = {**method_terms, **refiner_terms}
        self.criterion = criterion

    def __call__(self, out: Forward, targets: Tensor) -> dict[str, Tensor]:
        """Weighted 0-d terms of one batch."""
        return {name: term(out, targets, self.criterion) for name, term in self.terms.items()}
