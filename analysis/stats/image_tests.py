"""Tests on the test images themselves: a claim about these trained models, not about methods.

For runs that were scored on the same images in the same order. N images, V models.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import cochrans_q, mcnemar

from analysis.stats.intervals import Interval

Correct = NDArray[np.bool_] | NDArray[np.integer]
CLAIM = "about these trained models, not about the methods"


class McNemar(NamedTuple):
    """Images that only one of two models predicts correctly, exact p, and the accuracy difference.

    ``table`` is ((both correct, only the first), (only the second, both wrong)). ``smallest_p`` is
    the smallest attainable with that many disagreements.
    """

    table: tuple[tuple[int, int], tuple[int, int]]
    p: float | None
    difference: float | None
    interval: Interval | None
    smallest_p: float | None = None
    reason: str = ""


def _checked(correct: Correct) -> NDArray[np.bool_]:
    values = np.asarray(correct)
    if not np.isin(values, (0, 1)).all():
        raise ValueError("correctness is 0 or 1 per image; leave out images without a prediction")
    return values.astype(bool)


def mcnemar_exact(first_N: Correct, second_N: Correct, *, level: float = 0.95) -> McNemar:
    """McNemar's exact test of two models on the same images, and their accuracy difference.

    The interval of the difference is the adjusted Wald interval for paired shares (Bonett and
    Price, J. Educ. Behav. Statist. 37, 2012). Source: McNemar, Psychometrika 12, 1947.
    """
    one, two = _checked(first_N), _checked(second_N)
    if one.shape != two.shape or one.ndim != 1:
        raise ValueError(
            f"McNemar's test needs the same images in the same order, got {one.shape} and "
            f"{two.shape} of them"
        )
    table = tuple(
        tuple(int(np.sum((one == a) & (two == b))) for b in (True, False)) for a in (True, False)
    )
    n, only_one, only_two = one.size, table[0][1], table[1][0]
    counts = ((table[0][0], only_one), (only_two, table[1][1]))
    if n == 0:
        return McNemar(counts, None, None, None, reason="no image")
    shares = (only_one + 1) / (n + 2), (only_two + 1) / (n + 2)
    center = shares[0] - shares[1]
    half = float(stats.norm.ppf(0.5 + level / 2)) * math.sqrt((sum(shares) - center**2) / (n + 2))
    interval = Interval(max(-1.0, center - half), min(1.0, center + half))
    difference = (only_one - only_two) / n
    if only_one + only_two == 0:
        return McNemar(
            counts, 1.0, difference, interval, 1.0, "both are correct on the same images"
        )
    p = float(mcnemar(np.array(counts), exact=True).pvalue)
    least = 2 / 2 ** (only_one + only_two)  # whole numbers: more than 1023 overflow a float
    return McNemar(counts, min(1.0, p), difference, interval, min(1.0, least))


class ClusteredDifference(NamedTuple):
    """Accuracy difference over all seeds, with a standard error that is clustered by image.

    ``unclustered_error`` is what the error would be if every answer of every seed were an
    independent image; it understates the error where seeds are correct on the same images.
    """

    difference: float | None
    error: float | None
    unclustered_error: float | None
    p: float | None
    interval: Interval | None
    reason: str = ""


def clustered_difference(
    first_SN: Correct, second_SN: Correct, *, level: float = 0.95
) -> ClusteredDifference:
    """Two methods' trained models, S seeds of each, on the same N images, all seeds together.

    An image is a cluster of S paired differences, which are not independent: the variance of the
    mean is the sum of the squared cluster sums of residuals (Miller, "Adding error bars to evals",
    arXiv 2411.00640, 2024), with the factor N/(N - 1) and t on N - 1 degrees of freedom. Raises
    ValueError for shapes that differ.
    """
    one, two = _checked(first_SN), _checked(second_SN)
    if one.shape != two.shape or one.ndim != 2:
        raise ValueError(
            "a clustered difference needs the same seeds and images on both sides, got "
            f"{one.shape} and {two.shape}"
        )
    if one.shape[0] < 1 or one.shape[1] < 2:
        return ClusteredDifference(None, None, None, None, None, "fewer than two images")
    gaps = one.astype(float) - two.astype(float)
    num_images = gaps.shape[1]
    by_image, difference = gaps.mean(axis=0), float(gaps.mean())
    error = float(by_image.std(ddof=1)) / math.sqrt(num_images)
    alone = float(gaps.std(ddof=1)) / math.sqrt(gaps.size)
    if error == 0:
        reason = "the difference is the same on every image"
        p = 1.0 if difference == 0 else None
        return ClusteredDifference(difference, 0.0, alone, p, None, reason)
    p = 2 * float(stats.t.sf(abs(difference) / error, num_images - 1))
    half = float(stats.t.ppf(0.5 + level / 2, num_images - 1)) * error
    interval = Interval(difference - half, difference + half)
    return ClusteredDifference(difference, error, alone, p, interval)


class Cochran(NamedTuple):
    """Cochran's Q over V models on the same images, and its chi2 p."""

    q: float | None
    p: float | None
    reason: str = ""


def cochran_q(correct_NV: Correct) -> Cochran:
    """Are V models equally often correct on the same images?

    Source: Cochran, Biometrika 37, 1950.
    """
    values = _checked(correct_NV)
    if values.ndim != 2 or values.shape[1] < 2 or values.shape[0] < 1:
        return Cochran(
            None, None, f"Cochran's Q needs images and 2 models or more, got shape {values.shape}"
        )
    if not np.any(values != values[:, :1]):
        return Cochran(0.0, 1.0, "all models are correct on the same images")
    test = cochrans_q(values.astype(int))
    return Cochran(float(test.statistic), float(test.pvalue))
