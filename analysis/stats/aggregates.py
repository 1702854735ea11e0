"""Aggregates of all runs of a variant: interquartile mean, profile, probability of improvement.

Source: Agarwal et al., NeurIPS 2021, arXiv 2108.13264. Written to take tables (..., D, S), so that
``resampling.bootstrap`` gives their intervals with the same draws for every variant.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.stats.effects import better_share
from analysis.stats.intervals import ROUNDING, Array
from analysis.stats.resampling import Resamples, TwoClaims, bootstrap

TRIMMED = 0.25
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
    """
    pairs = better_share(first[..., :, None] - second[..., None, :])
    return np.asarray(pairs.mean(axis=(-3, -2, -1)), dtype=np.float64)


class Aggregates(NamedTuple):
    """The four aggregates of one variant, each with both intervals."""

    iqm: TwoClaims
    median: TwoClaims
    mean: TwoClaims
    optimality_gap: TwoClaims


def aggregates(scores_DS: Array, resamples: Resamples) -> Aggregates:
    """The four aggregates of a complete table (D, S). Raises ValueError where cells are missing."""

    def four(tables: Array) -> Array:
        single = tables[:, 0]
        aggregates = (iqm, median_of_datasets, mean_of_datasets, optimality_gap)
        return np.stack([aggregate(single) for aggregate in aggregates], axis=-1)

    return Aggregates(*bootstrap(four, scores_DS[None], resamples))


def profile_claims(
    scores_DS: Array, resamples: Resamples, points: Sequence[float] = PROFILE_POINTS
) -> tuple[TwoClaims, ...]:
    """The profile of a complete table (D, S) with both intervals at every point."""
    return bootstrap(lambda tables: profile(tables[:, 0], points), scores_DS[None], resamples)


def improvement_claims(first_DS: Array, second_DS: Array, resamples: Resamples) -> TwoClaims:
    """Probability of improvement of two complete tables (D, S) with both intervals."""

    def both(tables: Array) -> Array:
        return probability_of_improvement(tables[:, 0], tables[:, 1])[:, None]

    return bootstrap(both, np.stack([first_DS, second_DS]), resamples)[0]
