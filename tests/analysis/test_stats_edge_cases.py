"""Degenerate inputs and known traps: a result says what does not exist and why, never a NaN p."""

import dataclasses
import itertools
import json
import math
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from analysis import stats
from analysis.stats import Resamples, aggregates, paired
from tests.helpers.paths import GOLDEN

REFERENCE = json.loads((GOLDEN / "stats_reference.json").read_text())
NAN = np.nan


def rng(seed=0):
    return np.random.default_rng(seed)


def leaves(result):
    """Every value inside a result, however deep, by its name."""
    if dataclasses.is_dataclass(result):
        result = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    if hasattr(result, "_asdict"):
        result = result._asdict()
    if isinstance(result, dict):
        return [leaf for key, value in result.items() for leaf in named(key, value)]
    if isinstance(result, list | tuple):
        return [leaf for value in result for leaf in named("", value)]
    return [("", result)]


def named(key, value):
    return [(name or str(key), leaf) for name, leaf in leaves(value)]


def check(result):
    """No NaN anywhere, every p between 0 and 1, and a reason wherever a result has nothing."""
    found = leaves(result)
    for name, value in found:
        if isinstance(value, float):
            assert not math.isnan(value), f"{name} is NaN in {result}"
        if name.endswith("p") and isinstance(value, float):
            assert 0 <= value <= 1, f"{name} = {value}"
    if hasattr(result, "reason") and any(v is None for n, v in found if n in ("p", "value")):
        assert result.reason, f"no reason in {result}"
    return result


SAMPLES = {
    "nothing": [],
    "only NaN": [NAN, NAN],
    "one": [0.02],
    "two": [0.01, 0.03],
    "zeros": [0.0] * 7,
    "one zero": [0.0],
    "constant": [0.01] * 7,
    "constant but for float noise": [0.1 + 0.2 - 0.3 + 0.01, 0.01, 0.01, 0.01],
    "ties": [0.01, 0.01, -0.01, 0.0, 0.02, 0.02, NAN],
    "with NaN": [0.01, NAN, 0.03, 0.02, -0.01, 0.04, 0.05],
    "infinite": [0.01, np.inf, 0.03, 0.02],
    "huge": [1e6, -1e6, 2e6, 1e-7],
}
ON_A_SAMPLE = {
    "signed_rank": stats.signed_rank,
    "paired_t": stats.paired_t,
    "sign_flip": stats.sign_flip,
    "sign_test": stats.sign_test,
    "hodges_lehmann": stats.hodges_lehmann,
    "cohen_dz": stats.cohen_dz,
    "hedges_g": stats.hedges_g,
    "rank_biserial": stats.rank_biserial,
    "tost": stats.tost,
    "bayesian_signed_rank": lambda d: stats.bayesian_signed_rank(d, rng=rng(), draws=500),
    "bayesian_correlated_t": lambda d: stats.bayesian_correlated_t(d, test_over_train=0.25),
    "corrected_resampled_t": lambda d: stats.corrected_resampled_t(d, test_over_train=0.25),
    "welch_t": lambda d: stats.welch_t(d, d[:2]),
    "one_sided_p": lambda d: stats.one_sided_p(d[None]),
    "probability_better": lambda d: stats.probability_better(np.atleast_2d(d)),
    "judge": lambda d: stats.judge([d[:, None]]),
}


