"""Images that a run would be tested on and trains on, and datasets that are one under two names."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.data.dataset import Dataset, SplitName
from core.data.overlap import ImageList, SharedImages, shared_images


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedDataset:
    """A dataset as read, with its fingerprint; equal to itself only, so that it is hashed fast."""

    dataset: Dataset
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapRule:
    """What a run must not share: ``copies`` counts equal files, ``by_val`` says that validation
    images choose the weights, ``on_val`` that they are what is scored.
    """

    copies: bool
    by_val: bool
    on_val: bool


def overlaps(
    source: ListedDataset, targets: Sequence[ListedDataset], rule: OverlapRule
) -> Iterator[str]:
    """A line for every list of test images that holds images which training or selection sees, and
    for every pair of test lists that are averaged although they share images.

    The lists are those before any draw, so that the answer is the same for all seeds. A test-only
    set has no training images of its own: its train list is its test list, as published.
    """
    own = source.dataset
    parts: list[tuple[ListedDataset, SplitName, ListedDataset, SplitName]] = []
    if not own.test_only:
        parts += [(asked, "test", source, "train") for asked in (source, *targets)]
        if rule.on_val:
            parts.append((source, "val", source, "train"))
        if rule.by_val and own.val != own.test:
            parts.append((source, "test", source, "val"))
    pairs = itertools.combinations((source, *targets), 2)
    parts += [(two, "test", one, "test") for one, two in pairs]
    for asked, tested, other, seen in parts:
        found = _shared(asked, tested, other, seen, rule.copies)
        if found.number:
            yield _line(asked.dataset, tested, other.dataset, seen, found)


def own_overlaps(dataset: Dataset, *, copies: bool) -> list[str]:
    """The same for a dataset alone: its test images that are its training images as well."""
    rule = OverlapRule(copies=copies, by_val=False, on_val=False)
    return list(overlaps(ListedDataset(dataset=dataset, fingerprint=""), (), rule))


def require_distinct(source: ListedDataset, targets: Sequence[ListedDataset]) -> None:
    """Raise ValueError where a target is the source, or another target, under another name: it is
    tested on the same files.
    """
    for one, two in itertools.combinations((source, *targets), 2):
        tested = {item.path for item in two.dataset.test}
        as_many = len(tested) == len({item.path for item in one.dataset.test})
        if as_many and tested and _shared(two, "test", one, "test", False).number == len(tested):
            kind = "the source" if one is source else "the target"
            raise ValueError(
                f"experiment.targets: {two.dataset.name!r} is {kind} {one.dataset.name!r} under "
                "another name, with the same test images; take it out"
            )


@functools.lru_cache(maxsize=256)
def _shared(
    asked: ListedDataset, tested: SplitName, source: ListedDataset, seen: SplitName, copies: bool
) -> SharedImages:
    return shared_images(
        ImageList(asked.dataset, asked.dataset.split(tested)),
        ImageList(source.dataset, source.dataset.split(seen)),
        copies=copies,
    )


def _line(
    asked: Dataset, tested: SplitName, own: Dataset, seen: SplitName, found: SharedImages
) -> str:
    of = "its" if asked is own else f"{own.name}'s"
    kinds = {"train": "training", "val": "validation", "test": "test"}
    first = found.first if found.first == found.other else f"{found.first} (as {found.other})"
    return (
        f"{asked.name}: {found.number} of {len(asked.split(tested))} {kinds[tested]} images are "
        f"{of} {kinds[seen]} images as well, first {first}"
    )
