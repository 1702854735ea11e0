"""The error rates of ``judge``, simulated; `make error-rates` writes them into docs/verdicts.md.

``over_seeds``, ``over_datasets`` and ``words`` are a vectorized twin of ``judge``; a test holds one
against the other. Shape letters: R simulated families, M comparisons, D datasets, S seeds.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

FAMILIES, COMPARISONS = 4000, 5
DATASETS, SEEDS = range(1, 12), range(2, 6)
ALPHA = 0.05
ROPE = 100.0
"""Half the region of practical equivalence, so wide that only its near edge matters: then two
one-sided tests are as liberal as they can be.
"""


class MeanTests(NamedTuple):
    """A t test of every comparison: value, standard error and degrees of freedom, shape (R, M)."""

    value: np.ndarray
    error: np.ndarray
    df: np.ndarray

    def p(self):
        """Two-sided."""
        return 2 * stdtr(self.df, -np.abs(self.value) / self.error)

    def equivalence_p(self, rope):
        """Two one-sided tests."""
        nearest = np.minimum(self.value + rope, rope - self.value)
        return stdtr(self.df, -nearest / self.error)


def over_seeds(d_RMDS):
    """``stratified_t``; cells may be missing, but no dataset of all."""
    sizes = np.isfinite(d_RMDS).sum(axis=-1)
    means = np.nansum(d_RMDS, axis=-1) / sizes
    squares = np.nansum((d_RMDS - means[..., None]) ** 2, axis=-1)
    several = sizes > 1
    variances = np.where(several, squares / np.maximum(sizes - 1, 1), 0.0)
    borrowed = (~several).sum(axis=-1) / several.sum(axis=-1)
    num_datasets = d_RMDS.shape[2]
    parts = variances * (1 / sizes + borrowed[..., None]) / num_datasets**2
    total = parts.sum(axis=-1)
    df = total**2 / (parts**2 / np.maximum(sizes - 1, 1)).sum(axis=-1)
    return MeanTests(means.mean(axis=-1), np.sqrt(total), df)


def over_datasets(d_RMDS):
    """``t_over_datasets``, from two datasets on."""
    means = np.nanmean(d_RMDS, axis=-1)
    n = means.shape[-1]
    error = means.std(axis=-1, ddof=1) / np.sqrt(n)
    return MeanTests(means.mean(axis=-1), error, np.full(error.shape, n - 1.0))


def holm(p_RM):
    """Holm's adjustment of every family."""
    order = np.argsort(p_RM, axis=1)
    steps = np.take_along_axis(p_RM, order, axis=1) * np.arange(p_RM.shape[1], 0, -1)
    adjusted = np.empty_like(p_RM)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(steps, axis=1), 1), axis=1)
    return adjusted


def words(tests, *, alpha=ALPHA, rope):
    """The verdicts of every family, and whether equivalence is shown, shape (R, M)."""
    same = holm(tests.equivalence_p(rope)) < alpha
    decided = holm(tests.p()) < alpha
    word = np.where(tests.value > 0, "better", "worse")
    return np.where(decided, word, np.where(same, "equivalent", "undecided")), same


class Rates(NamedTuple):
    """Shares of wrong claims: better or worse of a null, in a single comparison and somewhere in a
    family of ``COMPARISONS``; equivalent of a mean at the edge of the region, the same.

    The t interval of a comparison misses the true mean exactly where the test of that mean rejects,
    so its coverage is 1 - ``single``.
    """

    single: float
    family: float
    equivalent: float
    equivalent_family: float

    @property
    def coverage(self):
        """Of the 95 % interval."""
        return 1 - self.single


def rates(tests):
    """Of tests whose true means are zero, or at the edge of the region once they are shifted."""
    edge = tests._replace(value=tests.value + ROPE)
    p, same = tests.p(), edge.equivalence_p(ROPE)
    return Rates(
        float((p < ALPHA).mean()),
        float((holm(p) < ALPHA).any(axis=1).mean()),
        float((same < ALPHA).mean()),
        float((holm(same) < ALPHA).any(axis=1).mean()),
    )


