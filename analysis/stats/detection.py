"""How large an effect a test detects: power, minimum detectable effect, sample sizes."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats
from scipy.special import ndtr

from analysis.stats.decision import primary_test
from analysis.stats.effects import GAMMA
from analysis.stats.intervals import Array
from analysis.stats.paired import sign_sum_counts

REPS = 10_000
MAX_SIMULATED = 30
"""Up to so many datasets the power of Wilcoxon is simulated; beyond, it is that of t on 3/pi of
them, its efficiency under normal differences.
"""

NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)
LARGEST_DZ = 1e3


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
    over the chi distribution. The libraries' noncentral t gives NaN at places.
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
    chi = (high + low) / 2 + (high - low) / 2 * NODES
    density = stats.chi.pdf(chi, freedom) * WEIGHTS * (high - low) / 2
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
    counts = np.cumsum(sign_sum_counts(list(range(1, num_datasets + 1))), dtype=np.float64)
    cut = int(np.flatnonzero(2 * counts / 2.0**num_datasets < level)[-1])
    return Detector(num_datasets, level, rng.standard_normal((REPS, num_datasets)), cut)


def mde_dz(num_pairs: int, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Smallest standardized effect that a paired t test on n pairs detects with this power."""
    return Detector(num_pairs, alpha).detectable(power) if num_pairs > 1 else None


def pairs_needed(dz: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Pairs, not yet rounded up, with which a paired t test detects a standardized effect."""
    if not dz > 0:
        raise ValueError(f"dz is the size of a standardized effect, above 0, got {dz:g}")
    low, high = 1.0, 2.0
    while t_power(dz, high, level=alpha) < power:
        low, high = high, 2 * high
    low = max(low, 1.0 + 1e-6)
    for _ in range(60):
        middle = (low + high) / 2
        enough = t_power(dz, middle, level=alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def noether_size(*, gamma: float = GAMMA, alpha: float = 0.05, beta: float = 0.05) -> int:
    """Paired runs needed to show P(A > B) > 1/2 when it is ``gamma`` (Noether, JASA 82, 1987)."""
    if not 0.5 < gamma < 1:
        raise ValueError(f"gamma is a probability above 1/2 and below 1, got {gamma}")
    quantiles = float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(1 - beta))
    return math.ceil((quantiles / (math.sqrt(6) * (0.5 - gamma))) ** 2)
