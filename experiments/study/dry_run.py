"""The dry run of a plan: cells, runs, what is already done, and the estimated time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import Config, config_from_text
from core.store.manifest import ManifestChange, change_of
from core.store.record import RunRecord
from core.store.run_facts import lacked_memory
from experiments.run.stale import CodeCheck
from experiments.study.planner import Plan
from experiments.study.status import read_valid_records, remaining_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The counts of a dry run: runs that are done, those that failed or diverged, and ``to_do``,
    the stale ones among them, and the ``lacked`` ones, which failed for lack of memory.

    ``stale`` has what changed since each of these. ``seconds`` is None until a finished run
    provides an estimate.
    """

    cells: int
    runs: int
    repeated: int
    done: int
    failed: int
    diverged: int
    to_do: int
    lacked: int
    stale: Mapping[str, str]
    seconds: float | None
    change: ManifestChange | None
    rows: tuple[Mapping[str, Any], ...]


def dry_run(plan: Plan, study_dir: Path, *, jobs: int) -> DryRun:
    """What running the plan in this folder would do, and the estimated time."""
    found = read_valid_records(study_dir, [cell.identity for cell in plan.runs])
    stale = CodeCheck().stale(study_dir, found)
    records = {key: record for key, record in found.items() if key not in stale}
    statuses = [record.status for record in records.values()]
    lacked = sum(map(lacked_memory, records.values()))
    waiting = [cell for cell in plan.runs if _is_left(records.get(cell.identity))]
    return DryRun(
        cells=len(plan.cells),
        runs=len(plan.runs),
        repeated=sum(bool(cell.note) for cell in plan.cells),
        done=statuses.count("finished"),
        failed=statuses.count("failed") - lacked,
        diverged=statuses.count("diverged"),
        to_do=len(waiting),
        lacked=lacked,
        stale=stale,
        seconds=remaining_seconds([cell.variant for cell in waiting], found.values(), jobs=jobs),
        change=change_of(study_dir, plan.manifest),
        rows=tuple(_variant_rows(plan, records, stale)),
    )


def unfinished_configs(plan: Plan, study_dir: Path) -> Iterator[Config]:
    """The configurations of the runs that have no record yet, a stale one, or lacked memory."""
    records = read_valid_records(study_dir, [cell.identity for cell in plan.runs])
    stale = CodeCheck().stale(study_dir, records)
    for cell in plan.runs:
        if _is_left(records.get(cell.identity)) or cell.identity in stale:
            yield config_from_text(cell.config_text, cell.label)


def _is_left(record: RunRecord | None) -> bool:
    return record is None or lacked_memory(record)


def _variant_rows(
    plan: Plan, records: Mapping[str, RunRecord], stale: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    for variant in plan.variants:
        cells = [cell for cell in plan.cells if cell.variant == variant.name]
        runs = {cell.identity for cell in cells if not cell.note}
        yield {
            "variant": variant.name,
            "cells": len(cells),
            "runs": len(runs),
            "done": len(runs & records.keys()),
            **({"stale": len(runs & stale.keys())} if stale else {}),
            "note": next((cell.note for cell in cells if cell.note), ""),
        }
