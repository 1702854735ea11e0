"""Which column of a CSV file is what: keys, settings, provenance, metrics, and what is none of it.

``arrange`` takes the cells as somebody typed them and returns them under the names that the format
has, one row per measurement, with a note for everything that is not read as it stands.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.read.csv_cells import is_missing, is_number, whole_number
from analysis.read.csv_text import RawTable
from analysis.read.metric_direction import chosen, is_score, words_of
from analysis.read.provenance import COUNTS, FACTOR, PROVENANCE_COLUMNS
from analysis.read.reading import Reading
from analysis.read.results import BASE_TO_NEW
from core.suggestions import closest

KEYS = ("variant", "dataset", "seed")
SETTING_COLUMNS = ("protocol", "regime", "selection", "shots")
RESERVED = (*KEYS, *SETTING_COLUMNS, *PROVENANCE_COLUMNS, *COUNTS)
LOWER_PREFIX, HIGHER_PREFIX = "lower:", "higher:"
"""How the name of a metric begins in a file that says which direction is better."""
SYNONYMS = {
    "variant": (
        "method", "model", "algorithm", "algo", "approach", "classifier", "learner", "system",
        "trainer", "config", "configuration", "name",
    ),
    "dataset": (
        "data_set", "dataset_name", "test_dataset", "test_set", "target_dataset", "benchmark",
        "task", "target", "domain", "test_domain", "environment", "problem",
    ),
    "seed": (
        "random_seed", "rng_seed", "trial_seed", "trial", "repeat", "repetition", "replicate",
        "rep", "fold", "cv_fold",
    ),
}  # fmt: skip
"""Other names of the key columns, the most telling first."""
BOOKKEEPING = frozenset((
    "epoch", "epochs", "step", "steps", "iter", "iters", "iteration", "iterations", "index",
    "idx", "id", "row", "seed", "timestamp", "date", "datetime", "unnamed",
))  # fmt: skip
"""The last word of the name of a column that counts something, and measures nothing."""
AVERAGES = frozenset(("average", "avg", "avg.", "mean", "overall", "macro average", "all"))
"""How people call the row or column of means that they add to a table, in lower case."""
MEAN_TOLERANCE = 0.1
"""How far, in points, a mean that somebody rounded or copied may be from the mean."""
ARROW = re.compile(r"[\s_]*[(\[]?\s*([↑↓])\s*[)\]]?$")
PERCENT_SIGN = re.compile(r"\s*[(\[]\s*%\s*[)\]]$|\s*%$")
HINTS = {
    "variant": "; rename the column that names what is compared",
    "dataset": "; on a single dataset, add a column with its name in every row",
}
MIN_ROWS = 3
"""Fewer equal values do not make a column a constant or a setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arranged:
    """A table under the names of the format: text by column, the index has the lines of the file.

    ``metrics`` are the columns of measurements; ``lower`` and ``higher`` those whose direction the
    file states, ``percent`` those that it states to be in percent. ``ignored`` columns are not
    read; ``wanted`` are the metrics that a person asked for, none for all.
    """

    text: pd.DataFrame
    metrics: tuple[str, ...] = ()
    lower: frozenset[str] = frozenset()
    higher: frozenset[str] = frozenset()
    percent: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def noting(self, *notes: str) -> "Arranged":
        """The same with further notes."""
        return replace(self, notes=(*self.notes, *notes))


def canonical(name: str) -> str:
    """A name without regard to letter case and to how its words are joined."""
    return re.sub(r"[\s_-]+", "_", name.casefold())


