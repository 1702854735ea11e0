"""The training loop."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.finite import not_finite
from core.seeding import Seeds
from core.train.batches import TrainingBatches
from core.train.checkpoints import copy_state, learned_state, restore_state
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.train.optimizers import Optimizer, Schedule
from core.types import Batch

Log = Callable[[Mapping[str, float]], None]
Score = Callable[[RefinedMethod], float]


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
    torch.autograd.backward(loss)
    model.refiner.observe(out, targets)
    optimizer.step()
    return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}


def fit(
    model: RefinedMethod,
    objective: Objective,
    batches: TrainingBatches,
    budget: Budget,
    seeds: Seeds,
    *,
    log: Log,
    select: Score | None = None,
    autocast: AbstractContextManager[object] | None = None,
) -> FitResult:
    """Train for ``budget.epochs``; with ``select`` keep the first epoch with the highest score.

    Raises DivergedError, naming the epoch, when a loss or the learned state is not finite after
    it: the last step changes a state whose loss nobody computes.
    """
    result = FitResult(selected_epoch=budget.epochs)
    parameters = model.trainable()
    if not parameters:
        return FitResult()
    optimizer = budget.optimizer.build(parameters)
    best: dict[str, Tensor] | None = None
    model.train()
    model.method.begin_training(batches.every_image(seeds), budget.epochs)
    for epoch in range(1, budget.epochs + 1):
        lr = budget.schedule.at(epoch, budget.epochs, budget.optimizer.lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        started = time.perf_counter()
        sums: dict[str, Tensor] = {}
        for batch in batches.epoch(epoch, seeds):
            terms = train_step(model, objective, optimizer, batch, autocast or nullcontext())
            sums = {name: sums.get(name, 0) + term for name, term in terms.items()}
            result.images += len(batch)
        means = {name: float(total) / len(batches) for name, total in sums.items()}
        result.seconds += time.perf_counter() - started
        log({"epoch": epoch, "epochs": budget.epochs, "lr": lr, **means})
        if not math.isfinite(means["loss"]):
            raise DivergedError(f"the loss was {means['loss']} in epoch {epoch}; {LOWER}")
        _check_learned(model, f"after epoch {epoch}")
        model.method.end_epoch(epoch)
        if select is not None:
            best = _keep_best(model, select, epoch, result, best)
    _check_last_step(model, objective, batch, autocast or nullcontext())
    model.method.end_training()
    if best is not None:
        restore_state(model, best)
    _check_learned(model, "at the end of training")
    model.eval()
    return result


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
    select: Score,
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
