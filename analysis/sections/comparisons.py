"""Every variant against a reference, metric by metric: differences, intervals, tests, verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from analysis import stats
from analysis.figures.figure import Figure
from analysis.figures.forest import ForestInfo, ForestRow, forests
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, Options, once
from analysis.sections.runs import anchors
from analysis.sections.section import Section, Sentence, Topic, make_sentence
from analysis.sections.unpaired import unpaired_text
from analysis.stats import SMALL, Array, Interval, Primary, Resamples, Verdict
from analysis.text import (
    HM_OF_MEANS,
    Column,
    Columns,
    Kind,
    Linked,
    Show,
    Table,
    label,
    table,
)
from core.metrics import harmonic_mean

TESTS = {
    "wilcoxon": "exact Wilcoxon",
    "t": "paired t",
    "t_each": "paired t in every dataset",
    "t_seeds": "paired t over seeds",
    "t_corrected": "corrected resampled t",
}

NO_PAIR = "no finished pair of runs with the same dataset and seed"
NO_TEST = "none, because the harmonic mean of two averages has no value per dataset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One variant against one reference on one metric; differences are fractions, variant minus
    reference.

    ``two_level`` is about datasets like these, ``seeds_only`` about these datasets,
    ``t_interval`` belongs to the paired t test. A number that does not exist is None and ``reason``
    says why. ``per_dataset`` follows the results' datasets, None where the pair is missing.
    ``decided_by`` is the test behind ``holm_p`` and ``verdict``; ``equivalence_p`` is TOST's,
    adjusted by Holm; ``smallest_holm_p`` is the smallest adjusted p that the design could give.
    ``shown_in`` says in which datasets an undecided difference is shown; ``negligible``: it is
    decided, and smaller than the region of practical equivalence.
    """

    reference: str
    variant: str
    metric: str
    verdict: str = "not compared"
    decided_by: str = "none"
    reason: str = ""
    num_datasets: int = 0
    num_pairs: int = 0
    difference: float | None = None
    two_level: Interval | None = None
    seeds_only: Interval | None = None
    t_interval: Interval | None = None
    wilcoxon_p: float | None = None
    t_p: float | None = None
    holm_p: float | None = None
    smallest_p: float | None = None
    smallest_holm_p: float | None = None
    equivalence_p: float | None = None
    family_size: int = 0
    wins: int = 0
    ties: int = 0
    losses: int = 0
    per_dataset: tuple[float | None, ...] = ()
    left_out: tuple[str, ...] = ()
    shown_in: str = ""
    negligible: bool = False

    @property
    def interval(self) -> Interval | None:
        """The interval that goes with the primary test."""
        by_test = {"wilcoxon": self.two_level, "t_each": self.seeds_only}
        return by_test.get(self.decided_by, self.t_interval)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """All comparisons against one reference, by metric, and the test that decides in each
    family.
    """

    reference: str
    comparisons: Mapping[str, tuple[Comparison, ...]]
    primary: Mapping[str, Primary]


def compare_all(results: Results, options: Options) -> tuple[Block, ...]:
    """A block for the baseline and one for every further reference.

    Each (reference, metric) is a family of its own for Holm's adjustment: every variant that may be
    compared with the reference counts once; an inert copy of another variant is not counted a
    second time.
    """
    resamples = Resamples.draw(
        len(results.datasets),
        results.num_seeds,
        reps=options.reps,
        rng=np.random.default_rng(options.rng_seed),
        shared_seeds=results.shared_seeds,
        overlap=options.overlap,
    )
    return tuple(
        _block(results, reference, options, resamples)
        for reference in (results.baseline, *results.references)
    )


