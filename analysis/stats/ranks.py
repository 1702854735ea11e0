"""Several variants over several datasets: omnibus and pairwise tests, groups, trends, stability.

Ranks are by dataset, 1 for the best (highest) score; scores are rounded to 1e-9 before ranking.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from analysis.stats.intervals import ROUNDING, Array
from analysis.stats.multiple import holm
from analysis.stats.resampling import CHUNK, MAX_SCORES, Resamples


class Omnibus(NamedTuple):
    """Friedman's chi2, Iman and Davenport's F, Kendall's W and mean ranks over ``n`` datasets.

    ``left_out`` are the rows with a missing score. A number that does not exist is None and
    ``reason`` says why.
    """

    n: int
    mean_ranks: tuple[float, ...]
    left_out: tuple[int, ...]
    chi2: float | None = None
    chi2_p: float | None = None
    f: float | None = None
    f_df: tuple[int, int] | None = None
    p: float | None = None
    kendall_w: float | None = None
    reason: str = ""


def _ranked(scores_DV: Array) -> tuple[Array, tuple[int, ...]]:
    missing = np.isnan(scores_DV).any(axis=1)
    ranks = stats.rankdata(-np.round(scores_DV[~missing], ROUNDING), axis=1)
    return np.asarray(ranks, dtype=np.float64), tuple(np.flatnonzero(missing).tolist())


def friedman(scores_DV: Array) -> Omnibus:
    """Do the variants differ at all? Scores (D, V), one mean per dataset; ``p`` is that of F.

    Sources: Friedman, JASA 32, 1937; Iman and Davenport, Comm. Statist. A9, 1980; Demsar, JMLR 7,
    2006. When all datasets agree on one strict order F is infinite, and p is exact: (1/V!)**(D-1).
    """
    ranks, left_out = _ranked(scores_DV)
    n, k = ranks.shape
    means = tuple(ranks.mean(axis=0).tolist()) if n else ()
    found = Omnibus(n, means, left_out)
    if k < 3 or n < 2:
        needs = f"Friedman's test needs 3 variants and 2 complete datasets, got {k} and {n}"
        return found._replace(reason=needs)
    tied = sum(
        float((c**3 - c).sum()) for c in (np.unique(r, return_counts=True)[1] for r in ranks)
    )
    correction = 1 - tied / (n * (k**3 - k))
    if correction <= 0:
        return found._replace(p=1.0, kendall_w=0.0, reason="all variants tie on every dataset")
    sums = ranks.sum(axis=0)
    chi2 = (12 / (n * k * (k + 1)) * float((sums**2).sum()) - 3 * n * (k + 1)) / correction
    found = found._replace(
        chi2=chi2,
        chi2_p=float(stats.chi2.sf(chi2, k - 1)),
        kendall_w=chi2 / (n * (k - 1)),
    )
    rest = n * (k - 1) - chi2
    if rest <= 1e-9:
        exact = math.factorial(k) ** (1 - n) if tied == 0 else None
        return found._replace(p=exact, reason="all datasets agree on the order, so F is infinite")
    f = (n - 1) * chi2 / rest
    df = (k - 1, (k - 1) * (n - 1))
    return found._replace(f=f, f_df=df, p=float(stats.f.sf(f, *df)))


def conover_friedman(scores_DV: Array) -> tuple[Array | None, str]:
    """Holm-adjusted p values (V, V) of Conover's test on Friedman ranks, or None and why not.

    A sensitivity check of the Wilcoxon matrix, never a decision: it uses mean ranks. Source:
    Conover, Practical Nonparametric Statistics, 3rd edition, 1999.
    """
    ranks, _ = _ranked(scores_DV)
    n, k = ranks.shape
    if k < 3 or n < 2:
        return None, f"Conover's test needs 3 variants and 2 complete datasets, got {k} and {n}"
    sums = ranks.sum(axis=0)
    df = (n - 1) * (k - 1)
    square = float((ranks**2).sum())
    spread = 2 * (n * square - float((sums**2).sum())) / df
    if spread <= 1e-9:
        return None, "all datasets agree on the order, so the noise cannot be estimated"
    pairs = list(combinations(range(k), 2))
    raw = [
        2 * float(special.stdtr(df, -abs(sums[i] - sums[j]) / math.sqrt(spread))) for i, j in pairs
    ]
    made = np.ones((k, k))
    for (i, j), p in zip(pairs, holm(raw), strict=True):
        made[i, j] = made[j, i] = 1.0 if p is None else p
    return made, ""


class RankGroups(NamedTuple):
    """What a critical-difference diagram shows: variants from best to worst mean rank, and the
    largest groups of neighbors in which no pair differs.

    ``apart`` counts the pairs that do not differ and share no group, because a variant that
    differs from one of the two has a rank between theirs; ``untested`` the pairs without a test.
    """

    order: tuple[int, ...]
    mean_ranks: tuple[float, ...]
    groups: tuple[tuple[int, ...], ...]
    apart: int = 0
    untested: int = 0


def rank_groups(scores_DV: Array, p_matrix: Array, *, alpha: float = 0.05) -> RankGroups:
    """Order by mean rank, grouped by a matrix of adjusted p values (V, V) of any test, NaN where
    there is none.

    A group is a stretch of the order that cannot be extended, with a p of at least ``alpha``
    between any two of its members, and with every variant whose mean rank lies between theirs or
    equals one of them: a bar over it marks its members alone. Such p values need not respect the
    order of the ranks, so not every pair that does not differ has a group.
    """
    ranks, _ = _ranked(scores_DV)
    if not len(ranks):
        raise ValueError("mean ranks need a dataset on which every variant has a score, found none")
    means = ranks.mean(axis=0)
    order = np.argsort(means, kind="stable")
    ordered, tested_p = means[order], p_matrix[np.ix_(order, order)]
    alike = tested_p >= alpha
    stretches = _stretches(alike, np.round(ordered, ROUNDING))
    above = np.triu(np.ones_like(alike), k=1)
    grouped = np.zeros_like(alike)
    for start, end in stretches:
        grouped[start:end, start:end] = True
    return RankGroups(
        order=tuple(order.tolist()),
        mean_ranks=tuple(ordered.tolist()),
        groups=tuple(tuple(order[start:end].tolist()) for start, end in stretches),
        apart=int((alike & ~grouped & above).sum()),
        untested=int((np.isnan(tested_p) & above).sum()),
    )


def _stretches(alike: NDArray[np.bool_], ranks: Array) -> list[tuple[int, int]]:
    """Start and end (exclusive) of the longest stretches of two or more in which all are alike; one
    that would end between two equal ranks is cut back.
    """
    size = len(ranks)
    borders = [i for i in range(size + 1) if i in (0, size) or ranks[i - 1] < ranks[i]]
    found: list[tuple[int, int]] = []
    reach = 0
    for start in borders[:-1]:
        reach = max(reach, start + 1)
        while reach < size and alike[start:reach, reach].all():
            reach += 1
        end = max(border for border in borders if border <= reach)
        if end - start > 1 and (not found or end > found[-1][1]):
            found.append((start, end))
    return found


class Trend(NamedTuple):
    """Page's L, its one-sided p for an increase, and the number of datasets."""

    statistic: float | None
    p: float | None
    n: int
    left_out: tuple[int, ...] = ()
    reason: str = ""


