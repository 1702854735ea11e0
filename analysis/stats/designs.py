"""The power of designs: for so many datasets and seeds, what does the test that decides find?

Effects and spreads are fractions, like scores; differences are taken to be normal. D datasets, S
seeds.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import stats as distributions

from analysis.stats import MIN_DATASETS_FOR_WILCOXON, Detector, detector

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(24)
LARGEST_EFFECT = 1.0
HALVINGS = 24
NO_SPREAD = "no spread is known or assumed, so no power"


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
                raise ValueError(f"a spread is a standard deviation of 0 or more, {name}: {value}")

    def of_dataset_mean(self, num_seeds: int) -> float:
        """Standard deviation of a dataset's mean difference over so many seeds."""
        return math.sqrt(self.between**2 + (self.seed or 0.0) ** 2 / num_seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Designs:
    """Designs under one spread and one family of comparisons.

    ``rng`` draws the simulated studies of Wilcoxon, once a number of datasets, so that designs are
    compared on the same draws.
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
        effects = effect + self.spread.between * NODES
        shown = [test.power(float(e) / sd) for e in effects]
        return float(np.dot(WEIGHTS, shown) / WEIGHTS.sum()) ** num_datasets

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
        """Smallest effect that any number of seeds could decide: datasets differ by themselves."""
        between = self.spread.between
        if num_datasets == 1:
            return 0.0
        if _each(num_datasets):
            return between * float(distributions.norm.ppf(target ** (1 / num_datasets)))
        test = self._test(num_datasets, 2)
        least = test.detectable(target) if test else None
        return None if least is None else least * between

    def why_no_power(self, num_datasets: int, num_seeds: int) -> str:
        """Why ``power`` is None."""
        if self._test(num_datasets, num_seeds) is None:
            return "one paired run a dataset: there is no test, so no power"
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
