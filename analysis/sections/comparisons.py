"""Every variant against a reference, metric by metric: differences, intervals, tests, verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.stats import Array, Interval, Primary, Resamples, Verdict
from analysis.text import HM_OF_MEANS
from core.metrics import harmonic_mean

TESTS = {
    "wilcoxon": "exact Wilcoxon",
    "t": "paired t",
    "t_each": "paired t in every dataset",
    "t_seeds": "paired t over seeds",
    "t_corrected": "corrected resampled t",
}

NO_PAIR = "no finished pair of runs with the same dataset and seed"
NO_TEST = "none, because the harmonic mean of two averages has no value per dataset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the comparisons are made. ``rng_seed`` seeds what is drawn (bootstrap, posterior, power);
    ``rope`` is half the width of the region that counts as practically equal, a fraction;
    ``overlap`` the test images for each training image, where seeds are resamples of one dataset
    that share data (None: they share nothing).
    """

    alpha: float = 0.05
    reps: int = 10_000
    rng_seed: int = 0
    rope: float = stats.ROPE
    overlap: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be between 0 and 1, got {self.alpha}")
        if self.reps < 100:
            raise ValueError(f"reps must be at least 100 for a 95 % interval, got {self.reps}")
        if not 0 < self.rope < 1:
            raise ValueError(f"rope must be a fraction between 0 and 1, got {self.rope}")
        if self.overlap is not None and not 0 < self.overlap < math.inf:
            raise ValueError(
                "overlap is the number of test images over that of training images of a resample, "
                f"above 0, such as 0.111 for ten-fold cross-validation, got {self.overlap}; leave "
                "it out for seeds that share no data"
            )


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
    wins: int = 0
    ties: int = 0
    losses: int = 0
    per_dataset: tuple[float | None, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def interval(self) -> Interval | None:
        """The interval that goes with the test that decides."""
        by_test = {"wilcoxon": self.two_level, "t_each": self.seeds_only}
        return by_test.get(self.decided_by, self.t_interval)


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
        results.num_seeds,
        reps=options.reps,
        rng=np.random.default_rng(options.rng_seed),
        shared_seeds=results.shared_seeds,
        overlap=options.overlap,
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
        families[metric], primary[metric] = _decide(pairs, samples, options, results.datasets)
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
        scores = [results.scores(v, metric) for v in (variant, reference)]
        return replace(blank, reason=f"{NO_PAIR}{_unpaired(*scores)}")
    return _effect(blank, results, difference_DS, means, resamples)


def _unpaired(one_DS: Array, two_DS: Array) -> str:
    """Welch's t on the only dataset, where the two sides have runs but no seed in common."""
    if one_DS.shape[0] != 1:
        return ""
    one, two = (values[np.isfinite(values)] for values in (one_DS, two_DS))
    found = stats.welch_t(one, two)
    if found.p is None or found.interval is None:
        return ""
    low, high = (100 * edge for edge in found.interval)
    better = stats.probability_better_unpaired(one, two).value
    return (
        f"; unpaired, Welch's t: {100 * (one.mean() - two.mean()):+.2f} points "
        f"[{low:+.2f}, {high:+.2f}], p {found.p:.3g}, P(better run) {better:.2f}"
    )


def _effect(
    blank: Comparison, results: Results, difference_DS: Array, means: Array, resamples: Resamples
) -> Comparison:
    known = ~np.isnan(means)
    num = int(known.sum())
    over_seeds = num == 1
    sample = difference_DS[known][0] if over_seeds else means[known]
    t_test: stats.PairedT | stats.ResampledT = stats.paired_t(sample)
    if over_seeds and resamples.overlap is not None:
        t_test = stats.corrected_resampled_t(sample, test_over_train=resamples.overlap)
    ranks = stats.signed_rank(means[known])
    two_level, seeds_only = resamples.averages(difference_DS)
    several_seeds = bool((np.sum(~np.isnan(difference_DS), axis=1) > 1).any())
    wins, ties, losses = stats.win_tie_loss(means)
    return replace(
        blank,
        num_datasets=num,
        num_pairs=int(np.sum(~np.isnan(difference_DS))),
        difference=float(means[known].mean()),
        two_level=stats.percentile_interval(two_level) if num > 1 else None,
        seeds_only=_seeds_only(seeds_only, t_test.interval, over_seeds, several_seeds),
        t_interval=t_test.interval,
        wilcoxon_p=ranks.p if num > 1 else None,
        t_p=t_test.p,
        smallest_p=stats.smallest_p(num) if num > 1 else None,
        wins=wins,
        ties=ties,
        losses=losses,
        per_dataset=tuple(None if np.isnan(m) else float(m) for m in means),
        left_out=tuple(d for d, k in zip(results.datasets, known, strict=True) if not k),
    )


def _seeds_only(
    draws: Array, t_interval: Interval | None, one_dataset: bool, several_seeds: bool
) -> Interval | None:
    """On one dataset the t interval: a bootstrap over a handful of seeds covers too rarely."""
    if one_dataset:
        return t_interval
    return stats.percentile_interval(draws) if several_seeds else None


def _decide(
    pairs: Sequence[Comparison],
    samples: Mapping[str, Array],
    options: Options,
    names: Sequence[str],
) -> tuple[tuple[Comparison, ...], Primary]:
    """The verdicts of a family, by the test that the counts call for.

    ``samples`` are the paired differences (D, S) by variant, ``names`` those of the datasets.
    """
    family = [c for c in pairs if c.num_datasets > 0]
    tables = [samples[c.variant] for c in family]
    found = stats.judge(
        tables, alpha=options.alpha, rope=options.rope, names=names, overlap=options.overlap
    )
    primary = stats.family_test(tables, alpha=options.alpha, overlap=options.overlap)
    if pairs and not family:
        primary = Primary(name="none", reason=f"none, because {pairs[0].reason}")
    decided = {
        c.variant: replace(
            c,
            verdict=v.word,
            holm_p=v.p,
            equivalence_p=v.equivalence_p,
            smallest_holm_p=v.smallest_p,
            family_size=len(family),
            decided_by=v.decided_by,
            reason="; ".join(filter(None, (_without(c), _other_test(v, primary), v.reason))),
        )
        for c, v in zip(family, found, strict=True)
    }
    return tuple(decided.get(c.variant, c) for c in pairs), primary


def _without(c: Comparison) -> str:
    return f"without {', '.join(c.left_out)}: no pair of finished runs" if c.left_out else ""


def _other_test(v: Verdict, primary: Primary) -> str:
    """What decides where fewer datasets or seeds call for another test than the design does."""
    if v.decided_by in (primary.name, "none"):
        return ""
    return f"decided by {TESTS[v.decided_by]}, for its own numbers of datasets and seeds"


def _compare_hm_of_means(results: Results, base: Comparison, resamples: Resamples) -> Comparison:
    """Difference of the harmonic means of the averages, over the cells that both variants have."""
    blank = Comparison(
        reference=base.reference, variant=base.variant, metric=HM_OF_MEANS, reason=base.reason
    )
    if base.difference is None:
        return blank
    sides = (base.variant, base.reference)
    cubes = {metric: results.cube(sides, metric) for metric in ("base", "new")}
    scores = {
        (who, metric): table
        for metric, cube in cubes.items()
        for who, table in zip(sides, cube, strict=True)
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
