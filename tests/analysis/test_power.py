"""The power of both tests: against a library, references, and brute force."""

import json
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.power import TTestPower

from analysis import stats
from analysis.stats import Designs, Limit, Spread
from tests.helpers.error_rates import over_datasets, over_seeds, words
from tests.helpers.paths import GOLDEN

CASE = json.loads((GOLDEN / "stats_reference.json").read_text())["power"]


def designs(between, seed, *, like, comparisons=1, alpha=0.05, overlap=0.0):
    spread = Spread(between=between, seed=seed, source="test")
    return Designs(spread=spread, level=alpha / comparisons, like=like, overlap=overlap)


@pytest.mark.parametrize("n", list(CASE["mde_dz_alpha05_power80"]))
def test_the_detectable_effect_matches_the_reference(n):
    """On datasets of standard deviation 1, whose seeds agree."""
    like = designs(1.0, 0.0, like=True)
    expected = CASE["mde_dz_alpha05_power80"][n]
    assert like.minimum_effect(0.8, int(n), 3) == pytest.approx(expected, rel=1e-5)
    one = designs(0.0, 1.0, like=False)
    assert one.minimum_effect(0.8, 1, int(n)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", list(CASE["mde_dz_alpha05/10_power80"]))
def test_the_detectable_effect_at_a_stricter_level(n):
    """At n = 5 the library met a NaN of the noncentral t and stopped at a power of .783."""
    expected = CASE["mde_dz_alpha05/10_power80"][n]
    found = designs(1.0, 0.0, like=True, comparisons=10).minimum_effect(0.8, int(n), 3)
    reached = TTestPower().power(expected, int(n), 0.005)
    if reached == pytest.approx(0.8, abs=1e-4):
        assert found == pytest.approx(expected, rel=1e-5)
    assert stats.t_power(expected, int(n), level=0.005) == pytest.approx(reached, abs=1e-6)
    assert stats.t_power(found, int(n), level=0.005) == pytest.approx(0.8, abs=1e-6)


def test_the_power_at_the_number_of_pairs_of_the_reference():
    for dz, n in CASE["n_for_dz_power80"].items():
        assert stats.t_power(float(dz), n) == pytest.approx(0.8, rel=1e-5)


def test_noether_matches_the_reference():
    key = "noether_n_prob_outperform(gamma=.75,alpha=.05,beta=.05)"
    assert stats.noether_size() == CASE[key]
    with pytest.raises(ValueError, match="above 1/2"):
        stats.noether_size(gamma=0.5)


@pytest.mark.parametrize("freedom", [1, 2, 3, 10, 44, 999, 9999])
@pytest.mark.parametrize("center", [0.0, 1.0, 2.8, 6.0, 25.0])
def test_the_integral_is_the_noncentral_t(freedom, center):
    """Also where the integrand bends within a thousandth: few degrees of freedom, strict levels."""
    levels = np.array([0.05, 0.01, 0.05 / 55, 1e-5])
    critical = scipy_stats.t.ppf(1 - levels / 2, freedom)
    found = stats.noncentral_t_tail(center, critical, freedom)
    expected = scipy_stats.nct.sf(critical, freedom, center)
    known = np.isfinite(expected)
    assert np.all((found >= -1e-15) & (found <= 1 + 1e-12))
    np.testing.assert_allclose(found[known], expected[known], atol=1e-9)
    if center == 0:
        np.testing.assert_allclose(found, levels / 2, rtol=1e-9)


@pytest.mark.parametrize(("dz", "n"), [(0.35, 9549), (3.6, 5), (14.0, 2), (0.0, 11), (50.0, 3)])
def test_power_of_t_is_a_number_where_the_library_has_none(dz, n):
    found = stats.t_power(dz, n, level=0.005 if n == 5 else 0.05)
    assert 0 <= found <= 1
    if dz == 0:
        assert found == pytest.approx(0.05)
    x = np.random.default_rng(0).standard_normal((20_000, min(n, 50)))
    if n <= 11:
        t = (x + dz).mean(axis=1) / x.std(axis=1, ddof=1) * np.sqrt(n)
        quantile = {5: 5.597568, 2: 12.706205, 11: 2.228139, 3: 4.302653}[n]
        assert found == pytest.approx((np.abs(t) > quantile).mean(), abs=0.01)


def test_power_at_eleven_datasets_and_one_standard_deviation():
    """.85, as a design of the field has it."""
    assert designs(1.0, 0.0, like=True).power(1.0, 11, 3) == pytest.approx(0.85, abs=0.005)


def decided(d_RMDS, scope, level):
    """The share of comparisons that the twin of ``judge`` calls better, each on its own."""
    tests = (over_seeds if scope == "these" else over_datasets)(d_RMDS)
    told, _ = words(tests, alpha=level, rope=1.0)
    return float((told == "better").mean())


def by_force(scope, effect, between, seed, num_datasets, num_seeds, level, *, count):
    """Power by simulation. On these datasets the effects have the mean ``effect``, elsewhere they
    are a sample from datasets with that mean.
    """
    rng = np.random.default_rng([num_datasets, num_seeds])
    size = (count, 1, num_datasets, num_seeds)
    truth = effect + between * rng.standard_normal((*size[:3], 1))
    if scope == "these":
        truth += effect - truth.mean(axis=2, keepdims=True)
    return decided(truth + seed * rng.standard_normal(size), scope, level)


def assert_power_is_that_of_force(scope, num_datasets, num_seeds, comparisons, *, count):
    """At effects that are decided with a power of .3, .8 and .95."""
    seed, between = 0.01, 0.007
    plan = designs(between, seed, like=scope == "like", comparisons=comparisons)
    allowed = 4 * math.sqrt(0.25 / count)
    for target in (0.3, 0.8, 0.95):
        effect = plan.minimum_effect(target, num_datasets, num_seeds)
        assert plan.power(effect, num_datasets, num_seeds) == pytest.approx(target, abs=1e-9)
        level = 0.05 / comparisons
        forced = by_force(scope, effect, between, seed, num_datasets, num_seeds, level, count=count)
        assert forced == pytest.approx(target, abs=allowed)


@pytest.mark.parametrize("scope", ["these", "like"])
@pytest.mark.parametrize(
    ("num_datasets", "num_seeds", "comparisons"), [(2, 2, 1), (3, 2, 5), (4, 5, 1), (11, 3, 10)]
)
def test_power_is_the_share_of_simulated_studies_that_are_decided(
    scope, num_datasets, num_seeds, comparisons
):
    assert_power_is_that_of_force(scope, num_datasets, num_seeds, comparisons, count=20_000)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["these", "like"])
