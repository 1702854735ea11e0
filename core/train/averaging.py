"""Averages of parameters over the epochs of one training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def gaussian_weights(
    num_epochs: int, *, mean: float, std: float, starts_at: int = 1
) -> tuple[float, ...]:
    """Weights of epochs 1..E, proportional to ``exp(-(e - mean)^2 / (2 std^2))``; the sum is 1.

    Epochs before ``starts_at`` have weight 0. Raises ValueError if no epoch is left.
    """
    if starts_at > num_epochs:
        raise ValueError(
            f"averaging starts at epoch {starts_at}, but there are {num_epochs} epochs; "
            "start earlier or train longer"
        )
    epochs = torch.arange(1, num_epochs + 1, dtype=torch.float64)
    exponent = -((epochs - mean) ** 2) / (2 * std**2)
    exponent[: starts_at - 1] = -torch.inf
    return tuple(exponent.softmax(dim=0).tolist())


class EpochAverage:
    """The weighted sum of the parameters at the end of every epoch; training is not affected."""

    def __init__(self, parameters: Sequence[nn.Parameter], weights: Sequence[float]) -> None:
        self.parameters = parameters
        self.weights = weights
        self.sums: list[Tensor] = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def add(self, epoch: int) -> None:
        """Add the state at the end of ``epoch``, counted from 1."""
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            total.add_(parameter, alpha=self.weights[epoch - 1])

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the parameters by their average."""
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            parameter.copy_(total)
