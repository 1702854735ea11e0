"""Which test decides, chosen from the counts before any score is seen, and the word it leads to.

The choice never looks at the data: a test chosen after a normality check has another error rate
than it states.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.stats.equivalence import ROPE, tost
from analysis.stats.intervals import Array, dataset_means
from analysis.stats.multiple import holm
from analysis.stats.paired import (
    corrected_resampled_t,
    paired_t,
    signed_rank,
    smallest_p,
    win_tie_loss,
)
from analysis.stats.replicability import one_sided_t, replicated

SMALL = "within the region of practical equivalence"
MIN_DATASETS_FOR_WILCOXON = 6
"""Below it a two-sided signed-rank p cannot be under 0.05, whatever the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Primary:
    """The test that decides, chosen before any score is looked at.

    ``name``: wilcoxon, t, t_each (of every dataset), t_seeds, t_corrected (seeds that share data)
    or none. ``test`` says it in words, ``reason`` also why; ``claim`` is what a decision is
    about.
    """

    name: str
    reason: str
    claim: str = ""
    test: str = "none"

    @property
    def over_datasets(self) -> bool:
        """Whether the test sees one number per dataset."""
        return self.name in ("wilcoxon", "t")


def primary_test(
    num_datasets: int,
    num_seeds: int,
    num_comparisons: int,
    *,
    alpha: float = 0.05,
    overlap: float | None = None,
) -> Primary:
    """Which test decides, from the counts alone: datasets, seeds per dataset, comparisons (Demsar,
    JMLR 7, 2006; Dror et al., TACL 5, 2017; the smallest attainable p as a limit).

    * 6 or more datasets and 2/2^n times the number of comparisons below alpha: exact Wilcoxon over
      dataset means; otherwise the paired t over dataset means.
    * 2 to 5 datasets: a paired t over seeds in each of them; decided is what every one shows.
    * 1 dataset and 2 or more paired seeds: paired t over seeds, a claim about that dataset alone.
    * one seed and fewer than 6 datasets: no test, the verdict is undecided.

    ``overlap`` is n_test / n_train of seeds that are resamples sharing data: every t over seeds is
    then the corrected resampled t.
    """
    if num_datasets >= MIN_DATASETS_FOR_WILCOXON:
        return _over_datasets(num_datasets, num_comparisons, alpha)
    if num_datasets < 1 or num_seeds < 2:
        few = f", and {num_datasets} datasets are too few for a test over them"
        text = "none, because there is at most one paired run per dataset"
        return Primary(name="none", reason=text + (few if num_datasets > 1 else ""))
    test = "paired t" if overlap is None else f"corrected resampled t (test/train {overlap:.4g})"
    if num_datasets == 1:
        return Primary(
            name="t_seeds" if overlap is None else "t_corrected",
            reason=f"{test} over {num_seeds} seeds of one dataset, a claim about it alone",
            claim="on this dataset",
            test=f"{test} over {num_seeds} seeds of one dataset",
        )
    return Primary(
        name="t_each",
        reason=f"{test} over seeds in each of {num_datasets} datasets, decided where all of them "
        "show the effect; the t over dataset means is only descriptive, because fewer than "
        f"{MIN_DATASETS_FOR_WILCOXON} datasets cannot support a claim about datasets like these "
        f"(smallest attainable Wilcoxon p: {smallest_p(num_datasets):.3g})",
        claim="in each of these datasets",
        test=f"{test} over seeds in each of {num_datasets} datasets",
    )


def _over_datasets(num_datasets: int, num_comparisons: int, alpha: float) -> Primary:
    claim, least = "on datasets like these", smallest_p(num_datasets)
    assert least is not None
    if least * num_comparisons < alpha:
        text = f"exact Wilcoxon signed-rank over {num_datasets} dataset means"
        return Primary(name="wilcoxon", reason=text, claim=claim, test=text)
    return Primary(
        name="t",
        reason=f"paired t over {num_datasets} dataset means, because Wilcoxon with Holm over "
        f"{num_comparisons} comparisons could never fall below {alpha:g} "
        f"(smallest attainable p: {least:.3g} × {num_comparisons})",
        claim=claim,
        test=f"paired t over {num_datasets} dataset means",
    )


