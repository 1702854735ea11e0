"""Wide tables made long: one column per dataset, per method or per seed, or one row per metric.

A wide table has scores where the format has names. What it is follows from what is missing: without
a dataset column the columns are datasets, without a variant column they are variants. Columns whose
names are those of metrics are never taken for either.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.read.csv_cells import is_missing, number_of
from analysis.read.csv_columns import (
    AVERAGES,
    KEYS,
    MEAN_TOLERANCE,
    Arranged,
    canonical,
    is_bookkeeping,
    is_numeric,
    is_special,
)
from analysis.read.metric_direction import SPREADS, is_score, words_of

SCORE = "score"
"""The metric of a wide table, whose cells do not say what they measure."""
SEED_COLUMN = re.compile(r"(?:seed|run|trial|fold|rep|repeat|repetition|s)[_ -]?(\d+)")
VALUES = ("value", "score", "result")


def made_long(found: Arranged) -> Arranged:
    """The table with one row per measurement. A table that is long already stays as it is."""
    found = _with_index(found)
    for widen in (_by_metric, _by_seed, _by_dataset, _by_variant):
        found = widen(found)
    return found


def _with_index(found: Arranged) -> Arranged:
    """The key that is missing where the first column has text and no name, as an index has."""
    first = str(found.text.columns[0])
    missing = [key for key in ("variant", "dataset") if key not in found.text.columns]
    unnamed = first.startswith("Unnamed:") or canonical(first) in ("index", "id")
    if not missing or not unnamed or is_numeric(found.text[first]):
        return found
    text = found.text.rename(columns={first: missing[0]})
    note = f"the first column, which has no name, is read as the {missing[0]}"
    return replace(found, text=text).noting(note)


def _by_metric(found: Arranged) -> Arranged:
    """Rows of (metric, value) as one column per metric."""
    forms = {canonical(str(c)): str(c) for c in found.text.columns}
    value = next((forms[v] for v in VALUES if v in forms), None)
    if "metric" not in forms or value is None or is_numeric(found.text[forms["metric"]]):
        return found
    metric = forms["metric"]
    others = [c for c in found.text.columns if c not in (metric, value)]
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    lines: dict[tuple[str, ...], int] = {}
    for line, row in zip(found.text.index, found.text.to_dict("records"), strict=True):
        key = tuple(row[c] for c in others)
        cells = groups.setdefault(key, {})
        if row[metric] in cells or not row[metric]:
            return found  # not one value per metric: the rows are checked as they stand
        cells[row[metric]] = row[value]
        lines.setdefault(key, line)
    names = list(dict.fromkeys(found.text[metric]))
    if any(name in others for name in names):
        return found
    rows = [[*key, *(cells.get(n, "") for n in names)] for key, cells in groups.items()]
    text = pd.DataFrame(rows, columns=[*others, *names], index=list(lines.values()), dtype=object)
    return replace(found, text=text).noting(
        f"the rows name their metric in the column {metric!r}: read as one column per metric"
    )


def _scores(found: Arranged) -> list[str]:
    """The columns of numbers that are neither keys nor settings nor counts."""
    return [
        str(c)
        for c in found.text.columns
        if not is_special(str(c)) and not is_bookkeeping(str(c)) and is_numeric(found.text[c])
    ]


def _by_seed(found: Arranged) -> Arranged:
    if "seed" in found.text.columns:
        return found
    numeric = [str(c) for c in found.text.columns if is_numeric(found.text[c])]
    seeds = {c: m[1] for c in numeric if (m := SEED_COLUMN.fullmatch(c.casefold()))}
    if len(seeds) < 2 or len({int(s) for s in seeds.values()}) < len(seeds):
        return found
    others = [c for c in _scores(found) if c not in seeds]
    if not all(_is_summary(c) for c in others):
        return found
    return _melted(found, seeds, "seed", others)


def _is_summary(column: str) -> bool:
    """Whether a column holds means or spreads, by its name."""
    return column.casefold() in AVERAGES or not SPREADS.isdisjoint(words_of(column))


def _by_dataset(found: Arranged) -> Arranged:
    if "dataset" in found.text.columns or "variant" not in found.text.columns:
        return found
    return _melted_names(found, "dataset")


def _by_variant(found: Arranged) -> Arranged:
    if "variant" in found.text.columns or "dataset" not in found.text.columns:
        return found
    return _melted_names(found, "variant")


def _melted_names(found: Arranged, key: str) -> Arranged:
    """Columns of scores as rows, unless they are metrics by their names, or a single one."""
    columns = _scores(found)
    names = set(map(str.casefold, columns))
    both = {"base", "new"} <= names
    if any(is_score(c) and (both or c.casefold() not in ("base", "new")) for c in columns):
        return found
    kept, means = columns, list[str]()
    if key == "dataset":
        means = [
            c for c in columns if c.casefold() in AVERAGES and _is_mean(found.text, c, columns)
        ]
        kept = [c for c in columns if c not in means]
    spreads = [c for c in kept if not SPREADS.isdisjoint(words_of(c))]
    kept = [c for c in kept if c not in spreads]
    if len(kept) < 2:
        return found
    return _melted(found, {c: c for c in kept}, key, [*means, *spreads])


def _is_mean(text: pd.DataFrame, column: str, columns: Sequence[str]) -> bool:
    """Whether a column holds the mean of the others in every row that has both."""
    values = text[list(columns)].map(_number)
    unit = 1.0 if float(np.nanmax(values.to_numpy())) > 1 else 0.01
    means = values.drop(columns=column).mean(axis=1)
    gaps = (values[column] - means).abs().dropna()
    return bool(gaps.size and (gaps <= MEAN_TOLERANCE * unit).all())


def _number(cell: str) -> float:
    number = None if is_missing(cell) else number_of(cell)
    return np.nan if number is None else number


def _melted(found: Arranged, columns: dict[str, str], key: str, beside: Sequence[str]) -> Arranged:
    """One row per cell of ``columns``, whose names go to the column ``key``.

    ``beside`` are columns of means and spreads, which are left out.
    """
    text = found.text.drop(columns=list(beside))
    fixed = [c for c in text.columns if c not in columns]
    parts = [
        text[fixed].assign(**{key: [name] * len(text), SCORE: text[column].tolist()})
        for column, name in columns.items()
    ]
    order = [c for c in (*KEYS, *text.columns, SCORE) if c in (*fixed, key, SCORE)]
    long = pd.concat(parts)[list(dict.fromkeys(order))]
    long = long.iloc[np.argsort(long.index, kind="stable")]
    notes = [f"a wide table: the columns {_few(list(columns))} are read as one {key} each"]
    if beside:
        notes.append(f"means and spreads are not read: {', '.join(beside)}")
    return replace(found, text=long).noting(*notes)


def _few(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