@pytest.mark.parametrize("sample", list(SAMPLES))
@pytest.mark.parametrize("name", list(ON_A_SAMPLE))
def test_every_sample_gets_an_answer(name, sample):
    values = np.array(SAMPLES[sample], dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(ON_A_SAMPLE[name](values))


TABLES = {
    "1 dataset": rng().normal(0.7, 0.1, (1, 4)),
    "2 datasets": rng().normal(0.7, 0.1, (2, 3)),
    "1 variant": rng().normal(0.7, 0.1, (6, 1)),
    "2 variants": rng().normal(0.7, 0.1, (6, 2)),
    "all equal": np.full((6, 4), 0.7),
    "identical variants": np.repeat(rng().normal(0.7, 0.1, (6, 1)), 4, axis=1),
    "constant column": np.column_stack([np.full(6, 0.5), rng().normal(0.7, 0.1, (6, 3))]),
    "same order everywhere": rng().normal(0.7, 0.1, (6, 1)) + np.arange(4) / 10,
    "a NaN": np.where(np.arange(24).reshape(6, 4) == 5, NAN, rng().normal(0.7, 0.1, (6, 4))),
    "a NaN in every row": np.where(np.eye(4) > 0, NAN, 0.5),
    "30 variants": rng().normal(0.7, 0.1, (6, 30)),
}


def wilcoxon_of_all_pairs(table):
    """Holm-adjusted p values (V, V), 1 where there is no test, and the number of pairs."""
    pairs = list(itertools.combinations(range(table.shape[1]), 2))
    adjusted = stats.holm([stats.signed_rank(table[:, i] - table[:, j]).p for i, j in pairs])
    matrix = np.ones((table.shape[1],) * 2)
    for (i, j), p in zip(pairs, adjusted, strict=True):
        matrix[i, j] = matrix[j, i] = 1.0 if p is None else p
    return matrix, len(pairs)


@pytest.mark.parametrize("name", list(TABLES))
def test_every_table_gets_an_answer(name):
    table = TABLES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(stats.friedman(table))
        check(stats.page_trend(table))
        p, reason = stats.conover_friedman(table)
        assert (p is None) == bool(reason) and (p is None or not np.isnan(p).any())
    matrix, _ = wilcoxon_of_all_pairs(table)
    assert not np.isnan(matrix).any()
    if np.isnan(table).any(axis=1).all():
        with pytest.raises(ValueError, match="found none"):
            stats.rank_groups(table, matrix)
    else:
        check(stats.rank_groups(table, matrix))


def test_omnibus_says_what_it_left_out_and_what_it_cannot():
    assert stats.friedman(TABLES["a NaN"]).left_out == (1,)
    assert "got 2 and 6" in stats.friedman(TABLES["2 variants"]).reason
    tied = stats.friedman(TABLES["all equal"])
    assert (tied.p, tied.kendall_w) == (1.0, 0.0) and "tie on every dataset" in tied.reason
    agreed = stats.friedman(TABLES["same order everywhere"])
    assert agreed.f is None and agreed.p == math.factorial(4) ** -5
    assert agreed.kendall_w == pytest.approx(1) and "F is infinite" in agreed.reason


def test_thirty_variants_cannot_all_be_told_apart():
    matrix, num_pairs = wilcoxon_of_all_pairs(TABLES["30 variants"])
    assert num_pairs == 435 and stats.most_comparisons(6) == 1
    groups = stats.rank_groups(TABLES["30 variants"], matrix).groups
    assert len(groups) == 1 and len(groups[0]) == 30


def joined_by(p, ranks=(1, 2, 3, 4)):
    """Groups by a matrix of p values that is 1 but for these pairs, of variants in this order."""
    matrix = np.ones((len(ranks),) * 2)
    for (i, j), value in p.items():
        matrix[i, j] = matrix[j, i] = value
    scores = -np.tile(np.array(ranks, dtype=float), (6, 1))
    return stats.rank_groups(scores, matrix)


def test_groups_are_the_longest_stretches_without_a_difference():
    """0-1 and 1-2 do not differ, 0-2 do; 3 differs from all."""
    found = joined_by({(0, 2): 0.01, **{(3, v): 0.001 for v in range(3)}})
    assert found.order == (0, 1, 2, 3) and found.mean_ranks == (1, 2, 3, 4)
    assert found.groups == ((0, 1), (1, 2)) and (found.apart, found.untested) == (0, 0)


def test_no_group_spans_a_variant_that_differs_from_a_member():
    """0, 1 and 3 do not differ, but 2 ranks between them and differs from 1."""
    found = joined_by({(1, 2): 0.01})
    assert found.groups == ((0, 1), (2, 3))
    assert found.apart == 3  # 0-2, 0-3 and 1-3
    assert joined_by({(0, 3): 0.01, (1, 2): 0.01}, (1, 2, 2, 4)).groups == ()
    assert joined_by({(2, 3): 0.01, (1, 3): 0.01}, (1, 2, 2, 2)).groups == ()
    assert joined_by({(0, 3): 0.01}, (1, 2, 2, 4)).groups == ((0, 1, 2), (1, 2, 3))


def test_a_pair_without_a_test_is_not_joined():
    found = joined_by({(0, 1): NAN, (0, 2): NAN, (0, 3): NAN})
    assert found.groups == ((1, 2, 3),) and (found.apart, found.untested) == (0, 3)


def test_random_groups_contain_every_rank_between_theirs_and_only_pairs_that_do_not_differ():
    draws = rng(3)
    for _ in range(200):
        size = int(draws.integers(2, 9))
        table = draws.integers(0, 4, (3, size)).astype(float)
        p = np.triu(draws.choice([0.01, 0.2, NAN], (size, size), p=[0.3, 0.6, 0.1]), 1)
        found = stats.rank_groups(table, p + p.T + np.eye(size))
        ranks = dict(zip(found.order, found.mean_ranks, strict=True))
        whole = [set(group) for group in found.groups]
        for group in whole:
            low, high = min(ranks[v] for v in group), max(ranks[v] for v in group)
            assert group == {v for v in ranks if low - 1e-9 <= ranks[v] <= high + 1e-9}
            assert all((p + p.T)[i, j] >= 0.05 for i in group for j in group if i != j)
            assert not any(group < other for other in whole)


def test_most_comparisons_within_reach():
    """Smallest p 2^(1-n) times the family stays below 0.05; in variants, for all pairs."""
    pairs_of = {n: stats.most_comparisons(n) for n in range(1, 16)}
    assert [pairs_of[n] for n in (1, 4, 5, 6, 7)] == [0, 0, 0, 1, 3]
    most_variants = {
        n: max(k for k in range(60) if k * (k - 1) / 2 <= most) for n, most in pairs_of.items()
    }
    assert {n: most_variants[n] for n in (7, 8, 9, 10, 11, 12, 15)} == {
        7: 3,
        8: 4,
        9: 5,
        10: 7,
        11: 10,
        12: 14,
        15: 40,
    }
    for n, most in pairs_of.items():
        assert most * stats.smallest_p(n) < 0.05 <= (most + 1) * stats.smallest_p(n)


# Traps of the libraries.


def test_holm_is_not_the_default_of_the_library():
    raw = [0.01, 0.04, 0.03]
    np.testing.assert_allclose(stats.holm(raw), multipletests(raw, method="holm")[1])
    assert not np.allclose(stats.holm(raw), multipletests(raw)[1])
    np.testing.assert_allclose(stats.holm([0.9, 0.5, 0.7, 1.0]), [1.0] * 4)


def test_a_missing_p_counts_and_does_not_spread():
    assert stats.holm([None, 0.01]) == [None, pytest.approx(0.02)]
    assert math.isnan(scipy_stats.friedmanchisquare(*TABLES["a NaN"].T).pvalue)


def test_two_sided_even_where_a_library_picks_the_side():
    d = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -0.05])
    assert stats.signed_rank(d).p == stats.signed_rank(-d).p
    assert stats.signed_rank(d).p == 2 * 2 / 2**7