def page_trend(scores_DK: Sequence[Sequence[float]] | Array) -> Trend:
    """Does the score rise along K ordered conditions (shots)? Scores (D, K) in that order.

    One test over the datasets instead of one per number of shots. Source: Page, JASA 58, 1963.
    """
    scores = np.round(np.asarray(scores_DK, dtype=np.float64), ROUNDING)
    missing = np.isnan(scores).any(axis=1)
    left_out = tuple(np.flatnonzero(missing).tolist())
    kept = scores[~missing]
    n, k = kept.shape
    if n < 2 or k < 3:
        reason = f"Page's trend needs 2 complete datasets and 3 points, got {n} and {k}"
        return Trend(None, None, n, left_out, reason)
    if not np.any(np.ptp(kept, axis=1)):
        return Trend(None, 1.0, n, left_out, "every curve is flat")
    test = stats.page_trend_test(kept)
    return Trend(float(test.statistic), float(test.pvalue), n, left_out)


class RankStability(NamedTuple):
    """The mean rank of each variant, and how often it is best, or one of the first two, under
    resampling; None for a scope that the design cannot describe, and ``reason`` says why.
    """

    mean_ranks: tuple[float, ...]
    best_on_these: tuple[float, ...] | None
    best_on_like_these: tuple[float, ...] | None
    first_two_on_these: tuple[float, ...] | None
    first_two_on_like_these: tuple[float, ...] | None
    reason: str = ""


def rank_stability(scores_VDS: Array, resamples: Resamples) -> RankStability:
    """Would the order hold with other seeds, or on other datasets? Complete tables (V, D, S).

    The best has the highest mean over datasets; ties share it. Ranks are by dataset, 1 is best. The
    shares describe the spread of the study; they are not probabilities of a claim.
    """
    reps = len(resamples.dataset_RD)
    votes = np.zeros((2, 2, len(scores_VDS)))
    rows = max(1, min(CHUNK, MAX_SCORES // max(1, scores_VDS.size)))
    for start in range(0, reps, rows):
        for level, tables in enumerate(resamples.tables(scores_VDS, slice(start, start + rows))):
            means = np.round(tables.mean(axis=(-2, -1)), ROUNDING)
            for places in (1, 2):
                votes[level, places - 1] += _among_the_first(means, places).sum(axis=0)
    (like_best, like_two), (these_best, these_two) = (
        [tuple(share.tolist()) for share in level] for level in votes / reps
    )
    means_VD = np.round(scores_VDS.mean(axis=-1), ROUNDING)
    _, num_datasets, num_seeds = scores_VDS.shape
    reasons = [ONE_SEED] if num_seeds < 2 else []
    reasons += [ONE_DATASET] if num_datasets < 2 else []
    return RankStability(
        mean_ranks=tuple(stats.rankdata(-means_VD, axis=0).mean(axis=-1).tolist()),
        best_on_these=these_best if num_seeds > 1 else None,
        best_on_like_these=like_best if num_datasets > 1 else None,
        first_two_on_these=these_two if num_seeds > 1 else None,
        first_two_on_like_these=like_two if num_datasets > 1 else None,
        reason="; ".join(reasons),
    )


ONE_SEED = "one seed per dataset: nothing is known about other seeds on these datasets"
ONE_DATASET = "one dataset: nothing is known about datasets like it"


def _among_the_first(means_RV: Array, places: int) -> Array:
    """1 for a variant among the ``places`` highest, 0 for others; ties share the rest, (R, V)."""
    above = stats.rankdata(-means_RV, method="min", axis=1) - 1
    tied = stats.rankdata(-means_RV, method="max", axis=1) - above
    return np.asarray(np.clip((places - above) / tied, 0.0, 1.0), dtype=np.float64)
