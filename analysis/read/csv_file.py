"""``Results`` of a CSV file with one row per run, checked line by line."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.read.integrity import (
    Provenance,
    exclusion_problems,
    reasons_to_exclude,
    refuse_best_of,
)
from analysis.read.provenance import COUNTS, FACTOR, PROVENANCE_COLUMNS, level_orders
from analysis.read.results import Problem, Results, Setting, add_hm, metric_order, with_choices
from analysis.read.shot_curves import curve_of
from core.suggestions import closest

SCALES = ("auto", "percent", "fraction")
KEYS = ("variant", "dataset", "seed")
SETTING_COLUMNS = ("protocol", "regime", "selection", "shots")
NOT_METRICS = (*KEYS, *SETTING_COLUMNS, *PROVENANCE_COLUMNS)
HM_TOLERANCE = 0.0011
"""A given hm farther than this from 2bn/(b+n) is reported: more than the rounding of base and new
to 0.1 points explains.
"""


def load_csv(
    path: Path, *, baseline: str | None = None, scale: str = "auto", allow_mixed: bool = False
) -> Results:
    """Results of a CSV file with one row per run: ``variant,dataset,seed`` and metric columns.

    ``scale`` is "percent", "fraction" or "auto". Auto reads the whole file as percent as soon as
    one value is above 1, and refuses a file in which that leaves values that look like fractions.
    Optional columns: ``correct,total`` (give an exact accuracy), ``protocol``, ``regime``,
    ``selection``, ``shots``, ``code`` (version), ``data`` (fingerprint of the split), ``run`` (a
    name), ``factor:NAME`` (a variant's level of a factor, for attribution). The baseline is the
    first variant of the file unless one is named.
    Raises ValueError with one line for anything that cannot be read.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    text = _checked_text(path)
    frame, notes = _scores(path, text, scale)
    ordered = metric_order(frame)
    provenance = _provenance(frame, text)
    excluded = reasons_to_exclude(
        provenance, baseline=provenance[0].variant, allow_mixed=allow_mixed
    )
    complete = frame[[not reason for reason in excluded]].dropna(subset=list(ordered))
    factors, curve = _factors(path, text), curve_of(ordered)
    if complete.empty:
        raise ValueError(f"{path}: needs at least one row with every metric, found none")
    variants = tuple(dict.fromkeys(frame["variant"]))
    if "seed" not in text.columns:
        notes = (*notes, "the file has no seed column, so every row is one measurement")
    results = Results(
        name=path.stem,
        frame=complete.reset_index(drop=True),
        provenance=_provenance_columns(text).loc[complete.index].reset_index(drop=True),
        factors=factors,
        levels=level_orders(factors),
        variants=variants,
        datasets=tuple(dict.fromkeys(frame["dataset"])),
        metrics=ordered,
        planned_seeds=tuple(sorted({int(s) for s in frame["seed"].dropna()})),
        baseline=variants[0],
        problems=(
            *_missing_cells(frame, variants, ordered),
            *exclusion_problems(provenance, excluded),
        ),
        notes=notes,
        settings=_settings(path, text),
        shots=_shots(path, text),
        shared_seeds=_shared_runs(text),
        curve=curve,
        primary=list(curve)[-1] if curve else "",
    )
    return with_choices(results, baseline=baseline)


def _checked_text(path: Path) -> pd.DataFrame:
    """The cells of the file as text, with the columns and rows that a report needs."""
    text = _read_text(path)
    _check_columns(path, text)
    _check_duplicates(path, text)
    refuse_best_of([*text.columns, *text["variant"].unique(), *_selection_rules(text)], str(path))
    return text


def _measures(text: pd.DataFrame) -> list[str]:
    """The columns that hold measurements."""
    return [c for c in text.columns if c not in NOT_METRICS and not c.startswith(FACTOR)]


def _provenance_columns(text: pd.DataFrame) -> pd.DataFrame:
    """What the file says about where its rows come from."""
    return text[[c for c in (*PROVENANCE_COLUMNS, *COUNTS) if c in text.columns]]


def _shared_runs(text: pd.DataFrame) -> bool:
    """Whether one run is scored on several datasets: then its seed is not drawn anew for each."""
    if "run" not in text.columns:
        return False
    named = text[text["run"] != ""]
    return bool((named.groupby("run")["dataset"].nunique() > 1).any())


def _factors(path: Path, text: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Levels by variant and factor, from the columns factor:NAME; a blank one is not bound."""
    columns = [c for c in text.columns if c.startswith(FACTOR) and len({*text[c]} - {""}) > 1]
    found: dict[str, dict[str, str]] = {}
    for index, row in enumerate(text[["variant", *columns]].to_dict("records")):
        bound = {c.removeprefix(FACTOR): str(row[c]) for c in columns if row[c]}
        if bound != found.setdefault(str(row["variant"]), bound):
            raise ValueError(
                f"{path}, {_line(index)}: a variant has one level of every factor, but "
                f"{row['variant']!r} mixes two; give each its own variant name"
            )
    return found


def _scores(path: Path, text: pd.DataFrame, scale: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Variant, dataset, seed and the metrics as fractions, and notes about them."""
    frame = _keys(path, text)
    metrics = [c for c in _measures(text) if c not in COUNTS]
    values = {m: _numbers(path, text, m) for m in metrics}
    if metrics:
        values = _fractions(path, values, scale)
    if "correct" in text.columns:
        values["accuracy"] = _exact_accuracies(path, text, values.get("accuracy"))
    return _with_hm(frame.assign(**values))


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


def _read_text(path: Path) -> pd.DataFrame:
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file or folder; give a study folder or a CSV file with a row per run"
        ) from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable CSV file ({str(error).strip()})") from error
    text = text.rename(columns=lambda name: str(name).strip())
    text = pd.DataFrame({c: text[c].str.strip() for c in text.columns})
    if text.empty:
        raise ValueError(f"{path}: needs at least one row below its header, found none")
    return text


def _line(index: int) -> str:
    return f"line {index + 2}"


def _check_columns(path: Path, text: pd.DataFrame) -> None:
    columns = list(text.columns)
    if double := sorted({c for c in columns if columns.count(c) > 1 or c.endswith(".1")}):
        raise ValueError(
            f"{path}: every column must be unique, but these repeat: {', '.join(double)}"
        )
    for name in ("variant", "dataset"):
        if name not in columns:
            near = closest(name, columns)
            hint = f"; did you mean to rename {near!r}?" if near else ""
            raise ValueError(f"{path}: needs a column {name!r}, has {', '.join(columns)}{hint}")
        if blank := [i for i, v in enumerate(text[name]) if not v]:
            raise ValueError(f"{path}, {_line(blank[0])}: {name} must not be blank")
    if ("correct" in columns) != ("total" in columns):
        raise ValueError(
            f"{path}: columns correct and total belong together, found only one of them"
        )
    if not _measures(text):
        raise ValueError(f"{path}: needs at least one metric column besides {', '.join(columns)}")


def _check_duplicates(path: Path, text: pd.DataFrame) -> None:
    keys = [c for c in KEYS if c in text.columns]
    double = text.duplicated(subset=keys)
    if double.any():
        index = int(double.to_numpy().argmax())
        row = ", ".join(text[c].iloc[index] or "(blank)" for c in keys)
        raise ValueError(
            f"{path}, {_line(index)}: one row per {', '.join(keys)}, but {row} appeared before; "
            "remove one of the rows or tell them apart by seed"
        )


def _keys(path: Path, text: pd.DataFrame) -> pd.DataFrame:
    raw = text["seed"].tolist() if "seed" in text.columns else [""] * len(text)
    seeds: list[int | None] = []
    for index, value in enumerate(raw):
        try:
            seeds.append(int(value.removesuffix(".0")) if value else None)
        except ValueError:
            raise ValueError(
                f"{path}, {_line(index)}: seed must be a whole number or blank, got {value!r}"
            ) from None
    frame = pd.DataFrame({"variant": text["variant"], "dataset": text["dataset"]})
    frame = frame.assign(seed=pd.array(seeds, dtype="Int64"))
    for variant, rows in frame.groupby("variant", sort=False):
        if rows["seed"].isna().any() and rows["seed"].notna().any():
            raise ValueError(
                f"{path}: a variant has a seed in every row or in none; {variant!r} mixes both"
            )
    return frame


def _numbers(path: Path, text: pd.DataFrame, column: str) -> list[float]:
    """Values of a metric column; NaN for a blank one."""
    values: list[float] = []
    for index, value in enumerate(text[column]):
        try:
            number = float(value) if value else float("nan")
        except ValueError:
            raise ValueError(
                f"{path}, {_line(index)}: {column} must be a number, got {value!r}; "
                "remove the column if it is not a metric"
            ) from None
        if value and not 0 <= number <= 100:
            raise ValueError(
                f"{path}, {_line(index)}: {column} must be an accuracy from 0 to 1 or from 0 to "
                f"100, got {value}"
            )
        values.append(number)
    return values


def _fractions(path: Path, values: dict[str, list[float]], scale: str) -> dict[str, list[float]]:
    """All metric columns as fractions, by one rule for the whole file."""
    largest = max((v for column in values.values() for v in column if v == v), default=0.0)
    if scale == "fraction" and largest > 1:
        raise ValueError(f"{path}: scale is fraction, but the largest value is {largest:g}")
    if scale == "fraction" or (scale == "auto" and largest <= 1):
        return values
    for name, column in values.items():
        small = [i for i, v in enumerate(column) if 0 < v <= 1]
        if scale == "auto" and small:
            raise ValueError(
                f"{path}, {_line(small[0])}: one value above 1 makes the whole file percent, but "
                f"{name} is {column[small[0]]:g} here, which looks like a fraction; write one "
                "scale everywhere, or say which one it is (scale percent)"
            )
    return {name: [v / 100 for v in column] for name, column in values.items()}


def _exact_accuracies(path: Path, text: pd.DataFrame, given: Sequence[float] | None) -> list[float]:
    """Exact accuracies from the integer columns correct and total; a given one must agree."""
    values = []
    pairs = zip(text["correct"], text["total"], strict=True)
    for index, (correct, total) in enumerate(pairs):
        if not correct and not total:
            values.append(float("nan"))
            continue
        if not (correct.isdecimal() and total.isdecimal() and 0 <= int(correct) <= int(total) > 0):
            raise ValueError(
                f"{path}, {_line(index)}: correct and total must be whole numbers with "
                f"0 <= correct <= total, got {correct!r} and {total!r}"
            )
        values.append(int(correct) / int(total))
        if given is not None and abs(given[index] - values[-1]) > HM_TOLERANCE:
            raise ValueError(
                f"{path}, {_line(index)}: accuracy and correct,total must agree, got "
                f"{100 * given[index]:.2f} and {correct} of {total}; remove one of them"
            )
    return values


def _with_hm(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Recompute hm of each row from its base and new; a given hm that disagrees is replaced and
    named.
    """
    given = frame.get("hm")
    frame = add_hm(frame)
    if given is None or not {"base", "new"} <= set(frame.columns):
        return frame, ()
    gap = (given - frame["hm"]).abs()
    if not (gap > HM_TOLERANCE).any():
        return frame, ("hm is recomputed from base and new of each row; the given column agrees",)
    rows = [_line(int(i)) for i in gap.index[gap > HM_TOLERANCE]]
    worst = 100 * float(gap.max())
    return frame, (
        f"hm is recomputed from base and new of each row; the given column differs by up to "
        f"{worst:.2f} points ({', '.join(rows)})",
    )


def _missing_cells(
    frame: pd.DataFrame, variants: Sequence[str], metrics: Sequence[str]
) -> list[Problem]:
    """Cells that a complete design would have and this file lacks."""
    missing: list[Problem] = []
    seeds = sorted({int(s) for s in frame["seed"].dropna()})
    blank = frame[list(metrics)].isna().to_numpy()
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
            elif bad := [m for m, is_blank in zip(metrics, blank[row], strict=True) if is_blank]:
                detail = f"blank {', '.join(bad)}"
            else:
                continue
            missing.append(
                Problem(kind="missing", variant=variant, dataset=dataset, seed=seed, detail=detail)
            )
    return missing


def _settings(path: Path, text: pd.DataFrame) -> dict[str, Setting]:
    names = [c for c in SETTING_COLUMNS if c in text.columns and c != "shots"]
    settings: dict[str, Setting] = {}
    for index, row in enumerate(text.to_dict("records")):
        setting = Setting(**{str(name): str(row[name]) for name in names})
        variant = str(row["variant"])
        if different := setting.differs(settings.setdefault(variant, setting)):
            raise ValueError(
                f"{path}, {_line(index)}: a variant has one protocol, regime and selection, but "
                f"{variant!r} mixes {different}; give each its own variant name"
            )
    return settings


def _shots(path: Path, text: pd.DataFrame) -> tuple[int, ...]:
    if "shots" not in text.columns:
        return ()
    for index, value in enumerate(text["shots"]):
        if value and not value.isdecimal():
            raise ValueError(f"{path}, {_line(index)}: shots must be a whole number, got {value!r}")
    return tuple(sorted({int(v) for v in text["shots"] if v}))
