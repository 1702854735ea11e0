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
    least = 2 / 2.0 ** (only_one + only_two)
    return McNemar(counts, min(1.0, p), difference, interval, min(1.0, least))


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
