"""The design: what was planned, what was run, and by which rules the verdicts were reached."""

from collections import Counter
from collections.abc import Iterator, Sequence

from analysis import stats
from analysis.read.results import Results
from analysis.read.sources import SCORED
from analysis.sections.analysis import Analysis, Options, once
from analysis.sections.comparisons import Block, compared
from analysis.sections.mixed_model import modeled
from analysis.sections.section import Section, Topic, make_sentence
from analysis.sections.shared_tests import scored
from analysis.stats import MIN_DATASETS_FOR_WILCOXON, Rule, smallest_p
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

CHOSEN_BY = (
    "the numbers of datasets, seeds and comparisons alone, never the results. With "
    f"{MIN_DATASETS_FOR_WILCOXON} or more datasets, the datasets are the sample, each represented "
    "by its mean over seeds, and the test is the exact Wilcoxon test if its smallest attainable p "
    "times the number of comparisons is below alpha, otherwise the paired t test. With fewer, a "
    "paired t test over seeds is made in every dataset; what all of them show is decided, for "
    "these datasets alone."
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
    tests = "; ".join(
        f"against {b.reference}: {b.primary[metric].reason}" for b in blocks if metric in b.primary
    )
    sizes = "; ".join(
        f"{max((c.family_size for c in b.comparisons[metric]), default=0)} against {b.reference}"
        for b in blocks
    )
    least = smallest_p(n)
    return [
        ("Headline metric", f"{label(metric)}; every other metric is a family of its own"),
        ("Primary test", tests),
        ("Chosen by", CHOSEN_BY),
        (
            "Verdict",
            f"better or worse when the Holm-adjusted p is below {options.alpha:g} and test and "
            "mean agree in direction; equivalent when two one-sided tests, adjusted by Holm, place "
            f"the difference within {points(options.rope)} points of zero; otherwise undecided, "
            "which does not mean that there is no difference",
        ),
        (
            "Comparisons",
            f"{sizes}, adjusted by Holm per reference and metric; alpha {options.alpha:g}",
        ),
        (
            "Smallest attainable p",
            f"the Wilcoxon test over {n} datasets cannot go below {least:.2g}"
            if least and n > 1
            else "",
        ),
        ("Intervals", _intervals(results, options)),
        ("Overlap", _overlap(options)),
    ]


def _overlap(options: Options) -> str:
    """What is corrected for resamples that share data, and what is not."""
    if options.overlap is None:
        return ""
    return (
        f"seeds are resamples that share data, {options.overlap:.4g} test images per training "
        "image: t tests and TOST over seeds, k-hat and the intervals for these datasets use the "
        "variance factor 1/n + test/train. The ± of the main table, Hodges-Lehmann, P(better run), "
        "profiles and rank stability do not, and overstate certainty"
    )


def _intervals(results: Results, options: Options) -> str:
    text = (
        f"95 % paired bootstrap intervals with {options.reps:,} repetitions and seed "
        f"{options.rng_seed}, over seeds only (these datasets) or over datasets and then seeds "
        "(datasets like these), widened for small samples; ± in the main table is the half width "
        "of the t interval over seeds"
    )
    if len(results.datasets) == 1:
        return f"{text}. On one dataset, the seeds-only interval is the t interval"
    if len(results.datasets) < 10:
        text += (
            f". With {len(results.datasets)} datasets, the interval over datasets is still too "
            "narrow (simulated coverage: .85 at 3, .90 at 6, .93 at 11 datasets), and so is the "
            "interval over two seeds (.86 at 3 datasets x 2 seeds, .94 at 3 x 5); the t interval "
            "is in comparisons.csv"
        )
    return text


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
        alpha=options.alpha,
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
        least = "" if rule.smallest_p is None else f"smallest attainable p: {rule.smallest_p:.2g}"
        lines = [
            ("recommended test", "; ".join(filter(None, (rule.primary, least)))),
            ("in addition", "; ".join(rule.also)),
            ("never", "; ".join(rule.never)),
            ("scope of the claim", rule.claim),
            ("notes", "; ".join(rule.notes)),
        ]
        yield from ((f"{name}: {what}", text) for what, text in lines if text)


RULE_COLUMNS: Columns[Rule] = (
    Column("primary", "Recommended test", Kind.TEXT, lambda r: r.primary, Show.FILES),
    Column("also", "In addition", Kind.LIST, lambda r: r.also, Show.FILES),
    Column("never", "Never", Kind.LIST, lambda r: r.never, Show.FILES),
    Column("claim", "Claim", Kind.TEXT, lambda r: r.claim, Show.FILES),
    Column("notes", "Notes", Kind.LIST, lambda r: r.notes, Show.FILES),
    Column("smallest_p", "Smallest attainable p", Kind.P, lambda r: r.smallest_p, Show.FILES),
)


def _sections(analysis: Analysis) -> Sequence[Section]:
    lines = design_terms(analysis.results, compared(analysis), analysis.options)
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