def counted_one_by_one(differences):
    """p of the signed-rank test from the counts of all sums, added up rank by rank."""
    rounded = np.round(differences, 9)
    doubled = np.rint(2 * scipy_stats.rankdata(np.abs(rounded))).astype(int)
    positive, ranks = int(doubled[rounded > 0].sum()), doubled[rounded != 0].tolist()
    counts = [1]
    for rank in ranks:
        pairs = zip(counts + [0] * rank, [0] * rank + counts, strict=True)
        counts = [without + with_it for without, with_it in pairs]
    extreme = min(sum(counts[: positive + 1]), sum(counts[positive:]))
    return min(1.0, 2 * extreme / 2 ** len(ranks))


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_signed_rank_is_the_count_of_all_sign_patterns_with_ties_and_zeros(decimals):
    draws = rng(decimals)
    for n in (*range(1, 15), 40, 112):
        for shift in (0.0, 0.4, 2.0):
            d = np.round(draws.normal(shift, 1, n), decimals)
            assert stats.signed_rank(d).p == counted_one_by_one(d)


def test_mixed_model_has_a_dataset_intercept_and_reads_no_name():
    """Names that a formula would run as code, or look up in the caller, are only names."""
    C = "a local name"
    names = ["C", "Q('x')", "__import__('os')", "a + b:c", C]
    variants = ["coop", "cocoop", "maple", "promptsrc", "ours"]
    table = REFERENCE["tables"]["D_scores_dataset_method_seed"]
    scores = np.array(table["values"])
    scores_VDS = np.stack([scores[:, table["methods"].index(v)] for v in variants])
    found = stats.mixed_model(scores_VDS, names)
    assert [e.variant for e in found.effects] == names[1:]
    assert all(e.standard_error < 0.6 for e in found.effects)
    assert found.var_dataset > 100 * found.var_interaction


