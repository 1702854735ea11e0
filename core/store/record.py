"""The record of a run: one JSON file that makes the run finished. Standard library only.

A record is authoritative; MLflow, tables and reports are derived from records. It stores
integers, correct and total per class, and every accuracy is derived from them, so that equal
results are exactly equal.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from core.store.atomic import write_atomic
from core.store.names import RECORD_NAME

SCHEMA_VERSION = 1
STATUSES = ("finished", "diverged", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Counts of one evaluation: ``correct[c]`` of ``total[c]`` test images of class ``c``.

    ``target`` says what was evaluated: "base" or "new" of the training dataset, or the name of
    another dataset.
    """

    target: str
    dataset: str
    classes: str
    class_names: tuple[str, ...]
    correct: tuple[int, ...]
    total: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """Fraction of images that were predicted correctly."""
        return sum(self.correct) / sum(self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of a run. Training time excludes reading data, building the model and evaluation."""

    train_seconds: float
    evaluate_seconds: float
    total_seconds: float
    images_per_second: float
    peak_memory_mb: float
    trainable_parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything a table needs to know about one run.

    ``seed`` is None for a method without randomness (zero-shot): it is a single measurement, not a
    replicate. ``factors`` maps ``Class.parameter`` to the level's text. ``identity`` is the hash
    that names the run. ``status`` is "finished", "diverged" (a loss was not finite) or "failed"
    (quarantined after repeated errors); only a finished run has evaluations. ``batch_coupled`` says
    that predictions depended on the test batch.
    """

    identity: str
    variant: str
    factors: Mapping[str, str]
    dataset: str
    protocol: str
    regime: str
    selection: str
    seed: int | None
    shots: int
    status: str
    evaluations: tuple[Evaluation, ...] = ()
    cost: Cost | None = None
    batch_coupled: bool = False
    selected_epoch: int | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {STATUSES}, got {self.status!r}")

    def accuracy(self, target: str) -> float | None:
        """Accuracy on one target, or None where the run has no such evaluation."""
        return next((e.accuracy for e in self.evaluations if e.target == target), None)


def to_json(record: RunRecord) -> str:
    """Canonical text of a record: sorted keys, no NaN, a newline at the end."""
    return json.dumps(asdict(record), indent=1, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str) -> RunRecord:
    """Read a record. Raises ValueError for broken JSON, an unknown schema or a missing field."""
    raw = json.loads(text)
    if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        raise ValueError(
            f"record has schema version {version}, but this version reads {SCHEMA_VERSION}"
        )
    known = {f.name for f in fields(RunRecord)}
    if unknown := sorted(set(raw) - known):
        raise ValueError(f"record has unknown fields {unknown}")
    try:
        raw["evaluations"] = tuple(_evaluation(e) for e in raw["evaluations"])
        raw["cost"] = Cost(**raw["cost"]) if raw["cost"] is not None else None
        return RunRecord(**raw)
    except (TypeError, KeyError) as error:
        raise ValueError(f"record is incomplete: {error}") from error


def _evaluation(raw: Mapping[str, Any]) -> Evaluation:
    lists = {key: tuple(raw[key]) for key in ("class_names", "correct", "total")}
    return Evaluation(**{**raw, **lists})


def write_record(run_dir: Path, record: RunRecord) -> None:
    """Make a run finished: write its record, atomically, after everything else of the run."""
    write_atomic(run_dir / RECORD_NAME, to_json(record))


def read_record(run_dir: Path) -> RunRecord | None:
    """The record of a run folder, or None before there is one; ValueError names a broken file."""
    path = run_dir / RECORD_NAME
    try:
        return from_json(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_run(study_dir: Path, identity: str) -> RunRecord | None:
    """The record of a run of a study, or None before there is one.

    Raises ValueError for a record that is damaged or belongs to another run.
    """
    record = read_record(study_dir / identity)
    if record is not None and record.identity != identity:
        raise ValueError(
            f"{study_dir / identity / RECORD_NAME} is the record of run {record.identity}"
        )
    return record


def has_record(study_dir: Path, identity: str) -> bool:
    """Whether a run of a study has a record, even a damaged one."""
    return (study_dir / identity / RECORD_NAME).exists()


def rename_record(study_dir: Path, identity: str, suffix: str) -> Path:
    """Rename a run's record, so that the run counts as not done; returns the new path."""
    path = study_dir / identity / RECORD_NAME
    target = path.with_name(f"{RECORD_NAME}{suffix}")
    os.replace(path, target)
    return target


def record_paths(study_dir: Path) -> list[Path]:
    """Every record of a study folder, in the order of their folder names."""
    return sorted(study_dir.glob(f"*/{RECORD_NAME}"))


def read_records(study_dir: Path) -> Iterator[RunRecord]:
    """All records of a study folder, in the order of their folder names."""
    for path in record_paths(study_dir):
        record = read_record(path.parent)
        if record is not None:
            yield record
