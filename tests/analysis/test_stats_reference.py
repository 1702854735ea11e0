"""Every number of ours that scipy, statsmodels, scikit-posthocs, baycomp or rliable gives too.

The reference holds made-up accuracies in percent. Deterministic values agree to 1e-9 (relative),
fitted ones to 1e-4, drawn ones within what two independent sets of draws differ by.
"""

import itertools
import json

import numpy as np
import pytest

from analysis import stats
from analysis.stats import Resamples
from tests.helpers.paths import GOLDEN
from tests.helpers.resampled import percentiles, resampled_averages

REFERENCE = json.loads((GOLDEN / "stats_reference.json").read_text())
TABLES, PAIRWISE = REFERENCE["tables"], REFERENCE["pairwise"]
SEEDED = TABLES["D_scores_dataset_method_seed"]
TABLE_OF = {"A": "A_means_11x6", "B": "B_means_5x6", "C": "C_ties_11x6"}
POSTHOC = {key.split(":")[0]: value for key, value in REFERENCE["posthoc_A"].items()}
exact = {"rel": 1e-9, "abs": 1e-12}


def table(letter):
    return np.array(TABLES[TABLE_OF[letter]]["values"])


def columns():
    return TABLES[TABLE_OF["A"]]["columns"]


def seeded(*methods):
    """Scores (V, D, S) of the seeded table."""
    values = np.array(SEEDED["values"])
    return np.stack([values[:, SEEDED["methods"].index(m)] for m in methods])


def difference(name):
    """First minus second column of a named pair."""
    letter, pair = name.split(" ")[:2]
    one, two = pair.split("-")
    scores = table(letter)
    return scores[:, columns().index(one)] - scores[:, columns().index(two)]


def rng(seed=0):
    return np.random.default_rng(seed)


each_pair = pytest.mark.parametrize("name", list(PAIRWISE))
each_table = pytest.mark.parametrize("letter", list(TABLE_OF))


@each_pair
def test_paired_tests(name):
    d, case = difference(name), PAIRWISE[name]
    ranks, t = stats.signed_rank(d), stats.paired_t(d)
    statistic, p = case["wilcoxon(zero_method='pratt')"]
    assert min(ranks.positive, ranks.negative) == statistic
    assert ranks.p == pytest.approx(p, **exact)
    assert [t.p, *t.interval] == pytest.approx(case["ttest_rel"][1:], **exact)
    flip = case["permutation_test(samples, exact 2^n)"]
    assert d.mean() == pytest.approx(flip[0], **exact)
    assert stats.sign_flip(d).p == pytest.approx(flip[1], **exact)
    wins, losses, p = case["sign: binomtest(wins,wins+losses)"]
    assert stats.win_tie_loss(d)[::2] == (wins, losses)
    assert stats.sign_test(d).p == pytest.approx(p, **exact)


@each_pair
def test_effects(name):
    d, effect = difference(name), PAIRWISE[name]["effect"]
    assert d.mean() == pytest.approx(effect["mean_diff"], **exact)
    assert stats.hodges_lehmann(d).value == pytest.approx(
        effect["hodges_lehmann"], rel=1e-8, abs=1e-9
    )
    assert stats.rank_biserial(d).value == pytest.approx(
        effect["rank_biserial (R+-R-)/(R++R-)"], **exact
    )
    assert stats.cohen_dz(d).value == pytest.approx(effect["cohen_dz"], rel=1e-8)
    assert stats.hedges_g(d).value == pytest.approx(effect["hedges_gz"], rel=1e-8)
    assert list(stats.win_tie_loss(d)) == effect["win_tie_loss"]
    letter, pair = name.split(" ")[:2]
    one, two = (table(letter)[:, columns().index(m)] for m in pair.split("-"))
    assert stats.probability_better_unpaired(one, two).value == pytest.approx(
        effect["A12"], **exact
    )


@each_pair
@pytest.mark.parametrize("rope", [0.5, 1.0])
def test_equivalence(name, rope):
    d, case = difference(name), PAIRWISE[name]
    found = stats.tost(d, rope=rope)
    values = case[f"TOST ttost_paired(x,y,-{rope},{rope})"]
    assert list(found[:3]) == pytest.approx(values, rel=1e-8)
    key = f"baycomp.SignedRankTest.probs(x,y,rope={rope},nsamples=20000,random_state=0)"
    same_draws = {"rng": np.random.RandomState(0), "draws": 20_000}
    posterior = stats.bayesian_signed_rank(d, rope=rope, **same_draws)
    assert list(posterior[2::-1]) == pytest.approx(case[key], **exact)
    other_draws = stats.bayesian_signed_rank(d, rope=rope, rng=rng())
    np.testing.assert_allclose(other_draws[2::-1], case[key], atol=0.015)