def balanced(seed=0, shape=(3, 12, 3)):
    draws = rng(seed)
    variants, datasets, _ = shape
    return (
        0.6
        + draws.normal(0, 0.1, (1, datasets, 1))
        + draws.normal(0, 0.02, (variants, datasets, 1))
        + draws.normal(0, 0.01, shape)
        + np.arange(variants)[:, None, None] / 100
    )


def test_mixed_model_equals_the_paired_t_where_nothing_is_missing():
    """Balanced and two variants: the same difference, and the standard error of the paired t."""
    scores = balanced(shape=(2, 12, 3))
    effect = stats.mixed_model(scores, ["a", "b"]).effects[0]
    d = (scores[1] - scores[0]).mean(axis=1)
    assert effect.difference == pytest.approx(d.mean(), abs=1e-6)
    assert effect.standard_error == pytest.approx(d.std(ddof=1) / np.sqrt(12), rel=1e-3)
    assert effect.p == pytest.approx(stats.paired_t(d).p, rel=5e-3)
    assert effect.normal_p < effect.p


def test_mixed_model_takes_missing_cells_and_counts_them():
    scores = balanced()
    scores[1, 2:5], scores[2, 0, 1:] = NAN, NAN
    found = check(stats.mixed_model(scores, ["a", "b", "c"]))
    assert found.num_missing == 11 and found.reason == ""
    whole = stats.mixed_model(balanced(), ["a", "b", "c"])
    assert found.effects[0].difference == pytest.approx(whole.effects[0].difference, abs=0.02)
    assert found.effects[0].standard_error > whole.effects[0].standard_error
    other = stats.mixed_model(balanced(), ["a", "b", "c"], baseline=2)
    assert other.effects[0].difference == pytest.approx(-whole.effects[1].difference, abs=1e-6)


def test_mixed_model_with_missing_cells_equals_the_formula_of_the_library():
    scores = balanced()
    scores[1, 2:5], scores[2, 0, 1:] = NAN, NAN
    rows = [(v, d, y) for (v, d, _), y in np.ndenumerate(scores) if not np.isnan(y)]
    frame = pd.DataFrame(rows, columns=["variant", "dataset", "score"])
    fit = smf.mixedlm(
        "score ~ C(variant)",
        frame.assign(score=100 * frame["score"]),
        groups="dataset",
        re_formula="1",
        vc_formula={"interaction": "0 + C(variant)"},
    ).fit()
    found = stats.mixed_model(scores, ["a", "b", "c"]).effects
    assert [100 * e.difference for e in found] == pytest.approx(
        fit.fe_params[1:].tolist(), rel=1e-3
    )
    errors = [100 * e.standard_error for e in found]
    assert errors == pytest.approx(fit.bse_fe[1:].tolist(), rel=1e-2)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (balanced(shape=(1, 6, 3)), "2 variants and 3 datasets"),
        (balanced(shape=(2, 2, 3)), "2 variants and 3 datasets"),
        (np.full((2, 6, 3), 0.5), "all scores are equal"),
        (np.where(np.arange(2)[:, None, None] == 1, NAN, balanced(shape=(2, 6, 3))), "no score"),
        (balanced(shape=(2, 8, 1)), "one seed per cell"),
    ],
)
def test_mixed_model_says_what_it_cannot(scores, words):
    found = check(stats.mixed_model(scores, [f"v{i}" for i in range(len(scores))]))
    assert words in found.reason
    if words == "one seed per cell":
        assert found.var_seed is None and found.effects[0].p is not None


