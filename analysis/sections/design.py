"""The design: what was planned, what was run, and by which rules the verdicts were reached."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from analysis import stats
from analysis.read.results import Results
from analysis.read.sources import SCORED
from analysis.sections.analysis import Analysis, Options, once
from analysis.sections.claims import LIKE, THESE
from analysis.sections.comparisons import Block, compared
from analysis.sections.mixed_model import modeled
from analysis.sections.section import Section, Topic, make_sentence
from analysis.sections.shared_tests import scored
from analysis.sections.trainings import training_terms, trainings_of
from analysis.stats import Rule, ScopeRule, smallest_p
from analysis.text import (
    TERM_COLUMNS,
    Column,
    Columns,
    Kind,
    Show,
    label,
    points,
    table,
    terms,
)

TESTS = (
    "these datasets: the stratified t of the mean over datasets, where the seeds are the sample "
    "and variances are not pooled (one dataset: the paired t over seeds); datasets like these: the "
    "paired t over dataset means, where the datasets are the sample and their effects are taken to "
    "be roughly normal. The scope alone determines the test, never the results, the number of "
    "datasets or that of comparisons"
)


def design_terms(
    results: Results, blocks: Sequence[Block], options: Options
) -> list[tuple[str, str]]:
    """All lines, in the order in which a reader needs them."""
    lines = [*_what(results), *_how(results, blocks, options)]
    return [(term, text) for term, text in lines if text]


def _what(results: Results) -> list[tuple[str, str]]:
    settings = list(results.settings.values())
    unseeded = [v for v in results.variants if not results.seeded(v)]
    seeds = ", ".join(map(str, results.planned_seeds)) or "none"
    if unseeded and results.planned_seeds:
        seeds += f" ({', '.join(unseeded)}: one measurement per dataset, paired as a constant)"
    return [
        ("Variants", f"{len(results.variants)}, baseline {results.baseline}"),
        ("Datasets", f"{len(results.datasets)}: {', '.join(results.datasets)}"),
        ("Sources", _sources(results)),
        ("Source", _source(results)),
        ("Seeds", seeds),
        ("Shots", ", ".join(map(str, results.shots))),
        ("Protocol", _distinct([s.protocol for s in settings])),
        ("Regime", _distinct([s.regime for s in settings])),
        ("Selection", _distinct([s.selection for s in settings])),
        ("Cells", _cells(results)),
        ("Batch-coupled", ", ".join(results.batch_coupled)),
        (
            "Trained on test images",
            ", ".join(f"{v} {n}" for v, n in results.trained_on_test.items()),
        ),
    ]


def _sources(results: Results) -> str:
    """Where the variants come from, where there are several sources."""
    return "; ".join(
        f"{o.name} ({o.path}): {', '.join(o.variants)}" + ("" if o.paired else ", not paired")
        for o in results.origins
    )


def _source(results: Results) -> str:
    """Accuracy on what was trained on, where the datasets are targets."""
    scores = ", ".join(
        f"{variant} {points(mean)}" for variant, mean in results.source_accuracy.items()
    )
    return f"accuracy in percent, not part of the average over targets: {scores}" if scores else ""


def _distinct(values: Sequence[str]) -> str:
    return ", ".join(sorted({v for v in values if v}))


def _cells(results: Results) -> str:
    counts = Counter(p.kind for p in results.problems)
    scored = len(results.frame)
    if not results.runs.empty:
        scored = int(results.runs["status"].isin(["finished", SCORED]).sum())
    planned = scored + sum(counts.values())
    text = f"{scored} of {planned} scored"
    return ", ".join([text, *(f"{n} {kind}" for kind, n in sorted(counts.items()))])


def _how(results: Results, blocks: Sequence[Block], options: Options) -> list[tuple[str, str]]:
    metric = results.primary_metric
    if len(results.variants) < 2:
        return [("Tests", "none, because there is only one variant")]
    n = len(results.datasets)
    sizes = "; ".join(
        f"{max((c.family_size for c in b.comparisons[metric]), default=0)} against {b.reference}"
        for b in blocks
    )
    least = smallest_p(n)
    same = (
        "equivalent when two one-sided tests, adjusted by Holm, place the mean difference within "
        f"{points(options.rope)} points of zero; "
        if options.rope
        else ""
    )
    return [
        ("Headline metric", f"{label(metric)}; every other metric is a family of its own"),
        ("Tests", TESTS),
        (
            "Verdicts",
            f"one per scope; better or worse when the Holm-adjusted p is below {options.alpha:g}; "
            f"{same}otherwise undecided, which does not mean that there is no difference",
        ),
        (
            "Comparisons",
            f"{sizes}, adjusted by Holm per scope, reference and metric; alpha {options.alpha:g}",
        ),
        (
            "Exact tests",
            f"Wilcoxon and sign flip over {n} datasets, beside the t; they cannot go below "
            f"{least:.2g}"
            if least and n > 1
            else "",
        ),
        ("Intervals", _intervals(options)),
        ("Overlap", _overlap(options)),
    ]


def _overlap(options: Options) -> str:
    """What is corrected for resamples that share data, and what is not."""
    if options.overlap is None:
        return ""
    return (
        f"seeds are resamples that share data, {options.overlap:.4g} test images per training "
        "image: tests and intervals over seeds and k-hat use the variance factor 1/n + "
        "test/train. The ± of the main table, Hodges-Lehmann, P(better run), "
        "profiles and rank stability do not, and overstate certainty"
    )


def _intervals(options: Options) -> str:
    how = "adjusted for their family (Bonferroni)" if options.adjusted_intervals else "not adjusted"
    return (
        f"95 % t intervals of the tested means, {how}; ± in the results is the half width of the t "
        "interval over seeds"
    )


def decision_rules(
    results: Results, num_variants: int, options: Options, *, missing_cells: bool
) -> tuple[Rule, ...]:
    """The recommended test for this design, and for a few-shot study that of trends."""
    if num_variants < 2:
        return ()
    datasets, seeds = len(results.datasets), results.num_seeds
    row = stats.decision_rule(
        datasets,
        seeds,
        num_variants=num_variants,
        overlapping=options.overlap is not None,
        missing_cells=missing_cells,
    )
    trend = stats.decision_rule(datasets, seeds, num_variants=num_variants, shots_trend=True)
    return (row, trend) if results.curve else (row,)


@once
def rules(analysis: Analysis) -> tuple[Rule, ...]:
    """The rows of the decision table that this report follows."""
    return decision_rules(
        analysis.results,
        len(scored(analysis)),
        analysis.options,
        missing_cells=modeled(analysis).num_missing > 0,
    )


def rule_terms(found: Sequence[Rule]) -> Iterator[tuple[str, str]]:
    """What the decision table recommends at these counts, as lines of the design section."""
    for rule, name in zip(found, ("Decision table", "Decision table, shots"), strict=False):
        lines = [
            (THESE, _scope_text(rule.these)),
            (LIKE, _scope_text(rule.like)),
            ("never", "; ".join(rule.never)),
            ("notes", "; ".join(rule.notes)),
        ]
        yield from ((f"{name}: {what}", text) for what, text in lines if text)


def _scope_text(rule: ScopeRule) -> str:
    also = f"in addition {', '.join(rule.also)}" if rule.also else ""
    return "; ".join(filter(None, (rule.test or f"no test; {rule.reason}", also)))


def _rule_columns(key: str, scope: Callable[[Rule], ScopeRule]) -> Columns[Rule]:
    return (
        Column(f"{key}_test", "Test", Kind.TEXT, lambda r: scope(r).test, Show.FILES),
        Column(f"{key}_claim", "Claim", Kind.TEXT, lambda r: scope(r).claim, Show.FILES),
        Column(f"{key}_also", "In addition", Kind.LIST, lambda r: scope(r).also, Show.FILES),
        Column(f"{key}_reason", "Remark", Kind.NOTE, lambda r: scope(r).reason, Show.FILES),
    )


RULE_COLUMNS: Columns[Rule] = (
    *_rule_columns("these", lambda r: r.these),
    *_rule_columns("like", lambda r: r.like),
    Column("never", "Never", Kind.LIST, lambda r: r.never, Show.FILES),
    Column("notes", "Notes", Kind.LIST, lambda r: r.notes, Show.FILES),
)


def _sections(analysis: Analysis) -> Sequence[Section]:
    lines = design_terms(analysis.results, compared(analysis), analysis.options)
    lines += training_terms(trainings_of(analysis))
    return [
        Section(
            key="design",
            tables=(
                terms("design", "Design", [*lines, *rule_terms(rules(analysis))]),
                table("decision_table", "Decision table", RULE_COLUMNS, rules(analysis)),
            ),
        )
    ]


TOPIC = Topic(
    key="design",
    build=_sections,
    files={"design": TERM_COLUMNS, "decision_table": RULE_COLUMNS},
    show=Show.WIDE | Show.FILES,
)

INERT_COLUMNS: Columns[tuple[str, str]] = (
    Column("variant", "Variant", Kind.NAME, lambda pair: pair[0], Show.FILES),
    Column("note", "Note", Kind.TEXT, lambda pair: pair[1], Show.FILES),
)
COUPLED_COLUMNS: Columns[str] = (Column("variant", "Variant", Kind.NAME, str, Show.FILES),)


def _notes(analysis: Analysis) -> Sequence[Section]:
    """What was noticed while reading: inert variants, runs that differ in what they should not."""
    results = analysis.results
    inert = [(v, text) for v, text in results.inert.items()]
    said = [*(f"{v}: {text}" for v, text in inert), *results.notes]
    return [
        Section(
            key="notes",
            title="Notes",
            sentences=tuple(make_sentence(text, kind="item") for text in said),
            tables=(
                table("inert", "Inert variants", INERT_COLUMNS, inert),
                table("batch_coupled", "Batch-coupled", COUPLED_COLUMNS, results.batch_coupled),
            ),
        )
    ]


NOTES = Topic(
    key="notes",
    build=_notes,
    files={"inert": INERT_COLUMNS, "batch_coupled": COUPLED_COLUMNS},
    show=Show.WIDE | Show.FILES,
)
