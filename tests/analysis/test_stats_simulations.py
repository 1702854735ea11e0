"""Error rates and coverage, measured: the true effect is zero, or known.

The effect differs between datasets (standard deviation 1) and every run has a seed's noise (0.8),
so a paired difference has both runs' noise.
"""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis import stats

BETWEEN, SEED = 1.0, 0.8 * np.sqrt(2)
pytestmark = pytest.mark.slow


def studies(count, num_datasets, num_seeds, rng, effect=0.0):
    """Paired differences (count, D, S) of studies."""
    truth = effect + rng.normal(0, BETWEEN, (count, num_datasets, 1))
    return truth + rng.normal(0, SEED, (count, num_datasets, num_seeds))


@pytest.mark.parametrize(("num_seeds", "naive"), [(3, 0.15), (10, 0.37)])
def test_seeds_are_not_datasets(num_seeds, naive):
    """The t test over all pairs rejects far too often; over dataset means it keeps its level."""
    rng = np.random.default_rng(20 + num_seeds)
    d = studies(20_000, 11, num_seeds, rng)
    over_pairs = scipy_stats.ttest_1samp(d.reshape(len(d), -1), 0, axis=1).pvalue < 0.05
    over_means = scipy_stats.ttest_1samp(d.mean(axis=2), 0, axis=1).pvalue < 0.05
    assert over_pairs.mean() == pytest.approx(naive, abs=0.02)
    assert over_means.mean() == pytest.approx(0.05, abs=0.006)
    assert stats.paired_t(d[0].mean(axis=1)).p == pytest.approx(
        scipy_stats.ttest_1samp(d[0].mean(axis=1), 0).pvalue
    )


def test_plain_t_on_overlapping_resamples_rejects_too_often():
    """Ten resamples that share most of their data: corrected, the level holds; plain, it does not.

    Differences of such resamples correlate by the share of data tested, rho = n_test / n.
    """
    rng, rho, n = np.random.default_rng(70), 0.1, 10
    shared = rng.normal(0, np.sqrt(rho), (4000, 1))
    d = shared + rng.normal(0, np.sqrt(1 - rho), (4000, n))
    corrected = [
        stats.corrected_resampled_t(row, test_over_train=rho / (1 - rho)).p < 0.05 for row in d
    ]
    plain = [stats.paired_t(row).p < 0.05 for row in d]
    assert np.mean(plain) > 0.12
    assert np.mean(corrected) == pytest.approx(0.05, abs=0.012)


def test_equivalence_is_rarely_wrong_at_the_edge_of_the_region():
    rng = np.random.default_rng(80)
    d = rng.normal(0.01, 0.005, (6000, 11))
    wrong = [stats.tost(row, rope=0.01).p < 0.05 for row in d]
    assert np.mean(wrong) == pytest.approx(0.05, abs=0.01)


def test_mixed_model_keeps_its_level_with_missing_cells():
    """t with (D-1)(V-1) degrees of freedom near 5 %; the library's normal p rejects more."""
    rng, p, normal_p = np.random.default_rng(90), [], []
    for d in studies(120, 11, 3, rng):
        scores = np.stack([np.zeros_like(d), d]) + rng.normal(0, 5, (1, 11, 1))
        scores[0] += rng.normal(0, SEED, d.shape)
        scores[1, rng.integers(11), 1:] = np.nan
        effect = stats.mixed_model(scores / 100, ["a", "b"]).effects[0]
        p.append(effect.p < 0.05)
        normal_p.append(effect.normal_p < 0.05)
    assert np.mean(p) <= 0.1 and np.mean(p) <= np.mean(normal_p)
