"""The record of a run: one JSON file that makes the run finished. Standard library only.

A record is the truth about a run; MLflow, tables and pages are made from records. It stores
integers, correct and total per class, and every accuracy is derived from them, so that equal
results are exactly equal. Which images were right stands in a file beside it, one bit an image:
few readers need it, and records are read by the thousand.
"""

import base64
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
RECORD_NAME = "record.json"
CORRECT_VERSION = 1
CORRECT_NAME = "correct.json"
UMASK = os.umask(0o077)  # can only be read by setting it
os.umask(UMASK)
STATUSES = ("finished", "diverged", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Counts of one evaluation: ``correct[c]`` of ``total[c]`` test images of class ``c``.

    ``target`` says what was evaluated: "base" or "new" of the training dataset, or another data
    set's name.
    """

    target: str
    dataset: str
    classes: str
    class_names: tuple[str, ...]
    correct: tuple[int, ...]
    total: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """Fraction of images that were right."""
        return sum(self.correct) / sum(self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class RightImages:
    """Which test images of one evaluation were right, in the order of the test list.

    ``bits`` has one bit an image, the first one the highest of the first byte, zeros at the end
    (``numpy.packbits``). ``test_list`` fingerprints what was asked: equal ones mean the same images
    in the same order, scored among the same classes.
    """

    target: str
    test_list: str
    num_images: int
    bits: bytes

    @property
    def num_right(self) -> int:
        return int.from_bytes(self.bits).bit_count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the run took. Training time excludes reading data, building the model and evaluation."""

    train_seconds: float
    evaluate_seconds: float
    total_seconds: float
    images_per_second: float
    peak_memory_mb: float
    trainable_parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything a table needs to know about one run.

    ``seed`` is None for a method that has no randomness (zero-shot): it is one measurement, not a
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
            f"record has schema version {version}, this version reads {SCHEMA_VERSION}"
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


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file so that whoever looks, or kills, finds the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, 0o666 & ~UMASK)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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


def write_right_images(run_dir: Path, found: Sequence[RightImages]) -> None:
    """Write which images were right, atomically; before the record, which makes a run finished."""
    targets = [
        {**asdict(images), "bits": base64.b64encode(images.bits).decode()} for images in found
    ]
    document = {"schema_version": CORRECT_VERSION, "targets": targets}
    write_atomic(run_dir / CORRECT_NAME, json.dumps(document, indent=1, sort_keys=True) + "\n")


def read_right_images(run_dir: Path) -> dict[str, RightImages]:
    """Which images a run got right, by target; empty for a run that did not write it.

    Raises ValueError for a broken file, and for one that its record contradicts.
    """
    path, record = run_dir / CORRECT_NAME, read_record(run_dir)
    if record is None or not record.evaluations or not path.is_file():
        return {}
    try:
        raw = json.loads(path.read_text())
        if raw["schema_version"] != CORRECT_VERSION:
            raise ValueError(f"schema version {raw['schema_version']} is not {CORRECT_VERSION}")
        found = [
            RightImages(**{**target, "bits": base64.b64decode(target["bits"], validate=True)})
            for target in raw["targets"]
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}; run it again") from error
    told = {e.target: (sum(e.correct), sum(e.total)) for e in record.evaluations}
    if {f.target: (f.num_right, f.num_images) for f in found} != told or any(
        len(f.bits) != -(-f.num_images // 8) for f in found
    ):
        raise ValueError(f"{path} does not agree with the record beside it; run it again")
    return {f.target: f for f in found}


def read_study(study_dir: Path) -> Iterator[RunRecord]:
    """All records of a study folder, in the order of their folder names."""
    for path in sorted(study_dir.glob(f"*/{RECORD_NAME}")):
        record = read_record(path.parent)
        if record is not None:
            yield record