@pytest.mark.parametrize("num_datasets", [2, 3, 4, 5, 6, 8, 11])
@pytest.mark.parametrize("num_seeds", [2, 3, 4, 5, 10])
@pytest.mark.parametrize("comparisons", [1, 5, 55])
def test_power_is_that_of_brute_force_everywhere(scope, num_datasets, num_seeds, comparisons):
    assert_power_is_that_of_force(scope, num_datasets, num_seeds, comparisons, count=40_000)


def test_judge_itself_decides_as_often():
    """4 datasets, 5 seeds, in a family of three: the first step of Holm's adjustment."""
    plan = designs(0.004, 0.01, like=False, comparisons=3)
    effect = plan.minimum_effect(0.6, 4, 5)
    rng = np.random.default_rng(5)
    wins = []
    for _ in range(1500):
        truth = rng.normal(0, 0.004, (4, 1))
        d = effect + truth - truth.mean() + rng.normal(0, 0.01, (4, 5))
        others = [np.zeros((4, 5))] * 2
        wins.append(stats.judge([d, *others])[0].these.word == "better")
    assert np.mean(wins) == pytest.approx(0.6, abs=4 * math.sqrt(0.24 / 1500))


def test_only_the_right_direction_is_power():
    """Without an effect half of the false positives, and less than all of the level."""
    for like in (True, False):
        found = designs(0.01, 0.01, like=like).power(1e-12, 6, 5)
        assert found <= 0.025 + 1e-6
    assert designs(0.01, 0.01, like=True).power(1e-12, 6, 5) == pytest.approx(0.025)


def test_eighty_percent_at_one_point_one():
    """4 datasets x 5 seeds, about these datasets, with a seed spread of 1.6 points."""
    found = designs(0.03, 0.016, like=False).minimum_effect(0.8, 4, 5)
    assert 100 * found == pytest.approx(1.1, abs=0.02)


@pytest.mark.parametrize("like", [True, False])
@pytest.mark.parametrize(
    ("effect", "between", "seed", "comparisons"),
    [
        (0.01, 0.005, 0.007, 5),
        (0.021, 0.01, 0.01, 1),
        (0.02, 0.005, 0.04, 10),
        (0.01, 0.001, 0.02, 1),
    ],
)
def test_numbers_needed_are_the_first_that_suffice(effect, between, seed, comparisons, like):
    """Every smaller one is asked, since nothing says that power only rises."""
    plan = designs(between, seed, like=like, comparisons=comparisons)

    def first(power, low, most):
        return next((n for n in range(low, most) if (power(n) or 0) >= 0.8), None)

    seeds, _ = plan.seeds_needed(effect, 0.8, 5)
    assert seeds == first(lambda n: plan.power(effect, 5, n), 1, 200)
    datasets, _ = plan.datasets_needed(effect, 0.8, 3)
    assert datasets == first(lambda n: plan.power(effect, n, 3), 1, 200)
    assert seeds or datasets


def test_known_numbers_needed():
    """Standard deviations of 1 between datasets and over 3 seeds, and an effect of 2.1."""
    like = designs(0.01, 0.01, like=True)
    sd = math.sqrt(0.01**2 + 0.01**2 / 3)
    fewest = next(
        n
        for n in range(2, 20)
        if scipy_stats.nct.sf(scipy_stats.t.ppf(0.975, n - 1), n - 1, 0.021 / sd * n**0.5) >= 0.8
    )
    assert like.datasets_needed(0.021, 0.8, 3) == (fewest, None)


