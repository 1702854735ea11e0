"""Tests of paired differences, one number per dataset (or per seed of one dataset)."""

import functools
import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

from analysis.stats.intervals import (
    ROUNDING,
    Array,
    Interval,
    has_spread,
    known_values,
    t_interval,
    t_quantile,
)

MAX_ENUMERATED = 20
"""All sign patterns are enumerated up to this many pairs."""

MAX_SIGNS = 2**22
"""Signs that are drawn at a time: 32 MiB of products."""
NUM_SIGN_DRAWS = 100_000
NO_PAIR = "no pair of scores"
ONE_PAIR = "one pair only: no test"


class SignedRank(NamedTuple):
    """Exact two-sided Wilcoxon signed-rank result; ``positive`` and ``negative`` are the rank
    sums. ``p`` is None without a pair.
    """

    p: float | None
    positive: float
    negative: float


class PairedT(NamedTuple):
    """Paired t test: two-sided p and the interval of the mean difference; None where they do not
    exist, and then ``reason`` says why.
    """

    p: float | None
    interval: Interval | None
    reason: str = ""


class PValue(NamedTuple):
    """A p value, the smallest that the design could have given, and why there is none."""

    p: float | None
    smallest_p: float | None = None
    reason: str = ""


@functools.lru_cache(maxsize=256)
def sign_sum_counts(num_pairs: int) -> tuple[int, ...]:
    """Number of sign patterns of the ranks 1..n by the sum of those with a plus: exact integers."""
    counts = [1]
    for rank in range(1, num_pairs + 1):
        shifted = [0] * rank + counts
        padded = counts + [0] * rank
        counts = [a + b for a, b in zip(padded, shifted, strict=True)]
    return tuple(counts)


@functools.lru_cache(maxsize=4096)
def patterns_up_to(most: int, doubled_ranks: tuple[int, ...]) -> int:
    """Number of sign patterns whose (doubled) ranks with a plus add up to ``most`` or less, exact.

    The counts of all sums are the digits of one integer, wide enough that none carries over, so
    that a rank is added by one shift; sums beyond ``most`` are cut off at once.
    """
    width = len(doubled_ranks) + 2
    kept = (1 << width * (most + 1)) - 1
    counts = 1
    for rank in doubled_ranks:
        counts = (counts + (counts << width * rank)) & kept
    return _sum_of_digits(counts, width)


def _sum_of_digits(counts: int, width: int) -> int:
    """Sum of the digits in base 2**width where it is less than the base, by casting out."""
    return counts % ((1 << width) - 1)


def signed_rank(differences: Array) -> SignedRank:
    """Exact Wilcoxon signed-rank test of paired differences, shape (n,), with Pratt's zeros.

    Zeros are ranked and then dropped; ties share the mean rank; p is exact under random signs for
    any n, also with ties, where tables (and scipy's ``method='exact'``) assume there are none.
    Differences are rounded to 1e-9 first. All zero gives p = 1. Sources: Wilcoxon 1945; Pratt, JASA
    54, 1959; Demsar, JMLR 7, 2006.
    """
    rounded = known_values(differences)
    if rounded.size == 0:
        return SignedRank(None, 0.0, 0.0)
    doubled = np.rint(2 * stats.rankdata(np.abs(rounded))).astype(int)
    positive = int(doubled[rounded > 0].sum())
    ranks = tuple(sorted(doubled[rounded != 0].tolist()))
    negative = sum(ranks) - positive
    # Both tails are alike: swapping all signs maps the sums from above onto those from below.
    extreme = patterns_up_to(min(positive, negative), ranks)
    return SignedRank(min(1.0, 2 * extreme / 2 ** len(ranks)), positive / 2, negative / 2)


def paired_t(differences: Array, *, level: float = 0.95) -> PairedT:
    """Student's t test of the mean of paired differences, shape (n,). Assumes that they are roughly
    normal.

    Fewer than two values: neither p nor interval. No spread: p = 1 when all are zero, otherwise no
    p, since t = inf would claim certainty from a constant. Spread below 1e-9 counts as none.
    """
    flat = np.asarray(differences, dtype=np.float64).ravel()
    known = flat[np.isfinite(flat)]
    if known.size < 2:
        return PairedT(None, None, ONE_PAIR if known.size else NO_PAIR)
    if not has_spread(known):
        mean, half_width, _ = t_interval(known, level=level)
        assert half_width is not None
        constant = "the difference is the same everywhere: t is not defined"
        zero = not round(mean, ROUNDING)
        interval = Interval(mean - half_width, mean + half_width)
        return PairedT(1.0 if zero else None, interval, "" if zero else constant)
    mean, half_width, n = t_interval(known, level=level)
    assert half_width is not None
    error = half_width / t_quantile(level, n - 1)
    return PairedT(two_tails(mean / error, n - 1), Interval(mean - half_width, mean + half_width))


def two_tails(statistic: float, df: float) -> float:
    """Two-sided p of Student's t."""
    return 2 * float(special.stdtr(df, -abs(statistic)))


def _with_interval(test: Any, level: float) -> PairedT:
    """P and interval of a t test of scipy."""
    return PairedT(float(test.pvalue), Interval(*map(float, test.confidence_interval(level))))


