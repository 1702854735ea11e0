"""Power, detectable effects and what would settle a question."""

import json
from itertools import combinations

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from analysis import stats
from analysis.read.published import TABLES, load_published
from analysis.sections.design_power import (
    Spread,
    plan_in_points,
    plan_rows,
    plan_study,
    published_spread,
    study_power,
    variance_components,
)
from main import main
from tests.helpers.paths import GOLDEN

REFERENCE = json.loads((GOLDEN / "stats_reference.json").read_text())
CASE = REFERENCE["power"]


def rng(seed=0):
    return np.random.default_rng(seed)


def plan(num_datasets, num_seeds, effect=0.01, between=0.02, seed=0.01, **options):
    spread = Spread(between=between, seed=seed, source="test")
    return plan_study(num_datasets, num_seeds, effect=effect, spread=spread, rng=rng(), **options)


@pytest.mark.parametrize("n", list(CASE["mde_dz_alpha05_power80"]))
def test_detectable_effect_matches_the_reference(n):
    expected = CASE["mde_dz_alpha05_power80"][n]
    assert stats.Detector(int(n), 0.05).detectable(0.8) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", list(CASE["mde_dz_alpha05/10_power80"]))
def test_detectable_effect_at_a_stricter_level(n):
    """At n = 5 the library met a NaN of the noncentral t and stopped at a power of .783."""
    expected = CASE["mde_dz_alpha05/10_power80"][n]
    found = stats.Detector(int(n), 0.005).detectable(0.8)
    reached = TTestPower().power(expected, int(n), 0.005)
    if reached == pytest.approx(0.8, abs=1e-4):
        assert found == pytest.approx(expected, rel=1e-5)
    assert stats.t_power(expected, int(n), level=0.005) == pytest.approx(reached, abs=1e-6)
    assert stats.t_power(found, int(n), level=0.005) == pytest.approx(0.8, abs=1e-6)


def test_the_power_at_the_number_of_pairs_of_the_reference():
    for dz, n in CASE["n_for_dz_power80"].items():
        assert stats.t_power(float(dz), n) == pytest.approx(0.8, rel=1e-5)


def test_smallest_p_and_noether_match_the_reference():
    for n, p in CASE["min_two_sided_p_wilcoxon_or_signflip = 2^(1-n)"].items():
        assert stats.smallest_p(int(n)) == p
    key = "noether_n_prob_outperform(gamma=.75,alpha=.05,beta=.05)"
    assert stats.noether_size() == CASE[key]
    with pytest.raises(ValueError, match="above 1/2"):
        stats.noether_size(gamma=0.5)


@pytest.mark.parametrize(("dz", "n"), [(0.35, 9549), (3.6, 5), (14.0, 2), (0.0, 11), (50.0, 3)])
def test_power_of_t_is_a_number_where_the_library_has_none(dz, n):
    found = stats.t_power(dz, n, level=0.005 if n == 5 else 0.05)
    assert 0 <= found <= 1
    if dz == 0:
        assert found == pytest.approx(0.05)
    x = rng().standard_normal((20_000, min(n, 50)))
    if n <= 11:
        t = (x + dz).mean(axis=1) / x.std(axis=1, ddof=1) * np.sqrt(n)
        quantile = {5: 5.597568, 2: 12.706205, 11: 2.228139, 3: 4.302653}[n]
        assert found == pytest.approx((np.abs(t) > quantile).mean(), abs=0.01)


def test_power_at_eleven_datasets_and_one_standard_deviation():
    """.81 for Wilcoxon and .85 for t, as a design of the field has it."""
    wilcoxon = stats.detector(11, 3, rng=rng())
    assert wilcoxon.power(1.0) == pytest.approx(0.81, abs=0.015)
    assert stats.t_power(1.0, 11) == pytest.approx(0.85, abs=0.005)
    assert wilcoxon.power(0.0) == pytest.approx(0.042, abs=0.006)
    assert wilcoxon.power(wilcoxon.detectable(0.8)) == pytest.approx(0.8, abs=0.002)


def test_simulated_wilcoxon_decides_like_the_test_itself():
    wilcoxon = stats.detector(8, 3, rng=rng())
    studies = wilcoxon.shifts[:400] + 0.8
    decided = [stats.signed_rank(row).p < 0.05 for row in studies]
    part = stats.Detector(8, 0.05, wilcoxon.shifts[:400], wilcoxon.cut)
    assert part.power(0.8) == np.mean(decided)


