"""Published results with their source, regime and budget: context, never a baseline.

``published_tables/`` holds four tables as they were collected, each row with the place where it
was read (an "index file id" is the number of a public text that has no better address), and
``budgets.csv``: backbone, shots, regime and training budget of each group of rows, with where that
is known from. The first line of ``budgets.csv`` that fits a row counts; a blank table, method or
source fits everything, and a source fits by its beginning. Budgets are those of the settings that
the authors released, since papers rarely print them with the figures.

Loading checks every row. What the source itself prints inconsistently is kept as printed and
flagged; a table that cannot be read is a ValueError that names the row.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from core.suggestions import closest

TABLES_DIR = Path(__file__).parent / "published_tables"
BUDGETS = "budgets.csv"
AVERAGE = "average"
ALL = "all"
METRICS = ("base", "new", "hm", "accuracy")
REGIMES = ("inductive", "transductive", "limited")
NOT_STATED = "not stated"

DATASETS: Mapping[str, str] = {
    "imagenet": "ImageNet",
    "caltech101": "Caltech101",
    "oxford_pets": "OxfordPets",
    "stanford_cars": "StanfordCars",
    "oxford_flowers": "Flowers102",
    "food101": "Food101",
    "fgvc_aircraft": "FGVCAircraft",
    "sun397": "SUN397",
    "dtd": "DTD",
    "eurosat": "EuroSAT",
    "ucf101": "UCF101",
    "imagenetv2": "ImageNetV2",
    "imagenet_sketch": "ImageNet-Sketch",
    "imagenet_a": "ImageNet-A",
    "imagenet_r": "ImageNet-R",
}
"""Our names of the datasets and the spelling of the tables; both are understood."""

_ELEVEN = tuple(DATASETS)[:11]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """One file of published figures: its metrics and the datasets that its average is over."""

    file: str
    protocol: str
    metrics: tuple[str, ...]
    averaged: tuple[str, ...]
    keys: tuple[str, ...] = ("dataset",)


TABLES: Mapping[str, PublishedTable] = {
    "base_to_new": PublishedTable(
        file="published_base_to_novel.csv",
        protocol="base_to_new",
        metrics=("base", "new", "hm"),
        averaged=_ELEVEN,
    ),
    "cross_dataset": PublishedTable(
        file="published_cross_dataset.csv",
        protocol="cross_dataset",
        metrics=("accuracy",),
        averaged=_ELEVEN[1:],
        keys=("dataset", "setting"),
    ),
    "domain_generalization": PublishedTable(
        file="published_domain_generalization.csv",
        protocol="domain_generalization",
        metrics=("accuracy",),
        averaged=tuple(DATASETS)[11:],
        keys=("dataset", "setting"),
    ),
    "few_shot": PublishedTable(
        file="published_few_shot.csv",
        protocol="base_to_new",
        metrics=("base", "new", "hm"),
        averaged=_ELEVEN,
        keys=("shots", "protocol"),
    ),
}
"""``few_shot`` holds base-to-new averages at several shots, not the all-class few-shot protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """One printed row. Figures are fractions, None where the table has no such metric.

    ``dataset`` is one of ``DATASETS`` or "average"; in the tables of cross-dataset and domain
    generalization imagenet is the source, which no average contains. ``shots`` is None where
    training saw all images or nothing is stated. ``flags`` say what is inconsistent in the source.
    """

    table: str
    protocol: str
    method: str
    dataset: str
    source: str
    backbone: str
    shots: int | None
    regime: str
    budget: str
    known_from: str
    base: float | None = None
    new: float | None = None
    hm: float | None = None
    accuracy: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """Who printed it: paper (the method's own, or one that reprints it), secondary (another
        paper's table), rerun (others ran the method again), list or notes.
        """
        return re.split(r"\W", self.source, maxsplit=1)[0]

    @property
    def series(self) -> tuple[str, str, str, int | None]:
        """What the rows of one printed line have in common."""
        return self.table, self.method, self.source, self.shots

    def to_dict(self) -> dict[str, Any]:
        """The row, as JSON values."""
        return {**asdict(self), "origin": self.origin}