def seed_spreads(pattern, num_datasets):
    """Standard deviations over seeds of the datasets, with a mean square of one."""
    spreads = {
        "equal": np.ones(num_datasets),
        "moderate": np.linspace(0.5, 1.5, num_datasets),
        "strong": np.geomspace(0.2, 2.0, num_datasets),
        "one five times": np.where(np.arange(num_datasets) == 0, 5.0, 1.0),
    }[pattern]
    return spreads / np.sqrt((spreads**2).mean())


PATTERNS = ("equal", "moderate", "strong", "one five times")


def unit_effects(shape, size, rng):
    """True differences of datasets with mean 0 and standard deviation 1."""
    if shape == "normal":
        return rng.standard_normal(size)
    if shape == "heavy tails":
        return rng.standard_t(5, size) / np.sqrt(5 / 3)
    gamma = {"skewed": 4.0, "strongly skewed": 1.0}[shape]
    return (rng.gamma(gamma, size=size) - gamma) / np.sqrt(gamma)


SHAPES = ("normal", "heavy tails", "skewed", "strongly skewed")
BETWEEN = (1.0, 2.0)


@dataclass(frozen=True)
class Cell:
    """What is simulated: a design, and how seeds and datasets vary. ``between`` is the spread of
    the true differences of datasets, in seed spreads.
    """

    num_datasets: int
    num_seeds: int
    pattern: str = "equal"
    shape: str = "normal"
    between: float = 0.0

    def draw(self, rng, *, families=FAMILIES):
        """Paired differences (R, M, D, S) of variants and their baseline, whose noise they share;
        over all datasets their mean is zero.
        """
        size = (families, COMPARISONS, self.num_datasets, self.num_seeds)
        spreads = seed_spreads(self.pattern, self.num_datasets)[:, None]
        runs = rng.standard_normal((families, COMPARISONS + 1, *size[2:])) * spreads
        noise = (runs[:, 1:] - runs[:, :1]) / np.sqrt(2)
        if self.between:
            noise += self.between * unit_effects(self.shape, (*size[:3], 1), rng)
        return noise


def these_rates(cell, rng):
    """Where single datasets differ from zero, and their mean does not."""
    d = cell.draw(rng)
    effects = np.arange(cell.num_datasets) - (cell.num_datasets - 1) / 2
    return rates(over_seeds(d + effects[:, None]))


def like_rates(cell, rng):
    """Where the datasets at hand are a sample of those whose mean is zero."""
    return rates(over_datasets(cell.draw(rng)))


class Simulation(NamedTuple):
    """The rates of every cell, scope by scope."""

    these: dict[Cell, Rates]
    like: dict[Cell, Rates]


def simulate():
    """All cells; the draws of a cell are always the same."""
    found = Simulation({}, {})
    for num_datasets in DATASETS:
        for num_seeds in SEEDS:
            for pattern in PATTERNS if num_datasets > 1 else PATTERNS[:1]:
                cell = Cell(num_datasets, num_seeds, pattern)
                found.these[cell] = these_rates(cell, generator(cell))
            for cell in like_cells(num_datasets, num_seeds):
                found.like[cell] = like_rates(cell, generator(cell))
    return found


def like_cells(num_datasets, num_seeds):
    """Every way in which seeds and datasets vary; one dataset is no sample of datasets."""
    shapes = [("normal", 0.0), *((shape, between) for shape in SHAPES for between in BETWEEN)]
    return [
        Cell(num_datasets, num_seeds, pattern, shape, between)
        for pattern in PATTERNS
        for shape, between in shapes
        if num_datasets > 1
    ]


def generator(cell):
    return np.random.default_rng([cell.num_datasets, cell.num_seeds])
