"""The optimizers and the learning-rate schedule used in the field."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from core.config import (
    Configurable,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    Probability,
    Reference,
    lookup,
    register,
)
from core.train.eager_optimizers import EagerAdam, EagerAdamW, EagerSGD

Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]

WARMUP_EPOCHS = "ConstantThenCosine.warmup_epochs"


class Optimizer(Configurable, ABC):
    """Settings of an optimizer.

    ``build`` creates it for parameters, or for groups of them as dicts of torch's, in which
    ``weight_decay`` may replace the optimizer's.
    """

    lr: float

    @abstractmethod
    def build(self, parameters: Parameters) -> torch.optim.Optimizer: ...


def _built(
    kind: Callable[..., torch.optim.Optimizer],
    parameters: Parameters,
    lr: float,
    settings: Mapping[str, Any],
    on_device: Mapping[str, Any] = MappingProxyType({}),
) -> torch.optim.Optimizer:
    """The optimizer; for parameters in float32 on a GPU as one kernel a step that reads its
    learning rate from the device, so that steps can be repeated there (``graphed_step.py``).
    """
    given: list[Any] = list(parameters)
    groups = given if isinstance(given[0], dict) else [{"params": given}]
    every = [p for group in groups for p in group["params"]]
    if not all(p.device.type == "cuda" and p.dtype == torch.float32 for p in every):
        return kind(given, lr=lr, **settings)
    if not torch.cuda.is_available():  # a device that is only pretended
        return kind(given, lr=lr, **settings)
    rate = torch.tensor(lr, device=every[0].device)
    made = kind(given, lr=rate, fused=True, **settings, **on_device)
    for group in made.param_groups:  # each has a rate of its own
        group["lr"] = rate.clone()
    return made


def set_rate(group: dict[str, Any], lr: float) -> None:
    """Set the learning rate of a group of parameters, wherever it is kept."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def _check_lr(owner: str, lr: float) -> None:
    """Raise ValueError for a rate that no parameter could be multiplied with."""
    if lr > torch.finfo(torch.float32).max:
        raise ValueError(f"{owner}.lr = {lr} is more than float32 holds; use a lower one")


@register("optimizer")
class SGD(Optimizer):
    """Stochastic gradient descent with momentum; the field's defaults (Dassl)."""

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.002,
        momentum: Probability = 0.9,
        weight_decay: NonNegativeFloat = 5e-4,
    ) -> None:
        _check_lr("SGD", lr)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        settings = {"momentum": self.momentum, "weight_decay": self.weight_decay}
        return _built(EagerSGD, parameters, self.lr, settings)


@register("optimizer")
class Adam(Optimizer):
    """Adam with L2 weight decay; ``eps = 1e-3`` is the released setting of SEP and TCP.

    Source: Kingma and Ba, ICLR 2015, arXiv 1412.6980.
    """

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.002,
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 5e-4,
    ) -> None:
        _check_lr("Adam", lr)
        self.lr, self.eps, self.weight_decay = lr, eps, weight_decay

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        settings = {"eps": self.eps, "weight_decay": self.weight_decay}
        return _built(EagerAdam, parameters, self.lr, settings, on_device={"capturable": True})


@register("optimizer")
class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    Source: Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101.
    """

    def __init__(
        self,
        *,
        lr: PositiveFloat = 0.002,
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.01,
    ) -> None:
        _check_lr("AdamW", lr)
        self.lr, self.eps, self.weight_decay = lr, eps, weight_decay

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        settings = {"eps": self.eps, "weight_decay": self.weight_decay}
        return _built(EagerAdamW, parameters, self.lr, settings, on_device={"capturable": True})


class Schedule(Configurable, ABC):
    """The learning rate of each epoch."""

    @abstractmethod
    def at(self, epoch: int, num_epochs: int, lr: float) -> float:
        """The learning rate of ``epoch`` in 1..num_epochs, given the optimizer's ``lr``."""

    def has_one_rate(self, epoch: int) -> bool:
        """Whether parameters with a rate of their own have that of all others in this epoch."""
        return False


@register("schedule")
class ConstantThenCosine(Schedule):
    """``warmup_lr`` for the first epochs, then a cosine over the full number of epochs.

    Epoch e after w warm-up epochs runs at ``lr / 2 * (1 + cos(pi * (e - 1 - w) / E))``: as
    released, the warm-up does not shorten the cosine, so that the last epoch does not reach 0.
    ``warmup_lr`` is the rate of all parameters, as released (Dassl), those with a rate of their own
    among them.
    """

    def __init__(
        self, *, warmup_epochs: NonNegativeInt = 1, warmup_lr: PositiveFloat = 1e-5
    ) -> None:
        self.warmup_epochs, self.warmup_lr = warmup_epochs, warmup_lr

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """Without warm-up its learning rate does not matter."""
        return parameters if parameters["warmup_epochs"] else {**parameters, "warmup_lr": 1e-5}

    @classmethod
    def simplify_below(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """A warm-up of all epochs leaves nothing of the optimizer's learning rate; a cosine over
        one epoch is constant.
        """
        epochs, optimizer = values.get("experiment.epochs"), values.get("experiment.optimizer")
        if epochs is None:
            return {}
        if not values[WARMUP_EPOCHS]:
            return {"experiment.schedule": Reference("Constant")} if epochs == 1 else {}
        if values[WARMUP_EPOCHS] < epochs or optimizer is None:
            return {}
        lr = lookup(optimizer.name).parameters["lr"].default
        return {WARMUP_EPOCHS: epochs, f"{optimizer.name}.lr": lr}

    def has_one_rate(self, epoch: int) -> bool:
        return epoch <= self.warmup_epochs

    def at(self, epoch: int, num_epochs: int, lr: float) -> float:
        if epoch <= self.warmup_epochs:
            return self.warmup_lr
        return lr / 2 * (1 + math.cos(math.pi * (epoch - 1 - self.warmup_epochs) / num_epochs))


@register("schedule")
class Constant(Schedule):
    """The optimizer's learning rate in every epoch."""

    def at(self, epoch: int, num_epochs: int, lr: float) -> float:
        return lr
