"""The answer: which part or variant helps, by how much, on which data, and could it be luck?

One sentence per scope of a claim and one table, derived from the comparisons alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.read.integrity import saw_test
from analysis.read.results import Results
from analysis.sections.analysis import Analysis
from analysis.sections.answers import (
    AVERAGED,
    METHOD,
    PART,
    SHARE,
    VARIANT,
    Answer,
    rows_of,
)
from analysis.sections.claims import HELP, LIKE, THESE
from analysis.sections.comparisons import Block, Comparison, compared, differences
from analysis.sections.design_power import datasets_to_tell
from analysis.sections.images import compared_images, image_sentences
from analysis.sections.section import Section, Sentence, Topic, make_sentence
from analysis.text import (
    Column,
    Columns,
    Effect,
    Kind,
    Ruling,
    Show,
    Table,
    Tally,
    counted,
    interval_text,
    label,
    p_equals,
    phrase,
    points,
    table,
)

LABELED = "inductive"
"""The regime in which training sees labels."""
MAX_ROWS = 14
MAX_LISTED = 4
MAX_NAMES = 90
"""Characters of the names of variants without a difference to tell; beyond, they are counted."""
READ_FILES = Show.ALL ^ Show.PAGE

EMBEDDED_CAVEAT = (
    "Results on the embedded benchmark show that the implementation works, "
    "not that a method performs well on photographs."
)


def question(results: Results, rows: Sequence[Answer] = ()) -> str:
    """What the study asks, from its variants and the parts among the ``rows`` of its answer."""
    if len(results.variants) < 2:
        return ""
    if any(row.role == SHARE for row in rows):
        return f"Does {rows[0].name} beat {rows[0].against}, and which part helps?"
    methods = [row.name for row in rows if row.role == METHOD]
    if methods:
        return f"Does {' or '.join(methods[:2])} beat {results.baseline}, and which part helps?"
    others = [v for v in results.variants if v != results.baseline]
    who = others[0] if len(others) == 1 else f"any of {len(others)} variants"
    return f"Is {who} better than {results.baseline}?"


def headline(
    results: Results, blocks: Sequence[Block], alpha: float, rows: Sequence[Answer]
) -> tuple[Sentence, ...]:
    """One sentence per scope from the ``rows`` of the answer, and what makes them doubtful."""
    if len(results.variants) < 2:
        text = "There is only one variant, so there is nothing to compare. Add a second one."
        return (make_sentence(text, kind="note"),)
    said: list[Sentence] = []
    if rows:
        said = [_scope(results, rows, scope, alpha) for scope in (THESE, LIKE)]
    else:
        names = ", ".join(b.reference for b in blocks)
        why = dict.fromkeys(
            c.reason for b in blocks for c in b.comparisons[results.primary_metric] if c.reason
        )
        text = f"No variant can be compared with {names}: {'; '.join(why)}."
        said = [make_sentence(text, kind="note")]
    return (*_flag(results), *said, *_doubts(rows))


def _scope(results: Results, rows: Sequence[Answer], scope: str, alpha: float) -> Sentence:
    """Everything that one scope says, in one or two clauses."""
    num = max(row.c.num_datasets for row in rows)
    if scope == LIKE and num < 2:
        text = "Nothing is known about other datasets, because there is only one."
        return make_sentence(text, kind="undecided")
    if scope == THESE and all(0 < row.c.num_pairs <= row.c.num_datasets for row in rows):
        text = "Nothing is known about other seeds, because there is one run per dataset."
        return make_sentence(text, kind="undecided")
    where = f"On {_datasets(num, scope)}"
    methods = [row for row in rows if row.role == METHOD]
    parts = [row for row in rows if row.role == PART]
    others = [row for row in rows if row.role == VARIANT]
    clauses = [_method(results, row, scope, alpha) for row in methods]
    if parts:
        clauses.append(f"of its parts, {_grouped(parts, scope, PART_WORDS)}")
    if shares := [row for row in rows if row.role == SHARE]:
        each = _grouped(shares, scope, PART_WORDS)
        clauses.append(f"of its parts, each averaged over the others, {each}")
    if not methods and others:
        clauses += _others(results, others, scope, alpha)
    words = [row.claim(scope).word for row in methods[:1] or parts or others]
    word = next((word for word in VARIANT_WORDS if word in words), "undecided")
    first_clause, *rest = clauses
    return make_sentence(f"{where}, {first_clause}.{''.join(map(_following, rest))}", kind=word)


def _following(clause: str) -> str:
    """A further clause as a sentence of its own."""
    return f" {clause[0].upper()}{clause[1:]}."


def _datasets(num: int, scope: str) -> str:
    if scope == LIKE:
        return "datasets like these"
    return "this dataset" if num == 1 else f"these {num} datasets"


def _method(results: Results, row: Answer, scope: str, alpha: float) -> str:
    """A full method against the baseline."""
    claim = row.claim(scope)
    size = f"{points(row.c.difference, sign=True)} points {phrase(row.c.metric)}"
    if claim.interval:
        size += f" {interval_text(claim.interval)}"
    elif claim.reason:
        size += f" ({claim.reason})"
    if claim.decided:
        return f"{row.name} is {claim.word} than {row.against}: {size}"
    if claim.word == "equivalent":
        return f"{row.name} is equivalent to {row.against} on average: {size}"
    text = f"whether {row.name} is better than {row.against} is undecided: {size}"
    return text + _would_tell(results, row, scope, alpha)


def _would_tell(results: Results, row: Answer, scope: str, alpha: float) -> str:
    """How many datasets would decide a difference like the one observed."""
    if scope != LIKE:
        return ""
    c = row.c
    needed = datasets_to_tell(
        differences(results, c.variant, c.reference, c.metric),
        effect=abs(c.difference or 0.0),
        comparisons=c.family_size,
        alpha=alpha,
    )
    return "" if needed is None else f" (about {needed} datasets would tell, if it is real)"


PART_WORDS = {
    "better": ("helps", "help"),
    "worse": ("hurts", "hurt"),
    "equivalent": (
        "makes no practical difference on average",
        "make no practical difference on average",
    ),
    "undecided": ("is undecided", "are undecided"),
}
VARIANT_WORDS = {
    "better": ("is better", "are better"),
    "worse": ("is worse", "are worse"),
    "equivalent": ("is equivalent on average", "are equivalent on average"),
    "undecided": ("is undecided", "are undecided"),
}


def _grouped(rows: Sequence[Answer], scope: str, words: Mapping[str, tuple[str, str]]) -> str:
    """The rows by their word: those that are decided with their numbers, the others by name."""
    said: list[str] = []
    for word, (one, many) in words.items():
        group = [row for row in rows if row.claim(scope).word == word]
        if group:
            shown = _listed(_row_text(row, scope) for row in group)
            decided = group[0].claim(scope).decided
            if not decided and (len(group) == len(rows) > 2 or len(shown) > MAX_NAMES):
                shown = f"{len(group)} {'others' if said else 'variants'}"
                shown = f"all {shown}" if len(group) == len(rows) else shown
            said.append(f"{shown} {one if len(group) == 1 else many}")
    return "; ".join(said)


def _row_text(row: Answer, scope: str) -> str:
    claim = row.claim(scope)
    if not claim.decided:
        return row.name
    return f"{row.name} ({points(row.c.difference, sign=True)} {interval_text(claim.interval)})"


def _listed(texts: Iterable[str]) -> str:
    """The first few, and how many more the table has: "a, b and c", "a, b and 4 more"."""
    every = list(texts)
    rest = len(every) - MAX_LISTED
    if rest > 1:
        return f"{', '.join(every[:MAX_LISTED])} and {rest} more"
    return every[0] if len(every) == 1 else f"{', '.join(every[:-1])} and {every[-1]}"


def _others(results: Results, rows: Sequence[Answer], scope: str, alpha: float) -> list[str]:
    """Variants where there is no full method, a clause for each reference."""
    if len(rows) == 1:
        return [_method(results, rows[0], scope, alpha)]
    clauses: list[str] = []
    for reference in dict.fromkeys(row.against for row in rows):
        own = [row for row in rows if row.against == reference]
        unit = "" if clauses else f" (points {phrase(own[0].c.metric)})"
        clauses.append(f"against {reference}{unit}, {_grouped(own, scope, VARIANT_WORDS)}")
    return clauses


def _flag(results: Results) -> list[Sentence]:
    """What makes all numbers wrong comes first."""
    seen = [v for v, s in results.settings.items() if saw_test(s.selection)]
    text = f"Selection used test data, so these numbers are too high: {', '.join(seen)}."
    said = [make_sentence(text, kind="flag")] if seen else []
    for labels, text in (
        (True, "Training saw test images, so these numbers are too high"),
        (False, "Training saw test images without their labels"),
    ):
        trained = [
            f"{v} ({counted(number, 'image')})"
            for v, number in results.trained_on_test.items()
            if (results.settings[v].regime == LABELED) == labels
        ]
        said += [make_sentence(f"{text}: {', '.join(trained)}.", kind="flag")] if trained else []
    return said


def _doubts(rows: Sequence[Answer]) -> list[Sentence]:
    """Verdicts that depend on an assumption which the data do not clearly support."""
    return [make_sentence(_doubt(row), kind="flag") for row in rows if row.c.disagree]


def _doubt(row: Answer) -> str:
    c = row.c
    return (
        f"{row.name} on datasets like these: the t test (p {p_equals(c.like.p)}) and the exact "
        f"tests (Wilcoxon p {p_equals(c.wilcoxon_p)}, sign flip p {p_equals(c.sign_flip_p)}) "
        "disagree, so the verdict depends on the assumption that effects are roughly normal."
    )


def remarks(results: Results, rows: Sequence[Answer], rope: float) -> list[Sentence]:
    """What a reader has to know beside the answer."""
    said = _beyond_the_mean(rows, rope)
    if ahead := _best_average(results, rows):
        said.append(ahead)
    if any("undecided" in (row.c.these.word, row.c.like.word) for row in rows):
        said.append("Undecided means that the study cannot tell, not that there is no difference.")
    if missing := len(results.problems):
        verb = "has" if missing == 1 else "have"
        said.append(f"{counted(missing, 'planned cell')} {verb} no score, see the details.")
    if all(name.startswith("mosaic/") for name in results.datasets):
        said.append(EMBEDDED_CAVEAT)
    return [make_sentence(text, kind="note") for text in said]


def _beyond_the_mean(rows: Sequence[Answer], rope: float) -> list[str]:
    """What a verdict on a mean does not say."""
    said = []
    if apart := [row for row in rows if row.c.these.word == "equivalent" and row.c.outside]:
        named = (f"{row.name} on {_listed(row.c.outside)}" for row in apart[:MAX_LISTED])
        said.append(
            "Equivalent is said of the average: on single datasets, a difference of more than "
            f"{points(rope)} points is possible for {'; '.join(named)}."
        )
    if small := [row for row in rows if row.c.these.negligible and row.c.these.decided]:
        named = (f"{row.name} ({row.c.these.word})" for row in small)
        said.append(f"Shown, but smaller than {points(rope)} points on average: {_listed(named)}.")
    return said


def _best_average(results: Results, rows: Sequence[Answer]) -> str:
    """The variant with the best average, where it is not a method that the question is about."""
    gains = {row.name: _gain(results, row) for row in rows if row.role == METHOD}
    if not gains or results.problems:
        return ""
    methods = set(gains)
    for row in rows:
        if row.role == PART:
            gains[row.against] = gains[row.c.variant] - _gain(results, row)
        elif row.role == VARIANT and row.against == results.baseline:
            gains[row.name] = _gain(results, row)
    best = max(gains, key=lambda name: gains[name])
    metric = label(results.primary_metric)
    return "" if best in methods else f"The best average {metric} is that of {best}."


def _gain(results: Results, row: Answer) -> float:
    return results.direction(row.c.metric) * (row.c.difference or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRow:
    """An answer as the table shows it, on one scale for all rows. ``cost`` is a ratio of seconds of
    training, None where it is not recorded.
    """

    answer: Answer
    extent: float
    rope: float
    cost: float | None
    one_method: bool

    @property
    def c(self) -> Comparison:
        """The comparison of the row."""
        return self.answer.c

    @property
    def effect(self) -> Effect:
        """Mean difference with both intervals."""
        return Effect(
            value=self.c.difference or 0.0,
            these=self.c.these.interval,
            like=self.c.like.interval,
            word=self.c.these.word,
            extent=self.extent,
            rope=self.rope,
        )

    @property
    def within(self) -> str:
        """What the row is judged against, or the method that it is a part of."""
        if self.answer.role == PART:
            return "part" if self.one_method else f"part of {self.c.variant}"
        if self.answer.role == SHARE:
            return f"part, {AVERAGED}"
        if self.answer.all_parts:
            return f"all parts on, against {self.answer.against} (all off)"
        return f"against {self.answer.against}"


COLUMNS: Columns[AnswerRow] = (
    Column("name", "What", Kind.NAME, lambda r: r.answer.name),
    Column("within", "", Kind.NOTE, lambda r: r.within, Show.PAGE),
    Column("variant", "Variant", Kind.NAME, lambda r: r.c.variant, Show.FILES),
    Column("reference", "Against", Kind.TEXT, lambda r: r.answer.against, READ_FILES),
    Column("metric", "Metric", Kind.TEXT, lambda r: r.c.metric, Show.FILES),
    Column("effect", "Points", Kind.EFFECT, lambda r: r.effect, Show.PAGE),
    Column("difference", "Points", Kind.DIFFERENCE, lambda r: r.c.difference, READ_FILES),
    Column(
        "these",
        "On these datasets",
        Kind.RULING,
        lambda r: Ruling(r.c.these.word, r.c.these.interval),
        help=HELP[THESE],
    ),
    Column(
        "like",
        "On datasets like these",
        Kind.RULING,
        lambda r: Ruling(r.c.like.word, r.c.like.interval),
        help=HELP[LIKE],
    ),
    Column(
        "better_on",
        "Better on",
        Kind.TALLY,
        lambda r: Tally(r.c.wins, r.c.num_datasets),
        help="datasets on which the mean over seeds is better, of those that both have",
    ),
    Column(
        "cost",
        "Training time",
        Kind.RATIO,
        lambda r: r.cost,
        Show.PAGE,
        optional=True,
        help="seconds of training, as a multiple of what it is compared with",
    ),
)
"""Costs depend on the machine, so they are on the page alone."""


def answer_table(
    rows: Sequence[Answer],
    *,
    rope: float,
    one_method: bool = False,
    adjusted: bool = False,
    alpha: float = 0.05,
    seconds: Mapping[str, float] | None = None,
) -> Table:
    """The rows with their effects drawn on one scale; the table of comparisons has them all.
    ``seconds`` of training by variant, where they are recorded; ``adjusted``: the intervals are.
    """
    shown, times = rows[:MAX_ROWS], seconds or {}
    ends = [abs(e) for row in shown for e in _ends(row.c, rope)]
    made = [
        AnswerRow(
            answer=row,
            extent=max(ends, default=1.0),
            rope=rope,
            one_method=one_method,
            cost=_ratio(times.get(row.c.variant), times.get(row.c.reference)),
        )
        for row in shown
    ]
    joint = "and so are the intervals" if adjusted else "the 95 % intervals are not"
    notes = [
        KEY + (SHADED.format(rope=points(rope)) if rope else ""),
        f"Verdicts are adjusted for all comparisons (Holm, level {alpha:g}), {joint}.",
    ]
    if assumed := dict.fromkeys(a for row in shown for a in row.assumptions):
        notes.append(f"Shapley values assume that {' and that '.join(assumed)}.")
    if left := len(rows) - len(shown):
        notes.append(f"{counted(left, 'further row')} in the table of comparisons.")
    metric = rows[0].c.metric
    what = METRICS.get(label(metric), label(metric))
    title = f"{what}: how much, and could it be luck?"
    return table("answer", title, COLUMNS, made, notes=notes)


METRICS = {"HM": "HM (harmonic mean of base and new accuracy)"}
KEY = (
    "Dot: mean difference. Thick bar: where it would lie with other seeds. Thin line: on other "
    "datasets like these."
)
SHADED = " Shaded: within ±{rope} points, too small to matter."


def _ends(c: Comparison, rope: float) -> list[float]:
    """What the scale has to show: the long interval of few datasets is cut off."""
    size = abs(c.difference or 0.0)
    these = [abs(e) for e in c.these.interval or ()]
    like = [min(abs(e), 3 * max(size, *these, rope)) for e in c.like.interval or ()]
    return [size, *these, *like, rope]


def _ratio(one: float | None, two: float | None) -> float | None:
    return one / two if one is not None and two else None


def _tables(analysis: Analysis, rows: Sequence[Answer]) -> tuple[Table, ...]:
    results = analysis.results
    if not rows:
        return ()
    costs = results.costs.to_dict("records")
    found = answer_table(
        rows,
        rope=analysis.options.rope,
        adjusted=analysis.options.adjusted_intervals,
        alpha=analysis.options.alpha,
        one_method=len(results.references) == 1,
        seconds={str(row["variant"]): row["train_seconds"] for row in costs},
    )
    return (found,)


def _sections(analysis: Analysis) -> Sequence[Section]:
    rows, alpha = rows_of(analysis), analysis.options.alpha
    said = headline(analysis.results, compared(analysis), alpha, rows)
    images = image_sentences(compared_images(analysis), alpha)
    return [Section(key="headline", sentences=(*said, *images), tables=_tables(analysis, rows))]


def _remarks(analysis: Analysis) -> Sequence[Section]:
    said = remarks(analysis.results, rows_of(analysis), analysis.options.rope)
    return [Section(key="remarks", sentences=tuple(said))]


TOPIC = Topic(key="headline", build=_sections, files={"answer": COLUMNS}, show=Show.ALL)
REMARKS = Topic(key="remarks", build=_remarks, show=Show.ALL)
