"""The numbers of a CSV file: keys, metrics as fractions by one scale a metric, and exact counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.read.csv_cells import (
    MIN_SEED,
    has_spread,
    is_missing,
    is_percent,
    number_of,
    whole_number,
)
from analysis.read.csv_columns import KEYS, Arranged
from analysis.read.metric_direction import chosen
from analysis.read.reading import Reading
from analysis.read.results import add_hm, seed_array
from core.store.manifest import MAX_SEED

SCALES = ("auto", "percent", "fraction")
MAX_LINES = 8
HM_TOLERANCE = 0.0011
"""A given hm farther than this from 2bn/(b+n) is reported: more than the rounding of base and new
to 0.1 points explains.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The scale of the numbers: of every metric, and of those that differ."""

    default: str = "auto"
    own: Mapping[str, str]

    def of(self, metric: str) -> str:
        """The scale of one metric."""
        return self.own.get(metric, self.default)


def scale_of(found: Arranged, reading: Reading) -> Scale:
    """The scale that the person gives, such as "percent" or "ece=fraction", and the header.

    Raises ValueError for an unknown scale or metric.
    """
    default, own = "auto", dict.fromkeys(found.percent, "percent")
    said = reading.scale
    for text in [said] if isinstance(said, str) else said:
        name, equals, word = text.rpartition("=")
        if word not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {text!r}")
        if equals:
            names = chosen("--scale", [name], found.metrics, lenient=reading.one_of_several)
            own |= dict.fromkeys(names, word)
        else:
            default = word
    return Scale(default=default, own=own)


def read_keys(where: str, text: pd.DataFrame) -> pd.DataFrame:
    """Variant, dataset and seed of every row, by position. Raises ValueError for a seed that is
    not a whole number, for a run that stands twice, and where a variant has seeds in part.
    """
    seeds = _seeds(where, text)
    variants, datasets = text["variant"].tolist(), text["dataset"].tolist()
    _check_duplicates(where, text, list(zip(variants, datasets, seeds, strict=True)))
    frame = pd.DataFrame({"variant": variants, "dataset": datasets})
    frame = frame.assign(seed=seed_array(seeds))
    for variant, rows in frame.groupby("variant", sort=False):
        if rows["seed"].isna().any() and rows["seed"].notna().any():
            raise ValueError(
                f"{where}: a variant has a seed in every row or in none; {variant!r} mixes both"
            )
    return frame


def _seeds(where: str, text: pd.DataFrame) -> list[int | None]:
    raw = text["seed"].tolist() if "seed" in text.columns else [""] * len(text)
    seeds: list[int | None] = []
    for line, value in zip(text.index, raw, strict=True):
        number = None if is_missing(value) else whole_number(value)
        if number is None and not is_missing(value):
            raise ValueError(
                f"{where}, line {line}: seed must be a whole number or blank, got {value!r}"
            )
        if number is not None and not MIN_SEED <= number <= MAX_SEED:
            raise ValueError(
                f"{where}, line {line}: seed must be at most 2^64 - 1 (20 digits), got {value}; "
                "number the seeds 1, 2, 3"
            )
        seeds.append(number)
    known = [s for s in seeds if s is not None]
    if known and min(known) < 0 and max(known) >= 2**63:
        raise ValueError(
            f"{where}: seeds below 0 and seeds from 2^63 on cannot be read together; number the "
            "seeds 1, 2, 3"
        )
    return seeds


def _check_duplicates(
    where: str, text: pd.DataFrame, keys: Sequence[tuple[str, str, int | None]]
) -> None:
    """Raise ValueError where two rows are the same run, whichever way its seed is written."""
    first: dict[tuple[str, str, int | None], int] = {}
    for later, key in enumerate(keys):
        earlier = first.setdefault(key, later)
        if earlier == later:
            continue
        names = KEYS if "seed" in text.columns else KEYS[:2]
        row = ", ".join("(blank)" if part is None else str(part) for part in key[: len(names)])
        one, two = text.iloc[earlier], text.iloc[later]
        apart = [str(c) for c in text.columns if c not in KEYS and one[c] != two[c]]
        hint = f" (they differ in {', '.join(apart)})" if apart else ""
        raise ValueError(
            f"{where}, line {text.index[later]}: one row per {', '.join(names)}, but {row} "
            f"appeared before, in line {text.index[earlier]}{hint}; remove one of the rows or tell "
            "them apart by seed"
        )


def read_scores(
    where: str, found: Arranged, keys: pd.DataFrame, scale: Scale
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Keys and metrics as fractions, NaN where there is none, and notes about them."""
    values = {m: _numbers(where, found.text, m) for m in found.metrics}
    marked = {m for m in found.metrics if any(map(is_percent, found.text[m]))}
    values = _fractions(where, found, values, scale, marked)
    if "correct" in found.text.columns:
        values["accuracy"] = _exact_accuracies(where, found.text, values.get("accuracy"))
    frame = keys.assign(**values)
    return _with_hm(frame, [f"line {line}" for line in found.text.index])


