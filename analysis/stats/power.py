"""Power: which mean differences the tests of the two scopes detect with D datasets and S seeds.

Differences are taken to be normal, with the same spread over seeds on every dataset. Effects and
spreads are fractions, like scores. Only a decision in the direction of the effect counts.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from analysis.stats.effects import GAMMA
from analysis.stats.intervals import Array

NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)
NEGLIGIBLE = 1e-15
"""Mass of the chi distribution that the integral leaves out at each end."""
LARGEST_NONCENTRALITY = 1e6
NUM_DRAWS = 200_000
"""Chi-squares drawn for the distribution of Satterthwaite's degrees of freedom."""
NUM_QUANTILES = 64
CONCENTRATED = 500
"""From this many degrees of freedom on, Satterthwaite's are as good as constant."""
MOST_SEEDS, MOST_DATASETS = 1000, 10_000


class Limit(StrEnum):
    """Why a number of a plan does not exist."""

    ONE_RUN = "one_run"
    """One paired run per dataset: no test over seeds."""
    ONE_DATASET = "one_dataset"
    """No test over datasets."""
    NO_SPREAD = "no_spread"
    """Neither known nor assumed."""
    SEED_SPREAD_UNKNOWN = "seed_spread_unknown"
    DATASET_SPREAD_UNKNOWN = "dataset_spread_unknown"
    SHARED_SEEDS = "shared_seeds"
    """One model was scored on all datasets, so that further ones share its noise."""
    SPREAD_HIDES_IT = "spread_hides_it"
    """What more seeds cannot shrink hides the effect."""
    TOO_MANY = "too_many"
    """More than ``MOST_SEEDS`` or ``MOST_DATASETS``."""
    NO_EFFECT = "no_effect"
    """No effect of any size is detected with this power."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How paired differences vary: ``between`` datasets (standard deviation of the true difference)
    and ``seed`` (of one seed's difference on one dataset), None where unknown, and where from.
    """

    between: float | None
    seed: float | None
    source: str

    def __post_init__(self) -> None:
        for name, value in (("between", self.between), ("seed", self.seed)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"a spread is a standard deviation of 0 or more, got {value} for {name}"
                )

    def of_dataset_mean(self, num_seeds: int, *, overlap: float = 0.0) -> float | None:
        """Standard deviation of a dataset's mean difference over ``num_seeds`` seeds; ``overlap``
        as in ``stratified_t``.
        """
        if self.between is None:
            return None
        return math.hypot(self.between, (self.seed or 0.0) * math.sqrt(1 / num_seeds + overlap))


