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
from analysis.stats.multiple import holm, most_comparisons
from analysis.stats.paired import paired_t, signed_rank, smallest_p, win_tie_loss

MIN_DATASETS_FOR_WILCOXON = 6
"""Below it a two-sided signed-rank p cannot be under 0.05, whatever the data."""

MIN_SEEDS_FOR_WILCOXON = 10
MIN_SEEDS_FOR_T = 5
MIN_DATASETS_FOR_OMNIBUS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Primary:
    """The test that decides, chosen before any score is looked at. ``name``: wilcoxon, t, t_seeds
    or none. ``claim`` is what a decision speaks about; ``descriptive`` says that the datasets are
    too few for more than a description.
    """

    name: str
    reason: str
    claim: str = ""
    descriptive: bool = False


def primary_test(
    num_datasets: int, num_seeds: int, num_comparisons: int, *, alpha: float = 0.05
) -> Primary:
    """Which test decides, from the counts alone (Demsar, JMLR 7, 2006; the smallest attainable p as
    a limit).

    * 6 or more datasets and 2/2^n times the number of comparisons below alpha: exact Wilcoxon over
      dataset means.
    * otherwise 2 or more datasets: paired t over dataset means; below 6 datasets it is descriptive.
    * 1 dataset and 2 or more paired seeds: paired t over seeds, a claim about that dataset alone.
    * 1 dataset and 1 seed: no test, the verdict is undecided.
    """
    least = smallest_p(num_datasets)
    reachable = least is not None and least * num_comparisons < alpha
    if num_datasets >= MIN_DATASETS_FOR_WILCOXON and reachable:
        return Primary(
            name="wilcoxon",
            reason=f"exact Wilcoxon signed-rank over {num_datasets} dataset means",
            claim="on datasets like these",
        )
    if num_datasets >= 2:
        return _t_over_datasets(num_datasets, num_comparisons, alpha)
    if num_datasets == 1 and num_seeds >= 2:
        return Primary(
            name="t_seeds",
            reason=f"paired t over {num_seeds} seeds of one dataset: a claim about it alone",
            claim="on this dataset",
        )
    return Primary(name="none", reason="none, because there is at most one paired run")


def _t_over_datasets(num_datasets: int, num_comparisons: int, alpha: float) -> Primary:
    text, least = f"paired t over {num_datasets} dataset means", smallest_p(num_datasets)
    if num_datasets < MIN_DATASETS_FOR_WILCOXON:
        return Primary(
            name="t",
            reason=f"{text}; descriptive, because fewer than {MIN_DATASETS_FOR_WILCOXON} "
            f"datasets cannot support a claim on datasets like these "
            f"(smallest Wilcoxon p: {least:.3g})",
            claim="a description of these datasets",
            descriptive=True,
        )
    return Primary(
        name="t",
        reason=f"{text}, because Wilcoxon with Holm over {num_comparisons} comparisons could "
        f"never fall below {alpha:g} (smallest p: {least:.3g} × {num_comparisons})",
        claim="on datasets like these",
    )


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
    which have no lower limit. ``reason`` says why a word was not
    reached, or what to know beside it.
    """

    word: str
    p: float | None
    equivalence_p: float | None
    smallest_p: float | None
    decided_by: str
    reason: str = ""
    raw_p: float | None = None


def smallest_adjusted_p(primary: Primary, num_datasets: int, num_comparisons: int) -> float | None:
    """Smallest p that the primary test can give after Holm's adjustment; None for a t test."""
    least = smallest_p(num_datasets)
    if primary.name != "wilcoxon" or least is None:
        return None
    return min(1.0, least * num_comparisons)


def judge(
    differences: Sequence[Array], *, alpha: float = 0.05, rope: float = ROPE
) -> tuple[Verdict, ...]:
    """The default decision for a family of comparisons, each an array (D, S) of paired differences.

    The counts choose the test, Holm adjusts it over the family, and TOST with Holm says equivalent.
    """
    means = [dataset_means(np.atleast_2d(d)) for d in differences]
    counts = [int((~np.isnan(m)).sum()) for m in means]
    several = [n for n in counts if n > 1]
    num_datasets = min(several, default=1 if any(counts) else 0)
    num_seeds = max((int(np.isfinite(d).sum()) for d in differences), default=0)
    family = sum(n > 0 for n in counts)
    primary = primary_test(num_datasets, num_seeds, family, alpha=alpha)
    samples = [
        m if primary.name != "t_seeds" else np.ravel(d)
        for m, d in zip(means, differences, strict=True)
    ]
    usable = [n > 1 or primary.name == "t_seeds" for n in counts]
    tested = [s if u else s[:0] for s, u in zip(samples, usable, strict=True)]
    raw = [_raw_p(s, primary) for s in tested]
    adjusted = holm(raw)
    same = holm([tost(s, rope=rope).p for s in tested])
    return tuple(
        _judged(s, primary, p, e, smallest_adjusted_p(primary, n, family), alpha)._replace(raw_p=r)
        for s, p, e, n, r in zip(samples, adjusted, same, counts, raw, strict=True)
    )


def _raw_p(sample: Array, primary: Primary) -> float | None:
    if primary.name == "wilcoxon":
        return signed_rank(sample).p
    return paired_t(sample).p if primary.name in ("t", "t_seeds") else None