def family_tests(
    differences: Sequence[Array], *, alpha: float = 0.05, overlap: float | None = None
) -> tuple[Primary, ...]:
    """The primary test of each comparison of a family, an array (D, S) of paired differences.

    Each follows from its own counts and the size of the family, so that a gap in one comparison
    never changes the test of another.
    """
    seeds = [np.isfinite(np.atleast_2d(d)).sum(axis=1) for d in differences]
    family = sum(bool(row.any()) for row in seeds)
    return tuple(
        primary_test(
            int((row > 0).sum()), int(row.max(initial=0)), family, alpha=alpha, overlap=overlap
        )
        for row in seeds
    )


def family_test(
    differences: Sequence[Array], *, alpha: float = 0.05, overlap: float | None = None
) -> Primary:
    """The test of the comparison with the most datasets and seeds: what the design calls for."""
    counts = [np.isfinite(np.atleast_2d(d)).sum(axis=1) for d in differences]
    sizes = [(int((row > 0).sum()), int(row.max(initial=0))) for row in counts]
    num_datasets, num_seeds = max(sizes, default=(0, 0))
    family = sum(n > 0 for n, _ in sizes)
    return primary_test(num_datasets, num_seeds, family, alpha=alpha, overlap=overlap)


def verdict(
    difference: float,
    direction: float,
    adjusted_p: float | None,
    *,
    alpha: float,
    equivalence_p: float | None = None,
) -> str:
    """The word "better", "worse", "equivalent" or "undecided"; a large p never becomes "no
    difference".

    Better and worse mean that the Holm-adjusted p of the primary test is below ``alpha`` and that
    the mean difference and the test's own ``direction`` (rank sums for Wilcoxon, the mean for t)
    have the same sign. Equivalent means that it is neither and ``equivalence_p`` (TOST) is below
    ``alpha``.
    """
    if adjusted_p is not None and adjusted_p < alpha and difference * direction > 0:
        return "better" if difference > 0 else "worse"
    if equivalence_p is not None and equivalence_p < alpha:
        return "equivalent"
    return "undecided"


class Verdict(NamedTuple):
    """The word for one comparison with the p values behind it, adjusted by Holm but for ``raw_p``.

    ``smallest_p`` is the smallest adjusted p that the design could have given; None for t tests,
    which have no lower limit. ``reason`` says why a word was not reached, or what to know about
    it; ``shown_in`` in which datasets an undecided effect is shown, "" for none.
    """

    word: str
    p: float | None
    equivalence_p: float | None
    smallest_p: float | None
    decided_by: str
    reason: str = ""
    raw_p: float | None = None
    shown_in: str = ""


def smallest_adjusted_p(primary: Primary, num_datasets: int, num_comparisons: int) -> float | None:
    """Smallest p that the primary test can give after Holm's adjustment; None for a t test."""
    least = smallest_p(num_datasets)
    if primary.name != "wilcoxon" or least is None:
        return None
    return min(1.0, least * num_comparisons)


def judge(
    differences: Sequence[Array],
    *,
    alpha: float = 0.05,
    rope: float = ROPE,
    names: Sequence[str] = (),
    overlap: float | None = None,
) -> tuple[Verdict, ...]:
    """The default decision for a family of comparisons, each an array (D, S) of paired differences.

    The counts choose the test, Holm adjusts it over the family, and TOST with Holm says equivalent.
    ``names`` of the datasets stand in the reasons; ``overlap`` as in ``primary_test``.
    """
    tables = [np.atleast_2d(d) for d in differences]
    tests = family_tests(tables, alpha=alpha, overlap=overlap)
    shared = [None if test.over_datasets else overlap for test in tests]
    family = sum(bool(np.isfinite(d).any()) for d in tables)
    tested = [_tested(d, test) for d, test in zip(tables, tests, strict=True)]
    each = list(zip(tested, tests, shared, strict=True))
    raw = [_raw_p(rows, test, ratio) for rows, test, ratio in each]
    adjusted = holm(raw)
    same = holm([_equivalence_p(rows, rope, ratio) for rows, _, ratio in each])
    found = []
    for d, (rows, test, ratio), raw_p, p, same_p in zip(
        tables, each, raw, adjusted, same, strict=True
    ):
        word = _word(rows, test, p, same_p, alpha)
        least = smallest_adjusted_p(test, rows[0].size, family) if rows else None
        by = test.name if np.isfinite(d).any() else "none"
        reason = _no_test(d, rows) or _remark(rows, word, p, same_p, alpha)
        shown_in = ""
        if not reason and test.name == "t_each" and word == "undecided":
            shown_in, reason = _where_shown(d, names, alpha / family, ratio)
        found.append(Verdict(word, p, same_p, least, by, reason, raw_p, shown_in))
    return tuple(found)


