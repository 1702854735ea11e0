"""t tests of a mean difference over datasets, for the two scopes of a claim.

*These datasets*: the seeds are the sample, and the datasets are fixed strata. *Datasets like
these*: the datasets are the sample. Both are about the same number, the mean over datasets of the
mean over seeds; they differ in what its standard error is made of.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.stats.intervals import Array, Interval, dataset_means, has_spread

NO_PAIR = "no pair of scores"
ONE_RUN = "one paired run per dataset, so nothing is known about other seeds"
ONE_DATASET = "one dataset, so nothing is known about others"
CONSTANT = "the differences do not vary: t is not defined"


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
        return 2 * float(stats.t.sf(abs(self.value) / self.error, self.df))

    def interval(self, level: float = 0.95) -> Interval | None:
        """The t interval of the mean; None where nothing tells the spread."""
        if self.value is None or not self.error:
            return None
        half = float(stats.t.ppf(0.5 + level / 2, self.df)) * self.error
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
        return float(stats.t.sf(nearest / self.error, self.df))


def stratified_t(
    difference_DS: Array, *, overlap: float | None = None, shared_seeds: bool = False
) -> MeanTest:
    """The mean over these datasets, where the seeds are the sample.

    The variance of the mean is the sum of the datasets' own variances of their means over D
    squared; they are not pooled, because datasets differ in how much seeds matter, and the degrees
    of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946). A dataset with a single run takes
    the average variance of the others. On one dataset it is the paired t test over seeds.

    ``overlap`` is n_test / n_train of seeds that are resamples sharing data: the variance factor of
    a dataset is then 1/n + overlap (Nadeau and Bengio, Machine Learning 52, 2003).
    ``shared_seeds``: one trained model was scored on all datasets, so their errors are correlated;
    then the sample is one number per seed, its mean over datasets.
    """
    table = np.atleast_2d(difference_DS)
    rows = [row[np.isfinite(row)] for row in table]
    rows = [row for row in rows if row.size]
    if not rows:
        return MeanTest(value=None, reason=NO_PAIR)
    value = _mean(np.array([row.mean() for row in rows]))
    if shared_seeds and len(rows) > 1:
        known = table[np.isfinite(table).any(axis=1)]
        per_seed = known[:, np.isfinite(known).all(axis=0)].mean(axis=0)
        rows = [per_seed] if per_seed.size else rows
    num_pairs = sum(row.size for row in rows)
    several = [row for row in rows if row.size > 1]
    if not several:
        return MeanTest(value=value, n=num_pairs, reason=ONE_RUN)
    if not any(has_spread(row) for row in several):
        return MeanTest(value=value, error=0.0, n=num_pairs, reason="" if value == 0 else CONSTANT)
    single = len(rows) - len(several)
    variances = np.array([row.var(ddof=1) if has_spread(row) else 0.0 for row in several])
    sizes = np.array([row.size for row in several])
    borrowed = single * (1 + (overlap or 0.0)) / len(several)
    parts = variances * (1 / sizes + (overlap or 0.0) + borrowed) / len(rows) ** 2
    df = float(parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum())
    note = "a dataset with one run takes the average seed variance of the others" if single else ""
    return MeanTest(value=value, error=math.sqrt(float(parts.sum())), df=df, n=num_pairs, note=note)


def t_over_datasets(difference_DS: Array) -> MeanTest:
    """The mean over datasets like these, where the datasets are the sample: the paired t test on
    one number per dataset, its mean over seeds (Dietterich, Neural Computation 10, 1998; Demsar,
    JMLR 7, 2006). It takes the effects over datasets to be roughly normal.
    """
    means = dataset_means(np.atleast_2d(difference_DS))
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
    return 0.0 if abs(mean) < 1e-12 else mean
