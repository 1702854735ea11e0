"""The input of the sections of a study's report, and a cache of what they have computed."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.stats import Resamples

MAX_SECTION_REPS = 4000
MAX_IMAGE_RUNS = 2000
"""This many runs are read in a few seconds; ten thousand would take minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the comparisons are made. ``rng_seed`` seeds what is drawn (bootstrap, posterior, signs);
    ``rope`` is half the width of the region that counts as practically equal, a fraction, 0 for
    none;
    ``overlap`` is the number of test images per training image, where seeds are resamples of one
    dataset that share data (None: they share nothing). ``adjusted_intervals``: the intervals of
    comparisons hold jointly for their family (Bonferroni), not one by one.
    """

    alpha: float = 0.05
    reps: int = 10_000
    rng_seed: int = 0
    rope: float = stats.ROPE
    overlap: float | None = None
    adjusted_intervals: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be between 0 and 1, got {self.alpha}")
        if self.reps < 100:
            raise ValueError(f"reps must be at least 100 for a 95 % interval, got {self.reps}")
        if not 0 <= self.rope < 1:
            raise ValueError(f"rope must be a fraction from 0 to below 1, got {self.rope}")
        if self.overlap is not None and not 0 < self.overlap < math.inf:
            raise ValueError(
                "overlap is the ratio of test images to training images of a resample, "
                f"above 0, such as 0.111 for ten-fold cross-validation, got {self.overlap}; leave "
                "it out for seeds that share no data"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """The results of a study and how to judge them.

    ``folder`` is the study folder, None for other sources; ``out`` where the report is written;
    ``image_runs`` the largest number of runs that are compared image by image. ``computed`` is
    the cache of ``once``.
    """

    results: Results
    options: Options = field(default_factory=Options)
    folder: Path | None = None
    out: Path = Path("report")
    image_runs: int = MAX_IMAGE_RUNS
    computed: dict[Any, Any] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The metric of the headline."""
        return self.results.primary_metric


Number = TypeVar("Number")


def once(compute: Callable[[Analysis], Number]) -> Callable[[Analysis], Number]:
    """``compute``, at most once per analysis, whichever section needs it first."""

    @functools.wraps(compute)
    def remembered(analysis: Analysis) -> Number:
        if compute not in analysis.computed:
            analysis.computed[compute] = compute(analysis)
        found: Number = analysis.computed[compute]
        return found

    return remembered


@once
def resamples(analysis: Analysis) -> Resamples:
    """The draws that sections share: the same for every variant."""
    results, options = analysis.results, analysis.options
    return Resamples.draw(
        len(results.datasets),
        results.num_seeds,
        reps=min(options.reps, MAX_SECTION_REPS),
        rng=np.random.default_rng(options.rng_seed),
        shared_seeds=results.shared_seeds,
    )
