"""What a model predicts for test images, how confident it is, and how many are correct per class.

N images in the order of the batches.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.finite import NotFiniteError
from core.store.predictions import CONFIDENCE_STEPS
from core.train.model import RefinedMethod
from core.types import Batch, Forward


class Predictions(NamedTuple):
    """Predicted class and label of each image, int64, and the softmax probability of the predicted
    class, float32; all on the CPU.
    """

    predicted_N: Tensor
    labels_N: Tensor
    confidence_N: Tensor

    @property
    def correct_N(self) -> Tensor:
        """Whether each prediction is correct, bool."""
        return self.predicted_N == self.labels_N

    def counts(self, num_classes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Counts of correct and total images per class."""
        correct = torch.bincount(self.labels_N[self.correct_N], minlength=num_classes)
        total = torch.bincount(self.labels_N, minlength=num_classes)
        return tuple(correct.tolist()), tuple(total.tolist())

    def bits(self) -> bytes:
        """``correct_N`` packed with eight images per byte, as stored in a run folder."""
        return np.packbits(self.correct_N.numpy()).tobytes()

    def confidence_steps(self) -> list[int]:
        """``confidence_N`` as stored in a run folder."""
        steps_N = (self.confidence_N.double() * CONFIDENCE_STEPS).round()
        return [int(step) for step in steps_N.tolist()]


@torch.no_grad()
def predict(model: RefinedMethod, batches: Iterable[Batch]) -> Predictions:
    """Classify every image; the model is in eval mode.

    Class texts that do not depend on the image are encoded once. A method that adapts at test time
    starts anew here and forgets everything afterwards. Results are in the order of ``Batch.index``
    where that numbers all images. Results leave the device together, after the last batch.

    Raises NotFiniteError for logits that are not finite, the largest of which would be the first
    NaN, and where no image prefers any class: all would be of the first.
    """
    answers: list[Tensor] = []
    with model.method.texts_once():
        for batch, out in outputs(model, batches):
            logits_BC = out.logits()
            answers.append(_answers(logits_BC, batch))
    if not answers:
        return _Answers(*torch.zeros(len(_Answers._fields), 0)).predictions()
    given = _Answers(*torch.cat(answers, dim=1).cpu())  # the host waits once
    finite_N = given.finite.bool()
    if not bool(finite_N.all()):
        raise NotFiniteError(
            f"the logits of {int((~finite_N).sum())} of {len(finite_N)} images are not finite; "
            "try a lower lr, or check the weights"
        )
    if len(finite_N) and logits_BC.shape[-1] > 1 and bool(given.level.all()):
        raise NotFiniteError(
            f"the logits of each of {len(finite_N)} images are the same for all classes; "
            "check the weights and the class names"
        )
    return given.predictions()


class _Answers(NamedTuple):
    """What is told of each of N images, float64, which holds every integer and float32 there is:
    whether its logits are finite, and all the same; what was predicted, and how surely; and the
    image's label and place (-1 for none).
    """

    finite: Tensor
    level: Tensor
    predicted: Tensor
    confidence: Tensor
    labels: Tensor
    place: Tensor

    def predictions(self) -> Predictions:
        """In the order of the places, where these number all images."""
        predicted_N, labels_N, place_N = (
            values_N.long() for values_N in (self.predicted, self.labels, self.place)
        )
        given = predicted_N, labels_N, self.confidence.float()
        row_N = place_N.argsort()
        if torch.equal(place_N[row_N], torch.arange(len(place_N))):
            return Predictions(*(values_N[row_N] for values_N in given))
        return Predictions(*given)


def _answers(logits_BC: Tensor, batch: Batch) -> Tensor:
    """What is told of each image of a batch, one row a field of ``_Answers``, on the device."""
    best_B1 = logits_BC.argmax(dim=-1, keepdim=True)
    place_B = torch.full_like(batch.labels, -1) if batch.index is None else batch.index
    told = _Answers(
        finite=logits_BC.sum(dim=-1).isfinite(),  # only if every logit is
        level=(logits_BC == logits_BC[:, :1]).all(dim=-1),
        predicted=best_B1[:, 0],
        confidence=logits_BC.softmax(dim=-1).gather(1, best_B1)[:, 0].float(),
        labels=batch.labels,
        place=place_B,
    )
    return torch.stack([values_B.double() for values_B in told])


def outputs(model: RefinedMethod, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Forward]]:
    """Every batch with what the model says of it, adapted to it first where the method adapts."""
    method = model.method
    method.reset_adaptation()
    for batch in batches:
        if method.adapts_to:
            with torch.enable_grad():
                method.adapt(batch, model)
        yield batch, model(batch)
        if method.adapts_to == "image":
            method.reset_adaptation()
    method.reset_adaptation()


def accuracy(model: RefinedMethod, batches: Iterable[Batch]) -> float:
    """The fraction of correct predictions."""
    correct_N = predict(model, batches).correct_N
    return int(correct_N.sum()) / len(correct_N)
