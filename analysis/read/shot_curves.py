"""Few-shot curves: every number of shots is a metric of its own, paired like any other."""

import re
from collections.abc import Sequence
from typing import Any

from analysis.read.manifest import Cell


def point(shots: int) -> str:
    """The name of a point of the curve."""
    return f"{shots} shot" if shots == 1 else f"{shots} shots"


def curve_of(metrics: Sequence[str]) -> tuple[str, ...]:
    """The metrics where all of them are points of a curve, otherwise none."""
    return tuple(metrics) if all(re.fullmatch(r"\d+ shots?", m) for m in metrics) else ()


def curve_rows(finished: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row a variant, dataset and seed, with the accuracy at each number of shots.

    A variant that trains nothing has one run, which fills all of its points.
    """
    rows: dict[tuple[str, str, int | None], dict[str, Any]] = {}
    for c in finished:
        assert c.record is not None and c.shots is not None
        key = {"variant": c.variant, "dataset": c.dataset, "seed": c.seed}
        row = rows.setdefault((c.variant, c.dataset, c.seed), key)
        row["run"] = f"{row.get('run', '')} {c.identity}".strip()
        (scored,) = c.record.evaluations
        row[point(c.shots)] = scored.accuracy
    return list(rows.values())


def shots_of(metric: str) -> int:
    """The number of shots of a point of the curve."""
    return int(metric.split()[0])
