"""The trained model: a base method and a refiner on top of it."""

from torch import nn

from core.interfaces import Method, Refiner
from core.types import Batch, Forward


class RefinedMethod(nn.Module):
    """``refiner(method(batch))``; its learned state is what a checkpoint holds."""

    def __init__(self, method: Method, refiner: Refiner) -> None:
        super().__init__()
        self.method: Method = method
        self.refiner: Refiner = refiner

    def forward(self, batch: Batch) -> Forward:
        out: Forward = self.refiner(self.method(batch))
        return out

    def released_names(self) -> dict[str, str | None]:
        """Names in published checkpoints for the method and the refiner together."""
        owners = {"method": self.method.released_names(), "refiner": self.refiner.released_names()}
        return {f"{owner}.{k}": v for owner, names in owners.items() for k, v in names.items()}

    def trainable(self) -> list[nn.Parameter]:
        """Parameters that require grad, each once."""
        return [p for p in self.parameters() if p.requires_grad]