def test_what_more_seeds_cannot_shrink():
    like = designs(0.02, 0.01, like=True)
    floor = like.floor(0.8, 5)
    assert floor == pytest.approx(designs(0.02, 0.0, like=True).minimum_effect(0.8, 5, 1))
    assert like.seeds_needed(0.99 * floor, 0.8, 5) == (None, Limit.SPREAD_HIDES_IT)
    assert like.seeds_needed(1.0001 * floor, 0.8, 5) == (None, Limit.TOO_MANY)
    assert like.seeds_needed(1.01 * floor, 0.8, 5)[0] > 10
    these = designs(0.02, 0.01, like=False)
    assert these.floor(0.8, 5) == 0.0
    assert these.seeds_needed(1e-5, 0.8, 5) == (None, Limit.TOO_MANY)
    shared = designs(0.02, 0.01, like=False, overlap=0.25)
    least = shared.floor(0.8, 5)
    assert shared.seeds_needed(0.99 * least, 0.8, 5) == (None, Limit.SPREAD_HIDES_IT)
    assert shared.power(0.01, 5, 4) < these.power(0.01, 5, 4)
    assert shared.error(5, 4) == pytest.approx(these.error(5, 4) * math.sqrt((0.25 + 0.25) / 0.25))


def test_why_a_design_has_no_power():
    both = {like: designs(0.01, 0.01, like=like) for like in (True, False)}
    assert both[True].limit(1, 5) is Limit.ONE_DATASET and both[True].power(0.01, 1, 5) is None
    assert both[False].limit(5, 1) is Limit.ONE_RUN and both[False].power(0.01, 5, 1) is None
    assert both[True].limit(5, 1) is None and both[False].limit(1, 2) is None
    flat = designs(0.0, 0.0, like=True)
    assert flat.limit(5, 3) is Limit.NO_SPREAD and flat.minimum_effect(0.8, 5, 3) is None
    assert flat.seeds_needed(0.01, 0.8, 5) == flat.datasets_needed(0.01, 0.8, 5)
    unknown = designs(0.01, None, like=False)
    assert unknown.limit(5, 3) is Limit.SEED_SPREAD_UNKNOWN
    assert unknown.seeds_needed(0.01, 0.8, 5) == (None, Limit.SEED_SPREAD_UNKNOWN)
    alone = designs(None, 0.01, like=True)
    assert alone.limit(5, 3) is Limit.DATASET_SPREAD_UNKNOWN
    assert alone.datasets_needed(0.01, 0.8, 5) == (None, Limit.DATASET_SPREAD_UNKNOWN)
    assert designs(0.01, None, like=True).power(0.01, 5, 1) is not None


def test_a_spread_is_a_standard_deviation():
    for wrong in (-0.01, math.nan, math.inf):
        with pytest.raises(ValueError, match="standard deviation of 0 or more"):
            Spread(between=wrong, seed=0.01, source="test")


def test_satterthwaite_has_at_least_the_freedom_of_one_dataset():
    for num_datasets, num_seeds in ((1, 3), (2, 2), (5, 4), (300, 4)):
        found = stats.satterthwaite_quantiles(0.05, num_datasets, num_seeds)
        most = scipy_stats.t.ppf(0.975, num_seeds - 1)
        least = scipy_stats.t.ppf(0.975, num_datasets * (num_seeds - 1))
        assert least - 1e-9 <= found.min() <= found.max() <= most + 1e-9
    before, after = (np.mean(stats.satterthwaite_quantiles(0.05, n, 2)) for n in (499, 501))
    assert before == pytest.approx(after, abs=0.002)


def _asked(monkeypatch):
    """The designs whose power is computed."""
    found, original = [], Designs.power

    def counted(self, effect, num_datasets, num_seeds):
        found.append((num_datasets, num_seeds))
        return original(self, effect, num_datasets, num_seeds)

    monkeypatch.setattr(Designs, "power", counted)
    return found


@pytest.mark.parametrize("like", [False, True])
@pytest.mark.parametrize(
    ("between", "seed", "comparisons"), [(0.01, 0.02, 1), (0.0, 0.05, 499), (0.02, 0.01, 5)]
)
def test_the_fewest_seeds_and_datasets_are_those_of_a_search_one_by_one(
    monkeypatch, like, between, seed, comparisons
):
    plan, effect = designs(between, seed, like=like, comparisons=comparisons), 0.012
    seeds = next((n for n in range(2 - like, 301) if plan.power(effect, 4, n) >= 0.8), None)
    many = next((n for n in range(1 + like, 301) if plan.power(effect, n, 3) >= 0.8), None)
    asked = _asked(monkeypatch)
    assert many is not None
    assert plan.datasets_needed(effect, 0.8, 3) == (many, None)
    assert plan.seeds_needed(effect, 0.8, 4)[0] == seeds
    assert len(asked) < 40


def test_where_no_number_of_seeds_suffices_few_are_asked(monkeypatch):
    asked = _asked(monkeypatch)
    found = designs(0.02, 0.05, like=True).seeds_needed(0.02, 0.8, 4)
    assert found == (None, Limit.SPREAD_HIDES_IT)
    assert len(asked) < 20
