"""Contrasts of cells where runs are missing: least squares with a shift per seed.

Within a dataset the score of a cell under a seed is taken to be the mean of the cell plus a shift
that the seed gives to all cells alike, plus noise. Without missing runs that is the mean over seeds
of the contrast, and its paired t test; with them it uses the runs that are left, so that one lost
run does not cost all runs of its seed. The estimate needs the shift to be alike only in order to be
precise: which runs are missing must not depend on their scores, and then it has no bias.

The variance is taken from one number per seed, the contrast of the seed's residuals, as the paired
test does, and not from the residuals of single runs: a part whose effect varies over seeds would
make those too small. It is corrected for its bias, and has the degrees of freedom that it has where
noise is independent (Bell and McCaffrey, Survey Methodology 28, 2002).

Shape letters: C cells, S seeds, D datasets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.stats.intervals import ROUNDING, Array
from analysis.stats.mean_tests import SeedMean, SeedMeans

SHIFT = "a seed shifts all variants of a dataset alike"
TINY = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastDesign:
    """How the runs of one dataset give a contrast of cells.

    The estimate is the sum of ``weights_CS`` times the scores; the contrast of the residuals of
    seed s is that of ``residual_SCS[s]``. ``size`` is the number of complete seeds that the
    estimate is worth, ``df`` the degrees of freedom of its variance, 0 where there is none.
    """

    weights_CS: Array
    residual_SCS: Array
    size: float
    df: float

    def mean(self, scores_CS: Array) -> SeedMean:
        """The estimate of these scores, NaN where a run is missing."""
        scores = np.nan_to_num(scores_CS)
        value = float((self.weights_CS * scores).sum())
        per_seed = (self.residual_SCS * scores).sum(axis=(1, 2))
        if not self.df or not np.round(self.size * per_seed, ROUNDING).any():
            return SeedMean(value, 0.0, self.size, self.df)
        expected = (self.residual_SCS**2).sum() / (self.weights_CS**2).sum()
        variance = self.size * float((per_seed**2).sum()) / float(expected)
        return SeedMean(value, variance, self.size, self.df)


def contrast_design(known_CS: Array, weights_C: Array) -> ContrastDesign | None:
    """The least-squares estimate of a contrast (weights that add up to 0) from the runs that are
    known; None where they do not connect all cells, by seeds that cells share.
    """
    normal = _normal_equations(known_CS)
    if normal is None:
        return None
    runs_CS, inverse_SS = normal
    weights_C = weights_C[:, None]
    simple_CS = runs_CS * weights_C / runs_CS.sum(axis=1, keepdims=True)
    weights_CS = simple_CS - _centered(runs_CS, inverse_SS @ simple_CS.sum(axis=0))
    own_SCS = _centered(runs_CS, np.eye(runs_CS.shape[1])[:, None, :] * weights_CS)
    shifts_SS = own_SCS.sum(axis=1) @ inverse_SS
    residual_SCS = own_SCS - _centered(runs_CS, shifts_SS[:, None, :])
    inner_SS = np.einsum("acs,bcs->ab", residual_SCS, residual_SCS)
    variance = float((weights_CS**2).sum())
    trace, square = float(np.trace(inner_SS)), float((inner_SS**2).sum())
    return ContrastDesign(
        weights_CS=weights_CS,
        residual_SCS=residual_SCS,
        size=float((weights_C**2).sum()) / variance,
        df=trace**2 / square if trace > TINY * variance else 0.0,
    )


def _normal_equations(known_CS: Array) -> tuple[Array, Array] | None:
    """The runs as 0 and 1, and the inverse of the normal equations (S, S) of the shifts once every
    cell has its mean; None where the runs do not connect all cells.
    """
    runs_CS = known_CS.astype(float)
    runs_C, runs_S = runs_CS.sum(axis=1, keepdims=True), runs_CS.sum(axis=0)
    if not runs_C.all():
        return None
    normal_SS = np.diag(runs_S) - runs_CS.T @ (runs_CS / runs_C)
    if np.linalg.matrix_rank(normal_SS, tol=TINY, hermitian=True) < np.count_nonzero(runs_S) - 1:
        return None
    return runs_CS, np.linalg.pinv(normal_SS, rcond=TINY, hermitian=True)


def _centered(runs_CS: Array, values: Array) -> Array:
    """Values (..., C, S) of the known runs minus their means by cell."""
    runs_C = runs_CS.sum(axis=1, keepdims=True)
    means = (runs_CS * values).sum(axis=-1, keepdims=True) / runs_C
    return np.asarray(runs_CS * (values - means))


def filled(scores_CS: Array) -> Array:
    """The scores with missing runs as least squares expects them; as they are where the runs do not
    connect all cells.
    """
    known = np.isfinite(scores_CS)
    normal = _normal_equations(known)
    if known.all() or normal is None:
        return scores_CS
    runs_CS, inverse_SS = normal
    scores = np.nan_to_num(scores_CS)
    shift_S = inverse_SS @ _centered(runs_CS, scores).sum(axis=0)
    mean_C = (scores - runs_CS * shift_S).sum(axis=1) / runs_CS.sum(axis=1)
    return np.where(known, scores_CS, mean_C[:, None] + shift_S)


def contrast_means(scores_CDS: Array, weights_C: Sequence[float] | Array) -> SeedMeans:
    """What the seeds of every dataset tell of a contrast of cells, from scores with NaN where a run
    is missing.
    """
    weights = np.asarray(weights_C, dtype=np.float64)
    by_dataset = tuple(_mean(scores_CDS[:, d], weights) for d in range(scores_CDS.shape[1]))
    some = [d for d, mean in enumerate(by_dataset) if mean is not None]
    together = _mean(scores_CDS[:, some].mean(axis=1), weights) if some else None
    return SeedMeans(by_dataset=by_dataset, together=together)


def _mean(scores_CS: Array, weights_C: Array) -> SeedMean | None:
    design = contrast_design(np.isfinite(scores_CS), weights_C)
    return None if design is None else design.mean(scores_CS)
