"""How a report writes numbers and names, and tables whose cells are values.

A ``Table`` holds values (fractions, intervals, counts, names), never formatted text: the ``Kind``
of a column says how they are written, aligned, rounded for files and described in the JSON schema.
Renderers format kinds. Percent exists in text alone: values and files are fractions.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, Flag, auto
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from analysis.stats import Estimate, Interval, Judgment


class DerivedMetric(str):
    """The name of a number that is no metric of a run: it equals itself alone, so that a metric of
    a user may be called the same.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)


HM_OF_MEANS = DerivedMetric("hm_of_means")
"""Not a metric of a run: the harmonic mean of the two averages, as the field prints it. It has no
per-dataset value, so it gets intervals but no test over datasets.
"""

DECIMALS = DIGITS = 6
POWERS = np.array([float(10**n) for n in range(23)])
"""The powers of ten that a float holds exactly."""
NEAR = 1e-3
SEVERAL = 100
NUMBERS = frozenset({float, type(None)})
LABELS = {"base": "Base", "new": "New", "hm": "HM", HM_OF_MEANS: "HM of means"}
NO_VALUE = "-"
NO_MARK = "–"


def label(metric: str) -> str:
    """Printed name of a metric."""
    return LABELS.get(metric, metric)


def phrase(metric: str) -> str:
    """A metric after the word points: "of HM", "at 16 shots"."""
    return f"{'at' if metric.endswith((' shot', ' shots')) else 'of'} {label(metric)}"


VERDICT_MARKS: Mapping[str, str] = {
    "better": "▲",
    "worse": "▼",
    "equivalent": "≈",
    "undecided": "○",
}
"""The marks of verdicts, in text, tables and figures."""


def marks(judgment: Judgment) -> str:
    """Both verdicts of a pair as two marks: these datasets first, then datasets like these."""
    return "".join(VERDICT_MARKS.get(c.word, NO_MARK) for c in (judgment.these, judgment.like))


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 dataset", "2 datasets"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def closed(title: str) -> str:
    """A title with a full stop, unless it ends with a mark of its own."""
    return title if title.endswith((".", "?", "!")) else f"{title}."


def points(value: float | None, *, sign: bool = False) -> str:
    """A fraction in percent or percentage points with two decimals; "-" for None, never "-0.00"."""
    if value is None:
        return NO_VALUE
    rounded = round(100 * value, 2) + 0.0
    return f"{rounded:+.2f}" if sign and rounded else f"{rounded:.2f}"


def interval_text(interval: Interval | None) -> str:
    """An interval in points, "-" for None."""
    if interval is None:
        return NO_VALUE
    return f"[{points(interval.low, sign=True)}, {points(interval.high, sign=True)}]"


def p_text(p: float | None) -> str:
    """A p value with three decimals, "n/a" where there is no test."""
    if p is None:
        return "n/a"
    return "<0.001" if p < 0.001 else f"{min(p, 1.0):.3f}"


def p_equals(p: float | None) -> str:
    """A p value after the letter p in a sentence: "= 0.040", "< 0.001"."""
    return "< 0.001" if p is not None and p < 0.001 else f"= {p_text(p)}"


def share_text(value: float) -> str:
    """A probability, a rank or a plain number with two decimals, never "-0.00"."""
    return f"{round(value, 2) + 0.0:.2f}"


def rounded(value: float | None) -> float | None:
    """A number as files store it."""
    return None if value is None else round(value, DECIMALS) + 0.0


def rounded_p(p: float | None) -> float | None:
    """A p value or a variance as files store it: six significant digits."""
    return None if p is None else float(f"{p:.6g}")


def rounded_column(values: Sequence[float | None], *, digits: bool = False) -> list[float | None]:
    """``rounded`` of every number, or with ``digits`` ``rounded_p``, in one pass over an array.

    Multiples of a power of ten that a float holds exactly are divided by it, which rounds as
    reading the decimal does. Where that is not so, and close to halves, numbers go one by one.
    """
    one_by_one = rounded_p if digits else rounded
    if len(values) < SEVERAL:
        return [one_by_one(value) for value in values]
    number_N = np.array(values, dtype=np.float64)
    with np.errstate(all="ignore"):
        places_N = np.full(number_N.shape, float(DECIMALS))
        if digits:
            places_N = DIGITS - 1 - np.floor(np.log10(number_N))
        power_N = POWERS[np.clip(np.nan_to_num(places_N), 0, len(POWERS) - 1).astype(np.intp)]
        scaled_N = number_N * power_N
        nearest_N = np.rint(scaled_N)
        near_half_N = np.abs(np.abs(scaled_N - nearest_N) - 0.5) < NEAR
        safe_N = (np.abs(scaled_N) < 10.0**DIGITS) & ~near_half_N
        if digits:
            safe_N &= (scaled_N >= 10.0 ** (DIGITS - 1)) & (number_N <= 1)
    found: list[float | None] = (nearest_N / power_N + 0.0).tolist()
    for n in np.flatnonzero(~safe_N).tolist():
        found[n] = one_by_one(values[n])
    return found


