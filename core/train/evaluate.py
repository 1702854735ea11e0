"""Which test images are right, and how many of every class.

N images in the order of the batches.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.train.model import RefinedMethod
from core.types import Batch


class Answers(NamedTuple):
    """Whether each image was right, bool, and its class, int64; both on the CPU."""

    right_N: Tensor
    labels_N: Tensor

    def counts(self, num_classes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Correct and total images of every class."""
        correct = torch.bincount(self.labels_N[self.right_N], minlength=num_classes)
        total = torch.bincount(self.labels_N, minlength=num_classes)
        return tuple(correct.tolist()), tuple(total.tolist())

    def bits(self) -> bytes:
        """``right_N`` with eight images a byte, as a run folder keeps it."""
        return np.packbits(self.right_N.numpy()).tobytes()


@torch.no_grad()
def answers(model: RefinedMethod, batches: Iterable[Batch]) -> Answers:
    """What the model, which is in eval mode, says to every image.

    Class texts that do not depend on the image are encoded once. Nothing leaves the device before
    the last batch.
    """
    right, labels = [torch.zeros(0, dtype=torch.bool)], [torch.zeros(0, dtype=torch.int64)]
    with model.method.texts_once():
        for batch in batches:
            right.append(model(batch).logits().argmax(dim=-1) == batch.labels)
            labels.append(batch.labels)
    return Answers(torch.cat([r.cpu() for r in right]), torch.cat([x.cpu() for x in labels]))


def accuracy(model: RefinedMethod, batches: Iterable[Batch]) -> float:
    """Fraction of images that were right."""
    right_N = answers(model, batches).right_N
    return int(right_N.sum()) / len(right_N)
