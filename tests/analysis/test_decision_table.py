"""What a design allows to be said in each scope."""

import pytest

from analysis import stats

DESIGNS = [(1, 1), (1, 2), (1, 10), (2, 1), (2, 2), (4, 5), (5, 3), (6, 3), (11, 3)]


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("num_variants", [2, 3, 56])
def test_the_test_of_a_scope_follows_from_the_design_alone(design, num_variants):
    """Neither a sixth dataset nor a further variant switches it; none is named where none is."""
    num_datasets, num_seeds = design
    for all_pairs in (False, True):
        for missing in (False, True):
            rule = stats.decision_rule(
                *design, num_variants=num_variants, all_pairs=all_pairs, missing_cells=missing
            )
            these = {1: "paired t over seeds"}.get(num_datasets, "stratified t over seeds")
            assert rule.these.test == ("" if num_seeds == 1 else these)
            assert rule.like.test == ("" if num_datasets == 1 else "paired t over dataset means")
            for scope in (rule.these, rule.like):
                assert bool(scope.test) == bool(scope.claim) == (not scope.reason)


def test_what_accompanies_the_tests():
    few, many = stats.decision_rule(4, 5), stats.decision_rule(11, 3)
    assert any(text.startswith("k-hat") for text in few.these.also)
    assert not any("Wilcoxon" in text for text in few.like.also)
    assert any("Wilcoxon" in text for text in many.like.also)
    assert any("Wilcoxon" in text for text in few.never) and few.never != many.never
    assert "mixed model" in stats.decision_rule(11, 3, missing_cells=True).like.also
    pairs = stats.decision_rule(11, 3, num_variants=4, all_pairs=True)
    assert any("6 comparisons, all pairs" in text for text in pairs.notes)
    assert any("Conover" in text for text in pairs.like.also)
    assert not any("comparisons" in text for text in many.notes)


@pytest.mark.parametrize(
    ("num_variants", "test"), [(2, "McNemar's exact test"), (3, "Cochran's Q")]
)
def test_one_run_is_tested_on_its_images(num_variants, test):
    rule = stats.decision_rule(1, 1, num_variants=num_variants)
    assert rule.these.also == (f"{test} on the images, a claim about these trained models",)


def test_resamples_that_share_data_are_corrected():
    one = stats.decision_rule(1, 10, overlapping=True)
    assert one.these.test == "corrected resampled t" and "Bayesian correlated t" in one.these.also
    several = stats.decision_rule(4, 10, overlapping=True)
    assert several.these.test.startswith("stratified t over seeds, corrected")
    assert any("share data" in text for text in several.never)


def test_a_trend_over_shots_is_about_datasets():
    rule = stats.decision_rule(6, 3, shots_trend=True)
    assert rule.like.test == "Page's L over datasets" and not rule.these.test
    assert not stats.decision_rule(1, 3, shots_trend=True).like.test


@pytest.mark.parametrize("wrong", [(0, 1, 2), (1, 0, 2), (1, 1, 1)])
def test_a_comparison_needs_something_to_compare(wrong):
    with pytest.raises(ValueError, match="at least 1 dataset, 1 seed and 2 variants"):
        stats.decision_rule(*wrong[:2], num_variants=wrong[2])
