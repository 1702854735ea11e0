"""Which test images are classified correctly, and how many per class.

N images in the order of the batches.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.train.model import RefinedMethod
from core.types import Batch


class Predictions(NamedTuple):
    """Whether each prediction is correct, bool, and each image's class, int64; both on the CPU."""

    correct_N: Tensor
    labels_N: Tensor

    def counts(self, num_classes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Counts of correct and total images per class."""
        correct = torch.bincount(self.labels_N[self.correct_N], minlength=num_classes)
        total = torch.bincount(self.labels_N, minlength=num_classes)
        return tuple(correct.tolist()), tuple(total.tolist())

    def bits(self) -> bytes:
        """``correct_N`` packed with eight images per byte, as stored in a run folder."""
        return np.packbits(self.correct_N.numpy()).tobytes()


@torch.no_grad()
def predict(model: RefinedMethod, batches: Iterable[Batch]) -> Predictions:
    """Classify every image; the model is in eval mode.

    Class texts that do not depend on the image are encoded once. No result leaves the device before
    the last batch.
    """
    correct, labels = [torch.zeros(0, dtype=torch.bool)], [torch.zeros(0, dtype=torch.int64)]
    with model.method.texts_once():
        for batch in batches:
            correct.append(model(batch).logits().argmax(dim=-1) == batch.labels)
            labels.append(batch.labels)
    return Predictions(torch.cat([c.cpu() for c in correct]), torch.cat([x.cpu() for x in labels]))


def accuracy(model: RefinedMethod, batches: Iterable[Batch]) -> float:
    """The fraction of correct predictions."""
    correct_N = predict(model, batches).correct_N
    return int(correct_N.sum()) / len(correct_N)
