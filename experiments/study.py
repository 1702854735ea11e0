"""The folder of a study: its manifest, what of it is done, and what two of its runs differ in.

``study.json`` lists the cells and is written before the first run. Each run has a folder named by its identity; a
valid record in it makes the run done. Nothing else is state: a study can be stopped at any moment.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from core.records import RECORD_NAME, RunRecord, read_record, write_atomic
from experiments.grid import Cell, Plan
from experiments.lock import living_holder

MANIFEST_NAME = "study.json"
CONFIG_NAME = "config.gin"
MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How many cells a changed grid adds to and drops from the study that the folder held."""

    added: int
    removed: int

    def __str__(self) -> str:
        return f"the grid changed: {self.added} cells are new, {self.removed} no longer belong to it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What running a plan would do. ``seconds`` is None before a first run has told what it costs."""

    cells: int
    runs: int
    repeated: int
    done: int
    failed: int
    diverged: int
    to_do: int
    seconds: float | None
    change: Change | None
    rows: tuple[Mapping[str, Any], ...]


def manifest_of(plan: Plan) -> dict[str, Any]:
    """What ``study.json`` holds: the columns, rows and cells of the study, in the plan's order."""
    grid = plan.grid
    return {
        "schema_version": MANIFEST_VERSION,
        "study": grid.study,
        "baseline": grid.baseline,
        "references": list(grid.references),
        "datasets": list(grid.datasets),
        "seeds": list(grid.seeds),
        "variants": [{"name": v.name, "factors": v.factors} for v in plan.variants],
        "cells": [
            {
                "variant": cell.variant,
                "dataset": cell.dataset,
                "seed": cell.seed,
                "identity": cell.identity,
                "note": cell.note,
            }
            for cell in plan.cells
        ],
    }


def write_manifest(plan: Plan, study_dir: Path) -> Change | None:
    """Write ``study.json``; says what changed if the folder held another grid."""
    change = change_of(plan, study_dir)
    write_atomic(study_dir / MANIFEST_NAME, json.dumps(manifest_of(plan), indent=1) + "\n")
    return change


def change_of(plan: Plan, study_dir: Path) -> Change | None:
    """How the plan differs from the study in the folder; None where there is none, or no difference."""
    if not (study_dir / MANIFEST_NAME).exists():
        return None
    before = {_cell_key(cell) for cell in read_manifest(study_dir)["cells"]}
    after = {_cell_key(cell) for cell in manifest_of(plan)["cells"]}
    if before == after:
        return None
    return Change(added=len(after - before), removed=len(before - after))


def _cell_key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return (cell["variant"], cell["dataset"], cell["seed"], cell["identity"])


def read_manifest(study_dir: Path) -> dict[str, Any]:
    """The manifest of a study folder. Raises ValueError where there is none that this version reads."""
    path = study_dir / MANIFEST_NAME
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{study_dir} is no study: it has no {MANIFEST_NAME}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): run the grid again to rewrite it") from None
    version = manifest.get("schema_version")
    if version != MANIFEST_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, this version reads {MANIFEST_VERSION}"
        )
    return manifest


def valid_record(study_dir: Path, identity: str) -> RunRecord | None:
    """The record of a run, or None where it has none yet.

    Raises:
        ValueError: there is one, but it is damaged or another run's.
    """
    record = read_record(study_dir / identity)
    if record is not None and record.identity != identity:
        raise ValueError(
            f"{study_dir / identity / RECORD_NAME} is the record of run {record.identity}"
        )
    return record


def set_aside(study_dir: Path, identity: str, suffix: str) -> Path:
    """Rename a run's record, so that the run is not done; its new path."""
    path = study_dir / identity / RECORD_NAME
    target = path.with_name(f"{RECORD_NAME}.{suffix}")
    os.replace(path, target)
    return target


def summary(plan: Plan, study_dir: Path, *, jobs: int) -> Summary:
    """What running the plan in this folder would do, and about how long it would take."""
    records = dict(_records(study_dir, [cell.identity for cell in plan.runs]))
    statuses = [record.status for record in records.values()]
    waiting = [cell for cell in plan.runs if cell.identity not in records]
    return Summary(
        cells=len(plan.cells),
        runs=len(plan.runs),
        repeated=sum(bool(cell.note) for cell in plan.cells),
        done=statuses.count("finished"),
        failed=statuses.count("failed"),
        diverged=statuses.count("diverged"),
        to_do=len(waiting),
        seconds=remaining_seconds([cell.variant for cell in waiting], records.values(), jobs=jobs),
        change=change_of(plan, study_dir),
        rows=tuple(_variant_rows(plan, records)),
    )


def _variant_rows(plan: Plan, records: Mapping[str, RunRecord]) -> Iterator[dict[str, Any]]:
    for variant in plan.variants:
        cells = [cell for cell in plan.cells if cell.variant == variant.name]
        yield {
            "variant": variant.name,
            "cells": len(cells),
            "runs": sum(not cell.note for cell in cells),
            "done": sum(cell.identity in records for cell in cells if not cell.note),
            "note": next((cell.note for cell in cells if cell.note), ""),
        }


def _records(study_dir: Path, identities: Iterator[str] | list[str]) -> Iterator[tuple[str, RunRecord]]:
    """The records that are there and valid."""
    for identity in identities:
        try:
            record = valid_record(study_dir, identity)
        except ValueError:
            continue
        if record is not None:
            yield identity, record
