"""t tests of a mean difference over datasets, for the two scopes of a claim.

*These datasets*: the seeds are the sample, and the datasets are fixed strata. *Datasets like
these*: the datasets are the sample. Both are about the same number, the mean over datasets of the
mean over seeds; they differ in what its standard error is made of.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from analysis.stats.intervals import ROUNDING, Array, Interval, dataset_means, has_spread

NO_PAIR = "no pair of scores"
ONE_RUN = "one paired run per dataset, so nothing is known about other seeds"
ONE_DATASET = "one dataset, so nothing is known about others"
BORROWED = "a dataset with one run takes the average seed variance of the others"
CONSTANT = "the differences do not vary: t is not defined"
FLOAT_NOISE = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanTest:
    """A t test of a mean difference: its value, standard ``error`` and degrees of freedom.

    ``error`` is None where nothing tells it, and 0 where the sample does not vary at all; ``n`` is
    the number of values of the sample. ``reason`` says why there is no test; ``note`` what it
    assumes beyond the usual.
    """

    value: float | None
    error: float | None = None
    df: float = math.nan
    n: int = 0
    reason: str = ""
    note: str = ""

    @property
    def p(self) -> float | None:
        """Two-sided p that the mean is zero; without any spread 1 for zero, and None otherwise,
        since t = inf would claim certainty from a constant.
        """
        if self.value is None or self.error is None:
            return None
        if self.error == 0:
            return 1.0 if self.value == 0 else None
        return 2 * _upper_tail(abs(self.value) / self.error, self.df)

    def interval(self, level: float = 0.95) -> Interval | None:
        """The t interval of the mean; None where nothing tells the spread."""
        if self.value is None or not self.error:
            return None
        half = float(special.stdtrit(self.df, 0.5 + level / 2)) * self.error
        return Interval(self.value - half, self.value + half)

    def equivalence_p(self, rope: float) -> float | None:
        """Two one-sided t tests that the mean lies inside (-rope, rope) (Schuirmann, J.
        Pharmacokinet. Biopharm. 15, 1987); None for a region of no width.

        Without any spread the exact sign-flip version answers, as in ``equivalence.tost``.
        """
        if self.value is None or self.error is None or rope <= 0:
            return None
        nearest = min(self.value + rope, rope - self.value)
        if self.error == 0:
            return 0.5**self.n if nearest > 0 else 1.0
        return _upper_tail(nearest / self.error, self.df)


def _upper_tail(t: float, df: float) -> float:
    """The probability of a larger t; the function behind ``scipy.stats.t.sf``, without its detours,
    because a report of many variants asks for a million.
    """
    return float(special.stdtr(df, -t))


class SeedMean(NamedTuple):
    """What the seeds of one dataset tell of a mean: its ``value``, the ``variance`` of one seed's
    value with its degrees of freedom ``df``, and how many seeds the mean is worth, its ``size``.

    ``df`` is 0 where the seeds do not tell the variance.
    """

    value: float
    variance: float
    size: float
    df: float

    @classmethod
    def of(cls, values: Array) -> "SeedMean":
        """The mean of one value per seed, none of them NaN."""
        (found,) = cls.of_rows(values[None, :])
        return found

    @classmethod
    def of_rows(cls, values_DS: Array) -> "tuple[SeedMean, ...]":
        """The same for every row of a table."""
        values_DS = np.ascontiguousarray(values_DS)
        size = values_DS.shape[1]
        means_D, variances_D = values_DS.mean(axis=1), np.zeros(len(values_DS))
        if size > 1:
            varies_D = np.round(values_DS - values_DS[:, :1], ROUNDING).any(axis=1)
            variances_D[varies_D] = values_DS[varies_D].var(axis=1, ddof=1)
        pairs = zip(means_D, variances_D.tolist(), strict=True)
        return tuple(cls(mean, variance, size, size - 1) for mean, variance in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedMeans:
    """A difference as the seeds of every dataset tell it; None for a dataset that has none.

    ``together`` is the mean over datasets as one sample of seeds, for models that were scored on
    all datasets.
    """

    by_dataset: tuple[SeedMean | None, ...]
    together: SeedMean | None = None

    @classmethod
    def of(cls, difference_DS: Array) -> "SeedMeans":
        """From paired differences, NaN where a pair is missing."""
        table = np.atleast_2d(difference_DS)
        known = np.isfinite(table)
        some = table[known.any(axis=1)]
        per_seed = some[:, np.isfinite(some).all(axis=0)].mean(axis=0) if some.size else some
        together = SeedMean.of(per_seed) if per_seed.size else None
        if table.size and known.all():
            return cls(by_dataset=SeedMean.of_rows(table), together=together)
        rows = [row[here] for row, here in zip(table, known, strict=True)]
        by_dataset = tuple(SeedMean.of(row) if row.size else None for row in rows)
        return cls(by_dataset=by_dataset, together=together)

    @classmethod
    def unpaired(cls, first_DS: Array, second_DS: Array) -> "SeedMeans":
        """From runs that are no pairs, (D, S) on either side: the difference of the two means with
        Welch's variance and degrees of freedom (Biometrika 34, 1947).
        """
        pairs = zip(np.atleast_2d(first_DS), np.atleast_2d(second_DS), strict=True)
        return cls(by_dataset=tuple(_welch(one, two) for one, two in pairs))

    @property
    def known(self) -> list[SeedMean]:
        """The datasets that have a value."""
        return [mean for mean in self.by_dataset if mean is not None]

    @property
    def identical(self) -> bool:
        """Whether no run shows any difference."""
        same = [not round(mean.value, ROUNDING) and not mean.variance for mean in self.known]
        return bool(same) and all(same)

    @property
    def values(self) -> Array:
        """The value of every dataset, (D,), NaN where there is none."""
        return np.array([np.nan if m is None else m.value for m in self.by_dataset])


def _welch(first: Array, second: Array) -> SeedMean | None:
    """One dataset of ``SeedMeans.unpaired``; None where a side has no run."""
    one, two = (side[np.isfinite(side)] for side in (first, second))
    if not one.size or not two.size:
        return None
    value = float(one.mean() - two.mean())
    if min(one.size, two.size) < 2:
        return SeedMean(value, 0.0, 1.0, 0.0)
    parts = [side.var(ddof=1) / side.size if has_spread(side) else 0.0 for side in (one, two)]
    variance = float(sum(parts))
    squares = sum(p**2 / (s.size - 1) for p, s in zip(parts, (one, two), strict=True))
    return SeedMean(value, variance, 1.0, variance**2 / squares if squares else 1.0)


def stratified_t(
    difference: Array | SeedMeans, *, overlap: float | None = None, shared_seeds: bool = False
) -> MeanTest:
    """The mean over these datasets, where the seeds are the sample; of paired differences (D, S) or
    of what the seeds of every dataset tell.

    The variance of the mean is the sum of the datasets' own variances of their means over D
    squared; they are not pooled, because datasets differ in how much seeds matter, and the degrees
    of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946). A dataset with a single run takes
    the average variance of the others. On one dataset it is the paired t test over seeds.

    ``overlap`` is n_test / n_train of seeds that are resamples sharing data: the variance factor of
    a dataset is then 1/n + overlap (Nadeau and Bengio, Machine Learning 52, 2003).
    ``shared_seeds``: one trained model was scored on all datasets, so their errors are correlated;
    then the sample is one number per seed, its mean over datasets.
    """
    means = difference if isinstance(difference, SeedMeans) else SeedMeans.of(difference)
    rows = means.known
    if not rows:
        return MeanTest(value=None, reason=NO_PAIR)
    value = _mean(np.array([row.value for row in rows]))
    if shared_seeds and len(rows) > 1 and means.together is not None:
        rows = [means.together]
    num = round(sum(row.size for row in rows))
    several = [row for row in rows if row.df > 0]
    if not several:
        return MeanTest(value=value, n=num, reason=ONE_RUN)
    if not any(row.variance for row in several):
        return MeanTest(value=value, error=0.0, n=num, reason="" if value == 0 else CONSTANT)
    single = [1 / row.size for row in rows if not row.df > 0]
    variances, sizes, dfs = (
        np.array(column) for column in zip(*[row[1:] for row in several], strict=True)
    )
    shared = overlap or 0.0
    borrowed = len(single) * (float(np.mean(single)) + shared) / len(several) if single else 0.0
    parts = variances * (1 / sizes + shared + borrowed) / len(rows) ** 2
    total = float(parts.sum())
    df = total * total / float((parts**2 / dfs).sum())
    note = BORROWED if single else ""
    return MeanTest(value=value, error=math.sqrt(total), df=df, n=num, note=note)


def t_over_datasets(difference: Array | SeedMeans) -> MeanTest:
    """The mean over datasets like these, where the datasets are the sample: the paired t test on
    one number per dataset, its mean over seeds (Dietterich, Neural Computation 10, 1998; Demsar,
    JMLR 7, 2006). It takes the effects over datasets to be roughly normal.
    """
    if isinstance(difference, SeedMeans):
        means = difference.values
    else:
        means = dataset_means(np.atleast_2d(difference))
    known = means[np.isfinite(means)]
    n = int(known.size)
    if n == 0:
        return MeanTest(value=None, reason=NO_PAIR)
    value = _mean(known)
    if n == 1:
        return MeanTest(value=value, n=n, reason=ONE_DATASET)
    if not has_spread(known):
        return MeanTest(value=value, error=0.0, n=n, reason="" if value == 0 else CONSTANT)
    return MeanTest(value=value, error=float(known.std(ddof=1)) / math.sqrt(n), df=n - 1, n=n)


def _mean(values: Array) -> float:
    """The mean, exactly zero where it is float noise."""
    mean = float(values.mean())
    return 0.0 if abs(mean) < FLOAT_NOISE else mean