def named_columns(where: str, raw: RawTable) -> Arranged:
    """The table with the names of the format. Raises ValueError where a column stands twice."""
    names, arrows, percent = [], dict[str, str](), set[str]()
    for i, column in enumerate(raw.columns, start=1):
        name, arrow, in_percent = _without_marks(column)
        name = name or f"Unnamed: {i}"
        names.append(name)
        arrows |= {name: arrow} if arrow else {}
        percent |= {name} if in_percent else set()
    counts = Counter(canonical(name) for name in names)
    if double := sorted({name for name in names if counts[canonical(name)] > 1}):
        raise ValueError(
            f"{where}: every column must be unique, but these repeat: {', '.join(double)}; rename "
            "or remove one"
        )
    text = pd.DataFrame(list(raw.rows), columns=names, index=list(raw.lines), dtype=object)
    renamed, notes = _known_names(text)
    return Arranged(
        text=text.rename(columns=renamed),
        lower=frozenset(renamed.get(n, n) for n, arrow in arrows.items() if arrow == "↓"),
        higher=frozenset(renamed.get(n, n) for n, arrow in arrows.items() if arrow == "↑"),
        percent=frozenset(renamed.get(n, n) for n in percent),
        notes=(*raw.notes, *notes),
    )


def _without_marks(column: str) -> tuple[str, str, bool]:
    """A header without what qualifies it: the arrow of its direction, and whether it says %."""
    name, arrow = column, ""
    for prefix, mark in ((LOWER_PREFIX, "↓"), (HIGHER_PREFIX, "↑")):
        if name.casefold().startswith(prefix):
            name, arrow = name[len(prefix) :].strip(), mark
    if match := ARROW.search(name):
        name, arrow = name[: match.start()], match[1]
    bare = PERCENT_SIGN.sub("", name)
    return bare or name, arrow, bool(bare) and bare != name