def rounded_ends(interval: Interval | None) -> list[float | None] | None:
    """Both ends of an interval as files store them."""
    return None if interval is None else [rounded(interval.low), rounded(interval.high)]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanScore:
    """Mean, t half width and number of seeds; ``mean`` is None where there is no finished run.

    ``mark`` is "best" or "second" of its column among variants that may be ranked together;
    ``standing`` the mark of an average, † or ≈. ``flagged``: test data was used to train or select;
    ``partial``: fewer seeds than planned.
    """

    mean: float | None = None
    half_width: float | None = None
    n: int = 0
    mark: str = ""
    standing: str = ""
    flagged: bool = False
    partial: bool = False


class Tally(NamedTuple):
    """A number out of a total, with the names that are known: "2 of 4: land, textures"."""

    num: int
    total: int
    names: tuple[str, ...] = ()


class Effect(NamedTuple):
    """A mean difference with the intervals of both scopes, drawn on a scale that ends at ``extent``
    on both sides; ``rope`` is the region of practical equivalence and ``word`` the verdict on these
    datasets.
    """

    value: float
    these: Interval | None
    like: Interval | None
    word: str
    extent: float
    rope: float


class Ruling(NamedTuple):
    """A verdict with the interval that it goes with."""

    word: str
    interval: Interval | None


class Span(NamedTuple):
    """The smallest and the largest of several values, in the format of the column."""

    low: float
    high: float


class Linked(NamedTuple):
    """A value that links to a row of the page (``#`` and its id) or to a folder."""

    value: Any
    target: str


class Name(NamedTuple):
    """The name of a row: what qualifies it, a warning, and the ids by which links find the row."""

    text: str
    tags: tuple[str, ...] = ()
    warning: str = ""
    ids: tuple[str, ...] = ()


class Kind(Enum):
    """What the values of a column are. A word may stand for a missing number; None is no value."""

    NAME = auto()
    """str or ``Name``: what the row is about."""
    TEXT = auto()
    CODE = auto()
    NOTE = auto()
    """str or several: small print that belongs to the row as a whole."""
    LIST = auto()
    VERDICT = auto()
    RULING = auto()
    """``Ruling``: a verdict and its interval."""
    EFFECT = auto()
    """``Effect``: drawn on the page, a difference elsewhere."""
    RATIO = auto()
    """How many times as much."""
    ID = auto()
    """A number or word that is not a quantity: a seed, a trial."""
    COUNT = auto()
    COUNTS = auto()
    TALLY = auto()
    NUMBER = auto()
    """Two decimals: an effect size, a statistic, a rank, a probability."""
    MEASURE = auto()
    """A quantity of its own scale: five significant digits in text, as it is in files."""
    POINTS = auto()
    DIFFERENCE = auto()
    SCORE = auto()
    """``MeanScore``: mean ± half width."""
    INTERVAL = auto()
    NUMBER_INTERVAL = auto()
    ESTIMATE = auto()
    """``Estimate`` of a difference."""
    NUMBER_ESTIMATE = auto()
    P = auto()
    VARIANCE = auto()
    """In files: fractions squared, six significant digits; in text: squared points."""
    YES_NO = auto()
    SETTINGS = auto()
    """A mapping of names to texts."""


class Format(NamedTuple):
    """How values of a kind are written, how a file stores them, and the JSON type of that."""

    text: Callable[[Any], str]
    stored: Callable[[Any], Any]
    json: str
    words: bool = False


def _number_interval(interval: Interval) -> str:
    return f"[{share_text(interval.low)}, {share_text(interval.high)}]"


def _estimate(write: Callable[[float], str], ends: Callable[[Interval], str]) -> Any:
    def text(found: Estimate) -> str:
        if found.value is None:
            return NO_VALUE
        return write(found.value) + (f" {ends(found.interval)}" if found.interval else "")

    return text


def score_text(score: MeanScore) -> str:
    """Mean and half width in percent."""
    if score.mean is None:
        return NO_VALUE
    width = "" if score.half_width is None else f" ± {points(score.half_width)}"
    return f"{points(score.mean)}{width}"


