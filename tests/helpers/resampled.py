"""Averages over resampled tables: what implementations of the two-level bootstrap give."""

import numpy as np


def resampled_averages(resamples, values_DS):
    """Mean over datasets and seeds of every resampled table, (R,): two-level and seeds-only."""
    both = resamples.tables(np.asarray(values_DS)[None], slice(None))
    return tuple(tables[:, 0].mean(axis=(1, 2)) for tables in both)


def percentiles(draws_R):
    """The middle 95 % of draws."""
    return np.percentile(draws_R, [2.5, 97.5])
