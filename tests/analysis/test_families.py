"""Families tested as arrays have the numbers of ``stratified_t`` and ``t_over_datasets``."""

from dataclasses import replace

import numpy as np
import pytest

from analysis import stats
from analysis.stats import mean_tests
from analysis.stats.decision import IDENTICAL
from analysis.stats.multiple import holm_of

SHAPES = [(1, 1), (1, 5), (4, 1), (2, 2), (3, 5), (9, 12), (20, 10)]


def random_tables(shape, rng):
    """Differences of all kinds: complete, tied, equal, constant, without some or all cells."""
    tables = [rng.normal(0.003, 0.01, shape) for _ in range(12)]
    tables[1] = np.round(tables[1], 2)
    tables[2][:] = 0.0
    tables[3][:] = 0.02
    tables[4] = np.repeat(tables[4][:, :1], shape[1], axis=1)
    tables[5] = np.repeat(tables[5][:1], shape[0], axis=0)
    tables[6][rng.random(shape) < 0.4] = np.nan
    tables[7][:] = np.nan
    tables[8] = tables[8] * 1e-11
    tables[9] = np.where(rng.random(shape) < 0.5, 0.0, 1e-3)
    alone = stats.SeedMeans.unpaired(rng.random(shape), rng.random((shape[0], shape[1] + 1)))
    return [*tables, alone]


def one_by_one(differences, *, alpha, rope, overlap, shared_seeds, direction, level):
    """The verdicts of a family from its single tests."""
    seeds = [d if isinstance(d, stats.SeedMeans) else stats.SeedMeans.of(d) for d in differences]
    these = [stats.stratified_t(d, overlap=overlap, shared_seeds=shared_seeds) for d in seeds]
    like = [stats.t_over_datasets(d) for d in differences]
    scopes = [claims(tests, alpha, rope, direction, level) for tests in (these, like)]
    found = []
    for means, *both in zip(seeds, *scopes, strict=True):
        if means.identical:
            both = [replace(claim, reason=IDENTICAL) for claim in both]
        found.append(stats.Judgment(these=both[0], like=both[1]))
    return found


def claims(tests, alpha, rope, direction, level):
    known = [test for test in tests if test.value is not None]
    adjusted = iter(stats.holm([test.p for test in known]))
    same = iter(stats.holm([test.equivalence_p(rope) for test in known]))
    made = []
    for test in tests:
        if test.value is None:
            made.append(stats.Claim(reason=test.reason))
            continue
        p, same_p = next(adjusted), next(same)
        word = stats.verdict(direction * test.value, p, alpha=alpha, equivalence_p=same_p)
        made.append(
            stats.Claim(
                word=word,
                interval=test.interval(level),
                p=test.p,
                holm_p=p,
                equivalence_p=same_p,
                negligible=same_p is not None and same_p < alpha and word != "equivalent",
                reason=test.reason or test.note,
            )
        )
    return made


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"rope": 0.01, "overlap": None, "shared_seeds": False, "direction": 1, "level": 0.95},
        {"rope": 0.0, "overlap": 0.2, "shared_seeds": False, "direction": -1, "level": 0.99},
        {"rope": 0.02, "overlap": None, "shared_seeds": True, "direction": 1, "level": 0.95},
    ],
    ids=["plain", "overlap", "shared"],
)
def test_a_family_has_the_verdicts_of_its_single_tests_bit_for_bit(shape, options):
    rng = np.random.default_rng(sum(shape))
    for _ in range(5):
        family = random_tables(shape, rng)
        expected = one_by_one(family, alpha=0.05, **options)
        assert list(stats.judge(family, alpha=0.05, **options)) == expected


def test_blocks_of_comparisons_are_the_same_family_as_the_comparisons():
    rng = np.random.default_rng(0)
    family = random_tables((4, 3), rng)
    block = np.stack(family[:-1])
    assert stats.judge([block[:5], *block[5:8], block[8:], family[-1]]) == stats.judge(family)
    assert stats.judge([block[:0], *family, block[:0]]) == stats.judge(family)
    assert stats.judge([]) == ()


def test_complete_comparisons_are_tested_as_arrays_and_only_the_others_one_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    family = [rng.normal(0, 0.01, (4, 3)) for _ in range(50)]
    family[7][0, 0] = np.nan
    calls = []
    original = mean_tests.stratified_t

    def counted(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr("analysis.stats.families.stratified_t", counted)
    assert len(stats.judge(family)) == 50
    assert len(calls) == 1


def test_holm_of_an_array_is_that_of_a_list():
    p_values = [0.01, None, 0.2, 0.01, 1.0, 0.04]
    found = holm_of(np.array([np.nan if p is None else p for p in p_values]))
    assert [None if np.isnan(p) else p for p in found] == stats.holm(p_values)
    assert stats.holm([0.01, 0.04, None]) == pytest.approx([0.03, 0.08, None])
