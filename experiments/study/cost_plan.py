"""What a grid costs on given hardware: hours, GPU hours, memory and disk, before anything runs.

Where runs of the same settings have finished, their seconds count. Otherwise a run is its number
of steps times the measured time of a step, and its test images over the measured rate of
evaluation. What is derived from these by arithmetic is named: more classes than the 50 of the
measurements, another batch size, images decoded by the cores of a GPU, several runs in lockstep.
What nobody has measured is left out and named as well, so that no sum that lacks something reads
as complete.
"""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from core.clip.catalog import MOSAIC
from core.config import Config, config_from_text, lookup
from core.data.benchmarks.definitions import BENCHMARKS
from core.data.catalog import load_dataset
from core.plugins import loaded_plugins
from experiments.run.device_cases import REFINERS
from experiments.run.gpu_speeds import (
    CLASSES,
    FULL,
    NO_REFINER,
    PRECISIONS,
    GpuSpeeds,
    MethodSpeed,
)
from experiments.run.protocols import LABELED, protocol_of
from experiments.run.runtime import Runtime
from experiments.run.step_costs import StepCosts
from experiments.study.past_costs import LAST, PastRuns
from experiments.study.planner import ROOT, Cell, Plan

CLASS_GFLOP = 0.64
"""Of one more class in a step: 4.4 rows of a text tower of 12 blocks and width 512, forward and
backward without gradients of frozen weights: 4 x 12 x 12 x 512^2 x 4.4 / 10^9, rounded up."""
REACHED = 0.5
"""The share of the measured rate of large matrix products that we count with there."""
CLASS_MIB = 1.6  # of one more class in a step, kept for the gradient (docs/speed.md)
EMBEDDING_BYTES, CROP_BYTES = 512 * 4, 224 * 224 * 3
RUN_BYTES, IMAGE_BYTES = 60_000, 10  # a run folder with learned prompts, and a stored prediction
MOSAIC_BATCH = 32  # of step_costs.json
NO_STEPS, NULL_REFINER = "no steps", "NullRefiner"
OWN_TEACHER = "ZeroShotTeacher"
FINISHED = "the seconds of finished runs with the same settings would count instead"
GPU_CHECK = "'python main.py gpu-check' measures"
TEXT_MS = 5.0  # steps below this on cached features have no text tower in them


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a grid is planned for. ``decoded_per_core`` is in images per second."""

    gpus: int = 1
    nodes: int = 1
    cores_per_gpu: int = 8
    decoded_per_core: float
    memory_gib: float | None = None
    jobs_per_gpu: int = 1
    lockstep: int = 1

    @property
    def total(self) -> int:
        return self.gpus * self.nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Numbers of classes and images of a dataset."""

    classes: int
    train: int
    test: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What the seconds of a run, or of features, leave out because nobody has measured it: all of a
    run with ``whole``, or else a part of it. ``way_out`` says what would tell.
    """

    what: str
    whole: bool = False
    way_out: str = FINISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCost:
    """The estimate of a run. ``basis`` says where it comes from, "" where nothing is known;
    ``step_ms`` is None where the steps do not count one by one. ``gaps`` are not in its seconds.
    ``together`` runs are on the device at a time because they advance in lockstep.
    """

    cell: Cell
    seconds: float = 0.0
    steps: int = 0
    step_ms: float | None = None
    peak_mib: float = 0.0
    basis: str = ""
    derived: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()
    on_gpu: bool = True
    together: int = 1

    @property
    def is_known(self) -> bool:
        return not any(gap.whole for gap in self.gaps)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPlan:
    """The estimate of a grid: its runs, the features that they share, and what follows."""

    runs: tuple[RunCost, ...]
    feature_seconds: Mapping[str, float]
    feature_gaps: tuple[Gap, ...]
    hardware: Hardware
    disk_bytes: float
    disk_gaps: tuple[Gap, ...]
    done: int
    failed: int

    @property
    def device_hours(self) -> float:
        return (sum(run.seconds for run in self.runs) + sum(self.feature_seconds.values())) / 3600

    @property
    def hours(self) -> float:
        """Wall-clock hours: runs of a bundle on one GPU, the longest first."""
        groups: dict[str, float] = defaultdict(float)
        sizes: Counter[str] = Counter()
        for run in self.runs:
            key = run.cell.bundle or run.cell.identity
            group = f"{key} {sizes[key] // self.hardware.lockstep}"
            sizes[key] += 1
            groups[group] += run.seconds
        seconds = [*groups.values(), *self.feature_seconds.values()]
        free = [0.0] * self.hardware.total
        for duration in sorted(seconds, reverse=True):
            heapq.heappush(free, heapq.heappop(free) + duration)
        return max(free) / 3600

    @property
    def on_gpus(self) -> bool:
        """Whether some of the figures are of GPUs; the embedded backbone was measured on a CPU."""
        return any(run.on_gpu for run in self.runs)

    @property
    def unit(self) -> str:
        """What the hours are hours of."""
        kinds = {run.on_gpu for run in self.runs}
        return "device" if len(kinds) > 1 else "GPU" if kinds == {True} else "core"

    @property
    def gaps(self) -> Mapping[Gap, tuple[RunCost, ...]]:
        """What is in none of the hours, with the runs that lack it; none for features."""
        found: dict[Gap, tuple[RunCost, ...]] = dict.fromkeys(self.feature_gaps, ())
        for run in self.runs:
            for gap in run.gaps:
                found[gap] = (*found.get(gap, ()), run)
        return found

    @property
    def unknown(self) -> tuple[RunCost, ...]:
        """The runs of which nothing is known."""
        return tuple(run for run in self.runs if not run.is_known)


def plan_costs(
    plan: Plan,
    past: PastRuns,
    *,
    speeds: GpuSpeeds,
    costs: StepCosts,
    hardware: Hardware,
    runtime: Runtime,
) -> CostPlan:
    """The estimate of a plan; cells whose run the study has are not among its runs.

    Raises ValueError for a dataset of which neither published sizes nor files are there.
    """
    configs = {c.identity: config_from_text(c.config_text, c.label) for c in plan.runs}
    records = [past.record_of(cell, configs[cell.identity]) for cell in plan.runs]
    ended = Counter(record.status for record in records if record is not None)
    left = [cell for cell, record in zip(plan.runs, records, strict=True) if record is None]
    sizes = _Sizes(runtime)
    together = Counter(cell.bundle for cell in left if cell.bundle)
    runs: list[RunCost] = []
    shared = _Shared(sizes)
    for cell in left:
        share = min(hardware.lockstep, together[cell.bundle] or 1)
        run = _PlannedRun(cell, configs[cell.identity], sizes[cell.dataset], share)
        cost = _from_past(run, past)
        if cost is None and run.backbone == MOSAIC:
            cost = _on_mosaic(run, costs)
        elif cost is None:
            scored = sum(sizes[name].test for name in (cell.dataset, *run.targets))
            cost = _on_device(run, scored, speeds, hardware)
        runs.append(cost)
        if run.backbone != MOSAIC:
            shared.add(run)
    numbers = shared.numbers()
    cached = {kind: number for kind, number in numbers.items() if not kind[2]}
    return CostPlan(
        runs=tuple(runs),
        feature_seconds={
            f"{backbone} {dataset}": _feature_seconds(number, backbone, speeds, hardware)
            for (backbone, dataset, _), number in cached.items()
        },
        feature_gaps=_feature_gaps(cached, speeds),
        hardware=hardware,
        disk_bytes=sum(RUN_BYTES + IMAGE_BYTES * sizes[cell.dataset].test for cell in left)
        + sum(n * (CROP_BYTES if kind[2] else EMBEDDING_BYTES) for kind, n in numbers.items()),
        disk_gaps=tuple(Gap(what=f"the local tokens that {name} reads") for name in shared.readers),
        done=ended["finished"],
        failed=ended["failed"] + ended["diverged"],
    )


def sizes_of(dataset: str, runtime: Runtime) -> Sizes:
    """The published numbers of a benchmark, or those of the files.

    Raises ValueError where neither are there.
    """
    if (benchmark := BENCHMARKS.get(dataset)) is not None:
        counts = benchmark.counts
        return Sizes(classes=counts.classes, train=counts.train, test=counts.test)
    found = load_dataset(dataset, root=runtime.data_root, cache_dir=runtime.cache_dir)
    return Sizes(classes=len(found.class_names), train=len(found.train), test=len(found.test))


class _Sizes(dict[str, Sizes]):
    """The sizes of datasets, each read once."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime

    def __missing__(self, dataset: str) -> Sizes:
        self[dataset] = sizes_of(dataset, self.runtime)
        return self[dataset]


