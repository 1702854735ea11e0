"""``Results`` of a CSV file with one row per run, checked line by line."""

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.read.csv_averages import without_averages
from analysis.read.csv_cells import is_missing, whole_number
from analysis.read.csv_columns import (
    KEYS,
    SETTING_COLUMNS,
    Arranged,
    check_keys,
    named_columns,
    with_metrics,
)
from analysis.read.csv_directions import with_directions
from analysis.read.csv_scores import read_keys, read_scores, scale_of
from analysis.read.csv_text import RawTable, read_table
from analysis.read.csv_wide import made_long
from analysis.read.integrity import (
    Provenance,
    exclusion_problems,
    reasons_to_exclude,
    refuse_best_of,
)
from analysis.read.provenance import COUNTS, FACTOR, PROVENANCE_COLUMNS, level_orders
from analysis.read.reading import Reading
from analysis.read.results import Problem, Results, Setting, metric_order, with_choices
from analysis.read.shot_curves import curve_of

MAX_NAMED = 20
NO_SEEDS = "the file has no seed column, so every row is one measurement"


def load_csv(
    path: Path,
    *,
    baseline: str | None = None,
    scale: str | Sequence[str] = "auto",
    allow_mixed: bool = False,
    metrics: Sequence[str] = (),
    lower: Sequence[str] = (),
    higher: Sequence[str] = (),
) -> Results:
    """Results of a CSV file with one row per run: ``variant,dataset,seed`` and metric columns.

    ``docs/csv.md`` describes the format, and what is read with a note.
    ``scale`` is "percent", "fraction", "auto", or several with "METRIC=percent" among them. Auto
    reads the whole file as percent as soon as one value is above 1, and refuses a file in which
    that leaves values that look like fractions. ``metrics`` are the columns to read as metrics
    instead of all that measure; ``lower`` and ``higher`` say the direction of a metric whose name
    leaves it open. The baseline is the first variant of the file unless one is named.
    Raises ValueError with one line for anything that cannot be read.
    """
    reading = Reading(
        scale=scale, metrics=metrics, lower=lower, higher=higher, allow_mixed=allow_mixed
    )
    results = table_results(str(path), path.stem, read_table(path), reading)
    return with_choices(results, baseline=baseline)


def table_results(where: str, name: str, raw: RawTable, reading: Reading) -> Results:
    """Results of the cells of a table; ``where`` names it in messages. See ``load_csv``."""
    found = made_long(named_columns(where, raw))
    check_keys(where, found)
    found = with_metrics(where, found, reading)
    found = with_directions(where, found, reading)
    found = without_averages(found)
    text = found.text
    refuse_best_of([*found.metrics, *text["variant"].unique(), *_selection_rules(text)], where)
    keys = read_keys(where, text)
    frame, notes = read_scores(where, found, keys, scale_of(found, reading))
    found = found.noting(*notes, *_similar_names(keys))
    return _results(where, name, found, frame, allow_mixed=reading.allow_mixed)


def _results(
    where: str, name: str, found: Arranged, frame: pd.DataFrame, *, allow_mixed: bool
) -> Results:
    """The results of a table that has been read: ``frame`` has its scores by position."""
    text = found.text
    provenance = _provenance(frame, text)
    excluded = reasons_to_exclude(
        provenance, baseline=provenance[0].variant, allow_mixed=allow_mixed
    )
    known = [m for m in metric_order(frame) if not found.wanted or m in found.wanted]
    metrics = tuple(m for m in known if frame[m].notna().any())
    if not metrics:
        raise ValueError(f"{where}: needs at least one row with a score, found none")
    used = frame[[not reason for reason in excluded]].dropna(subset=list(metrics), how="all")
    used = used[[*KEYS, *metrics]]
    factors, curve = _factors(where, text), curve_of(metrics)
    variants = tuple(dict.fromkeys(frame["variant"]))
    unseeded = () if "seed" in text.columns else (NO_SEEDS,)
    return Results(
        name=name,
        frame=used.reset_index(drop=True),
        provenance=_provenance_columns(text).iloc[used.index].reset_index(drop=True),
        factors=factors,
        levels=level_orders(factors),
        variants=variants,
        datasets=tuple(dict.fromkeys(frame["dataset"])),
        metrics=metrics,
        planned_seeds=tuple(sorted({int(s) for s in frame["seed"].dropna()})),
        baseline=variants[0],
        problems=(
            *_missing_cells(frame, variants, metrics),
            *exclusion_problems(provenance, excluded),
        ),
        notes=(*found.notes, *unseeded, *_blank_metrics(used, metrics)),
        settings=_settings(where, text),
        shots=_shots(where, text),
        shared_seeds=_shared_runs(text),
        curve=curve,
        lower_is_better=found.lower & {*metrics},
        primary=list(curve)[-1] if curve else "",
    )


def _similar_names(keys: pd.DataFrame) -> list[str]:
    """Notes about names that differ in letter case alone: they may be meant to be one."""
    notes = []
    for key in ("variant", "dataset"):
        names = list(dict.fromkeys(keys[key]))
        counts = Counter(name.casefold() for name in names)
        alike = [name for name in names if counts[name.casefold()] > 1]
        if alike:
            notes.append(f"{key}s whose names differ in letter case alone: {', '.join(alike)}")
    return notes


