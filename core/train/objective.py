"""The objective of a run: the method's terms and the refiner's terms, by name."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from core.interfaces import Criterion, LossTerm
from core.store.epochs import check_logged_names
from core.types import Forward


class Objective:
    """Calls every term and returns them by name; the loss is their sum.

    ``guide_terms`` are the method's terms that only steer the update: no part of the loss.
    """

    def __init__(
        self,
        method_terms: Mapping[str, LossTerm],
        refiner_terms: Mapping[str, LossTerm],
        criterion: Criterion,
        guide_terms: Mapping[str, LossTerm] = MappingProxyType({}),
    ) -> None:
        for terms in (method_terms, refiner_terms, guide_terms):
            check_logged_names(terms, "a loss term")
        named = Counter([*method_terms, *refiner_terms, *guide_terms])
        if both := sorted(name for name, count in named.items() if count > 1):
            raise ValueError(f"method and refiner both have loss terms named {both}; rename one")
        self.terms = {**method_terms, **refiner_terms}
        self.guide_terms = guide_terms
        self.criterion = criterion

    def __call__(self, out: Forward, targets: Tensor) -> dict[str, Tensor]:
        """Weighted 0-d terms of one batch."""
        return {name: term(out, targets, self.criterion) for name, term in self.terms.items()}

    def guides(self, out: Forward, targets: Tensor) -> dict[str, Tensor]:
        """The guide terms of one batch, 0-d."""
        return {name: term(out, targets, self.criterion) for name, term in self.guide_terms.items()}
