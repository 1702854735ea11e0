"""The training loop."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.finite import all_sums_finite, not_finite
from core.host_number import read_back
from core.interfaces import Gradients, Method, ParameterGroup
from core.lockstep import Position, Steps, finish
from core.seeding import Seeds
from core.train.batches import TrainingBatches
from core.train.checkpoints import copy_state, learned_state, restore_state
from core.train.graphed_step import GraphedSteps, StepRecorder, Terms
from core.train.loss_scale import LossScale
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.train.optimizers import Optimizer, Schedule, set_rate
from core.train.resume import (
    TrainingCheckpoints,
    TrainingState,
    optimizer_tensors,
    restore_optimizer,
)
from core.types import Batch

Log = Callable[[Mapping[str, Any]], None]
EpochScore = Callable[[RefinedMethod], float]

LOWER = "try a lower lr"

logger = logging.getLogger(__name__)


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
    """The cost of training, and the epoch whose weights the model has.

    ``seconds`` are those of the run alone: they count in full what several runs share.
    ``stopped_epoch`` is the last one that was trained where that was not the whole budget;
    ``earlier_seconds`` were spent by processes that were killed; ``skipped_steps`` were left out
    because their gradient overflowed in float16. ``graph`` says whether steps were replayed, where
    that was asked for.
    """

    seconds: float = 0.0
    earlier_seconds: float = 0.0
    images: int = 0
    selected_epoch: int = 0
    stopped_epoch: int | None = None
    skipped_steps: int = 0
    graph: str = ""
    scores: list[float] = field(default_factory=list)

    def is_stalled(self, patience: int) -> bool:
        """Whether the last ``patience`` epochs were no better than the best one; 0: never."""
        if not patience or not self.scores:
            return False
        return len(self.scores) - 1 - self.scores.index(max(self.scores)) >= patience


def train_step(
    model: RefinedMethod,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    autocast: AbstractContextManager[object],
    scale: LossScale | None = None,
) -> dict[str, Tensor]:
    """One step: forward, loss, gradient, state change of the refiner, update.

    With a loss scale, a step whose gradient is not finite changes nothing that is learned.
    """
    optimizer.zero_grad(set_to_none=True)
    with autocast:
        out = model(batch)
        targets = model.method.targets(batch)
        terms = objective(out, targets)
        loss = torch.stack(list(terms.values())).sum()
        guides = objective.guides(out, targets)
    scaled: Callable[[Tensor], Tensor] = _unscaled if scale is None else scale.scaled
    gradients = {name: _gradients(scaled(guide), model.method) for name, guide in guides.items()}
    if scale is not None:
        gradients = {name: scale.unscaled(of_guide) for name, of_guide in gradients.items()}
    torch.autograd.backward(scaled(loss))
    if scale is None or scale.unscale(model.trainable(), gradients):
        model.method.after_backward(gradients)
        model.refiner.observe(out, targets)
        optimizer.step()
    values = {"loss": loss, **terms, **guides}
    return {name: value.detach() for name, value in values.items()}


def _unscaled(loss: Tensor) -> Tensor:
    return loss


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
    scale: LossScale | None = None,
    patience: int = 0,
    checkpoints: TrainingCheckpoints | None = None,
    recorder: StepRecorder | None = None,
) -> FitResult:
    """Train without a stop, see ``fit_steps``."""
    return finish(
        fit_steps(
            model,
            objective,
            batches,
            budget,
            seeds,
            log=log,
            select=select,
            autocast=autocast,
            scale=scale,
            patience=patience,
            checkpoints=checkpoints,
            recorder=recorder,
        )
    )


def fit_steps(
    model: RefinedMethod,
    objective: Objective,
    batches: TrainingBatches,
    budget: Budget | None,
    seeds: Seeds,
    *,
    log: Log,
    select: EpochScore | None = None,
    autocast: AbstractContextManager[object] | None = None,
    scale: LossScale | None = None,
    patience: int = 0,
    checkpoints: TrainingCheckpoints | None = None,
    recorder: StepRecorder | None = None,
) -> Steps[FitResult]:
    """Train for ``budget.epochs``; with ``select`` keep the first epoch with the highest score, and
    with ``patience`` stop after so many epochs that were no better. In float16 the loss is to be
    multiplied by a ``scale``.

    Stops before every step. Without parameters or a budget, what ``begin_training`` learns is all.
    With ``checkpoints`` the training goes on where an earlier one was killed. With a ``recorder``
    steps on features that stay on the device may be replayed (``graphed_step.py``), with the same
    numbers. Raises DivergedError, naming the epoch, when a loss or the learned state is not finite
    after it: the last step changes a state whose loss nobody computes.
    """
    if not model.learns:
        return FitResult()
    model.train()
    num_epochs = 0 if budget is None else budget.epochs
    result = FitResult(selected_epoch=num_epochs)
    _begin(model, batches, num_epochs, seeds, result)
    if budget is None or not model.trainable():
        return _finished(model, result)
    training = _Training(model, objective, batches, budget, seeds, result, log, select, scale)
    training.record_steps(recorder)
    epoch = training.resume(checkpoints)
    while epoch < num_epochs and not result.is_stalled(patience):
        epoch += 1
        yield from training.epoch_steps(epoch, autocast or nullcontext())
        if checkpoints is not None and checkpoints.is_due(epoch, num_epochs):
            checkpoints.save(training.state(epoch))
    if epoch < num_epochs:
        result.stopped_epoch = epoch
    _check_last_step(model, objective, training.last_batch(epoch), autocast or nullcontext())
    model.method.end_training()
    if training.best is not None:
        restore_state(model, training.best)
    return _finished(model, result)


class _Training:
    """A training and what its next epoch depends on."""

    def __init__(
        self,
        model: RefinedMethod,
        objective: Objective,
        batches: TrainingBatches,
        budget: Budget,
        seeds: Seeds,
        result: FitResult,
        log: Log,
        select: EpochScore | None,
        scale: LossScale | None,
    ) -> None:
        self.model, self.objective, self.batches = model, objective, batches
        self.budget, self.seeds, self.result = budget, seeds, result
        self.log, self.select, self.scale = log, select, scale
        self.groups = model.parameter_groups()
        self.optimizer = budget.optimizer.build([_settings(group) for group in self.groups])
        self.best: dict[str, Tensor] | None = None
        self.logged: list[Mapping[str, Any]] = []
        self.batch: Batch | None = None
        self.graphed: GraphedSteps | None = None

    def record_steps(self, recorder: StepRecorder | None) -> None:
        """Replay steps where that is right and faster; one that may be skipped is for the host."""
        if recorder is None or self.scale is not None or not self.model.method.graphed_steps:
            return
        if self.batches.resident:
            self.graphed = GraphedSteps(self.model, self.optimizer, recorder)

    def epoch_steps(self, epoch: int, autocast: AbstractContextManager[object]) -> Steps[None]:
        """One pass over the training images, its line in the log, and its score."""
        model, result = self.model, self.result
        num_epochs = self.budget.epochs
        schedule = self.budget.schedule
        lr = schedule.at(epoch, num_epochs, self.budget.optimizer.lr)
        for settings, group in zip(self.optimizer.param_groups, self.groups, strict=True):
            set_rate(settings, lr * (1.0 if schedule.has_one_rate(epoch) else group.lr_factor))
        sums: dict[str, Tensor] = {}
        batches = self.batches.epoch(epoch, self.seeds)
        make = self._maker(autocast)
        for step in range(len(self.batches)):
            yield Position(epoch, step)
            with self._timed():
                if (batch := next(batches, None)) is None:
                    break
                self.batch = batch
                if step + 1 == len(self.batches) and epoch < num_epochs:
                    self.batches.begin(epoch + 1, self.seeds)
                terms = make(batch)
                sums = {name: sums.get(name, 0) + term for name, term in terms.items()}
                result.images += len(batch)
        with self._timed():
            totals, metrics, finite = _read_epoch(model, sums)
        means = {name: total / len(self.batches) for name, total in totals.items()}
        self._note({"epoch": epoch, "epochs": num_epochs, "lr": lr, **means, **metrics})
        _check_epoch(model, epoch, means["loss"], finite=finite)
        self._check_scale(epoch)
        model.method.end_epoch(epoch)
        if self.select is not None:
            self.best = _keep_best(model, self.select, epoch, result, self.best)
        if self.graphed is not None:
            result.graph = self.graphed.outcome

    def _maker(self, autocast: AbstractContextManager[object]) -> Callable[[Batch], Terms]:
        """What makes the steps of an epoch."""

        def plain(batch: Batch) -> Terms:
            parts = self.model, self.objective, self.optimizer
            return train_step(*parts, batch, autocast, self.scale)

        if self.graphed is None:
            return plain
        self.graphed.begin_epoch()
        return partial(self.graphed, plain)

    def _check_scale(self, epoch: int) -> None:
        """Count the skipped steps; raise DivergedError where no scale helps."""
        if self.scale is None:
            return
        self.result.skipped_steps = self.scale.skipped
        if self.scale.is_exhausted(last=epoch == self.budget.epochs):
            raise DivergedError(
                f"the gradient was not finite in epoch {epoch} at any loss scale, and "
                f"{self.scale.skipped} steps were skipped; {LOWER}, or experiment.precision = "
                "'bfloat16'"
            )

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the seconds of this run, and those that another run has spared it."""
        share = self.batches.share
        started, spared = time.perf_counter(), share.spared_seconds
        yield
        share.settle()
        self.result.seconds += time.perf_counter() - started + share.spared_seconds - spared

    def _note(self, line: Mapping[str, Any]) -> None:
        self.logged.append(line)
        self.log(line)

    def last_batch(self, epoch: int) -> Batch:
        """The last batch of an epoch, which this process may not have trained."""
        if self.batch is None:
            for batch in self.batches.epoch(epoch, self.seeds):
                self.batch = batch
        assert self.batch is not None
        return self.batch

    def state(self, epoch: int) -> TrainingState:
        """What the epochs after this one depend on."""
        kept, numbers = optimizer_tensors(self.optimizer)
        tensors = {
            "model": learned_state(self.model),
            "best": self.best or {},
            "optimizer": kept,
            "method": self.model.method.training_state(),
            "refiner": self.model.refiner.training_state(),
        }
        plain = {"result": asdict(self.result), "log": self.logged, "optimizer": numbers}
        if self.scale is not None:
            plain["scale"] = self.scale.state()
        return TrainingState(
            epoch=epoch,
            tensors={f"{part}.{n}": t for part, named in tensors.items() for n, t in named.items()},
            plain=plain,
        )

    def resume(self, checkpoints: TrainingCheckpoints | None) -> int:
        """Go on from a checkpoint; returns the epoch that it was made after, 0 without one."""
        state = None if checkpoints is None else checkpoints.load()
        if state is None:
            return 0
        restore_state(self.model, state.part("model"))
        self.best = state.part("best") or None
        restore_optimizer(self.optimizer, state.part("optimizer"), state.plain["optimizer"])
        self.model.method.load_training_state(state.part("method"))
        self.model.refiner.load_training_state(state.part("refiner"))
        if self.scale is not None:
            self.scale.restore(state.plain["scale"])
        for name, value in state.plain["result"].items():
            setattr(self.result, name, value)
        self.result.earlier_seconds = self.result.seconds
        for line in state.plain["log"]:
            self._note(line)
        logger.warning("training goes on after epoch %d of %d", state.epoch, self.budget.epochs)
        return state.epoch


