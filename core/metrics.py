"""Accuracy, harmonic mean and calibration, on plain numbers."""

from collections.abc import Sequence
from typing import NamedTuple

CALIBRATION_BINS = 20


def harmonic_mean(base: float, new: float) -> float:
    """2bn / (b + n), the base-to-new summary of Xian et al., CVPR 2017 (arXiv 1703.04394); 0 when
    both are 0.
    """
    return 2 * base * new / (base + new) if base + new > 0 else 0.0


class ReliabilityBin(NamedTuple):
    """The images whose confidence falls into one of the equal-width bins of [0, 1]: how many, the
    sum of their confidences, and how many of them are predicted correctly.
    """

    images: int
    confidence: float
    correct: int


def reliability_bins(
    confidence: Sequence[float], correct: Sequence[bool], *, num_bins: int = CALIBRATION_BINS
) -> tuple[ReliabilityBin, ...]:
    """Bins of a reliability curve, empty ones included: bin i is [i / num_bins, (i + 1) / num_bins)
    and the last one includes 1.

    Raises ValueError for unequal input.
    """
    if len(confidence) != len(correct):
        raise ValueError(
            f"need equally many confidences and outcomes, got {len(confidence)} and {len(correct)}"
        )
    images, sums, hits = [0] * num_bins, [0.0] * num_bins, [0] * num_bins
    for value, hit in zip(confidence, correct, strict=True):
        place = min(int(value * num_bins), num_bins - 1)
        images[place] += 1
        sums[place] += value
        hits[place] += hit
    return tuple(map(ReliabilityBin, images, sums, hits))


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean gap between confidence and accuracy over bins, weighted by the number of their images.

    Source: Guo et al., ICML 2017 (arXiv 1706.04599). Raises ValueError for no images.
    """
    if not (images := sum(b.images for b in bins)):
        raise ValueError("the calibration error of no images is not defined")
    return sum(abs(b.confidence - b.correct) for b in bins) / images
