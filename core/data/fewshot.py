"""The few-shot draw of the published prompt-tuning code: same seed, same images, same order.

K. Zhou, J. Yang, C. C. Loy, Z. Liu: Learning to Prompt for Vision-Language Models,
arXiv:2109.01134. Their code draws from the process-wide ``random`` module right after seeding it;
here a private ``random.Random(seed)`` gives the same numbers without affecting the rest of the
process. Unlike in their code, nothing is written, so no stale cache can be reused.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from core.data.dataset import Dataset, Item

MAX_VAL_SHOTS = 4
SHOWN = 5


def few_shot(dataset: Dataset, *, shots: int, seed: int) -> Dataset:
    """The dataset with ``shots`` training and ``min(shots, 4)`` validation images per class.

    The test images are unchanged.

    ``shots=0`` keeps everything, and a class with fewer images is taken whole (``short_classes``
    names them). Draw before taking the base or new half: both halves share one
    draw. The training list is drawn first, and the validation list continues the same random
    stream. As published, a validation list that is the test list (ImageNet) is kept whole, and a
    test-only set is unchanged.

    Raises ValueError for negative shots.
    """
    return continue_draw(dataset, shots=shots, rng=random.Random(seed))


def continue_draw(dataset: Dataset, *, shots: int, rng: random.Random) -> Dataset:
    """The same draw from an existing random stream; advances ``rng``."""
    if shots < 0:
        raise ValueError(f"shots must be 0 (all images) or more, got {shots}")
    if shots == 0 or dataset.test_only:
        return dataset
    train = _draw(dataset.train, shots, rng)
    if dataset.val == dataset.test:
        return dataset.with_splits(train=train, val=dataset.val)
    return dataset.with_splits(train=train, val=_draw(dataset.val, min(shots, MAX_VAL_SHOTS), rng))


def _draw(items: Sequence[Item], shots: int, rng: random.Random) -> list[Item]:
    """Up to ``shots`` items per class: classes by first appearance, items in drawn order.

    A class with fewer items than ``shots`` is taken whole, in its own order, without drawing a
    random number.
    """
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    drawn: list[Item] = []
    for group in groups.values():
        drawn += rng.sample(group, shots) if len(group) >= shots else group
    return drawn


class ShortClass(NamedTuple):
    """A class with fewer training images than shots; all of them are taken."""

    name: str
    images: int


def short_classes(dataset: Dataset, shots: int) -> list[ShortClass]:
    """The classes of a dataset, before a draw, that have fewer training images than ``shots``."""
    if dataset.test_only:
        return []
    counts = Counter(item.label for item in dataset.train)
    return [
        ShortClass(dataset.class_names[label], number)
        for label, number in sorted(counts.items())
        if number < shots
    ]


def describe_shortage(dataset: Dataset, shots: int) -> str:
    """One line on the classes that have fewer training images than ``shots``, "" without any."""
    short = short_classes(dataset, shots)
    if not short:
        return ""
    shown = ", ".join(f"{name!r} {images}" for name, images in short[:SHOWN])
    more = f", and {len(short) - SHOWN} more" if short[SHOWN:] else ""
    classes = f"{len(short)} of the {len(dataset.class_names)} classes of {dataset.name}"
    return (
        f"{shots} shots: {classes} have fewer training images, all of which are used: {shown}{more}"
    )