class _PlannedRun:
    """What the cost of a run depends on; ``share`` runs advance in lockstep."""

    def __init__(self, cell: Cell, config: Config, size: Sizes, share: int) -> None:
        values: Mapping[str, Any] = config.operative(ROOT)

        def of(name: str) -> Any:
            return values.get(f"{ROOT}.{name}")

        self.cell, self.config, self.size, self.share = cell, config, size, share
        self.method, self.refiner = of("method").name, of("refiner").name
        self.refined = self.refiner != NULL_REFINER
        self.selection, self.views = str(of("selection")), max(1, int(of("num_views") or 0))
        self.backbone, self.precision = str(of("backbone")), str(of("precision"))
        entry: Any = lookup(self.method).cls
        self.kind: Any = entry
        learns = self.kind.trains and self.kind.trains_by_gradient
        self.takes_steps = of("optimizer") is not None and (learns or self.refined)
        self.on_pixels = self.kind.image_input == "pixels"
        self.decodes = bool(self.takes_steps and (self.on_pixels or of("fresh_views")))
        self.batch = int(of("batch_size") or 1)
        protocol = protocol_of(of("protocol"))
        seen = size.classes if protocol.judged_by == "test" else _half(size.classes)
        self.num_classes = _half(seen) if protocol.labeled == "base" else seen
        shots = int(of("shots") or 0)
        self.more_classes = max(0, self.num_classes - CLASSES)
        per_class = size.train / size.classes
        labeled = values.get(f"{self.method}.regime", self.kind.regime) == LABELED
        drawn_from = self.num_classes if labeled else seen
        self.num_drawn = round(drawn_from * (min(shots, per_class) if shots else per_class))
        rounded = math.floor if of("drop_last") else math.ceil
        a_epoch = max(1, rounded(self.num_drawn / self.batch))
        self.steps = int(of("epochs") or 1) * a_epoch if self.takes_steps else 0
        self.targets = tuple(of("targets") or ())
        teacher = values.get(f"{self.method}.teacher")
        self.teacher = "" if teacher is None else str(teacher.name)

    def beside_steps(self) -> list[Gap]:
        """What a run also does that no figure is of: scores of every epoch, where they choose the
        weights, and a teacher of its own, which sees every image once.
        """
        gaps = []
        if self.takes_steps and self.selection != LAST:
            gaps.append(Gap(what=f"the scores of every epoch for {self.selection!r}"))
        if self.teacher not in ("", OWN_TEACHER):
            gaps.append(Gap(what=f"the {self.teacher} of {self.method}"))
        return gaps