def test_mixed_model_of_identical_variants_has_no_nan():
    scores = balanced(shape=(2, 8, 3))
    scores[1] = scores[0]
    found = check(stats.mixed_model(scores, ["a", "b"]))
    assert found.effects[0].difference == pytest.approx(0, abs=1e-9)


def test_mixed_model_refuses_wrong_names():
    with pytest.raises(ValueError, match="one name per variant, got 1 names for 3"):
        stats.mixed_model(balanced(), ["a"])


# By hand.


def test_hodges_lehmann_interval_is_what_wilcoxon_does_not_reject():
    d = np.round(rng(3).normal(0.02, 0.03, 11), 4)
    found = stats.hodges_lehmann(d)
    low, high = found.interval
    inside = [stats.signed_rank(d - x).p for x in (low + 1e-6, high - 1e-6)]
    outside = [stats.signed_rank(d - x).p for x in (low - 1e-6, high + 1e-6)]
    assert min(inside) >= 0.05 > max(outside)
    assert 0.95 <= found.level < 0.96
    few = stats.hodges_lehmann(d[:5])
    assert few.interval is None and "5 pairs reach 93.75 % at most" in few.reason
    assert stats.hodges_lehmann(np.arange(1.0, 7)).interval == (1, 6)
    many = rng(4).normal(0, 1, 201)
    assert np.median(many) == pytest.approx(stats.hodges_lehmann(many).value, abs=0.2)
    exact = stats.hodges_lehmann(many[:200]).interval
    np.testing.assert_allclose(stats.hodges_lehmann(many).interval, exact, atol=0.03)


def test_probability_better_by_hand():
    d = np.array([[0.1, -0.1], [0.2, 0.0], [0.3, 0.3]])
    found = stats.probability_better(d)
    assert found.value == pytest.approx((0.5 + 0.75 + 1) / 3)
    assert found.interval == stats.share_interval(found.value, 3)
    sure = stats.probability_better(np.abs(d) + 0.1)  # 0.025 = low ** 3 where all three agree
    assert sure.value == 1 and sure.interval == pytest.approx((0.025 ** (1 / 3), 1.0))
    alone = stats.probability_better(d[2:])  # on one dataset the run is the unit
    assert alone.interval == pytest.approx((0.025**0.5, 1.0))
    assert "no interval" in stats.probability_better(d[:1, :1]).reason


def test_improvement_has_an_interval_over_datasets():
    one, two = np.array([[0.6, 0.7], [0.5, 0.5]]), np.array([[0.5, 0.6], [0.5, 0.4]])
    found = stats.improvement(one, two)
    assert found.value == pytest.approx((3.5 / 4 + 3 / 4) / 2)
    assert found.interval == stats.share_interval(found.value, 2)
    assert stats.improvement(one[:1], two[:1]).interval is None


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (3, 7), (7, 7), (40, 100)])
def test_the_interval_of_a_share_is_the_exact_binomial_one(hits, n):
    low, high = stats.share_interval(hits / n, n)
    exact = scipy_stats.binomtest(hits, n).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize("n", [2, 6, 11])