def _block(results: Results, reference: str, options: Options, resamples: Resamples) -> Block:
    families: dict[str, tuple[Comparison, ...]] = {}
    primary: dict[str, Primary] = {}
    others = [v for v in results.variants if v != reference]
    for metric in results.metrics:
        pairs = [_compare(results, v, reference, metric, resamples) for v in others]
        samples = {v: differences(results, v, reference, metric) for v in others}
        families[metric], primary[metric] = _decide(pairs, samples, options, results.datasets)
    if {"base", "new"} <= set(results.metrics):
        primary[HM_OF_MEANS] = Primary(name="none", reason=NO_TEST)
        families[HM_OF_MEANS] = tuple(
            _compare_hm_of_means(results, c, resamples) for c in families["base"]
        )
    return Block(reference=reference, comparisons=families, primary=primary)


def differences(results: Results, variant: str, reference: str, metric: str) -> Array:
    """Paired differences (D, S) of two variants, NaN where a pair is missing."""
    return stats.paired_differences(
        results.scores(variant, metric), results.scores(reference, metric)
    )


def _compare(
    results: Results, variant: str, reference: str, metric: str, resamples: Resamples
) -> Comparison:
    """Effect and raw p values of one pair; the verdict needs the family and comes later."""
    blank = Comparison(reference=reference, variant=variant, metric=metric)
    original = results.aliases.get(variant, variant)
    if original == results.aliases.get(reference, reference):
        return replace(blank, reason=f"inert: the same runs as {reference}")
    if original != variant:
        return replace(
            blank, reason=f"inert: the same runs as {original}, which is counted instead"
        )
    if reason := results.not_comparable(variant, reference):
        return replace(blank, reason=reason)
    difference_DS = differences(results, variant, reference, metric)
    means = stats.dataset_means(difference_DS)
    known = ~np.isnan(means)
    if not known.any():
        return replace(blank, reason=NO_PAIR + unpaired_text(results, variant, reference, metric))
    return _effect(blank, results, difference_DS, means, resamples)


def _effect(
    blank: Comparison, results: Results, difference_DS: Array, means: Array, resamples: Resamples
) -> Comparison:
    known = ~np.isnan(means)
    num = int(known.sum())
    over_seeds = num == 1
    sample = difference_DS[known][0] if over_seeds else means[known]
    t_test: stats.PairedT | stats.ResampledT = stats.paired_t(sample)
    if over_seeds and resamples.overlap is not None:
        t_test = stats.corrected_resampled_t(sample, test_over_train=resamples.overlap)
    ranks = stats.signed_rank(means[known])
    two_level, seeds_only = resamples.averages(difference_DS)
    several_seeds = bool((np.sum(~np.isnan(difference_DS), axis=1) > 1).any())
    wins, ties, losses = stats.win_tie_loss(means)
    return replace(
        blank,
        num_datasets=num,
        num_pairs=int(np.sum(~np.isnan(difference_DS))),
        difference=float(means[known].mean()),
        two_level=stats.percentile_interval(two_level) if num > 1 else None,
        seeds_only=_seeds_only(seeds_only, t_test.interval, over_seeds, several_seeds),
        t_interval=t_test.interval,
        wilcoxon_p=ranks.p if num > 1 else None,
        t_p=t_test.p,
        smallest_p=stats.smallest_p(num) if num > 1 else None,
        wins=wins,
        ties=ties,
        losses=losses,
        per_dataset=tuple(None if np.isnan(m) else float(m) for m in means),
        left_out=tuple(d for d, k in zip(results.datasets, known, strict=True) if not k),
    )


def _seeds_only(
    draws: Array, t_interval: Interval | None, one_dataset: bool, several_seeds: bool
) -> Interval | None:
    """On one dataset the t interval: the coverage of a bootstrap over a few seeds is too low."""
    if one_dataset:
        return t_interval
    return stats.percentile_interval(draws) if several_seeds else None