def _half(classes: int) -> int:
    """The base classes of so many."""
    return math.ceil(classes / 2)


class _Shared:
    """The images of which features, or crops, are kept once for all runs: test images, and the
    training images of each seed in all their views, unless they are decoded anew in every step.
    ``readers`` are refiners that train on kept features, of which they may read more.
    """

    def __init__(self, sizes: "_Sizes") -> None:
        self.sizes = sizes
        self.drawn: dict[tuple[str, str, bool], dict[int, dict[int | None, int]]] = {}
        self.readers: set[str] = set()

    def add(self, run: _PlannedRun) -> None:
        for name in (run.cell.dataset, *run.targets):
            self.drawn.setdefault((run.backbone, name, run.on_pixels), {})
        if not run.decodes:
            kind = (run.backbone, run.cell.dataset, run.on_pixels)
            drawn, seed = self.drawn[kind].setdefault(run.views, {}), run.cell.seed
            drawn[seed] = max(drawn.get(seed, 0), run.num_drawn)
            if run.refined and run.takes_steps:
                self.readers.add(run.refiner)

    def numbers(self) -> dict[tuple[str, str, bool], int]:
        """Images by backbone, dataset, and whether they are kept as crops."""
        found = {}
        for kind, drawn in self.drawn.items():
            size = self.sizes[kind[1]]
            views = (k * min(sum(of_seed.values()), size.train) for k, of_seed in drawn.items())
            found[kind] = size.test + sum(views)
        return found


