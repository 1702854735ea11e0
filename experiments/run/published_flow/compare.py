"""The released flow against ours: equality first, then whole steps, memory and evaluation.

Both sides start from the same parameters and see the same images. Their steps take turns, so that a
busy moment of the machine touches both; the median over rounds counts. Pixels are ready tensors:
decoding is no part of a step on either side.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from core.train.evaluate import predict
from core.train.model import RefinedMethod
from core.types import Batch, ClassNames
from experiments.run.published_flow.cases import (
    BACKBONE,
    CASES,
    VIEWS,
    FlowCase,
    NoiseData,
    OwnSide,
    Views,
    class_names,
    measure_products,
    pixel_batches,
    random_clip,
)
from experiments.run.published_flow.floor import StepArithmetic, StepSize, arithmetic
from experiments.run.published_flow.flows import FLOWS, PublishedFlow
from experiments.run.published_flow.memory import in_own_process, peak_above_start
from experiments.run.published_flow.rates import MatrixRates, matrix_rates

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3
SMALL = 1e-3  # of the largest gradient: what is below is compared with that
# Batch norm takes a bias in front of it away: these gradients are 0 but for rounding.
ZERO_GRADIENTS = ("refiner.alignment.fc1.bias", "method.projector.fc1.bias")
OWN_SECONDS = 1.0  # short steps of ours are repeated in a round for about so long
EVALUATED_CLASSES = 100

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSetting:
    """What all methods of one comparison share."""

    classes: int = 50
    backbone: str = BACKBONE
    teacher: str | None = None
    rounds: int = 3
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """The largest differences between the released flow and ours in the first step, relative: of
    the loss; of a gradient, to the largest entry of its parameter; of a state such as the cache.
    """

    loss: float
    gradient: float
    parameter: str
    state: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether both compute the same in float32."""
        close = max(self.gradient, self.state) <= GRADIENT_TOLERANCE
        return self.loss <= LOSS_TOLERANCE and close


class UnequalError(RuntimeError):
    """The two sides do not compute the same, so that no ratio would mean anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepComparison:
    """Seconds a training step of one method, its differences, arithmetic and peak memory (MiB)."""

    method: str
    title: str
    batch_size: int
    classes: int
    released_seconds: float
    seconds: dict[Views, float]
    differences: dict[Views, Differences]
    arithmetic: StepArithmetic
    floor_seconds: dict[Views, float]
    released_memory: float | None = None
    memory: dict[Views, float] | None = None

    def ratio(self, views: Views) -> float:
        """How many of our steps a released one takes."""
        return self.released_seconds / self.seconds[views]

    def above_floor(self, views: Views) -> float:
        """How many times the floor our step takes."""
        return self.seconds[views] / self.floor_seconds[views]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationComparison:
    """Images per second of one method's evaluation."""

    method: str
    title: str
    batch_size: int
    classes: int
    released: float
    ours: float
    difference: float

    @property
    def ratio(self) -> float:
        return self.ours / self.released


