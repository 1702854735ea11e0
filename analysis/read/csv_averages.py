"""Rows of means that somebody added to a table: they are no runs.

A dataset may be called "average". Whether it is one is told by its scores: rows of means are the
means of the other datasets.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from analysis.read.csv_cells import is_missing, number_of, whole_number
from analysis.read.csv_columns import AVERAGES, MEAN_TOLERANCE, Arranged

ROUNDED = 0.006
"""How far, in points, a mean of two decimals may be from the mean, and a little more."""
SEED_WORDS = AVERAGES | {"std", "sd", "std.", "stdev", "median", "min", "max", "best"}
"""What stands in the column of seeds where a row summarizes several."""


class _Cell(NamedTuple):
    variant: str
    seed: int | None
    metric: str
    value: float


def without_averages(found: Arranged) -> Arranged:
    """The table without rows that summarize others, with a note about every kind of them."""
    found = _without_summaries_of_seeds(found)
    names = [d for d in dict.fromkeys(found.text["dataset"]) if d.casefold() in AVERAGES]
    for name in names:
        found = _without_means(found, name)
    return found


def _without_summaries_of_seeds(found: Arranged) -> Arranged:
    if "seed" not in found.text.columns:
        return found
    summary = found.text["seed"].str.casefold().isin(SEED_WORDS)
    if not summary.any() or summary.all():
        return found
    words = ", ".join(dict.fromkeys(found.text["seed"][summary]))
    note = f"rows that summarize seeds are left out ({words}; {_lines(found.text[summary])})"
    return replace(found, text=found.text[~summary]).noting(note)


def _without_means(found: Arranged, name: str) -> Arranged:
    """The table without the rows of a dataset, if they are the means of the others."""
    own = found.text["dataset"] == name
    gaps = _gaps(found, own)
    exact = sum(gap <= ROUNDED for gap in gaps)
    if not gaps or not (max(gaps) <= MEAN_TOLERANCE or 2 * exact >= len(gaps)):
        note = f"{name!r} is read as a dataset: its scores are not the means of the other datasets"
        return found.noting(note)
    off = f"; they differ from the means by up to {max(gaps):.2f} points" * (max(gaps) > ROUNDED)
    where = _lines(found.text[own])
    note = f"the rows of {name!r} are the means of the other datasets, and are left out ({where})"
    return replace(found, text=found.text[~own]).noting(f"{note}{off}")


def _gaps(found: Arranged, own: "pd.Series[bool]") -> list[float]:
    """By how many points each score of these rows differs from the mean of the other datasets."""
    metrics = [m for m in found.metrics if m != "hm"] or list(found.metrics)
    means, others = _cells(found.text[own], metrics), _cells(found.text[~own], metrics)
    unit = 1.0 if max((c.value for c in others), default=0.0) > 1 else 100.0
    values: dict[tuple[str, str, int | None], list[float]] = {}
    for cell in others:
        for seed in {cell.seed, None}:  # a row of means without a seed is over all of them
            values.setdefault((cell.variant, cell.metric, seed), []).append(cell.value)
    keys = [(mean.variant, mean.metric, mean.seed) for mean in means]
    return [
        unit * abs(fmean(values[key]) - mean.value)
        for key, mean in zip(keys, means, strict=True)
        if key in values
    ]


def _cells(text: pd.DataFrame, metrics: Sequence[str]) -> list[_Cell]:
    seeds = text["seed"].tolist() if "seed" in text.columns else [""] * len(text)
    return [
        _Cell(variant, whole_number(seed), metric, number)
        for metric in metrics
        for variant, seed, cell in zip(text["variant"], seeds, text[metric], strict=True)
        if not is_missing(cell) and (number := number_of(cell)) is not None
    ]


def _lines(text: pd.DataFrame, most: int = 5) -> str:
    lines = list(dict.fromkeys(text.index))
    shown = ", ".join(map(str, lines[:most]))
    more = ", ..." if len(lines) > most else ""
    return f"line {shown}" if len(lines) == 1 else f"lines {shown}{more}"
