"""The t tests of many comparisons at once: a report of 500 variants has 124,750 pairs a metric.

Comparisons without a missing cell are tested as rows of arrays, all others one by one; the numbers
are those of ``stratified_t`` and ``t_over_datasets``, bit for bit. M is the number of comparisons.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.stats.intervals import ROUNDING, Array, dataset_means
from analysis.stats.mean_tests import (
    CONSTANT,
    FLOAT_NOISE,
    ONE_DATASET,
    ONE_RUN,
    MeanTest,
    SeedMeans,
    stratified_t,
    t_over_datasets,
)

Comparisons = Iterable[Array | SeedMeans]
"""Each an array (D, S) of paired differences, a block (M, D, S) of them, or what the seeds of every
dataset tell of a difference.
"""
Flags = NDArray[np.bool_]

BLOCK_CELLS = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanTests:
    """The tests of M comparisons in one scope, a column for every number of ``MeanTest``; NaN where
    there is none.
    """

    value_M: Array
    error_M: Array
    df_M: Array
    n_M: Array
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, tests: Sequence[MeanTest]) -> "MeanTests":
        """The columns of tests that were made one by one."""
        numbers = [[_number(t.value), _number(t.error), t.df, t.n] for t in tests]
        value_M, error_M, df_M, n_M = np.array(numbers, dtype=np.float64).reshape(-1, 4).T
        reasons = tuple(test.reason or test.note for test in tests)
        return cls(value_M=value_M, error_M=error_M, df_M=df_M, n_M=n_M, reasons=reasons)

    @classmethod
    def untested(cls, value_M: Array, *, n: int, reason: str) -> "MeanTests":
        """Means of ``n`` values each, of which nothing tells the standard error."""
        return cls._columns(value_M, np.full(len(value_M), np.nan), np.nan, n, reason)

    @classmethod
    def tested(cls, value_M: Array, error_M: Array, df_M: Array | float, *, n: int) -> "MeanTests":
        """Means with their standard errors, 0 where the sample does not vary."""
        return cls._columns(value_M, error_M, df_M, n, "")

    @classmethod
    def _columns(
        cls, value_M: Array, error_M: Array, df_M: Array | float, n: int, reason: str
    ) -> "MeanTests":
        constant_M = (error_M == 0) & (value_M != 0)
        return cls(
            value_M=value_M,
            error_M=error_M,
            df_M=np.broadcast_to(np.asarray(df_M, dtype=np.float64), value_M.shape),
            n_M=np.full(len(value_M), float(n)),
            reasons=tuple(CONSTANT if constant else reason for constant in constant_M.tolist()),
        )

    @classmethod
    def joined(cls, parts: Sequence["MeanTests"], order: Sequence[int]) -> "MeanTests":
        """Some tests and further ones; ``order`` has the place that each of them takes."""
        places = np.argsort(np.asarray(order, dtype=np.intp))
        reasons = [reason for part in parts for reason in part.reasons]
        return cls(
            value_M=np.concatenate([part.value_M for part in parts])[places],
            error_M=np.concatenate([part.error_M for part in parts])[places],
            df_M=np.concatenate([part.df_M for part in parts])[places],
            n_M=np.concatenate([part.n_M for part in parts])[places],
            reasons=tuple(reasons[place] for place in places.tolist()),
        )

    @property
    def known_M(self) -> Flags:
        """Which comparisons have any pair."""
        return np.isfinite(self.value_M)

    @property
    def p_M(self) -> Array:
        """``MeanTest.p`` of every comparison."""
        constant_M = np.where(self.value_M == 0, 1.0, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            tails_M = 2 * special.stdtr(self.df_M, -(np.abs(self.value_M) / self.error_M))
        return np.where(self.error_M == 0, constant_M, tails_M)

    def intervals(self, level: float) -> tuple[Array, Array]:
        """The ends of ``MeanTest.interval`` of every comparison."""
        half_M = special.stdtrit(self.df_M, 0.5 + level / 2) * self.error_M
        half_M = np.where(self.error_M == 0, np.nan, half_M)
        return self.value_M - half_M, self.value_M + half_M

    def equivalence_p(self, rope: float) -> Array:
        """``MeanTest.equivalence_p`` of every comparison."""
        if rope <= 0:
            return np.full(len(self.value_M), np.nan)
        nearest_M = np.minimum(self.value_M + rope, rope - self.value_M)
        constant_M = np.where(nearest_M > 0, 0.5**self.n_M, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            tails_M = np.asarray(special.stdtr(self.df_M, -(nearest_M / self.error_M)))
        return np.where(self.error_M == 0, constant_M, tails_M)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyTests:
    """The tests of a family in both scopes, and which comparisons show no difference at all."""

    these: MeanTests
    like: MeanTests
    identical_M: Flags

    @classmethod
    def of(
        cls, differences: Comparisons, *, overlap: float | None = None, shared_seeds: bool = False
    ) -> "FamilyTests":
        """Of comparisons in their order; the options are those of ``stratified_t``."""
        blocks, singles = _sorted(differences)
        parts = [_of_block(block, overlap, shared_seeds) for _, block in blocks]
        parts.append(_one_by_one([single for _, single in singles], overlap, shared_seeds))
        order = [place for places, _ in blocks for place in places]
        order += [place for place, _ in singles]
        identical = np.concatenate([part.identical_M for part in parts])
        return cls(
            these=MeanTests.joined([part.these for part in parts], order),
            like=MeanTests.joined([part.like for part in parts], order),
            identical_M=identical[np.argsort(np.asarray(order, dtype=np.intp))],
        )


def _sorted(
    differences: Comparisons,
) -> tuple[list[tuple[list[int], Array]], list[tuple[int, Array | SeedMeans]]]:
    """The places and tables of complete comparisons, in blocks of one shape, and all others."""
    complete: dict[tuple[int, ...], list[tuple[list[int], Array]]] = {}
    singles: list[tuple[int, Array | SeedMeans]] = []
    count = 0
    for found in differences:
        if isinstance(found, SeedMeans):
            singles.append((count, found))
            count += 1
            continue
        block = found if found.ndim == 3 else np.atleast_2d(found)[None]
        known_MDS = np.isfinite(block)
        whole_M = known_MDS.all(axis=(1, 2)) & known_MDS.any(axis=(1, 2))
        places = np.arange(count, count + len(block))
        count += len(block)
        singles += zip(places[~whole_M].tolist(), block[~whole_M], strict=True)
        if whole_M.any():
            same_shape = complete.setdefault(block.shape[1:], [])
            same_shape.append((places[whole_M].tolist(), block[whole_M]))
    return [joined for blocks in complete.values() for joined in _joined(blocks)], singles


def _joined(blocks: Sequence[tuple[list[int], Array]]) -> Iterator[tuple[list[int], Array]]:
    """The same in fewer blocks, of a size that fits into a cache."""
    places: list[int] = []
    tables: list[Array] = []
    for i, (where, block) in enumerate(blocks, start=1):
        places += where
        tables.append(block)
        if i == len(blocks) or len(places) * block[0].size >= BLOCK_CELLS:
            yield places, np.concatenate(tables)
            places, tables = [], []


def _one_by_one(
    singles: Sequence[Array | SeedMeans], overlap: float | None, shared_seeds: bool
) -> FamilyTests:
    seeds = [s if isinstance(s, SeedMeans) else SeedMeans.of(s) for s in singles]
    these = [stratified_t(s, overlap=overlap, shared_seeds=shared_seeds) for s in seeds]
    return FamilyTests(
        these=MeanTests.of(these),
        like=MeanTests.of([t_over_datasets(single) for single in singles]),
        identical_M=np.array([means.identical for means in seeds], dtype=np.bool_),
    )


def _of_block(block_MDS: Array, overlap: float | None, shared_seeds: bool) -> FamilyTests:
    """The tests of complete comparisons."""
    block_MDS = np.ascontiguousarray(block_MDS)
    mean_MD, variance_MD = block_MDS.mean(axis=2), _variances(block_MDS)
    same_MD = (np.round(mean_MD, ROUNDING) == 0) & (variance_MD == 0)
    return FamilyTests(
        these=_over_seeds(block_MDS, mean_MD, variance_MD, overlap or 0.0, shared_seeds),
        like=_over_datasets(dataset_means(block_MDS)),
        identical_M=same_MD.all(axis=1),
    )


def _variances(values: Array) -> Array:
    """The variances along the last axis, 0 where values differ by no more than float noise."""
    varies = np.round(values - values[..., :1], ROUNDING).any(axis=-1)
    found = np.zeros(varies.shape)
    if values.shape[-1] > 1:
        found[varies] = values[varies].var(axis=-1, ddof=1)
    return found


def _over_seeds(
    block_MDS: Array, mean_MD: Array, variance_MD: Array, overlap: float, shared_seeds: bool
) -> MeanTests:
    """``stratified_t``."""
    _, num_datasets, num_seeds = block_MDS.shape
    value_M, strata = _means(mean_MD), num_datasets
    if shared_seeds and num_datasets > 1:
        per_seed_MS = np.ascontiguousarray(block_MDS.transpose(0, 2, 1)).mean(axis=2)
        variance_MD, strata = _variances(per_seed_MS)[:, None], 1
    num = strata * num_seeds
    if num_seeds < 2:
        return MeanTests.untested(value_M, n=num, reason=ONE_RUN)
    part_MD = variance_MD * (1 / num_seeds + overlap) / strata**2
    sum_M = part_MD.sum(axis=1)
    with np.errstate(invalid="ignore"):  # no variance: 0 / 0
        df_M = sum_M * sum_M / (part_MD**2 / (num_seeds - 1)).sum(axis=1)
    error_M = np.where(variance_MD.any(axis=1), np.sqrt(sum_M), 0.0)
    return MeanTests.tested(value_M, error_M, df_M, n=num)


def _over_datasets(mean_MD: Array) -> MeanTests:
    """``t_over_datasets``."""
    value_M, num = _means(mean_MD), mean_MD.shape[1]
    if num == 1:
        return MeanTests.untested(value_M, n=num, reason=ONE_DATASET)
    error_M = np.sqrt(_variances(mean_MD)) / math.sqrt(num)
    return MeanTests.tested(value_M, error_M, num - 1, n=num)


def _means(value_MD: Array) -> Array:
    """The means, exactly zero where they are float noise."""
    mean_M = value_MD.mean(axis=1)
    return np.where(np.abs(mean_M) < FLOAT_NOISE, 0.0, mean_M)
