"""Conover's test on ranks, a sensitivity check of the pairwise tests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, Options, once
from analysis.sections.pairwise import Pairwise, paired
from analysis.sections.section import Section, Topic, running_text
from analysis.sections.shared_tests import scored
from analysis.stats import Array, Claim
from analysis.text import Column, Columns, Kind, Show, counted, table


class Disagreement(NamedTuple):
    """A pair on which the pairwise test and Conover's differ: how ``variant`` stands to ``other``
    by either, and Conover's Holm-adjusted p.
    """

    variant: str
    other: str
    pairwise: str
    conover: str
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAgreement:
    """Conover's test and the pairwise verdicts. ``p_VV`` follows ``variants``; None with the
    reason.
    """

    variants: tuple[str, ...]
    p_VV: Array | None
    num_datasets: int
    disagreements: tuple[Disagreement, ...] = ()
    reason: str = ""

    @property
    def num_pairs(self) -> int:
        """Number of pairs of variants."""
        return len(self.variants) * (len(self.variants) - 1) // 2


def rank_agreement(
    results: Results, compared: Sequence[str], pairs: Pairwise, options: Options
) -> RankAgreement:
    """Conover's test on the ranks of these variants, and its differences from the pairs."""
    columns = [
        pairs.direction * stats.dataset_means(results.scores(v, pairs.metric)) for v in compared
    ]
    table_DV = np.stack(columns, axis=1) if columns else np.zeros((len(results.datasets), 0))
    p_VV, reason = stats.conover_friedman(table_DV)
    ranks = stats.friedman(table_DV)
    found = RankAgreement(variants=tuple(compared), p_VV=p_VV, num_datasets=ranks.n, reason=reason)
    if p_VV is None:
        return found
    disagreements = []
    for i, j in combinations(range(len(compared)), 2):
        ahead = "better" if ranks.mean_ranks[i] < ranks.mean_ranks[j] else "worse"
        word, p = ahead if p_VV[i, j] < options.alpha else "undecided", float(p_VV[i, j])
        judgment = pairs.judgment(compared[i], compared[j])
        like = judgment.like if judgment else Claim()
        if word != (like.word if like.decided else "undecided"):
            disagreements.append(Disagreement(compared[i], compared[j], like.word, word, p))
    return replace(found, disagreements=tuple(disagreements))


@once
def agreement(analysis: Analysis) -> RankAgreement:
    """Conover's test of this report."""
    pairs = paired(analysis)[analysis.metric]
    return rank_agreement(analysis.results, scored(analysis), pairs, analysis.options)


COLUMNS: Columns[Disagreement] = (
    Column("variant", "Variant", Kind.NAME, lambda d: d.variant),
    Column("other", "Against", Kind.TEXT, lambda d: d.other),
    Column("holm_p", "p Holm, Conover", Kind.P, lambda d: d.p),
    Column("conover", "Conover", Kind.TEXT, lambda d: d.conover),
    Column("pairwise", "Datasets like these", Kind.TEXT, lambda d: d.pairwise),
)


class ConoverPair(NamedTuple):
    """Conover's Holm-adjusted p of one pair."""

    variant: str
    other: str
    holm_p: float


PAIR_COLUMNS: Columns[ConoverPair] = (
    Column("variant", "Variant", Kind.NAME, lambda p: p.variant, Show.FILES),
    Column("other", "Against", Kind.NAME, lambda p: p.other, Show.FILES),
    Column("holm_p", "p Holm", Kind.P, lambda p: p.holm_p, Show.FILES),
)
FIT_COLUMNS: Columns[RankAgreement] = (
    Column("datasets", "Complete datasets", Kind.COUNT, lambda r: r.num_datasets, Show.FILES),
    Column("pairs", "Pairs", Kind.COUNT, lambda r: r.num_pairs, Show.FILES),
)


def _pairs(found: RankAgreement) -> Iterator[ConoverPair]:
    for i, j in combinations(range(len(found.variants)), 2):
        if found.p_VV is not None:
            yield ConoverPair(found.variants[i], found.variants[j], float(found.p_VV[i, j]))


def _sentences(found: RankAgreement) -> list[str]:
    start = (
        "Conover's test compares all pairs by their ranks on "
        f"{counted(found.num_datasets, 'complete dataset')}, adjusted by Holm. It decides nothing, "
        "because its result depends on the other variants in the table."
    )
    pairs = counted(found.num_pairs, "pair")
    if not found.disagreements:
        return [start, f"It agrees with the verdicts on datasets like these on all {pairs}."]
    return [
        start,
        f"It disagrees with the verdicts on datasets like these on {len(found.disagreements)} of "
        f"{pairs}.",
    ]


def _sections(analysis: Analysis) -> Sequence[Section]:
    found, title = agreement(analysis), "Conover's test as a sensitivity check"
    tables = (
        table("disagreements", title, COLUMNS, found.disagreements),
        table("pairs", title, PAIR_COLUMNS, _pairs(found)),
        table("fit", title, FIT_COLUMNS, [found]),
    )
    if found.p_VV is None:
        return [Section(key="conover", title=title, tables=tables, reason=found.reason)]
    return [
        Section(
            key="conover", title=title, sentences=running_text(_sentences(found)), tables=tables
        )
    ]


TOPIC = Topic(
    key="conover",
    build=_sections,
    files={"disagreements": COLUMNS, "pairs": PAIR_COLUMNS, "fit": FIT_COLUMNS},
)