def _tally(found: Tally) -> str:
    names = f": {', '.join(found.names)}" if found.names else ""
    return f"{found.num} of {found.total}{names}"


def _signed_points(value: float) -> str:
    return points(value, sign=True)


def _same(value: Any) -> Any:
    return value


def _listed(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else "; ".join(value)


def _as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


FORMATS: Mapping[Kind, Format] = {
    Kind.NAME: Format(str, _same, "string", words=True),
    Kind.TEXT: Format(str, _same, "string", words=True),
    Kind.CODE: Format(str, _same, "string", words=True),
    Kind.NOTE: Format(_listed, _listed, "string", words=True),
    Kind.LIST: Format(_listed, _as_list, "array", words=True),
    Kind.VERDICT: Format(str, _same, "string", words=True),
    Kind.RULING: Format(
        lambda r: r.word + (f" {interval_text(r.interval)}" if r.interval else ""),
        lambda r: r.word,
        "string",
        words=True,
    ),
    Kind.EFFECT: Format(lambda e: points(e.value, sign=True), lambda e: rounded(e.value), "number"),
    Kind.RATIO: Format("×{:.2f}".format, rounded, "number"),
    Kind.ID: Format(str, _same, "integer"),
    Kind.COUNT: Format("{:,.0f}".format, _same, "integer"),
    Kind.COUNTS: Format(lambda counts: " / ".join(map(str, counts)), list, "array"),
    Kind.TALLY: Format(_tally, _tally, "string", words=True),
    Kind.NUMBER: Format(share_text, rounded, "number"),
    Kind.MEASURE: Format("{:.5g}".format, _same, "number"),
    Kind.POINTS: Format(points, rounded, "number"),
    Kind.DIFFERENCE: Format(_signed_points, rounded, "number"),
    Kind.SCORE: Format(score_text, lambda score: rounded(score.mean), "number"),
    Kind.INTERVAL: Format(interval_text, rounded_ends, "number"),
    Kind.NUMBER_INTERVAL: Format(_number_interval, rounded_ends, "number"),
    Kind.ESTIMATE: Format(
        _estimate(_signed_points, interval_text), lambda e: rounded(e.value), "number"
    ),
    Kind.NUMBER_ESTIMATE: Format(
        _estimate(share_text, _number_interval), lambda e: rounded(e.value), "number"
    ),
    Kind.P: Format(p_text, rounded_p, "number"),
    Kind.VARIANCE: Format(lambda value: share_text(10_000 * value), rounded_p, "number"),
    Kind.YES_NO: Format(lambda value: "yes" if value else "no", bool, "boolean"),
    Kind.SETTINGS: Format(
        lambda value: "; ".join(f"{k} = {v}" for k, v in value.items()), dict, "object", words=True
    ),
}
INTERVALS = (Kind.INTERVAL, Kind.NUMBER_INTERVAL)
ESTIMATES = (Kind.ESTIMATE, Kind.NUMBER_ESTIMATE)


def _inner(value: Any) -> Any:
    """A value without its link, tags and ids."""
    value = value.value if isinstance(value, Linked) else value
    return value.text if isinstance(value, Name) else value


def _inner_values(values: Sequence[Any]) -> Sequence[Any]:
    """``_inner`` of a column."""
    return [*map(_inner, values)] if {Linked, Name} & {*map(type, values)} else values


def cell_text(value: Any, kind: Kind) -> str:
    """Any value of a column as plain text; a word in place of a number stays as it is."""
    value = _inner(value)
    if value is None:
        return "" if kind is Kind.NOTE else NO_VALUE
    write = FORMATS[kind].text
    if isinstance(value, Span):
        return " to ".join(dict.fromkeys(map(write, value)))
    return value if isinstance(value, str) else write(value)


class Show(Flag):
    """Where a column or a section is seen. ``FILES`` are report.json and the CSV files."""

    TERMINAL = auto()
    PAPER = auto()
    """report.tex"""
    MARKDOWN = auto()
    PAGE = auto()
    FILES = auto()
    WIDE = MARKDOWN | PAGE
    READ = TERMINAL | PAPER | MARKDOWN | PAGE
    ALL = READ | FILES


Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One number or text about every row. ``key`` names it in files, ``title`` for people.

    ``of`` takes the value out of what the row is made from. Columns with the same ``group`` stand
    under one heading. An ``optional`` column is left out where no row has a value. ``help`` is the
    description in the JSON schema.
    """

    key: str
    title: str
    kind: Kind
    of: Callable[[Row], Any]
    show: Show = Show.ALL
    group: str = ""
    optional: bool = False
    help: str = ""

    @property
    def words(self) -> bool:
        """Whether it holds words, which are aligned to the left, and not numbers."""
        return FORMATS[self.kind].words


Columns = tuple[Column[Row], ...]


def only_in_files(columns: Columns[Row]) -> Columns[Row]:
    """The columns that files hold, shown nowhere else."""
    return tuple(replace(c, show=Show.FILES) for c in columns if Show.FILES in c.show)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Values by row and column. Tables of one ``key`` in a section have the same columns and are
    one list in files.

    ``notes`` are sentences that belong to it. ``folded``: the page shows it on demand, under
    ``summary`` or its title. ``terms``: two columns, a term and its description.
    """

    key: str
    title: str
    columns: tuple[Column[Any], ...]
    rows: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...] = ()
    folded: bool = False
    summary: str = ""
    terms: bool = False

    def visible_in(self, where: Show) -> "Table | None":
        """The table as one kind of reader sees it; None where nothing of it is shown there."""
        kept = [
            i
            for i, column in enumerate(self.columns)
            if where in column.show and not (column.optional and self._empty(i))
        ]
        if not kept or not self.rows:
            return None
        return replace(
            self,
            columns=tuple(self.columns[i] for i in kept),
            rows=tuple(tuple(row[i] for i in kept) for row in self.rows),
        )

    def _empty(self, index: int) -> bool:
        return all(row[index] in (None, "", ()) for row in self.rows)

    def texts(self) -> list[tuple[str, ...]]:
        """Every row as plain text."""
        return [
            tuple(cell_text(v, c.kind) for v, c in zip(row, self.columns, strict=True))
            for row in self.rows
        ]


