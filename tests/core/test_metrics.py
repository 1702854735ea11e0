"""Metrics against values computed by hand."""

import pytest

from core.metrics import expected_calibration_error, harmonic_mean, reliability_bins


def test_the_harmonic_mean_of_two_accuracies():
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.0, 0.0) == 0.0


def test_bins_count_images_confidence_and_hits():
    """Two bins: .2 and .4 (one correct) below one half; .5, .9 and 1.0 (two correct) above."""
    bins = reliability_bins([0.2, 0.4, 0.5, 0.9, 1.0], [True, False, True, True, False], num_bins=2)
    assert [(b.images, b.correct) for b in bins] == [(2, 1), (3, 2)]
    assert [b.confidence for b in bins] == pytest.approx([0.6, 2.4])


def test_the_calibration_error_is_the_weighted_gap():
    """|.3 - .5| in the lower bin, |.8 - 2/3| in the upper one, weighted by 2 and 3 of 5 images."""
    bins = reliability_bins([0.2, 0.4, 0.5, 0.9, 1.0], [True, False, True, True, False], num_bins=2)
    expected = 2 / 5 * abs(0.3 - 0.5) + 3 / 5 * abs(0.8 - 2 / 3)
    assert expected_calibration_error(bins) == pytest.approx(expected)


def test_a_model_that_is_as_correct_as_it_says_has_no_error():
    confidence = [0.75] * 4 + [0.25] * 4
    correct = [True, True, True, False, True, False, False, False]
    assert expected_calibration_error(reliability_bins(confidence, correct)) == pytest.approx(0.0)
    assert expected_calibration_error(reliability_bins([1.0] * 3, [False] * 3)) == 1.0


def test_a_bin_belongs_to_its_lower_edge():
    bins = reliability_bins([0.0, 0.05, 0.95, 1.0], [True] * 4)
    assert [i for i, b in enumerate(bins) if b.images] == [0, 1, 19]


def test_unequal_and_empty_input_is_refused():
    with pytest.raises(ValueError, match="equally many"):
        reliability_bins([0.5], [True, False])
    with pytest.raises(ValueError, match="no images"):
        expected_calibration_error(reliability_bins([], []))
