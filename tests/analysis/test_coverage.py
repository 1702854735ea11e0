"""Coverage of every interval that the report prints beside the verdicts: at least .93 of .95.

Scores are normal; the effect differs between datasets by 0, 1 or 2 standard deviations of a seed,
and seeds matter equally on all datasets, or six times more on some than on others.
"""

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis import stats
from core.metrics import harmonic_mean

pytestmark = pytest.mark.slow
REPS = 2500
LEAST = 0.93
DESIGNS = [
    (d, s, spread, unequal)
    for d, s in itertools.product((1, 2, 3, 4, 6, 11), (2, 3, 5))
    for spread, unequal in ([(0, False)] if d == 1 else itertools.product((0, 1, 2), (False, True)))
]
SHARES = [design for design in DESIGNS if design[1] != 3]
each_design = pytest.mark.parametrize("design", DESIGNS, ids=str)


def noise(num_datasets, unequal):
    """Standard deviation of a seed on each dataset."""
    return np.geomspace(0.4, 2.5, num_datasets) if unequal else np.ones(num_datasets)


def studies(design, *, reps=REPS, seed=0):
    """True values (R, D) and scores (R, D, S)."""
    num_datasets, num_seeds, spread, unequal = design
    rng = np.random.default_rng([seed, num_datasets, num_seeds, spread, unequal])
    truth = spread * rng.normal(size=(reps, num_datasets))
    runs = rng.normal(size=(reps, num_datasets, num_seeds))
    return truth, truth[:, :, None] + noise(num_datasets, unequal)[:, None] * runs


def coverage(truths, intervals):
    """Share of intervals that hold their truth."""
    pairs = zip(truths, intervals, strict=True)
    return np.mean([low - 1e-12 <= truth <= high + 1e-12 for truth, (low, high) in pairs])


def around(center, values):
    """The t interval of these values, placed around ``center``."""
    half = stats.t_interval(values).half_width
    return center - half, center + half


@each_design
def test_cells_and_averages_of_the_results_table(design):
    """Also the curves, the planes of base and new, the costs and the aggregates' mean and gap."""
    truth, scores = studies(design)
    cells = [around(table[0].mean(), table[0]) for table in scores]
    assert coverage(truth[:, 0], cells) >= LEAST
    averages = [around(table.mean(), table.mean(axis=0)) for table in scores]
    assert coverage(truth.mean(axis=1), averages) >= LEAST


@each_design
def test_harmonic_mean_of_the_averages(design):
    sides = [(level, *studies(design, seed=seed)) for seed, level in ((1, 0.7), (2, 0.6))]
    truths = [level + truth.mean(axis=1) / 100 for level, truth, _ in sides]
    base, new = (level + scores / 100 for level, _, scores in sides)
    intervals = []
    for one, two in zip(base, new, strict=True):
        pairs = zip(one.mean(axis=0), two.mean(axis=0), strict=True)
        per_seed = np.array([harmonic_mean(*pair) for pair in pairs])
        intervals.append(around(harmonic_mean(one.mean(), two.mean()), per_seed))
    known = [harmonic_mean(*pair) for pair in zip(*truths, strict=True)]
    assert coverage(known, intervals) >= LEAST


@pytest.mark.parametrize("design", [d for d in DESIGNS if d[0] >= 6], ids=str)
def test_hodges_lehmann_over_datasets(design):
    _, scores = studies(design, reps=1500)
    intervals = [stats.hodges_lehmann(table.mean(axis=1)).interval for table in scores]
    assert coverage(np.zeros(len(scores)), intervals) >= LEAST


@pytest.mark.parametrize("effect", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("design", SHARES, ids=str)
def test_probabilities_of_a_better_run(design, effect):
    num_datasets, _, spread, unequal = design
    _, scores = studies(design, reps=1000)
    sd = noise(num_datasets, unequal)
    better = scipy_stats.norm.cdf(effect / np.hypot(spread, sd)).mean()
    found = [stats.probability_better(effect + table).interval for table in scores]
    assert coverage(np.full(len(found), better), found) >= LEAST
    if num_datasets > 1:
        _, reference = studies((*design[:2], 0, unequal), reps=1000, seed=3)
        pairs = zip(effect + scores, reference, strict=True)
        found = [stats.improvement(*pair).interval for pair in pairs]
        better = scipy_stats.norm.cdf(effect / np.sqrt(spread**2 + 2 * sd**2)).mean()
        assert coverage(np.full(len(found), better), found) >= LEAST


@pytest.mark.parametrize("spread", [0, 2])
@pytest.mark.parametrize("num_datasets", [3, 6])
def test_mixed_model(num_datasets, spread):
    """400 fits: a standard error of .011."""
    rng = np.random.default_rng([num_datasets, spread])
    held = []
    for _ in range(400):
        cells = spread * rng.normal(size=(3, num_datasets, 1)) + 20 * rng.normal(
            size=(1, num_datasets, 1)
        )
        scores = (cells + rng.normal(size=(3, num_datasets, 3))) / 100
        found = stats.mixed_model(scores, ["a", "b", "c"]).effects
        held.append([effect.interval.low <= 0 <= effect.interval.high for effect in found])
    assert np.mean(held) >= LEAST - 0.01


@pytest.mark.parametrize("num_images", [30, 100, 1000])
@pytest.mark.parametrize("shares", [(0.02, 0.02), (0.1, 0.05), (0.3, 0.1)])
def test_difference_of_two_models_on_the_same_images(num_images, shares):
    rng = np.random.default_rng([num_images, int(1000 * shares[0])])
    one, two = shares
    held = []
    for draw in rng.random((2000, num_images)):
        first, second = draw < one, (one <= draw) & (draw < one + two)
        both = draw > 0.5 + (one + two) / 2
        low, high = stats.mcnemar_exact(both | first, both | second).interval
        held.append(low <= one - two <= high)
    assert np.mean(held) >= LEAST


def test_resamples_that_share_data():
    """Differences of such resamples correlate by the share of data tested."""
    rng, rho = np.random.default_rng(70), 0.1
    for n in (2, 3, 5, 10):
        shared = rng.normal(0, np.sqrt(rho), (REPS, 1))
        d = shared + rng.normal(0, np.sqrt(1 - rho), (REPS, n))
        tests = [stats.corrected_resampled_t(row, test_over_train=rho / (1 - rho)) for row in d]
        assert coverage(np.zeros(REPS), [test.interval for test in tests]) >= LEAST
