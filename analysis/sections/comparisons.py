"""Every variant against a reference, metric by metric: differences, intervals, tests, verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from analysis import stats
from analysis.figures.figure import Figure
from analysis.figures.forest import ForestInfo, ForestRow, forests
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, Options, once
from analysis.sections.claims import NOT_TESTED, UNKNOWN, claim_columns, tally
from analysis.sections.runs import anchors
from analysis.sections.section import Section, Sentence, Topic, make_sentence
from analysis.sections.selection import grouped, noted, selection
from analysis.stats import Array, Claim, Judgment, SeedMeans, ShownIn
from analysis.text import (
    HM_OF_MEANS,
    Column,
    Columns,
    Kind,
    Linked,
    Show,
    Table,
    Tally,
    label,
    marks,
    table,
)
from core.metrics import harmonic_mean

NO_PAIR = "no finished pair of runs with the same dataset and seed"
NO_TEST = "the harmonic mean of two averages has no value per dataset, so there is no test"
NOWHERE = ShownIn()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One variant against one reference on one metric; differences are variant minus reference in
    the unit of the metric, fractions for accuracies.

    ``judgment`` has the claims of both scopes. ``better_in`` and ``worse_in`` say in which
    datasets the difference is shown, ``outside`` whose own interval leaves the region of
    practical equivalence. ``wilcoxon_p`` and ``sign_flip_p`` are exact tests over dataset means,
    beside the t of datasets like these; ``smallest_p`` is the smallest that they can give.
    A number that does not exist is None and ``reason`` says why. ``per_dataset`` follows the
    results' datasets, None where the pair is missing.
    """

    reference: str
    variant: str
    metric: str
    judgment: Judgment = UNKNOWN
    reason: str = ""
    num_datasets: int = 0
    num_pairs: int = 0
    difference: float | None = None
    wilcoxon_p: float | None = None
    sign_flip_p: float | None = None
    smallest_p: float | None = None
    disagree: bool = False
    family_size: int = 0
    wins: int = 0
    ties: int = 0
    losses: int = 0
    per_dataset: tuple[float | None, ...] = ()
    left_out: tuple[str, ...] = ()
    better_in: ShownIn = NOWHERE
    worse_in: ShownIn = NOWHERE
    outside: tuple[str, ...] = ()

    @property
    def these(self) -> Claim:
        """The claim about the datasets of the study."""
        return self.judgment.these

    @property
    def like(self) -> Claim:
        """The claim about datasets like these."""
        return self.judgment.like

    @property
    def reversed(self) -> "Comparison":
        """The reference against the variant."""
        return replace(
            self,
            reference=self.variant,
            variant=self.reference,
            judgment=self.judgment.reversed,
            difference=None if self.difference is None else -self.difference,
            wins=self.losses,
            losses=self.wins,
            per_dataset=tuple(None if d is None else -d for d in self.per_dataset),
            better_in=self.worse_in,
            worse_in=self.better_in,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """All comparisons against one reference, by metric."""

    reference: str
    comparisons: Mapping[str, tuple[Comparison, ...]]

    def of(self, variant: str, metric: str) -> Comparison | None:
        """The comparison of a variant, None where there is none."""
        return next((c for c in self.comparisons[metric] if c.variant == variant), None)


def compare_all(results: Results, options: Options) -> tuple[Block, ...]:
    """A block for the baseline and one for every further reference.

    Each (reference, metric) is a family of its own for Holm's adjustment: every variant that may be
    compared with the reference counts once; an inert copy of another variant is not counted a
    second time. Two references are compared in the block of the first; the second takes over
    that result, reversed, so that a pair has one verdict per scope.
    """
    blocks: list[Block] = []
    for reference in (results.baseline, *results.references):
        families = {
            metric: _family(results, reference, metric, options, blocks)
            for metric in results.metrics
        }
        if {"base", "new"} <= set(results.metrics):
            families[HM_OF_MEANS] = tuple(
                _compare_hm_of_means(results, c) for c in families["base"]
            )
        blocks.append(Block(reference=reference, comparisons=families))
    return tuple(blocks)


def _family(
    results: Results, reference: str, metric: str, options: Options, earlier: Sequence[Block]
) -> tuple[Comparison, ...]:
    """The comparisons with one reference on one metric, judged together."""
    known = {
        block.reference: found.reversed
        for block in earlier
        if (found := block.of(reference, metric)) is not None
    }
    others = [v for v in results.variants if v != reference]
    pairs = [_compare(results, v, reference, metric) for v in others if v not in known]
    judged = {c.variant: c for c in _judged(results, pairs, options)}
    return tuple(known.get(v) or judged[v] for v in others)


def differences(results: Results, variant: str, reference: str, metric: str) -> Array:
    """Paired differences (D, S) of two variants, NaN where a pair is missing."""
    return stats.paired_differences(
        results.scores(variant, metric), results.scores(reference, metric)
    )


def sampled(
    results: Results, variant: str, reference: str, metric: str
) -> tuple[Array | SeedMeans, Array]:
    """The difference as a test sees it, and its mean on every dataset, (D,): paired differences, or
    where no seed is common what the runs of both sides tell.
    """
    paired = differences(results, variant, reference, metric)
    if np.isfinite(paired).any():
        return paired, stats.dataset_means(paired)
    alone = SeedMeans.unpaired(results.scores(variant, metric), results.scores(reference, metric))
    return alone, alone.values


def _compare(results: Results, variant: str, reference: str, metric: str) -> Comparison:
    """The pair with the reason why it is not compared, if there is one."""
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
    if not np.isfinite(sampled(results, variant, reference, metric)[1]).any():
        return replace(blank, reason=NO_PAIR)
    return blank


def _judged(
    results: Results, pairs: Sequence[Comparison], options: Options
) -> tuple[Comparison, ...]:
    """Effects and verdicts of a family; pairs that are not compared stay as they are."""
    family = [c for c in pairs if not c.reason]
    samples = [sampled(results, c.variant, c.reference, c.metric) for c in family]
    direction = results.direction(family[0].metric) if family else 1
    seen = [sample for sample, _ in samples]
    judgments = judge_family(seen, results, options, direction, len(family))
    effects = (
        _effect(results, c, means, judgment, options, len(family), direction)
        for c, (_, means), judgment in zip(family, samples, judgments, strict=True)
    )
    return tuple(c if c.reason else next(effects) for c in pairs)


def judge_family(
    differences: Iterable[Array | SeedMeans],
    results: Results,
    options: Options,
    direction: int,
    family: int,
) -> tuple[Judgment, ...]:
    """The verdicts of differences as ``stats.judge`` takes them, by the options of the report."""
    return stats.judge(
        differences,
        alpha=options.alpha,
        rope=options.rope,
        overlap=options.overlap,
        shared_seeds=results.shared_seeds,
        direction=direction,
        level=1 - 0.05 / max(family, 1) if options.adjusted_intervals else 0.95,
    )


def _effect(
    results: Results,
    blank: Comparison,
    means: Array,
    judgment: Judgment,
    options: Options,
    family: int,
    direction: int,
) -> Comparison:
    difference_DS = differences(results, blank.variant, blank.reference, blank.metric)
    known = ~np.isnan(means)
    num = int(known.sum())
    names, ranks = results.datasets, stats.signed_rank(means[known])
    flips = stats.sign_flip(means[known], rng=np.random.default_rng(options.rng_seed))
    better_in, worse_in = stats.shown_in(
        difference_DS,
        names,
        alpha=options.alpha,
        family=family,
        overlap=options.overlap,
        direction=direction,
    )
    wins, ties, losses = stats.win_tie_loss(direction * means)
    several = num > 1
    left_out = tuple(d for d, k in zip(names, known, strict=True) if not k)
    c = replace(
        blank,
        judgment=judgment,
        num_datasets=num,
        num_pairs=int(np.sum(~np.isnan(difference_DS))),
        difference=float(means[known].mean()),
        wilcoxon_p=ranks.p if several else None,
        sign_flip_p=flips.p if several else None,
        smallest_p=stats.smallest_p(num) if several else None,
        family_size=family,
        wins=wins,
        ties=ties,
        losses=losses,
        per_dataset=tuple(None if np.isnan(m) else float(m) for m in means),
        left_out=left_out,
        better_in=better_in,
        worse_in=worse_in,
        outside=stats.outside_region(difference_DS, names, rope=options.rope) if several else (),
    )
    return _remarked(c, _disagree(c, options.alpha))


def _remarked(c: Comparison, disagree: bool) -> Comparison:
    """The comparison with what a reader has to know about it."""
    said = (
        "" if c.num_pairs else UNPAIRED,
        _without(c),
        *dict.fromkeys((c.these.reason, c.like.reason)),
        EXACT * disagree,
    )
    return replace(c, disagree=disagree, reason="; ".join(filter(None, said)))


UNPAIRED = "the runs are no pairs, so their seeds are compared by Welch's t"
EXACT = "the t over datasets and the exact tests disagree: look at the single datasets"


def _disagree(c: Comparison, alpha: float) -> bool:
    """Whether t and an exact test over dataset means fall on two sides of alpha, where the exact
    tests could fall below it.
    """
    if c.like.p is None or c.smallest_p is None or c.smallest_p >= alpha:
        return False
    exact = [p for p in (c.wilcoxon_p, c.sign_flip_p) if p is not None]
    return any((p < alpha) != (c.like.p < alpha) for p in exact)


def _without(c: Comparison) -> str:
    return f"without {', '.join(c.left_out)}: no pair of finished runs" if c.left_out else ""


def _compare_hm_of_means(results: Results, base: Comparison) -> Comparison:
    """Difference of the harmonic means of the averages, over the cells that both variants have."""
    blank = Comparison(
        reference=base.reference, variant=base.variant, metric=HM_OF_MEANS, reason=base.reason
    )
    if base.difference is None:
        return blank
    sides = (base.variant, base.reference)
    tables = {m: results.cube(sides, m) for m in ("base", "new")}
    if base.num_pairs:
        shared = np.isfinite(sum(table.sum(axis=0) for table in tables.values()))
        tables = {m: np.where(shared, table, np.nan) for m, table in tables.items()}
    by_dataset = {m: stats.dataset_means(table) for m, table in tables.items()}
    known = np.isfinite(sum(means.sum(axis=0) for means in by_dataset.values()))
    means = {m: found[:, known].mean(axis=1).tolist() for m, found in by_dataset.items()}
    one, two = (harmonic_mean(b, n) for b, n in zip(means["base"], means["new"], strict=True))
    return replace(
        blank,
        judgment=Judgment(these=NOT_TESTED, like=NOT_TESTED),
        reason=NO_TEST,
        num_datasets=base.num_datasets,
        num_pairs=base.num_pairs,
        difference=one - two,
    )


@once
def compared(analysis: Analysis) -> tuple[Block, ...]:
    """All comparisons of this report."""
    return compare_all(analysis.results, analysis.options)


def headline_family(results: Results, block: Block) -> tuple[Comparison, ...]:
    """The comparisons of a block on the metric of the headline that have paired runs."""
    return tuple(c for c in block.comparisons[results.primary_metric] if c.num_pairs)


class ComparisonRow(NamedTuple):
    """A row of the table: ``changes`` are the factors in which the two differ."""

    c: Comparison
    changes: tuple[str, ...]
    runs: str

    @property
    def record(self) -> tuple[int, int, int] | None:
        """Datasets won, tied and lost."""
        c = self.c
        known = any(value is not None for value in c.per_dataset)
        return (c.wins, c.ties, c.losses) if known else None

    def tallied(self, name: str) -> int | None:
        """One of the counts of datasets, None for a metric without a value per dataset."""
        return getattr(self.c, name) if self.c.per_dataset else None


DETAILS = Show.WIDE | Show.FILES
"""Details beyond the verdicts, too wide for a terminal and for paper."""

COLUMNS: Columns[ComparisonRow] = (
    Column("reference", "Against", Kind.TEXT, lambda r: r.c.reference, Show.FILES),
    Column("variant", "Variant", Kind.NAME, lambda r: r.c.variant),
    Column("changes", "Changes", Kind.NOTE, lambda r: r.changes, Show.PAGE, optional=True),
    Column("metric", "Metric", Kind.TEXT, lambda r: str(r.c.metric), Show.FILES),
    Column("derived", "Derived", Kind.YES_NO, lambda r: r.c.metric is HM_OF_MEANS, Show.FILES),
    Column(
        "difference",
        "Difference",
        Kind.DIFFERENCE,
        lambda r: r.c.difference if r.c.difference is None else Linked(r.c.difference, r.runs),
        help="mean over datasets of variant minus reference",
    ),
    *claim_columns(lambda r: r.c.judgment, details=DETAILS),
    Column("record", "win / tie / loss", Kind.COUNTS, lambda r: r.record, Show.READ),
    Column("wins", "Wins", Kind.COUNT, lambda r: r.tallied("wins"), Show.FILES),
    Column("ties", "Ties", Kind.COUNT, lambda r: r.tallied("ties"), Show.FILES),
    Column("losses", "Losses", Kind.COUNT, lambda r: r.tallied("losses"), Show.FILES),
    Column(
        "shown_better", "Shown better in", Kind.TALLY, lambda r: _tally(r, "better_in"), Show.WIDE
    ),
    Column("shown_worse", "Shown worse in", Kind.TALLY, lambda r: _tally(r, "worse_in"), Show.WIDE),
    Column("k_hat_better", "", Kind.COUNT, lambda r: r.c.better_in.k_hat, Show.FILES),
    Column("better_in", "", Kind.LIST, lambda r: r.c.better_in.named, Show.FILES),
    Column("k_hat_worse", "", Kind.COUNT, lambda r: r.c.worse_in.k_hat, Show.FILES),
    Column("worse_in", "", Kind.LIST, lambda r: r.c.worse_in.named, Show.FILES),
    Column(
        "outside_region",
        "Interval leaves the region",
        Kind.LIST,
        lambda r: r.c.outside,
        Show.FILES,
        help="datasets whose own 95 % interval leaves the region of practical equivalence",
    ),
    Column("wilcoxon_p", "p Wilcoxon", Kind.P, lambda r: r.c.wilcoxon_p, DETAILS),
    Column("sign_flip_p", "p sign-flip", Kind.P, lambda r: r.c.sign_flip_p, DETAILS),
    Column(
        "smallest_p",
        "smallest p",
        Kind.P,
        lambda r: r.c.smallest_p,
        Show.FILES,
        help="smallest p that the exact tests can attain on this many datasets",
    ),
    Column("exact_disagree", "", Kind.YES_NO, lambda r: r.c.disagree, Show.FILES),
    Column("family_size", "Family", Kind.COUNT, lambda r: r.c.family_size, Show.FILES),
    Column("num_datasets", "Datasets", Kind.COUNT, lambda r: r.c.num_datasets, Show.FILES),
    Column("num_pairs", "Pairs", Kind.COUNT, lambda r: r.c.num_pairs, Show.FILES),
    Column("remark", "Remark", Kind.NOTE, lambda r: r.c.reason, optional=True),
)


def _tally(row: ComparisonRow, name: str) -> Tally | None:
    shown: ShownIn = getattr(row.c, name)
    return tally(shown) if shown.num_datasets > 1 else None


def _changes(results: Results, c: Comparison) -> tuple[str, ...]:
    """The factors that differ where they are one or two, otherwise how many they are."""
    changes = results.what_differs(c.variant, c.reference)
    if len(changes) > 2:
        return (f"differs in {len(changes)} factors",)
    return tuple(f"{name}: {old} → {new}" for name, old, new in changes)


def _tables(analysis: Analysis, block: Block, metric: str) -> tuple[Table, ...]:
    results, where = analysis.results, anchors(analysis)
    rows = [
        ComparisonRow(c, _changes(results, c), where.to_variant(c.variant))
        for c in block.comparisons[metric]
    ]
    made = table(
        "comparisons",
        f"{label(metric)}: difference from {block.reference} in points",
        COLUMNS,
        rows,
        notes=_adjusted(analysis.options, block.comparisons[metric]),
        folded=metric != results.primary_metric,
    )
    return grouped(analysis, made, [row.c.variant for row in rows])


def _adjusted(options: Options, family: Sequence[Comparison]) -> list[str]:
    """Whether the intervals and the p values of a table are adjusted."""
    size = max((c.family_size for c in family), default=0)
    if not size:
        return []
    if options.adjusted_intervals and size > 1:
        how = f"adjusted for {size} comparisons (Bonferroni)"
    else:
        how = "of single comparisons, not adjusted"
    return [f"Intervals are t intervals {how}; p Holm is adjusted for {size}."]


def forest_metrics(results: Results) -> tuple[str, ...]:
    """Metrics that get a forest plot: all three of base-to-new, otherwise at most four, the primary
    one among them.
    """
    return results.metrics[-4:] if results.curve else results.metrics[:4]


def _forest_panel(block: Block, metric: str, rope: float, shown: Sequence[str]) -> ForestInfo:
    """What the forest plot of one metric shows of these variants."""
    return ForestInfo(
        reference=block.reference,
        metric=metric,
        rope=rope,
        rows=tuple(
            ForestRow(
                variant=c.variant,
                verdict=c.these.word,
                marks=marks(c.judgment),
                difference=c.difference,
                on_these_datasets=c.these.interval,
                on_datasets_like_these=c.like.interval,
                per_dataset=c.per_dataset,
            )
            for c in block.comparisons.get(metric, ())
            if c.difference is not None and c.variant in shown
        ),
    )


def _forest(analysis: Analysis, block: Block, name: str) -> Figure | None:
    metrics = forest_metrics(analysis.results)
    rope, shown = analysis.options.rope, selection(analysis).shown
    panels = [_forest_panel(block, metric, rope, shown) for metric in metrics]
    drawn = noted(analysis, forests([panels], name=name))
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
        tables=tuple(t for metric in metrics for t in _tables(analysis, block, metric)),
        figures=(drawn,) if drawn else (),
    )


def _sections(analysis: Analysis) -> Sequence[Section]:
    return [
        _section(analysis, block, "forest" if i == 1 else f"forest_{i}")
        for i, block in enumerate(compared(analysis), start=1)
    ]


TOPIC = Topic(key="comparisons", build=_sections, files={"comparisons": COLUMNS})