def load_published(tables_dir: Path = TABLES_DIR) -> tuple[PublishedRow, ...]:
    """Every published row, checked, in the order of the files.

    Raises ValueError, one line that names file and row, for a missing column, a value that is
    not a number from 0 to 100, an unknown dataset or regime, or a repeated row.
    """
    budgets = _read(tables_dir / BUDGETS, ("table", "method", "source", *_BUDGET_COLUMNS))
    rows: list[PublishedRow] = []
    for name, table in TABLES.items():
        columns = ("method", *table.keys, *table.metrics, "source")
        path = tables_dir / table.file
        found: dict[tuple[object, ...], str] = {}
        printed: list[tuple[PublishedRow, dict[str, Decimal]]] = []
        for line, raw in _read(path, columns):
            where = f"{path.name}, line {line} ({raw['method']}, {raw.get('dataset', AVERAGE)})"
            row, figures = _row(name, raw, where, budgets)
            key = (*row.series, row.dataset)
            if key in found:
                raise ValueError(f"{where}: every row must be unique, but {found[key]} is the same")
            found[key] = f"line {line}"
            printed.append((row, figures))
        rows += _flagged(printed)
    return tuple(rows)


_BUDGET_COLUMNS = ("backbone", "shots", "regime", "budget", "known_from")
_Lines = list[tuple[int, dict[str, str]]]


