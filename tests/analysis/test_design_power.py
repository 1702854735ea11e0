"""What a design can detect in each scope, what would settle a question, and how it is told."""

import json
import math
from itertools import combinations

import numpy as np
import pytest

from analysis import stats
from analysis.read.csv_file import load_csv
from analysis.read.published import TABLES, load_published
from analysis.sections.analysis import Analysis, Options
from analysis.sections.claims import LIKE, THESE
from analysis.sections.comparisons import differences
from analysis.sections.design_power import (
    datasets_to_tell,
    limit_text,
    plan_answers,
    plan_assumptions,
    plan_in_points,
    plan_notes,
    plan_study,
    published_spread,
    study_power,
    variance_components,
)
from analysis.sections.power import TOPIC, powers
from analysis.stats import Limit, Spread
from analysis.text import records
from main import main


def rng(seed=0):
    return np.random.default_rng(seed)


def plan(num_datasets, num_seeds, effect=0.01, between=0.02, seed=0.01, **options):
    spread = Spread(between=between, seed=seed, source="test")
    return plan_study(num_datasets, num_seeds, effect=effect, spread=spread, **options)


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
        assert found.like.minimum_effect == pytest.approx(expected, rel=1e-3)
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
    assert noisy.like.power < 0.8 and 1 < noisy.like.seeds_needed < 20
    enough = plan(11, noisy.like.seeds_needed, effect=0.02, between=0.005, seed=0.04)
    assert enough.like.power >= 0.8 and enough.like.seeds_needed == noisy.like.seeds_needed
    fewer = plan(11, noisy.like.seeds_needed - 1, effect=0.02, between=0.005, seed=0.04)
    assert fewer.like.power < 0.8
    wide = plan(11, 3, effect=0.01, between=0.02, seed=0.001)
    assert wide.like.limits == {"seeds_needed": Limit.SPREAD_HIDES_IT}
    assert wide.like.seeds_needed is None and wide.like.floor > 0.01
    assert wide.these.power > 0.99 and wide.these.limits == {}
    more = wide.like.datasets_needed
    powers = [plan(n, 3, between=0.02, seed=0.001).like.power for n in (more - 1, more)]
    assert powers[0] < 0.8 <= powers[1]
    done = plan(11, 3, effect=0.2)
    for scope in (done.these, done.like):
        assert (scope.seeds_needed, scope.datasets_needed, scope.limits) == (3, 11, {})


def test_the_designs_whose_answers_were_wrong():
    """A spread of .5 between 5 datasets and of .7 over 5 seeds, 5 comparisons: one point takes 8
    datasets and no number of seeds. Spreads of 1 and 1, 3 seeds: 5 datasets suffice for 2.1.
    """
    first = plan_in_points(5, 5, 1.0, "hm", 0.5, 0.7, comparisons=5)
    assert (first.like.seeds_needed, first.like.datasets_needed) == (None, 8)
    assert first.like.floor > 0.01 and first.these.seeds_needed == 5
    second = plan_in_points(5, 3, 2.1, "hm", 1.0, 1.0)
    assert second.like.power >= 0.8 and second.like.datasets_needed == 5
    assert plan_in_points(4, 3, 2.1, "hm", 1.0, 1.0).like.datasets_needed == 5


def test_comparisons_cost_power_in_both_scopes():
    one, ten = plan(11, 3, effect=0.02), plan(11, 3, effect=0.02, comparisons=10)
    for before, after in ((one.these, ten.these), (one.like, ten.like)):
        assert after.power < before.power and after.minimum_effect > before.minimum_effect


def test_small_designs_lack_what_they_cannot_tell():
    single = plan(1, 1)
    assert single.these.limits["power"] is single.these.limits["minimum_effect"] is Limit.ONE_RUN
    assert single.like.limits["power"] is Limit.ONE_DATASET
    assert single.these.seeds_needed > 1 and single.like.datasets_needed > 1
    one_seed = plan(4, 1, effect=0.05)
    assert one_seed.these.power is None and one_seed.like.power is not None
    assert one_seed.these.datasets_needed is None
    one_dataset = plan(1, 5, seed=0.02)
    assert one_dataset.these.power == pytest.approx(stats.t_power(0.5, 5, one_sided=True))
    unknown = plan(11, 1, seed=None)
    assert unknown.like.limits == {"seeds_needed": Limit.SEED_SPREAD_UNKNOWN}
    flat = plan(11, 3, between=0.0, seed=0.0)
    for scope in (flat.these, flat.like):
        assert set(scope.limits.values()) == {Limit.NO_SPREAD} and len(scope.limits) == 4
        assert (scope.power, scope.minimum_effect, scope.seeds_needed) == (None,) * 3


