"""The check of a device: does every method say the same there, how fast is it, do studies run?

Sections run one after another, each within a share of the time. Every measurement is a job of a
worker process, so that one that fails, hangs or leaves the device in a doubtful state is a row with
its reason and never the end of the check. What was found is written after every row.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from core.clip.backbone import write_random_weights
from core.clip.catalog import MOSAIC
from core.config import lookup
from core.data.catalog import load_dataset
from core.store.atomic import check_folder, write_atomic
from core.store.names import CACHE_FOLDER
from core.store.record import RunRecord, read_records
from core.streams import one_line
from core.suggestions import did_you_mean
from experiments.configs import config_path, read_config_file
from experiments.run.device_cases import REFINERS, write_images
from experiments.run.devices import CPU, one_device
from experiments.run.gpu_speeds import PRECISIONS, SCHEMA_VERSION
from experiments.run.method_presets import method_presets
from experiments.run.run import fingerprints
from experiments.run.runtime import Runtime
from experiments.study.driver import run_study
from experiments.study.gpu_check_faults import check_faults
from experiments.study.gpu_check_page import page
from experiments.study.planner import plan
from experiments.workers.jobs import Job
from experiments.workers.local import LocalExecutor, make_executor
from experiments.workers.placement import place

ENTRY = "experiments.run.device_cases:measure_case"
GRID = "gpu_check"
JSON_NAME, PAGE_NAME, LOG_NAME = "gpu_check.json", "gpu_check.md", "cases.log"
BACKBONES = ("ViT-B-16-quickgelu", "ViT-L-14-quickgelu")
AGREEMENT_JOBS = 4
GRID_RUNS = 40
JOBS_PER_GPU = (1, 2, 4)
NUM_VARIANTS, FEW_RUNS = 2, 4  # of the grid
CASE_SECONDS = 60.0
POLL_SECONDS = 0.5
COUNTS_OFF = 0.005  # of the test images: ties that are broken differently
OUT_OF_TIME = "not measured: the time was up"
# The time by which a section must be through, as a part of the whole.
SHARES = {
    "machine": 0.08,
    "agreement": 0.28,
    "faults": 0.33,
    "features": 0.4,
    "grid": 0.6,
    "speed": 1.0,
}

Say = Callable[[str], None]
Case = tuple[dict[str, Any], dict[str, Any]]
"""What names a row, and the payload of its measurement."""


class OutOfTimeError(RuntimeError):
    """A section has used its share of the time."""


@dataclass(frozen=True, kw_only=True)
class GpuCheck:
    """What to check, and the folder in which it is written down.

    ``backbones`` are those of the speeds: "mosaic", or open_clip names, which get random weights.
    ``methods`` are those to check; all registered ones where there are none. A ``quick`` check
    leaves out all backbones but the first, the speeds with a refiner, and all of the large grid but
    a few runs.
    """

    out: Path
    device: str
    seconds: float
    backbones: tuple[str, ...] = BACKBONES
    methods: tuple[str, ...] = ()
    matrix_side: int = 8192
    sections: tuple[str, ...] = tuple(SHARES)
    jobs: int = AGREEMENT_JOBS
    grid_runs: int = GRID_RUNS
    quick: bool = False

    def __post_init__(self) -> None:
        if unknown := [name for name in self.sections if name not in SHARES]:
            raise ValueError(
                f"gpu-check has no section {unknown[0]!r}; choose from {', '.join(SHARES)}"
            )
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds must be a number above 0, got {self.seconds:g}")
        known = method_presets()
        if unknown := [name for name in self.methods if name not in known]:
            near = did_you_mean(unknown[0], known)
            raise ValueError(f"there is no method {unknown[0]!r}{near}")
        if not self.backbones:
            raise ValueError("gpu-check needs a backbone; leave --backbone out for the usual ones")
        object.__setattr__(self, "device", one_device(self.device))
        if self.quick:
            object.__setattr__(self, "backbones", self.backbones[:1])
            object.__setattr__(self, "grid_runs", FEW_RUNS)
        check_folder(self.out, "--out")

    @property
    def cache_dir(self) -> Path:
        """Drawn images, features and random weights."""
        return (self.out / CACHE_FOLDER).absolute()


@dataclass(kw_only=True)
class Findings:
    """Everything found so far, by section; ``write`` keeps it."""

    check: GpuCheck
    say: Say
    started: float = field(default_factory=time.monotonic)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    written: set[Path] = field(default_factory=set)

    def add(self, section: str, row: Mapping[str, Any]) -> None:
        """Keep a row, tell it, and write everything down."""
        row = {**row, **self._share(row)}
        self.rows.setdefault(section, []).append(row)
        self.say(one_line(f"{self.elapsed():6.1f} s  {section}: {describe(row)}"))
        self.write()

    def _share(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Which part of the measured rate of matrix products a row attains."""
        machine = self.rows.get("machine", [{}])[0]
        rate = machine.get(f"{row.get('precision')}_tflops")
        return {"share": row["tflops"] / rate} if rate and row.get("tflops") else {}

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def time_left(self, section: str) -> float:
        """Seconds until a section must be through; the last one may use all that is left."""
        whole = max(SHARES[name] for name in self.check.sections)
        return SHARES[section] / whole * self.check.seconds - self.elapsed()

    def document(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {
            "schema": SCHEMA_VERSION,
            "device": self.check.device,
            "backbones": list(self.check.backbones),
            "seconds": round(self.elapsed(), 1),
            "ok": self.ok(),
            **{name: self.rows.get(name, []) for name in SHARES},
        }

    def ok(self) -> bool:
        """Whether every row that was asked for is there and right."""
        found = [row for name in self.check.sections for row in self.rows.get(name, [])]
        return bool(found) and all(not row.get("error") and row.get("ok", True) for row in found)

    def write(self) -> None:
        document = self.document()
        write_atomic(self.check.out / JSON_NAME, json.dumps(document, indent=1) + "\n")
        write_atomic(self.check.out / PAGE_NAME, page(document))


def gpu_check(check: GpuCheck, say: Say) -> bool:
    """Run the sections; True where every row is right."""
    found = Findings(check=check, say=say)
    found.write()
    sections: dict[str, Callable[[Findings], None]] = {
        "machine": _machine,
        "agreement": _agreement,
        "faults": _faults,
        "features": _features,
        "grid": _grid,
        "speed": _speed,
    }
    for name in check.sections:
        try:
            sections[name](found)
        except Exception as error:  # whatever it is, the other sections still run
            found.add(name, {"error": one_line(f"{type(error).__name__}: {error}")})
    return found.ok()


def describe(row: Mapping[str, Any]) -> str:
    """A row in one line."""
    shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
    return ", ".join(f"{name} {value}" for name, value in zip(row, shown, strict=True))


def _machine(found: Findings) -> None:
    check = found.check
    payload = {"device": check.device, "side": check.matrix_side}
    if check.matrix_side < 1024:
        payload["megabytes"] = 8
    _measure(found, "machine", [({}, {"case": "rates", **payload})], jobs=1)


def _agreement(found: Findings) -> None:
    check = found.check
    common = {
        "case": "agreement",
        "device": check.device,
        "cache_dir": str(check.cache_dir),
    }
    prepare_mosaic(check.cache_dir)
    names = [{"method": m, "refiner": r} for r in _refiners() for m in _methods(check)]
    _measure(found, "agreement", [(name, common | name) for name in names], jobs=check.jobs)


def _faults(found: Findings) -> None:
    """A worker that is killed, an error of the device, and a run that needs too much memory."""
    left = min(found.time_left("faults"), CASE_SECONDS)
    if left <= 0:
        raise OutOfTimeError(OUT_OF_TIME)
    for row in check_faults(found.check.device, found.check.out, seconds=left):
        found.add("faults", row)


def _features(found: Findings) -> None:
    """What feeds the methods: frozen features, and decoded images."""
    check, cases = found.check, list[Case]()
    for backbone in check.backbones:
        common = {"backbone": backbone, **_weights(found, backbone), **_tree(check)}
        name = {"backbone": backbone, "what": "decode"}
        cases.append((name, {"case": "decode"} | common))
        for precision in PRECISIONS:
            name = {"backbone": backbone, "what": "features", "precision": precision}
            own = {"case": "features", "precision": precision, "device": check.device}
            cases.append((name, own | common))
    _measure(found, "features", cases, jobs=1)


def _speed(found: Findings) -> None:
    check = found.check
    weights = {backbone: _weights(found, backbone) for backbone in check.backbones}
    common: dict[str, Any] = {"case": "speed", "device": check.device, **_tree(check)}
    cases: list[Case] = [
        (dict(row), common | row | weights[row["backbone"]]) for row in _speed_rows(check)
    ]
    _measure(found, "speed", cases, jobs=1)


def _tree(check: GpuCheck) -> dict[str, str]:
    """Where the images of the measurements are, and what is computed from them."""
    return {
        "tree": str(write_images(check.cache_dir / "images")),
        "cache_dir": str(check.cache_dir),
    }


def _weights(found: Findings, backbone: str) -> dict[str, str | None]:
    """A file of random weights, written once; none for the embedded backbone."""
    if backbone == MOSAIC:
        return {"weights": None}
    path = found.check.cache_dir / f"{backbone}.safetensors"
    if path not in found.written:
        write_random_weights(backbone, path)
        found.written.add(path)
    return {"weights": str(path)}


def _speed_rows(check: GpuCheck) -> Iterator[dict[str, str]]:
    """The rows in the order of their importance: the last are left out first.

    Every method on the first backbone, on cached features where it can be, on the other backbones,
    and with a refiner.
    """
    methods = _methods(check)
    cached = [m for m in methods if getattr(lookup(m).cls, "image_input", "") == "features"]
    alone, refined = _refiners()
    first, *others = check.backbones
    parts = [(first, methods, alone, "pixels"), (first, cached, alone, "cached")]
    parts += [(other, methods, alone, "pixels") for other in others]
    parts += [] if check.quick else [(first, methods, refined, "pixels")]
    for backbone, names, refiner, images in parts:
        for method in names:
            for precision in PRECISIONS:
                yield {
                    "method": method,
                    "backbone": backbone,
                    "refiner": refiner,
                    "images": images,
                    "precision": precision,
                }


def _grid(found: Findings) -> None:
    """A study on the CPU, and the same with more seeds on the device, with one and more workers."""
    check, first = found.check, dict[str, Any]()
    parts = [("cpu", "cpu", 2, FEW_RUNS)]
    for jobs in JOBS_PER_GPU:
        name = f"device, {jobs} job{'s' * (jobs > 1)}"
        parts.append((name, check.device, jobs, check.grid_runs))
    for name, device, jobs, runs in parts:
        started = time.monotonic()
        records = _run_grid(found, name, device, jobs, runs)
        seconds = time.monotonic() - started
        correct = {f"{r.variant}, seed {r.seed}": _correct(r) for r in records}
        first = first or correct
        off = sum(abs(a - b) for k in first for a, b in zip(first[k], correct[k], strict=True))
        images = sum(sum(e.total) for r in records[: len(first)] for e in r.evaluations)
        row = {"name": name, "runs": len(records), "seconds": seconds}
        row |= {"runs_per_minute": 60 * len(records) / seconds, "counts_off": off}
        row |= {"jobs_per_gpu": jobs} if device != CPU else {}
        found.add("grid", row | {"images": images, "ok": off <= COUNTS_OFF * images})


def _correct(record: RunRecord) -> list[int]:
    return [sum(evaluation.correct) for evaluation in record.evaluations]


def _run_grid(found: Findings, name: str, device: str, jobs: int, runs: int) -> list[RunRecord]:
    """The records of the grid with so many runs, in the order of their identities' folders."""
    check = found.check
    left = found.time_left("grid")
    if left <= 0:
        raise OutOfTimeError(OUT_OF_TIME)
    made = plan(
        read_config_file(config_path(GRID), [f"grid.seeds={_seeds(runs)}"]),
        partial(fingerprints, cache_dir=check.cache_dir, data_root=None),
    )
    placed = place(device, jobs=jobs, jobs_per_gpu=None if device == CPU else jobs)
    runtime = Runtime(cache_dir=check.cache_dir, device=placed.device)
    with tempfile.TemporaryDirectory(dir=check.out) as folder:  # earlier records never count
        study_dir = Path(folder) / GRID
        gpus = placed.gpus[:1]
        executor = make_executor(jobs, study_dir, gpus=gpus, job_seconds=left)
        outcome = run_study(made, study_dir, executor, runtime=runtime, max_attempts=1)
        records = list(read_records(study_dir))
    if outcome.failed or outcome.diverged or outcome.left:
        problems = sorted({r.message for r in records if r.message})
        raise RuntimeError(f"{name}: {'; '.join(problems) or 'runs are left'}")
    return records


def _seeds(runs: int) -> tuple[int, ...]:
    """The seeds with which the two variants of the grid make so many runs."""
    return tuple(range(1, 1 + max(runs // NUM_VARIANTS, 1)))


def _measure(found: Findings, section: str, cases: list[Case], *, jobs: int) -> None:
    """Measure the cases of a section in worker processes; each becomes a row."""
    names = {str(number): name for number, (name, _) in enumerate(cases)}
    limit = max(min(CASE_SECONDS, found.time_left(section)), 1.0)
    log_dir, problem = found.check.out, ""
    with LocalExecutor(jobs, log_dir=log_dir, entry=ENTRY, job_seconds=limit) as executor:
        for number, (_, payload) in enumerate(cases):
            log = log_dir / LOG_NAME
            executor.submit(Job(key=str(number), payload=payload, max_attempts=1, log=log))
        while names and not problem and found.time_left(section) > 0:
            for event in executor.poll(POLL_SECONDS):
                if event.kind in ("done", "failed"):
                    error = {} if event.kind == "done" else {"error": event.message}
                    found.add(section, names.pop(event.key) | dict(event.result) | error)
                elif event.kind == "returned":  # nothing more can run
                    problem = event.message
    for name in names.values():
        found.add(section, name | {"error": problem or OUT_OF_TIME})


def prepare_mosaic(cache_dir: Path) -> None:
    """Draw the embedded benchmark's images once, before several workers want them."""
    load_dataset("mosaic/vehicles", root=None, cache_dir=cache_dir)


def _methods(check: GpuCheck) -> tuple[str, ...]:
    return check.methods or tuple(method_presets())


def _refiners() -> tuple[str, ...]:
    return tuple(REFINERS)