def _decide(
    pairs: Sequence[Comparison],
    samples: Mapping[str, Array],
    options: Options,
    names: Sequence[str],
) -> tuple[tuple[Comparison, ...], Primary]:
    """The verdicts of a family, by the test that follows from the counts.

    ``samples`` are the paired differences (D, S) by variant, ``names`` those of the datasets.
    """
    family = [c for c in pairs if c.num_datasets > 0]
    tables = [samples[c.variant] for c in family]
    found = stats.judge(
        tables, alpha=options.alpha, rope=options.rope, names=names, overlap=options.overlap
    )
    primary = stats.family_test(tables, alpha=options.alpha, overlap=options.overlap)
    if pairs and not family:
        primary = Primary(name="none", reason=f"none, because {pairs[0].reason}")
    decided = {
        c.variant: replace(
            c,
            verdict=v.word,
            holm_p=v.p,
            equivalence_p=v.equivalence_p,
            smallest_holm_p=v.smallest_p,
            family_size=len(family),
            decided_by=v.decided_by,
            shown_in=v.shown_in,
            negligible=v.reason == SMALL,
            reason="; ".join(filter(None, (_without(c), _other_test(v, primary), v.reason))),
        )
        for c, v in zip(family, found, strict=True)
    }
    return tuple(decided.get(c.variant, c) for c in pairs), primary


def _without(c: Comparison) -> str:
    return f"without {', '.join(c.left_out)}: no pair of finished runs" if c.left_out else ""


def _other_test(v: Verdict, primary: Primary) -> str:
    """The test that decides where it differs from the design's for lack of datasets or seeds."""
    if v.decided_by in (primary.name, "none"):
        return ""
    return f"decided by {TESTS[v.decided_by]}, given its own numbers of datasets and seeds"


def _compare_hm_of_means(results: Results, base: Comparison, resamples: Resamples) -> Comparison:
    """Difference of the harmonic means of the averages, over the cells that both variants have."""
    blank = Comparison(
        reference=base.reference, variant=base.variant, metric=HM_OF_MEANS, reason=base.reason
    )
    if base.difference is None:
        return blank
    sides = (base.variant, base.reference)
    cubes = {metric: results.cube(sides, metric) for metric in ("base", "new")}
    scores = {
        (who, metric): table
        for metric, cube in cubes.items()
        for who, table in zip(sides, cube, strict=True)
    }
    shared = sum(scores.values(), start=np.zeros(1))
    masked = {key: np.where(np.isnan(shared), np.nan, value) for key, value in scores.items()}
    mean = {key: float(np.nanmean(stats.dataset_means(value))) for key, value in masked.items()}
    draws = {key: resamples.averages(value) for key, value in masked.items()}
    one, two = base.variant, base.reference
    levels = [
        _harmonic(draws[one, "base"][level], draws[one, "new"][level])
        - _harmonic(draws[two, "base"][level], draws[two, "new"][level])
        for level in (0, 1)
    ]
    return replace(
        blank,
        verdict="no test",
        reason="",
        num_datasets=base.num_datasets,
        num_pairs=base.num_pairs,
        difference=harmonic_mean(mean[one, "base"], mean[one, "new"])
        - harmonic_mean(mean[two, "base"], mean[two, "new"]),
        two_level=stats.percentile_interval(levels[0]) if base.two_level else None,
        seeds_only=stats.percentile_interval(levels[1]) if base.seeds_only else None,
    )


def _harmonic(base_R: Array, new_R: Array) -> Array:
    total = base_R + new_R
    return np.where(total > 0, 2 * base_R * new_R / np.where(total > 0, total, 1.0), 0.0)


@once
def compared(analysis: Analysis) -> tuple[Block, ...]:
    """All comparisons of this report."""
    return compare_all(analysis.results, analysis.options)


def headline_family(analysis: Analysis, block: Block) -> tuple[Comparison, ...]:
    """The comparisons of a block on the metric of the headline that have a number."""
    return tuple(c for c in block.comparisons[analysis.metric] if c.difference is not None)