def _tested(difference_DS: Array, primary: Primary) -> list[Array]:
    """What the test sees, without gaps: all dataset means together, or seeds dataset by dataset."""
    if primary.over_datasets:
        means = dataset_means(difference_DS)
        known = means[np.isfinite(means)]
        return [known] if known.size > 1 else []
    rows = [row[np.isfinite(row)] for row in difference_DS]
    return [row for row in rows if row.size] if primary.name != "none" else []


def _raw_p(rows: Sequence[Array], primary: Primary, overlap: float | None) -> float | None:
    """Two-sided p. Of several datasets: that all of them show the same direction, the largest p of
    the better one (an intersection-union test needs no adjustment over datasets).
    """
    if not rows:
        return None
    if primary.name == "wilcoxon":
        return signed_rank(rows[0]).p
    if len(rows) == 1 and overlap is not None:
        return corrected_resampled_t(rows[0], test_over_train=overlap).p
    if len(rows) == 1:
        return paired_t(rows[0]).p
    one_sided = [[one_sided_t(s * row, overlap=overlap).p for row in rows] for s in (1, -1)]
    if any(p is None for side in one_sided for p in side):
        return None
    return min(1.0, 2 * min(max(p for p in side if p is not None) for side in one_sided))


def _equivalence_p(rows: Sequence[Array], rope: float, overlap: float | None) -> float | None:
    """TOST of what the test sees; of several datasets, that all of them are equivalent."""
    found = [tost(row, rope=rope, overlap=overlap).p for row in rows]
    known = [p for p in found if p is not None]
    return max(known) if found and len(known) == len(found) else None


def _word(
    rows: Sequence[Array], primary: Primary, p: float | None, same_p: float | None, alpha: float
) -> str:
    if not rows:
        return "undecided"
    mean = float(np.mean([row.mean() for row in rows]))
    direction = mean
    if primary.name == "wilcoxon":
        ranks = signed_rank(rows[0])
        direction = ranks.positive - ranks.negative
    return verdict(mean, direction, p, alpha=alpha, equivalence_p=same_p)


def _no_test(difference_DS: Array, rows: Sequence[Array]) -> str:
    known = difference_DS[np.isfinite(difference_DS)]
    if not known.size:
        return "no pair of scores"
    if sum(win_tie_loss(known)[::2]) == 0:
        return "identical in every pair"
    if not rows or max(row.size for row in rows) < 2:
        return "one paired run per dataset: no test"
    return ""


def _remark(
    rows: Sequence[Array], word: str, p: float | None, same_p: float | None, alpha: float
) -> str:
    if len(rows) == 1 and p is None:
        return paired_t(rows[0]).reason
    if p is not None and p < alpha and word not in ("better", "worse"):
        return "the ranks and the mean point in different directions"
    if word in ("better", "worse") and same_p is not None and same_p < alpha:
        return SMALL
    return ""


def _where_shown(
    difference_DS: Array, names: Sequence[str], level: float, overlap: float | None
) -> tuple[str, str]:
    """In which datasets an effect is shown, where not all show it (k-hat at ``level``), "" for
    none; and the same with the reasons for missing tests.
    """
    labels = names or [f"dataset {d + 1}" for d in range(len(difference_DS))]
    have = [d for d, row in enumerate(difference_DS) if np.isfinite(row).any()]
    both = replicated(
        difference_DS[have], [labels[d] for d in have], alpha=level / 2, overlap=overlap
    )
    shown = [
        f"{word} in {found.k_hat} of {len(have)} datasets"
        + (f" ({', '.join(found.named)})" if found.named else "")
        for word, found in zip(("better", "worse"), both, strict=True)
        if found.k_hat
    ]
    reasons = dict.fromkeys(r for found in both for r in found.reasons if "identical" not in r)
    where = " and ".join(shown)
    return where, "; ".join([where or "shown in none of these datasets", *reasons])
