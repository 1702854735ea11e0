"""Aggregates of all runs of a variant: interquartile mean, profile, probability of improvement.

Source: Agarwal et al., NeurIPS 2021, arXiv 2108.13264. Their bootstrap intervals are not given:
over a few seeds they cover .5 to .9 where they claim .95. Tables have the shape (..., D, S).
"""

import math
from collections.abc import Sequence

import numpy as np

from analysis.stats.effects import Estimate, better_share
from analysis.stats.intervals import ROUNDING, Array, share_interval

TRIMMED = 0.25
MAX_PAIRS = 2**22
"""Pairs of runs that are compared at a time: 32 MiB of differences."""
PROFILE_POINTS = tuple(i / 20 for i in range(21))


def iqm(scores: Array) -> Array:
    """Interquartile mean over the runs and datasets of (..., D, S): a quarter is cut on each side.

    Ranked together, all runs count alike. The number cut is floor(D*S/4).
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = math.floor(TRIMMED * flat.shape[-1])
    return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(axis=-1), dtype=np.float64)


def median_of_datasets(scores: Array) -> Array:
    """Median over datasets of the mean over seeds, of (..., D, S)."""
    return np.asarray(np.median(scores.mean(axis=-1), axis=-1), dtype=np.float64)


def mean_of_datasets(scores: Array) -> Array:
    """Mean over datasets of the mean over seeds, of (..., D, S)."""
    return np.asarray(scores.mean(axis=(-2, -1)), dtype=np.float64)


def optimality_gap(scores: Array, *, target: float = 1.0) -> Array:
    """How far runs stay below ``target`` on average, of (..., D, S)."""
    return np.asarray(target - np.minimum(scores, target).mean(axis=(-2, -1)), dtype=np.float64)


def profile(scores: Array, points: Sequence[float] = PROFILE_POINTS) -> Array:
    """Share of runs above each of P points, (..., P), of (..., D, S)."""
    above = np.round(scores[..., None], ROUNDING) > np.round(np.asarray(points), ROUNDING)
    return np.asarray(above.mean(axis=(-3, -2)), dtype=np.float64)


def probability_of_improvement(first: Array, second: Array) -> Array:
    """P(A > B) + P(A = B) / 2 over all pairs of runs of a dataset, mean over datasets, of two
    tables (..., D, S). Runs are not paired here; ``effects.probability_better`` pairs them.

    Pairs are formed in blocks of the first table's runs, so that memory does not grow with the
    square of their number. Shares are multiples of 1/2, so their sum does not depend on the blocks.
    """
    runs, others = first.shape[-1], second.shape[-1]
    width = max(1, MAX_PAIRS // max(1, second.size))
    total = np.zeros(first.shape[:-2])
    for start in range(0, runs, width):
        block = first[..., start : start + width, None]
        total += better_share(block - second[..., None, :]).sum(axis=(-3, -2, -1))
    return np.asarray(total / (first.shape[-2] * runs * others), dtype=np.float64)


def improvement(first_DS: Array, second_DS: Array) -> Estimate:
    """Probability of improvement of two complete tables (D, S), with an exact interval of which the
    dataset is the unit; one dataset has none.
    """
    value = float(probability_of_improvement(first_DS, second_DS))
    if len(first_DS) < 2:
        return Estimate(value, reason="one dataset: no interval")
    return Estimate(value, share_interval(value, len(first_DS)))
