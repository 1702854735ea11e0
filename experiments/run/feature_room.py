"""Whether the cached features of runs have room on the disk and in memory, told before any work.

The pooled feature of an image takes 2 KB, its local tokens some hundred times that: those of all of
ImageNet take half a terabyte. What several runs read alike counts once.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from core.clip.backbone import feature_sizes_of
from core.clip.catalog import support_of
from core.clip.features import FEATURES_FOLDER, WAYS_OUT, bytes_of_features
from core.config import Config, build, lookup
from core.data.crops import GIGABYTE, size_on_disk
from core.data.dataset import Dataset
from core.data.splits import class_subset
from core.machine import available_memory
from core.seeding import Seeds
from core.store.storage import free_below
from core.streams import printable
from core.types import MethodOutput
from experiments.run.data_inputs import DataInputs, planned
from experiments.run.devices import THIS_PROCESS, WorkPlace
from experiments.run.experiment import Experiment
from experiments.run.protocols import LABELED, protocol_of
from experiments.run.runtime import Runtime

FEW_IMAGES = 500
"""The views of so many images take less than a gigabyte on every backbone."""


@dataclass(frozen=True, kw_only=True)
class TrainingFeatures:
    """What one run reads of its training images in every epoch, where these are cached features.

    ``fields`` has the bytes of each field of an image; ``kept_as`` all that decides where they are.
    """

    dataset: Dataset
    views: int
    fields: Mapping[str, int]
    kept_as: tuple[object, ...]

    @property
    def nbytes(self) -> int:
        return len(self.dataset.train) * self.views * sum(self.fields.values())

    def __str__(self) -> str:
        views = "" if self.views == 1 else f" in {self.views} views"
        local = " with local tokens" if "local" in self.fields else ""
        images = f"{len(self.dataset.train):,} images of {printable(self.dataset.name)}"
        return f"the features of {images}{views}{local}"


@dataclass(kw_only=True)
class FeatureRoom:
    """The features of some runs, by how they are kept: which images have some, and what one takes.

    ``seen`` are the lists of training images that were counted, ``of_runs`` the bytes of each run.
    """

    images: dict[tuple[object, ...], set[str]] = field(default_factory=dict)
    fields: dict[tuple[object, ...], dict[str, int]] = field(default_factory=dict)
    seen: dict[tuple[int, tuple[object, ...]], object] = field(default_factory=dict)
    of_runs: list[int] = field(default_factory=list)
    largest: TrainingFeatures | None = None

    def add(self, config: Config, inputs: DataInputs) -> None:
        """Count a run."""
        found = training_features(config, inputs)
        if found is None:
            return
        self.of_runs.append(found.nbytes)
        items, key = found.dataset.train, found.kept_as
        if (id(items), key) not in self.seen:  # all seeds may see the same list
            self.seen[id(items), key] = items
            self.images.setdefault(key, set()).update(item.path for item in items)
        known = self.fields.setdefault(key, {})
        for name, nbytes in found.fields.items():
            known[name] = max(known.get(name, 0), nbytes * found.views)
        if self.largest is None or found.nbytes > self.largest.nbytes:
            self.largest = found

    @property
    def nbytes(self) -> int:
        """What all runs keep on disk, at most."""
        return sum(len(self.images[key]) * sum(f.values()) for key, f in self.fields.items())

    def notes(self) -> Iterator[str]:
        """What the features will take, where that is much."""
        if self.nbytes >= GIGABYTE:
            yield f"features that runs share: at most {size_on_disk(self.nbytes)} on disk"

    def check(self, runtime: Runtime, place: WorkPlace = THIS_PROCESS) -> None:
        """Raise ValueError where they have no room: on the disk those of all runs, in the memory of
        this machine those of as many runs as it has workers, each with its own.
        """
        if self.largest is None:
            return
        if self.nbytes >= GIGABYTE:
            self._check_disk(self.largest, runtime.cache_dir / FEATURES_FOLDER)
        at_once = heapq.nlargest(max(place.workers, 1) if place.here else 1, self.of_runs)
        if sum(at_once) >= GIGABYTE:
            self._check_memory(self.largest, at_once, on_gpus=bool(place.gpus))

    def _check_disk(self, largest: TrainingFeatures, folder: Path) -> None:
        free, there = free_below(folder), bytes_below(folder)
        if self.nbytes > free + there:
            kept = f" beside {size_on_disk(there)} of features" if there else ""
            raise ValueError(
                f"{largest} take {size_on_disk(largest.nbytes)}, those of all runs "
                f"{size_on_disk(self.nbytes)} on disk, and {size_on_disk(free)} are free at "
                f"{folder}{kept}; {WAYS_OUT}"
            )

    def _check_memory(
        self, largest: TrainingFeatures, at_once: Sequence[int], *, on_gpus: bool
    ) -> None:
        memory = available_memory()
        if memory is None or sum(at_once) <= memory:
            return
        together, fitting = "", sum(total <= memory for total in accumulate(at_once))
        way_out = WAYS_OUT
        if len(at_once) > 1:
            together = f", those of {len(at_once)} workers together {size_on_disk(sum(at_once))}"
        if len(at_once) > 1 and fitting:
            fewer = "a lower --jobs-per-gpu" if on_gpus else f"--jobs {fitting}"
            way_out = f"use {fewer}, or {WAYS_OUT.removeprefix('use ')}"
        raise ValueError(
            f"{largest} take {size_on_disk(largest.nbytes)} of memory in a run{together}, and "
            f"{size_on_disk(memory)} are free; {way_out}"
        )


def training_features(config: Config, inputs: DataInputs) -> TrainingFeatures | None:
    """The cached features that a run trains on; None where there are none, or too few to matter."""
    settings, regime = planned(config)
    reference: Any = settings.method
    method: Any = lookup(reference.name).cls
    views = max(settings.num_views, 1)
    if method.image_input != "features" or settings.fresh_views or settings.optimizer is None:
        return None
    subset = protocol_of(settings.protocol).labeled if regime == LABELED else "all"
    part = class_subset(inputs.dataset, subset)
    if len(part.train) * views < FEW_IMAGES:
        return None
    patches, width = feature_sizes_of(settings.backbone)
    fields = frozenset({"pooled"}) | _needs(config, method, patches, width, part)
    sizes = bytes_of_features(fields, patches, width, settings.feature_storage)
    about = (part.name, part.content, settings.backbone, settings.weights)
    how: tuple[object, ...] = (settings.feature_precision, settings.feature_storage)
    if settings.num_views:
        how = (*how, settings.augmentation, settings.crop_scale)
    return TrainingFeatures(dataset=part, views=views, fields=sizes, kept_as=(*about, *how))


def _needs(config: Config, method: Any, patches: int, width: int, part: Dataset) -> frozenset[str]:
    """The fields that the refiner of a run reads in training; none for one that will be refused."""
    settings: Experiment = build(config, "experiment")
    source = MethodOutput(
        text_width=width,
        local_width=width,
        num_patches=patches,
        num_classes=len(part.class_names),
        provides=method.provides & support_of(settings.backbone).image_fields,
    )
    with suppress(ValueError):
        return settings.refiner(source, Seeds(0)).needs()
    return frozenset()


def bytes_below(folder: Path) -> int:
    """The bytes of all files in a folder."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total
