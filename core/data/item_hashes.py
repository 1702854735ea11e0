"""Hashes of lists of items over a canonical text form that is easy to reproduce.

One line per item: path relative to the data root with ``/``, TAB, label, TAB, class name, LF;
UTF-8; in the order of the list. ``sha256_sorted`` hashes the same items sorted by (path, label,
name), for readers whose order differs.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from core.data.dataset import Dataset, Item

ItemRow = tuple[str, int, str]


def item_rows(dataset: Dataset, items: Sequence[Item]) -> list[ItemRow]:
    """Each item as (path relative to the data root, label, class name)."""
    prefix = f"{dataset.folder}/" if dataset.folder else ""
    return [(prefix + i.path, i.label, dataset.class_names[i.label]) for i in items]


def hash_rows(listing: Iterable[ItemRow]) -> str:
    """sha256 (64 hex digits) of a listing in canonical form."""
    digest = hashlib.sha256()
    for path, label, name in listing:
        # a file name that is not UTF-8 keeps its bytes
        digest.update(f"{path}\t{label}\t{name}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def describe_items(dataset: Dataset, items: Sequence[Item]) -> dict[str, Any]:
    """A list of items as JSON values: how many, how many per label, both hashes, and all rows."""
    listing = item_rows(dataset, items)
    per_label = [0] * len(dataset.class_names)
    for item in items:
        per_label[item.label] += 1
    return {
        "n": len(listing),
        "per_label": per_label,
        "sha256": hash_rows(listing),
        "sha256_sorted": hash_rows(sorted(listing)),
        "listing": listing,
    }
