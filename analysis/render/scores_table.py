"""The scores of a study as one long table, CSV or Parquet: one row per run; a report reads it."""

from pathlib import Path

import pandas as pd

from analysis.read.csv_columns import HIGHER_PREFIX, LOWER_PREFIX
from analysis.read.csv_text import spreadsheet_text
from analysis.read.metric_direction import is_doubtful
from analysis.read.provenance import COUNTS, FACTOR, PROVENANCE_COLUMNS
from analysis.read.results import Results, Setting
from core.store.atomic import write_atomic

ENDINGS = (".csv", ".parquet")
SAID = (PROVENANCE_COLUMNS[0], "protocol", "regime", "selection", *PROVENANCE_COLUMNS[1:])


def scores_frame(results: Results) -> pd.DataFrame:
    """variant, dataset, seed; shots, protocol, regime, selection, code, data, run; one column per
    metric (fractions), correct and total where they are exact; factor:NAME with the levels.

    A metric of which lower is better, or whose name suggests it, has its direction in the header.
    A column without any value is left out. The baseline comes first: a report on the table compares
    with it. The seed is blank for a method without randomness: it is one measurement, never copied.
    """
    frame = results.frame[["variant", "dataset", "seed"]]
    settings = [results.settings.get(str(v), Setting()) for v in frame["variant"]]
    columns = {
        name: [getattr(s, name) for s in settings] for name in ("protocol", "regime", "selection")
    }
    beside = {str(name): results.provenance[name].tolist() for name in results.provenance.columns}
    said = {name: (columns | beside).get(name, []) for name in SAID}
    measured = {_header(results, m): results.frame[m].round(9).tolist() for m in results.metrics}
    counts = {name: beside[name] for name in COUNTS if name in beside}
    levels = dict.fromkeys(name for bound in results.factors.values() for name in bound)
    factors = {
        FACTOR + name: [results.factors.get(str(v), {}).get(name, "") for v in frame["variant"]]
        for name in levels
    }
    known = {name: values for name, values in (said | factors).items() if any(values)}
    named = {name: values for name, values in known.items() if name in said}
    made = frame.assign(**{**named, **measured, **counts, **known})
    return made.sort_values(
        "variant", key=lambda column: column != results.baseline, kind="stable", ignore_index=True
    )


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV text, in which no cell is a formula to a spreadsheet."""
    made = frame.rename(columns=lambda name: spreadsheet_text(str(name)))
    texts = made.map(lambda cell: spreadsheet_text(cell) if isinstance(cell, str) else cell)
    return texts.to_csv(index=False, lineterminator="\n")


def _header(results: Results, metric: str) -> str:
    """The column of a metric; ``lower:`` and ``higher:`` state what its name does not tell."""
    if results.direction(metric) < 0:
        return LOWER_PREFIX + metric
    return HIGHER_PREFIX + metric if is_doubtful(metric) else metric


def export(results: Results, path: Path) -> int:
    """Write the table to ``path``, in the format of its ending, and return its number of rows.

    Raises ValueError for another ending.
    """
    if path.suffix not in ENDINGS:
        endings = " or ".join(ENDINGS)
        raise ValueError(f"the file to export to must end in {endings}, got {path.name!r}")
    frame = scores_frame(results)
    if path.suffix == ".csv":
        write_atomic(path, csv_text(frame))
        return len(frame)
    raw = frame.to_parquet(index=False)
    assert raw is not None
    write_atomic(path, raw)
    return len(frame)
