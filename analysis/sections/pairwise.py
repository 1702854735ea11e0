"""Every variant against every other one on one metric: verdicts, ranks, and what is best.

A pair with a reference has the verdicts of the comparisons, so that it has one word per scope
everywhere. All other pairs are judged as one family of all pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from analysis import stats
from analysis.figures.critical_difference import RankInfo, critical_difference
from analysis.figures.heatmap import PairwiseInfo, pairwise_heatmap
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, Options, once
from analysis.sections.claims import claim_columns
from analysis.sections.comparisons import Block, compared, judge_family, sampled
from analysis.sections.section import Section, Sentence, Topic, make_sentence
from analysis.sections.selection import noted, selection
from analysis.stats import Array, Judgment, Omnibus, RankGroups
from analysis.text import (
    Column,
    Columns,
    Kind,
    Show,
    counted,
    label,
    marks,
    p_equals,
    share_text,
    table,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairwise:
    """All pairs of the variants that may be ranked with the baseline.

    ``judgments`` has row against column by their indices, both ways; ``difference_VV`` is row
    minus column, NaN without a pair, and ``p_VV`` the adjusted p about datasets like these, NaN
    without a test. ``ranks`` is None where too few datasets are complete, and ``reason`` says so.
    ``left_out`` names variants that may not be ranked, with the reason.
    """

    metric: str
    direction: int
    variants: tuple[str, ...]
    difference_VV: Array
    p_VV: Array
    judgments: Mapping[tuple[int, int], Judgment]
    omnibus: Omnibus
    ranks: RankGroups | None
    left_out: tuple[tuple[str, str], ...] = ()
    reason: str = ""

    @property
    def best(self) -> int | None:
        """Index of the variant that is furthest ahead of the others on average."""
        if not len(self.variants) or np.isnan(self.difference_VV).any():
            return None
        return int(np.argmax(self.direction * self.difference_VV.mean(axis=1)))

    def judgment(self, variant: str, other: str) -> Judgment | None:
        """How ``variant`` stands to ``other``, None where they are not compared."""
        if variant not in self.variants or other not in self.variants:
            return None
        return self.judgments.get((self.variants.index(variant), self.variants.index(other)))


def all_pairs(
    results: Results, metric: str, options: Options, blocks: Sequence[Block] = ()
) -> Pairwise:
    """Differences, verdicts and mean ranks; inert copies are left out. ``blocks`` are the
    comparisons with references, whose verdicts are taken over.
    """
    ranked, left_out = results.ranked()
    pairs = list(combinations(range(len(ranked)), 2))
    samples = [sampled(results, ranked[i], ranked[j], metric) for i, j in pairs]
    direction = results.direction(metric)
    seen = [sample for sample, _ in samples]
    judgments = judge_family(seen, results, options, direction, len(pairs))
    planned = _planned(metric, blocks)
    size = len(ranked)
    difference_VV, p_VV = np.zeros((size, size)), np.ones((size, size))
    found: dict[tuple[int, int], Judgment] = {}
    for (i, j), (_, means), judgment in zip(pairs, samples, judgments, strict=True):
        known = means[~np.isnan(means)]
        difference = float(known.mean()) if known.size else np.nan
        difference_VV[i, j], difference_VV[j, i] = difference, -difference
        decided = planned.get((ranked[i], ranked[j]), judgment)
        p = decided.like.holm_p
        p_VV[i, j] = p_VV[j, i] = np.nan if p is None else p
        found[i, j], found[j, i] = decided, decided.reversed
    table_DV = direction * stats.dataset_means(results.cube(ranked, metric)).T
    ranks, reason = _rank_groups(table_DV, p_VV, options)
    return Pairwise(
        metric=metric,
        direction=direction,
        variants=ranked,
        difference_VV=difference_VV,
        p_VV=p_VV,
        judgments=found,
        omnibus=stats.friedman(table_DV),
        ranks=ranks,
        left_out=left_out,
        reason=reason,
    )


def _planned(metric: str, blocks: Sequence[Block]) -> dict[tuple[str, str], Judgment]:
    """The verdicts of the comparisons with references, both ways."""
    planned: dict[tuple[str, str], Judgment] = {}
    for block in blocks:
        for c in block.comparisons[metric]:
            if c.difference is not None:
                planned[c.variant, c.reference] = c.judgment
                planned[c.reference, c.variant] = c.judgment.reversed
    return planned


def _rank_groups(table_DV: Array, p_VV: Array, options: Options) -> tuple[RankGroups | None, str]:
    complete = int((~np.isnan(table_DV).any(axis=1)).sum())
    if table_DV.shape[1] < 2:
        return None, "mean ranks need two variants that may be ranked together"
    if complete < 2:
        return None, (
            "mean ranks need two datasets on which every variant has a score, "
            f"and this study has {complete}"
        )
    return stats.rank_groups(table_DV, p_VV, alpha=options.alpha), ""


@once
def paired(analysis: Analysis) -> Mapping[str, Pairwise]:
    """All pairs of this report, by metric."""
    results, options = analysis.results, analysis.options
    blocks = compared(analysis)
    return {metric: all_pairs(results, metric, options, blocks) for metric in results.metrics}


def standing(analysis: Analysis, variant: str, metric: str) -> str:
    """The mark of an average: † worse than the best on these datasets, ≈ practically equal to it
    there, "" otherwise.
    """
    pairs = paired(analysis).get(metric)
    if pairs is None or pairs.best is None:
        return ""
    original = analysis.results.aliases.get(variant, variant)
    judgment = pairs.judgment(original, pairs.variants[pairs.best])
    return {"worse": "†", "equivalent": "≈"}.get(judgment.these.word, "") if judgment else ""


class Pair(NamedTuple):
    """Two variants on one metric: ``variant`` minus ``other``."""

    metric: str
    variant: str
    other: str
    difference: float | None
    judgment: Judgment


PAIR_COLUMNS: Columns[Pair] = (
    Column("metric", "Metric", Kind.TEXT, lambda p: p.metric, Show.FILES),
    Column("variant", "Variant", Kind.NAME, lambda p: p.variant, Show.FILES),
    Column("other", "Against", Kind.NAME, lambda p: p.other, Show.FILES),
    Column("difference", "Difference", Kind.DIFFERENCE, lambda p: p.difference, Show.FILES),
    *claim_columns(lambda p: p.judgment, read=Show.FILES),
)
OMNIBUS_COLUMNS: Columns[Pairwise] = (
    Column("metric", "Metric", Kind.TEXT, lambda p: p.metric, Show.FILES),
    Column("datasets", "Datasets", Kind.COUNT, lambda p: p.omnibus.n, Show.FILES),
    Column("friedman_chi2", "chi2", Kind.NUMBER, lambda p: p.omnibus.chi2, Show.FILES),
    Column("iman_davenport_f", "F", Kind.NUMBER, lambda p: p.omnibus.f, Show.FILES),
    Column("p", "p", Kind.P, lambda p: p.omnibus.p, Show.FILES),
    Column("kendall_w", "W", Kind.NUMBER, lambda p: p.omnibus.kendall_w, Show.FILES),
    Column("reason", "Remark", Kind.NOTE, lambda p: p.omnibus.reason, Show.FILES),
)


class MeanRank(NamedTuple):
    """A variant's mean rank over datasets, 1 is best."""

    metric: str
    variant: str
    rank: float


