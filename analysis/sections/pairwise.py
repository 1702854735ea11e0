"""Every variant against every other one on one metric: verdicts, ranks, and what is best.

A pair with a reference has the verdicts of the comparisons, so that it has one word per scope
everywhere. All other pairs are judged as one family of all pairs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
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
from analysis.stats import Array, Judgment, Omnibus, RankGroups, SeedMeans
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
class PairJudgments(Mapping[tuple[int, int], Judgment]):
    """How variants stand to each other, by the indices of row and column.

    ``upper`` has those of a row with a later column, row by row; the others are the same, reversed.
    """

    size: int
    upper: Sequence[Judgment]

    @classmethod
    def of(
        cls,
        variants: Sequence[str],
        judgments: Sequence[Judgment],
        planned: Mapping[tuple[str, str], Judgment],
    ) -> "PairJudgments":
        """Of all pairs in order; a pair that is among the ``planned`` has its judgment there."""
        pairs = combinations(variants, 2)
        upper = [planned.get(pair, own) for pair, own in zip(pairs, judgments, strict=True)]
        return cls(size=len(variants), upper=upper)

    def __getitem__(self, pair: tuple[int, int]) -> Judgment:
        row, column = pair
        if row == column:
            raise KeyError(pair)
        if row > column:
            return self[column, row].reversed
        return self.upper[row * self.size - row * (row + 1) // 2 + column - row - 1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return permutations(range(self.size), 2)

    def __len__(self) -> int:
        return self.size * (self.size - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairwise:
    """All pairs of the variants that may be ranked with the baseline.

    ``places`` has the index of every variant, and ``judgments`` row against column by their
    indices, both ways; ``difference_VV`` is row minus column, NaN without a pair, and ``p_VV`` the
    adjusted p about datasets like these, NaN without a test. ``ranks`` is None where too few
    datasets are complete, and ``reason`` says so. ``best`` is the index of the variant furthest
    ahead of the others on average, None where a pair is missing. ``left_out`` names variants that
    may not be ranked, with the reason.
    """

    metric: str
    direction: int
    variants: tuple[str, ...]
    places: Mapping[str, int]
    difference_VV: Array
    p_VV: Array
    judgments: PairJudgments
    omnibus: Omnibus
    ranks: RankGroups | None
    best: int | None
    left_out: tuple[tuple[str, str], ...] = ()
    reason: str = ""

    def judgment(self, variant: str, other: str) -> Judgment | None:
        """How ``variant`` stands to ``other``, None where they are not compared."""
        row, column = self.places.get(variant), self.places.get(other)
        return None if row is None or column is None else self.judgments.get((row, column))


def all_pairs(
    results: Results, metric: str, options: Options, blocks: Sequence[Block] = ()
) -> Pairwise:
    """Differences, verdicts and mean ranks; inert copies are left out. ``blocks`` are the
    comparisons with references, whose verdicts are taken over.
    """
    ranked, left_out = results.ranked()
    direction, size = results.direction(metric), len(ranked)
    rows = [_row(results, metric, ranked, i) for i in range(size)]
    seen = (sample for samples, _ in rows for sample in samples)
    judgments = judge_family(seen, results, options, direction, size * (size - 1) // 2)
    found = PairJudgments.of(ranked, judgments, _planned(metric, blocks))
    upper = np.triu_indices(size, k=1)
    difference_VV, p_VV = np.zeros((size, size)), np.ones((size, size))
    difference_VV[upper] = np.concatenate([means for _, means in rows] or [np.empty(0)])
    difference_VV.T[upper] = -difference_VV[upper]
    p_VV[upper] = [np.nan if (p := j.like.holm_p) is None else p for j in found.upper]
    p_VV.T[upper] = p_VV[upper]
    table_DV = direction * stats.dataset_means(results.cube(ranked, metric)).T
    ranks, reason = _rank_groups(table_DV, p_VV, options)
    return Pairwise(
        metric=metric,
        direction=direction,
        variants=ranked,
        places={variant: i for i, variant in enumerate(ranked)},
        difference_VV=difference_VV,
        p_VV=p_VV,
        judgments=found,
        omnibus=stats.friedman(table_DV),
        ranks=ranks,
        best=_best(direction * difference_VV),
        left_out=left_out,
        reason=reason,
    )


def _best(gain_VV: Array) -> int | None:
    if not len(gain_VV) or np.isnan(gain_VV).any():
        return None
    return int(np.argmax(gain_VV.mean(axis=1)))


def _row(
    results: Results, metric: str, ranked: Sequence[str], i: int
) -> tuple[Sequence[Array | SeedMeans], Array]:
    """The differences of a variant from all after it as a test sees them, and their means, NaN
    without a pair.

    They are one block (M, D, S), unless some variants have no common seed, or no seeds at all.
    """
    one, others = ranked[i], ranked[i + 1 :]
    cube = results.cube(ranked, metric)
    block_MDS = cube[i] - cube[i + 1 :]
    paired_M = np.isfinite(block_MDS).any(axis=(1, 2))
    if not results.seeded(one):
        paired_M &= np.array([results.seeded(v) for v in others], dtype=np.bool_)
    if paired_M.all():
        return ([block_MDS] if others else []), _mean_of_known(stats.dataset_means(block_MDS))
    samples = [
        (block, stats.dataset_means(block)) if paired else sampled(results, one, other, metric)
        for other, block, paired in zip(others, block_MDS, paired_M.tolist(), strict=True)
    ]
    means_MD = np.array([means for _, means in samples])
    return [sample for sample, _ in samples], _mean_of_known(means_MD)


def _mean_of_known(means_MD: Array) -> Array:
    """The mean over the datasets that have a value, (M,), NaN where none has."""
    known_MD = np.isfinite(means_MD)
    mean_M = np.full(len(means_MD), np.nan)
    whole_M = known_MD.all(axis=1)
    mean_M[whole_M] = means_MD[whole_M].mean(axis=1)
    for m in np.flatnonzero(~whole_M & known_MD.any(axis=1)):
        mean_M[m] = means_MD[m, known_MD[m]].mean()
    return mean_M


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
    gaps = found.difference_VV[np.triu_indices(len(found.variants), k=1)].tolist()
    pairs = combinations(found.variants, 2)
    for (variant, other), gap, judgment in zip(pairs, gaps, found.judgments.upper, strict=True):
        difference = gap if math.isfinite(gap) else None
        yield Pair(found.metric, variant, other, difference, judgment)


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
