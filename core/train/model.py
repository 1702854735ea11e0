"""The trained model: a base method and a refiner on top of it."""

from typing import Any

from torch import Tensor, nn

from core.interfaces import Method, ParameterGroup, Refiner
from core.store.epochs import check_logged_names
from core.types import Batch, ClassNames, Forward


class RefinedMethod(nn.Module):
    """``refiner(method(batch))``; its learned state is what a checkpoint holds."""

    def __init__(self, method: Method, refiner: Refiner) -> None:
        super().__init__()
        self.method: Method = method
        self.refiner: Refiner = refiner
        refiner.set_classes(method.classes)

    def forward(self, batch: Batch) -> Forward:
        out: Forward = self.refiner(self.method(batch))
        return out

    @property
    def learns(self) -> bool:
        """Whether there is something to learn from training images."""
        return self.method.trains or bool(self.trainable())

    def set_classes(self, classes: ClassNames) -> None:
        """Score other classes from now on; ValueError where the method cannot."""
        self.method.set_classes(classes)
        self.refiner.set_classes(classes)

    def released_names(self) -> dict[str, str | None]:
        """Names in published checkpoints for the method and the refiner together."""
        owners = {"method": self.method.released_names(), "refiner": self.refiner.released_names()}
        return {f"{owner}.{k}": v for owner, names in owners.items() for k, v in names.items()}

    def trainable(self) -> list[nn.Parameter]:
        """Parameters that require grad, each once."""
        return [p for p in self.parameters() if p.requires_grad]

    def parameter_groups(self) -> list[ParameterGroup]:
        """All trainable parameters: those without a rate of their own, then the other groups."""
        own = (*self.method.parameter_groups(), *self.refiner.parameter_groups())
        taken = {id(parameter) for group in own for parameter in group.parameters}
        rest = tuple(p for p in self.trainable() if id(p) not in taken)
        return [group for group in (ParameterGroup(rest), *own) if group.parameters]

    def metrics(self) -> dict[str, float | Tensor]:
        """What method and refiner log of an epoch; on the device what they give there, 0-d.

        Raises ValueError where both log one name, for a name that the log uses itself, and for what
        is no number.
        """
        of_method, of_refiner = self.method.metrics(), self.refiner.metrics()
        if both := sorted(set(of_method) & set(of_refiner)):
            raise ValueError(f"method and refiner both have metrics named {both}; rename one")
        metrics = {**of_method, **of_refiner}
        check_logged_names(metrics, "a metric")
        return {name: _number(name, value) for name, value in metrics.items()}


def _number(name: str, value: Any) -> float | Tensor:
    """A number, which may be on the device."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.detach().reshape(())
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # torch's, of a tensor with several
        raise ValueError(
            f"the metric {name!r} must be a number, got {type(value).__name__}: return one per name"
        ) from None