def _known_names(text: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """The columns that the format knows by another spelling, and notes about synonyms."""
    by_form = {canonical(str(c)): str(c) for c in text.columns}
    renamed, notes = {}, []
    for name in (*RESERVED, *BASE_TO_NEW, "accuracy"):
        if name in by_form:
            renamed[by_form[name]] = name
    for column in map(str, text.columns):
        if column.casefold().startswith(FACTOR):
            renamed[column] = FACTOR + column[len(FACTOR) :].strip()
    for key, others in SYNONYMS.items():
        if key not in by_form and (found := next((o for o in others if o in by_form), None)):
            renamed[by_form[found]] = key
            notes.append(f"the column {by_form[found]!r} is read as the {key}")
    if "seed" not in renamed.values() and "run" in by_form:
        runs = text[by_form["run"]]
        if all(whole_number(cell) is not None for cell in runs):
            renamed[by_form["run"]] = "seed"
            notes.append("the column 'run' holds numbers, and is read as the seed")
    if "base" in by_form and "new" not in by_form and "novel" in by_form:
        renamed[by_form["novel"]] = "new"
        notes.append("the column 'novel' is read as the accuracy on new classes")
    if {"base", "new"} <= set(renamed.values()) and "hm" not in by_form and "h" in by_form:
        renamed[by_form["h"]] = "hm"
        notes.append("the column 'H' is read as the harmonic mean of base and new")
    return renamed, notes


def is_special(column: str) -> bool:
    """Whether the format knows a column as something other than a metric."""
    return column in RESERVED or column.startswith(FACTOR)


def is_bookkeeping(column: str) -> bool:
    """Whether a column counts rows, epochs or steps, by its name."""
    words = words_of(column)
    while len(words) > 1 and words[-1].isdecimal():
        words = words[:-1]
    return bool(words) and words[-1] in BOOKKEEPING


def is_numeric(cells: "pd.Series[str]") -> bool:
    """Whether every cell that is not blank is a number, and one is."""
    known = [cell for cell in cells if not is_missing(cell)]
    return bool(known) and all(map(is_number, known))


def has_numbers(cells: "pd.Series[str]") -> bool:
    """Whether any cell is a number."""
    return any(map(is_number, cells))


def check_keys(where: str, found: Arranged) -> None:
    """Raise ValueError where a column that every file needs is missing or blank."""
    columns = list(found.text.columns)
    for name in ("variant", "dataset"):
        if name not in columns:
            near = closest(name, columns)
            hint = f"; did you mean to rename {near!r}?" if near else HINTS[name]
            if len(columns) == 1:
                hint = "; separate the columns by commas, semicolons or tabs"
            raise ValueError(f"{where}: needs a column {name!r}, has {', '.join(columns)}{hint}")
        blank = [line for line, v in zip(found.text.index, found.text[name], strict=True) if not v]
        if blank:
            raise ValueError(f"{where}, line {blank[0]}: {name} must not be blank")
    if ("correct" in columns) != ("total" in columns):
        raise ValueError(
            f"{where}: columns correct and total belong together, found only one of them"
        )


def with_metrics(where: str, found: Arranged, reading: Reading) -> Arranged:
    """The table with its metrics: those that were asked for, otherwise every column that measures.

    Index and counting columns, columns of text, blank columns, constants and settings (one value
    for every variant) are none, and a note says so. Raises ValueError where nothing is left.
    """
    text = found.text
    candidates = [str(c) for c in text.columns if not is_special(str(c))]
    counted = ["accuracy"] if "correct" in text.columns and "accuracy" not in candidates else []
    derived = ["hm"] if {"base", "new"} <= set(candidates) and "hm" not in candidates else []
    if reading.metrics:
        known = [*candidates, *counted, *derived]
        kept = chosen("--metrics", reading.metrics, known, lenient=reading.one_of_several)
        kept = kept or chosen("--metrics", reading.metrics, known)
        return _selected(found, candidates, kept)
    kept_columns, notes = _measures(text, candidates)
    if not kept_columns and not counted:
        raise ValueError(
            f"{where}: needs at least one metric column besides {', '.join(map(str, text.columns))}"
        )
    ignored = tuple(c for c in candidates if c not in kept_columns)
    return replace(
        found, metrics=tuple(kept_columns), ignored=ignored, notes=(*found.notes, *notes)
    )


def _selected(found: Arranged, candidates: Sequence[str], kept: Sequence[str]) -> Arranged:
    """Exactly the metrics that are wanted; base and new stay where hm is made from them."""
    needed = {*kept, *(("base", "new") if "hm" in kept else ())}
    metrics = tuple(c for c in candidates if c in needed)
    ignored = tuple(c for c in candidates if c not in needed)
    text = found.text
    if "accuracy" not in kept:
        text = text.drop(columns=[c for c in COUNTS if c in text.columns])
    return replace(found, text=text, metrics=metrics, ignored=ignored, wanted=tuple(kept))


def _measures(text: pd.DataFrame, candidates: Sequence[str]) -> tuple[list[str], list[str]]:
    """The candidates that measure something, and notes about the others."""
    reasons: dict[str, list[str]] = {}
    kept = []
    for column in candidates:
        if why := _not_a_measure(text[column], column):
            reasons.setdefault(why, []).append(column)
        else:
            kept.append(column)
    for why, test in (("constant", _is_constant), ("the same in all rows of a variant", _is_set)):
        same = [c for c in kept if not is_score(c) and test(text, c)]
        if same and len(same) < len(kept):
            kept = [c for c in kept if c not in same]
            reasons[why] = same
    notes = [f"not read as metrics ({why}): {', '.join(names)}" for why, names in reasons.items()]
    return kept, notes


def _not_a_measure(cells: "pd.Series[str]", column: str) -> str:
    if all(map(is_missing, cells)):
        return "blank"
    if is_bookkeeping(column):
        return "an index or a count"
    if not has_numbers(cells) and not is_score(column):
        return "text; name a column factor:NAME to read it as a factor"
    return ""


def _is_constant(text: pd.DataFrame, column: str) -> bool:
    return len(text) >= MIN_ROWS and text[column].nunique() == 1


def _is_set(text: pd.DataFrame, column: str) -> bool:
    """Whether a column has one value for every variant, as a hyper-parameter has."""
    groups = text.groupby("variant")[column]
    return bool((groups.size() >= MIN_ROWS).all() and (groups.nunique() == 1).all())
