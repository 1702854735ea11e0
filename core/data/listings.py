"""What the images of a dataset were when it was read: kept in the cache, by fingerprint, so that a
later change can be told by the name of a file.

One compressed JSON file per fingerprint. A listing that is absent or damaged costs nothing but the
name of the file.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.data.dataset import Dataset, SplitName
from core.data.folder import FolderReader
from core.store.atomic import write_atomic
from core.store.documents import parse_json

PARTS: tuple[SplitName, ...] = ("train", "val", "test")
MAX_IMAGES = 200_000
"""Listings of larger datasets would take minutes to make."""
SAMPLE_BYTES = 4096

Rows = dict[str, list[Any]]


def keep_listing(dataset: Dataset, fingerprint: str, cache_dir: Path) -> None:
    """Write the listing of a dataset with files unless there is one."""
    path = _path(fingerprint, cache_dir)
    if path.is_file() or not _has_files(dataset):
        return
    document = {"class_names": dataset.class_names, "rows": _rows(dataset)}
    with suppress(OSError):  # a cache that cannot be written
        write_atomic(path, gzip.compress(json.dumps(document).encode(), compresslevel=1))


def first_difference(dataset: Dataset, fingerprint: str, cache_dir: Path) -> str:
    """What differs first from the dataset that had this fingerprint, "" where that is not known."""
    before = _read(_path(fingerprint, cache_dir))
    if before is None or not _has_files(dataset):
        return ""
    return next(_differences(before, dataset), "")


def _differences(before: dict[str, Any], dataset: Dataset) -> Iterator[str]:
    old, new = before["rows"], _rows(dataset)
    names = before["class_names"]
    for path in dict.fromkeys([*old, *new]):
        if path not in new:
            yield f"{path} is no longer listed"
        elif path not in old:
            yield f"{path} is new"
        elif old[path][2:] != new[path][2:]:
            yield f"{path} has other content"
        elif old[path][0] != new[path][0]:
            was, now = ("+".join(row[path][0]) for row in (old, new))
            yield f"{path} was in {was}, is in {now}"
        elif names[old[path][1]] != dataset.class_names[new[path][1]]:
            was, now = names[old[path][1]], dataset.class_names[new[path][1]]
            yield f"{path} was of class {was!r}, is of {now!r}"
    if list(names) != list(dataset.class_names):
        yield "the class names or their order"
    if list(old) != list(new):
        yield "the order of the lists"


def _rows(dataset: Dataset) -> Rows:
    """By path: its lists, its label, the size of the file and a hash of its two ends."""
    rows: Rows = {}
    reader = dataset.reader
    assert isinstance(reader, FolderReader)
    for part in PARTS:
        for item in dataset.split(part):
            row = rows.get(item.path)
            if row is None:
                rows[item.path] = [[part], item.label, *_ends(reader.root / item.path)]
            elif part not in row[0]:
                row[0].append(part)
    return rows


def _ends(file: Path) -> tuple[int, str]:
    try:
        with open(file, "rb", buffering=0) as raw:
            size = os.fstat(raw.fileno()).st_size
            start = raw.read(SAMPLE_BYTES)
            raw.seek(max(len(start), size - SAMPLE_BYTES))
            return size, hashlib.sha256(start + raw.read(SAMPLE_BYTES)).hexdigest()[:12]
    except OSError:
        return -1, ""


def _has_files(dataset: Dataset) -> bool:
    number = sum(len(dataset.split(part)) for part in PARTS)
    return isinstance(dataset.reader, FolderReader) and number <= MAX_IMAGES


def _path(fingerprint: str, cache_dir: Path) -> Path:
    return cache_dir / "listings" / f"{fingerprint}.json.gz"


def _read(path: Path) -> dict[str, Any] | None:
    """A stored listing, None where it is absent or damaged (gzip has a checksum)."""
    try:
        document = parse_json(gzip.decompress(path.read_bytes()))
        complete = isinstance(document["rows"], dict) and isinstance(document["class_names"], list)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return document if complete else None