def _read_epoch(
    model: RefinedMethod, sums: Mapping[str, Tensor]
) -> tuple[dict[str, float], dict[str, dict[str, float]], bool]:
    """The sums of the terms of an epoch, what method and refiner tell of it besides, and whether
    what was learned is sure to be finite. The host waits once.
    """
    values: dict[tuple[str, str], Tensor | float] = {("sum", n): t for n, t in sums.items()}
    values |= {("metric", name): value for name, value in model.metrics().items()}
    values["", "finite"] = all_sums_finite(learned_state(model)).to(
        next(iter(sums.values())).device
    )
    found = read_back(values)
    totals = {name: number for (kind, name), number in found.items() if kind == "sum"}
    metrics = {name: number for (kind, name), number in found.items() if kind == "metric"}
    return totals, {"metrics": metrics} if metrics else {}, bool(found["", "finite"])


def _check_epoch(model: RefinedMethod, epoch: int, loss: float, *, finite: bool) -> None:
    """Raise DivergedError for the loss of an epoch, or a learned tensor, that is not finite."""
    if not math.isfinite(loss):
        raise DivergedError(f"the loss was {loss} in epoch {epoch}; {LOWER}")
    if not finite:
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
    with model.method.clip.weights_as_read():  # outside mixed precision, as all of this is
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
