"""What was published about the datasets, and how a tree on disk differs from it.

The numbers of classes and images are in ``definitions.py``. ``published.json`` holds the class
names in label order, and the sha256 of the official split files of seven sets, as in CoOp (K. Zhou
et al., arXiv:2109.01134).
"""

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.data.benchmarks.definitions import Benchmark
from core.data.dataset import Dataset
from core.store.checksums import file_sha256


def differences(row: Benchmark, dataset: Dataset, split_file: Path | None) -> list[str]:
    """One line for each difference between a dataset and the published one; none if equal."""
    counts, found = row.counts, []
    here = {
        "classes": (len(dataset.class_names), counts.classes),
        "test images": (len(dataset.test), counts.test),
    }
    if not dataset.test_only:
        here["training images"] = (len(dataset.train), counts.train)
    if counts.val is not None:
        here["validation images"] = (len(dataset.val), counts.val)
    for what, (number, published) in here.items():
        if number != published:
            found.append(f"{number} {what}, published {published}")
    return [*found, *_names(row, dataset), *_split(row, split_file)]


def _names(row: Benchmark, dataset: Dataset) -> list[str]:
    found = []
    official: list[str] = _facts().get(row.name, {}).get("class_names", [])
    if row.kind == "variant":
        official = _facts()["imagenet"]["class_names"]
        if len(official) != len(dataset.class_names):  # 200 of the 1000
            strange = [name for name in dataset.class_names if name not in official]
            if strange:
                found.append(f"class name {strange[0]!r} ({len(strange)} in all) is not published")
            return found
    for label, (name, published) in enumerate(zip(dataset.class_names, official, strict=False)):
        if name != published:
            found.append(f"class {label} is named {name!r}, published {published!r}")
            break
    return found


def _split(row: Benchmark, split_file: Path | None) -> list[str]:
    if row.split_file is None:
        return []
    if split_file is None:
        return [f"{row.split_file} is absent, the split is our own"]
    published = _facts().get(row.name, {}).get("split_sha256")
    if published and file_sha256(split_file) != published:
        return [f"{row.split_file} is not the published file (sha256 {published[:16]}...)"]
    return []


def repetitions(dataset: Dataset) -> list[str]:
    """One line for images in more than one list, and for class names at more than one label."""
    found = []
    if not dataset.test_only and dataset.val != dataset.test:
        lists = (dataset.train, dataset.val, dataset.test)
        counted = Counter(path for part in lists for path in {item.path for item in part})
        if shared := [path for path, count in counted.items() if count > 1]:
            found.append(f"{len(shared)} images are in more than one list, first {shared[0]}")
    for part in ("train", "val", "test"):
        paths = [item.path for item in dataset.split(part)]
        if len(set(paths)) < len(paths):
            twice = next(path for path, count in Counter(paths).items() if count > 1)
            number = len(paths) - len(set(paths))
            found.append(f"{number} images are in {part} more than once, first {twice}")
    names = Counter(dataset.class_names)
    found += [f"{n} classes are named {name!r}" for name, n in names.items() if n > 1]
    return found


@lru_cache(maxsize=1)
def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(
        (Path(__file__).parent / "published.json").read_text(encoding="utf-8")
    )
    return facts
