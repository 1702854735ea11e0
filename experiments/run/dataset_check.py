"""Checking a dataset outside a run: what is present, and how it differs from the published one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from core.config import Config
from core.data.benchmarks.definitions import BENCHMARKS, Benchmark
from core.data.benchmarks.published import differences, repetitions
from core.data.benchmarks.read_benchmark import (
    BenchmarkDataset,
    MissingImagesError,
    read_benchmark,
)
from core.data.catalog import load_dataset
from core.data.dataset import ClassSubset, Dataset
from core.data.dataset_names import canonical_name, data_root
from core.data.decoding import Progress, decode_all
from core.data.fewshot import describe_shortage, few_shot
from core.data.item_hashes import describe_items
from core.data.part_names import PARTS
from core.data.splits import SplitFractions, class_subset
from core.data.templates import require_template
from experiments.run.data_inputs import planned
from experiments.run.preflight import preflight, reading_of
from experiments.run.runtime import Runtime
from experiments.run.scorable_data import data_notes
from experiments.run.shared_images import own_overlaps


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The settings of a run that decide what it reads of a dataset; ``shots`` 0: all images."""

    shots: int = 0
    seed: int = 1
    classes: str = "all"
    split_seed: int = 0
    fractions: SplitFractions = field(default_factory=SplitFractions)
    template: str | None = None


def settings_of(config: Config, classes: str) -> DataSettings:
    """The data settings of a run's configuration. Raises ValueError for wrong ones."""
    run = planned(config)[0]
    train, val, test = run.split_fractions
    return DataSettings(
        shots=run.shots,
        seed=run.seed,
        classes=classes,
        split_seed=run.split_seed,
        fractions=SplitFractions(train=train, val=val, test=test),
        template=run.template,
    )


def check_dataset(
    name: str,
    runtime: Runtime,
    settings: DataSettings,
    *,
    config: Config | None = None,
    content: bool = False,
    decode: Progress | None = None,
) -> dict[str, Any]:
    """What is present of a dataset, how it was read, what is missing, what differs from the
    published one, and the listings of a few-shot draw and class subset, as JSON values.

    ``problem`` is "" or the one-line reason why it cannot be read, or why a run of ``config`` would
    be refused; ``content`` finds test images that are equal files to training images. The folder
    index is not used. ``decode`` opens every image that was not opened
    before and is called with (done, total). Raises ValueError for an unknown name or class subset,
    and when no part of the dataset is present.
    """
    subset = next((s for s in get_args(ClassSubset) if s == settings.classes), None)
    if subset is None:
        raise ValueError(f"classes must be all, base or new, got {settings.classes!r}")
    if settings.template is not None:
        require_template(settings.template, "experiment.template")
    name = canonical_name(name, runtime.data_root)
    found: dict[str, Any] = {"name": name, "problem": "", "missing": None}
    try:
        full, about = _read(name, runtime, settings, found)
    except ValueError as error:
        if "there" not in found:
            raise
        return found | _problem(error)
    found |= about | _reading(full, settings)
    found["notes"] += filter(None, [describe_shortage(full, settings.shots)])
    found |= {"shots": settings.shots, "seed": settings.seed, "subset": subset}
    drawn = few_shot(full, shots=settings.shots, seed=settings.seed)
    found |= _described(full, class_subset(drawn, subset), settings.template)
    if config is not None:
        bound = {"experiment.overlap": "copies-refused"} if content else {}
        found["problem"] = _refusal(config.with_bindings(bound, "--content"), runtime)
    else:
        found["problem"] = "; ".join(own_overlaps(full, copies=content))
    if decode is not None:
        found |= _unreadable(full, runtime, decode, found["problem"])
    return found


def _read(
    name: str, runtime: Runtime, settings: DataSettings, found: dict[str, Any]
) -> tuple[Dataset, dict[str, Any]]:
    """The dataset and, for a benchmark, what is said of its split; ``found`` gets "there"."""
    row, root_dir = BENCHMARKS.get(name), data_root(runtime.data_root)
    seed = settings.split_seed
    if row is None:
        full = load_dataset(
            name,
            root=runtime.data_root,
            cache_dir=runtime.cache_dir,
            fractions=settings.fractions,
            split_seed=seed,
        )
        return full, {}
    if (root_dir / row.folder).is_dir():
        found["there"] = _there(row, root_dir)
    benchmark = read_benchmark(
        name, root=root_dir, cache_dir=runtime.cache_dir, split_seed=seed, relist=True
    )
    differs = differences(row, benchmark.dataset, benchmark.split_file)
    return benchmark.dataset, {"split": _split_source(row, benchmark), "differs": differs}


def _reading(full: Dataset, settings: DataSettings) -> dict[str, Any]:
    """How the dataset was read, and what may surprise."""
    reading = reading_of(full)
    given = {"split_seed": settings.split_seed, "split_fractions": settings.fractions}
    idle = [
        f"{key} has no effect: the split of this dataset does not depend on it"
        for key, default in (("split_seed", 0), ("split_fractions", SplitFractions()))
        if given[key] != default and key not in reading.split_settings
    ]
    return {
        "layout": reading.layout,
        "images": {part: len(full.split(part)) for part in PARTS},
        "ignored": list(reading.ignored),
        "notes": [*repetitions(full), *reading.notes, *data_notes(full), *idle],
    }


def _refusal(config: Config, runtime: Runtime) -> str:
    """Why a run of a configuration would be refused for its data, or ""."""
    try:
        preflight([config], runtime)
    except ValueError as error:
        return str(error)
    return ""


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


def _described(full: Dataset, part: Dataset, template: str | None) -> dict[str, Any]:
    return {
        "template": template or part.template,
        "num_classes": len(part.class_names),
        "class_names": list(part.class_names),
        "fingerprint": full.fingerprint,
        **{
            name: describe_items(part, items)
            for name, items in (("train", part.train), ("val", part.val), ("test", part.test))
        },
    }


def _unreadable(
    dataset: Dataset, runtime: Runtime, progress: Progress, problem: str
) -> dict[str, Any]:
    """Open every image: a one-line summary of those that cannot be read, and all of them."""
    items = (*dataset.train, *dataset.val, *dataset.test)
    paths = (item.path for item in items)
    found = decode_all(dataset, paths, runtime.cache_dir, progress=progress)
    return {
        "problem": "; ".join(filter(None, (problem, found.problem()))),
        "decoded": found.total - len(found.unreadable),
        "unreadable": list(found.unreadable.values()),
    }
