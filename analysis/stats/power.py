"""Power: which effects the primary test detects with a given number of datasets and seeds.

``Detector`` is a test as a function of the standardized effect; ``Designs`` are designs under one
spread of paired differences. Effects and spreads are fractions, like scores; differences are taken
to be normal. D datasets, S seeds.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy import stats
from scipy.special import ndtr

from analysis.stats.decision import MIN_DATASETS_FOR_WILCOXON, primary_test
from analysis.stats.effects import GAMMA
from analysis.stats.intervals import Array
from analysis.stats.paired import sign_sum_counts

REPS = 10_000
MAX_SIMULATED = 30
"""Up to this many datasets the power of Wilcoxon is simulated; beyond, it is that of t on 3/pi of
them, its efficiency under normal differences.
"""

LEGENDRE_NODES, LEGENDRE_WEIGHTS = np.polynomial.legendre.leggauss(400)
HERMITE_NODES, HERMITE_WEIGHTS = np.polynomial.hermite_e.hermegauss(24)
LARGEST_DZ = 1e3
LARGEST_EFFECT = 1.0
HALVINGS = 24
NO_SPREAD = "no spread is known or assumed, so there is no power"


@dataclass(frozen=True, slots=True)
class Detector:
    """A test of a design as a function of the standardized paired effect dz.

    ``n`` pairs at a two-sided ``level``. ``shifts`` holds R simulated studies of n standard normal
    differences for Wilcoxon, which rejects up to the rank sum ``cut``; None for a t test.
    ``one_sided``: only a decision in the direction of the effect counts.
    """

    n: float
    level: float
    shifts: Array | None = None
    cut: int = 0
    one_sided: bool = False

    def power(self, dz: float) -> float:
        """Probability that the test decides when the standardized effect is ``dz``."""
        if self.shifts is None:
            return t_power(dz, self.n, level=self.level, one_sided=self.one_sided)
        moved = self.shifts + dz
        ranks = np.argsort(np.argsort(np.abs(moved), axis=1), axis=1) + 1
        positive = np.where(moved > 0, ranks, 0).sum(axis=1)
        total = int(self.n * (self.n + 1) / 2)
        return float((np.minimum(positive, total - positive) <= self.cut).mean())

    def detectable(self, power: float) -> float | None:
        """Smallest dz that is detected with this power; None where none up to 1000 is."""
        low, high = 0.0, 1.0
        while self.power(high) < power:
            high *= 2
            if high > LARGEST_DZ:
                return None
        for _ in range(40 if self.shifts is None else 14):
            middle = (low + high) / 2
            low, high = (low, middle) if self.power(middle) >= power else (middle, high)
        return high


def t_power(dz: float, n: float, *, level: float = 0.05, one_sided: bool = False) -> float:
    """Power of the two-sided paired t test on n pairs: the mean over the sample's own spread.

    ``one_sided`` counts only decisions in the direction of positive effects. An integral
    over the chi distribution, since the noncentral t of the libraries is NaN for some arguments.
    """
    bound, density = _bounds(n - 1, level)
    center = dz * math.sqrt(n)
    tails = ndtr(center - bound)
    if not one_sided:
        tails = tails + ndtr(-center - bound)
    return min(1.0, float((density * tails).sum()))


@lru_cache(maxsize=64)
def _bounds(freedom: float, level: float) -> tuple[Array, Array]:
    """Where t decides, by the sample's own spread (chi distributed), and the weights of these."""
    quantile = float(stats.t.ppf(1 - level / 2, freedom))
    low, high = stats.chi.ppf([1e-15, 1 - 1e-15], freedom)
    chi = (high + low) / 2 + (high - low) / 2 * LEGENDRE_NODES
    density = stats.chi.pdf(chi, freedom) * LEGENDRE_WEIGHTS * (high - low) / 2
    return quantile * chi / math.sqrt(freedom), density


def detector(
    num_datasets: int,
    num_seeds: int,
    *,
    comparisons: int = 1,
    alpha: float = 0.05,
    rng: np.random.Generator,
) -> Detector | None:
    """The default test of a design at the level that Holm's first step leaves; None for no test.

    Where every dataset is tested by itself it is the test of one dataset. ``rng`` draws
    the simulated studies of Wilcoxon.
    """
    primary = primary_test(num_datasets, num_seeds, comparisons, alpha=alpha)
    level = alpha / comparisons
    if primary.name == "none":
        return None
    if primary.name == "t_each":
        return Detector(num_seeds, level, one_sided=True)
    if primary.name != "wilcoxon":
        return Detector(num_seeds if primary.name == "t_seeds" else num_datasets, level)
    if num_datasets > MAX_SIMULATED:
        return Detector(num_datasets * 3 / math.pi, level)
    counts = np.cumsum(sign_sum_counts(num_datasets), dtype=np.float64)
    cut = int(np.flatnonzero(2 * counts / 2.0**num_datasets < level)[-1])
    return Detector(num_datasets, level, rng.standard_normal((REPS, num_datasets)), cut)


