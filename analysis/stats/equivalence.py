"""Tests and posteriors with a region of practical equivalence (ROPE).

A large p never means "no difference"; these can show equivalence where the data support it.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.stats.intervals import ROUNDING, Array, has_spread, known_values
from analysis.stats.paired import NO_PAIR, ONE_PAIR, corrected_resampled_t, upper_tail

ROPE = 0.01
"""Half width of the default region: one point of accuracy, as a fraction."""

CHUNK = 10_000


class Tost(NamedTuple):
    """Two one-sided tests: ``p`` is the larger of the two. Below alpha: equivalent."""

    p: float | None
    p_above_low: float | None
    p_below_high: float | None
    smallest_p: float | None = None
    reason: str = ""


def _check_rope(rope: float, least: float) -> None:
    if not (math.isfinite(rope) and rope >= least):
        raise ValueError(
            f"rope is half the width of the region that counts as equal, in the unit of the "
            f"scores, a number {'of 0 or more' if least == 0 else 'above 0'}, got {rope}"
        )


def tost(differences: Array, *, rope: float = ROPE, overlap: float | None = None) -> Tost:
    """Is the mean of paired differences, shape (n,), inside (-rope, rope)? Two one-sided t tests,
    corrected for resamples that share data where ``overlap`` (n_test / n_train) is given.

    Without any spread t does not exist. Then the exact sign-flip version answers: a constant inside
    the region gives p = 2**-n, its smallest; outside, 1. Source: Schuirmann, J. Pharmacokinet.
    Biopharm. 15, 1987.
    """
    _check_rope(rope, np.finfo(float).tiny)
    known = known_values(differences)
    n = int(known.size)
    if n < 2:
        return Tost(None, None, None, reason=ONE_PAIR if n else NO_PAIR)
    if not has_spread(known):
        least = 0.5**n
        low, high = (least if inside > 0 else 1.0 for inside in (known[0] + rope, rope - known[0]))
        reason = "the difference is the same everywhere, so the exact sign-flip version is used"
        return Tost(max(low, high), low, high, smallest_p=least, reason=reason)
    mean = float(known.mean())
    low, high = (upper_tail(s, known, overlap=overlap) for s in (mean + rope, rope - mean))
    return Tost(max(low, high), low, high)


class Posterior(NamedTuple):
    """Probabilities that the first variant is worse, practically equal, or better; they add up to
    1. All None where there is nothing to learn from.
    """

    worse: float | None
    equal: float | None
    better: float | None
    reason: str = ""


def bayesian_signed_rank(
    differences: Array,
    *,
    rng: np.random.Generator,
    rope: float = ROPE,
    prior_strength: float = 0.5,
    draws: int = 50_000,
) -> Posterior:
    """Bayesian signed-rank test of paired differences over datasets, shape (n,).

    The datasets have Dirichlet(1) weights, and one pseudo-difference of 0 has ``prior_strength``
    (0.5 as in the authors' package baycomp, class SignedRankTest; its sign test has 1). A draw of
    the weights gives the shares of pairs whose average lies below, in and above the region; the
    result is how often each share is the largest. With ``rope`` = 0 only below and above are
    compared. Source: Benavoli, Corani, Demsar, Zaffalon, JMLR 18, 2017.
    """
    _check_rope(rope, 0.0)
    known = known_values(differences)
    if known.size == 0:
        return Posterior(None, None, None, NO_PAIR)
    values = np.concatenate([[0.0], known])
    sums = np.round(values[:, None] + values[None, :], ROUNDING)
    above = np.heaviside(sums - round(2 * rope, ROUNDING), 0.5)
    below = np.heaviside(-sums - round(2 * rope, ROUNDING), 0.5)
    strengths = np.ones(values.size)
    strengths[0] = prior_strength
    votes = np.zeros(3)
    for start in range(0, draws, CHUNK):
        weights = rng.dirichlet(strengths, min(CHUNK, draws - start))
        shares = np.stack([_share(weights, below), np.zeros(len(weights)), _share(weights, above)])
        if rope > 0:
            shares[1] = 1 - shares[0] - shares[2]
        largest = shares >= shares.max(axis=0) - 1e-12
        votes += (largest / largest.sum(axis=0)).sum(axis=1)
    worse, equal, better = (votes / draws).tolist()
    return Posterior(worse, equal, better)


def _share(weights_RN: Array, pairs_NN: Array) -> Array:
    return np.asarray(((weights_RN @ pairs_NN) * weights_RN).sum(axis=1), dtype=np.float64)


def bayesian_correlated_t(
    differences: Array, *, test_over_train: float, rope: float = ROPE
) -> Posterior:
    """Posterior of the mean difference over overlapping resamples of one dataset, shape (n,).

    A Student t with the location and scale of ``corrected_resampled_t``: with ``rope`` = 0 twice
    the smaller tail is that test's p. Source: Corani and Benavoli, Machine Learning 100, 2015.
    """
    _check_rope(rope, 0.0)
    test = corrected_resampled_t(differences, test_over_train=test_over_train)
    known = known_values(differences)
    if test.scale is None:
        return Posterior(None, None, None, test.reason)
    posterior = stats.t(df=known.size - 1, loc=float(known.mean()), scale=test.scale)
    worse, better = float(posterior.cdf(-rope)), float(posterior.sf(rope))
    return Posterior(worse, max(0.0, 1 - worse - better), better)
