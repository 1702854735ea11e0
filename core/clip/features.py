"""The cache of frozen image features: the image tower's output for each image, computed once for
all runs.

Layout: ``root/<key>/<field>/<sha256>.safetensors`` (``core.data.tensor_shards``). A key hashes the
weights' fingerprint, the dataset's name and content, the transform (with the number of the
augmented view), the dtype, and the code that computes features; ``key.json`` lists them in readable
form. Shards appear by rename and never change: killing a process at any moment leaves complete
shards only, and a damaged one is detected, dropped and recomputed. A lock per key keeps processes
from computing the same thing twice; where locks do not work, the only cost is duplicate work.

Frozen towers give the same features for every method and every run, hence the cache. The fixed
augmented views make augmented training cacheable too, and pair all runs by construction. Shapes: B
images, D joint width, P patches.
"""

import hashlib
import json
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from core.clip.product_choice import Product
from core.data.crops import CropCache
from core.data.dataset import Dataset, Item
from core.data.locked import locked
from core.data.pixels import iter_pixels
from core.data.tensor_shards import TensorShards
from core.data.transforms import EvalTransform, TrainTransform, Transform, cache_key
from core.derived_seeds import derive_seed
from core.devices import total_memory
from core.precision import without_autocast
from core.store.atomic import write_atomic
from core.store.storage import free_below
from core.types import FeatureSpec, ImageFeatures

FIELDS = frozenset({"pooled", "local", "attention"})
FEATURES_FOLDER = "features"  # in the cache folder
SHARD_BYTES = 256 * 2**20  # a long computation is saved in pieces of about this size

MUCH_BYTES = 10**9
AT_ONCE_ON_CPU, MOST_AT_ONCE = 64, 256
PART_OF_CARD = 32
"""A batch of images takes at most one part in so many of a GPU's memory: four workers fit."""
# What a tower needs for an image while it is encoded, by number of a token and by pixel.
TOKEN_BYTES, PIXEL_BYTES = 64, 256
WAYS_OUT = (
    "use fewer shots (experiment.shots), fewer views (experiment.num_views), a refiner without "
    "local tokens, or experiment.feature_storage = 'float16', which halves this"
)

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class ImageEncoder(Protocol):
    """The part of a frozen CLIP that the cache needs."""

    @property
    def spec(self) -> FeatureSpec: ...

    def encode_image(self, pixels_BCHW: Tensor, /, *, need: frozenset[str]) -> ImageFeatures: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One dataset under one transform. ``about`` states in readable form what ``key`` hashes."""

    dataset: Dataset
    view: int | None
    transform: Transform
    about: Mapping[str, str | int | None]

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.about).encode()).hexdigest()[:24]

    def seeds(self, items: Sequence[Item]) -> list[int] | None:
        """The augmentation seed of each item: from its path and the view, never a run's seed."""
        if self.view is None:
            return None
        return [view_seed(item.path, self.view) for item in items]


def bytes_of_features(
    fields: frozenset[str], patches: int, width: int, stored: str
) -> dict[str, int]:
    """What each field of an image takes: of its P patches and the joint width D."""
    numbers = {"pooled": width, "local": (1 + patches) * width, "attention": patches}
    itemsize = getattr(torch, stored).itemsize
    return {field: itemsize * numbers[field] for field in sorted(fields)}