def _numbers(where: str, text: pd.DataFrame, column: str) -> list[float]:
    """Values of a metric column as written; NaN for a blank one."""
    values: list[float] = []
    for line, cell in zip(text.index, text[column], strict=True):
        number = float("nan") if is_missing(cell) else number_of(cell)
        if number is None and has_spread(cell):
            raise ValueError(
                f"{where}, line {line}: {column} is {cell!r}, a mean with its spread; give every "
                "run its own row instead"
            )
        if number is None and cell.casefold().lstrip("+-") in ("inf", "infinity"):
            number = float("inf")
        if number is None:
            raise ValueError(
                f"{where}, line {line}: {column} must be a number, got {cell!r}; "
                "remove the column if it is not a metric, or choose metrics with --metrics"
            )
        if not is_missing(cell) and not 0 <= number <= 100:
            raise ValueError(
                f"{where}, line {line}: {column} must be an accuracy from 0 to 1 or from 0 to "
                f"100, got {cell}; what is on no such scale can be left out with --metrics"
            )
        values.append(number)
    return values


def _fractions(
    where: str,
    found: Arranged,
    values: Mapping[str, list[float]],
    scale: Scale,
    marked: set[str],
) -> dict[str, list[float]]:
    """All metric columns as fractions: in percent are those that say so, and all others as soon as
    one of their values is above 1.
    """
    words = {m: "percent" if m in marked else scale.of(m) for m in values}
    open_ones = [m for m in values if words[m] == "auto"]
    largest = max((v for m in open_ones for v in values[m] if v == v), default=0.0)
    for metric, column in values.items():
        top = max((v for v in column if v == v), default=0.0)
        if words[metric] == "fraction" and top > 1:
            raise ValueError(f"{where}: scale is fraction, but the largest value is {top:g}")
        if words[metric] == "auto" and largest > 1:
            _check_percent(where, found, metric, column, top)
            words[metric] = "percent"
    return {
        m: [v / 100 for v in column] if words[m] == "percent" else list(column)
        for m, column in values.items()
    }


def _check_percent(
    where: str, found: Arranged, metric: str, column: Sequence[float], top: float
) -> None:
    """Raise ValueError where a value of a file in percent looks like a fraction."""
    small = [i for i, v in enumerate(column) if 0 < v <= 1]
    if not small:
        return
    way = f"--scale {metric}=fraction" if top <= 1 else "write one scale everywhere"
    raise ValueError(
        f"{where}, line {found.text.index[small[0]]}: one value above 1 makes the whole file "
        f"percent, but {metric} is {column[small[0]]:g} here, which looks like a fraction; {way}, "
        "or say that it is percent (--scale percent)"
    )


def _exact_accuracies(where: str, text: pd.DataFrame, given: Sequence[float] | None) -> list[float]:
    """Exact accuracies from the integer columns correct and total; a given one must agree."""
    values = []
    rows = zip(text.index, text["correct"], text["total"], strict=True)
    for index, (line, correct, total) in enumerate(rows):
        if is_missing(correct) and is_missing(total):
            values.append(np.nan if given is None else given[index])
            continue
        hits, images = whole_number(correct), whole_number(total)
        if hits is None or images is None or not 0 <= hits <= images or images == 0:
            raise ValueError(
                f"{where}, line {line}: correct and total must be whole numbers with "
                f"0 <= correct <= total, got {correct!r} and {total!r}"
            )
        values.append(hits / images)
        if given is not None and abs(given[index] - values[-1]) > HM_TOLERANCE:
            raise ValueError(
                f"{where}, line {line}: accuracy and correct,total must agree, got "
                f"{100 * given[index]:.2f} and {correct} of {total}; remove one of them"
            )
    return values


def _with_hm(frame: pd.DataFrame, lines: Sequence[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Recompute hm of each row from its base and new; a given hm that disagrees is replaced and
    named. Where base or new is blank, the given one stays.
    """
    given = frame.get("hm")
    frame = add_hm(frame)
    if given is None or not {"base", "new"} <= set(frame.columns):
        return frame, ()
    gap = (given - frame["hm"]).abs()
    frame = frame.assign(hm=frame["hm"].fillna(given))
    if not (gap > HM_TOLERANCE).any():
        return frame, ("hm is recomputed from base and new of each row; the given column agrees",)
    rows = [lines[int(i)] for i in gap.index[gap > HM_TOLERANCE]]
    rows = rows if len(rows) <= MAX_LINES else [*rows[:MAX_LINES], "..."]
    worst = 100 * float(gap.max())
    return frame, (
        f"hm is recomputed from base and new of each row; the given column differs by up to "
        f"{worst:.2f} points ({', '.join(rows)})",
    )
