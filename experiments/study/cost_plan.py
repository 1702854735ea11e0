"""What a grid costs on given hardware: hours, GPU hours, memory and disk, before anything runs.

Where runs of the study have finished, their seconds count. Otherwise a run is its number of steps
times the measured time of a step, and its test images over the measured rate of evaluation. What is
derived from these by arithmetic is named: more classes than the 50 of the measurements, another
batch size, images decoded by the cores of a GPU, several runs in lockstep.
"""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from core.clip.catalog import MOSAIC
from core.config import config_from_text, lookup
from core.data.benchmarks.definitions import BENCHMARKS
from core.data.catalog import load_dataset
from core.store.record import RunRecord
from experiments.run.gpu_speeds import CLASSES, NO_REFINER, GpuSpeeds, MethodSpeed
from experiments.run.protocols import LABELED
from experiments.run.runtime import Runtime
from experiments.run.step_costs import StepCosts
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
class RunCost:
    """The estimate of a run. ``basis`` says where it comes from, "" where nothing is known."""

    cell: Cell
    seconds: float = 0.0
    steps: int = 0
    step_ms: float = 0.0
    peak_mib: float = 0.0
    basis: str = ""
    derived: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPlan:
    """The estimate of a grid: its runs, the features that they share, and what follows."""

    runs: tuple[RunCost, ...]
    feature_seconds: Mapping[str, float]
    hardware: Hardware
    disk_bytes: float
    done: int

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
        """Whether the figures are of GPUs; the embedded backbone was measured on a CPU."""
        return any(run.peak_mib for run in self.runs)

    @property
    def unknown(self) -> tuple[RunCost, ...]:
        """The runs of which nothing is known."""
        return tuple(run for run in self.runs if not run.basis)


