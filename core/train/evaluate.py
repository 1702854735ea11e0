"""Counting right answers."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch

from core.train.model import RefinedMethod
from core.types import Batch


@torch.no_grad()
def count_correct(
    model: RefinedMethod, batches: Iterable[Batch], num_classes: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Correct and total test images of every class; the model is in eval mode.

    Class texts that do not depend on the image are encoded once.
    """
    correct = torch.zeros(num_classes, dtype=torch.int64)
    total = torch.zeros(num_classes, dtype=torch.int64)
    once: AbstractContextManager[None] = getattr(model.method, "texts_once", nullcontext)()
    with once:
        for batch in batches:
            labels = batch.labels.cpu()
            right = model(batch).logits().argmax(dim=-1).cpu() == labels
            correct += torch.bincount(labels[right], minlength=num_classes)
            total += torch.bincount(labels, minlength=num_classes)
    return tuple(correct.tolist()), tuple(total.tolist())


def accuracy(model: RefinedMethod, batches: Iterable[Batch], num_classes: int) -> float:
    """Fraction of images that were right."""
    correct, total = count_correct(model, batches, num_classes)
    return sum(correct) / sum(total)