def test_sign_flip_is_the_exact_permutation_test_of_scipy(n):
    d = rng(n).normal(0.01, 0.02, n).round(2)  # ties and zeros

    def size(x, axis):
        return np.round(np.abs(x.sum(axis=axis)), 9)

    expected = scipy_stats.permutation_test(
        (d,), size, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert stats.sign_flip(d).p == expected.pvalue


def test_welch_with_one_constant_side():
    one, two = np.full(4, 0.7), np.array([0.71, 0.72, 0.74])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = stats.welch_t(one, two)
    by_hand = scipy_stats.ttest_1samp(two, 0.7)  # all of the variance is that of one side
    assert found.p == pytest.approx(by_hand.pvalue, rel=1e-12)


def test_sign_flip_by_hand_and_beyond_enumeration():
    assert stats.sign_flip(np.array([1.0, 2.0, 3.0])) == (0.25, 0.25, "")
    assert stats.sign_flip(np.array([0.1, 0.2, -0.3])).p == 1.0
    many = rng(1).normal(0.3, 1, 25)
    assert "needs rng" in stats.sign_flip(many).reason
    drawn = stats.sign_flip(many, rng=rng()).p
    assert drawn == pytest.approx(stats.paired_t(many).p, abs=0.02)


def test_tost_by_hand():
    d = np.array([0.001, -0.001, 0.002, 0.0])
    found = stats.tost(d, rope=0.01)
    t = (d.mean() - 0.01) / (d.std(ddof=1) / 2)
    assert found.p == pytest.approx(scipy_stats.t.cdf(t, 3))
    assert stats.tost(np.zeros(6)).p == 2**-6
    assert stats.tost(np.full(6, 0.02)).p == 1.0
    for rope in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match="a number above 0"):
            stats.tost(d, rope=rope)


def test_posterior_is_symmetric_and_sums_to_one():
    d = rng(2).normal(0.01, 0.02, 9)
    one = stats.bayesian_signed_rank(d, rng=rng())
    two = stats.bayesian_signed_rank(-d, rng=rng())
    assert one[:3] == pytest.approx(two[2::-1]) and sum(one[:3]) == pytest.approx(1)
    assert stats.bayesian_signed_rank(np.zeros(5), rng=rng()).equal == 1
    sides = stats.bayesian_signed_rank(d, rope=0, rng=rng())
    assert sides.equal == 0 and sides.worse + sides.better == pytest.approx(1)


def test_replicability_by_hand():
    """(n - u + 1) p_(u): 3 x .01, 2 x .02, 1 x .03, all below .05."""
    found = stats.replicability([0.03, 0.01, 0.02], ["a", "b", "c"])
    assert found.k_hat == 3 and found.named == ("a", "b", "c")
    assert stats.replicability([0.03, 0.01, 0.06], ["a", "b", "c"]).k_hat == 1


def test_replicability_counts_none_as_no_evidence():
    found = stats.replicability([0.001, None, 0.01, 0.5], ["a", "b", "c", "d"])
    assert found.k_hat == 2 and found.named == ("a", "c") and found.holm_p[1] is None
    assert stats.replicability([], []).k_hat == 0
    with pytest.raises(ValueError, match="one name per p value"):
        stats.replicability([0.1], [])
    better, worse = stats.replicated(np.array([[0.1, 0.2, 0.3], [0.1, NAN, NAN]]), ["a", "b"])
    assert better.reasons == ("b: one seed: no test on this dataset",) and worse.k_hat == 0


@pytest.mark.parametrize("number", [1023, 1024, 1100, 5000])
def test_many_images_on_which_two_models_disagree(number):
    """Two to the power of their number is no float."""
    one = np.arange(number) % 2
    found = check(stats.mcnemar_exact(one, 1 - one))
    assert found.p == pytest.approx(1.0) and found.smallest_p < 1e-300
    lopsided = check(stats.mcnemar_exact(np.ones(number, int), np.zeros(number, int)))
    assert lopsided.p < 1e-300 and lopsided.difference == 1.0