@each_table
def test_omnibus(letter):
    found, case = stats.friedman(table(letter)), REFERENCE["omnibus"][letter]
    values = {key.split(" ")[0]: value for key, value in case.items()}
    assert found.mean_ranks == pytest.approx(list(values["ranks_avg"].values()), **exact)
    assert found.chi2 == pytest.approx(values["chi2"], **exact)
    assert found.chi2_p == pytest.approx(values["p"], **exact)
    assert found.f == pytest.approx(values["iman_davenport_F"], **exact)
    assert list(found.f_df) == values["df"]
    assert found.p == pytest.approx(values["iman_davenport_p"], **exact)
    assert found.kendall_w == pytest.approx(values["kendall_W"], **exact)


def test_wilcoxon_of_all_pairs_with_holm():
    scores, case = table("A"), REFERENCE["multiplicity"]
    pairs = list(itertools.combinations(range(scores.shape[1]), 2))
    assert [(columns()[i], columns()[j]) for i, j in pairs] == list(map(tuple, case["pairs"]))
    raw = [stats.signed_rank(scores[:, i] - scores[:, j]).p for i, j in pairs]
    assert raw == pytest.approx(case["raw_wilcoxon"], **exact)
    adjusted = stats.holm(raw)
    assert adjusted == pytest.approx(case["holm"], **exact)
    matrix = np.array(POSTHOC["wilcoxon_holm"]["values"])
    np.testing.assert_allclose(adjusted, [matrix[i, j] for i, j in pairs], rtol=1e-12)
    assert stats.most_comparisons(len(scores)) >= len(pairs)


def test_conover_as_a_sensitivity_check():
    found, reason = stats.conover_friedman(table("A"))
    np.testing.assert_allclose(found, POSTHOC["conover_holm"]["values"], rtol=1e-8)
    assert reason == ""


def test_one_dataset_over_ten_seeds():
    case = REFERENCE["one_dataset_eurosat_10_seeds"]
    ours, other = np.array(case["ours"]), np.array(case["promptsrc"])
    assert stats.paired_t(ours - other).p == pytest.approx(case["ttest_rel"][1], rel=1e-8)
    assert stats.welch_t(ours, other).p == pytest.approx(case["welch"][1], rel=1e-8)
    assert stats.signed_rank(ours - other).p == pytest.approx(case["wilcoxon"][1], **exact)
    better = stats.probability_better((ours - other)[None])
    assert better.value == pytest.approx(
        case["prob_outperform_paired (Bouthillier) P(A>B)+.5 ties"]
    )
    mean, half, _ = stats.t_interval(ours)
    assert [mean - half, mean + half] == pytest.approx(case["t_CI_mean"], **exact)


def test_overlapping_resamples():
    case = REFERENCE["corrected_resampled_t"]
    d = np.array(case["diffs_10x10cv"])
    found = stats.corrected_resampled_t(d, test_over_train=1 / 9)
    assert [found.t, found.p] == pytest.approx(
        case["t,p two-sided with ratio n_test/n_train=1/9"], rel=1e-9
    )
    point = stats.bayesian_correlated_t(d, test_over_train=1 / 9, rope=0)
    pair = case["baycomp.two_on_single(0,d,0,runs=10) (p_left,p_right)"]
    assert [point.worse, point.better] == pytest.approx(pair, rel=1e-9)
    assert 2 * min(point.worse, point.better) == pytest.approx(found.p, rel=1e-9)
    region = stats.bayesian_correlated_t(d, test_over_train=1 / 9, rope=0.5)
    assert list(region[:3]) == pytest.approx(case["baycomp rope=.5"], rel=1e-8)
    assert stats.paired_t(d).p == pytest.approx(case["uncorrected ttest_1samp"][1], rel=1e-8)


def test_mixed_model():
    case = REFERENCE["mixedlm acc~method+(1|ds)+(1|ds:method), re_formula='1'"]
    names = ["coop", "cocoop", "maple", "promptsrc", "ours"]
    found = stats.mixed_model(seeded(*names), names)
    for effect in found.effects:
        key = f"C(method)[T.{effect.variant}]"
        assert effect.difference == pytest.approx(case["params"][key], abs=1e-6)
        assert effect.standard_error == pytest.approx(case["bse"][key], rel=1e-4)
        assert effect.normal_p == pytest.approx(case["pvalues"][key], rel=1e-3)
    assert found.var_interaction == pytest.approx(case["var_ds:method"][0], rel=1e-3)
    assert found.var_dataset == pytest.approx(case["var_ds"][0][0], rel=1e-3)
    assert found.var_seed == pytest.approx(case["var_seed(scale)"], rel=1e-4)
    assert (found.reason, found.num_missing) == ("", 0)
    trap = REFERENCE[next(key for key in REFERENCE if key.startswith("TRAP mixedlm"))]
    assert found.effects[-1].standard_error < trap["bse"]["C(method)[T.ours]"] / 10


