"""The source of a run's images: a store of frozen features, shared per process, or pixels."""

import functools
from functools import partial
from pathlib import Path

import torch

from core.clip.backbone import shared_clip
from core.clip.features import FEATURES_FOLDER, FeatureStore
from core.clip.frozen import FrozenCLIP
from core.clip.product_choice import Product, product_of
from core.data.crops import GIGABYTE, CropCache
from core.data.images import open_rgb
from core.data.pixels import iter_pixels
from core.data.transforms import (
    Augmentation,
    EvalTransform,
    TrainTransform,
    Transform,
    cache_key,
)
from core.lockstep import ALONE, Alone
from core.train.batches import (
    FeatureSource,
    FreshViewSource,
    ImageSource,
    PixelSource,
)
from core.train.frozen_passes import FrozenPasses
from experiments.run.code import hash_of
from experiments.run.experiment import Experiment
from experiments.run.runtime import FeaturePrecision, FeatureStorage, Runtime

CROPS_FOLDER = "crops"


def image_source(
    image_input: str,
    clip: FrozenCLIP,
    settings: Experiment,
    runtime: Runtime,
    dtype: torch.dtype,
    share: Alone = ALONE,
) -> ImageSource:
    """The image source for methods with this ``image_input``; with pixels in every step it gives
    companions of the run the same tensors (see ``core.lockstep``).
    """
    device = torch.device(runtime.device)
    augmentation = augmentation_of(settings, clip)
    single = clip
    if clip.stored_as == torch.float64:
        single = shared_clip(settings.backbone, settings.weights, runtime.device, torch.float32)
    product = product_of(single)
    # A method that sees pixels reads frozen features beside them, in the precision of the run.
    cached = image_input == "features"
    precision = settings.feature_precision if cached else "float32"
    storage = settings.feature_storage if cached else "float32"
    # TF32 is one more way to compute the features of a GPU.
    how = (product, precision, storage, settings.tf32 and device.type == "cuda")
    limit = int(settings.crop_cache_gb * GIGABYTE)
    crops = _crops(SameById(EvalTransform(clip.spec)), runtime.cache_dir, limit) if limit else None
    store = _store(single, device, runtime.cache_dir, SameById(augmentation), crops, *how)
    low = precision == "bfloat16"
    encoder = clip
    if low and clip.stored_as != torch.float64:
        encoder = shared_clip(settings.backbone, settings.weights, runtime.device, torch.bfloat16)
    frozen = FrozenPasses(
        encoder,
        autocast=partial(runtime.autocast, precision if low else settings.precision),
        store=store if settings.precision == "float32" else None,
        whole=clip,
    )
    pixels = PixelSource(
        clip,
        device,
        dtype,
        augmentation=augmentation,
        frozen=frozen,
        crops=crops,
        share=share,
    )
    if image_input == "pixels":
        return pixels
    if settings.fresh_views:
        return FreshViewSource(store, pixels)
    return FeatureSource(store, device, dtype)


def augmentation_of(settings: Experiment, clip: FrozenCLIP) -> Augmentation:
    """What training images go through where a run augments them."""
    low, high = settings.crop_scale
    make = settings.augmentation or TrainTransform
    return make(clip.spec, (low, high))


class SameById:
    """A transform that equals every other one of its ``cache_key``."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform
        self.key = cache_key(transform)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SameById) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)


@functools.lru_cache(maxsize=4)
def _crops(view: SameById, cache_dir: Path, limit_bytes: int) -> CropCache:
    """One cache of decoded images per process and image size; those of other code are not used."""
    transform = view.transform
    assert isinstance(transform, EvalTransform)
    code = hash_of(EvalTransform, open_rgb)
    return CropCache(cache_dir / CROPS_FOLDER, transform, limit_bytes=limit_bytes, code=code)


@functools.lru_cache(maxsize=4)
def _store(
    clip: FrozenCLIP,
    device: torch.device,
    cache_dir: Path,
    augmentation: SameById,
    crops: CropCache | None,
    product: Product,
    precision: FeaturePrecision,
    storage: FeatureStorage,
    tf32: bool,
) -> FeatureStore:
    """One store of frozen features per process, backbone, precision and form on disk.

    Features of other code are not used: neither of another tower, nor of other transforms.
    """
    return FeatureStore(
        cache_dir / FEATURES_FOLDER,
        clip,
        dtype=getattr(torch, storage),
        device=device,
        product=product,
        mixed=precision == "bfloat16",
        tf32=tf32,
        around=clip.weights_as_read,
        augmentation=augmentation.transform,
        crops=crops,
        code_of=lambda transform: hash_of(type(clip), iter_pixels, type(transform)),
    )