def _read(path: Path, columns: Sequence[str]) -> _Lines:
    """Lines of a CSV file by their number, with exactly these columns or more."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lines = [(reader.line_num, raw) for raw in reader]
            names = reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a readable CSV file ({error})") from error
    if missing := [c for c in columns if c not in names]:
        has = ", ".join(names) or "nothing"
        raise ValueError(f"{path.name}: needs a column {missing[0]!r}, has {has}")
    for line, raw in lines:
        if None in raw or None in raw.values():
            raise ValueError(
                f"{path.name}, line {line}: a row has {len(names)} columns; quote commas"
            )
    if not lines:
        raise ValueError(f"{path.name}: needs at least one row below its header, found none")
    return [(line, {key: value.strip() for key, value in raw.items()}) for line, raw in lines]


def _row(
    name: str, raw: Mapping[str, str], where: str, budgets: _Lines
) -> tuple[PublishedRow, dict[str, Decimal]]:
    """A row and its figures in percent, with the digits that were printed."""
    table = TABLES[name]
    if blank := [key for key in ("method", "source") if not raw[key]]:
        raise ValueError(f"{where}: {blank[0]} must not be blank")
    dataset = AVERAGE
    if "dataset" in raw and raw["dataset"].lower() != AVERAGE:
        dataset = known_dataset(raw["dataset"].removesuffix(" (source)"))
        if not dataset:
            raise ValueError(f"{where}: {_unknown('dataset', raw['dataset'], DATASETS.values())}")
    figures = {metric: _figure(raw[metric], f"{where}: {metric}") for metric in table.metrics}
    budget = _budget(name, raw, budgets)
    regime = raw.get("setting") or budget["regime"] or NOT_STATED
    if regime not in (*REGIMES, NOT_STATED):
        raise ValueError(f"{where}: {_unknown('regime', regime, REGIMES)}")
    shots = raw.get("shots") or budget["shots"]
    if shots and not shots.isdecimal():
        raise ValueError(f"{where}: shots must be a whole number, got {shots!r}")
    row = PublishedRow(
        table=name,
        protocol=table.protocol,
        method=raw["method"],
        dataset=dataset,
        source=raw["source"],
        backbone=budget["backbone"] or NOT_STATED,
        shots=int(shots) if shots else None,
        regime=regime,
        budget=budget["budget"] or NOT_STATED,
        known_from=budget["known_from"],
    )
    shares = {metric: float(value / 100) for metric, value in figures.items()}
    return replace(row, **shares), figures  # type: ignore[arg-type]


def _figure(text: str, where: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not (value.is_finite() and 0 <= value <= 100):
        raise ValueError(f"{where} must be a number from 0 to 100, got {text!r}")
    return value


def _budget(name: str, raw: Mapping[str, str], budgets: _Lines) -> Mapping[str, str]:
    """The first line of budgets.csv that fits; nothing is stated where none does."""
    for _, line in budgets:
        fits = line["table"] in ("", name) and line["method"] in ("", raw["method"])
        if fits and raw["source"].startswith(line["source"]):
            return line
    return dict.fromkeys(_BUDGET_COLUMNS, "")


_Printed = Sequence[tuple[PublishedRow, Mapping[str, Decimal]]]


def _flagged(printed: _Printed) -> list[PublishedRow]:
    """The rows, each with what cannot be explained by the rounding of its printed figures."""
    by_series: dict[object, dict[str, Mapping[str, Decimal]]] = {}
    for row, figures in printed:
        by_series.setdefault(row.series, {})[row.dataset] = figures
    flagged = []
    for row, figures in printed:
        others = [by_series[row.series].get(d) for d in TABLES[row.table].averaged]
        cells = [other for other in others if other is not None]
        complete = row.dataset == AVERAGE and len(cells) == len(others)
        flags = [*_hm_flags(figures, cells if complete else ())]
        flags += _average_flags(figures, cells) if complete else ()
        flagged.append(replace(row, flags=tuple(flags)))
    return flagged


def _half_unit(value: Decimal) -> Decimal:
    """Half of the last printed digit: how far rounding can move a figure."""
    return Decimal(5).scaleb(int(value.as_tuple().exponent) - 1)


def _hm_flags(
    figures: Mapping[str, Decimal], cells: Sequence[Mapping[str, Decimal]]
) -> Iterable[str]:
    """HM must be 2bn / (b + n) for some base and new that round to the printed ones.

    The HM of an average may be the mean of the HMs in ``cells`` instead: papers print both.
    """
    if "hm" not in figures:
        return
    base, new, hm = (figures[metric] for metric in ("base", "new", "hm"))
    b, n, h = (_half_unit(value) for value in (base, new, hm))
    if _harmonic(base - b, new - n) - h <= hm <= _harmonic(base + b, new + n) + h:
        return
    if cells and not list(_average_flags({"hm": hm}, cells)):
        return
    exact = _harmonic(base, new)
    yield f"hm {hm} is printed, but the harmonic mean of {base} and {new} is {exact:.2f}"


def _harmonic(base: Decimal, new: Decimal) -> Decimal:
    base, new = max(base, Decimal(0)), max(new, Decimal(0))
    return 2 * base * new / (base + new) if base + new else Decimal(0)


def _average_flags(
    figures: Mapping[str, Decimal], cells: Sequence[Mapping[str, Decimal]]
) -> Iterable[str]:
    """A printed average must be the mean of the printed rows, up to their rounding and its own."""
    for metric, value in figures.items():
        if metric == "hm" and len(figures) > 1:
            continue
        each = [cell[metric] for cell in cells]
        mean = sum(each, Decimal(0)) / len(each)
        slack = sum(map(_half_unit, each), Decimal(0)) / len(each) + _half_unit(value)
        if abs(mean - value) > slack:
            yield f"{metric} {value} is printed, but the mean of the {len(each)} rows is {mean:.2f}"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


_SPELLINGS = {
    **{_plain(spelling): name for name, spelling in DATASETS.items()},
    **{_plain(name): name for name in DATASETS},
    "oxfordflowers102": "oxford_flowers",
    "describabletextures": "dtd",
}


def known_dataset(text: str) -> str:
    """Our name of a published dataset in any usual spelling, "" for anything else."""
    return _SPELLINGS.get(_plain(text), "")


def select(
    rows: Iterable[PublishedRow],
    *,
    dataset: str = ALL,
    metric: str = "",
    protocol: str = "",
    method: str = "",
) -> tuple[PublishedRow, ...]:
    """The rows that fit. ``dataset`` is a name, "average" or "all"; ``protocol`` a protocol or a
    table; ``method`` a name or its beginning, where no name is exactly that.

    Raises ValueError for an unknown name, or where nothing fits.
    """
    rows = tuple(rows)
    wanted = dataset.lower() if dataset.lower() in (ALL, AVERAGE) else known_dataset(dataset)
    if not wanted:
        raise ValueError(_unknown("dataset", dataset, (*DATASETS, AVERAGE, ALL)))
    if metric not in ("", *METRICS):
        raise ValueError(_unknown("metric", metric, METRICS))
    name = _plain(protocol)
    if name not in {"", *map(_plain, TABLES)}:
        raise ValueError(_unknown("protocol", protocol, TABLES))
    methods = _methods(rows, method)
    found = [
        r
        for r in rows
        if wanted in (ALL, r.dataset)
        and (not metric or getattr(r, metric) is not None)
        and name in ("", _plain(r.protocol), _plain(r.table))
        and r.method in methods
    ]
    if not found:
        given = {"dataset": dataset, "metric": metric, "protocol": protocol, "method": method}
        text = ", ".join(f"{what} {value!r}" for what, value in given.items() if value)
        raise ValueError(f"no published result has {text}; leave one out, or take dataset 'all'")
    return tuple(found)


def _methods(rows: Sequence[PublishedRow], method: str) -> set[str]:
    names = dict.fromkeys(r.method for r in rows)
    exact = {n for n in names if _plain(n) == _plain(method)}
    found = exact or {n for n in names if _plain(n).startswith(_plain(method))}
    if not found:
        raise ValueError(_unknown("method", method, names))
    return found


def _unknown(role: str, given: str, names: Iterable[str]) -> str:
    """One line for a name that is none of ``names``, with the nearest one."""
    by_plain = {_plain(name): name for name in names}
    near = closest(_plain(given), by_plain)
    hint = f"; did you mean {by_plain[near]!r}?" if near else "."
    return f"unknown {role} {given!r}{hint} Known: {', '.join(by_plain.values())}"