def _from_past(run: _PlannedRun, past: PastRuns) -> RunCost | None:
    """A run from finished ones with its settings, None where there are none."""
    if (cost := past.cost_of(run.config)) is None:
        return None
    scaled = ("the seconds of finished runs, in proportion to their epochs",)
    return RunCost(
        cell=run.cell,
        seconds=cost.seconds,
        steps=run.steps,
        peak_mib=cost.peak_mib,
        basis=f"finished runs on {', '.join(cost.devices)}",
        derived=scaled if cost.is_scaled else (),
        on_gpu=cost.on_gpu,
    )


def _on_device(run: _PlannedRun, num_scored: int, speeds: GpuSpeeds, hardware: Hardware) -> RunCost:
    """A run from measured steps of its method."""
    speed, with_refiner = speeds.of(run.backbone, run.method, _refiner(run.refiner))
    derived: list[str] = []
    gaps = run.beside_steps()
    step_ms = _step_ms(run, speed, speeds, derived, gaps) if run.steps and speed else 0.0
    rate = _evaluated_per_second(run, speed, derived) if speed else None
    if gap := _unknown(run, speed, step_ms, rate):
        return RunCost(cell=run.cell, steps=run.steps, gaps=(gap,), on_gpu=speeds.is_gpu)
    assert speed is not None and step_ms is not None
    if not with_refiner:
        gaps.append(_own_part(run, REFINERS))
    if rate is None:
        what = f"the evaluation of {run.method} in {run.precision}"
        gaps.append(Gap(what=what, way_out=f"{GPU_CHECK} it"))
    decode_ms = 0.0
    if run.decodes:
        decoded = hardware.decoded_per_core * hardware.cores_per_gpu
        decode_ms = 1000 * run.batch * run.kind.views_per_image / decoded / run.share
        if decode_ms > step_ms:
            derived.append("decoding is slower than the GPU")
    if run.precision != FULL and not run.on_pixels:
        derived.append(f"image features in {run.precision} from {FULL}")
    return RunCost(
        cell=run.cell,
        seconds=run.steps * max(step_ms, decode_ms) / 1000 + (num_scored / rate if rate else 0.0),
        steps=run.steps,
        step_ms=max(step_ms, decode_ms),
        peak_mib=_peak_mib(run, speed, derived),
        basis=f"{speeds.device}, {speeds.source}",
        derived=tuple(derived),
        gaps=tuple(gaps),
        on_gpu=speeds.is_gpu,
        together=run.share,
    )


def _unknown(
    run: _PlannedRun, speed: MethodSpeed | None, step_ms: float | None, rate: float | None
) -> Gap | None:
    """What of a run nobody has measured, so that nothing is known of it."""
    if speed is None:
        what = f"{run.method} on {run.backbone}"
    elif step_ms is None:
        images = "pixels" if run.decodes else "cached features"
        what = f"a step of {run.method} in {run.precision} on {images}"
    elif rate is None and not run.steps:
        what = f"the evaluation of {run.method} in {run.precision}"
    else:
        return None
    timed = speed is None or (run.precision in PRECISIONS and not run.refined)
    return Gap(what=what, whole=True, way_out=_way_out(run) if timed else FINISHED)


def _evaluated_per_second(run: _PlannedRun, speed: MethodSpeed, derived: list[str]) -> float | None:
    """The rate of evaluation; that in full precision, which is not above it, where need be."""
    rates = speed.evaluated_per_second
    if run.precision not in rates and FULL in rates:
        derived.append(f"evaluation in {run.precision} from {FULL}")
    return rates.get(run.precision, rates.get(FULL))


def _peak_mib(run: _PlannedRun, speed: MethodSpeed, derived: list[str]) -> float:
    """Memory at most, 0 where it was not measured."""
    peak = speed.peak_mib.get(run.precision)
    if peak is None:
        if (peak := speed.peak_mib.get(FULL)) is None:
            return 0.0
        derived.append(f"memory in {run.precision} from {FULL}")
    if not run.steps:
        return peak
    scale = run.batch / speed.batch if speed.batch else 1.0
    return peak * max(1.0, scale) + run.more_classes * CLASS_MIB


def _way_out(run: _PlannedRun) -> str:
    """What measures a method on a backbone: nothing does before its runs where it is a plug-in."""
    if any(run.method in plugin.classes for plugin in loaded_plugins()):
        return FINISHED
    return f"{GPU_CHECK} them"


