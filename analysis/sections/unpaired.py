"""Variants whose runs are no pairs: Welch's t on every dataset, a remark and never a verdict."""

from collections.abc import Sequence

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.stats import Array
from analysis.text import interval_text, p_equals, points, share_text


def unpaired_text(results: Results, variant: str, reference: str, metric: str) -> str:
    """What Welch's t says where two variants have runs, but no seed in common; "" where a side has
    too few. It begins with a semicolon, for it continues the reason why there is no pair.
    """
    one_DS, two_DS = (results.scores(v, metric) for v in (variant, reference))
    sides = [
        (dataset, one[np.isfinite(one)], two[np.isfinite(two)])
        for dataset, one, two in zip(results.datasets, one_DS, two_DS, strict=True)
    ]
    whole = [(d, one, two) for d, one, two in sides if min(one.size, two.size) > 1]
    if len(results.datasets) > 1:
        return _on_each(whole)
    return "".join(_on_one(one, two) for _, one, two in whole)


def _on_one(one: Array, two: Array) -> str:
    found = stats.welch_t(one, two)
    if found.p is None or found.interval is None:
        return ""
    better = stats.probability_better_unpaired(one, two).value
    assert better is not None
    return (
        f"; unpaired, Welch's t: {points(float(one.mean() - two.mean()), sign=True)} points "
        f"{interval_text(found.interval)}, p {p_equals(found.p)}, P(better run) "
        f"{share_text(better)}"
    )


def _on_each(sides: Sequence[tuple[str, Array, Array]]) -> str:
    tested = [
        (dataset, float(one.mean() - two.mean()), p)
        for dataset, one, two in sides
        if (p := stats.welch_t(one, two).p) is not None
    ]
    if not tested:
        return ""
    each = ", ".join(
        f"{dataset} {points(gap, sign=True)} (p {p_equals(p)})"
        for (dataset, gap, _), p in zip(tested, stats.holm([p for _, _, p in tested]), strict=True)
    )
    mean = float(np.mean([gap for _, gap, _ in tested]))
    return (
        f"; unpaired, Welch's t on each dataset, p adjusted by Holm: {each}; "
        f"{points(mean, sign=True)} points on average"
    )
