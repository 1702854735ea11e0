"""Names of folders that mean a part of a dataset: ``train``, ``Valid``, ``test_set``,
``cars_train``.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from core.data.dataset import SplitName

PARTS: tuple[SplitName, ...] = ("train", "val", "test")

_SPELLINGS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validation", "validate", "validating", "dev", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "holdout"),
}
_PART_OF = {word: part for part, words in _SPELLINGS.items() for word in words}
_FILLING_WORDS = (
    "set sets data dataset datasets image images img imgs picture pictures photo photos split "
    "splits folder folders dir part parts partition file files sample samples subset the of"
)
_FILLING = _FILLING_WORDS.split()
_UNLABELED = frozenset(("unlabeled", "unlabelled", "unlabel", "unsup", "pred"))
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")
_HELD_OUT = re.compile(r"(held|hold)[-_ .]?out", re.IGNORECASE)
# "trainset", "testimages", "vals"
_JOINED = re.compile(
    rf"({'|'.join(sorted(_PART_OF, key=len, reverse=True))})({'|'.join(_FILLING)}|s)"
)


class PartName(NamedTuple):
    """The part that a folder's name means, and its other words: ("cars",) of ``cars_train``."""

    part: SplitName
    rest: tuple[str, ...]


def part_name(name: str) -> PartName | None:
    """What a folder's name says about a part; None for a name with no part, or with several.

    Case, separators, digits and words such as "set" and "images" do not matter.
    """
    parts: list[SplitName] = []
    rest = []
    for word in map(str.lower, _WORD.findall(_HELD_OUT.sub("holdout", name))):
        joined = _JOINED.fullmatch(word)
        if (word := joined.group(1) if joined else word) in _PART_OF:
            parts.append(_PART_OF[word])
        elif word not in _FILLING:
            rest.append(word)
    if parts == ["train", "val"]:  # train_val: the training part of a tree without val
        parts = ["train"]
    return PartName(parts[0], tuple(rest)) if len(parts) == 1 else None


def is_unlabeled(name: str) -> bool:
    """Whether a folder's name says that its images have no labels: ``unlabeled``, ``seg_pred``."""
    return any(word.lower() in _UNLABELED for word in _WORD.findall(name))


def spelled_alike(name: str) -> str:
    """The same text for names that differ only in case or in the form of their accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def part_folders(folders: Sequence[str]) -> dict[str, SplitName]:
    """Those folders that are parts of one dataset: names of at least two parts that differ in
    nothing else. ``steam_train`` and ``crash_test`` are not.
    """
    groups: dict[tuple[str, ...], dict[str, SplitName]] = {}
    for folder in folders:
        if (found := part_name(folder)) is not None:
            groups.setdefault(found.rest, {})[folder] = found.part
    several = [group for group in groups.values() if len(set(group.values())) > 1]
    return max(several, key=len, default={})
