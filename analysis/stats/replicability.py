"""In how many datasets, and in which, does a variant win? (Dror et al., TACL 5, 2017.)"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from analysis.stats.intervals import Array, has_spread, known_values
from analysis.stats.multiple import holm
from analysis.stats.paired import NO_PAIR, PValue, upper_tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicability:
    """``k_hat`` of ``num_datasets`` datasets show the effect; the number holds at level alpha.

    ``named`` are those that can be named, by Holm. ``k_hat_fisher`` assumes that the datasets are
    independent, ``k_hat`` does not. ``reasons`` says which datasets have no p, and why.
    """

    k_hat: int
    k_hat_fisher: int
    named: tuple[str, ...]
    num_datasets: int
    p: tuple[float | None, ...]
    holm_p: tuple[float | None, ...]
    reasons: tuple[str, ...] = ()


def one_sided_p(difference_DS: Array, *, overlap: float | None = None) -> tuple[PValue, ...]:
    """For every dataset the one-sided p of a paired t over its seeds that the mean is above 0."""
    return tuple(one_sided_t(row, overlap=overlap) for row in difference_DS)


def one_sided_t(differences: Array, *, overlap: float | None = None) -> PValue:
    """One-sided p of a paired t over the seeds of one dataset, shape (n,), that the mean is above
    0; corrected for seeds that share data where ``overlap`` (n_test / n_train) is given.
    """
    known = known_values(differences)
    if known.size == 0:
        return PValue(None, reason=NO_PAIR)
    if known.size < 2:
        return PValue(None, reason="one seed: no test on this dataset")
    if not has_spread(known):
        if known[0] == 0:
            return PValue(1.0, reason="identical in every seed")
        return PValue(None, reason="the difference is the same in every seed: t is not defined")
    return PValue(upper_tail(float(known.mean()), known, overlap=overlap))


def replicability(
    p_values: Sequence[float | None], names: Sequence[str], *, alpha: float = 0.05
) -> Replicability:
    """k-hat by partial conjunction from one-sided p values, one per dataset.

    At least u of n datasets show the effect when (n - u + 1) * p_(u) is at most alpha, for this u
    and all below it (Bonferroni), or by Fisher's combination of p_(u) to p_(n). A dataset without
    a p (None) counts as p = 1.
    """
    if len(p_values) != len(names):
        raise ValueError(f"one name per p value, got {len(names)} names and {len(p_values)} values")
    filled = np.sort([1.0 if p is None else p for p in p_values])
    n = len(filled)
    bonferroni = [(n - u) * p for u, p in enumerate(filled)]
    logs = np.log(np.maximum(filled, np.finfo(float).tiny))
    fisher = [float(stats.chi2.sf(-2 * logs[u:].sum(), 2 * (n - u))) for u in range(n)]
    adjusted = holm(p_values)
    return Replicability(
        k_hat=_count(bonferroni, alpha),
        k_hat_fisher=_count(fisher, alpha),
        named=tuple(
            name for name, p in zip(names, adjusted, strict=True) if p is not None and p <= alpha
        ),
        num_datasets=n,
        p=tuple(p_values),
        holm_p=tuple(adjusted),
    )


def _count(partial: Sequence[float], alpha: float) -> int:
    """How many of the conjunction p values hold from the first on."""
    for u, p in enumerate(partial):
        if p > alpha:
            return u
    return len(partial)


def replicated(
    difference_DS: Array,
    names: Sequence[str],
    *,
    alpha: float = 0.05,
    overlap: float | None = None,
) -> tuple[Replicability, Replicability]:
    """k-hat of "better" and of "worse" from paired differences (D, S), each at level alpha."""
    both = []
    for sign in (1, -1):
        tests = one_sided_p(sign * difference_DS, overlap=overlap)
        found = replicability([test.p for test in tests], names, alpha=alpha)
        reasons = tuple(f"{n}: {t.reason}" for n, t in zip(names, tests, strict=True) if t.reason)
        both.append(replace(found, reasons=reasons))
    return both[0], both[1]