def table(
    key: str,
    title: str,
    columns: Columns[Row],
    items: Iterable[Row],
    *,
    notes: Sequence[str] = (),
    folded: bool = False,
    summary: str = "",
) -> Table:
    """A table with one row per item."""
    found = list(items)
    rows = tuple(zip(*(map(column.of, found) for column in columns), strict=True))
    return Table(
        key=key,
        title=title,
        columns=columns,
        rows=rows,
        notes=tuple(notes),
        folded=folded,
        summary=summary,
    )


TERM_COLUMNS: Columns[tuple[str, str]] = (
    Column("term", "Item", Kind.NAME, lambda pair: pair[0]),
    Column("text", "Description", Kind.TEXT, lambda pair: pair[1]),
)


def terms(key: str, title: str, pairs: Iterable[tuple[str, str]]) -> Table:
    """A table of terms and their descriptions."""
    return replace(table(key, title, TERM_COLUMNS, pairs), terms=True)


def _stored(column: Column[Any], values: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """A column as files hold it: an interval is two numbers, an estimate a number with them."""
    stored = FORMATS[column.kind].stored
    if column.kind not in INTERVALS:
        yield column.key, _stored_values(stored, values)
    if column.kind in ESTIMATES:
        values = [None if value is None else value.interval for value in values]
    if column.kind in (*ESTIMATES, *INTERVALS):
        for place, end in enumerate(("low", "high")):
            ends = [None if value is None else value[place] for value in values]
            yield f"{column.key}_{end}", rounded_column(ends)


def _stored_values(stored: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    if stored in (rounded, rounded_p) and {*map(type, values)} <= NUMBERS:
        return rounded_column(values, digits=stored is rounded_p)
    return [None if value is None else stored(value) for value in values]


def records(found: Table) -> list[dict[str, Any]]:
    """Every row as files hold it."""
    by_column = zip(*found.rows, strict=True) if found.rows else ([] for _ in found.columns)
    stored = [
        column
        for c, values in zip(found.columns, by_column, strict=True)
        if Show.FILES in c.show
        for column in _stored(c, _inner_values(values))
    ]
    keys = [key for key, _ in stored]
    columns = [values for _, values in stored]
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]


def record_schema(columns: Sequence[Column[Any]]) -> dict[str, Any]:
    """The JSON schema of the records of these columns."""
    properties: dict[str, Any] = {}
    for column in columns:
        if Show.FILES not in column.show:
            continue
        kind = FORMATS[column.kind].json
        rule: dict[str, Any] = {"type": [kind, "null"]}
        rule |= {"items": {}} if kind == "array" else {}
        rule |= {"description": column.help} if column.help else {}
        if column.kind in INTERVALS:
            properties |= {f"{column.key}_{end}": rule for end in ("low", "high")}
            continue
        properties[column.key] = rule
        if column.kind in ESTIMATES:
            ends = {"type": ["number", "null"]}
            properties |= {f"{column.key}_{end}": ends for end in ("low", "high")}
    return {"type": "object", "properties": properties, "required": list(properties)}