def test_two_level_bootstrap():
    case = REFERENCE["hier_paired_bootstrap ours-promptsrc"]
    one, two = seeded("ours", "promptsrc")
    d = one - two
    resamples = Resamples.draw(11, 10, reps=10_000, rng=rng())
    assert d.mean() == pytest.approx(case["mean"], rel=1e-9)
    two_level, seeds_only = resampled_averages(resamples, d)
    np.testing.assert_allclose(percentiles(two_level), case["datasets+seeds 95%"], atol=0.03)
    np.testing.assert_allclose(
        percentiles(seeds_only), case["seeds_only 95% (fixed suite)"], atol=0.01
    )
    over_means = stats.paired_t(stats.dataset_means(d))
    assert over_means.p == pytest.approx(case["t over 11 dataset means"][1], rel=1e-8)
    naive = case["naive t over 110 pairs (pseudo-replication)"]
    assert stats.paired_t(d.ravel()).p == pytest.approx(naive[1], rel=1e-8)


def test_replicability():
    case = REFERENCE["replicability_dror2017"]
    one, two = seeded("ours", "promptsrc")
    names = SEEDED["datasets"]
    better, worse = stats.replicated(one - two, names)
    assert list(better.p) == pytest.approx(case["one_sided_p_per_dataset"], rel=1e-7)
    assert list(better.holm_p) == pytest.approx(case["holm_adjusted"], rel=1e-7)
    assert (better.k_hat, better.k_hat_fisher) == (
        case["k_hat_bonferroni"],
        case["k_hat_fisher"],
    )
    assert better.named == tuple(
        name for name, p in zip(names, case["holm_adjusted"], strict=True) if p <= 0.05
    )
    assert worse.p == pytest.approx([1 - p for p in better.p], abs=1e-9)


def test_images():
    case = REFERENCE["per_sample"]
    one, two, three = (np.array(case["correct"][key]) for key in ("c1", "c2", "c3"))
    found = stats.mcnemar_exact(one, two)
    assert [list(row) for row in found.table] == case["mcnemar_table"]
    assert found.p == pytest.approx(case["mcnemar exact"], **exact)
    q = stats.cochran_q(np.column_stack([one, two, three]))
    assert [q.q, q.p] == pytest.approx(case["cochrans_q"], **exact)


def test_page_trend():
    case = REFERENCE["page_trend shots 1,2,4,8,16"]
    found = stats.page_trend(case["table"])
    assert (found.statistic, found.p) == (case["L"], pytest.approx(case["p"], **exact))


def test_float_noise_is_a_tie():
    case = REFERENCE["TRAP float noise makes false non-zeros"]
    d = np.array(case["a"]) - np.array(case["b"])
    assert stats.signed_rank(d).p == case["wilcoxon(round(a-b,6))"][1]
    assert stats.signed_rank(d).p != case["wilcoxon(a,b)"][1]


RLIABLE = REFERENCE["rliable"]


@pytest.mark.parametrize("method", list(RLIABLE["points"]))
def test_aggregates(method):
    scores, case = seeded(method)[0] / 100, RLIABLE["points"][method]
    found = {
        "mean": stats.mean_of_datasets(scores),
        "median": stats.median_of_datasets(scores),
        "iqm": stats.iqm(scores),
        "optimality_gap": stats.optimality_gap(scores),
    }
    assert {key: float(value) for key, value in found.items()} == pytest.approx(case, rel=1e-9)


@pytest.mark.parametrize("method", list(RLIABLE["P(ours>other)"]))
def test_probability_of_improvement(method):
    ours, other = seeded("ours", method)
    found = float(stats.probability_of_improvement(ours, other))
    assert found == pytest.approx(RLIABLE["P(ours>other)"][method], rel=1e-9)


def test_resampled_aggregates_match_where_the_library_resamples_alike():
    resamples = Resamples.draw(11, 10, reps=5000, rng=rng())
    aggregates = (
        stats.mean_of_datasets,
        stats.median_of_datasets,
        stats.iqm,
        stats.optimality_gap,
    )
    for method in ("ours", "promptsrc"):
        both = resamples.tables((seeded(method) / 100), slice(None))
        for tables, flag, tolerance in zip(both, (True, False), (0.03, 0.0006), strict=True):
            key = f"ci reps=5000 task_bootstrap={flag} np.random.seed(0) rows lo,hi; "
            case = np.array(RLIABLE[key + "cols mean,median,iqm,gap"][method])
            ours = np.array([percentiles(of(tables[:, 0])) for of in aggregates]).T
            np.testing.assert_allclose(ours, case, atol=tolerance)


def test_profile():
    case = RLIABLE["profile ours"]
    scores = seeded("ours")[0] / 100
    np.testing.assert_allclose(stats.profile(scores, case["tau"]), case["p"], rtol=1e-9)
