"""Splitting datasets: base and new halves of the classes, and a train/val/test split for datasets
without one.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from core.data.dataset import ClassSubset, Dataset, Item
from core.derived_seeds import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFractions:
    """Fractions of train, val and test within each class; the published 50/20/30 by default.

    Raises ValueError if a fraction is negative or they do not add up to 1.
    """

    train: float = 0.5
    val: float = 0.2
    test: float = 0.3

    def __post_init__(self) -> None:
        shares = (self.train, self.val, self.test)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"fractions must be 0 or more and add up to 1, got {shares}")


def class_subset(dataset: Dataset, subset: ClassSubset) -> Dataset:
    """The dataset restricted to the base or the new half of its classes, labels renumbered from 0.

    The classes are the distinct labels of ``train`` (of ``test`` where train is empty), sorted;
    base is the first ceil(n / 2), new the rest. Items of other classes are removed from all three
    lists; the others keep their order. ``"all"`` returns the dataset itself, and so does any subset
    of a test-only set, as published. Few-shot draws come before this. The rule is that of CoCoOp
    (K. Zhou et al., arXiv:2203.05557).

    Raises ValueError for any other word, or if a half would be empty.
    """
    if subset not in get_args(ClassSubset):
        raise ValueError(f"classes must be one of {get_args(ClassSubset)}, got {subset!r}")
    if subset == "all" or dataset.test_only:
        return dataset
    kept = subset_labels(dataset, subset)
    if not subset_labels(dataset, "new"):
        labels = subset_labels(dataset, "base")
        raise ValueError(
            f"{dataset.name} has {len(labels)} class(es) with images, but base and new need two; "
            "use all"
        )
    renumbered = {old: new for new, old in enumerate(kept)}
    return replace(
        dataset,
        class_names=tuple(dataset.class_names[label] for label in kept),
        train=_relabel(dataset.train, renumbered),
        val=_relabel(dataset.val, renumbered),
        test=_relabel(dataset.test, renumbered),
    )


def subset_labels(dataset: Dataset, subset: ClassSubset) -> list[int]:
    """The labels that ``class_subset`` keeps, sorted: none for the new half of a single class."""
    if subset == "all" or dataset.test_only:
        return list(range(len(dataset.class_names)))
    labels = sorted({item.label for item in dataset.train or dataset.test})
    middle = (len(labels) + 1) // 2
    return labels[:middle] if subset == "base" else labels[middle:]


def _relabel(items: Sequence[Item], renumbered: Mapping[int, int]) -> tuple[Item, ...]:
    return tuple(Item(i.path, renumbered[i.label]) for i in items if i.label in renumbered)


def cut_classes(
    paths: Mapping[str, Sequence[str]], fractions: SplitFractions, seed: int
) -> tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]]:
    """Train, val and test items, class by class in the mapping's order; labels are positions in it.

    Each class is shuffled with a seed derived from ``seed`` and its own name, so that adding or
    removing one class does not affect another, then cut at round(fraction * n) images. Depends on
    nothing but the arguments.

    Raises ValueError naming a class too small for one image per non-zero fraction.
    """
    parts: tuple[list[Item], list[Item], list[Item]] = ([], [], [])
    shares = (fractions.train, fractions.val, fractions.test)
    for label, (name, members) in enumerate(paths.items()):
        order = sorted(members)
        random.Random(derive_seed(seed, "split", name)).shuffle(order)
        num_train, num_val = round(shares[0] * len(order)), round(shares[1] * len(order))
        cuts = (
            order[:num_train],
            order[num_train : num_train + num_val],
            order[num_train + num_val :],
        )
        if any(share > 0 and not cut for share, cut in zip(shares, cuts, strict=True)):
            raise ValueError(
                f"class {name!r} has {len(order)} image(s), too few for train/val/test fractions "
                f"{shares}; add images or change the fractions"
            )
        for part, cut in zip(parts, cuts, strict=True):
            part += [Item(path, label) for path in cut]
    return tuple(parts[0]), tuple(parts[1]), tuple(parts[2])
