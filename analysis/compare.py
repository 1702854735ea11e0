"""Every variant against a reference, metric by metric: differences, intervals, tests, verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis import stats
from analysis.results import Results
from analysis.stats import Array, Interval, Primary, Resamples
from core.metrics import harmonic_mean

HM_OF_MEANS = "hm_of_means"
"""Not a metric of a run: the harmonic mean of the two averages, as the field prints it. It has no
per-dataset value, so it gets intervals but no test over datasets.
"""

NO_TEST = "none, because the harmonic mean of two averages has no value per dataset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the comparisons are made. ``rng_seed`` seeds what is drawn (bootstrap, posterior, power);
    ``rope`` is half the width of the region that counts as practically equal, a fraction.
    """

    alpha: float = 0.05
    reps: int = 10_000
    rng_seed: int = 0
    rope: float = stats.ROPE

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be between 0 and 1, got {self.alpha}")
        if self.reps < 100:
            raise ValueError(f"reps must be at least 100 for a 95 % interval, got {self.reps}")
        if not 0 < self.rope < 1:
            raise ValueError(f"rope must be a fraction between 0 and 1, got {self.rope}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One variant against one reference on one metric; differences are fractions, variant minus
    reference.

    ``two_level`` speaks about datasets like these, ``seeds_only`` about these datasets,
    ``t_interval`` belongs to the paired t test. A number that does not exist is None and ``reason``
    says why. ``per_dataset`` follows the results' datasets, None where the pair is missing.
    ``decided_by`` is the test behind ``holm_p`` and ``verdict``; ``equivalence_p`` is TOST's,
    adjusted by Holm; ``smallest_holm_p`` is the smallest adjusted p that the design could give.
    """

    reference: str
    variant: str
    metric: str
    verdict: str = "not compared"
    decided_by: str = "none"
    reason: str = ""
    num_datasets: int = 0
    num_pairs: int = 0
    difference: float | None = None
    two_level: Interval | None = None
    seeds_only: Interval | None = None
    t_interval: Interval | None = None
    wilcoxon_p: float | None = None
    t_p: float | None = None
    holm_p: float | None = None
    smallest_p: float | None = None
    smallest_holm_p: float | None = None
    equivalence_p: float | None = None
    family_size: int = 0
    direction: float = 0.0
    wins: int = 0
    ties: int = 0
    losses: int = 0
    per_dataset: tuple[float | None, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def interval(self) -> Interval | None:
        """The interval that goes with the test that decides."""
        return self.two_level if self.decided_by == "wilcoxon" else self.t_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """All comparisons against one reference, by metric, and the test that decides in each
    family.
    """

    reference: str
    comparisons: Mapping[str, tuple[Comparison, ...]]
    primary: Mapping[str, Primary]


def compare_all(results: Results, options: Options) -> tuple[Block, ...]:
    """A block for the baseline and one for every further reference.

    Each (reference, metric) is a family of its own for Holm's adjustment: every variant that may be
    compared with the reference counts once; an inert copy of another variant is not counted a
    second time.
    """
    resamples = Resamples.draw(
        len(results.datasets),
        max(len(results.planned_seeds), 1),
        reps=options.reps,
        rng=np.random.default_rng(options.rng_seed),
        shared_seeds=results.shared_seeds,
    )
    return tuple(
        _block(results, reference, options, resamples)
        for reference in (results.baseline, *results.references)
    )


def _block(results: Results, reference: str, options: Options, resamples: Resamples) -> Block:
    families: dict[str, tuple[Comparison, ...]] = {}
    primary: dict[str, Primary] = {}
    for metric in results.metrics:
        others = _others(results, reference)
        pairs = [_compare(results, v, reference, metric, resamples) for v in others]
        samples = {v: differences(results, v, reference, metric) for v in others}
        families[metric], primary[metric] = _decide(pairs, samples, options)
    if {"base", "new"} <= set(results.metrics):
        primary[HM_OF_MEANS] = Primary(name="none", reason=NO_TEST)
        families[HM_OF_MEANS] = tuple(
            _compare_hm_of_means(results, c, resamples) for c in families["base"]
        )
    return Block(reference=reference, comparisons=families, primary=primary)


def _others(results: Results, reference: str) -> list[str]:
    return [v for v in results.variants if v != reference]


def differences(results: Results, variant: str, reference: str, metric: str) -> Array:
    """Paired differences (D, S) of two variants, NaN where a pair is missing."""
    return stats.paired_differences(
        results.scores(variant, metric), results.scores(reference, metric)
    )


def _compare(
    results: Results, variant: str, reference: str, metric: str, resamples: Resamples
) -> Comparison:
    """Effect and raw p values of one pair; the verdict needs the family and comes later."""
    blank = Comparison(reference=reference, variant=variant, metric=metric)
    original = results.aliases.get(variant, variant)
    if original == results.aliases.get(reference, reference):
        return replace(blank, reason=f"inert: the same runs as {reference}")
    if original != variant:
        return replace(blank, reason=f"inert: the same runs as {original}, counted there")
    if reason := results.not_comparable(variant, reference):
        return replace(blank, reason=reason)
    difference_DS = differences(results, variant, reference, metric)
    means = stats.dataset_means(difference_DS)
    known = ~np.isnan(means)
    if not known.any():
        return replace(blank, reason="no finished pair of runs with the same dataset and seed")
    return _effect(blank, results, difference_DS, means, resamples)


def _effect(
    blank: Comparison, results: Results, difference_DS: Array, means: Array, resamples: Resamples
) -> Comparison:
    known = ~np.isnan(means)
    num = int(known.sum())
    over_seeds = num == 1
    sample = difference_DS[known][0] if over_seeds else means[known]
    t_test, ranks = stats.paired_t(sample), stats.signed_rank(means[known])
    two_level, seeds_only = resamples.averages(difference_DS)
    several_seeds = bool((np.sum(~np.isnan(difference_DS), axis=1) > 1).any())
    wins, ties, losses = stats.win_tie_loss(means)
    return replace(
        blank,
        num_datasets=num,
        num_pairs=int(np.sum(~np.isnan(difference_DS))),
        difference=float(means[known].mean()),
        two_level=stats.percentile_interval(two_level) if num > 1 else None,
        seeds_only=stats.percentile_interval(seeds_only) if several_seeds else None,
        t_interval=t_test.interval,
        wilcoxon_p=ranks.p if num > 1 else None,
        t_p=t_test.p,
        smallest_p=stats.smallest_p(num) if num > 1 else None,
        direction=ranks.positive - ranks.negative,
        wins=wins,
        ties=ties,
        losses=losses,
        per_dataset=tuple(None if np.isnan(m) else float(m) for m in means),
        left_out=tuple(d for d, k in zip(results.datasets, known, strict=True) if not k),
    )


def _decide(
    pairs: Sequence[Comparison], samples: Mapping[str, Array], options: Options
) -> tuple[tuple[Comparison, ...], Primary]:
    """Holm over the family and the verdicts, by the test that the counts call for.

    ``samples`` are the paired differences (D, S) by variant.
    """
    family = [c for c in pairs if c.num_datasets > 0]
    several = [c.num_datasets for c in family if c.num_datasets > 1]
    num_datasets = min(several, default=1 if family else 0)
    num_seeds = max((c.num_pairs for c in family if c.num_datasets == 1), default=0)
    primary = stats.primary_test(num_datasets, num_seeds, len(family), alpha=options.alpha)
    adjusted = stats.holm([_raw_p(c, primary) for c in family])
    same = stats.holm([_equivalence_p(c, samples, primary, options) for c in family])
    decided = {
        c.variant: _with_verdict(
            replace(c, equivalence_p=same_p), primary, p, len(family), options.alpha
        )
        for c, p, same_p in zip(family, adjusted, same, strict=True)
    }
    return tuple(decided.get(c.variant, c) for c in pairs), primary


def _raw_p(c: Comparison, primary: Primary) -> float | None:
    if primary.name == "wilcoxon":
        return c.wilcoxon_p if c.num_datasets > 1 else None
    if primary.name == "t":
        return c.t_p if c.num_datasets > 1 else None
    return c.t_p if primary.name == "t_seeds" else None


def _equivalence_p(
    c: Comparison, samples: Mapping[str, Array], primary: Primary, options: Options
) -> float | None:
    """TOST over what the primary test sees: dataset means, or the seeds of the only dataset."""
    if primary.name == "none" or (primary.name != "t_seeds" and c.num_datasets < 2):
        return None
    values_DS = samples[c.variant]
    sample = values_DS if primary.name == "t_seeds" else stats.dataset_means(values_DS)
    return stats.tost(sample, rope=options.rope).p


def _with_verdict(
    c: Comparison, primary: Primary, adjusted: float | None, family_size: int, alpha: float
) -> Comparison:
    assert c.difference is not None
    direction = c.direction if primary.name == "wilcoxon" else c.difference
    word = stats.verdict(
        c.difference, direction, adjusted, alpha=alpha, equivalence_p=c.equivalence_p
    )
    return replace(
        c,
        verdict=word,
        holm_p=adjusted,
        smallest_holm_p=stats.smallest_adjusted_p(primary, c.num_datasets, family_size),
        family_size=family_size,
        decided_by=primary.name,
        reason=_remark(c, primary, adjusted, alpha),
    )


def _remark(c: Comparison, primary: Primary, adjusted: float | None, alpha: float) -> str:
    """What a reader should know about this row, "" for nothing."""
    assert c.difference is not None
    if c.wins + c.losses == 0:
        return "identical on every dataset"
    if c.left_out:
        return f"without {', '.join(c.left_out)}: no pair of finished runs"
    if adjusted is None and c.num_pairs == 1:
        return "one paired run: no test"
    if adjusted is None and c.num_datasets == 1 and primary.name != "t_seeds":
        return "only one dataset has a pair: no test"
    if adjusted is None:
        return "the difference is the same everywhere: t is not defined"
    if adjusted < alpha and primary.name == "wilcoxon" and c.direction * c.difference <= 0:
        return "the ranks and the mean point in different directions"
    return ""


def _compare_hm_of_means(results: Results, base: Comparison, resamples: Resamples) -> Comparison:
    """Difference of the harmonic means of the averages, over the cells that both variants have."""
    blank = Comparison(
        reference=base.reference, variant=base.variant, metric=HM_OF_MEANS, reason=base.reason
    )
    if base.difference is None:
        return blank
    scores = {
        (who, metric): results.scores(who, metric)
        for who in (base.variant, base.reference)
        for metric in ("base", "new")
    }
    shared = sum(scores.values(), start=np.zeros(1))
    masked = {key: np.where(np.isnan(shared), np.nan, value) for key, value in scores.items()}
    mean = {key: float(np.nanmean(stats.dataset_means(value))) for key, value in masked.items()}
    draws = {key: resamples.averages(value) for key, value in masked.items()}
    one, two = base.variant, base.reference
    levels = [
        _harmonic(draws[one, "base"][level], draws[one, "new"][level])
        - _harmonic(draws[two, "base"][level], draws[two, "new"][level])
        for level in (0, 1)
    ]
    return replace(
        blank,
        verdict="no test",
        reason="",
        num_datasets=base.num_datasets,
        num_pairs=base.num_pairs,
        difference=harmonic_mean(mean[one, "base"], mean[one, "new"])
        - harmonic_mean(mean[two, "base"], mean[two, "new"]),
        two_level=stats.percentile_interval(levels[0]) if base.two_level else None,
        seeds_only=stats.percentile_interval(levels[1]) if base.seeds_only else None,
    )


def _harmonic(base_R: Array, new_R: Array) -> Array:
    total = base_R + new_R
    return np.where(total > 0, 2 * base_R * new_R / np.where(total > 0, total, 1.0), 0.0)
