"""``bench --against COMMIT``: the steps of this code beside those of another commit."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from core.store.atomic import write_atomic
from experiments.cli.bench_published import methods_named
from experiments.cli.console import console, print_json, table
from experiments.run.published_flow.cases import BACKBONE, VIEWS
from experiments.run.published_flow.revisions import (
    RevisionRow,
    RevisionSetting,
    compare_revisions,
)
from experiments.run.published_flow.tables import CellTable, seconds

ONLY_PUBLISHED = ("--teacher", "--memory", "--evaluation")


def compare_with_commit(reference: str, asked: Mapping[str, Any], *, as_json: bool) -> None:
    """Compare, and print what was found; ``asked`` are the options by name. Raises ValueError."""
    for option in ONLY_PUBLISHED:
        if asked[option]:
            raise ValueError(f"{option} belongs to --against published, not to another commit")
    methods = methods_named(asked["--method"])
    setting = RevisionSetting(
        backbone=asked["--backbone"] or BACKBONE,
        classes=asked["--classes"] or 50,
        rounds=asked["--rounds"] or 3,
        threads=asked["--threads"] or 1,
    )
    keys = [(name, views) for name in methods for views in VIEWS]
    rows = []
    for row in compare_revisions(reference, keys, setting, _note):
        rows.append(row)
        _note(f"{row.case}, {row.views} views: {_cells(row)[4]} {row.verdict}")
    found = {"reference": reference, **asdict(setting), "rows": [_as_json(row) for row in rows]}
    if asked["--out"] is not None:
        write_atomic(asked["--out"], json.dumps(found, indent=1) + "\n")
    if as_json:
        print_json(found)
        return
    cells = _table(reference, rows)
    if asked["--markdown"]:
        print(cells.markdown())
    else:
        console().print(
            table(cells.title, cells.columns, cells.rows, numbers=len(cells.columns) - 2)
        )


def _as_json(row: RevisionRow) -> dict[str, Any]:
    ratio = None if row.problem else row.ratio
    return {**asdict(row), "ratio": ratio, "verdict": row.verdict, "same_loss": row.same_loss}


def _table(reference: str, rows: Sequence[RevisionRow]) -> CellTable:
    return CellTable(
        title=f"Seconds a training step, {reference} and now; ratio above 1: faster now",
        columns=("method", "views", reference, "now", "ratio", "noise", "verdict"),
        rows=tuple(map(_cells, rows)),
    )


def _cells(row: RevisionRow) -> tuple[str, ...]:
    if row.problem:
        return (row.case, row.views, "-", "-", "-", "-", row.problem)
    from statistics import median

    verdict = row.verdict if row.same_loss else f"{row.verdict}; another loss"
    return (
        row.case,
        row.views,
        seconds(median(row.before)),
        seconds(median(row.now)),
        f"{row.ratio:.2f}x",
        f"{100 * row.noise:.1f} %" if len(row.now) > 1 else "-",
        verdict,
    )


def _note(text: str) -> None:
    """Show progress on standard error."""
    print(text, file=sys.stderr, flush=True)
