"""What a run scored class by class, and, where it stored its predictions, what it confused and how
well its confidence matches its accuracy.

Per-image lists are reduced at once, so that many runs fit in memory. Letters: C classes.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from core.metrics import ReliabilityBin, reliability_bins
from core.store.predictions import CONFIDENCE_STEPS, PredictedClasses, read_predictions
from core.store.record import Evaluation, read_record

NOT_STORED = (
    "these runs were made before predictions were stored; the rerun command makes them again"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCounts:
    """One evaluation of a run: ``correct[c]`` of ``total[c]`` test images of class ``c``.

    ``confused`` counts the images of every pair of a true and another predicted class that occurs;
    it and ``bins`` are None where the run did not store its predictions. ``test_list`` is the
    fingerprint of the test images, blank in that case.
    """

    dataset: str
    subset: str
    class_names: tuple[str, ...]
    correct: tuple[int, ...]
    total: tuple[int, ...]
    test_list: str = ""
    confused: Mapping[tuple[int, int], int] | None = None
    bins: tuple[ReliabilityBin, ...] | None = None


def read_class_counts(run_dir: Path) -> dict[str, ClassCounts]:
    """The evaluations of a finished run by target; empty where there is no record.

    Raises ValueError for files that are broken or contradict each other.
    """
    record = read_record(run_dir)
    if record is None:
        return {}
    predictions = read_predictions(run_dir)
    return {e.target: class_counts(e, predictions.get(e.target)) for e in record.evaluations}


def class_counts(scored: Evaluation, predicted: PredictedClasses | None) -> ClassCounts:
    """The counts of one evaluation, with what follows from its predictions where it has them."""
    found = ClassCounts(
        dataset=scored.dataset,
        subset=scored.classes,
        class_names=scored.class_names,
        correct=scored.correct,
        total=scored.total,
    )
    if predicted is None:
        return found
    pairs = Counter(zip(predicted.labels, predicted.predicted, strict=True))
    hits = [a == b for a, b in zip(predicted.labels, predicted.predicted, strict=True)]
    confidence = [step / CONFIDENCE_STEPS for step in predicted.confidences]
    return replace(
        found,
        test_list=predicted.test_list,
        confused={pair: count for pair, count in pairs.items() if pair[0] != pair[1]},
        bins=reliability_bins(confidence, hits),
    )
