"""Measured speeds of methods on a GPU: those that are shipped, and those that ``gpu-check`` wrote.

The shipped ones are the table of docs/speed.md; a test compares them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from core.config import registered_classes

SHIPPED_SPEEDS = Path(__file__).resolve().parents[1] / "configs" / "gpu_speeds.json"
SCHEMA_VERSION = 2  # of gpu_check.json
CLASSES = 50  # of every measurement
NO_REFINER = "none"
FULL = "float32"  # the precision in which everything is measured
PRECISIONS = ("float32", "bfloat16")  # that gpu-check times
MODES = ("pixels", "cached")
NAMES = ("method", "refiner", "images", "precision")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpeed:
    """A method on a GPU: milliseconds a step by images ("pixels", "cached") and precision; MiB at
    most, and images per second of evaluation, by precision. What was not measured is in none.
    """

    batch: int | None
    step_ms: Mapping[tuple[str, str], float]
    peak_mib: Mapping[str, float]
    evaluated_per_second: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpeeds:
    """What was measured on one kind of device, and where that is written. ``methods`` are by
    backbone, method and refiner; ``encoded`` are images per second of a frozen tower, by backbone;
    ``runs_per_minute`` are those of a small study, by the number of runs at a time.
    """

    device: str
    source: str
    tflops: Mapping[str, float]
    memory_gib: float | None
    methods: Mapping[tuple[str, str, str], MethodSpeed]
    encoded: Mapping[str, float]
    runs_per_minute: Mapping[int, float]
    is_gpu: bool = True

    def of(self, backbone: str, method: str, refiner: str) -> tuple[MethodSpeed | None, bool]:
        """The speed of a method, and whether it is with this refiner."""
        model = architecture(backbone)
        if found := self.methods.get((model, method, refiner)):
            return found, True
        return self.methods.get((model, method, NO_REFINER)), refiner == NO_REFINER

    def images_per_second(self, backbone: str) -> float | None:
        """The rate of a frozen image tower; that of methods on pixels where it was not measured."""
        model = architecture(backbone)
        if model in self.encoded:
            return self.encoded[model]
        kinds: Mapping[str, Any] = {entry.name: entry.cls for entry in registered_classes("method")}
        towers = [
            speed.evaluated_per_second[FULL]
            for (name, method, refiner), speed in self.methods.items()
            if (name, refiner) == (model, NO_REFINER) and FULL in speed.evaluated_per_second
            if method in kinds and kinds[method].image_input == "pixels" and speed.step_ms
        ]
        return median(towers) if towers else None


def architecture(backbone: str) -> str:
    """The name of a backbone without what changes its weights or its activation, not its cost."""
    return backbone.removesuffix("-quickgelu")


def shipped_speeds() -> GpuSpeeds:
    """The figures that come with the program."""
    raw = json.loads(SHIPPED_SPEEDS.read_text())
    methods = {
        (architecture(raw["backbone"]), row["method"], NO_REFINER): MethodSpeed(
            batch=row["batch"],
            step_ms={
                (images, precision): value
                for images in MODES
                for precision, value in row[images].items()
                if value is not None
            },
            peak_mib={FULL: row["peak_mib"]},
            evaluated_per_second={FULL: row["evaluated_per_second"]},
        )
        for row in raw["rows"]
    }
    return GpuSpeeds(
        device=raw["device"],
        source=raw["source"],
        tflops=raw["tflops"],
        memory_gib=raw["memory_gib"],
        methods=methods,
        encoded={},
        runs_per_minute={},
    )


def checked_speeds(path: Path) -> GpuSpeeds:
    """The figures of a ``gpu_check.json``, backbone by backbone; rows that have an error were not
    measured.

    Raises ValueError for another file, a newer one, and one in which something that should be a
    number above 0 is none.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        _check_schema(raw)
        return _read(raw, path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a gpu_check.json to plan with: {error}; 'python main.py gpu-check' "
            "writes one"
        ) from None


def _check_schema(raw: object) -> None:
    if not isinstance(raw, dict) or "speed" not in raw:
        raise ValueError("it has no speeds")
    schema = raw.get("schema", 1)
    if type(schema) is not int or not 1 <= schema <= SCHEMA_VERSION:
        raise ValueError(f"its schema is {schema!r}, and this version reads 1 to {SCHEMA_VERSION}")


def _read(raw: Mapping[str, Any], path: Path) -> GpuSpeeds:
    place, machine = next(_rows(raw, "machine"), ("machine", {}))
    grouped: dict[tuple[str, str, str], list[tuple[str, Row]]] = {}
    for where, row in _rows(raw, "speed"):
        backbone = row.get("backbone") or raw.get("backbone")
        if not all(isinstance(name, str) for name in (backbone, *map(row.get, NAMES))):
            raise ValueError(f"{where} does not name {', '.join(('backbone', *NAMES))}")
        key = (architecture(str(backbone)), row["method"], row["refiner"])
        grouped.setdefault(key, []).append((where, row))
    device = str(raw.get("device", "cuda"))
    tflops = {name: _number(place, machine, f"{name}_tflops") for name in PRECISIONS}
    return GpuSpeeds(
        device=str(machine.get("device") or device),
        source=str(path),
        tflops={name: rate for name, rate in tflops.items() if rate is not None},
        memory_gib=_number(place, machine, "memory_gib"),
        methods={key: _method(rows) for key, rows in grouped.items()},
        encoded=_encoded(raw),
        runs_per_minute=_runs_per_minute(raw),
        is_gpu=device.startswith("cuda"),
    )


def _rows(raw: Mapping[str, Any], section: str) -> Iterator[tuple[str, Row]]:
    """The rows of a section that were measured, each with its place."""
    rows = raw.get(section, [])
    if not isinstance(rows, list):
        raise ValueError(f"{section} is no list of rows")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{section}[{number}] is no row: {row!r}")
        if not row.get("error"):
            yield f"{section}[{number}]", row


def _number(where: str, row: Row, name: str) -> float | None:
    """A figure of a row, None where it was not measured."""
    value = row.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{name} of {where} must be a number above 0, got {value!r}")
    return float(value)


def _method(rows: list[tuple[str, Row]]) -> MethodSpeed:
    def by_precision(name: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for where, row in rows:
            if (value := _number(where, row, name)) is not None:
                found[row["precision"]] = max(value, found.get(row["precision"], 0.0))
        return found

    steps = {(r["images"], r["precision"]): _number(where, r, "step_ms") for where, r in rows}
    batches = [_number(where, row, "batch_size") for where, row in rows]
    return MethodSpeed(
        batch=next((int(batch) for batch in batches if batch), None),
        step_ms={key: value for key, value in steps.items() if value is not None},
        peak_mib=by_precision("peak_mb"),
        evaluated_per_second=by_precision("evaluated_per_second"),
    )


def _encoded(raw: Mapping[str, Any]) -> dict[str, float]:
    """Images per second of the frozen image towers in full precision."""
    found: dict[str, float] = {}
    for where, row in _rows(raw, "features"):
        if (row.get("what"), row.get("precision")) == ("features", FULL):
            rate = _number(where, row, "encoded_per_second")
            if rate is not None:
                found[architecture(str(row.get("backbone")))] = rate
    return found


def _runs_per_minute(raw: Mapping[str, Any]) -> dict[int, float]:
    """How fast the small grid went on the device, by the runs at a time that a row names."""
    found: dict[int, float] = {}
    for where, row in _rows(raw, "grid"):
        jobs = _number(where, row, "jobs_per_gpu")
        rate = _number(where, row, "runs_per_minute")
        if jobs is not None and rate is not None:
            found[int(jobs)] = rate
    return found