class Bench:
    """A comparison on one backbone: the frozen models are made once."""

    def __init__(self, setting: FlowSetting, note: Note) -> None:
        torch.set_num_threads(setting.threads)
        self.setting, self.note = setting, note
        self.clip = random_clip(setting.backbone)
        named = setting.teacher not in (None, setting.backbone)
        self.teacher = random_clip(setting.teacher or "") if named else self.clip
        for clip in (self.clip, self.teacher):
            clip.require_hooks("image")
            clip.require_hooks("text")
        with tempfile.TemporaryDirectory() as folder:
            self.product = measure_products(self.clip, Path(folder))
            measure_products(self.teacher, Path(folder))
        self.classes = class_names(setting.classes)
        self.clock = time.process_time if setting.threads == 1 else time.perf_counter

    def rates(self) -> MatrixRates:
        """The machine's matrix rates at the sizes of a step."""
        return matrix_rates(self._size(CASES["coop"]), self.clock)

    def steps(self, name: str, rates: MatrixRates) -> StepComparison:
        """Prove that both sides of a method are equal, then take their times.

        Raises UnequalError.
        """
        case = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            sides = {views: self.own(case, views, Path(folder)) for views in VIEWS}
            released = ReleasedSide(sides["fixed"])
            times: dict[str, list[float]] = {"released": [], **{views: [] for views in VIEWS}}
            differences: dict[Views, Differences] = {}
            for number in range(self.setting.rounds):
                self.note(f"{case.title}: round {number + 1} of {self.setting.rounds}")
                times["released"].append(self._timed(released.step))
                for views, side in sides.items():
                    if not number:
                        differences[views] = _proven(case, released, side)
                    times[views].append(self._timed(side.step, at_least=OWN_SECONDS))
        counted = arithmetic(name, self._size(case))
        floor = {"fixed": counted.fixed, "fresh": counted.fresh}
        return StepComparison(
            method=name,
            title=case.title,
            batch_size=case.batch_size,
            classes=self.setting.classes,
            released_seconds=statistics.median(times["released"]),
            seconds={views: statistics.median(times[views]) for views in VIEWS},
            differences=differences,
            arithmetic=counted,
            floor_seconds={views: floor[views] / rates.best for views in VIEWS},
        )

    def evaluation(self, name: str) -> EvaluationComparison:
        """Compare the logits of a test batch, then the times of its evaluation."""
        case = CASES[name]
        classes = class_names(EVALUATED_CLASSES)
        with tempfile.TemporaryDirectory() as folder:
            side = self.own(case, "fixed", Path(folder), classes)
            data = NoiseData(self.clip, classes, case.evaluated, Path(folder))
        model = side.model.eval()
        flow = FLOWS[name](model)
        batches = list(pixel_batches(data, case.evaluated))
        theirs, ours = [], []
        with torch.no_grad():
            difference = _logit_difference(model, flow, data.pixels_NCHW)
            for number in range(self.setting.rounds):
                self.note(f"{case.title}: evaluation {number + 1} of {self.setting.rounds}")
                theirs.append(self._timed(lambda: flow.logits(data.pixels_NCHW)))
                ours.append(self._timed(lambda: predict(model, batches), at_least=OWN_SECONDS))
        return EvaluationComparison(
            method=name,
            title=case.title,
            batch_size=case.evaluated,
            classes=len(classes),
            released=case.evaluated / statistics.median(theirs),
            ours=case.evaluated / statistics.median(ours),
            difference=difference,
        )

    def own(
        self, case: FlowCase, views: Views, folder: Path, classes: ClassNames | None = None
    ) -> OwnSide:
        """Our side of a method."""
        return OwnSide(case, self.clip, classes or self.classes, views, folder, self.teacher)

    def _size(self, case: FlowCase) -> StepSize:
        return StepSize.of(self.clip, self.classes, case.batch_size, self.teacher)

    def _timed(self, work: Callable[[], object], at_least: float = 0.0) -> float:
        """Seconds a call, the mean over as many calls as take some time."""
        count, started = 0, self.clock()
        while not count or self.clock() - started < at_least:
            work()
            count += 1
        return (self.clock() - started) / count


