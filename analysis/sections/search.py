"""The sections of a search's report: what tuning gained on fresh seeds, what it cost, and how it
got there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from analysis.figures import search as figures
from analysis.figures.figure import Figure
from analysis.read.search_trials import SearchData
from analysis.sections.answers import VARIANT, Answer
from analysis.sections.claims import certainty, claim_columns
from analysis.sections.comparisons import Comparison
from analysis.sections.headline import EMBEDDED_CAVEAT, answer_table
from analysis.sections.section import Section, Sentence, Topic, make_sentence, running_text
from analysis.stats import ROPE, Claim
from analysis.text import (
    TERM_COLUMNS,
    Column,
    Columns,
    Kind,
    Show,
    Table,
    counted,
    label,
    phrase,
    points,
    table,
    terms,
)
from core.store.search import CONTROL, COST_OBJECTIVES, DEFAULT, TUNED, Trial

NOT_JUDGED = "the search has not been judged yet"
MAX_UNFOLDED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchAnalysis:
    """A search and the comparisons on fresh seeds, once it has been judged."""

    search: SearchData
    comparisons: tuple[Comparison, ...] = ()
    rope: float = ROPE

    @property
    def objective(self) -> str:
        """The objective that determines the winner."""
        return self.search.objectives[0]


def kind_of(name: str) -> Kind:
    """How values of an objective are written: in percent, or as the cost that they are."""
    return Kind.MEASURE if name in COST_OBJECTIVES else Kind.POINTS


def findings(analysis: SearchAnalysis) -> tuple[Sentence, ...]:
    """What the search found, the most telling first."""
    search = analysis.search
    if search.result is None:
        text = (
            f"Not judged yet: {len(search.complete)} of {counted(len(search.trials), 'trial')} are "
            "complete, and no test image has been used."
        )
        return (make_sentence(text, kind="note"),)
    found = [_gain(search, comparison) for comparison in analysis.comparisons]
    found += [make_sentence(text, kind="note") for text in _remarks(search)]
    return tuple(found)


def _remarks(search: SearchData) -> list[str]:
    said = [_optimism(search)]
    if not search.control:
        said.append(
            "There is no comparison with a random search of equal budget; --control adds one."
        )
    if bad := [t for t in search.trials if not t.complete]:
        states = ", ".join(
            f"{sum(t.state == state for t in bad)} {state}"
            for state in dict.fromkeys(t.state for t in bad)
        )
        said.append(f"Trials without a value: {states}; see the table.")
    if search.definition["mode"] == "asynchronous":
        said.append(
            "The search ran asynchronously: the order of its trials depended on timing, so a "
            "second search will differ."
        )
    if all(name.startswith("mosaic/") for name in search.definition["datasets"]):
        said.append(EMBEDDED_CAVEAT)
    return said


def _gain(search: SearchData, c: Comparison) -> Sentence:
    assert search.result is not None
    if c.difference is None:
        text = f"{c.variant} against {c.reference}: {c.reason or 'not comparable'}."
        return make_sentence(text, kind="note")
    runs = search.result["search_runs" if c.variant == TUNED else "control_runs"]
    who = {TUNED: "Tuning", CONTROL: "Random search of equal budget"}[c.variant]
    verb = "gained" if c.difference >= 0 else "lost"
    text = (
        f"{who} {verb} {points(abs(c.difference))} points {phrase(c.metric)} against the "
        f"{c.reference} on fresh seeds: on these datasets {_claim(c.these)}, on datasets like "
        f"these {_claim(c.like)}"
    )
    if c.reference == DEFAULT:
        text += f", at a cost of {counted(runs, 'run')}"
        text += f" and {search.seconds / 60:.1f} minutes of compute" if c.variant == TUNED else ""
    return make_sentence(f"{text}.", kind=c.these.word)


def _claim(claim: Claim) -> str:
    """A verdict with what it rests on, or why there is none."""
    seen = certainty(claim) or claim.reason
    return f"{claim.word} ({seen})" if seen else claim.word


def _optimism(search: SearchData) -> str:
    """How much of the gain at search time was left on test images."""
    assert search.result is not None
    variants = search.result["variants"]
    objective, metric = search.objectives[0], search.result["test_metrics"][0]
    promised = _difference(variants, "search", objective)
    kept = _difference(variants, "test", metric)
    if promised is None or kept is None:
        return "The default or the winner has a run without a score, so the optimism is unknown."
    return (
        f"The gain over the default was {points(promised, sign=True)} points of {objective} at "
        f"search time and {points(kept, sign=True)} points of {metric} on test images with fresh "
        f"seeds. The difference of {points(promised - kept, sign=True)} points is the optimism "
        f"of choosing the best of {counted(len(search.trials), 'trial')}."
    )


def _difference(variants: Mapping[str, Any], when: str, name: str) -> float | None:
    tuned, default = (variants[who][when].get(name) for who in (TUNED, DEFAULT))
    return None if tuned is None or default is None else tuned - default


def _headline(analysis: SearchAnalysis) -> Sequence[Section]:
    rows = [
        Answer(role=VARIANT, name=c.variant, against=c.reference, c=c)
        for c in analysis.comparisons
        if c.difference is not None
    ]
    tables = (answer_table(rows, rope=analysis.rope),) if rows else ()
    return [Section(key="headline", sentences=findings(analysis), tables=tables)]


Judged = tuple[str, Mapping[str, Any]]
"""A variant of the final study and its values."""


def _value(when: str, name: str) -> Callable[[Judged], float | None]:
    def value(row: Judged) -> float | None:
        found: float | None = row[1][when].get(name)
        return found

    return value


def _judgment_table(search: SearchData, result: Mapping[str, Any]) -> Table:
    """Values at search time next to those on test images."""
    columns: list[Column[Judged]] = [
        Column("variant", "Variant", Kind.NAME, lambda row: row[0], Show.READ)
    ]
    for objective, metric in zip(search.objectives, result["test_metrics"], strict=True):
        for when, name in (("search", objective), ("test", metric)):
            title = f"{when}: {name}"
            columns.append(Column(title, title, kind_of(name), _value(when, name), Show.READ))
    columns += [
        Column(name, label(name), Kind.POINTS, _value("test", name), Show.READ)
        for name in ("base", "new", "hm")
        if any(name in variant["test"] for variant in result["variants"].values())
    ]
    columns.append(
        Column("runs", "test runs", Kind.COUNT, lambda row: row[1]["test"]["runs"], Show.READ)
    )
    return table(
        "judgment", "Search-time and test values", tuple(columns), result["variants"].items()
    )


COMPARISON_COLUMNS: Columns[Comparison] = (
    Column("variant", "Variant", Kind.NAME, lambda c: c.variant),
    Column("reference", "Against", Kind.TEXT, lambda c: c.reference),
    Column("metric", "Metric", Kind.TEXT, lambda c: c.metric),
    Column("difference", "Difference", Kind.DIFFERENCE, lambda c: c.difference),
    *claim_columns(lambda c: c.judgment),
    Column("reason", "Remark", Kind.NOTE, lambda c: c.reason, optional=True),
)


def _judgment(analysis: SearchAnalysis) -> Sequence[Section]:
    search = analysis.search
    if search.result is None:
        return [Section(key="judgment", reason=NOT_JUDGED)]
    text = (
        "Search-time values come from validation images of base classes and from the seeds that "
        "chose the winner. Test values come from test images and fresh seeds, and were computed "
        "once. Accuracy is in percent."
    )
    return [
        Section(
            key="judgment",
            sentences=running_text([text]),
            tables=(_judgment_table(search, search.result),),
        )
    ]


def _fresh_seeds(analysis: SearchAnalysis) -> Sequence[Section]:
    result, title = analysis.search.result, "Paired comparisons over fresh seeds"
    if result is None:
        return [Section(key="comparisons", title=title, reason=NOT_JUDGED)]
    text = (
        f"The runs are those of the study {result['final_study']}, whose own report has all "
        "tables, tests and seeds."
    )
    found = table("comparisons", title, COMPARISON_COLUMNS, analysis.comparisons)
    return [
        Section(key="comparisons", title=title, sentences=running_text([text]), tables=(found,))
    ]


def _winner(analysis: SearchAnalysis) -> Sequence[Section]:
    search = analysis.search
    if not search.complete:
        return [Section(key="winner", reason="no trial is complete")]
    best = max(search.complete, key=lambda t: (t.values[0], -t.number))
    lines = [("trial", str(best.number)), *best.params.items()]
    for objective, value in zip(search.objectives, best.values, strict=True):
        shown = points(value) if kind_of(objective) is Kind.POINTS else f"{value:.5g}"
        lines.append((f"{objective}, search time", shown))
    text = "The file best.gin in the folder of the search holds its whole configuration."
    return [
        Section(
            key="winner",
            sentences=running_text([text]),
            tables=(terms("winner", "Winner", lines),),
        )
    ]


def _drawn(key: str, figure: Figure | None, reason: str) -> Sequence[Section]:
    return [
        Section(
            key=key,
            title=figures.TITLES[key],
            figures=(figure,) if figure else (),
            reason="" if figure else reason,
        )
    ]


def _few(search: SearchData) -> str:
    return f"too few complete trials: {len(search.complete)}"


def _history(analysis: SearchAnalysis) -> Sequence[Section]:
    search = analysis.search
    drawn = figures.history(search.trials, search.control, analysis.objective)
    return _drawn("history", drawn, _few(search))


def _budget(analysis: SearchAnalysis) -> Sequence[Section]:
    search = analysis.search
    drawn = figures.budget(search.trials, search.control, analysis.objective)
    return _drawn("budget", drawn, _few(search))


def _front(analysis: SearchAnalysis) -> Sequence[Section]:
    search = analysis.search
    numbers = search.result["pareto_front"] if search.result else []
    drawn = figures.front(search.trials, numbers, search.objectives)
    several = len(search.objectives) > 1
    return _drawn("front", drawn, _few(search) if several else "the search has one objective")


def _parallel(analysis: SearchAnalysis) -> Sequence[Section]:
    search = analysis.search
    drawn = figures.parallel(search.trials, search.definition["space"], analysis.objective)
    return _drawn("parallel", drawn, _few(search))


def _slices(analysis: SearchAnalysis) -> Sequence[Section]:
    """One small figure per setting."""
    search = analysis.search
    panels = figures.slices(search.trials, search.definition["space"], analysis.objective)
    drawn = None
    if panels:
        drawn = replace(
            panels[0],
            name="slices",
            title=figures.TITLES["slices"],
            caption="One dot per complete trial; later trials are darker. The other settings vary "
            "as well: a slice shows where the sampler looked and what it found, not the effect of "
            "one setting.",
            info={panel.name: panel.info for panel in panels},
            panels=panels,
        )
    return _drawn("slices", drawn, _few(search))


def _importance(shares: Mapping[str, float], key: str) -> float:
    return shares.get(key, 0.0)


def _importances(analysis: SearchAnalysis) -> Sequence[Section]:
    """How much of the spread of the values each setting explains."""
    found = analysis.search.importances
    if not found or found["reason"]:
        reason = "they are computed once all trials have ended"
        return [Section(key="importances", reason=found["reason"] if found else reason)]
    text = f"{counted(found['num_trials'], 'complete trial')}. {found['caveat']}"
    columns: list[Column[str]] = [
        Column("setting", "Setting", Kind.CODE, str, Show.READ),
        *(
            Column(name, name, Kind.NUMBER, partial(_importance, shares), Show.READ)
            for name, shares in found["objectives"].items()
        ),
    ]
    settings = found["objectives"].get(analysis.objective, ())
    made = table("importances", "Importances", tuple(columns), settings)
    return [Section(key="importances", sentences=running_text([text]), tables=(made,))]


FILE_COLUMNS: Columns[Trial] = (
    Column("number", "Trial", Kind.ID, lambda t: t.number, Show.FILES),
    Column("state", "State", Kind.TEXT, lambda t: t.state, Show.FILES),
    Column("params", "Settings", Kind.SETTINGS, lambda t: t.params, Show.FILES),
    Column(
        "values",
        "Values",
        Kind.LIST,
        lambda t: t.values,
        Show.FILES,
        help="one per objective, in their order",
    ),
)


def _objective_value(index: int, trial: Trial) -> float | None:
    return trial.values[index] if trial.complete else None


def _setting(key: str, trial: Trial) -> str | None:
    return trial.params.get(key)


def _trials(analysis: SearchAnalysis) -> Sequence[Section]:
    """Complete trials from the best down, then the others."""
    search = analysis.search
    columns: list[Column[Trial]] = [
        Column("trial", "Trial", Kind.ID, lambda t: str(t.number), Show.READ),
        Column("message", "Message", Kind.NOTE, lambda t: t.message, Show.READ, optional=True),
        *(
            Column(name, name, kind_of(name), partial(_objective_value, index), Show.READ)
            for index, name in enumerate(search.objectives)
        ),
        Column("state", "State", Kind.TEXT, lambda t: t.state, Show.READ),
        *(
            Column(key, key, Kind.TEXT, partial(_setting, key), Show.READ)
            for key in search.definition["space"]
        ),
    ]
    done = sorted(search.complete, key=lambda t: (-t.values[0], t.number))
    rows = [*done, *(t for t in search.trials if not t.complete)]
    shown = table(
        "ranked",
        "Trials",
        tuple(columns),
        rows,
        folded=len(rows) > MAX_UNFOLDED,
        summary=f"{counted(len(rows), 'trial')}, the best first",
    )
    files = table("trials", "Trials", FILE_COLUMNS, search.trials)
    return [Section(key="trials", tables=(shown, files))]


def _definition(analysis: SearchAnalysis) -> Sequence[Section]:
    found = analysis.search.definition
    options = ", ".join(f"{key} = {text}" for key, text in found["options"].items())
    data = (
        "few-shot training images and few-shot validation images of base classes (protocol "
        f"{found['protocol']}); no test image and no new class"
    )
    seeds, final = (", ".join(map(str, found[name])) for name in ("seeds", "final_seeds"))
    lines = [
        ("Data used by trials", data),
        ("Datasets", ", ".join(found["datasets"])),
        ("Seeds", f"{seeds} for the search, {final} for the final study"),
        ("Sampler", ", ".join(filter(None, (found["sampler"], options)))),
        ("Pruner", found["pruner"]),
        (
            "Schedule",
            f"{found['mode']}, {found['round_size']} trials at a time, sampler seed "
            f"{found['seed']}",
        ),
        ("Packages", ", ".join(f"{name} {v}" for name, v in found["packages"].items())),
    ]
    return [Section(key="definition", tables=(terms("definition", "Definition", lines),))]


HEADLINE = Topic(key="headline", build=_headline, show=Show.ALL)
JUDGMENT = Topic(key="judgment", build=_judgment)
COMPARISONS = Topic(
    key="comparisons", build=_fresh_seeds, files={"comparisons": COMPARISON_COLUMNS}
)
WINNER = Topic(key="winner", build=_winner, files={"winner": TERM_COLUMNS})
HISTORY = Topic(key="history", build=_history)
BUDGET = Topic(key="budget", build=_budget)
FRONT = Topic(key="front", build=_front)
PARALLEL = Topic(key="parallel", build=_parallel)
SLICES = Topic(key="slices", build=_slices)
IMPORTANCES = Topic(key="importances", build=_importances)
TRIALS = Topic(key="trials", build=_trials, files={"trials": FILE_COLUMNS})
DEFINITION = Topic(key="definition", build=_definition, show=Show.WIDE)
