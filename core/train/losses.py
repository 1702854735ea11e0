"""Loss terms: each takes what the model said, the labels and a criterion, and is 0-d."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from core.types import Forward

Criterion = Callable[[Tensor, Tensor], Tensor]


class LossTerm(Protocol):
    """One summand of an objective, its weight already applied."""

    def __call__(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor: ...


def cross_entropy(out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
    """The method's criterion on the logits of the whole image."""
    return criterion(out.logits(), targets)
