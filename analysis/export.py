"""A study as one tidy table, CSV or Parquet: a row a run, in the format that a report reads."""

from pathlib import Path

import pandas as pd

from analysis.results import Results, Setting
from core.records import write_atomic

ENDINGS = (".csv", ".parquet")


def tidy_frame(results: Results) -> pd.DataFrame:
    """variant, dataset, seed, one column a metric (fractions), and protocol, regime, selection.

    The seed is blank for a method without randomness: it is one measurement, never copied.
    """
    frame = results.frame[["variant", "dataset", "seed", *results.metrics]].round(9)
    settings = [results.settings.get(str(v), Setting()) for v in frame["variant"]]
    columns = {
        name: [getattr(s, name) for s in settings] for name in ("protocol", "regime", "selection")
    }
    known = {name: values for name, values in columns.items() if any(values)}
    return frame.assign(**known)


def export(results: Results, path: Path) -> int:
    """Write the table to ``path``, in the format of its ending; how many rows it has.

    Raises ValueError for another ending, or where Parquet cannot be written.
    """
    if path.suffix not in ENDINGS:
        endings = " or ".join(ENDINGS)
        raise ValueError(f"the file to export to must end in {endings}, got {path.name!r}")
    frame = tidy_frame(results)
    if path.suffix == ".csv":
        write_atomic(path, frame.to_csv(index=False, lineterminator="\n"))
        return len(frame)
    try:
        raw = frame.to_parquet(index=False)
    except ImportError as error:
        raise ValueError(f"Parquet needs pyarrow: install it, or export .csv ({error})") from error
    assert raw is not None
    write_atomic(path, raw)
    return len(frame)
