"""The two verdicts of a comparison, their tests, and in which datasets an effect is shown."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis import stats
from analysis.stats import IDENTICAL, Interval

NAN = np.nan
STRENGTH = {"better": 2, "worse": 2, "equivalent": 1, "undecided": 0}


def rng(seed=0):
    return np.random.default_rng(seed)


def around(*means, seeds=5, noise=0.002, seed=7):
    """Paired differences (D, S) around one mean per dataset."""
    return np.array(means)[:, None] + rng(seed).normal(0, noise, (len(means), seeds))


def judged(d, **options):
    """The judgment of a single comparison."""
    return stats.judge([d], **options)[0]


# The stratified t: these datasets.


def test_the_stratified_t_by_hand():
    """Means .02 and .04, variances of these .0001 and .0004, each over D squared."""
    test = stats.stratified_t(np.array([[0.01, 0.03], [0.02, 0.06]]))
    assert test.value == pytest.approx(0.03) and test.n == 4
    assert test.error == pytest.approx(math.sqrt(0.0001 / 4 + 0.0004 / 4))
    assert test.df == pytest.approx((1 + 4) ** 2 / (1 + 16))
    t = 0.03 / math.sqrt(0.000125)
    assert test.p == pytest.approx(2 * scipy_stats.t.sf(t, 25 / 17))
    half = scipy_stats.t.ppf(0.95, 25 / 17) * test.error
    assert test.interval(0.9) == pytest.approx((0.03 - half, 0.03 + half))
    above = scipy_stats.t.sf((0.05 - 0.03) / test.error, 25 / 17)
    assert test.equivalence_p(0.05) == pytest.approx(above)
    assert (test.reason, test.note) == ("", "")


@pytest.mark.parametrize("num_seeds", [2, 3, 10])
def test_on_one_dataset_it_is_the_paired_t_over_seeds(num_seeds):
    row = rng(num_seeds).normal(0.01, 0.01, num_seeds)
    test, expected = stats.stratified_t(row[None]), scipy_stats.ttest_1samp(row, 0)
    assert test.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert test.interval() == pytest.approx(tuple(expected.confidence_interval()))
    assert stats.stratified_t(row).p == test.p


def test_on_two_datasets_it_is_welch_t_of_one_against_the_negative_of_the_other():
    """Also with different numbers of seeds, and with cells that are missing."""
    x, y = rng(1).normal(0.02, 0.01, 3), rng(2).normal(0.01, 0.03, 5)
    table = np.array([[*x[:2], NAN, x[2], NAN], y, [NAN] * 5])
    expected = scipy_stats.ttest_ind(x, -y, equal_var=False)
    test = stats.stratified_t(table)
    assert test.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert test.df == pytest.approx(expected.df) and test.n == 8
    assert test.value == pytest.approx((x.mean() + y.mean()) / 2)


def test_a_dataset_with_one_run_takes_the_average_variance_of_the_others():
    test = stats.stratified_t(np.array([[0.01, 0.03], [0.02, 0.06], [0.05, NAN]]))
    average = (0.0002 + 0.0008) / 2
    assert test.error == pytest.approx(math.sqrt(0.0001 + 0.0004 + average) / 3)
    parts = np.array([0.0002, 0.0008]) * (1 / 2 + 1 / 2)
    assert test.df == pytest.approx(parts.sum() ** 2 / (parts**2).sum())
    assert test.value == pytest.approx((0.02 + 0.04 + 0.05) / 3)
    assert test.note and not test.reason
    assert stats.judge([np.array([[0.01, 0.03], [0.05, NAN]])])[0].these.reason == test.note


def test_one_run_per_dataset_tells_nothing_about_seeds():
    test = stats.stratified_t(around(0.03, 0.02, 0.04, seeds=1))
    assert (test.p, test.interval(), test.equivalence_p(0.01)) == (None, None, None)
    assert test.value == pytest.approx(0.03, abs=0.005) and test.reason
    found = judged(around(0.03, 0.02, 0.04, seeds=1))
    assert found.these.word == "undecided" and found.like.p is not None


def test_a_dataset_without_spread_is_taken_as_known():
    varying = np.array([0.01, 0.03, 0.02])
    test = stats.stratified_t(np.array([varying, np.full(3, 0.02)]))
    assert test.error == pytest.approx(varying.std(ddof=1) / math.sqrt(3) / 2)
    assert test.df == pytest.approx(2)


def test_a_constant_has_no_t():
    """Certainty from a constant would be too much; that it is small can be shown."""
    found = judged(np.full((4, 3), 0.1))
    for claim in (found.these, found.like):
        assert (claim.word, claim.p, claim.interval) == ("undecided", None, None)
        assert claim.reason
    tiny = judged(np.full((4, 3), 0.002))
    assert (tiny.these.word, tiny.these.equivalence_p) == ("equivalent", 0.5**12)
    assert (tiny.like.word, tiny.like.equivalence_p) == ("undecided", 0.5**4)
    noisy = judged(np.full((4, 3), 0.3) + np.array([0.0, 1e-17, 0.1 + 0.2 - 0.3]))
    assert noisy.these.p is None and noisy.like.p is None


def test_identical_runs_are_named():
    found = judged(np.zeros((5, 3)))
    assert found.these.reason == found.like.reason == IDENTICAL
    assert found.these.p == found.like.p == 1.0
    assert (found.these.word, found.like.word) == ("equivalent", "equivalent")
    assert judged(np.zeros((2, 1))).these.word == "undecided"


def test_overlap_on_one_dataset_is_the_corrected_resampled_t():
    row = rng(3).normal(0.01, 0.01, 10)
    expected = stats.corrected_resampled_t(row, test_over_train=1 / 9)
    found = judged(row[None], overlap=1 / 9).these
    assert found.p == pytest.approx(expected.p, rel=1e-6)
    assert tuple(found.interval) == pytest.approx(tuple(expected.interval))


def test_overlap_adds_to_the_variance_of_every_dataset():
    d = around(0.01, 0.02, 0.03, seeds=4)
    plain, corrected = stats.stratified_t(d), stats.stratified_t(d, overlap=0.5)
    assert corrected.error == pytest.approx(plain.error * math.sqrt((1 / 4 + 0.5) / (1 / 4)))
    assert corrected.df == pytest.approx(plain.df) and corrected.value == plain.value


def test_seeds_that_datasets_share_are_one_number_each():
    """Only seeds that every dataset has; the value stays the mean over all runs."""
    d = around(0.01, 0.02, 0.03, seeds=6) + rng(5).normal(0, 0.02, 6)
    shared = stats.stratified_t(d, shared_seeds=True)
    assert shared.p == pytest.approx(scipy_stats.ttest_1samp(d.mean(axis=0), 0).pvalue)
    assert shared.p > 10 * stats.stratified_t(d).p
    d[1, 4] = NAN
    holes = stats.stratified_t(d, shared_seeds=True)
    kept = np.delete(d, 4, axis=1).mean(axis=0)
    assert holes.error == pytest.approx(kept.std(ddof=1) / math.sqrt(5)) and holes.df == 4
    assert holes.value == pytest.approx(np.nanmean(d, axis=1).mean())


# The t over dataset means: datasets like these.


@pytest.mark.parametrize("num_datasets", range(2, 13))
def test_it_is_the_same_t_for_any_number_of_datasets(num_datasets):
    d = rng(num_datasets).normal(0.01, 0.01, (num_datasets, 3))
    d[0, 1:] = NAN
    expected = scipy_stats.ttest_1samp(np.nanmean(d, axis=1), 0)
    for options in ({}, {"overlap": 0.5}, {"shared_seeds": True}):
        found = judged(d, **options).like
        assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
        assert tuple(found.interval) == pytest.approx(tuple(expected.confidence_interval()))


def test_one_dataset_says_nothing_about_others():
    found = judged(around(0.03)).like
    assert (found.word, found.p, found.interval) == ("undecided", None, None) and found.reason


def test_a_further_dataset_is_no_cliff():
    """One that looks like the others never weakens a verdict, from one dataset to twelve."""
    block = np.array([0.006, 0.001, 0.0155])
    found = [judged(np.tile(block, (n, 1)) + 0.001 * np.arange(n)[:, None]) for n in range(1, 13)]
    for claims in ([j.these for j in found], [j.like for j in found[1:]]):
        p = [c.p for c in claims]
        assert p == sorted(p, reverse=True)
        words = [c.word for c in claims]
        assert words == sorted(words, key=["undecided", "better"].index)


# Families, words and directions.


def test_each_scope_is_a_family_of_its_own():
    tables = [
        around(0.01, 0.02, 0.015),
        around(0.0, 0.001, 0.002),
        np.array([[0.01, 0.02, 0.03], [NAN] * 3, [NAN] * 3]),
        np.full((3, 3), NAN),
    ]
    found = stats.judge(tables)
    for scope in ("these", "like"):
        claims = [getattr(j, scope) for j in found[:3]]
        assert [c.holm_p for c in claims] == stats.holm([c.p for c in claims])
        alone = [getattr(judged(t), scope).equivalence_p for t in tables[:3]]
        assert [c.equivalence_p for c in claims] == stats.holm(alone)
    assert found[2].like.p is None and found[0].like.holm_p == pytest.approx(3 * found[0].like.p)
    assert found[3].these.reason and found[3].like.reason
    assert found[3].these.p is None and found[3].these.interval is None
    assert stats.judge([]) == ()


tables = st.integers(0, 10_000).map(
    lambda seed: rng(seed).normal(
        rng(seed + 1).normal(0, 0.01, (3, 1)), 10 ** -rng(seed).uniform(1.5, 3.5), (3, 3)
    )
)


@settings(max_examples=60, deadline=None)
@given(st.lists(tables, min_size=1, max_size=4), tables, st.sampled_from([0.0, 0.004, 0.01]))
def test_a_further_variant_only_weakens(family, dummy, rope):
    """Whatever it is: no verdict becomes stronger, and none changes its side."""
    alone, beside = stats.judge(family, rope=rope), stats.judge([*family, dummy], rope=rope)
    for before, after in zip(alone, beside, strict=False):
        for scope in ("these", "like"):
            one, two = getattr(before, scope), getattr(after, scope)
            assert STRENGTH[two.word] <= STRENGTH[one.word]
            assert two.word == one.word or two.word in ("equivalent", "undecided")
            assert two.holm_p >= one.holm_p and two.p == one.p and two.interval == one.interval


def test_every_word_is_reached_in_both_scopes():
    noise = rng(3).normal(0, 0.002, (3, 11, 3))
    shifts = np.array([0.02, -0.02, 0.0])[:, None, None]
    wild = rng(8).normal(0, 0.05, (11, 3))
    found = stats.judge([*(noise + shifts), wild])
    words = ["better", "worse", "equivalent", "undecided"]
    assert [j.these.word for j in found] == [j.like.word for j in found] == words
    assert [j.these.decided for j in found] == [True, True, False, False]


def test_few_datasets_decide_about_themselves_before_others():
    """All gain surely, by very different amounts: decided here, open elsewhere."""
    found = judged(around(0.005, 0.01, 0.06, 0.004))
    assert (found.these.word, found.like.word) == ("better", "undecided")
    low, high = found.like.interval
    assert low < 0 < high and found.these.interval.low > 0


def test_a_mean_can_hide_a_dataset_that_loses():
    d = around(0.05, -0.02, 0.05)
    found = judged(d)
    assert found.these.word == "better"
    better, worse = stats.shown_in(d, ["x", "y", "z"])
    assert (better.k_hat, better.named, better.num_datasets) == (2, ("x", "z"), 3)
    assert (worse.k_hat, worse.named) == (1, ("y",))
    turned = stats.shown_in(-d, ["x", "y", "z"], direction=-1)
    assert turned == (better, worse)


def test_a_gain_that_is_sure_and_tiny_is_negligible():
    tiny = rng(1).normal(0.002, 0.0005, (11, 3))
    for claim in (judged(tiny).these, judged(tiny).like):
        assert claim.word == "better" and claim.negligible
    for claim in (judged(tiny + 0.02).these, judged(tiny + 0.02).like):
        assert claim.word == "better" and not claim.negligible
    same = judged(tiny - tiny.mean()).these
    assert same.word == "equivalent" and not same.negligible


def test_without_a_region_nothing_is_equivalent():
    found = judged(np.zeros((5, 3)), rope=0.0)
    assert found.these.word == found.like.word == "undecided"
    assert found.these.equivalence_p is None and found.like.equivalence_p is None
    assert judged(around(0.02, 0.03, 0.025), rope=0.0).these.word == "better"


def test_less_may_be_better():
    """Only the words change: differences and intervals stay those of the metric."""
    d = around(0.02, 0.03, 0.01, 0.02, 0.03)
    more, less = judged(d), judged(d, direction=-1)
    assert (more.these.word, more.like.word) == ("better", "better")
    assert (less.these.word, less.like.word) == ("worse", "worse")
    for one, two in ((more.these, less.these), (more.like, less.like)):
        assert (one.interval, one.holm_p) == (two.interval, two.holm_p)
    still = judged(d - d.mean(), direction=-1)
    assert still.these.word == "equivalent"


def test_the_reverse_is_the_comparison_of_the_reference():
    d = around(0.02, 0.03, 0.01, 0.02)
    turned, expected = judged(d).reversed, judged(-d)
    for one, two in ((turned.these, expected.these), (turned.like, expected.like)):
        assert (one.word, one.p, one.holm_p) == (two.word, two.p, two.holm_p)
        assert tuple(one.interval) == pytest.approx(tuple(two.interval))
    assert judged(around(0.02)).reversed.like.interval is None


@pytest.mark.parametrize(
    ("gain", "p", "same_p", "word"),
    [
        (0.01, 0.049, None, "better"),
        (-0.01, 0.049, None, "worse"),
        (0.01, 0.05, None, "undecided"),
        (0.01, None, None, "undecided"),
        (0.001, 0.9, 0.049, "equivalent"),
        (0.001, 0.9, 0.05, "undecided"),
        (0.001, None, 0.01, "equivalent"),
        (0.001, 0.01, 0.01, "better"),
        (-0.001, 0.01, 0.01, "worse"),
    ],
)
def test_words(gain, p, same_p, word):
    assert stats.verdict(gain, p, alpha=0.05, equivalence_p=same_p) == word


def test_level_and_alpha_are_those_asked_for():
    d = around(0.004, 0.01, 0.002, noise=0.01)
    narrow, wide = judged(d, level=0.5), judged(d, level=0.99)
    for scope in ("these", "like"):
        one, two = getattr(narrow, scope).interval, getattr(wide, scope).interval
        assert two.low < one.low < one.high < two.high
    p = judged(d).these.p
    assert judged(d, alpha=p * 1.01).these.word == "better"
    assert judged(d, alpha=p * 0.99, rope=0.0).these.word == "undecided"


# Dataset by dataset.


@pytest.mark.parametrize("family", [1, 4])
def test_what_every_dataset_shows_is_decided_on_average(family):
    """Also with different numbers of seeds; in a family, at its adjusted level."""
    hits = 0
    for seed in range(400):
        draws = rng(seed)
        num_datasets, spread = draws.integers(1, 5), 10 ** draws.uniform(-1.5, 1.5, (4, 1))
        d = draws.normal(0, spread, (4, 4))[:num_datasets] + 4 * spread[:num_datasets]
        d[:, 2:] = np.where(draws.random(d[:, 2:].shape) < 0.3, NAN, d[:, 2:])
        better, _ = stats.shown_in(d, "abcd"[:num_datasets], family=family)
        if better.k_hat == num_datasets:
            hits += 1
            others = [draws.normal(0, 1, d.shape) for _ in range(family - 1)]
            assert stats.judge([d, *others])[0].these.word == "better"
    assert hits > 20


def test_no_dataset_without_a_pair_is_counted():
    d = around(0.03, 0.02, 0.04)
    d[1] = NAN
    better, worse = stats.shown_in(d, ["x", "y", "z"])
    assert (better.num_datasets, better.named, worse.k_hat) == (2, ("x", "z"), 0)
    assert stats.shown_in(np.full((2, 3), NAN), ["x", "y"])[0].num_datasets == 0


def test_shown_in_pays_for_both_directions_and_the_family():
    row = np.array([0.01, 0.02, 0.03])
    p = scipy_stats.ttest_1samp(row, 0, alternative="greater").pvalue
    for family in (1, 3):
        for alpha, k_hat in ((2.02 * family * p, 1), (1.98 * family * p, 0)):
            better, _ = stats.shown_in(row[None], ["x"], alpha=alpha, family=family)
            assert better.k_hat == k_hat


def test_an_average_within_the_region_can_hide_a_dataset_outside():
    d = around(0.001, 0.02, -0.019, noise=0.001)
    d -= d.mean()
    assert judged(d).these.word == "equivalent"
    assert stats.outside_region(d, ["x", "y", "z"]) == ("y", "z")
    d[1, 1:], d[2] = NAN, NAN
    assert stats.outside_region(d, ["x", "y", "z"]) == ()
    half = stats.t_interval(d[0]).half_width + abs(d[0].mean())
    assert stats.outside_region(d, ["x", "y", "z"], rope=0.99 * half) == ("x",)
    assert stats.outside_region(d, ["x", "y", "z"], rope=1.01 * half) == ()


def test_an_interval_is_a_pair():
    assert isinstance(judged(around(0.01, 0.02)).these.interval, Interval)
