"""Creating a split for a dataset without one, with the random numbers of the published code.

It shuffles with the process-wide ``random`` generator as the run has seeded it, so every seed gives
a different split and the first run's file stays. Here the generator is passed in: the split of a
seed does not depend on which run comes first. Names of class folders are sorted (there, in the file
system's order). ``round`` is Python's: an exact half is rounded to the even number. Source: the
split code of CoOp (K. Zhou et al., arXiv:2109.01134).
"""

import random
from collections.abc import Iterable, Sequence

from core.data.split_file import SplitRow

SplitRows = dict[str, list[SplitRow]]

TRAIN_SHARE, VAL_SHARE = 0.5, 0.2


def by_label(entries: Iterable[SplitRow]) -> list[list[SplitRow]]:
    """The entries of each label, labels by first appearance."""
    groups: dict[int, list[SplitRow]] = {}
    for entry in entries:
        groups.setdefault(entry.label, []).append(entry)
    return list(groups.values())


def cut_in_three(classes: Iterable[Sequence[SplitRow]], rng: random.Random) -> SplitRows:
    """Train, val and test with 50, 20 and 30 percent of each class, shuffled; classes stay
    together. Advances ``rng``.

    Raises ValueError for a class too small to give each list an image.
    """
    lists: SplitRows = {"train": [], "val": [], "test": []}
    for members in classes:
        order = list(members)
        rng.shuffle(order)
        num_train, num_val = round(TRAIN_SHARE * len(order)), round(VAL_SHARE * len(order))
        cuts = (
            order[:num_train],
            order[num_train : num_train + num_val],
            order[num_train + num_val :],
        )
        if not all(cuts):
            raise ValueError(_too_few(order, 4, "a 50/20/30 split"))
        for part, cut in zip(lists.values(), cuts, strict=True):
            part += cut
    return lists


def cut_validation(
    train: Sequence[SplitRow], rng: random.Random
) -> tuple[list[SplitRow], list[SplitRow]]:
    """Train and val from an official training list: 20 percent of each class go to val. Advances
    ``rng``.

    Raises ValueError for a class too small to give val an image.
    """
    kept: list[SplitRow] = []
    val: list[SplitRow] = []
    for members in by_label(train):
        rng.shuffle(members)
        num_val = round(VAL_SHARE * len(members))
        if num_val == 0:
            raise ValueError(_too_few(members, 3, "cutting off 20 percent for validation"))
        val += members[:num_val]
        kept += members[num_val:]
    return kept, val


def _too_few(members: Sequence[SplitRow], needed: int, purpose: str) -> str:
    return (
        f"class {members[0].class_name!r} has {len(members)} image(s), too few for {purpose}; "
        f"it needs {needed}: complete the download, or use the published split file"
    )
