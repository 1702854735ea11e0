"""The folder of a study: its manifest, what of it is done, and what two of its runs differ in.

``study.json`` lists the cells and is written before the first run. Each run has a folder named by
its identity; a valid record in it makes the run done. Nothing else is state: a study can be stopped
at any moment.
"""

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from core.config import format_value
from core.store.record import RECORD_NAME, RunRecord, read_record, write_atomic
from experiments.study.lock import living_holder
from experiments.study.planner import Cell, Plan

MANIFEST_NAME = "study.json"
CONFIG_NAME = "config.gin"
MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How many cells a changed grid adds to and drops from the study that the folder held."""

    added: int
    removed: int

    def __str__(self) -> str:
        return (
            f"the grid changed: {self.added} cells are new, {self.removed} no longer belong to it"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What running a plan would do. ``seconds`` is None until a run has told what it costs."""

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
        "factors": {k: [format_value(v) for v in vs] for k, vs in grid.factors.items()},
        "variants": [{"name": v.name, "factors": v.factors} for v in plan.variants],
        "cells": [
            {
                "variant": cell.variant,
                "dataset": cell.dataset,
                "seed": cell.seed,
                "identity": cell.identity,
                "note": cell.note,
                **({} if cell.shots is None else {"shots": cell.shots}),
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
    """How the plan differs from the study in the folder; None where there is nothing to tell."""
    if not (study_dir / MANIFEST_NAME).exists():
        return None
    before = {_cell_key(cell) for cell in read_manifest(study_dir)["cells"]}
    after = {_cell_key(cell) for cell in manifest_of(plan)["cells"]}
    if before == after:
        return None
    return Change(added=len(after - before), removed=len(before - after))


def _cell_key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return (cell["variant"], cell["dataset"], cell.get("shots"), cell["seed"], cell["identity"])


def read_manifest(study_dir: Path) -> dict[str, Any]:
    """The manifest of a study folder. Raises ValueError where there is none that can be read."""
    return read_versioned(
        study_dir / MANIFEST_NAME,
        MANIFEST_VERSION,
        what="study",
        remedy="run the grid again to rewrite it",
    )


def read_versioned(path: Path, version: int, *, what: str, remedy: str) -> dict[str, Any]:
    """A JSON object with a ``schema_version``, which makes its folder a ``what``.

    Raises ValueError where it is missing, damaged, or of another version.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path.parent} is no {what}: it has no {path.name}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from None
    if found.get("schema_version") != version:
        raise ValueError(
            f"{path} has schema version {found.get('schema_version')}, this version reads {version}"
        )
    return found


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
            "runs": len(runs := {cell.identity for cell in cells if not cell.note}),
            "done": len(runs & records.keys()),
            "note": next((cell.note for cell in cells if cell.note), ""),
        }


def _records(study_dir: Path, identities: Iterable[str]) -> Iterator[tuple[str, RunRecord]]:
    """The records that are there and valid."""
    for identity in identities:
        with suppress(ValueError):
            record = valid_record(study_dir, identity)
            if record is not None:
                yield identity, record


def remaining_seconds(
    waiting: Iterable[str], records: Iterable[RunRecord], *, jobs: int
) -> float | None:
    """Estimated wall seconds for one run of each variant in ``waiting``, ``jobs`` at a time.

    A variant costs what its own runs cost on average, or what all runs do while it has none.
    """
    costs: dict[str, list[float]] = {}
    for record in records:
        if record.cost is not None:
            costs.setdefault(record.variant, []).append(record.cost.total_seconds)
    if not costs:
        return None
    overall = fmean(itertools.chain(*costs.values()))
    means = {variant: fmean(seconds) for variant, seconds in costs.items()}
    return sum(means.get(variant, overall) for variant in waiting) / max(1, jobs)


def study_status(study_dir: Path) -> dict[str, Any]:
    """How far a study is: counts, a row a variant and dataset, problems, and who works on it.

    ``running`` lists cells whose folder is there while a driver holds the study. ``damaged`` lists
    records that are torn or belong elsewhere; their cells count as missing. What is there is looked
    up before the records are read, so that a study at work is never misread.
    """
    manifest = read_manifest(study_dir)
    runs = {cell["identity"]: cell for cell in reversed(manifest["cells"])}
    holder = living_holder(study_dir)
    folders = {path.name for path in study_dir.iterdir()}
    written = {key for key in runs if (study_dir / key / RECORD_NAME).exists()}
    records = dict(_records(study_dir, runs))
    waiting = {key: cell for key, cell in runs.items() if key not in records}
    damaged = [key for key in waiting if key in written]
    running = [cell for key, cell in waiting.items() if holder and key in folders]
    variants = [cell["variant"] for cell in waiting.values()]
    return {
        "study": manifest["study"],
        "cells": len(manifest["cells"]),
        "runs": len(runs),
        **_counts(record.status for record in records.values()),
        "missing": len(waiting),
        "running": [_cell_label(cell) for cell in reversed(running)],
        "damaged": [str(study_dir / key / RECORD_NAME) for key in damaged],
        "holder": None if holder is None else str(holder),
        "remaining_seconds": remaining_seconds(variants, records.values(), jobs=len(running)),
        "rows": list(_dataset_rows(manifest, records)),
        "problems": [
            {**runs[key], "status": record.status, "message": record.message}
            for key, record in records.items()
            if record.status != "finished"
        ],
    }


def _dataset_rows(
    manifest: Mapping[str, Any], records: Mapping[str, RunRecord]
) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, str], list[str]] = {}
    for cell in manifest["cells"]:
        groups.setdefault((cell["variant"], cell["dataset"]), []).append(cell["identity"])
    for (variant, dataset), listed in groups.items():
        identities = list(dict.fromkeys(listed))
        statuses = [records[key].status for key in identities if key in records]
        missing = len(identities) - len(statuses)
        yield {"variant": variant, "dataset": dataset, **_counts(statuses), "missing": missing}


def _counts(statuses: Iterable[str]) -> dict[str, int]:
    counter = Counter(statuses)
    return {
        "finished": counter["finished"],
        "failed": counter["failed"],
        "diverged": counter["diverged"],
    }


def _cell_label(cell: Mapping[str, Any]) -> str:
    shots = f", shots {cell['shots']}" if "shots" in cell else ""
    seed = "" if cell["seed"] is None else f", seed {cell['seed']}"
    return f"{cell['variant']} on {cell['dataset']}{shots}{seed}"


def find_run(study_dir: Path, prefix: str) -> str:
    """The identity of the run that starts so. Raises ValueError for none or several."""
    identities = sorted({cell["identity"] for cell in read_manifest(study_dir)["cells"]})
    found = [identity for identity in identities if identity.startswith(prefix)]
    if len(found) != 1:
        count = f"{len(found)} runs" if found else "no run"
        raise ValueError(f"{count} of {study_dir} start with {prefix!r}: name one of them in full")
    return str(found[0])


def stored_cell(study_dir: Path, identity: str) -> Cell:
    """A cell from what the study folder holds of it, to run it once more.

    Raises:
        ValueError: the run never began, so its configuration is not there.
    """
    manifest = read_manifest(study_dir)
    cell = next(cell for cell in manifest["cells"] if cell["identity"] == identity)
    factors = {variant["name"]: variant["factors"] for variant in manifest["variants"]}
    path = study_dir / identity / CONFIG_NAME
    if not path.exists():
        raise ValueError(f"{path} does not exist, the run has not begun yet: run the grid instead")
    return Cell(**cell, config_text=path.read_text(), factors=factors[cell["variant"]])


def diff(first_dir: Path, second_dir: Path) -> list[tuple[str, str, str]]:
    """The settings in which two runs differ: key, first value, second value; "-" where not set.

    Raises:
        ValueError: a folder has no configuration.
    """
    first, second = (_settings(run_dir) for run_dir in (first_dir, second_dir))
    keys = sorted(first.keys() | second.keys())
    rows = [(key, first.get(key, "-"), second.get(key, "-")) for key in keys]
    return [row for row in rows if row[1] != row[2]]


def _settings(run_dir: Path) -> dict[str, str]:
    """The resolved configuration of a run, which has one binding a line."""
    path = run_dir / CONFIG_NAME
    if not path.exists():
        raise ValueError(f"{run_dir} is no run: it has no {CONFIG_NAME}")
    pairs = (line.partition(" = ") for line in path.read_text().splitlines())
    return {key: value for key, equals, value in pairs if equals}