RANK_COLUMNS: Columns[MeanRank] = (
    Column("metric", "Metric", Kind.TEXT, lambda r: r.metric, Show.FILES),
    Column("variant", "Variant", Kind.NAME, lambda r: r.variant, Show.FILES),
    Column("mean_rank", "Mean rank", Kind.NUMBER, lambda r: r.rank, Show.FILES),
)
LEFT_OUT_COLUMNS: Columns[tuple[str, str]] = (
    Column("variant", "Variant", Kind.NAME, lambda pair: pair[0], Show.FILES),
    Column("reason", "Reason", Kind.TEXT, lambda pair: pair[1], Show.FILES),
)


def _pairs(found: Pairwise) -> Iterator[Pair]:
    for i, j in combinations(range(len(found.variants)), 2):
        gap = float(found.difference_VV[i, j])
        yield Pair(
            metric=found.metric,
            variant=found.variants[i],
            other=found.variants[j],
            difference=gap if np.isfinite(gap) else None,
            judgment=found.judgments[i, j],
        )


def _ranks(found: Pairwise) -> Iterator[MeanRank]:
    for variant, rank in zip(found.variants, found.omnibus.mean_ranks, strict=False):
        yield MeanRank(found.metric, variant, rank)


def _omnibus_sentence(found: Omnibus) -> str:
    """Friedman's test in a sentence, or why there is none."""
    if found.p is None or found.kendall_w is None:
        return f"No omnibus test: {found.reason or 'nothing to compare'}."
    statistic = "F is infinite" if found.f is None else f"F = {share_text(found.f)}"
    return (
        f"Omnibus test of any difference: Iman-Davenport {statistic}, p {p_equals(found.p)}, "
        f"Kendall's W = {share_text(found.kendall_w)} over "
        f"{counted(found.n, 'complete dataset')}."
    )


