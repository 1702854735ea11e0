"""Statistics against reference values of scipy and statsmodels, and against cases done by hand."""

import json

import numpy as np
import pytest

from analysis import stats
from analysis.stats import Resamples
from tests.helpers.paths import GOLDEN
from tests.helpers.resampled import percentiles, resampled_averages

REFERENCE = json.loads((GOLDEN / "stats_reference.json").read_text())
PAIRS = REFERENCE["pairwise"]
ONE_DATASET = REFERENCE["one_dataset_eurosat_10_seeds"]


def differences(name):
    """Of a pair such as "A ours-promptsrc": dataset means of table A."""
    words = name.split()
    table = next(t for key, t in REFERENCE["tables"].items() if key.startswith(f"{words[0]}_"))
    columns = dict(zip(table["columns"], np.array(table["values"]).T, strict=True))
    variant, reference = words[1].split("-")
    return columns[variant] - columns[reference]


def rng(seed=0):
    return np.random.default_rng(seed)


def test_t_interval_matches_the_reference():
    mean, half_width, n = stats.t_interval(np.array(ONE_DATASET["ours"]))
    assert n == 10
    np.testing.assert_allclose(
        [mean - half_width, mean + half_width], ONE_DATASET["t_CI_mean"], rtol=1e-12
    )


def test_t_interval_by_hand_and_without_spread_or_values():
    mean, half_width, n = stats.t_interval(np.array([1.0, 2.0, 3.0, np.nan]))
    assert (mean, n) == (2.0, 3)
    quantile = 0.95 * np.sqrt(2 / (1 - 0.95**2))  # closed form for two degrees of freedom
    assert half_width == pytest.approx(quantile / np.sqrt(3), rel=1e-9)
    assert stats.t_interval(np.array([0.5])) == (0.5, None, 1)
    assert stats.t_interval(np.array([0.5, 0.5])) == (0.5, 0.0, 2)
    with pytest.raises(ValueError, match="at least one value"):
        stats.t_interval(np.array([np.nan]))


@pytest.mark.parametrize("name", list(PAIRS))
def test_tests_over_dataset_means_match_the_reference(name):
    pair = PAIRS[name]
    d = differences(name)
    ranks, t_test = stats.signed_rank(d), stats.paired_t(d)
    assert min(ranks.positive, ranks.negative) == pair["wilcoxon(zero_method='pratt')"][0]
    assert ranks.p == pytest.approx(pair["wilcoxon(zero_method='pratt')"][1], rel=1e-12)
    assert t_test.p == pytest.approx(pair["ttest_rel"][1], rel=1e-9)
    np.testing.assert_allclose(t_test.interval, pair["ttest_rel"][2:], rtol=1e-9)
    win, tie, loss = stats.win_tie_loss(d)
    assert [win, loss] == pair["sign: binomtest(wins,wins+losses)"][:2]
    assert win + tie + loss == len(d)


def test_paired_t_over_seeds_of_one_dataset_matches_the_reference():
    d = np.array(ONE_DATASET["ours"]) - np.array(ONE_DATASET["promptsrc"])
    assert stats.paired_t(d).p == pytest.approx(ONE_DATASET["ttest_rel"][1], rel=1e-9)


def test_signed_rank_is_exact_for_many_pairs_with_ties():
    """Twenty equal gains: one sign pattern of 2**20 in each tail."""
    assert stats.signed_rank(np.full(20, 0.01)).p == 2 / 2**20
    assert stats.signed_rank(np.array([1.0, 1.0, -1.0])).p == 1.0
    assert stats.signed_rank(np.array([3.0, 2.0, 1.0])).p == 0.25


def test_float_noise_is_a_tie():
    case = REFERENCE["TRAP float noise makes false non-zeros"]
    d = np.array(case["a"]) - np.array(case["b"])
    assert stats.signed_rank(d).p == case["wilcoxon(round(a-b,6))"][1]
    assert stats.win_tie_loss(d) == (4, 6, 0)
    assert stats.signed_rank(np.zeros(5)) == (1.0, 0.0, 0.0)


def test_smallest_p_is_what_the_test_reaches():
    known = REFERENCE["power"]["min_two_sided_p_wilcoxon_or_signflip = 2^(1-n)"]
    for n, p in known.items():
        assert stats.smallest_p(int(n)) == p
        assert stats.signed_rank(np.arange(1.0, int(n) + 1)).p == p
    assert stats.smallest_p(0) is None


