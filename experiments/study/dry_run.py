"""The dry run of a plan: cells, runs, what is already done, and the estimated time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import Config, config_from_text
from core.store.manifest import ManifestChange, change_of
from core.store.record import RunRecord
from experiments.study.planner import Plan
from experiments.study.status import read_valid_records, remaining_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The counts of a dry run. ``seconds`` is None until a finished run provides an estimate."""

    cells: int
    runs: int
    repeated: int
    done: int
    failed: int
    diverged: int
    to_do: int
    seconds: float | None
    change: ManifestChange | None
    rows: tuple[Mapping[str, Any], ...]


def dry_run(plan: Plan, study_dir: Path, *, jobs: int) -> DryRun:
    """What running the plan in this folder would do, and the estimated time."""
    records = read_valid_records(study_dir, [cell.identity for cell in plan.runs])
    statuses = [record.status for record in records.values()]
    waiting = [cell for cell in plan.runs if cell.identity not in records]
    return DryRun(
        cells=len(plan.cells),
        runs=len(plan.runs),
        repeated=sum(bool(cell.note) for cell in plan.cells),
        done=statuses.count("finished"),
        failed=statuses.count("failed"),
        diverged=statuses.count("diverged"),
        to_do=len(waiting),
        seconds=remaining_seconds([cell.variant for cell in waiting], records.values(), jobs=jobs),
        change=change_of(study_dir, plan.manifest),
        rows=tuple(_variant_rows(plan, records)),
    )


def unfinished_configs(plan: Plan, study_dir: Path) -> Iterator[Config]:
    """The configurations of the runs that have no record yet."""
    records = read_valid_records(study_dir, [cell.identity for cell in plan.runs])
    for cell in plan.runs:
        if cell.identity not in records:
            yield config_from_text(cell.config_text, cell.label)


def _variant_rows(plan: Plan, records: Mapping[str, RunRecord]) -> Iterator[dict[str, Any]]:
    for variant in plan.variants:
        cells = [cell for cell in plan.cells if cell.variant == variant.name]
        runs = {cell.identity for cell in cells if not cell.note}
        yield {
            "variant": variant.name,
            "cells": len(cells),
            "runs": len(runs),
            "done": len(runs & records.keys()),
            "note": next((cell.note for cell in cells if cell.note), ""),
        }
