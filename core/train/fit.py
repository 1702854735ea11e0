"""The training loop."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from core.finite import not_finite
from core.interfaces import Gradients, Method, ParameterGroup
from core.seeding import Seeds
from core.train.batches import TrainingBatches
from core.train.checkpoints import copy_state, learned_state, restore_state
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.train.optimizers import Optimizer, Schedule
from core.types import Batch

Log = Callable[[Mapping[str, Any]], None]
EpochScore = Callable[[RefinedMethod], float]


LOWER = "try a lower lr"


class DivergedError(RuntimeError):
    """A loss, or what was learned, was not finite."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The training budget: number of epochs, optimizer and learning-rate schedule."""

    epochs: int
    optimizer: Optimizer
    schedule: Schedule


@dataclass(kw_only=True)
class FitResult:
    """The cost of training, and the epoch whose weights the model has."""

    seconds: float = 0.0
    images: int = 0
    selected_epoch: int = 0
    scores: list[float] = field(default_factory=list)


def train_step(
    model: RefinedMethod,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    autocast: AbstractContextManager[object],
) -> dict[str, Tensor]:
    """One step: forward, loss, gradient, state change of the refiner, update."""
    optimizer.zero_grad(set_to_none=True)
    with autocast:
        out = model(batch)
        targets = model.method.targets(batch)
        terms = objective(out, targets)
        loss = torch.stack(list(terms.values())).sum()
        guides = objective.guides(out, targets)
    gradients = {name: _gradients(guide, model.method) for name, guide in guides.items()}
    torch.autograd.backward(loss)
    model.method.after_backward(gradients)
    model.refiner.observe(out, targets)
    optimizer.step()
    values = {"loss": loss, **terms, **guides}
    return {name: value.detach() for name, value in values.items()}


def _gradients(guide: Tensor, method: Method) -> Gradients:
    """The gradient of a guide term with respect to each parameter of the method that it reaches."""
    named = {name: p for name, p in method.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(guide, list(named.values()), retain_graph=True, allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


def fit(
    model: RefinedMethod,
    objective: Objective,
    batches: TrainingBatches,
    budget: Budget | None,
    seeds: Seeds,
    *,
    log: Log,
    select: EpochScore | None = None,
    autocast: AbstractContextManager[object] | None = None,
) -> FitResult:
    """Train for ``budget.epochs``; with ``select`` keep the first epoch with the highest score.

    Without parameters or a budget, what ``begin_training`` learns is all. Raises DivergedError,
    naming the epoch, when a loss or the learned state is not finite after it: the last step changes
    a state whose loss nobody computes.
    """
    if not model.learns:
        return FitResult()
    model.train()
    num_epochs = 0 if budget is None else budget.epochs
    result = FitResult(selected_epoch=num_epochs)
    _begin(model, batches, num_epochs, seeds, result)
    if budget is None or not model.trainable():
        return _finished(model, result)
    autocast = autocast or nullcontext()
    groups = model.parameter_groups()
    optimizer = budget.optimizer.build([_settings(group) for group in groups])
    best: dict[str, Tensor] | None = None
    for epoch in range(1, budget.epochs + 1):
        lr = budget.schedule.at(epoch, budget.epochs, budget.optimizer.lr)
        for settings, group in zip(optimizer.param_groups, groups, strict=True):
            settings["lr"] = lr * group.lr_factor
        started = time.perf_counter()
        sums: dict[str, Tensor] = {}
        for batch in batches.epoch(epoch, seeds):
            terms = train_step(model, objective, optimizer, batch, autocast)
            sums = {name: sums.get(name, 0) + term for name, term in terms.items()}
            result.images += len(batch)
        totals = torch.stack(list(sums.values())).tolist()  # the host waits once an epoch
        means = {name: total / len(batches) for name, total in zip(sums, totals, strict=True)}
        result.seconds += time.perf_counter() - started
        log({"epoch": epoch, "epochs": num_epochs, "lr": lr, **means, **_metrics(model)})
        _check_epoch(model, epoch, means["loss"])
        model.method.end_epoch(epoch)
        if select is not None:
            best = _keep_best(model, select, epoch, result, best)
    _check_last_step(model, objective, batch, autocast)
    model.method.end_training()
    if best is not None:
        restore_state(model, best)
    return _finished(model, result)


def _metrics(model: RefinedMethod) -> dict[str, dict[str, float]]:
    """What method and refiner tell of an epoch, apart from the terms of the loss."""
    metrics = model.metrics()
    return {"metrics": metrics} if metrics else {}


def _check_epoch(model: RefinedMethod, epoch: int, loss: float) -> None:
    """Raise DivergedError for the loss of an epoch, or a learned tensor, that is not finite."""
    if not math.isfinite(loss):
        raise DivergedError(f"the loss was {loss} in epoch {epoch}; {LOWER}")
    _check_learned(model, f"after epoch {epoch}")


def _finished(model: RefinedMethod, result: FitResult) -> FitResult:
    _check_learned(model, "at the end of training")
    model.eval()
    return result


def _begin(
    model: RefinedMethod,
    batches: TrainingBatches,
    num_epochs: int,
    seeds: Seeds,
    result: FitResult,
) -> None:
    """Let the method see every training image once, before there is an optimizer."""
    started = time.perf_counter()
    model.method.begin_training(batches.every_image(seeds), num_epochs)
    if not model.method.trains_by_gradient:
        result.seconds += time.perf_counter() - started
        result.images += len(batches.labels)


def _settings(group: ParameterGroup) -> dict[str, Any]:
    """The group as torch's optimizers take it."""
    decay = {} if group.weight_decay is None else {"weight_decay": group.weight_decay}
    return {"params": list(group.parameters), **decay}


@torch.no_grad()
def _check_last_step(
    model: RefinedMethod,
    objective: Objective,
    batch: Batch,
    autocast: AbstractContextManager[object],
) -> None:
    """Raise DivergedError where the loss after the last step, which no epoch has, is not finite.

    It is computed once more on the last batch, in eval mode, which changes no state: parts that
    only training uses may overflow where test images are still scored, all as one class.
    """
    model.eval()
    with autocast:
        terms = objective(model(batch), model.method.targets(batch))
    name = not_finite(terms)
    if name is not None:
        raise DivergedError(
            f"the loss {name!r} was {float(terms[name])} after the last step; {LOWER}"
        )
    model.train()


def _check_learned(model: RefinedMethod, when: str) -> None:
    """Raise DivergedError for a number of the learned state that is not finite."""
    name = not_finite(learned_state(model))
    if name is not None:
        raise DivergedError(f"{name} was not finite {when}; {LOWER}")


def _keep_best(
    model: RefinedMethod,
    select: EpochScore,
    epoch: int,
    result: FitResult,
    best: dict[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Score the epoch and return the snapshot of the best one so far."""
    model.eval()
    score = select(model)
    model.train()
    if best is None or score > max(result.scores):
        best, result.selected_epoch = copy_state(model), epoch
    result.scores.append(score)
    return best