@dataclass(frozen=True, slots=True, kw_only=True)
class Designs:
    """Designs under one spread, tested in one scope at a two-sided ``level``.

    ``like``: datasets like these, the t test over dataset means; otherwise these datasets, the
    stratified t, where the effect is the mean over the datasets at hand. ``overlap``: as in
    ``stratified_t``.
    """

    spread: Spread
    level: float
    like: bool
    overlap: float = 0.0

    def error(self, num_datasets: int, num_seeds: float) -> float | None:
        """Standard error of the mean difference; seeds may be infinite. None where unknown."""
        seed = None if self.spread.seed is None else self.spread.seed**2
        share = 1 / num_seeds + self.overlap
        if not self.like:
            return None if seed is None else math.sqrt(seed * share / num_datasets)
        if self.spread.between is None:
            return None
        return math.sqrt((self.spread.between**2 + (seed or 0.0) * share) / num_datasets)

    def limit(self, num_datasets: int, num_seeds: int) -> Limit | None:
        """Why a design has no power; None where it has."""
        if self.like and num_datasets < 2:
            return Limit.ONE_DATASET
        if not self.like and num_seeds < 2:
            return Limit.ONE_RUN
        return self._unknown(num_datasets)

    def _unknown(self, num_datasets: int) -> Limit | None:
        """What is not known about the spread."""
        if not self.like and self.spread.seed is None:
            return Limit.SEED_SPREAD_UNKNOWN
        if self.like and self.spread.between is None:
            return Limit.DATASET_SPREAD_UNKNOWN
        return None if self.error(num_datasets, 1) else Limit.NO_SPREAD

    def power(self, effect: float, num_datasets: int, num_seeds: int) -> float | None:
        """Probability that a true mean difference ``effect`` is decided, in its direction; None
        where ``limit`` says why.
        """
        if self.limit(num_datasets, num_seeds):
            return None
        error = self.error(num_datasets, num_seeds)
        assert error
        critical, freedom = self._critical(num_datasets, num_seeds)
        return _decided(effect / error, critical, freedom)

    def minimum_effect(self, target: float, num_datasets: int, num_seeds: int) -> float | None:
        """Smallest effect that is decided with the ``target`` power; None where none is."""
        if self.limit(num_datasets, num_seeds):
            return None
        error = self.error(num_datasets, num_seeds)
        needed = self._noncentrality(target, num_datasets, num_seeds)
        return None if needed is None or error is None else needed * error

    def floor(self, target: float, num_datasets: int) -> float | None:
        """Smallest effect that is decided with any number of seeds; None where none is."""
        if self.like and num_datasets < 2:
            return None
        error = self.error(num_datasets, math.inf)
        needed = self._noncentrality(target, num_datasets, MOST_SEEDS)
        return None if needed is None or error is None else needed * error

    def seeds_needed(
        self, effect: float, target: float, num_datasets: int
    ) -> tuple[int | None, Limit | None]:
        """Fewest seeds on ``num_datasets`` datasets, or None and why no number suffices."""
        if self.like and num_datasets < 2:
            return None, Limit.ONE_DATASET
        if self.spread.seed is None:
            return None, Limit.SEED_SPREAD_UNKNOWN
        if unknown := self._unknown(num_datasets):
            return None, unknown

        def suffices(num_seeds: int) -> bool:
            return self._suffices(effect, target, num_datasets, num_seeds)

        def may(num_seeds: int) -> bool:
            return self._may_suffice(effect, target, num_datasets, num_seeds)

        least_seeds = 1 if self.like else 2
        if found := _fewest(suffices, may, least_seeds, MOST_SEEDS):
            return found, None
        least = self.floor(target, num_datasets)
        hidden = least is None or least >= effect
        return None, Limit.SPREAD_HIDES_IT if hidden else Limit.TOO_MANY

    def datasets_needed(
        self, effect: float, target: float, num_seeds: int
    ) -> tuple[int | None, Limit | None]:
        """Fewest datasets of ``num_seeds`` seeds, or None and why no number suffices."""
        if self.spread.between is None:
            return None, Limit.DATASET_SPREAD_UNKNOWN
        if limit := self.limit(2, num_seeds):
            return None, limit

        def suffices(num_datasets: int) -> bool:
            return self._suffices(effect, target, num_datasets, num_seeds)

        def may(num_datasets: int) -> bool:
            return self._may_suffice(effect, target, num_datasets, num_seeds)

        found = _fewest(suffices, may, 2 if self.like else 1, MOST_DATASETS)
        return (found, None) if found else (None, Limit.TOO_MANY)

    def _may_suffice(self, effect: float, target: float, num_datasets: int, num_seeds: int) -> bool:
        """Whether the power could reach the target: no test of a false positive rate of at most
        ``level`` in the direction of the effect, twice the nominal one, has more power than that of
        a known variance.
        """
        error = self.error(num_datasets, num_seeds)
        least = float(special.ndtri(1 - self.level) + special.ndtri(target))
        return error is not None and error > 0 and effect / error >= least

    def _suffices(self, effect: float, target: float, num_datasets: int, num_seeds: int) -> bool:
        """Whether the power reaches the target."""
        return (self.power(effect, num_datasets, num_seeds) or 0.0) >= target

    def _critical(self, num_datasets: int, num_seeds: int) -> tuple[Array, int]:
        """Critical values of t, all as likely as each other, and the degrees of freedom of the
        estimated variance.
        """
        if self.like:
            return _t_quantile(self.level, num_datasets - 1), num_datasets - 1
        return (
            satterthwaite_quantiles(self.level, num_datasets, num_seeds),
            num_datasets * (num_seeds - 1),
        )

    def _noncentrality(self, target: float, num_datasets: int, num_seeds: int) -> float | None:
        """Effect in standard errors that is decided with the ``target`` power."""
        return _noncentrality(target, self.level, num_datasets, num_seeds, self.like)


def _fewest(
    suffices: Callable[[int], bool], may: Callable[[int], bool], least: int, most: int
) -> int | None:
    """The smallest number from ``least`` to ``most`` that suffices, None where none does.

    Power rises with seeds and with datasets, so that few numbers are asked: the most, then from the
    first that ``may`` suffice, which is cheap to tell, in steps that double, and between the last
    two of these.
    """
    low = bisect_left(range(most + 1), True, lo=least, key=may)
    if low > most or not suffices(most):
        return None
    step, high = 1, low
    while not suffices(high):
        low, high, step = high + 1, min(high + step, most), 2 * step
    return bisect_left(range(most + 1), True, lo=low, hi=high, key=suffices)