@pytest.mark.parametrize("num_datasets", [1, 2, 5])
@pytest.mark.parametrize("num_seeds", [1, 2, 5])
@pytest.mark.parametrize("between", [None, 0.0, 0.02])
@pytest.mark.parametrize("seed", [None, 0.0, 0.01])
def test_every_number_that_is_missing_has_a_reason(num_datasets, num_seeds, between, seed):
    """And every reason has words, which name the scope."""
    found = plan(num_datasets, num_seeds, between=between, seed=seed)
    for scope in (found.these, found.like):
        numbers = ("power", "minimum_effect", "seeds_needed", "datasets_needed")
        assert set(scope.limits) == {name for name in numbers if getattr(scope, name) is None}
        assert all(limit_text(limit, scope, found) for limit in scope.limits.values())
    notes = plan_notes(found)
    assert len(notes) == sum(len(set(scope.limits.values())) for scope in (found.these, found.like))
    assert json.loads(json.dumps(found.to_dict()))["like"]["limits"] == found.like.limits


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


# A study's own differences.


def test_a_study_uses_its_own_spread():
    d = rng().normal(0, 0.02, (11, 1)) + rng(1).normal(0, 0.01, (11, 3))
    found, reason = study_power(d)
    spread, _ = variance_components(d)
    assert reason == "" and found.spread == spread
    assert (found.num_datasets, found.num_seeds, found.effect) == (11, 3, 0.01)
    assert found.like.power == plan(11, 3, between=spread.between, seed=spread.seed).like.power
    d[0], d[1, 1:] = np.nan, np.nan
    fewer, _ = study_power(d)
    assert (fewer.num_datasets, fewer.num_seeds) == (10, 2)
    one_seed, why = study_power(d[:, :1])
    assert why and one_seed.these.limits["power"] is Limit.ONE_RUN
    assert study_power(np.full((3, 2), np.nan))[0] is None
    assert study_power(d[2:3, :1]) == (None, study_power(np.full((3, 2), np.nan))[1])


def test_one_dataset_tells_about_its_seeds_alone():
    row = rng().normal(0.01, 0.03, (1, 5))
    found, reason = study_power(row)
    assert reason == "" and found.spread.between is None
    assert found.these.power == pytest.approx(
        stats.t_power(0.01 / row.std(ddof=1), 5, one_sided=True)
    )
    assert found.these.limits == {"datasets_needed": Limit.DATASET_SPREAD_UNKNOWN}
    assert found.like.datasets_needed is found.like.power is None


def test_seeds_that_datasets_share_are_the_sample():
    """One number per seed: what datasets have in common does not average out."""
    d = rng(2).normal(0, 0.01, (6, 5)) + rng(3).normal(0, 0.03, 5)
    found, _ = study_power(d, shared_seeds=True)
    own, _ = study_power(d)
    sd = d.mean(axis=0).std(ddof=1)
    expected = stats.t_power(0.01 / sd, 5, one_sided=True)
    assert found.these.power == pytest.approx(expected) and expected < own.these.power
    assert found.these.limits == {"datasets_needed": Limit.SHARED_SEEDS}
    assert found.like == own.like
    sure, _ = study_power(d, effect=0.2, shared_seeds=True)
    assert (sure.these.seeds_needed, sure.these.datasets_needed) == (5, 6)


def test_overlapping_resamples_have_a_floor():
    d = rng(2).normal(0, 0.02, (1, 10))
    found, _ = study_power(d, overlap=1 / 9)
    plain, _ = study_power(d)
    factor = math.sqrt((1 / 10 + 1 / 9) / (1 / 10))
    assert found.these.minimum_effect == pytest.approx(factor * plain.these.minimum_effect)
    assert found.these.floor > 0 == plain.these.floor


def test_datasets_that_would_tell():
    """At the observed spread, in the scope of datasets like these."""
    d = rng(4).normal(0, 0.02, (4, 1)) + rng(5).normal(0, 0.005, (4, 5))
    needed = datasets_to_tell(d, effect=0.01)
    spread, _ = variance_components(d)
    powers = [
        plan(n, 5, between=spread.between, seed=spread.seed).like.power
        for n in (needed - 1, needed)
    ]
    assert powers[0] < 0.8 <= powers[1] and needed > 4
    assert datasets_to_tell(d, effect=-0.01) == needed
    assert datasets_to_tell(d, effect=0.01, comparisons=5) > needed
    assert datasets_to_tell(d, effect=0.01, alpha=0.01) > needed
    holes = np.vstack([d, np.full((2, 5), np.nan)])
    assert datasets_to_tell(holes, effect=0.01) == needed


@pytest.mark.parametrize("effect", [0.0, math.nan, 1e-9, 0.5])
def test_datasets_that_would_tell_may_be_unknown(effect):
    """No effect, one that no number shows, and one that the datasets at hand would show."""
    d = rng(4).normal(0, 0.02, (4, 5))
    assert datasets_to_tell(d, effect=effect) is None
    assert datasets_to_tell(d[:1], effect=0.01) is None
    assert datasets_to_tell(np.full((4, 3), 0.01), effect=0.01) is None


