"""Every variant against every other one on one metric: verdicts, ranks, and what is best.

The pairs are one family for Holm, so that a best variant that was picked by looking is covered.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.sections.comparisons import Options
from analysis.stats import Array, Omnibus, Primary, RankGroups, Verdict

MAX_VARIANTS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairwise:
    """All pairs of the variants that may be ranked with the baseline.

    ``words_VV`` says how the row stands to the column, "" on the diagonal; ``difference_VV`` is row
    minus column, NaN without a pair. ``ranks`` is None where too few datasets are complete, and
    ``reason`` says so. ``left_out`` names variants that may not be ranked, with the reason.
    """

    metric: str
    variants: tuple[str, ...]
    difference_VV: Array
    p_VV: Array
    words_VV: tuple[tuple[str, ...], ...]
    primary: Primary
    omnibus: Omnibus
    ranks: RankGroups | None
    left_out: tuple[tuple[str, str], ...] = ()
    reason: str = ""

    @property
    def best(self) -> int | None:
        """Index of the variant with the highest mean difference from the others."""
        if not len(self.variants) or np.isnan(self.difference_VV).any():
            return None
        return int(np.argmax(self.difference_VV.mean(axis=1)))

    def word(self, variant: str, other: str) -> str:
        """How ``variant`` stands to ``other``, "" where they are not compared."""
        if variant not in self.variants or other not in self.variants:
            return ""
        return self.words_VV[self.variants.index(variant)][self.variants.index(other)]


def all_pairs(results: Results, metric: str, options: Options) -> Pairwise:
    """Differences, Holm-adjusted verdicts and mean ranks; inert copies are left out."""
    ranked, left_out = _ranked(results)
    scores = {v: results.scores(v, metric) for v in ranked}
    pairs = list(combinations(range(len(ranked)), 2))
    differences = [stats.paired_differences(scores[ranked[i]], scores[ranked[j]]) for i, j in pairs]
    verdicts = stats.judge(
        differences, alpha=options.alpha, rope=options.rope, overlap=options.overlap
    )
    size = len(ranked)
    difference_VV, p_VV = np.zeros((size, size)), np.ones((size, size))
    words = [[""] * size for _ in range(size)]
    for (i, j), values, verdict in zip(pairs, differences, verdicts, strict=True):
        means = stats.dataset_means(values)
        known = means[~np.isnan(means)]
        difference = float(known.mean()) if known.size else np.nan
        difference_VV[i, j], difference_VV[j, i] = difference, -difference
        p_VV[i, j] = p_VV[j, i] = 1.0 if verdict.p is None else verdict.p
        words[i][j], words[j][i] = verdict.word, _turned(verdict)
    table_DV = stats.dataset_means(results.cube(ranked, metric)).T
    ranks, reason = _rank_groups(table_DV, p_VV, options)
    return Pairwise(
        metric=metric,
        variants=tuple(ranked),
        difference_VV=difference_VV,
        p_VV=p_VV,
        words_VV=tuple(map(tuple, words)),
        primary=stats.family_test(differences, alpha=options.alpha, overlap=options.overlap),
        omnibus=stats.friedman(table_DV),
        ranks=ranks,
        left_out=left_out,
        reason=reason,
    )


def _ranked(results: Results) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    ranked: list[str] = []
    left_out: list[tuple[str, str]] = []
    for variant in results.variants:
        if variant in results.aliases:
            left_out.append((variant, f"the same runs as {results.aliases[variant]}"))
        elif reason := results.not_comparable(variant, results.baseline):
            left_out.append((variant, reason))
        elif len(ranked) >= MAX_VARIANTS:
            left_out.append((variant, f"all pairs are made of {MAX_VARIANTS} variants at most"))
        else:
            ranked.append(variant)
    return ranked, tuple(left_out)


def _turned(verdict: Verdict) -> str:
    return {"better": "worse", "worse": "better"}.get(verdict.word, verdict.word)


def _rank_groups(table_DV: Array, p_VV: Array, options: Options) -> tuple[RankGroups | None, str]:
    complete = int((~np.isnan(table_DV).any(axis=1)).sum())
    if table_DV.shape[1] < 2:
        return None, "mean ranks need two variants that may be ranked together"
    if complete < 2:
        return None, (
            "mean ranks need two datasets on which every variant has a score, "
            f"this study has {complete}"
        )
    return stats.rank_groups(table_DV, p_VV, alpha=options.alpha), ""