def encoded_at_once(spec: FeatureSpec, device: torch.device) -> int:
    """How many images go through the frozen tower together: on a GPU a power of two that follows
    from the model and the memory of the whole card alone. Batches of other sizes round differently,
    so neither the number of workers nor what is free has a part in it.
    """
    if device.type != "cuda":
        return AT_ONCE_ON_CPU
    tokens, pixels = 1 + spec.num_patches, math.prod(spec.image_size)
    of_image = max(TOKEN_BYTES * tokens * spec.vision_width, PIXEL_BYTES * pixels)
    fitting = max(total_memory(device) // PART_OF_CARD // of_image, 1)
    return int(min(2 ** (fitting.bit_length() - 1), MOST_AT_ONCE))


def view_seed(path: str, view: int) -> int:
    """The augmentation seed of a fixed view of an image, the same in every run."""
    return derive_seed(0, "view", path, view)


class FeatureStore:
    """Frozen features of a model, from memory, from disk, or computed and stored.

    One store belongs to one thread of one process; any number of processes may share ``root``.
    ``clip`` runs on ``device`` and takes pixels of dtype ``precision``, and its weights go through
    the matrix product ``product``, are under autocast to bfloat16 if ``mixed``, and are rounded to
    TF32 by a GPU if ``tf32`` (all are part of the key, and so are the model of a GPU and the
    version of torch on it); features are kept and returned as ``dtype``. ``augmentation`` creates
    the augmented views (default: the published random resized crop and flip). ``code_of`` gives a
    hash of the code that computes features under a transform, which is then part of the key.
    ``around`` makes a context in which all batches of a call are encoded. Images that are in
    ``crops`` are not decoded for their evaluation view. At most ``memory_bytes`` of features stay
    in memory between calls.

    Raises ValueError for a dtype that is not floating point.
    """

    def __init__(
        self,
        root: Path,
        clip: ImageEncoder,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        precision: torch.dtype = torch.float32,
        product: Product = "default",
        mixed: bool = False,
        tf32: bool = False,
        augmentation: Transform | None = None,
        code_of: Callable[[Transform], str] | None = None,
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
        crops: CropCache | None = None,
        num_threads: int | None = None,
        memory_bytes: int = 2**30,
    ) -> None:
        if not dtype.is_floating_point:
            raise ValueError(f"features are stored as floating point numbers, got {dtype}")
        self.root = root
        self._clip = clip
        self._dtype = dtype
        self._device = device or torch.device("cpu")
        self._precision = precision
        self._product = product
        self._mixed = mixed
        self._tf32 = tf32
        self._evaluation = EvalTransform(clip.spec)
        self._augmentation: Transform = augmentation or TrainTransform(clip.spec)
        self._code_of = code_of
        self._around = around
        self._crops = crops
        self._num_threads = num_threads
        self._memory_bytes = memory_bytes
        self._tables: OrderedDict[Path, TensorShards] = OrderedDict()

    def get(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        *,
        fields: frozenset[str] = frozenset({"pooled"}),
        view: int | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> ImageFeatures:
        """Features of ``items`` in order, on the CPU, in the store's dtype; new tensors, usable
        with autograd.

        ``pooled`` is always included; ``fields`` may add "local" and "attention". ``view=None`` is
        the evaluation transform, ``view=k`` the k-th fixed augmentation of each image, the same in
        every run whatever its seed. Only what is missing is computed, ``batch_size`` images at a
        time, by default as many as suit the device; ``progress(done, total)`` counts those.

        Raises ValueError for no items, an unknown field, a negative view, an unreadable image, or
        features that are not finite.
        """
        if not items:
            raise ValueError("no items to encode; the list of images is empty")
        if unknown := sorted(fields - FIELDS):
            raise ValueError(f"unknown feature field {unknown[0]!r}; known: {sorted(FIELDS)}")
        if view is not None and view < 0:
            raise ValueError(f"view must be None (evaluation) or at least 0, got {view}")
        with without_autocast(torch.device("cpu")):  # the caller may score in mixed precision
            request = self._request(dataset, view)
            return self._found(request, items, fields | {"pooled"}, batch_size, progress)

    def _found(
        self,
        request: _Request,
        items: Sequence[Item],
        fields: frozenset[str],
        batch_size: int | None,
        progress: Progress | None,
    ) -> ImageFeatures:
        """What ``get`` returns, from memory, from disk or computed now."""
        folder = self.root / request.key
        tables = {field: self._table(folder / field) for field in sorted(fields)}
        paths = [item.path for item in items]
        if _refreshed(tables, paths, drop_corrupt=False):
            with locked(folder / "lock", "compute the same features"):
                missing = _refreshed(tables, paths, drop_corrupt=True)
                if missing:
                    self._require_room(request.dataset, missing)
                    _write_key(folder, request)
                    size = batch_size or self._at_once()
                    with self._around():
                        self._compute(request, items, tables, missing, size, progress)
        self._evict()
        features = {
            field: table.gather(paths, keep=folder / field in self._tables)
            for field, table in tables.items()
        }
        return ImageFeatures(**features)

    def _request(self, dataset: Dataset, view: int | None) -> _Request:
        transform = self._evaluation if view is None else self._augmentation
        about: dict[str, str | int | None] = {
            "weights": self._clip.spec.fingerprint,
            "quick_gelu": self._clip.spec.quick_gelu,
            "dataset": dataset.name,
            "content": dataset.content,
            "transform": cache_key(transform),
            "view": view,
            "computed": self._computed(),
            "stored": str(self._dtype),
        }
        if self._code_of is not None:
            about["code"] = self._code_of(transform)
        return _Request(dataset=dataset, view=view, transform=transform, about=about)

    def _computed(self) -> str:
        """How features are computed: every product but the default one is named, and of a GPU what
        else decides how it rounds.
        """
        how = f"{self._device.type} {self._precision}{self._on_gpu()}"
        if self._mixed:  # every product is one of bfloat16
            return f"{how} with autocast to {torch.bfloat16}"
        how = f"{how} without autocast"
        if self._tf32:
            how = f"{how}, products of TF32"
        return how if self._product == "default" else f"{how}, product of {self._product}"

    def _on_gpu(self) -> str:
        """The model of a GPU, the version of torch, and how many images are encoded at once."""
        if self._device.type != "cuda":
            return ""
        name, size = torch.cuda.get_device_name(self._device), self._at_once()
        return f" on {name} by torch {torch.__version__}, {size} images at once,"

    def _at_once(self) -> int:
        return encoded_at_once(self._clip.spec, self._device)

    def _table(self, folder: Path) -> TensorShards:
        table = self._tables.setdefault(folder, TensorShards(folder))
        self._tables.move_to_end(folder)
        return table

    def _evict(self) -> None:
        """Drop the least recently used tables until the rest fits."""
        total = sum(table.nbytes for table in self._tables.values())
        while total > self._memory_bytes:
            _, table = self._tables.popitem(last=False)
            total -= table.nbytes

    def _require_room(self, dataset: Dataset, missing: Mapping[str, set[str]]) -> None:
        """Raise ValueError where much is missing and has no room on the disk; a little is used
        without being kept.
        """
        spec, stored = self._clip.spec, str(self._dtype).removeprefix("torch.")
        sizes = bytes_of_features(frozenset(missing), spec.num_patches, spec.joint_width, stored)
        wanted = sum(sizes[field] * len(paths) for field, paths in missing.items())
        if wanted >= MUCH_BYTES and wanted > (free := free_below(self.root)):
            raise ValueError(
                f"the features of {dataset.name} that are not there yet take "
                f"{wanted / MUCH_BYTES:.1f} GB, and {free / MUCH_BYTES:.1f} GB are free at "
                f"{self.root}; {WAYS_OUT}"
            )

    def _compute(
        self,
        request: _Request,
        items: Sequence[Item],
        tables: dict[str, TensorShards],
        missing: dict[str, set[str]],
        batch_size: int,
        progress: Progress | None,
    ) -> None:
        """Encode every item that lacks a field, and append the missing rows of each field."""
        wanted = set[str]().union(*missing.values())
        todo = list({item.path: item for item in items if item.path in wanted}.values())
        for table in tables.values():
            table.remove_leftovers()
        writers = {field: _Writer(tables[field], paths) for field, paths in missing.items()}
        dataset = request.dataset
        if self._crops is not None and request.view is None:
            dataset = self._crops.reading(dataset)
        batches = iter_pixels(
            dataset,
            todo,
            request.transform,
            batch_size=batch_size,
            seeds=request.seeds(todo),
            num_threads=self._num_threads,
        )
        done = 0
        for pixels_BCHW in batches:
            features = self._encode(pixels_BCHW, frozenset(missing), batch_size)
            paths = [item.path for item in todo[done : done + len(pixels_BCHW)]]
            for field, writer in writers.items():
                writer.add(paths, features[field])
            done += len(pixels_BCHW)
            if progress is not None:
                progress(done, len(todo))
        for writer in writers.values():
            writer.flush()

    def _encode(
        self, pixels_BCHW: Tensor, wanted: frozenset[str], batch_size: int
    ) -> dict[str, Tensor]:
        """The requested fields, bitwise independent of the caller and of the grouping into batches.

        Matrix products round differently in batches of different sizes, so a short batch is padded.
        A tower may take a shortcut if only ``pooled`` is needed, which also rounds differently, so
        ``pooled`` is always computed together with ``local``.
        """
        need = wanted | {"local"} if "pooled" in wanted else wanted
        num_images = len(pixels_BCHW)
        filling = pixels_BCHW[-1:].expand(batch_size - num_images, -1, -1, -1)
        pixels_BCHW = torch.cat([pixels_BCHW, filling]).to(self._device, self._precision)
        mixed = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._mixed)
        with torch.inference_mode(), mixed:
            features = self._clip.encode_image(pixels_BCHW, need=need)
        made: dict[str, Tensor] = {}
        for field in wanted:
            value: Tensor | None = getattr(features, field)
            assert value is not None and len(value) == batch_size, field
            # cloned outside inference mode: a normal tensor again
            made[field] = value[:num_images].to("cpu", self._dtype).clone()
            if not bool(torch.isfinite(made[field]).all()):
                raise ValueError(
                    f"{field} image features are not finite in {self._dtype}; "
                    "check the weights or use float32"
                )
        return made


class _Writer:
    """Collects the missing rows of one field and appends them to its table, a shard at a time."""

    def __init__(self, table: TensorShards, missing: set[str]) -> None:
        self._table = table
        self._missing = missing
        self._paths: list[str] = []
        self._values: list[Tensor] = []
        self._nbytes = 0

    def add(self, paths: Sequence[str], values: Tensor) -> None:
        rows = [row for row, path in enumerate(paths) if path in self._missing]
        self._paths += [paths[row] for row in rows]
        self._values.append(values if len(rows) == len(values) else values[rows])
        self._nbytes += self._values[-1].nbytes
        if self._nbytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._paths:
            self._table.append(self._paths, torch.cat(self._values))
        self._paths, self._values, self._nbytes = [], [], 0


def _refreshed(
    tables: dict[str, TensorShards], paths: Sequence[str], *, drop_corrupt: bool
) -> dict[str, set[str]]:
    """The paths without features per field, after reading what memory does not have."""
    missing: dict[str, set[str]] = {}
    for field, table in tables.items():
        if still := table.load(paths, drop_corrupt=drop_corrupt):
            missing[field] = still
    return missing


def _write_key(folder: Path, request: _Request) -> None:
    """Describe in readable form what the folder holds."""
    try:
        if not (folder / "key.json").exists():
            write_atomic(folder / "key.json", json.dumps(request.about, indent=1) + "\n")
    except OSError as error:
        log.warning("features are not cached, %s cannot be written (%s)", folder, error)
