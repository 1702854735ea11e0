"""Accuracy, harmonic mean and calibration, on plain numbers."""

from collections.abc import Sequence


def harmonic_mean(base: float, new: float) -> float:
    """2bn / (b + n), the base-to-new summary of Xian et al., CVPR 2017 (arXiv 1703.04394); 0 when
    both are 0.
    """
    return 2 * base * new / (base + new) if base + new > 0 else 0.0


def expected_calibration_error(
    confidence: Sequence[float], correct: Sequence[bool], *, num_bins: int = 20
) -> float:
    """Mean gap between confidence and accuracy over equal-width bins, weighted by bin size.

    Source: Guo et al., ICML 2017 (arXiv 1706.04599). Raises ValueError for empty or unequal input.
    """
    if len(confidence) != len(correct) or not confidence:
        raise ValueError(
            f"need equally many confidences and outcomes, got {len(confidence)} and {len(correct)}"
        )
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(num_bins)]
    for value, hit in zip(confidence, correct, strict=True):
        bins[min(int(value * num_bins), num_bins - 1)].append((value, hit))
    gaps = (abs(sum(v for v, _ in b) - sum(h for _, h in b)) for b in bins if b)
    return sum(gaps) / len(confidence)