def noether_size(*, gamma: float = GAMMA, alpha: float = 0.05, beta: float = 0.05) -> int:
    """Paired runs needed to show P(A > B) > 1/2 when it is ``gamma`` (Noether, JASA 82, 1987)."""
    if not 0.5 < gamma < 1:
        raise ValueError(f"gamma is a probability above 1/2 and below 1, got {gamma}")
    quantiles = float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(1 - beta))
    return math.ceil((quantiles / (math.sqrt(6) * (0.5 - gamma))) ** 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How paired differences vary: ``between`` datasets (standard deviation of the true difference)
    and ``seed`` (of one seed's difference on one dataset, None where unknown), and where from.
    """

    between: float
    seed: float | None
    source: str

    def __post_init__(self) -> None:
        for name, value in (("between", self.between), ("seed", self.seed)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"a spread is a standard deviation of 0 or more, got {value} for {name}"
                )

    def of_dataset_mean(self, num_seeds: int) -> float:
        """Standard deviation of a dataset's mean difference over ``num_seeds`` seeds."""
        return math.sqrt(self.between**2 + (self.seed or 0.0) ** 2 / num_seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Designs:
    """Designs under one spread and one family of comparisons.

    ``rng`` draws the simulated studies of Wilcoxon, once per number of datasets, so that designs
    are compared on the same draws.
    """

    spread: Spread
    comparisons: int
    alpha: float
    rng: np.random.Generator
    tests: dict[tuple[int, int], Detector | None] = field(default_factory=dict)

    def power(self, effect: float, num_datasets: int, num_seeds: int) -> float | None:
        """Probability that a true mean difference ``effect`` is decided; None without a test or
        without any spread.
        """
        test = self._test(num_datasets, num_seeds)
        sd = self._of_sample(num_datasets, num_seeds)
        if test is None or not sd:
            return None
        if not _each(num_datasets):
            return test.power(effect / sd)
        effects = effect + self.spread.between * HERMITE_NODES
        shown = [test.power(float(e) / sd) for e in effects]
        return float(np.dot(HERMITE_WEIGHTS, shown) / HERMITE_WEIGHTS.sum()) ** num_datasets

    def detectable(self, target: float, num_datasets: int, num_seeds: int) -> float | None:
        """Smallest effect that is decided with the ``target`` power; None where none is."""
        test = self._test(num_datasets, num_seeds)
        sd = self._of_sample(num_datasets, num_seeds)
        if test is None or not sd:
            return None
        if not _each(num_datasets):
            least = test.detectable(target)
            return None if least is None else least * sd
        low, high = 0.0, LARGEST_EFFECT
        if (self.power(high, num_datasets, num_seeds) or 0.0) < target:
            return None
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            found = self.power(middle, num_datasets, num_seeds) or 0.0
            low, high = (low, middle) if found >= target else (middle, high)
        return high

    def floor(self, target: float, num_datasets: int) -> float | None:
        """Smallest effect that any number of seeds could decide, given how datasets differ."""
        between = self.spread.between
        if num_datasets == 1:
            return 0.0
        if _each(num_datasets):
            return between * float(stats.norm.ppf(target ** (1 / num_datasets)))
        test = self._test(num_datasets, 2)
        least = test.detectable(target) if test else None
        return None if least is None else least * between

    def why_no_power(self, num_datasets: int, num_seeds: int) -> str:
        """Why ``power`` is None."""
        if self._test(num_datasets, num_seeds) is None:
            return "with one paired run per dataset there is no test, so there is no power"
        return NO_SPREAD

    def _test(self, num_datasets: int, num_seeds: int) -> Detector | None:
        key = (num_datasets, 0 if num_datasets >= MIN_DATASETS_FOR_WILCOXON else num_seeds)
        if key not in self.tests:
            self.tests[key] = detector(
                num_datasets,
                num_seeds,
                comparisons=self.comparisons,
                alpha=self.alpha,
                rng=self.rng,
            )
        return self.tests[key]

    def _of_sample(self, num_datasets: int, num_seeds: int) -> float:
        """Standard deviation of what the test sees: dataset means, or the seeds of a dataset."""
        if num_datasets < MIN_DATASETS_FOR_WILCOXON:
            return self.spread.seed or 0.0
        return self.spread.of_dataset_mean(num_seeds)


def _each(num_datasets: int) -> bool:
    """Whether every dataset is tested by itself."""
    return 1 < num_datasets < MIN_DATASETS_FOR_WILCOXON
