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
from experiments.run.method_presets import method_presets
from experiments.run.run import fingerprints
from experiments.run.runtime import Runtime
from experiments.study.driver import run_study
from experiments.study.gpu_check_page import page
from experiments.study.planner import plan
from experiments.workers.jobs import Job
from experiments.workers.local import LocalExecutor, make_executor

ENTRY = "experiments.run.device_cases:measure_case"
GRID = "gpu_check"
JSON_NAME, PAGE_NAME, LOG_NAME = "gpu_check.json", "gpu_check.md", "cases.log"
SCHEMA_VERSION = 1
BACKBONE = "ViT-B-16-quickgelu"
AGREEMENT_JOBS = 4
CASE_SECONDS = 60.0
POLL_SECONDS = 0.5
COUNTS_OFF = 0.005  # of the test images: ties that are broken differently
OUT_OF_TIME = "not measured: the time was up"
# The time by which a section must be through, as a part of the whole.
SHARES = {"machine": 0.15, "agreement": 0.45, "grid": 0.65, "speed": 1.0}

Say = Callable[[str], None]
Case = tuple[dict[str, Any], dict[str, Any]]
"""What names a row, and the payload of its measurement."""


class OutOfTimeError(RuntimeError):
    """A section has used its share of the time."""


@dataclass(frozen=True, kw_only=True)
class GpuCheck:
    """What to check, and the folder in which it is written down.

    ``backbone`` is that of the speeds: "mosaic", or an open_clip name, which gets random weights.
    ``methods`` are those to check; all registered ones where there are none.
    """

    out: Path
    device: str
    seconds: float
    backbone: str = BACKBONE
    methods: tuple[str, ...] = ()
    matrix_side: int = 8192
    sections: tuple[str, ...] = tuple(SHARES)
    jobs: int = AGREEMENT_JOBS

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
        Runtime(cache_dir=self.cache_dir, device=self.device)  # refuses a device that is not there
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

    def add(self, section: str, row: Mapping[str, Any]) -> None:
        """Keep a row, tell it, and write everything down."""
        self.rows.setdefault(section, []).append(dict(row))
        self.say(one_line(f"{self.elapsed():6.1f} s  {section}: {describe(row)}"))
        self.write()

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
            "backbone": self.check.backbone,
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


def _speed(found: Findings) -> None:
    check = found.check
    weights = None
    if check.backbone != MOSAIC:
        path = check.cache_dir / f"{check.backbone}.safetensors"
        write_random_weights(check.backbone, path)
        weights = str(path)
    common = {
        "case": "speed",
        "device": check.device,
        "backbone": check.backbone,
        "weights": weights,
        "tree": str(write_images(check.cache_dir / "images")),
        "cache_dir": str(check.cache_dir),
    }
    _measure(found, "speed", [(name, common | name) for name in _speed_rows(check)], jobs=1)


def _speed_rows(check: GpuCheck) -> Iterator[dict[str, str]]:
    """The rows in the order of their importance: the last are left out first."""
    methods = _methods(check)
    cached = [m for m in methods if getattr(lookup(m).cls, "image_input", "") == "features"]
    alone, refined = _refiners()
    for names, refiner, images in (
        (methods, alone, "pixels"),
        (cached, alone, "cached"),
        (methods, refined, "pixels"),
    ):
        for method in names:
            for precision in ("float32", "bfloat16"):
                yield {
                    "method": method,
                    "refiner": refiner,
                    "images": images,
                    "precision": precision,
                }


def _grid(found: Findings) -> None:
    """The same study on the CPU, on the device, and on the device with two workers."""
    first: dict[str, Any] = {}
    for name, device, jobs in (
        ("cpu", "cpu", 2),
        ("device, 1 job", found.check.device, 1),
        ("device, 2 jobs", found.check.device, 2),
    ):
        started = time.monotonic()
        records = _run_grid(found, name, device, jobs)
        seconds = time.monotonic() - started
        correct = {f"{r.variant}, seed {r.seed}": _correct(r) for r in records}
        first = first or correct
        off = sum(abs(a - b) for k in first for a, b in zip(first[k], correct[k], strict=True))
        images = sum(sum(e.total) for r in records for e in r.evaluations)
        row = {"name": name, "runs": len(records), "seconds": seconds, "counts_off": off}
        found.add("grid", row | {"images": images, "ok": off <= COUNTS_OFF * images})


def _correct(record: RunRecord) -> list[int]:
    return [sum(evaluation.correct) for evaluation in record.evaluations]


def _run_grid(found: Findings, name: str, device: str, jobs: int) -> list[RunRecord]:
    """The records of the small grid, in the order of their identities' folders."""
    check = found.check
    left = found.time_left("grid")
    if left <= 0:
        raise OutOfTimeError(OUT_OF_TIME)
    made = plan(
        read_config_file(config_path(GRID)),
        partial(fingerprints, cache_dir=check.cache_dir, data_root=None),
    )
    runtime = Runtime(cache_dir=check.cache_dir, device=device)
    with tempfile.TemporaryDirectory(dir=check.out) as folder:  # earlier records never count
        study_dir = Path(folder) / GRID
        executor = make_executor(jobs, study_dir, job_seconds=left)
        outcome = run_study(made, study_dir, executor, runtime=runtime, max_attempts=1)
        records = list(read_records(study_dir))
    if outcome.failed or outcome.diverged or outcome.left:
        problems = sorted({r.message for r in records if r.message})
        raise RuntimeError(f"{name}: {'; '.join(problems) or 'runs are left'}")
    return records


def _measure(found: Findings, section: str, cases: list[Case], *, jobs: int) -> None:
    """Measure the cases of a section in worker processes; each becomes a row."""
    names = {str(number): name for number, (name, _) in enumerate(cases)}
    limit = max(min(CASE_SECONDS, found.time_left(section)), 1.0)
    log_dir = found.check.out
    with LocalExecutor(jobs, log_dir=log_dir, entry=ENTRY, job_seconds=limit) as executor:
        for number, (_, payload) in enumerate(cases):
            log = log_dir / LOG_NAME
            executor.submit(Job(key=str(number), payload=payload, max_attempts=1, log=log))
        while names and found.time_left(section) > 0:
            for event in executor.poll(POLL_SECONDS):
                if event.kind in ("done", "failed", "returned"):
                    error = {} if event.kind == "done" else {"error": event.message}
                    found.add(section, names.pop(event.key) | dict(event.result) | error)
    for name in names.values():
        found.add(section, name | {"error": OUT_OF_TIME})


def prepare_mosaic(cache_dir: Path) -> None:
    """Draw the embedded benchmark's images once, before several workers want them."""
    load_dataset("mosaic/vehicles", root=None, cache_dir=cache_dir)


def _methods(check: GpuCheck) -> tuple[str, ...]:
    return check.methods or tuple(method_presets())


def _refiners() -> tuple[str, ...]:
    return tuple(REFINERS)
