"""``predictions.json``: the predicted class of every test image, and the model's confidence in it.

It refines ``correct.json``, which says only whether the prediction is correct and stays the input
of the tests on images. Six bytes per image, base64 of little-endian uint16: labels and predictions
are indices of classes, and a confidence is stored in steps of 1 / 65535. Indices are uint32 where
there are more than 65536 classes.
"""

import base64
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from typing import Any

from core.store.correct import CorrectImages, read_correct_images
from core.store.documents import sealed_document, write_document
from core.store.names import PREDICTIONS_NAME
from core.store.own_files import require_own
from core.store.record import Evaluation, read_record

PREDICTIONS_VERSION = 1
CONFIDENCE_STEPS = 2**16 - 1
MAX_CLASSES = 2**16
BIT_OF = bytes.maketrans(b"\0\1", b"01")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedClasses:
    """What a run predicted in one evaluation, in the order of the test list.

    ``labels`` and ``predicted`` are indices of ``class_names``, ``confidences`` the softmax
    probabilities of the predicted classes times ``CONFIDENCE_STEPS``, rounded; one value per image
    each. ``test_list`` is the fingerprint that ``CorrectImages`` has.
    """

    target: str
    test_list: str
    class_names: tuple[str, ...]
    labels: Sequence[int]
    predicted: Sequence[int]
    confidences: Sequence[int]

    @property
    def num_images(self) -> int:
        return len(self.labels)

    @property
    def bits(self) -> bytes:
        """One bit per image, as in ``CorrectImages.bits``."""
        hits = bytes(map(eq, self.labels, self.predicted)).translate(BIT_OF)
        padded = hits.ljust(-(-len(hits) // 8) * 8, b"0")
        return int(padded or b"0", 2).to_bytes(len(padded) // 8)


def write_predictions(run_dir: Path, predictions: Sequence[PredictedClasses]) -> None:
    """Write what was predicted, atomically, before the record that makes the run finished."""
    targets = [
        {
            "target": p.target,
            "test_list": p.test_list,
            "class_names": p.class_names,
            "labels": _encoded(p.labels, len(p.class_names)),
            "predicted": _encoded(p.predicted, len(p.class_names)),
            "confidences": _encoded(p.confidences),
        }
        for p in predictions
    ]
    document = {"targets": targets}
    write_document(run_dir / PREDICTIONS_NAME, PREDICTIONS_VERSION, document, sort_keys=True)


def read_predictions(run_dir: Path) -> dict[str, PredictedClasses]:
    """What a run predicted, by target; empty for a run that did not write it.

    Raises ValueError for a broken file, and for one that contradicts the record or ``correct.json``
    beside it.
    """
    path, record = run_dir / PREDICTIONS_NAME, read_record(run_dir)
    if record is None or not record.evaluations or not path.is_file():
        return {}
    try:
        raw = sealed_document(path.read_text(encoding="utf-8"), PREDICTIONS_VERSION)
        found = {target["target"]: _decoded(target) for target in raw["targets"]}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {error}; rerun the run") from error
    scored = {e.target: e for e in record.evaluations}
    correct = read_correct_images(run_dir)
    if found.keys() != scored.keys() or not all(
        _agrees(found[t], scored[t], correct.get(t)) for t in found
    ):
        raise ValueError(f"{path} contradicts the record beside it; rerun the run")
    require_own(path, record)
    return found


def _agrees(found: PredictedClasses, scored: Evaluation, images: CorrectImages | None) -> bool:
    """Whether the predictions are those that were counted, image by image where that is known."""
    if found.class_names != scored.class_names:
        return False
    total, correct = [0] * len(found.class_names), [0] * len(found.class_names)
    for label, predicted in zip(found.labels, found.predicted, strict=True):
        total[label] += 1
        correct[label] += label == predicted
    same_counts = tuple(total) == scored.total and tuple(correct) == scored.correct
    if images is None or not same_counts:
        return same_counts
    return (found.test_list, found.bits) == (images.test_list, images.bits)


def _encoded(values: Sequence[int], num_classes: int = 0) -> str:
    numbers = array(_type_of(num_classes), values)
    return base64.b64encode(_little_endian(numbers).tobytes()).decode()


def _values(text: str, num_classes: int = 0) -> "array[int]":
    found = array(_type_of(num_classes))
    found.frombytes(base64.b64decode(text, validate=True))
    return _little_endian(found)


def _type_of(num_classes: int) -> str:
    """The type code of uint16, or of uint32 where indices do not fit."""
    return "H" if num_classes <= MAX_CLASSES else "I"


def _little_endian(values: "array[int]") -> "array[int]":
    """The array with its bytes as stored, or back."""
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _decoded(raw: Mapping[str, Any]) -> PredictedClasses:
    """One target. Raises ValueError for arrays that do not belong together."""
    names = tuple(raw["class_names"])
    lists = {name: _values(raw[name], len(names)) for name in ("labels", "predicted")}
    lists["confidences"] = _values(raw["confidences"])
    if len({len(values) for values in lists.values()}) > 1:
        raise ValueError("its lists differ in length")
    if any(max(lists[name], default=0) >= len(names) for name in ("labels", "predicted")):
        raise ValueError("a class has no name")
    return PredictedClasses(
        target=raw["target"], test_list=raw["test_list"], class_names=names, **lists
    )
