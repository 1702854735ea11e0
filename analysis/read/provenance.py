"""Where every score comes from: the columns that accompany a table of scores."""

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.read.cells import CellResult
from analysis.read.integrity import Provenance

PROVENANCE_COLUMNS = ("shots", "code", "data", "run")
COUNTS = ("correct", "total")
FACTOR = "factor:"
"""How the name of a column that holds the levels of a factor begins."""
OFF_WORDS = ("off", "no", "none", "false", "without", "0")


def split_provenance(
    frame: pd.DataFrame, cells: Sequence[CellResult], provenance: Sequence[Provenance]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scores, and for each row where it comes from.

    The column run of ``frame`` has the identities of the runs behind each row, a tuple. What they
    differ in is left blank.
    """
    known = {c.identity: (c, o) for c, o in zip(cells, provenance, strict=True)}
    rows = []
    for runs in frame["run"]:
        found = [known[run] for run in runs]
        shots = {str(c.record.shots) for c, _ in found if c.record and c.seed is not None}
        row = {
            "shots": shots,
            "code": {o.code for _, o in found},
            "data": {o.data for _, o in found},
        }
        rows.append({key: next(iter(v)) if len(v) == 1 else "" for key, v in row.items()})
    beside = pd.DataFrame(rows, columns=PROVENANCE_COLUMNS[:-1]).assign(
        run=[" ".join(runs) for runs in frame["run"]]
    )
    counts = [c for c in COUNTS if c in frame.columns]
    return frame.drop(columns=["run", *counts]), beside.join(frame[counts])


def level_orders(factors: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """The levels of every factor of a table in the order of its rows; a word that says off goes
    last.
    """
    names = dict.fromkeys(name for bound in factors.values() for name in bound)
    shown = {
        name: dict.fromkeys(bound[name] for bound in factors.values() if name in bound)
        for name in names
    }
    return {
        name: tuple(sorted(levels, key=lambda level: level.lower() in OFF_WORDS))
        for name, levels in shown.items()
    }