def upper_tail(shift: float, known: Array, *, overlap: float | None = None) -> float:
    """One-sided p of Student's t for a mean that lies ``shift`` above the hypothesis, with the
    spread of ``known``. ``overlap`` is n_test / n_train of resamples that share data, see
    ``corrected_resampled_t``.
    """
    error = float(known.std(ddof=1)) * math.sqrt(1 / known.size + (overlap or 0.0))
    return float(special.stdtr(known.size - 1, -shift / error))


def welch_t(values: Array, reference: Array, *, level: float = 0.95) -> PairedT:
    """Welch's t test of two unpaired samples of one dataset.

    Source: Welch, Biometrika 34, 1947; recommended for few seeds by Colas et al., arXiv 1806.08295.
    """
    one, two = known_values(values), known_values(reference)
    if min(one.size, two.size) < 2:
        return PairedT(None, None, "Welch's t needs two seeds on either side")
    if not has_spread(one) and not has_spread(two):
        return PairedT(None, None, "neither side varies over seeds: t is not defined")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one constant side: Welch's t exists
        return _with_interval(stats.ttest_ind(one, two, equal_var=False), level)


def sign_flip(differences: Array, *, rng: np.random.Generator | None = None) -> PValue:
    """Exact two-sided sign-flip (randomization) test of the mean of paired differences, shape (n,).

    All 2**n sign patterns up to 20 pairs; beyond, 100,000 drawn ones with the observed pattern
    counted in, for which ``rng`` is needed. Sums are compared after rounding to 1e-9. The p equals
    that of ``scipy.stats.permutation_test``, which takes seconds for 20 pairs.
    """
    known = known_values(differences)
    n = int(known.size)
    if n == 0:
        return PValue(None, None, NO_PAIR)
    observed = round(abs(float(known.sum())), ROUNDING)
    if n <= MAX_ENUMERATED:
        sums = known[:1]
        for value in known[1:]:
            sums = np.concatenate([sums + value, sums - value])
        extreme = np.round(np.abs(sums), ROUNDING) >= observed
        return PValue(float(extreme.mean()), smallest_p(n))
    if rng is None:
        reason = f"more than {MAX_ENUMERATED} pairs: sign patterns are drawn, which needs rng"
        return PValue(None, smallest_p(n), reason)
    count = 0
    # Blocks of a multiple of four rows: the generator cuts four signs out of a number.
    rows = max(4, MAX_SIGNS // n // 4 * 4)
    for start in range(0, NUM_SIGN_DRAWS, rows):
        shape = (min(rows, NUM_SIGN_DRAWS - start), n)
        signs = rng.integers(0, 2, shape, dtype=np.int8) * 2.0 - 1
        count += int((np.round(np.abs(signs @ known), ROUNDING) >= observed).sum())
    p = (count + 1) / (NUM_SIGN_DRAWS + 1)
    return PValue(p, 1 / (NUM_SIGN_DRAWS + 1))


def sign_test(differences: Array) -> PValue:
    """Exact two-sided sign test: wins against losses, ties dropped."""
    wins, ties, losses = win_tie_loss(differences)
    if wins + losses == 0:
        return PValue(1.0 if ties else None, None, "" if ties else NO_PAIR)
    return PValue(float(stats.binomtest(wins, wins + losses).pvalue), smallest_p(wins + losses))


def smallest_p(num_pairs: int) -> float | None:
    """Smallest two-sided p that a signed-rank or sign-flip test on n pairs can reach, 2 / 2**n;
    None for n < 1.
    """
    return 2 / 2**num_pairs if num_pairs >= 1 else None


def win_tie_loss(differences: Array) -> tuple[int, int, int]:
    """Numbers of positive, zero and negative differences after rounding to 1e-9; NaN is not
    counted.
    """
    rounded = known_values(differences)
    return int((rounded > 0).sum()), int((rounded == 0).sum()), int((rounded < 0).sum())


class ResampledT(NamedTuple):
    """Corrected resampled t: statistic, p, interval of the mean, and scale of the mean."""

    t: float | None
    p: float | None
    interval: Interval | None
    scale: float | None
    reason: str = ""


def corrected_resampled_t(
    differences: Array, *, test_over_train: float, level: float = 0.95
) -> ResampledT:
    """T test of differences over overlapping resamples of one dataset, shape (n,).

    Their variance factor is 1/n + n_test/n_train instead of 1/n, because resamples share data:
    Nadeau and Bengio, Machine Learning 52, 2003; Bouckaert and Frank, PAKDD 2004.
    ``test_over_train`` is n_test / n_train, 1/9 for ten-fold cross-validation.
    """
    if not test_over_train >= 0:
        raise ValueError(
            f"test_over_train is the ratio of test to training images, or 0 where resamples share "
            f"no data, got {test_over_train}"
        )
    known = known_values(differences)
    if known.size < 2:
        return ResampledT(None, None, None, None, ONE_PAIR if known.size else NO_PAIR)
    if not has_spread(known):
        reason = "the difference is the same in every resample: t is not defined"
        return ResampledT(None, None, None, None, reason)
    n = known.size
    scale = math.sqrt((1 / n + test_over_train) * float(known.var(ddof=1)))
    mean = float(known.mean())
    half = t_quantile(level, n - 1) * scale
    p = two_tails(mean / scale, n - 1)
    return ResampledT(mean / scale, p, Interval(mean - half, mean + half), scale)