@lru_cache(maxsize=1024)
def _noncentrality(
    target: float, level: float, num_datasets: int, num_seeds: int, like: bool
) -> float | None:
    unit = Designs(spread=Spread(between=0.0, seed=1.0, source=""), level=level, like=like)
    critical, freedom = unit._critical(num_datasets, num_seeds)
    high = 1.0
    while _decided(high, critical, freedom) < target:
        high *= 2
        if high > LARGEST_NONCENTRALITY:
            return None
    if _decided(0.0, critical, freedom) >= target:
        return 0.0
    return float(
        optimize.brentq(lambda center: _decided(center, critical, freedom) - target, 0.0, high)
    )


def _decided(center: float, critical: Array, freedom: float) -> float:
    """Probability that t exceeds a critical value, averaged over these."""
    return min(1.0, float(noncentral_t_tail(center, critical, freedom).mean()))


@lru_cache(maxsize=1024)
def _t_quantile(level: float, freedom: float) -> Array:
    return np.array([float(stats.t.ppf(1 - level / 2, freedom))])


@lru_cache(maxsize=1024)
def satterthwaite_quantiles(level: float, num_datasets: int, num_seeds: int) -> Array:
    """Critical values of the stratified t where all datasets have the same seed variance: quantiles
    of their distribution, since the degrees of freedom vary with the sample variances.

    They depend on how these share their sum, which is independent of the sum itself: shares follow
    a Dirichlet distribution. Its draws are always the same.
    """
    freedom = num_seeds - 1
    if num_datasets == 1:
        return _t_quantile(level, freedom)
    if num_datasets * freedom > CONCENTRATED:
        squares = (freedom / 2 + 1) / (num_datasets * freedom / 2 + 1)
        return _t_quantile(level, freedom / squares)
    rng = np.random.default_rng(0)
    chi_squares = rng.chisquare(freedom, (NUM_DRAWS // num_datasets, num_datasets))
    freedoms = freedom * chi_squares.sum(axis=1) ** 2 / (chi_squares**2).sum(axis=1)
    middles = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    return np.asarray(stats.t.ppf(1 - level / 2, np.quantile(freedoms, middles)))


def noncentral_t_tail(center: float, critical: Array, freedom: float) -> Array:
    """P(t > critical) of a noncentral t, for an array of critical values above 0.

    An integral over the chi distribution of the estimated standard deviation, cut where the
    integrand bends, since the noncentral t of the libraries is NaN for some arguments.
    """
    root = math.sqrt(freedom)
    low = math.sqrt(2 * float(special.gammaincinv(freedom / 2, NEGLIGIBLE)))
    high = math.sqrt(2 * float(special.gammainccinv(freedom / 2, NEGLIGIBLE)))
    bends = root + np.array([-3.0, -1.5, 0.0, 1.5, 3.0])
    steps = np.array([-8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 8.0])
    edges = np.concatenate(
        [
            np.tile([low, *bends, high], (critical.size, 1)),
            (center + steps) * root / critical[:, None],
        ],
        axis=1,
    )
    edges = np.sort(np.clip(edges, low, high), axis=1)
    half = np.diff(edges, axis=1)[..., None] / 2
    chi = edges[:, :-1, None] + half * (1 + NODES)
    tail = special.ndtr(center - critical[:, None, None] * chi / root)
    return np.asarray((_chi_density(chi, freedom) * tail * half * WEIGHTS).sum(axis=(1, 2)))


def _chi_density(chi: Array, freedom: float) -> Array:
    constant = (1 - freedom / 2) * math.log(2) - float(special.gammaln(freedom / 2))
    return np.asarray(np.exp(constant + (freedom - 1) * np.log(chi) - chi**2 / 2))


def t_power(dz: float, n: float, *, level: float = 0.05, one_sided: bool = False) -> float:
    """Power of the two-sided paired t test on n pairs for a standardized effect ``dz``;
    ``one_sided`` counts only decisions in the direction of positive effects.
    """
    critical, center = _t_quantile(level, n - 1), dz * math.sqrt(n)
    power = _decided(center, critical, n - 1)
    return power if one_sided else min(1.0, power + _decided(-center, critical, n - 1))


def noether_size(*, gamma: float = GAMMA, alpha: float = 0.05, beta: float = 0.05) -> int:
    """Paired runs needed to show P(A > B) > 1/2 when it is ``gamma`` (Noether, JASA 82, 1987)."""
    if not 0.5 < gamma < 1:
        raise ValueError(f"gamma is a probability above 1/2 and below 1, got {gamma}")
    quantiles = float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(1 - beta))
    return math.ceil((quantiles / (math.sqrt(6) * (0.5 - gamma))) ** 2)
