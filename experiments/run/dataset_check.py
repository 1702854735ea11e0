"""Checking a dataset outside a run: what is present, and how it differs from the published one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from core.data.benchmarks.definitions import BENCHMARKS, Benchmark
from core.data.benchmarks.published import differences, repetitions
from core.data.benchmarks.read_benchmark import (
    BenchmarkDataset,
    MissingImagesError,
    read_benchmark,
)
from core.data.catalog import load_dataset
from core.data.dataset import ClassSubset, Dataset
from core.data.dataset_names import data_root
from core.data.fewshot import few_shot
from core.data.item_hashes import describe_items
from core.data.splits import class_subset

Progress = Callable[[int, int], None]


def check_dataset(
    name: str,
    root: Path | None,
    cache_dir: Path,
    *,
    shots: int,
    seed: int,
    classes: str,
    split_seed: int = 0,
    decode: Progress | None = None,
) -> dict[str, Any]:
    """What is present of a dataset, what is missing, what differs from the published one, and the
    listings of a few-shot draw and class subset, as JSON values.

    ``problem`` is "" or the one-line reason why it cannot be read. The folder index is not used.
    ``decode`` opens every image as well and is called with (done, total). Raises ValueError for an
    unknown name or class subset, and when no part of the dataset is present.
    """
    subset = next((s for s in get_args(ClassSubset) if s == classes), None)
    if subset is None:
        raise ValueError(f"classes must be all, base or new, got {classes!r}")
    found: dict[str, Any] = {"name": name, "problem": "", "missing": None}
    row, root_dir = BENCHMARKS.get(name), data_root(root)
    if row is None:
        full = load_dataset(name, root=root, cache_dir=cache_dir, split_seed=split_seed)
    else:
        if (root_dir / row.folder).is_dir():
            found["there"] = _there(row, root_dir)
        try:
            benchmark = read_benchmark(
                name, root=root_dir, cache_dir=cache_dir, split_seed=split_seed, relist=True
            )
        except ValueError as error:
            if "there" not in found:
                raise
            return found | _problem(error)
        full = benchmark.dataset
        found["split"] = _split_source(row, benchmark)
        found["differs"] = differences(row, full, benchmark.split_file)
    found["notes"] = repetitions(full)
    found |= {"shots": shots, "seed": seed, "subset": subset}
    found |= _described(full, class_subset(few_shot(full, shots=shots, seed=seed), subset))
    if decode is not None:
        found["problem"] = _unreadable(full, decode)
    return found


def _there(row: Benchmark, root_dir: Path) -> dict[str, bool]:
    """Which components of a dataset are present, relative to the data root."""
    files = [f"{row.folder}/{name}" for name in (row.split_file, *row.annotations) if name]
    return {
        row.image_folder: (root_dir / row.image_folder).is_dir(),
        **{file: (root_dir / file).is_file() for file in files},
    }


def _split_source(row: Benchmark, found: BenchmarkDataset) -> str:
    if found.split_file is not None:
        return f"from {found.split_file.name}"
    if found.created is not None:
        return f"created with seed {found.seed}, a copy is in {found.created}"
    return "test set only" if row.kind == "variant" else "the official one"


def _problem(error: ValueError) -> dict[str, Any]:
    if isinstance(error, MissingImagesError):
        missing = {"count": error.count, "total": error.total, "first": error.first}
        return {"problem": str(error), "missing": missing}
    return {"problem": str(error)}


def _described(full: Dataset, part: Dataset) -> dict[str, Any]:
    return {
        "template": part.template,
        "num_classes": len(part.class_names),
        "class_names": list(part.class_names),
        "fingerprint": full.fingerprint,
        **{
            name: describe_items(part, items)
            for name, items in (("train", part.train), ("val", part.val), ("test", part.test))
        },
    }


def _unreadable(dataset: Dataset, progress: Progress) -> str:
    """Open every image; a one-line summary of those that cannot be read, or ""."""
    items = (*dataset.train, *dataset.val, *dataset.test)
    paths = list(dict.fromkeys(item.path for item in items))
    errors = []
    for done, path in enumerate(paths, start=1):
        try:
            dataset.reader.read(path)
        except ValueError as error:
            errors.append(str(error))
        progress(done, len(paths))
    if not errors:
        return ""
    return f"{len(errors)} of {len(paths)} images cannot be read, first: {errors[0]}"