def test_images():
    one, two = np.array([1, 1, 1, 0, 0, 1]), np.array([1, 1, 0, 0, 0, 0])
    found = check(stats.mcnemar_exact(one, two))
    assert found.table == ((2, 2), (0, 2)) and found.p == 0.5 == found.smallest_p
    assert found.difference == pytest.approx(1 / 3)
    assert found.interval.low < 1 / 3 < found.interval.high
    same = check(stats.mcnemar_exact(one, one))
    assert same.p == 1.0 and "same images" in same.reason
    assert check(stats.mcnemar_exact(one[:0], one[:0])).reason == "no image"
    assert check(stats.cochran_q(np.column_stack([one, one, one]))).p == 1.0
    assert check(stats.cochran_q(one[:, None])).p is None
    pair = np.column_stack([one, two])
    assert stats.cochran_q(pair).q == pytest.approx(2.0)  # (b - c)^2 / (b + c)
    with pytest.raises(ValueError, match="same images in the same order"):
        stats.mcnemar_exact(one, two[:3])
    with pytest.raises(ValueError, match="0 or 1 per image"):
        stats.mcnemar_exact(one, two + 2)


@pytest.mark.parametrize(
    ("shape", "these", "like_these", "words"),
    [
        ((5, 3), True, True, ""),
        ((5, 1), False, True, "nothing is known about other seeds"),
        ((1, 3), True, False, "nothing is known about datasets like it"),
        ((1, 1), False, False, "one dataset"),
    ],
)
def test_each_scope_needs_its_own_repetition(shape, these, like_these, words):
    scores = rng().normal(0, 1, (2, *shape))
    found = check(stats.rank_stability(scores, Resamples.draw(*shape, reps=200, rng=rng())))
    assert (found.best_on_these is not None) == these
    assert (found.first_two_on_like_these is not None) == like_these
    assert words in found.reason


def test_rank_stability_of_a_clear_and_of_an_open_order():
    base = rng(1).normal(0.7, 0.1, (1, 8, 4))
    noise = rng(2).normal(0, 0.001, (3, 8, 4))
    scores = base + np.array([0.1, 0.0, 0.0])[:, None, None] + noise
    found = check(stats.rank_stability(scores, Resamples.draw(8, 4, reps=500, rng=rng())))
    assert found.best_on_these == (1.0, 0.0, 0.0) == found.best_on_like_these
    assert found.mean_ranks[0] == 1.0
    same = np.repeat(base, 2, axis=0)
    tied = stats.rank_stability(same, Resamples.draw(8, 4, reps=100, rng=rng()))
    assert tied.best_on_these == (0.5, 0.5)


def test_posterior_over_resamples_that_share_nothing_is_the_plain_t():
    d = rng(3).normal(0.01, 0.01, 8)
    found = stats.bayesian_correlated_t(d, test_over_train=0.0, rope=0.0)
    assert 2 * min(found.worse, found.better) == pytest.approx(stats.paired_t(d).p, rel=1e-6)


def test_resampling_needs_little_memory_and_gives_the_same_numbers(monkeypatch):
    """2,500 seeds of two variants on two datasets, and small tables in blocks of one run each."""
    first, second = (np.round(rng(seed).normal(size=(2, 2500)), 2) for seed in (1, 2))
    draws = Resamples.draw(2, 2500, reps=50, rng=rng())
    calls = {
        "improvement": lambda: stats.improvement(first, second),
        "rank_stability": lambda: stats.rank_stability(np.stack([first, second]), draws),
        "sign_flip": lambda: stats.sign_flip(first.ravel() - second.ravel(), rng=rng()),
    }
    for name, call in calls.items():
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 400 * 2**20, name
    small, other = first[:, :9], second[:, :9]
    many = first[0, :60]
    whole = (stats.probability_of_improvement(small, other), stats.sign_flip(many, rng=rng()))
    monkeypatch.setattr(aggregates, "MAX_PAIRS", 1)
    monkeypatch.setattr(paired, "MAX_SIGNS", 1)
    assert whole == (
        stats.probability_of_improvement(small, other),
        stats.sign_flip(many, rng=rng()),
    )
    pairs = [np.sign(np.subtract.outer(a, b)) for a, b in zip(small, other, strict=True)]
    assert whole[0] == np.mean((np.array(pairs) + 1) / 2)
