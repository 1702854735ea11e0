"""Few-shot curves: every number of shots is a metric of its own, paired like any other."""

import re
from collections.abc import Sequence
from typing import Any

from analysis.read.cells import CellResult


def point(shots: int) -> str:
    """The name of a point of the curve."""
    return f"{shots} shot" if shots == 1 else f"{shots} shots"


def curve_of(metrics: Sequence[str]) -> dict[str, int]:
    """The number of shots of each metric where all of them are points of a curve, as the columns of
    a CSV file name them; otherwise none.
    """
    found = {m: re.fullmatch(r"(\d+) shots?", m) for m in metrics}
    points = {m: int(match[1]) for m, match in found.items() if match}
    return points if len(points) == len(found) else {}


def curve_rows(finished: Sequence[CellResult]) -> list[dict[str, Any]]:
    """One row per variant, dataset and seed, with the accuracy at each number of shots.

    A variant that trains nothing has one run, which fills all of its points.
    """
    rows: dict[tuple[str, str, int | None], dict[str, Any]] = {}
    for c in finished:
        assert c.record is not None and c.shots is not None
        key = {"variant": c.variant, "dataset": c.dataset, "seed": c.seed}
        row = rows.setdefault((c.variant, c.dataset, c.seed), key)
        row["run"] = (*row.get("run", ()), c.identity)
        (scored,) = c.record.evaluations
        row[point(c.shots)] = scored.accuracy
    return list(rows.values())