def _sentences(found: Pairwise) -> tuple[Sentence, ...]:
    return (
        make_sentence(
            f"{_omnibus_sentence(found.omnibus)} A pair with a reference has its verdicts from the "
            f"comparisons; all other pairs on {label(found.metric)} are one family, "
            "adjusted by Holm."
        ),
        *(
            make_sentence(f"{v} is not ranked: {reason}", kind="item")
            for v, reason in found.left_out
        ),
    )


def _mean_ranks(analysis: Analysis) -> Sequence[Section]:
    """The omnibus test, all pairs, and the critical-difference diagram."""
    every = paired(analysis)
    found = every[analysis.metric]
    if len(found.variants) < 2:
        return [Section(key="pairwise", reason=ONE_VARIANT)]
    sentences, drawn = _sentences(found), None
    if found.ranks is None:
        sentences = (*sentences, make_sentence(f"No critical-difference diagram: {found.reason}."))
    else:
        info = _rank_info(found, found.ranks, selection(analysis).kept(found.variants))
        drawn = noted(analysis, critical_difference(info, alpha=analysis.options.alpha))
    views = list(every.values())
    return [
        Section(
            key="pairwise",
            sentences=sentences,
            tables=(
                table("pairs", "All pairs", PAIR_COLUMNS, [p for v in views for p in _pairs(v)]),
                table("omnibus", "Friedman's test", OMNIBUS_COLUMNS, views),
                table(
                    "mean_ranks", "Mean ranks", RANK_COLUMNS, [r for v in views for r in _ranks(v)]
                ),
                table("left_out", "Not ranked", LEFT_OUT_COLUMNS, found.left_out),
            ),
            figures=(drawn,) if drawn else (),
        )
    ]


def _rank_info(found: Pairwise, ranks: RankGroups, kept: Sequence[int]) -> RankInfo:
    """The diagram of the variants at these places; a group of which one is left has no bar."""
    names = {v: found.variants[v] for v in kept}
    members = [tuple(names[v] for v in group if v in names) for group in ranks.groups]
    places = zip(ranks.order, ranks.mean_ranks, strict=True)
    shown = [(names[v], rank) for v, rank in places if v in names]
    return RankInfo(
        variants=tuple(name for name, _ in shown),
        mean_ranks=tuple(rank for _, rank in shown),
        groups=tuple(dict.fromkeys(group for group in members if len(group) > 1)),
        apart=ranks.apart,
        untested=ranks.untested,
    )


ONE_VARIANT = "there is only one variant, so there is nothing to compare"


def _row_minus_column(analysis: Analysis) -> Sequence[Section]:
    found = paired(analysis)[analysis.metric]
    kept = selection(analysis).kept(found.variants)
    names = tuple(found.variants[v] for v in kept)
    info = PairwiseInfo(
        rows=names,
        columns=names,
        difference=found.difference_VV[np.ix_(kept, kept)],
        marks=tuple(
            tuple(marks(found.judgments[i, j]) if i != j else "" for j in kept) for i in kept
        ),
    )
    drawn = noted(analysis, pairwise_heatmap(info, metric=label(found.metric)))
    section = Section(
        key="pair_differences",
        title="Row minus column",
        figures=(drawn,) if drawn else (),
        reason="" if drawn else ONE_VARIANT,
    )
    return [section]


TOPIC = Topic(
    key="pairwise",
    build=_mean_ranks,
    files={
        "pairs": PAIR_COLUMNS,
        "omnibus": OMNIBUS_COLUMNS,
        "mean_ranks": RANK_COLUMNS,
        "left_out": LEFT_OUT_COLUMNS,
    },
)
DIFFERENCES = Topic(key="pair_differences", build=_row_minus_column)