class ComparisonRow(NamedTuple):
    """A row of the table: ``changes`` are the factors in which the two differ."""

    c: Comparison
    changes: tuple[str, ...]
    runs: str

    @property
    def smallest(self) -> float | str | None:
        """The smallest adjusted p that the design could have given; a t test has no such limit."""
        no_limit = self.c.smallest_holm_p is None and self.c.decided_by.startswith("t")
        return "no limit" if no_limit else self.c.smallest_holm_p

    @property
    def record(self) -> tuple[int, int, int] | None:
        """Datasets won, tied and lost."""
        c = self.c
        known = any(value is not None for value in c.per_dataset)
        return (c.wins, c.ties, c.losses) if known else None


BRIEF = Show.ALL ^ Show.TERMINAL
DETAILS = Show.WIDE | Show.FILES
"""Details beyond the verdict, too wide for a terminal and for paper."""

COLUMNS: Columns[ComparisonRow] = (
    Column("reference", "Against", Kind.TEXT, lambda r: r.c.reference, Show.FILES),
    Column("variant", "Variant", Kind.NAME, lambda r: r.c.variant),
    Column("changes", "Changes", Kind.NOTE, lambda r: r.changes, Show.PAGE, optional=True),
    Column("metric", "Metric", Kind.TEXT, lambda r: str(r.c.metric), Show.FILES),
    Column("derived", "Derived", Kind.YES_NO, lambda r: r.c.metric is HM_OF_MEANS, Show.FILES),
    Column(
        "verdict",
        "Verdict",
        Kind.VERDICT,
        lambda r: r.c.verdict,
        help="better, worse, equivalent, undecided, no test or not compared",
    ),
    Column(
        "decided_by",
        "Decided by",
        Kind.TEXT,
        lambda r: TESTS.get(r.c.decided_by, "none"),
        Show.FILES,
    ),
    Column(
        "difference",
        "Difference",
        Kind.DIFFERENCE,
        lambda r: r.c.difference if r.c.difference is None else Linked(r.c.difference, r.runs),
        help="mean over datasets of variant minus reference",
    ),
    Column("interval", "95 % interval", Kind.INTERVAL, lambda r: r.c.interval, Show.TERMINAL),
    Column("two_level", "95 % datasets like these", Kind.INTERVAL, lambda r: r.c.two_level, BRIEF),
    Column("seeds_only", "95 % these datasets", Kind.INTERVAL, lambda r: r.c.seeds_only, BRIEF),
    Column("t_interval", "95 % t", Kind.INTERVAL, lambda r: r.c.t_interval, Show.FILES),
    Column("t_p", "p t", Kind.P, lambda r: r.c.t_p, DETAILS),
    Column("wilcoxon_p", "p Wilcoxon", Kind.P, lambda r: r.c.wilcoxon_p, DETAILS),
    Column("holm_p", "p Holm", Kind.P, lambda r: r.c.holm_p),
    Column(
        "smallest_p",
        "smallest p",
        Kind.P,
        lambda r: r.c.smallest_p,
        Show.FILES,
        help="smallest p that the exact Wilcoxon test can attain on this many datasets",
    ),
    Column("smallest_holm_p", "", Kind.P, lambda r: r.c.smallest_holm_p, Show.FILES),
    Column("smallest", "Smallest attainable p", Kind.P, lambda r: r.smallest, Show.WIDE),
    Column(
        "equivalence_p",
        "p equivalent, TOST",
        Kind.P,
        lambda r: r.c.equivalence_p,
        DETAILS,
        help="TOST, adjusted by Holm",
    ),
    Column("family_size", "Family", Kind.COUNT, lambda r: r.c.family_size, Show.FILES),
    Column("wins", "Wins", Kind.COUNT, lambda r: r.record and r.c.wins, Show.FILES),
    Column("ties", "Ties", Kind.COUNT, lambda r: r.record and r.c.ties, Show.FILES),
    Column("losses", "Losses", Kind.COUNT, lambda r: r.record and r.c.losses, Show.FILES),
    Column("record", "win / tie / loss", Kind.COUNTS, lambda r: r.record, Show.READ),
    Column("num_datasets", "Datasets", Kind.COUNT, lambda r: r.c.num_datasets, Show.FILES),
    Column("num_pairs", "Pairs", Kind.COUNT, lambda r: r.c.num_pairs, Show.FILES),
    Column("remark", "Remark", Kind.NOTE, lambda r: r.c.reason, optional=True),
)


