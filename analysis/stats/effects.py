"""Effect sizes of paired differences: their magnitude, consistency and frequency."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.stats.intervals import (
    ROUNDING,
    Array,
    Interval,
    dataset_means,
    has_spread,
    known_values,
    share_interval,
)
from analysis.stats.paired import NO_PAIR, sign_sum_counts

GAMMA = 0.75
"""P(A > B) from which on an improvement counts as meaningful (Bouthillier et al., MLSys 2021)."""

MAX_EXACT_WALSH = 200


class Estimate(NamedTuple):
    """A number with its interval; None where it does not exist, and then ``reason`` says why.

    ``level`` is the exact level of the interval where that is not the one asked for.
    """

    value: float | None
    interval: Interval | None = None
    level: float | None = None
    reason: str = ""


def hodges_lehmann(differences: Array, *, level: float = 0.95) -> Estimate:
    """Median of the n(n+1)/2 pairwise (Walsh) averages, with the interval of the signed-rank test.

    The interval holds every shift that the exact two-sided test does not reject. Its level is at
    least the one asked for; five pairs or fewer cannot give 95 %. It assumes symmetry, and is
    conservative with ties. Source: Hodges and Lehmann, Ann. Math. Statist. 34, 1963.
    """
    known = known_values(differences)
    n = int(known.size)
    if n == 0:
        return Estimate(None, reason=NO_PAIR)
    first, second = np.triu_indices(n)
    walsh = np.sort((known[first] + known[second]) / 2)
    value = float(np.median(walsh))
    if n > MAX_EXACT_WALSH:
        spread = np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        cut = int(n * (n + 1) / 4 - stats.norm.ppf(0.5 + level / 2) * spread)
        return Estimate(value, Interval(float(walsh[cut]), float(walsh[-1 - cut])))
    below = np.cumsum(np.array(sign_sum_counts(n), dtype=object)) / 2**n
    allowed = np.flatnonzero(2 * below <= 1 - level + 1e-12)
    if allowed.size == 0:
        reach = 1 - 2 / 2**n
        reason = f"{n} pairs reach {100 * reach:.4g} % at most, not {100 * level:g} %: no interval"
        return Estimate(value, reason=reason)
    cut = int(allowed[-1])
    interval = Interval(float(walsh[cut]), float(walsh[-1 - cut]))
    return Estimate(value, interval, level=1 - 2 * float(below[cut]))


def cohen_dz(differences: Array) -> Estimate:
    """Mean of paired differences over their standard deviation (ddof=1)."""
    known = known_values(differences)
    if known.size < 2:
        return Estimate(None, reason="a standard deviation needs two pairs")
    if not has_spread(known):
        reason = "the difference is the same everywhere, so its standard deviation is zero"
        return Estimate(None, reason=reason)
    return Estimate(float(known.mean() / known.std(ddof=1)))


def hedges_g(differences: Array) -> Estimate:
    """``cohen_dz`` without its small-sample bias: times 1 - 3 / (4 df - 1), df = n - 1.

    Two pairs have df = 1, where the factor is 0: no value. Source: Hedges, J. Educ. Statist. 6,
    1981.
    """
    dz = cohen_dz(differences)
    df = known_values(differences).size - 1
    if dz.value is None:
        return dz
    if df < 2:
        return Estimate(None, reason="the small-sample correction needs three pairs")
    return Estimate(dz.value * (1 - 3 / (4 * df - 1)))


def rank_biserial(differences: Array) -> Estimate:
    """Matched-pairs rank-biserial correlation (R+ - R-) / (R+ + R-), zeros dropped, from -1 to 1.

    Source: Kerby, Comprehensive Psychology 3, 2014.
    """
    known = known_values(differences)
    known = known[known != 0]
    if known.size == 0:
        return Estimate(None, reason="all differences are zero: there are no ranks to compare")
    ranks = stats.rankdata(np.abs(known))
    return Estimate(float((np.sign(known) * ranks).sum() / ranks.sum()))


def better_share(difference_DS: Array) -> Array:
    """1 where a pair is a win, 1/2 where it is a tie, 0 where it is a loss; NaN stays NaN."""
    rounded = np.round(difference_DS, ROUNDING)
    return np.where(np.isnan(rounded), np.nan, (np.sign(rounded) + 1) / 2)


def probability_better(difference_DS: Array) -> Estimate:
    """P(A > B) + P(A = B) / 2 over paired runs, mean over datasets, of differences (D, S).

    The interval is exact, with the dataset as the unit; on one dataset, with the run. A bootstrap
    over a few datasets covers .82 where it claims .95, and has no width where all of them agree.
    Source: Bouthillier et al., MLSys 2021, arXiv 2103.03098: significant and meaningful when the
    interval is above 1/2 and reaches beyond ``GAMMA``.
    """
    share_DS = better_share(np.atleast_2d(difference_DS))
    means = dataset_means(share_DS)
    means = means[~np.isnan(means)]
    num = int(np.sum(~np.isnan(share_DS)))
    if num == 0:
        return Estimate(None, reason=NO_PAIR)
    value = float(means.mean())
    if num == 1:
        return Estimate(value, reason="one pair: no interval")
    return Estimate(value, share_interval(value, int(means.size) if means.size > 1 else num))


def probability_better_unpaired(values: Array, reference: Array) -> Estimate:
    """P(A > B) + P(A = B) / 2 over all pairs of two unpaired samples (Vargha and Delaney's A12)."""
    one, two = known_values(values), known_values(reference)
    if min(one.size, two.size) == 0:
        return Estimate(None, reason="one side has no score")
    return Estimate(float(better_share(one[:, None] - two[None, :]).mean()))
