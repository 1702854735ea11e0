"""The record of a run: one JSON file that makes the run finished. Standard library only.

A record is authoritative; MLflow, tables and reports are derived from records. It stores
integers, correct and total per class, and every accuracy is derived from them, so that equal
results are exactly equal. A record carries a digest of its content: a changed digit is noticed.

Schema version 1, of RefineLab 0.1, had no digest; its records are read, and their counts checked.
Versions 1 and 2 did not record the code of a run: whether it is still the same is not checked.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from operator import gt
from pathlib import Path
from typing import Any

from core.store.atomic import write_atomic
from core.store.documents import (
    DIGEST,
    NewerSchemaError,
    check_version,
    is_sealed,
    parse_json,
    with_digest,
)
from core.store.names import RECORD_NAME

SCHEMA_VERSION = 3
FIRST_WITH_DIGEST = 2
STATUSES = ("finished", "diverged", "failed")

_FORMAT: Mapping[str, Any] = {"indent": 1, "sort_keys": True, "allow_nan": False}
_IDENTITY = re.compile(r"[0-9a-f]{12}")
_TEXTS = (
    *("identity", "variant", "dataset", "protocol", "regime", "selection", "message"),
    *("config_sha256", "weights_sha256"),
)


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

    def __post_init__(self) -> None:
        lengths = {len(self.class_names), len(self.correct), len(self.total)}
        whole = {*map(type, self.correct), *map(type, self.total)} <= {int}
        if len(lengths) > 1 or not whole or not sum(self.total):
            raise ValueError(
                f"the evaluation {self.target!r} must count the correct and all test images of "
                f"each of its {len(self.class_names)} classes in whole numbers"
            )
        if min(self.correct) < 0 or any(map(gt, self.correct, self.total)):
            rows = zip(self.class_names, self.correct, self.total, strict=True)
            name, correct, total = next(row for row in rows if not 0 <= row[1] <= row[2])
            raise ValueError(
                f"the evaluation {self.target!r} has {correct} correct of {total} test images of "
                f"class {name!r}"
            )

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

    def __post_init__(self) -> None:
        for field_ in fields(self):
            value = getattr(self, name := field_.name)
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise ValueError(f"the cost {name} must be a number of at least 0, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything a table needs to know about one run.

    ``seed`` is None for a method without randomness (zero-shot): it is a single measurement, not a
    replicate. ``factors`` maps ``Class.parameter`` to the level's text. ``identity`` is the hash
    that names the run. ``status`` is "finished", "diverged" (a loss was not finite) or "failed"
    (quarantined after repeated errors); only a finished run has evaluations. ``batch_coupled`` says
    that predictions depended on the test batch. ``config_sha256`` is the hash of the
    configuration's file and ``weights_sha256`` that of the learned weights, "" where nothing was
    learned or the record is older; ``files_sha256`` has those of the run's other files by name
    (``core.store.own_files``), and is empty where the record is older. ``drawn_per_class`` counts
    the training images of each trained class: fewer than ``shots`` where a class has no more.
    ``shared_images`` counts the test images that training also saw. ``code`` has the hash of the
    source of every class plugged in, with all that it calls, by "module:Class", and that of the
    code which every run passes through; it is empty where the record is older.
    ``stopped_epoch`` is the last epoch that was trained where early stopping ended training before
    its budget, else None.
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
    config_sha256: str = ""
    files_sha256: Mapping[str, str] = field(default_factory=dict)
    weights_sha256: str = ""
    drawn_per_class: tuple[int, ...] = ()
    shared_images: int = 0
    code: Mapping[str, str] = field(default_factory=dict)
    stopped_epoch: int | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {STATUSES}, got {self.status!r}")
        for name in _TEXTS:
            if not isinstance(value := getattr(self, name), str):
                raise ValueError(f"{name} must be a text, got {value!r}")
        for name in ("files_sha256", "code"):
            hashes = dict(getattr(self, name))
            if not {*map(type, hashes), *map(type, hashes.values())} <= {str}:
                raise ValueError(f"{name} must be texts by name, got {hashes!r}")
        for name in ("shots", "shared_images"):
            _check_count(name, getattr(self, name))
        for name in ("seed", "selected_epoch", "stopped_epoch"):
            if (value := getattr(self, name)) is not None:
                _check_count(name, value)
        for i, count in enumerate(self.drawn_per_class):
            if type(count) is not int or count < 0:
                _check_count(f"drawn_per_class[{i}]", count)
        targets = [evaluation.target for evaluation in self.evaluations]
        if len(set(targets)) < len(targets):
            raise ValueError(f"the targets of evaluations must differ, got {targets}")

    def accuracy(self, target: str) -> float | None:
        """Accuracy on one target, or None where the run has no such evaluation."""
        return next((e.accuracy for e in self.evaluations if e.target == target), None)


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be a whole number of at least 0, got {value!r}")


def to_json(record: RunRecord) -> str:
    """Canonical text of a record: sorted keys, no NaN, a digest, a newline at the end."""
    raw = {**asdict(record), "schema_version": SCHEMA_VERSION}
    return json.dumps(with_digest(raw), **_FORMAT) + "\n"


def from_json(text: str) -> RunRecord:
    """Read a record.

    Raises NewerSchemaError for a record of a newer version, and ValueError for broken JSON, an
    impossible count, a missing field or a content that its digest contradicts.
    """
    raw = parse_json(text, parse_constant=_refuse_constant)
    version = check_version(raw, newest=SCHEMA_VERSION, oldest=1)
    if unknown := sorted(raw.keys() - _KNOWN):
        raise ValueError(f"record has unknown fields {unknown}")
    digest = raw.pop(DIGEST, None)
    if version >= FIRST_WITH_DIGEST and not is_sealed(text, raw, digest):
        raise ValueError("its content was changed after it was written: the digest does not match")
    try:
        raw["evaluations"] = tuple(_evaluation(e) for e in raw["evaluations"])
        raw["cost"] = Cost(**raw["cost"]) if raw["cost"] is not None else None
        raw["drawn_per_class"] = tuple(raw.get("drawn_per_class", ()))
        return RunRecord(**raw)
    except (TypeError, KeyError) as error:
        raise ValueError(f"record is incomplete: {error}") from error


_KNOWN = frozenset({f.name for f in fields(RunRecord)} | {DIGEST})


def _evaluation(raw: Mapping[str, Any]) -> Evaluation:
    lists = {key: tuple(raw[key]) for key in ("class_names", "correct", "total")}
    return Evaluation(**{**raw, **lists})


def _refuse_constant(name: str) -> float:
    raise ValueError(f"record has the number {name}, which no run writes")


def write_record(run_dir: Path, record: RunRecord) -> None:
    """Make a run finished: write its record, atomically, after everything else of the run."""
    write_atomic(run_dir / RECORD_NAME, to_json(record))


def read_record(run_dir: Path) -> RunRecord | None:
    """The record of a run folder, or None before there is one; ValueError names a broken file."""
    return _read(os.path.join(run_dir, RECORD_NAME))


def _read(file: str) -> RunRecord | None:
    """The record in a file; paths as text, because a study has ten thousand of them."""
    try:
        with open(file, "rb", buffering=0) as opened:
            return from_json(opened.read().decode())
    except FileNotFoundError:
        return None
    except ValueError as error:
        kind = NewerSchemaError if isinstance(error, NewerSchemaError) else ValueError
        raise kind(f"{Path(file)}: {error}") from error


def check_place(run_dir: Path, record: RunRecord) -> None:
    """Raise ValueError for the record of another run, in a folder that is named by an identity."""
    if _IDENTITY.fullmatch(run_dir.name) and record.identity != run_dir.name:
        raise ValueError(f"{run_dir / RECORD_NAME} is the record of run {record.identity}")


def read_run(study_dir: Path, identity: str) -> RunRecord | None:
    """The record of a run of a study, or None before there is one.

    Raises ValueError for a record that is damaged or belongs to another run.
    """
    record = _read(os.path.join(study_dir, identity, RECORD_NAME))
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


def set_aside(study_dir: Path, identity: str, suffix: str) -> Path:
    """``rename_record`` that never replaces an earlier record of that name: it counts them."""
    run_dir, number = study_dir / identity, 1
    while (run_dir / f"{RECORD_NAME}{suffix}").exists():
        number += 1
        suffix = f"{suffix.split('-')[0]}-{number}"
    return rename_record(study_dir, identity, suffix)


def record_paths(study_dir: Path) -> list[Path]:
    """Every record of a study folder, in the order of their folder names."""
    names = sorted(entry.name for entry in _folders(study_dir))
    paths = (study_dir / name / RECORD_NAME for name in names)
    return [path for path in paths if os.path.exists(path)]


def count_set_aside(study_dir: Path, suffix: str) -> int:
    """How many records of a study folder were renamed by ``set_aside`` with this suffix."""
    start, found = f"{RECORD_NAME}{suffix}", 0
    for folder in _folders(study_dir):
        with suppress(PermissionError, FileNotFoundError):
            found += sum(name.startswith(start) for name in os.listdir(folder))
    return found


def _folders(study_dir: Path) -> Iterator["os.DirEntry[str]"]:
    """The folders in a study folder; none where it cannot be listed."""
    try:
        with os.scandir(study_dir) as entries:
            yield from (entry for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return


def read_records(study_dir: Path) -> Iterator[RunRecord]:
    """All records of a study folder, in the order of their folder names."""
    for path in record_paths(study_dir):
        record = read_record(path.parent)
        if record is not None:
            yield record