def _changes(results: Results, c: Comparison) -> tuple[str, ...]:
    """The factors that differ where they are one or two, otherwise how many they are."""
    changes = results.what_differs(c.variant, c.reference)
    if len(changes) > 2:
        return (f"differs in {len(changes)} factors",)
    return tuple(f"{name}: {old} → {new}" for name, old, new in changes)


def _table(analysis: Analysis, block: Block, metric: str) -> Table:
    results, where = analysis.results, anchors(analysis)
    rows = [
        ComparisonRow(c, _changes(results, c), f"#{where.variant(c.variant)}")
        for c in block.comparisons[metric]
    ]
    decides = block.primary[metric].reason if metric in block.primary else ""
    return table(
        "comparisons",
        f"{label(metric)}: difference from {block.reference} in points",
        COLUMNS,
        rows,
        notes=[f"Primary test: {decides}."] if decides else [],
        folded=metric != results.primary_metric,
    )


def forest_metrics(results: Results) -> tuple[str, ...]:
    """Metrics that get a forest plot: all three of base-to-new, otherwise at most four, the primary
    one among them.
    """
    return results.metrics[-4:] if results.curve else results.metrics[:4]


def _forest_panel(block: Block, metric: str, rope: float) -> ForestInfo:
    """What the forest plot of one metric shows."""
    return ForestInfo(
        reference=block.reference,
        metric=metric,
        rope=rope,
        rows=tuple(
            ForestRow(
                variant=c.variant,
                verdict=c.verdict,
                difference=c.difference,
                on_these_datasets=c.seeds_only,
                on_datasets_like_these=c.two_level,
                per_dataset=c.per_dataset,
                fallback=c.t_interval,
            )
            for c in block.comparisons.get(metric, ())
            if c.difference is not None
        ),
    )


def _forest(analysis: Analysis, block: Block, name: str) -> Figure | None:
    metrics = forest_metrics(analysis.results)
    panels = [_forest_panel(block, metric, analysis.options.rope) for metric in metrics]
    drawn = forests([panels], name=name)
    colors = " Blue ▲: better; orange ▼: worse; green ■: equivalent; hollow gray: undecided."
    return replace(drawn, caption=drawn.caption + colors) if drawn else None


def _section(analysis: Analysis, block: Block, forest_name: str) -> Section:
    """The comparisons with one reference, the metric of the headline first."""
    title = f"Against {block.reference}"
    if not block.comparisons[analysis.metric]:
        return Section(key="comparisons", title=title, reason="only one variant to report")
    metrics = dict.fromkeys((analysis.metric, *block.comparisons))
    drawn = _forest(analysis, block, forest_name)
    sentences: tuple[Sentence, ...] = ()
    if drawn is None:
        sentences = (
            make_sentence(
                f"No variant can be compared with {block.reference}; the table says why."
            ),
        )
    return Section(
        key="comparisons",
        title=title,
        sentences=sentences,
        tables=tuple(_table(analysis, block, metric) for metric in metrics),
        figures=(drawn,) if drawn else (),
    )


def _sections(analysis: Analysis) -> Sequence[Section]:
    return [
        _section(analysis, block, "forest" if i == 1 else f"forest_{i}")
        for i, block in enumerate(compared(analysis), start=1)
    ]


TOPIC = Topic(key="comparisons", build=_sections, files={"comparisons": COLUMNS}, show=Show.ALL)