class ReleasedSide:
    """The released flow of a method, from the learned parameters of ours."""

    def __init__(self, own: OwnSide) -> None:
        self.flow: PublishedFlow = FLOWS[own.case.name](own.model)
        self.optimizer = own.case.optimizer.build(list(self.flow.learned.values()))
        batch = own.batch()
        assert batch.index is not None
        self.pixels_BCHW = own.data.pixels_NCHW[batch.index]
        self.labels_B = batch.labels
        self.first: FirstStep | None = None

    def step(self) -> None:
        """A training step; what the first one gives is kept."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.flow.loss(self.pixels_BCHW, self.labels_B)
        torch.autograd.backward(loss)
        self.flow.write()
        if self.first is None:
            self.first = FirstStep.of(loss, self.flow)
        self.optimizer.step()


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStep:
    """Loss, gradients and state of a released step, by the names in our model."""

    loss: float
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]

    @classmethod
    def of(cls, loss: Tensor, flow: PublishedFlow) -> "FirstStep":
        """What a step has just given."""
        return cls(
            loss=float(loss.detach()),
            gradients={n: gradient_of(p) for n, p in flow.learned.items()},
            state=flow.state(),
        )


def gradient_of(parameter: Tensor) -> Tensor:
    """A copy of the gradient; zeros where nothing reached the parameter."""
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad.clone()


def _proven(case: FlowCase, released: ReleasedSide, own: OwnSide) -> Differences:
    """Make our first step and compare it. Raises UnequalError."""
    assert released.first is not None
    found = differences_of(released.first, own)
    if not found.equal:
        raise UnequalError(
            f"{case.title} on {own.views} views: our step differs from the released one by "
            f"{found.loss:.1e} in the loss, {found.gradient:.1e} in the gradient of "
            f"{found.parameter} and {found.state:.1e} in the state, relative (at most "
            f"{LOSS_TOLERANCE:.0e} and {GRADIENT_TOLERANCE:.0e} are rounding), so no ratio is "
            "shown"
        )
    return found


def differences_of(first: FirstStep, own: OwnSide) -> Differences:
    """Our first step against the released one; changes our parameters."""
    loss = float(own.step()["loss"])
    ours = {n: gradient_of(p) for n, p in own.model.named_parameters() if p.requires_grad}
    largest = max(float(g.abs().max()) for g in first.gradients.values())
    relative = {
        name: float((ours[name] - theirs).abs().max())
        / (largest if name in ZERO_GRADIENTS else max(float(theirs.abs().max()), SMALL * largest))
        for name, theirs in first.gradients.items()
    }
    worst = max(relative, key=lambda name: relative[name])
    state = {
        name: float((own.model.get_buffer(name) - theirs).abs().max() / theirs.abs().max())
        for name, theirs in first.state.items()
    }
    return Differences(
        loss=abs(loss - first.loss) / abs(first.loss),
        gradient=relative[worst],
        parameter=worst,
        state=max(state.values(), default=0.0),
    )


def _logit_difference(model: RefinedMethod, flow: PublishedFlow, pixels_NCHW: Tensor) -> float:
    """The largest difference of logits on two test images, relative. Raises UnequalError."""
    some = pixels_NCHW[:2]
    with model.method.texts_once():
        ours = model(Batch(labels=torch.zeros(len(some)).long(), pixels=some)).logits()
    theirs = flow.logits(some)
    found = float((ours - theirs).abs().max() / theirs.abs().max())
    if found > GRADIENT_TOLERANCE:
        raise UnequalError(f"evaluation: our logits differ from the released ones by {found:.1e}")
    return found


def with_memory(found: StepComparison, setting: FlowSetting, note: Note) -> StepComparison:
    """The same with the peak memory of both sides, each measured in a process of its own."""
    peaks: dict[str, float] = {}
    for side in ("released", *VIEWS):
        note(f"{found.title}: memory, {side}")
        peaks[side] = in_own_process(step_memory, found.method, side, setting)
    ours: dict[Views, float] = {views: peaks[views] for views in VIEWS}
    return replace(found, released_memory=peaks["released"], memory=ours)


def step_memory(name: str, side: str, setting: FlowSetting) -> float:
    """MiB of a step of one side above what is resident before the first one."""
    bench = Bench(setting, lambda text: None)
    views: Views = "fresh" if side == "fresh" else "fixed"
    with tempfile.TemporaryDirectory() as folder:
        own = bench.own(CASES[name], views, Path(folder))
        step: Callable[[], object] = ReleasedSide(own).step if side == "released" else own.step
        return peak_above_start(step)
