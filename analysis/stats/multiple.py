"""Multiple comparisons: Holm's adjustment, and the largest family for which it leaves power."""

from collections.abc import Sequence

import numpy as np

from analysis.stats.intervals import Array
from analysis.stats.paired import smallest_p


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment over a family of M comparisons (Holm, Scand. J. Statist. 6,
    1979).

    A comparison without a p (None) still counts in M, as if its p were 1, and stays None.
    """
    adjusted = holm_of(np.array([np.nan if p is None else p for p in p_values]))
    return [None if p is None else float(a) for p, a in zip(p_values, adjusted, strict=True)]


def holm_of(p_M: Array) -> Array:
    """``holm`` of an array, NaN for a comparison without a p."""
    filled = np.where(np.isnan(p_M), 1.0, p_M)
    order = np.argsort(filled)
    steps = filled[order] * np.arange(len(filled), 0, -1)
    adjusted = np.empty(len(filled))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return np.where(np.isnan(p_M), np.nan, adjusted)


def most_comparisons(num_pairs: int, *, alpha: float = 0.05) -> int:
    """Largest family in which an exact Wilcoxon test on n pairs can still fall below ``alpha``
    after Holm's adjustment; 0 where not even a single test can.
    """
    least = smallest_p(num_pairs)
    if least is None:
        return 0
    family = int(alpha / least)
    return family - 1 if family * least >= alpha else family