def _own_part(run: _PlannedRun, timed: Collection[str]) -> Gap:
    """What a refiner adds to the steps of its method."""
    way_out = f"{GPU_CHECK} it" if run.refiner in timed else FINISHED
    return Gap(what=f"the own part of {run.refiner}", way_out=way_out)


def _step_ms(
    run: _PlannedRun, speed: MethodSpeed, speeds: GpuSpeeds, derived: list[str], gaps: list[Gap]
) -> float | None:
    """Milliseconds of a step without decoding, None where that was not measured; notes what is
    derived, and what they lack.
    """
    pixels = speed.step_ms.get(("pixels", run.precision))
    cached = speed.step_ms.get(("cached", run.precision))
    if pixels is None and (cached is None or run.decodes):
        return None
    scale = run.batch / speed.batch if speed.batch else 1.0
    if scale != 1 or not speed.batch:
        derived.append(f"batch {run.batch} from {speed.batch or 'one of unknown size'}")
    if cached is None:
        found = (pixels or 0.0) * scale
        if not run.decodes and not run.on_pixels:
            derived.append("an upper bound: images encoded in every step")
    elif run.decodes and pixels is not None:
        if run.share > 1:
            derived.append(f"{run.share} runs in lockstep share the image tower")
        found = cached + max(0.0, pixels - cached) * scale / run.share
    else:
        found = cached
    if run.more_classes and (cached is None or cached > TEXT_MS):
        found += _more_classes_ms(run, speeds, derived, gaps)
    return found


def _more_classes_ms(
    run: _PlannedRun, speeds: GpuSpeeds, derived: list[str], gaps: list[Gap]
) -> float:
    """Milliseconds of a step for its classes beyond those of the measurements."""
    more, of = f"more classes than {CLASSES}", run.precision
    if of not in speeds.tflops:
        of = FULL
        if of not in speeds.tflops:
            gaps.append(Gap(what=more, way_out=f"{GPU_CHECK} the rate of matrix products"))
            return 0.0
    derived.append(more if of == run.precision else f"{more} at the rate of {of}")
    return run.more_classes * CLASS_GFLOP / (REACHED * speeds.tflops[of])


def _on_mosaic(run: _PlannedRun, costs: StepCosts) -> RunCost:
    """A run on the embedded backbone, from measured steps on a CPU."""
    ratio = costs.ratios.get(run.method)
    gaps = [Gap(what="the evaluation"), *run.beside_steps()]
    if not run.steps:
        return RunCost(cell=run.cell, basis=NO_STEPS, gaps=tuple(gaps), on_gpu=False)
    if ratio is None:
        gap = Gap(what=f"{run.method} on {run.backbone}", whole=True)
        return RunCost(cell=run.cell, steps=run.steps, gaps=(gap,), on_gpu=False)
    if run.refined:
        gaps.append(_own_part(run, ()))
    step_ms = costs.base_ms * ratio * run.batch / MOSAIC_BATCH
    return RunCost(
        cell=run.cell,
        seconds=run.steps * step_ms / 1000,
        steps=run.steps,
        step_ms=step_ms,
        basis=f"{costs.device}, one thread, step_costs.json",
        derived=("an upper bound: images encoded in every step, 100 classes",),
        gaps=tuple(gaps),
        on_gpu=False,
    )


def _feature_seconds(number: int, backbone: str, speeds: GpuSpeeds, hardware: Hardware) -> float:
    """Seconds to decode and encode images once."""
    encoded = speeds.images_per_second(backbone) or math.inf
    return number / min(encoded, hardware.decoded_per_core * hardware.cores_per_gpu)


def _feature_gaps(
    cached: Mapping[tuple[str, str, bool], int], speeds: GpuSpeeds
) -> tuple[Gap, ...]:
    """The image towers that features need, and whose rate nobody has measured."""
    unknown = {key[0] for key in cached if speeds.images_per_second(key[0]) is None}
    return tuple(
        Gap(what=f"the image tower of {backbone}", way_out=f"{GPU_CHECK} it")
        for backbone in sorted(unknown)
    )


def _refiner(name: str) -> str:
    return NO_REFINER if name == NULL_REFINER else name
