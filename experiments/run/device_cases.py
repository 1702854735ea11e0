"""Measurements on a device, each from a plain payload to a plain result.

* ``rates``: what the device is, and what it can do.
* ``agreement``: a method trains a few steps on the CPU and on the device, and says the same.
* ``speed``: the time and memory of a method's training step and of its evaluation.

What feeds a device and what breaks it is in ``device_loads.py``.

Nothing is downloaded: the embedded backbone, or random weights of a real size. B images, C classes.
"""

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.config import Config, lookup
from core.data.dataset import Dataset, Item
from core.data.splits import class_subset
from core.seeding import Seeds
from core.train.batches import ImageSource, TrainingBatches
from core.train.evaluate import predict
from core.types import Batch
from experiments.run import device_loads
from experiments.run.data_inputs import planned
from experiments.run.device_timing import Counts, counting, median_seconds, synchronize
from experiments.run.gpu_facts import driver
from experiments.run.method_presets import method_presets
from experiments.run.run import Assembly, assemble, evaluation_batches, scoring, train
from experiments.run.runtime import Runtime

REFINERS = {
    "none": ("experiment.refiner=@NullRefiner",),
    "TextRefiner": (
        "experiment.refiner=@TextRefiner",
        "TextRefiner.alignment=@MlpAlignment",
        "TextRefiner.cache=@EmaCache",
        "TextRefiner.aggregation=@LinearAggregation",
        "TextRefiner.semantic=@SemanticLoss",
        "TextRefiner.regularization=@L1Regularization",
    ),
}
TOLERANCE = 1e-4  # relative, in float32
FEW_STEPS = (
    "experiment.dataset='mosaic/vehicles'",
    "experiment.backbone='mosaic'",
    "experiment.shots=2",
    "experiment.batch_size=12",
    "experiment.epochs=3",  # the first one warms up
)
REPLAYED_EPOCHS = 8
TESTED, FEWEST = 64, 8
IMAGE_SIDE = 224
CLASSES, PER_CLASS, SHOTS = 50, 12, 6
KEPT_BATCHES = 4
WARM_UP_STEPS, TIMED_STEPS, TIMED_SECONDS = 3, 20, 0.8
EVALUATED = 100
SOLE_BATCH = 32  # of a method for which no batch size is published


def measure_case(payload: Mapping[str, Any], on_progress: object) -> Mapping[str, Any]:
    """The entry function of worker processes: the result of one measurement."""
    cases: dict[str, Callable[..., dict[str, Any]]] = {
        "rates": rates,
        "agreement": agreement,
        "speed": speed,
        "features": device_loads.features,
        "decode": device_loads.decode,
        "fault": device_loads.fault,
    }
    given = dict(payload)
    return cases[given.pop("case")](**given)


# The device ------------------------------------------------------------------------------------