def test_many_datasets_use_the_efficiency_of_wilcoxon():
    many = stats.detector(31, 3, rng=rng())
    assert many.shifts is None and many.n == pytest.approx(31 * 3 / np.pi)
    near = stats.detector(30, 3, rng=rng())
    assert near.power(0.6) == pytest.approx(stats.t_power(0.6, 30 * 3 / np.pi), abs=0.02)


def test_published_spread_is_what_the_tables_show():
    """Sd of paired differences over 11 datasets: about 2.4, 5.3 and 3.7 points, from the rows."""
    rows = load_published()
    eleven = TABLES["base_to_new"].averaged
    methods = ("CoOp", "CoCoOp", "KgCoOp", "MaPLe", "PromptSRC", "PromptKD")
    for metric, points in (("base", 2.4), ("new", 5.3), ("hm", 3.7)):
        figures = {
            m: [
                getattr(
                    next(
                        r
                        for r in rows
                        if r.table == "base_to_new"
                        and r.method == m
                        and r.dataset == d
                        and r.origin != "rerun"
                    ),
                    metric,
                )
                for d in eleven
            ]
            for m in methods
        }
        sds = [np.std(np.subtract(a, b), ddof=1) for a, b in combinations(figures.values(), 2)]
        spread = published_spread(metric)
        assert spread.of_dataset_mean(3) == pytest.approx(np.median(sds), rel=1e-9)
        assert 100 * spread.of_dataset_mean(3) == pytest.approx(points, abs=0.06)
        assert spread.seed > 0 and "6 trained methods" in spread.source
        found = plan_in_points(11, 3, 1.0, metric, None, None)
        expected = 0.9377 * np.median(sds)
        assert found.minimum_effect == pytest.approx(expected, rel=0.08)
    with pytest.raises(ValueError, match="base, new, hm, got 'accuracy'"):
        published_spread("accuracy")


def test_variance_components_find_what_went_in():
    d = 0.01 + rng().normal(0, 0.02, (400, 1)) + rng(1).normal(0, 0.03, (400, 4))
    spread, reason = variance_components(d)
    assert reason == ""
    assert spread.between == pytest.approx(0.02, rel=0.1)
    assert spread.seed == pytest.approx(0.03, rel=0.05)
    uneven = np.where(rng(2).random(d.shape) < 0.3, np.nan, d)
    ragged, _ = variance_components(uneven)
    assert ragged.between == pytest.approx(0.02, rel=0.15)
    assert ragged.seed == pytest.approx(0.03, rel=0.05)


def test_variance_components_say_what_they_cannot():
    one_seed, reason = variance_components(rng().normal(0, 1, (5, 1)))
    assert one_seed.seed is None and "one seed per dataset" in reason
    assert variance_components(np.ones((1, 5)))[0] is None
    assert variance_components(np.full((3, 2), np.nan))[0] is None
    assert variance_components(np.ones((4, 3)))[0] == Spread(
        between=0, seed=0, source="these 4 datasets"
    )


def test_more_seeds_settle_seed_noise_and_more_datasets_settle_spread():
    noisy = plan(11, 1, effect=0.02, between=0.005, seed=0.04)
    assert noisy.power < 0.8 and 1 < noisy.seeds_needed < 10 and noisy.notes == ()
    again = plan(11, noisy.seeds_needed, effect=0.02, between=0.005, seed=0.04)
    assert again.power >= 0.795 and again.seeds_needed == noisy.seeds_needed
    wide = plan(11, 3, effect=0.01, between=0.02, seed=0.001)
    assert wide.seeds_needed is None and wide.datasets_needed > 30
    assert "more seeds do not suffice: with 11 datasets" in wide.notes[0]
    enough = plan(wide.datasets_needed, 3, effect=0.01, between=0.02, seed=0.001)
    assert enough.power >= 0.8 > plan(wide.datasets_needed - 2, 3, between=0.02, seed=0.001).power
    done = plan(11, 3, effect=0.2)
    assert (done.seeds_needed, done.datasets_needed, done.notes) == (3, 11, ())


def test_comparisons_cost_power():
    one, ten = plan(11, 3, effect=0.02), plan(11, 3, effect=0.02, comparisons=10)
    assert ten.power < one.power and ten.minimum_effect > one.minimum_effect
    assert ten.smallest_p == 10 * one.smallest_p == 10 * 2 / 2**11


