"""All seeds on the same images: an image is a cluster of its seeds."""

import numpy as np
import pytest
import scipy.stats

from analysis.stats import clustered_difference


def answers(seed, *, num_seeds, num_images, share):
    """Seeds that are correct on the same images, but for a share of coin tosses."""
    rng = np.random.default_rng(seed)
    alike = rng.random(num_images) < 0.7
    tosses = rng.random((num_seeds, num_images)) < 0.7
    own = rng.random((num_seeds, num_images)) < share
    return np.where(own, tosses, alike).astype(int)


def test_the_error_is_that_of_the_cluster_sums():
    first = answers(1, num_seeds=5, num_images=200, share=0.3)
    second = answers(2, num_seeds=5, num_images=200, share=0.3)
    found = clustered_difference(first, second)
    gaps = first - second
    residuals = (gaps - gaps.mean()).sum(axis=0)  # of a cluster
    error = np.sqrt((residuals**2).sum() * 200 / 199) / gaps.size
    assert found.difference == pytest.approx(gaps.mean())
    assert found.error == pytest.approx(error)
    test = scipy.stats.ttest_1samp(gaps.mean(axis=0), 0.0)
    assert found.p == pytest.approx(test.pvalue)
    np.testing.assert_allclose(found.interval, tuple(test.confidence_interval()))
    assert found.unclustered_error == pytest.approx(gaps.std(ddof=1) / np.sqrt(gaps.size))


def test_seeds_that_agree_are_not_further_images():
    first, second = (answers(seed, num_seeds=4, num_images=300, share=0.05) for seed in (3, 4))
    found, once = clustered_difference(first, second), clustered_difference(first[:1], second[:1])
    assert found.error > 1.7 * found.unclustered_error
    assert found.error == pytest.approx(once.error, rel=0.1)


def test_what_cannot_be_told_has_no_number():
    same = np.ones((2, 10), dtype=int)
    found = clustered_difference(same, same)
    assert (found.difference, found.error, found.p, found.interval) == (0.0, 0.0, 1.0, None)
    assert clustered_difference(same[:, :1], same[:, :1]).reason == "fewer than two images"
    constant = clustered_difference(same, 1 - same)
    assert constant.difference == 1.0 and constant.p is None and constant.reason
    with pytest.raises(ValueError, match="same seeds and images on both sides"):
        clustered_difference(same, same[:, :5])


def test_the_level_holds_where_seeds_share_images():
    wrong = 0
    for draw in range(400):
        rng = np.random.default_rng(draw)
        alike = rng.standard_normal((2, 1, 120))
        own = rng.standard_normal((2, 3, 120))
        first, second = (alike + 0.5 * own > 0).astype(int)
        p = clustered_difference(first, second).p
        wrong += p is not None and p < 0.05
    assert 0.02 < wrong / 400 < 0.08