def rates(*, device: str, side: int = 8192, megabytes: int = 2048) -> dict[str, Any]:
    """Versions, the device, and measured rates of matrix products and of a copy."""
    place = torch.device(Runtime(cache_dir=Path(), device=device).device)
    found: dict[str, Any] = {
        "device": platform.machine(),
        "driver": driver(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "threads": torch.get_num_threads(),
    }
    if place.type == "cuda":
        found["device"] = torch.cuda.get_device_name(place)
        found["memory_gib"] = torch.cuda.mem_get_info(place)[1] / 2**30
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        one, two = (torch.randn(side, side, device=place).to(dtype) for _ in range(2))
        found[f"{name}_tflops"] = (
            2e-12 * side**3 / median_seconds(place, partial(torch.matmul, one, two))
        )
    source = torch.randn(megabytes * 2**18, device=place)
    target = torch.empty_like(source)
    seconds = median_seconds(place, lambda: target.copy_(source))
    found["copy_gb_per_second"] = 2e-9 * source.nbytes / seconds
    return found


# The same on both devices ----------------------------------------------------------------------


def agreement(*, method: str, refiner: str, device: str, cache_dir: str) -> dict[str, Any]:
    """A few steps on the CPU and on the device: differences relative to the largest value.

    ``loss`` is over all terms and epochs, relative to the whole loss; ``agree`` counts images of
    the same prediction, those among which the CPU itself does not choose beyond the tolerance
    included.
    """
    config = method_presets()[method].read_scorable(*FEW_STEPS, *REFINERS[refiner])
    on_cpu = _Trained(config, Runtime(cache_dir=Path(cache_dir)))
    place = Runtime(cache_dir=Path(cache_dir), device=device)
    on_device = _Trained(config, place)
    low = config.with_bindings({"experiment.precision": "bfloat16"}, "gpu-check")
    in_bfloat16 = _Trained(low, place)
    logits_BC = on_cpu.logits_BC
    scale = float(logits_BC.abs().max())
    same_B = on_cpu.predicted_B == on_device.predicted_B
    best_B = logits_BC.max(dim=-1).values
    theirs_B = logits_BC.gather(1, on_device.predicted_B[:, None])[:, 0]
    agree_B = same_B | (best_B - theirs_B <= TOLERANCE * scale)
    found = {
        "steps": on_cpu.steps,
        "loss": _loss_difference(on_cpu.log, on_device.log),
        "logits": float((on_device.logits_BC - logits_BC).abs().max()) / scale,
        "agree": int(agree_B.sum()),
        "images": len(agree_B),
        "bfloat16_finite": in_bfloat16.is_finite(),
        "bfloat16_same": int((in_bfloat16.predicted_B == on_cpu.predicted_B).sum()),
    }
    close = max(found["loss"], found["logits"]) <= TOLERANCE
    found |= _replayed(config, place)
    replayed = found.get("graph_same", True)
    found["ok"] = close and bool(agree_B.all()) and found["bfloat16_finite"] and replayed
    return found


def _replayed(config: Config, place: Runtime) -> dict[str, Any]:
    """Whether a training whose steps are replayed from a CUDA graph says bit for bit the same, and
    whether they were replayed; nothing where no step could be.
    """
    chosen: Any = planned(config)[0].method
    method: Any = lookup(chosen.name).cls
    takes_steps = method.trains and method.trains_by_gradient
    if method.image_input != "features" or not takes_steps or place.device == "cpu":
        return {}
    longer = config.with_bindings({"experiment.epochs": REPLAYED_EPOCHS}, "gpu-check")
    plain = _Trained(longer, place)
    graphed = _Trained(longer.with_bindings({"experiment.cuda_graphs": True}, "gpu-check"), place)
    same = plain.log == graphed.log and torch.equal(plain.logits_BC, graphed.logits_BC)
    return {"graph": graphed.graph, "graph_same": same}


class _Trained:
    """A short training: its log, and what the model says of a few test images, on the CPU."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        self.log: list[dict[str, float]] = []
        built = assemble(config, runtime)
        result = train(built, lambda epoch: self.log.append(_numbers(epoch)))
        self.graph = result.graph
        self.steps = result.images // built.settings.batch_size if self.log else 0
        dataset, subset = built.scored()[0]
        part = class_subset(dataset, subset)
        with torch.no_grad(), scoring(built, part):
            batches = list(evaluation_batches(built, part, _some(built, part, TESTED)))
            self.logits_BC = torch.cat([built.model(b).logits().float().cpu() for b in batches])
            self.predicted_B = predict(built.model, batches).predicted_N

    def is_finite(self) -> bool:
        numbers = torch.tensor([value for epoch in self.log for value in epoch.values()])
        return bool(numbers.isfinite().all()) and bool(self.logits_BC.isfinite().all())


def _some(built: Assembly, part: Dataset, number: int) -> Sequence[Item]:
    """The first test images: so many views of images, and a few images at least."""
    views = 1 + built.model.method.test_views
    return part.test[: max(min(number, FEWEST), number // views)]


def _numbers(epoch: Mapping[str, Any]) -> dict[str, float]:
    """An entry of the log without nesting; metrics are counters, and no terms of the loss."""
    return {name: value for name, value in epoch.items() if isinstance(value, int | float)}


def _loss_difference(
    one: Sequence[Mapping[str, float]], two: Sequence[Mapping[str, float]]
) -> float:
    """The largest difference of a logged number, relative to the loss of its epoch."""
    return max(
        (
            abs(value - b[name]) / max(abs(a["loss"]), abs(value))
            for a, b in zip(one, two, strict=True)
            for name, value in a.items()
            if value != b[name]
        ),
        default=0.0,
    )


# Time and memory -------------------------------------------------------------------------------


def write_images(folder: Path) -> Path:
    """A tree of images of a usual size; returns it. What is there already is left."""
    noise = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"kind {label}").mkdir(parents=True, exist_ok=True)
        for number in range(PER_CLASS):
            small = noise.integers(0, 256, (IMAGE_SIDE // 8, IMAGE_SIDE // 8, 3), dtype=np.uint8)
            path = folder / f"kind {label}" / f"{number}.jpg"
            if not path.exists():
                Image.fromarray(small).resize((IMAGE_SIDE, IMAGE_SIDE)).save(path, quality=90)
    return folder


def speed(
    *,
    method: str,
    refiner: str,
    images: str,
    precision: str,
    device: str,
    backbone: str,
    weights: str | None,
    tree: str,
    cache_dir: str,
) -> dict[str, Any]:
    """A method's step at its published batch size with ``CLASSES`` classes: milliseconds, images
    per second, MiB at most, arithmetic per second, waits of the host, and the images per second of
    evaluation.

    ``images`` "cached" trains on frozen features, "pixels" encodes the images in every step. A
    method that trains nothing has no step.
    """
    place, fresh = torch.device(device), images == "pixels"
    config = method_presets()[method].read(
        f"experiment.dataset={f'folder/{tree}'!r}",
        f"experiment.backbone={backbone!r}",
        f"experiment.weights={weights!r}",
        f"experiment.precision={precision!r}",
        *_speed_settings(method, fresh=fresh),
        *REFINERS[refiner],
    )
    runtime = Runtime(cache_dir=Path(cache_dir), device=device)
    built = assemble(config, runtime)
    source = TimedSource(built.source, place)
    train(replace(built, source=source), lambda epoch: None)
    found: dict[str, Any] = {
        "batch_size": source.step_size if source.steps else None,
        "parameters": sum(p.numel() for p in built.model.trainable()),
    }
    if place.type == "cuda":
        found["peak_mb"] = torch.cuda.max_memory_allocated(place) / 2**20
    if source.steps:
        found |= _step_of(built, source)
    found["evaluated_per_second"] = _evaluation_speed(built, place)
    if source.steps and not fresh and place.type == "cuda":
        found |= _graphed_speed(config, runtime)
    return found


def _step_of(built: Assembly, source: "TimedSource") -> dict[str, Any]:
    """The timed steps of a training, and what is counted in one more."""
    step, counts = median(source.steps), _counted_step(built)
    return {
        "step_ms": 1e3 * step,
        "slowest_ms": 1e3 * max(source.steps),
        "images_per_second": source.step_size / step,
        "tflops": 1e-12 * counts.flops / step,
        "waits": counts.waits,
    }


def _speed_settings(method: str, *, fresh: bool) -> list[str]:
    """Two epochs of a method at its published batch size."""
    return [
        "experiment.protocol='few_shot'",
        f"experiment.shots={SHOTS}",
        f"experiment.batch_size={method_presets()[method].batch_size or SOLE_BATCH}",
        "experiment.epochs=2",
        f"experiment.num_views={_num_views(method, fresh=fresh)}",
        f"experiment.fresh_views={fresh}",
        "experiment.split_fractions=(0.5, 0.125, 0.375)",
    ]


def _graphed_speed(config: Config, runtime: Runtime) -> dict[str, Any]:
    """The same step, replayed from a CUDA graph where that is right and faster."""
    graphed = config.with_bindings({"experiment.cuda_graphs": True}, "gpu-check")
    built = assemble(graphed, runtime)
    source = TimedSource(built.source, torch.device(runtime.device))
    result = train(replace(built, source=source), lambda epoch: None)
    return {"graph_ms": 1e3 * median(source.steps), "graph": result.graph}


def _counted_step(built: Assembly) -> Counts:
    """The arithmetic and the waits of one more training step, the second of an epoch."""
    assert built.budget is not None
    source = CountedSource(built.source)
    budget = replace(built.budget, epochs=1)
    train(replace(built, source=source, budget=budget), lambda epoch: None)
    return source.counts


def _num_views(method: str, *, fresh: bool) -> int:
    """The augmented views that a run keeps: one to draw anew, or as many as a batch compares."""
    entry: Any = lookup(method, "method").cls
    compared: int = entry.views_per_image
    if fresh:
        return 1
    return compared if compared > 1 else 0


def _evaluation_speed(built: Assembly, device: torch.device) -> float:
    """Images per second of a batch that is on the device."""
    dataset, subset = built.scored()[0]
    part = class_subset(dataset, subset)
    items = _some(built, part, EVALUATED)
    with scoring(built, part):
        batches = list(evaluation_batches(built, part, items))
        return len(items) / median_seconds(device, lambda: predict(built.model, batches), 3)


class _OtherSource(ImageSource):
    """A source whose training batches are given in another way."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def evaluation(self, *given: Any, **settings: Any) -> Iterator[Batch]:
        return self.source.evaluation(*given, **settings)


class _OtherBatches(TrainingBatches):
    """Batches of which the epochs are other ones."""

    def __init__(self, inner: TrainingBatches) -> None:
        super().__init__(inner.labels, inner.batch_size, inner.device, drop_last=inner.drop_last)
        self.inner = inner

    def every_image(self, seeds: Seeds) -> Iterator[Batch]:
        return self.inner.every_image(seeds)

    def take(self, index: Tensor, epoch: int, seeds: Seeds) -> Batch:
        return self.inner.take(index, epoch, seeds)


class CountedSource(_OtherSource):
    """Another source of which an epoch has two steps: the first warms up, the second is counted."""

    def __init__(self, source: ImageSource) -> None:
        super().__init__(source)
        self.counts = Counts()

    def training(self, dataset: Dataset, **settings: Any) -> TrainingBatches:
        return _CountedBatches(self, self.source.training(dataset, **settings))


class _CountedBatches(_OtherBatches):
    """The first batch of an epoch, twice."""

    def __init__(self, owner: CountedSource, inner: TrainingBatches) -> None:
        super().__init__(inner)
        self.owner = owner

    def __len__(self) -> int:
        return 3  # at most: the epoch ends when the counted step is over

    def epoch(self, epoch: int, seeds: Seeds) -> Iterator[Batch]:
        batch = next(self.inner.epoch(epoch, seeds))
        yield batch
        with counting() as self.owner.counts:
            yield batch


class TimedSource(_OtherSource):
    """Another source whose training batches are kept on the device, given again and timed."""

    def __init__(self, source: ImageSource, device: torch.device) -> None:
        super().__init__(source)
        self.device = device
        self.steps: list[float] = []
        self.step_size = 0

    def training(self, dataset: Dataset, **settings: Any) -> TrainingBatches:
        return _TimedBatches(self, self.source.training(dataset, **settings))


class _TimedBatches(_OtherBatches):
    """The first batches of an epoch, over and over: the first epoch warms up, later ones count."""

    def __init__(self, owner: TimedSource, inner: TrainingBatches) -> None:
        super().__init__(inner)
        self.owner = owner
        self.kept: list[Batch] = []

    @property
    def resident(self) -> bool:
        return self.inner.resident

    def __len__(self) -> int:
        return max(WARM_UP_STEPS, TIMED_STEPS)  # at most: an epoch ends before, or in time

    def epoch(self, epoch: int, seeds: Seeds) -> Iterator[Batch]:
        if not self.kept:
            given = self.inner.epoch(epoch, seeds)
            self.kept = [b for b, _ in zip(given, range(KEPT_BATCHES), strict=False)]
            self.owner.step_size = len(self.kept[0])
        elif self.owner.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.owner.device)  # without what is done only once
        number = WARM_UP_STEPS if epoch == 1 else TIMED_STEPS
        began = last = self._now()
        for step in range(number):
            yield self.kept[step % len(self.kept)]
            before, last = last, self._now()
            if epoch > 1:
                self.owner.steps.append(last - before)
            if last - began > TIMED_SECONDS:
                return

    def _now(self) -> float:
        synchronize(self.owner.device)
        return time.perf_counter()