def _judged(
    sample: Array,
    primary: Primary,
    p: float | None,
    same_p: float | None,
    least: float | None,
    alpha: float,
) -> Verdict:
    known = sample[np.isfinite(sample)]
    if known.size == 0:
        return Verdict("undecided", None, None, None, "none", "no pair of scores")
    ranks = signed_rank(known)
    mean = float(known.mean())
    direction = ranks.positive - ranks.negative if primary.name == "wilcoxon" else mean
    word = verdict(mean, direction, p, alpha=alpha, equivalence_p=same_p)
    reason = ""
    if sum(win_tie_loss(known)[::2]) == 0:
        reason = "identical in every pair"
    elif primary.name == "none" or known.size < 2:
        reason = "one paired run: no test"
    elif p is None:
        reason = paired_t(known).reason
    elif p < alpha and word not in ("better", "worse"):
        reason = "the ranks and the mean point in different directions"
    elif word in ("better", "worse") and same_p is not None and same_p < alpha:
        reason = "smaller than the region of practical equivalence"
    return Verdict(word, p, same_p, least, primary.name, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of the decision table: what decides, what stands beside it, and what must not."""

    primary: str
    also: tuple[str, ...]
    never: tuple[str, ...]
    claim: str
    smallest_p: float | None = None
    notes: tuple[str, ...] = ()


def decision_rule(
    num_datasets: int,
    num_seeds: int,
    *,
    num_variants: int = 2,
    all_pairs: bool = False,
    overlapping: bool = False,
    missing_cells: bool = False,
    shots_trend: bool = False,
    alpha: float = 0.05,
) -> Rule:
    """The row of the table for a design, from its counts alone; scores never enter.

    ``overlapping``: the seeds are resamples of one dataset that share data, as in cross-validation.
    """
    if num_datasets < 1 or num_seeds < 1 or num_variants < 2:
        raise ValueError(
            "a comparison needs at least 1 dataset, 1 seed and 2 variants, got "
            f"{num_datasets}, {num_seeds} and {num_variants}"
        )
    if shots_trend:
        return Rule(
            primary="Page's L over datasets",
            also=("the curve with t intervals",),
            never=("one test a number of shots",),
            claim="a trend over shots on datasets like these",
        )
    if num_datasets == 1:
        return _one_dataset(num_seeds, num_variants, overlapping)
    if num_datasets < MIN_DATASETS_FOR_WILCOXON:
        return Rule(
            primary="a paired t a dataset, and k-hat: in how many datasets, and in which",
            also=("paired t over dataset means, as a description", "mixed model"),
            never=("Wilcoxon or Friedman over datasets as a decision",),
            claim="on these datasets, by name",
            smallest_p=smallest_p(num_datasets),
        )
    return _many_datasets(num_datasets, num_seeds, num_variants, all_pairs, missing_cells, alpha)


def _one_dataset(num_seeds: int, num_variants: int, overlapping: bool) -> Rule:
    claim = "on this dataset"
    if num_seeds == 1:
        test = "McNemar's exact test" if num_variants == 2 else "Cochran's Q"
        return Rule(
            primary=f"{test} on the images",
            also=("interval of the accuracy difference",),
            never=("a claim on methods",),
            claim="about these trained models",
        )
    if overlapping:
        return Rule(
            primary="corrected resampled t",
            also=("Bayesian correlated t",),
            never=("a plain t test: resamples share data",),
            claim=claim,
        )
    rank_tests = "Wilcoxon and permutation tests: their smallest p is too large"
    if num_seeds < MIN_SEEDS_FOR_T:
        return Rule(
            primary="effect with its t interval; undecided unless the effect is huge",
            also=("test on the images of one run",),
            never=(rank_tests, "percentile bootstrap: it covers too rarely"),
            claim=claim,
            smallest_p=smallest_p(num_seeds),
        )
    also: tuple[str, ...] = ("P(A > B)",)
    if num_seeds >= MIN_SEEDS_FOR_WILCOXON:
        also = ("exact Wilcoxon over seeds", "P(A > B) with its interval")
    return Rule(
        primary="paired t over seeds; Welch's t where seeds share nothing",
        also=also,
        never=(rank_tests,) if num_seeds < MIN_DATASETS_FOR_WILCOXON else (),
        claim=claim,
        smallest_p=smallest_p(num_seeds),
    )


def _many_datasets(
    num_datasets: int,
    num_seeds: int,
    num_variants: int,
    all_pairs: bool,
    missing_cells: bool,
    alpha: float,
) -> Rule:
    family = num_variants * (num_variants - 1) // 2 if all_pairs else num_variants - 1
    test = "exact Wilcoxon over dataset means, paired t beside it"
    if num_variants > 2:
        which = "all pairs" if all_pairs else "each against the baseline"
        test = f"Iman and Davenport's F, then {test}, {which}, with Holm"
    most = most_comparisons(num_datasets, alpha=alpha)
    notes = []
    if family > most:
        notes.append(
            f"Holm over {family} Wilcoxon tests cannot fall below {alpha:g} on {num_datasets} "
            f"datasets (at most {most}): the paired t decides"
        )
    if missing_cells:
        notes.append("cells are missing: name them, then a mixed model or the common datasets")
    if num_seeds == 1:
        notes.append("one seed: nothing is known about the noise of training")
    return Rule(
        primary=test,
        also=(
            "TOST",
            "Bayesian signed-rank",
            "k-hat",
            "two-level bootstrap",
            *(("mixed model",) if missing_cells else ()),
            *(("Conover's test as a sensitivity check",) if num_variants > 2 else ()),
        ),
        never=("a test over datasets x seeds as if all were independent", "Nemenyi's test"),
        claim="on datasets like these",
        smallest_p=min(1.0, (smallest_p(num_datasets) or 1.0) * family),
        notes=tuple(notes),
    )
