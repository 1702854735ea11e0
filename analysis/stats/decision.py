"""The verdicts of a comparison, one per scope, each adjusted in its own family.

Which test decides follows from the scope alone: neither the number of datasets or seeds nor that
of comparisons ever switches it, so that a further dataset is no cliff and a further variant can
only make a verdict weaker.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from analysis.stats.equivalence import ROPE
from analysis.stats.families import Comparisons, FamilyTests, MeanTests
from analysis.stats.intervals import Array, Interval, t_interval
from analysis.stats.multiple import holm_of
from analysis.stats.replicability import replicated

IDENTICAL = "identical in every pair"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a comparison says in one scope.

    ``word``: better, worse, equivalent or undecided. ``p`` is two-sided and not adjusted,
    ``holm_p`` and ``equivalence_p`` (two one-sided tests) are adjusted by Holm over the family.
    ``interval`` is the t interval of the mean difference. ``negligible``: decided, and yet shown to
    lie within the region of practical equivalence. ``reason`` says why there is no test or what
    the test assumes.
    """

    word: str = "undecided"
    interval: Interval | None = None
    p: float | None = None
    holm_p: float | None = None
    equivalence_p: float | None = None
    negligible: bool = False
    reason: str = ""

    @property
    def decided(self) -> bool:
        """Whether it says better or worse."""
        return self.word in ("better", "worse")

    @property
    def reversed(self) -> "Claim":
        """The same claim about the reference against the variant; everything but word, interval
        and sign is unchanged.
        """
        ends = self.interval and Interval(-self.interval.high, -self.interval.low)
        return replace(self, word=REVERSED.get(self.word, self.word), interval=ends)


REVERSED = {"better": "worse", "worse": "better"}


class ShownIn(NamedTuple):
    """In how many of ``num_datasets`` datasets an effect is shown on its own (k-hat), and those
    that can be named.
    """

    k_hat: int = 0
    named: tuple[str, ...] = ()
    num_datasets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """The two verdicts of one comparison. ``these``: about the datasets of the study, where the
    seeds are the sample; ``like``: about datasets like these, where the datasets are the sample.
    """

    these: Claim
    like: Claim

    @property
    def reversed(self) -> "Judgment":
        """The judgment of the reference against the variant."""
        return Judgment(these=self.these.reversed, like=self.like.reversed)


def judge(
    differences: Comparisons,
    *,
    alpha: float = 0.05,
    rope: float = ROPE,
    overlap: float | None = None,
    shared_seeds: bool = False,
    direction: int = 1,
    level: float = 0.95,
) -> tuple[Judgment, ...]:
    """The verdicts of a family of comparisons, each an array (D, S) of paired differences, or a
    block (M, D, S) of many, or, where runs are not paired, what the seeds of every dataset tell.

    These datasets: ``stratified_t``; datasets like these: ``t_over_datasets``. Every scope is a
    family for Holm's adjustment, and so are its tests of equivalence. ``direction`` is -1 for a
    metric of which less is better; ``level`` is that of the intervals; ``overlap`` and
    ``shared_seeds`` as in ``stratified_t``.
    """
    tests = FamilyTests.of(differences, overlap=overlap, shared_seeds=shared_seeds)
    scopes = (_claims(scope, alpha, rope, direction, level) for scope in (tests.these, tests.like))
    identical = tests.identical_M.tolist()
    return tuple(map(_judgment, identical, *scopes))


def _claims(
    tests: MeanTests, alpha: float, rope: float, direction: int, level: float
) -> list[Claim]:
    """The claims of one scope as a family; a comparison without any pair is not counted."""
    known_M, p_M = tests.known_M, tests.p_M
    holm_M, same_M = p_M.copy(), tests.equivalence_p(rope)
    holm_M[known_M], same_M[known_M] = holm_of(p_M[known_M]), holm_of(same_M[known_M])
    numbers = (tests.value_M, p_M, holm_M, same_M, *tests.intervals(level))
    columns = (map(_or_none, column.tolist()) for column in numbers)
    claims = []
    for value, p, adjusted, same, low, high, reason in zip(*columns, tests.reasons, strict=True):
        if value is None:
            claims.append(Claim(reason=reason))
            continue
        word = verdict(direction * value, adjusted, alpha=alpha, equivalence_p=same)
        claims.append(
            Claim(
                word=word,
                interval=None if low is None else Interval(low, high),
                p=p,
                holm_p=adjusted,
                equivalence_p=same,
                negligible=same is not None and same < alpha and word != "equivalent",
                reason=reason,
            )
        )
    return claims


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number


def verdict(
    gain: float, adjusted_p: float | None, *, alpha: float, equivalence_p: float | None = None
) -> str:
    """The word "better", "worse", "equivalent" or "undecided"; a large p never becomes "no
    difference". ``gain`` is the mean difference, positive where the variant is ahead.
    """
    if adjusted_p is not None and adjusted_p < alpha:
        return "better" if gain > 0 else "worse"
    if equivalence_p is not None and equivalence_p < alpha:
        return "equivalent"
    return "undecided"


def _judgment(identical: bool, these: Claim, like: Claim) -> Judgment:
    """Both claims, with a remark where there is nothing to tell apart."""
    if identical:
        these, like = (replace(claim, reason=IDENTICAL) for claim in (these, like))
    return Judgment(these=these, like=like)


def shown_in(
    difference_DS: Array,
    names: Sequence[str],
    *,
    alpha: float = 0.05,
    family: int = 1,
    overlap: float | None = None,
    direction: int = 1,
) -> tuple[ShownIn, ShownIn]:
    """In which datasets "better" and "worse" are shown by a paired t over the seeds of that dataset
    alone: k-hat at ``alpha`` over both directions and the family's comparisons (Bonferroni), so
    that an effect that every dataset shows is also decided on average.
    """
    table = np.atleast_2d(difference_DS)
    have = [d for d, row in enumerate(table) if np.isfinite(row).any()]
    if not have:
        return ShownIn(), ShownIn()
    better, worse = replicated(
        direction * table[have],
        [names[d] for d in have],
        alpha=alpha / max(family, 1) / 2,
        overlap=overlap,
    )
    return (
        ShownIn(better.k_hat, better.named, len(have)),
        ShownIn(worse.k_hat, worse.named, len(have)),
    )


def outside_region(
    difference_DS: Array, names: Sequence[str], *, rope: float = ROPE
) -> tuple[str, ...]:
    """The datasets whose own t interval over seeds leaves the region of practical equivalence,
    which a mean inside it can hide; a dataset with one run has no interval.
    """
    intervals = [
        t_interval(row) if np.isfinite(row).any() else None for row in np.atleast_2d(difference_DS)
    ]
    return tuple(
        name
        for name, found in zip(names, intervals, strict=True)
        if found and found.half_width is not None and abs(found.mean) + found.half_width > rope
    )