def _blank_metrics(used: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Notes about metrics that are blank where others have a score, which costs their cells."""
    notes = []
    for metric in metrics:
        blank = used[used[metric].isna()]
        if blank.empty:
            continue
        have = set(used.loc[used[metric].notna(), "variant"])
        absent = [v for v in dict.fromkeys(blank["variant"]) if v not in have]
        if absent:
            notes.append(f"{metric} is missing for {', '.join(absent)}")
        rows = blank[~blank["variant"].isin(absent)]
        cells = [
            f"{v} on {d}" + ("" if pd.isna(s) else f", seed {s}")
            for v, d, s in zip(rows["variant"], rows["dataset"], rows["seed"], strict=True)
        ]
        if cells:
            more = f"; and {len(cells) - MAX_NAMED} more" if len(cells) > MAX_NAMED else ""
            notes.append(f"{metric} is blank for {'; '.join(cells[:MAX_NAMED])}{more}")
    return notes


def _provenance_columns(text: pd.DataFrame) -> pd.DataFrame:
    """What the file says about where its rows come from."""
    return text[[c for c in (*PROVENANCE_COLUMNS, *COUNTS) if c in text.columns]]


def _shared_runs(text: pd.DataFrame) -> bool:
    """Whether one run is scored on several datasets: then its seed is not drawn anew for each."""
    if "run" not in text.columns:
        return False
    named = text[text["run"] != ""]
    return bool((named.groupby("run")["dataset"].nunique() > 1).any())


def _factors(where: str, text: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Levels by variant and factor, from the columns factor:NAME; a blank one is not bound."""
    columns = [c for c in text.columns if c.startswith(FACTOR) and len({*text[c]} - {""}) > 1]
    found: dict[str, dict[str, str]] = {}
    rows = text[["variant", *columns]].to_dict("records")
    for line, row in zip(text.index, rows, strict=True):
        bound = {c.removeprefix(FACTOR): str(row[c]) for c in columns if row[c]}
        if bound != found.setdefault(str(row["variant"]), bound):
            raise ValueError(
                f"{where}, line {line}: a variant has one level of every factor, but "
                f"{row['variant']!r} mixes two; give each its own variant name"
            )
    return found


def _selection_rules(text: pd.DataFrame) -> list[str]:
    """The selection rules of the file."""
    return list(text["selection"].unique()) if "selection" in text.columns else []


def _provenance(frame: pd.DataFrame, text: pd.DataFrame) -> list[Provenance]:
    """Where every row comes from, by the optional columns code and data."""
    blank = [""] * len(text)
    code, data = (text[c].tolist() if c in text.columns else blank for c in ("code", "data"))
    seeds = [None if pd.isna(s) else int(s) for s in frame["seed"]]
    return [
        Provenance(*row)
        for row in zip(frame["variant"], frame["dataset"], seeds, code, data, strict=True)
    ]


def _missing_cells(
    frame: pd.DataFrame, variants: Sequence[str], metrics: Sequence[str]
) -> list[Problem]:
    """Cells that a complete design would have and this file lacks."""
    missing: list[Problem] = []
    seeds = sorted({int(s) for s in frame["seed"].dropna()})
    blank = frame[list(metrics)].isna().all(axis=1).tolist()
    numbers = [None if pd.isna(s) else int(s) for s in frame["seed"]]
    keys = zip(frame["variant"], frame["dataset"], numbers, strict=True)
    row_of = {key: row for row, key in enumerate(keys)}
    seeded = {variant for variant, _, seed in row_of if seed is not None}
    for variant, dataset in itertools.product(variants, dict.fromkeys(frame["dataset"])):
        planned: list[int | None] = [*seeds] if variant in seeded else [None]
        for seed in planned:
            row = row_of.get((variant, dataset, seed))
            if row is None:
                detail = "the file has no such row"
            elif blank[row]:
                detail = f"blank {', '.join(metrics)}"
            else:
                continue
            missing.append(
                Problem(kind="missing", variant=variant, dataset=dataset, seed=seed, detail=detail)
            )
    return missing


def _settings(where: str, text: pd.DataFrame) -> dict[str, Setting]:
    names = [c for c in SETTING_COLUMNS if c in text.columns and c != "shots"]
    settings: dict[str, Setting] = {}
    for line, row in zip(text.index, text.to_dict("records"), strict=True):
        setting = Setting(**{str(name): str(row[name]) for name in names})
        variant = str(row["variant"])
        if different := setting.differs(settings.setdefault(variant, setting)):
            raise ValueError(
                f"{where}, line {line}: a variant has one protocol, regime and selection, but "
                f"{variant!r} mixes {different}; give each its own variant name"
            )
    return settings


def _shots(where: str, text: pd.DataFrame) -> tuple[int, ...]:
    if "shots" not in text.columns:
        return ()
    found = set()
    for line, value in zip(text.index, text["shots"], strict=True):
        number = None if is_missing(value) else whole_number(value)
        if not is_missing(value) and (number is None or number < 0):
            raise ValueError(f"{where}, line {line}: shots must be a whole number, got {value!r}")
        found |= set() if number is None else {number}
    return tuple(sorted(found))