def test_holm_matches_the_reference_and_counts_what_has_no_p():
    case = REFERENCE["multiplicity"]
    np.testing.assert_allclose(stats.holm(case["raw_wilcoxon"]), case["holm"], rtol=1e-12)
    assert stats.holm([]) == []
    assert stats.holm([0.01, None, 0.04]) == [pytest.approx(0.03), None, pytest.approx(0.08)]


def test_constant_differences_have_no_t():
    same = "the difference is the same everywhere: t is not defined"
    assert stats.paired_t(np.full(6, 0.01)) == (None, (pytest.approx(0.01),) * 2, same)
    assert stats.paired_t(np.zeros(6)) == (1.0, (0.0, 0.0), "")
    assert stats.paired_t(np.array([0.1])) == (None, None, "one pair only: no test")
    noisy = np.array([0.3, 0.1 + 0.2, 0.3])
    assert stats.paired_t(noisy).p is None


def test_dataset_means_and_pairing_with_a_constant():
    seeds = np.array([[0.5, 0.7], [0.6, np.nan]])
    constant = np.array([[0.4], [np.nan]])
    d = stats.paired_differences(seeds, constant)
    np.testing.assert_allclose(d, [[0.1, 0.3], [np.nan, np.nan]])
    np.testing.assert_allclose(stats.dataset_means(d), [0.2, np.nan])
    np.testing.assert_allclose(stats.dataset_means(seeds), [0.6, 0.6])


def test_two_level_bootstrap_matches_the_reference():
    case, table = REFERENCE["hier_paired_bootstrap ours-promptsrc"], REFERENCE["tables"]
    scores = table["D_scores_dataset_method_seed"]
    of = dict(zip(scores["methods"], np.moveaxis(np.array(scores["values"]), 1, 0), strict=True))
    d = of["ours"] - of["promptsrc"]
    resamples = Resamples.draw(11, 10, reps=10_000, rng=rng())
    two_level, seeds_only = resampled_averages(resamples, d)
    assert d.mean() == pytest.approx(case["mean"], rel=1e-9)
    np.testing.assert_allclose(percentiles(two_level), case["datasets+seeds 95%"], atol=0.03)
    np.testing.assert_allclose(
        percentiles(seeds_only), case["seeds_only 95% (fixed suite)"], atol=0.01
    )


def test_bootstrap_moments_by_hand():
    """Variance of a resampled mean is (n-1)/n s^2/n at each level: too small for few values."""
    d = rng(1).normal(0, 1, (4, 3))
    resamples = Resamples.draw(4, 3, reps=200_000, rng=rng(2))
    two_level, seeds_only = resampled_averages(resamples, d)
    within = d.var(axis=1, ddof=0) / 3
    assert seeds_only.mean() == pytest.approx(d.mean(), abs=0.01)
    assert seeds_only.var() == pytest.approx(within.sum() / 16, rel=0.02)
    between = d.mean(axis=1).var(ddof=0)
    assert two_level.var() == pytest.approx((between + within.mean()) / 4, rel=0.02)


def test_same_draws_for_every_variant_and_seed():
    one = Resamples.draw(5, 3, reps=200, rng=rng(7))
    two = Resamples.draw(5, 3, reps=200, rng=rng(7))
    a, b = rng(1).normal(size=(2, 5, 3))
    for x, y in zip(resampled_averages(one, a), resampled_averages(two, a), strict=True):
        assert np.array_equal(x, y)
    for whole, first, second in zip(
        *(resampled_averages(one, values) for values in (a - b, a, b)), strict=True
    ):
        np.testing.assert_allclose(whole, first - second, atol=1e-12)


def test_shared_seeds_move_together():
    """Equal columns over datasets: shared seeds do not average out, own seeds do."""
    d = np.tile([0.0, 1.0, 2.0, 3.0], (8, 1))
    draw = {"reps": 20_000, "rng": rng(3)}
    _, shared = resampled_averages(Resamples.draw(8, 4, shared_seeds=True, **draw), d)
    _, own = resampled_averages(Resamples.draw(8, 4, **draw), d)
    assert shared.var() == pytest.approx(1.25 / 4, rel=0.03)
    assert own.var() == pytest.approx(1.25 / 4 / 8, rel=0.03)