# The report.


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Six datasets of one gain and one that differs between datasets, and a variant on one."""
    noise = rng(6)
    rows = [
        f"{variant},d{d},{seed},{70 + gain + noise.normal(0, 1):.6f}"
        for d in range(6)
        for variant, gain in (("base", 0.0), ("same", 1.0), ("varied", 6.0 * (d - 2)))
        for seed in (1, 2, 3)
    ] + [f"short,d0,{seed},{72 + seed}" for seed in (1, 2, 3)]
    path = tmp_path_factory.mktemp("power") / "r.csv"
    path.write_text("variant,dataset,seed,accuracy\n" + "\n".join(rows) + "\n")
    return load_csv(path)


def test_the_section_gives_each_comparison_in_both_scopes(study):
    options = Options(reps=100, alpha=0.04, rope=0.02)
    analysis = Analysis(results=study, options=options)
    found = {row.c.variant: row for row in powers(analysis)}
    assert set(found) == {"same", "varied", "short"}
    for variant, row in found.items():
        d = differences(study, variant, "base", "accuracy")
        expected, reason = study_power(d, effect=0.02, comparisons=3, alpha=0.04)
        assert (row.plan, row.reason) == (expected, reason)
    (section,) = TOPIC.build(analysis)
    kept = {row["variant"]: row for row in records(section.table("power"))}
    for key, scope in (("these", found["varied"].plan.these), ("like", found["varied"].plan.like)):
        for name in ("power", "minimum_effect", "seeds_needed", "datasets_needed"):
            expected = getattr(scope, name)
            assert kept["varied"][f"{key}_{name}"] == (
                None if expected is None else pytest.approx(expected, abs=1e-5)
            )
    assert found["varied"].plan.like.limits == {"seeds_needed": Limit.SPREAD_HIDES_IT}
    assert kept["short"]["like_power"] is kept["short"]["spread_between"] is None
    groups = {c.group for c in section.table("power").columns}
    assert groups == {"", THESE, LIKE}


def test_the_section_asks_about_a_point_where_nothing_counts_as_equal(study):
    analysis = Analysis(results=study, options=Options(reps=100, rope=0.0))
    assert {row.plan.effect for row in powers(analysis)} == {stats.ROPE}


# The command.


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["main.py", *words])
    return main()


WORDS = ("power", "--datasets", "11", "--seeds", "3", "--effect", "1.0")


def test_the_command_prints_both_scopes_side_by_side(monkeypatch, capsys):
    assert run(monkeypatch, *WORDS) == 0
    text = capsys.readouterr().out
    assert THESE in text and LIKE in text
    found = plan_in_points(11, 3, 1.0, "hm", None, None)
    for line in plan_answers(found):
        (shown,) = [row for row in text.splitlines() if f" {line.question} " in row]
        assert line.these in shown and line.like in shown.partition(line.these)[2]
    assert all(item in text for item, _ in plan_assumptions(found))
    assert all(note in text for note in plan_notes(found))


def test_the_command_prints_json(monkeypatch, capsys):
    assert run(monkeypatch, *WORDS, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(plan_in_points(11, 3, 1.0, "hm", None, None).to_dict()))
    assert found["effect"] == 0.01 and 0.05 < found["like"]["power"] < 0.2
    assert found["like"]["minimum_effect"] == pytest.approx(0.0345, abs=0.001)
    assert found["like"]["seeds_needed"] is None and found["like"]["datasets_needed"] > 50
    assert found["like"]["limits"] == {"seeds_needed": "spread_hides_it"}
    assert found["these"]["power"] > 0.4
    given = ("--spread", "1", "--seed-spread", "0.5", "--metric", "accuracy")
    assert run(monkeypatch, *WORDS, *given, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spread"] == {"between": 0.01, "seed": 0.005, "source": "given"}


@pytest.mark.parametrize(("name", "kept"), [("--spread", "seed"), ("--seed-spread", "between")])
def test_one_spread_may_be_given(monkeypatch, capsys, name, kept):
    assert run(monkeypatch, *WORDS, name, "0.7", "--json") == 0
    found = json.loads(capsys.readouterr().out)["spread"]
    assert found[kept] == getattr(published_spread("hm"), kept)
    assert found[{"seed": "between", "between": "seed"}[kept]] == pytest.approx(0.007)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--datasets", "0", "--seeds", "3"), "datasets must be at least 1, got 0"),
        (
            ("--datasets", "3", "--seeds", "3", "--metric", "acc"),
            "published spreads are known for base, new, hm, got 'acc'; name one of them or give "
            "the spread",
        ),
    ],
)
def test_the_command_refuses_in_one_line(monkeypatch, capsys, words, message):
    assert run(monkeypatch, "power", *words) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_answers_have_no_number_where_there_is_none():
    answers = {line.question: line for line in plan_answers(plan(1, 1))}
    detectable = answers["effect detectable with 80 % power"]
    assert (detectable.these, detectable.like) == ("-", "-")
    sure = {line.question: line for line in plan_answers(plan(11, 3, effect=0.2))}
    assert sure["seeds for 80 % power"].these == "3, as planned"
    strict = plan(2, 2, effect=0.5, comparisons=1000)
    few = {line.question: line for line in plan_answers(strict)}
    assert few["effect detectable with 80 % power"].like == "more than 100 points"
    assert few["seeds for 80 % power"].these == f"{strict.these.seeds_needed} instead of 2"
    assert dict(plan_assumptions(plan(1, 2)))["design"] == "1 dataset, 2 seeds"
