"""Measured speeds of methods on a GPU: those that are shipped, and those that ``gpu-check`` wrote.

The shipped ones are the table of docs/speed.md; a test compares them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

SHIPPED_SPEEDS = Path(__file__).resolve().parents[1] / "configs" / "gpu_speeds.json"
CLASSES = 50  # of every measurement
NO_REFINER = "none"
FULL = "float32"  # the precision in which everything is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpeed:
    """A method on a GPU: milliseconds a step by images ("pixels", "cached") and precision, MiB at
    most, and images per second of evaluation.
    """

    batch: int | None
    step_ms: Mapping[tuple[str, str], float]
    peak_mib: float
    evaluated_per_second: float

    @property
    def is_on_pixels(self) -> bool:
        """Whether the method takes steps and cannot take them on cached features."""
        return bool(self.step_ms) and not any(images == "cached" for images, _ in self.step_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpeeds:
    """What was measured on one kind of GPU, and where that is written. ``methods`` are by backbone,
    method and refiner; ``encoded`` are images per second of a frozen tower, by backbone.
    """

    device: str
    source: str
    tflops: Mapping[str, float]
    memory_gib: float | None
    methods: Mapping[tuple[str, str, str], MethodSpeed]
    encoded: Mapping[str, float]

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
        towers = [
            speed.evaluated_per_second
            for (name, _, refiner), speed in self.methods.items()
            if (name, refiner) == (model, NO_REFINER) and speed.is_on_pixels
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
                for images in ("pixels", "cached")
                for precision, value in row[images].items()
                if value is not None
            },
            peak_mib=row["peak_mib"],
            evaluated_per_second=row["evaluated_per_second"],
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
    )


def checked_speeds(path: Path) -> GpuSpeeds:
    """The figures of a ``gpu_check.json``, backbone by backbone. Raises ValueError for
    another file.
    """
    try:
        raw = json.loads(path.read_text())
        machine = next(row for row in raw["machine"] if "error" not in row)
        grouped: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        for row in raw["speed"]:
            if "error" not in row:
                model = architecture(row.get("backbone") or raw["backbone"])
                grouped.setdefault((model, row["method"], row["refiner"]), []).append(row)
        return GpuSpeeds(
            device=str(machine.get("gpu") or machine.get("device") or raw["device"]),
            source=str(path),
            tflops={
                precision: machine[f"{precision}_tflops"]
                for precision in ("float32", "bfloat16")
                if f"{precision}_tflops" in machine
            },
            memory_gib=machine.get("memory_gib"),
            methods={key: _method(rows) for key, rows in grouped.items()},
            encoded={
                architecture(row["backbone"]): row["encoded_per_second"]
                for row in raw.get("features", ())
                if row.get("what") == "features" and row.get("precision") == "float32"
                if "encoded_per_second" in row
            },
        )
    except (OSError, KeyError, TypeError, StopIteration, ValueError) as error:
        raise ValueError(
            f"{path} is not a gpu_check.json with a machine and speeds ({error!r}): run "
            "'python main.py gpu-check'"
        ) from None


def _method(rows: list[Mapping[str, Any]]) -> MethodSpeed:
    alone = [row for row in rows if row["precision"] == "float32"] or rows
    return MethodSpeed(
        batch=next((row["batch_size"] for row in rows if row.get("batch_size")), None),
        step_ms={(r["images"], r["precision"]): r["step_ms"] for r in rows if "step_ms" in r},
        peak_mib=max((row.get("peak_mb", 0.0) for row in alone), default=0.0),
        evaluated_per_second=max(row["evaluated_per_second"] for row in alone),
    )
