"""Files of scores that were once read or judged wrongly, each with its right answer."""

import numpy as np
import pytest
import scipy.stats

from analysis import stats
from analysis.read.load import load_source
from analysis.read.reading import Reading
from analysis.sections.analysis import Analysis, Options
from analysis.sections.comparisons import compare_all
from analysis.sections.parts import parts
from tests.helpers.paths import GOLDEN

CASES = GOLDEN / "tables"
QUICK = Options(reps=100)


def results_of(name, **reading):
    return load_source(CASES / f"{name}.csv", Reading(**reading))


def family(name, metric="accuracy", **reading):
    """The comparisons with the baseline by variant."""
    results = results_of(name, **reading)
    return {c.variant: c for c in compare_all(results, QUICK)[0].comparisons[metric]}


def words(c):
    return c.these.word, c.like.word


def test_a_dummy_variant_makes_no_verdict_stronger():
    alone, beside = family("six_datasets"), family("six_datasets_and_a_dummy")
    one, two = alone["mine"], beside["mine"]
    assert words(one) == words(two) == ("better", "better") and len(beside) == 2
    for before, after in ((one.these, two.these), (one.like, two.like)):
        assert before.p == after.p and before.interval == after.interval
        assert after.holm_p == pytest.approx(2 * before.p) and before.holm_p == before.p


def test_a_sixth_dataset_is_no_cliff():
    """The test of neither scope changes at six datasets, where Wilcoxon first could decide."""
    for name, num in (("five_datasets_family", 5), ("six_datasets_family", 6)):
        results, found = results_of(name), family(name)
        assert found["mine"].num_datasets == num and words(found["mine"]) == ("better", "better")
        for variant, c in found.items():
            d = results.scores(variant, "accuracy") - results.scores("base", "accuracy")
            assert c.like.p == stats.t_over_datasets(d).p
            assert c.these.p == stats.stratified_t(d).p
        assert {words(found[f"dummy{i}"])[0] for i in range(4)} <= {"undecided", "equivalent"}
        # Exact Wilcoxon over this family could decide nothing: its least adjusted p is too large.
        assert 5 * found["mine"].smallest_p > 0.05 > found["mine"].like.holm_p


@pytest.mark.parametrize("name", ["one_seed_lost", "constant_on_one_dataset"])
def test_a_dataset_with_little_to_tell_takes_part_with_what_it_has(name):
    c = family(name)["mine"]
    assert c.num_datasets == 4 and words(c) == ("better", "better") and c.left_out == ()
    assert c.these.holm_p < 0.001 and c.like.holm_p < 0.001
    assert c.these.interval.low < c.difference < c.these.interval.high
    assert (c.wins, c.ties, c.losses) == (4, 0, 0) and 0 < c.better_in.k_hat < 4
    lost = name == "one_seed_lost"
    assert ("one run takes the average seed variance" in c.reason) is lost


def test_a_gap_changes_the_test_of_no_variant():
    results, found = results_of("gap"), family("gap")
    gaps = {v: c.left_out for v, c in found.items()}
    assert gaps == {"m01": (), "m02": ("set00",), "m03": ("set01", "set02")}
    for variant, c in found.items():
        d = results.scores(variant, "accuracy") - results.scores("m00", "accuracy")
        have = np.isfinite(d).any(axis=1)
        assert (c.num_datasets, c.family_size) == (have.sum(), 3)
        assert c.like.p == stats.t_over_datasets(d[have]).p
        assert c.these.p == stats.stratified_t(d[have]).p
        assert bool(c.left_out) == ("no pair of finished runs" in c.reason)
        assert all(name in c.reason for name in c.left_out)


def test_verdict_and_k_hat_agree():
    """An effect that every dataset shows is better on average, and nothing worse is shown."""
    for name in ("toggle_grid", "toggle_grid_missing_runs", "six_datasets_family", "gap"):
        for c in family(name).values():
            shown = {"better": c.better_in, "worse": c.worse_in}
            for word, where in shown.items():
                if where.k_hat == c.num_datasets:
                    assert c.these.word == word
            if c.these.decided:
                (other,) = (where for word, where in shown.items() if word != c.these.word)
                assert other.k_hat < c.num_datasets
    assert sum(c.better_in.k_hat == 5 for c in family("toggle_grid").values()) == 5


def test_missing_runs_leave_the_effects_decided():
    """5.6 % of the runs are missing; the effects are those of the whole grid, a little wider."""
    whole, gaps = (
        parts(Analysis(results=results_of(name), options=QUICK)).attribution
        for name in ("toggle_grid", "toggle_grid_missing_runs")
    )
    assert len(whole.of("shapley")) == len(gaps.of("shapley")) == 3
    assert {e.judgment.these.word for e in whole.of("shapley")} == {"better"}
    assert {e.judgment.these.word for e in gaps.of("shapley")} <= {"better", "worse"}
    assert all(e.value is not None and e.judgment.these.interval for e in gaps.effects)


def test_an_error_is_asked_about_and_then_lower_is_better():
    with pytest.raises(ValueError, match="--lower top1_err or --higher top1_err"):
        results_of("accuracy_and_error")
    told = {"lower": ("top1_err",)}
    top, error = (family("accuracy_and_error", m, **told)["Y"] for m in ("top1", "top1_err"))
    assert top.difference == pytest.approx(-error.difference) and top.difference > 0
    assert words(top) == words(error) and top.like.word == "better"
    assert (top.wins, top.losses) == (error.wins, error.losses) == (7, 0)
    wrong = family("accuracy_and_error", "top1_err", higher=("top1_err",))["Y"]
    assert wrong.like.word == "worse"


def test_adjusted_intervals_are_those_of_bonferroni():
    results = results_of("five_datasets_family")
    plain, joint = (
        compare_all(results, Options(reps=100, adjusted_intervals=adjusted))[0].comparisons
        for adjusted in (False, True)
    )
    for one, two in zip(plain[results.primary_metric], joint[results.primary_metric], strict=True):
        values = np.array(one.per_dataset)
        test = scipy.stats.ttest_1samp(values, 0.0)
        for claim, level in ((one.like, 0.95), (two.like, 1 - 0.05 / one.family_size)):
            np.testing.assert_allclose(claim.interval, tuple(test.confidence_interval(level)))
        assert (one.these.word, one.like.word) == (two.these.word, two.like.word)
        assert two.these.interval.low < one.these.interval.low