def test_small_designs_say_what_they_cannot():
    single = plan(1, 1)
    assert single.power is None and single.minimum_effect is None
    assert "there is no test, so there is no power" in single.notes[-1]
    few = plan(4, 5)
    assert few.claim in few.notes[-1] and "in each of 4 datasets" in few.test
    seeds = plan(1, 5, effect=0.01, seed=0.02)
    assert "seeds of one dataset" in seeds.test and seeds.seeds_needed > 5
    least = stats.t_power(0.5, seeds.seeds_needed), stats.t_power(0.5, seeds.seeds_needed - 1)
    assert least[0] >= 0.8 > least[1]
    unknown = plan(11, 1, seed=None)
    assert unknown.seeds_needed is None and "training noise has to be measured" in unknown.notes[0]
    flat = plan(11, 3, between=0.0, seed=0.0)
    assert flat.power is None and flat.minimum_effect is None and "no spread" in flat.notes[-1]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"num_datasets": 0}, "datasets must be at least 1, got 0"),
        ({"num_seeds": 0}, "seeds must be at least 1"),
        ({"comparisons": 0}, "comparisons must be at least 1"),
        ({"effect": -0.01}, "above 0, got -1 points"),
        ({"effect": float("nan")}, "above 0, got nan"),
        ({"alpha": 1.0}, "alpha must be between 0 and 1"),
        ({"target_power": 0.0}, "power must be between 0 and 1"),
        ({"between": -1.0}, "standard deviation of 0 or more"),
    ],
)
def test_wrong_input_is_one_line(wrong, match):
    with pytest.raises(ValueError, match=match) as error:
        plan(**{"num_datasets": 11, "num_seeds": 3, **wrong})
    assert "\n" not in str(error.value)


def test_a_study_uses_its_own_spread():
    d = rng().normal(0, 0.02, (11, 1)) + rng(1).normal(0, 0.01, (11, 3))
    found, reason = study_power(d, rng=rng())
    assert reason == "" and found.spread.source == "these 11 datasets"
    assert (found.num_datasets, found.num_seeds, found.effect) == (11, 3, 0.01)
    d[0], d[1, 1:] = np.nan, np.nan
    fewer, _ = study_power(d, rng=rng())
    assert fewer.num_datasets == 10
    nothing, why = study_power(d[:1], rng=rng())
    assert nothing is None and why


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["main.py", *words])
    return main()


def test_the_command_prints_a_table_and_json(monkeypatch, capsys):
    words = ("power", "--datasets", "11", "--seeds", "3", "--effect", "1.0")
    assert run(monkeypatch, *words) == 0
    text = capsys.readouterr().out
    assert "11 datasets, 3 seeds" in text and "published base-to-new tables, hm" in text
    assert run(monkeypatch, *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["effect"] == 0.01 and 0.05 < found["power"] < 0.2
    assert found["minimum_effect"] == pytest.approx(0.037, abs=0.003)
    assert found["seeds_needed"] is None and found["datasets_needed"] > 50
    given = ("--spread", "1", "--seed-spread", "0.5", "--metric", "accuracy")
    assert run(monkeypatch, *words, *given, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spread"] == {"between": 0.01, "seed": 0.005, "source": "given"}


def test_the_command_refuses_in_one_line(monkeypatch, capsys):
    assert run(monkeypatch, "power", "--datasets", "0", "--seeds", "3") == 2
    assert capsys.readouterr().err == "error: datasets must be at least 1, got 0\n"


def test_rows_have_no_number_where_there_is_none():
    rows = dict(plan_rows(plan(1, 1)))
    assert rows["effect detectable with 80 % power"] == "-"
    assert rows["power for 1.00 points"] == "-"
    assert dict(plan_rows(plan(11, 3, effect=0.2)))["seeds needed"] == "3 seeds would suffice"


def test_few_datasets_need_every_one_to_show_it():
    """By simulation: every one of 3 datasets, 5 seeds each, decides in the right direction."""
    effect, between, noise = 0.02, 0.005, 0.01
    found = plan(3, 5, effect=effect, between=between, seed=noise)
    draws = rng(3)
    true = effect + draws.normal(0, between, (4000, 3, 1))
    studies = true + draws.normal(0, noise, (4000, 3, 5))
    words = [stats.judge([d])[0].word for d in studies[:1500]]
    assert found.power == pytest.approx(words.count("better") / len(words), abs=0.04)
    least = plan(3, 5, effect=found.minimum_effect, between=between, seed=noise)
    assert least.power == pytest.approx(0.8, abs=1e-3)
    more = plan(3, found.seeds_needed, effect=effect, between=between, seed=noise)
    less = plan(3, found.seeds_needed - 1, effect=effect, between=between, seed=noise)
    assert more.power >= 0.8 > less.power
    assert found.datasets_needed >= 6
    wide = plan(3, 5, effect=0.01, between=0.02, seed=noise)
    assert (
        wide.seeds_needed is None and "the spread between them alone hides effects" in wide.notes[0]
    )
    one_seed = plan(3, 1)
    assert one_seed.power is None and "there is no test" in one_seed.notes[-1]
