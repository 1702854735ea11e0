"""Sweeps of DomainBed: one folder per run with ``results.jsonl``, a line per evaluation.

The weights are chosen as DomainBed's training-domain validation does: of all hyper-parameters and
steps of an algorithm, a dataset, a test environment and a trial, those with the highest mean
accuracy on the held-out parts of the training environments. The score is the accuracy on the rest
of the test environment.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from analysis.read.csv_text import RawTable

RESULTS_NAME = "results.jsonl"
DONE_NAME = "done"
COLUMNS = ("variant", "dataset", "seed", "selection", "run", "accuracy")
SELECTION = "training-domain validation"


class _Scored(NamedTuple):
    validation: float
    test: float
    run: str


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds runs of DomainBed."""
    return any(folder.glob(f"*/{RESULTS_NAME}"))


def read_sweep(folder: Path) -> RawTable:
    """One row per algorithm, test environment and trial. Raises ValueError for a broken line."""
    best: dict[tuple[str, str, str], _Scored] = {}
    unfinished, skipped = [], 0
    for path in sorted(folder.glob(f"*/{RESULTS_NAME}")):
        if not (path.parent / DONE_NAME).exists():
            unfinished.append(path.parent.name)
            continue
        for record in _records(path):
            environments = _known(path, record, "args")["test_envs"]
            if len(environments) != 1:
                skipped += 1  # a run that holds out two environments is for another selection
                continue
            key, scored = _scored(path, record, int(environments[0]))
            best[key] = max(best.get(key, scored), scored)
    if not best:
        raise ValueError(f"{folder}: no finished run of DomainBed with a single test environment")
    rows = [(*key, SELECTION, found.run, f"{found.test!r}") for key, found in sorted(best.items())]
    notes = [f"DomainBed's results, chosen by {SELECTION} over hyper-parameters and steps"]
    if unfinished:
        notes.append(f"runs without the file {DONE_NAME!r} are left out: {', '.join(unfinished)}")
    if skipped:
        notes.append(f"{skipped} evaluations with several test environments are left out")
    return RawTable(
        columns=COLUMNS, rows=tuple(rows), lines=tuple(range(1, len(rows) + 1)), notes=tuple(notes)
    )


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            raise ValueError(f"{path}, line {number}: not a line of JSON; rerun this run") from None
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: not a record of DomainBed")
        yield record


def _scored(
    path: Path, record: Mapping[str, Any], test: int
) -> tuple[tuple[str, str, str], _Scored]:
    arguments = _known(path, record, "args")
    held_out = [float(record[f"env{i}_out_acc"]) for i in _environments(record) if i != test]
    score = float(_known(path, record, f"env{test}_in_acc"))
    if not held_out:
        raise ValueError(f"{path}: no training environment has an accuracy; it is no such run")
    key = (
        str(arguments["algorithm"]),
        f"{arguments['dataset']} {test}",
        str(arguments.get("trial_seed", 0)),
    )
    return key, _Scored(fmean(held_out), score, path.parent.name)


def _environments(record: Mapping[str, Any]) -> Sequence[int]:
    number = 0
    while f"env{number}_out_acc" in record:
        number += 1
    return range(number)


def _known(path: Path, record: Mapping[str, Any], key: str) -> Any:
    if key not in record:
        raise ValueError(f"{path}: a record of DomainBed has {key!r}, this one does not")
    return record[key]
