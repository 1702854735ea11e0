"""The progress of a study, from its folder alone, and the differences between two of its runs.

A run is done if its folder has a valid record. There is no other state: a study can be stopped at
any moment.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from core.store.collector import many_objects
from core.store.manifest import Manifest, read_manifest
from core.store.names import RECORD_NAME, RERUN_SUFFIX
from core.store.record import RunRecord, read_run
from core.store.settings import read_settings
from experiments.run.stale import CodeCheck, counted, num_set_aside
from experiments.study.claims import in_progress
from experiments.study.lock import working_on

NOT_SET = "-"


def study_status(study_dir: Path) -> dict[str, Any]:
    """The progress of a study: counts, a row per variant and dataset, problems, and the driver.

    ``running`` lists cells whose folder exists while a driver holds the study. ``damaged`` lists
    records that are torn or belong elsewhere; their cells count as missing. A run is ``stale`` if
    the code that made it has changed since; it counts neither as finished nor as missing.
    ``set_aside`` counts the records that new runs of such cells have replaced. Folders are listed
    before the records are read, so that a study in progress is never misread.
    """
    manifest = read_manifest(study_dir)
    runs = {cell.identity: cell for cell in reversed(manifest.cells)}
    holders = working_on(study_dir)
    folders = {path.name for path in study_dir.iterdir()}
    folders |= {name for key in in_progress(study_dir) for name in (key, f"{key}{RERUN_SUFFIX}")}
    found, broken = _read_records(study_dir, runs)
    stale = CodeCheck().stale(study_dir, found)
    records = {identity: record for identity, record in found.items() if identity not in stale}
    waiting = {identity: cell for identity, cell in runs.items() if identity not in records}
    damaged = [identity for identity in waiting if identity in broken]
    begun = {f"{key}{RERUN_SUFFIX}" if key in stale else key: cell for key, cell in waiting.items()}
    running = [cell for name, cell in begun.items() if holders and name in folders]
    variants = [cell.variant for cell in waiting.values()]
    return {
        "study": manifest.study,
        "cells": len(manifest.cells),
        "runs": len(runs),
        **_counts(record.status for record in records.values()),
        "stale": len(stale),
        "missing": len(waiting) - len(stale),
        "running": [cell.label for cell in reversed(running)],
        "damaged": [str(study_dir / identity / RECORD_NAME) for identity in damaged],
        "holder": ", ".join(map(str, holders)) or None,
        "remaining_seconds": remaining_seconds(variants, found.values(), jobs=len(running)),
        "rows": list(_dataset_rows(manifest, records, stale)),
        "changes": [{"runs": n, "change": change} for n, change in counted(stale.values())],
        "set_aside": num_set_aside(study_dir),
        "problems": [
            {**runs[identity].to_dict(), "status": record.status, "message": record.message}
            for identity, record in records.items()
            if record.status != "finished"
        ],
    }


def read_valid_records(study_dir: Path, identities: Iterable[str]) -> dict[str, RunRecord]:
    """The existing records of these runs that are neither damaged nor another run's."""
    return _read_records(study_dir, identities)[0]


def _read_records(
    study_dir: Path, identities: Iterable[str]
) -> tuple[dict[str, RunRecord], set[str]]:
    """The valid records among these runs, and the runs whose record is damaged or another's."""
    records, broken = dict[str, RunRecord](), set[str]()
    with many_objects():
        for identity in identities:
            try:
                record = read_run(study_dir, identity)
            except ValueError:
                broken.add(identity)
            else:
                records |= {} if record is None else {identity: record}
    return records, broken


def remaining_seconds(
    waiting: Iterable[str], records: Iterable[RunRecord], *, jobs: int
) -> float | None:
    """Estimated wall-clock seconds for one run of each variant in ``waiting``, ``jobs`` at a time.

    The cost of a variant is the average over its own runs, or over all runs as long as it has none.
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


def _dataset_rows(
    manifest: Manifest, records: Mapping[str, RunRecord], stale: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, str], dict[str, None]] = {}
    for cell in manifest.cells:
        groups.setdefault((cell.variant, cell.dataset), {})[cell.identity] = None
    for (variant, dataset), identities in groups.items():
        statuses = [records[key].status for key in identities if key in records]
        old = len(identities.keys() & stale.keys())
        missing = len(identities) - len(statuses) - old
        row = {"variant": variant, "dataset": dataset, **_counts(statuses)}
        yield row | ({"stale": old} if stale else {}) | {"missing": missing}


def _counts(statuses: Iterable[str]) -> dict[str, int]:
    counter = Counter(statuses)
    return {
        "finished": counter["finished"],
        "failed": counter["failed"],
        "diverged": counter["diverged"],
    }


def find_run(study_dir: Path, prefix: str) -> str:
    """The identity that starts with ``prefix``. Raises ValueError for none or several."""
    identities = sorted({cell.identity for cell in read_manifest(study_dir).cells})
    found = [identity for identity in identities if identity.startswith(prefix)]
    if len(found) != 1:
        count = f"{len(found)} runs" if found else "no run"
        raise ValueError(
            f"{count} of {study_dir} match {prefix!r}: give enough of it to select one run"
        )
    return found[0]


def diff(first_dir: Path, second_dir: Path) -> list[tuple[str, str, str]]:
    """The settings in which two runs differ: key, first value, second value; "-" where not set.

    Raises ValueError for a folder without a configuration.
    """
    first, second = read_settings(first_dir), read_settings(second_dir)
    keys = sorted(first.keys() | second.keys())
    rows = [(key, first.get(key, NOT_SET), second.get(key, NOT_SET)) for key in keys]
    return [row for row in rows if row[1] != row[2]]