def plan_costs(
    plan: Plan,
    records: Iterable[RunRecord],
    *,
    speeds: GpuSpeeds,
    costs: StepCosts,
    hardware: Hardware,
    runtime: Runtime,
) -> CostPlan:
    """The estimate of a plan; cells that are among the records count as done.

    Raises ValueError for a dataset of which neither published sizes nor files are there.
    """
    past = _past(records)
    left = [cell for cell in plan.runs if _key(cell) not in past.finished]
    sizes = _Sizes(runtime)
    together = Counter(cell.bundle for cell in left if cell.bundle)
    runs: list[RunCost] = []
    shared: dict[tuple[str, str, bool], int] = {}
    for cell in left:
        run = _PlannedRun(
            cell, sizes[cell.dataset], min(hardware.lockstep, together[cell.bundle] or 1)
        )
        if known := past.mean(cell):
            runs.append(RunCost(cell=cell, seconds=known[0], basis=f"finished runs on {known[1]}"))
        elif run.backbone == MOSAIC:
            runs.append(_on_mosaic(run, costs))
        else:
            scored = sum(sizes[name].test for name in (cell.dataset, *run.targets))
            runs.append(_on_gpu(run, scored, speeds, hardware))
        if run.backbone != MOSAIC:
            kept = {name: sizes[name].test for name in run.targets}
            for name, number in {**kept, cell.dataset: run.num_cached}.items():
                kind = (run.backbone, name, run.on_pixels)
                shared[kind] = max(shared.get(kind, 0), number)
    cached = {kind: number for kind, number in shared.items() if not kind[2]}
    return CostPlan(
        runs=tuple(runs),
        feature_seconds={
            f"{backbone} {dataset}": _feature_seconds(number, backbone, speeds, hardware)
            for (backbone, dataset, _), number in cached.items()
        },
        hardware=hardware,
        disk_bytes=sum(RUN_BYTES + IMAGE_BYTES * sizes[cell.dataset].test for cell in left)
        + sum(n * (CROP_BYTES if kind[2] else EMBEDDING_BYTES) for kind, n in shared.items()),
        done=len(plan.runs) - len(left),
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

    def __init__(self, cell: Cell, size: Sizes, share: int) -> None:
        values: Mapping[str, Any] = config_from_text(cell.config_text, cell.label).operative(ROOT)

        def of(name: str) -> Any:
            return values.get(f"{ROOT}.{name}")

        self.cell, self.size, self.share = cell, size, share
        self.method, self.refiner = of("method").name, of("refiner").name
        self.backbone, self.precision = str(of("backbone")), str(of("precision"))
        entry: Any = lookup(self.method).cls
        self.kind: Any = entry
        learns = self.kind.trains and self.kind.trains_by_gradient
        refined = self.refiner != NULL_REFINER
        self.takes_steps = of("optimizer") is not None and (learns or refined)
        self.on_pixels = self.kind.image_input == "pixels"
        self.decodes = bool(self.takes_steps and (self.on_pixels or of("fresh_views")))
        self.batch = int(of("batch_size") or 1)
        half = of("protocol") == "base_to_new"
        self.num_classes = -(-size.classes // 2) if half else size.classes
        shots = int(of("shots") or 0)
        per_class = size.train / size.classes
        labeled = values.get(f"{self.method}.regime", self.kind.regime) == LABELED
        drawn_from = self.num_classes if labeled else size.classes
        self.num_drawn = round(drawn_from * (min(shots, per_class) if shots else per_class))
        rounded = math.floor if of("drop_last") else math.ceil
        a_epoch = max(1, rounded(self.num_drawn / self.batch))
        self.steps = int(of("epochs") or 1) * a_epoch if self.takes_steps else 0
        self.targets = tuple(of("targets") or ())

    @property
    def num_cached(self) -> int:
        """The images of which features, or crops, are kept once for all runs."""
        return self.size.test + (0 if self.decodes else self.num_drawn)


def _on_gpu(run: _PlannedRun, num_scored: int, speeds: GpuSpeeds, hardware: Hardware) -> RunCost:
    """A run from measured steps of its method on a GPU."""
    speed, with_refiner = speeds.of(run.backbone, run.method, _refiner(run.refiner))
    if speed is None:
        return RunCost(cell=run.cell)
    derived = [] if with_refiner else [f"without the own part of {run.refiner}"]
    step_ms = _step_ms(run, speed, speeds, derived) if run.steps else 0.0
    decode_ms = 0.0
    if run.decodes:
        rate = hardware.decoded_per_core * hardware.cores_per_gpu
        decode_ms = 1000 * run.batch * run.kind.views_per_image / rate / run.share
        if decode_ms > step_ms:
            derived.append("decoding is slower than the GPU")
    evaluation = num_scored / speed.evaluated_per_second
    more = max(0, run.num_classes - CLASSES)
    return RunCost(
        cell=run.cell,
        seconds=run.steps * max(step_ms, decode_ms) / 1000 + evaluation,
        steps=run.steps,
        step_ms=max(step_ms, decode_ms),
        peak_mib=speed.peak_mib + more * CLASS_MIB,
        basis=f"{speeds.device}, {speeds.source}",
        derived=tuple(derived),
    )


def _step_ms(run: _PlannedRun, speed: MethodSpeed, speeds: GpuSpeeds, derived: list[str]) -> float:
    """Milliseconds of a step without decoding; notes what is derived."""
    precision = run.precision if run.precision in ("float32", "bfloat16") else "float32"
    pixels = speed.step_ms.get(("pixels", precision))
    cached = speed.step_ms.get(("cached", precision))
    scale = run.batch / speed.batch if speed.batch else 1.0
    if scale != 1:
        derived.append(f"batch {run.batch} from {speed.batch}")
    if cached is None:
        found = (pixels or 0.0) * scale
    elif run.decodes and pixels is not None:
        if run.share > 1:
            derived.append(f"{run.share} runs in lockstep share the image tower")
        found = cached + max(0.0, pixels - cached) * scale / run.share
    else:
        found = cached
    more = max(0, run.num_classes - CLASSES)
    if more and (cached is None or cached > TEXT_MS):
        derived.append(f"more classes than {CLASSES}")
        rate = REACHED * speeds.tflops.get(precision, speeds.tflops["float32"])
        found += more * CLASS_GFLOP / rate
    return found


def _on_mosaic(run: _PlannedRun, costs: StepCosts) -> RunCost:
    """A run on the embedded backbone, from measured steps on a CPU."""
    ratio = costs.ratios.get(run.method)
    if not run.steps:
        return RunCost(cell=run.cell, basis=NO_STEPS)
    if ratio is None:
        return RunCost(cell=run.cell)
    step_ms = costs.base_ms * ratio * run.batch / MOSAIC_BATCH
    return RunCost(
        cell=run.cell,
        seconds=run.steps * step_ms / 1000,
        steps=run.steps,
        step_ms=step_ms,
        basis=f"{costs.device}, one thread, step_costs.json",
        derived=("an upper bound: images encoded in every step, 100 classes",),
    )


def _feature_seconds(number: int, backbone: str, speeds: GpuSpeeds, hardware: Hardware) -> float:
    """Seconds to decode and encode images once."""
    encoded = speeds.images_per_second(backbone) or math.inf
    return number / min(encoded, hardware.decoded_per_core * hardware.cores_per_gpu)


def _refiner(name: str) -> str:
    return NO_REFINER if name == NULL_REFINER else name


def _key(cell: Cell) -> tuple[str, str, int | None, int | None]:
    return cell.variant, cell.dataset, cell.shots, cell.seed


class _Past:
    """What finished runs of the study took."""

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self.finished = {
            (r.variant, r.dataset, shots, r.seed) for r in records for shots in (r.shots, None)
        }
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.devices: dict[tuple[str, str], str] = {}
        for record in records:
            if record.cost is not None:
                key = (record.variant, record.dataset)
                self.seconds[key].append(record.cost.total_seconds)
                self.devices[key] = str(record.environment.get("device", "a device unknown"))

    def mean(self, cell: Cell) -> tuple[float, str] | None:
        """Mean seconds of the variant on the dataset, and the device."""
        key = (cell.variant, cell.dataset)
        return (fmean(self.seconds[key]), self.devices[key]) if key in self.devices else None


def _past(records: Iterable[RunRecord]) -> _Past:
    return _Past([record for record in records if record.status == "finished"])
