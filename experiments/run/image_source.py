"""The source of a run's images: a store of frozen features, shared per process, or pixels."""

import functools
from pathlib import Path

import torch

from core.clip.backbone import shared_clip
from core.clip.features import FeatureStore
from core.clip.frozen import FrozenCLIP
from core.data.transforms import TrainTransform
from core.train.batches import FeatureSource, FreshViewSource, ImageSource, PixelSource
from experiments.run.experiment import Experiment
from experiments.run.runtime import Runtime


def image_source(
    image_input: str, clip: FrozenCLIP, settings: Experiment, runtime: Runtime, dtype: torch.dtype
) -> ImageSource:
    """The image source for methods with this ``image_input``."""
    device = torch.device(runtime.device)
    low, high = settings.crop_scale
    pixels = PixelSource(clip, device, dtype, crop_scale=(low, high))
    if image_input == "pixels":
        return pixels
    single = shared_clip(settings.backbone, settings.weights, runtime.device, torch.float32)
    store = _store(single, device, runtime.cache_dir, (low, high))
    if settings.fresh_views:
        return FreshViewSource(store, pixels)
    return FeatureSource(store, device, dtype)


@functools.lru_cache(maxsize=4)
def _store(
    clip: FrozenCLIP, device: torch.device, cache_dir: Path, crop_scale: tuple[float, float]
) -> FeatureStore:
    """One store of frozen features per process and backbone; features are computed in float32."""
    return FeatureStore(
        cache_dir / "features",
        clip,
        device=device,
        augmentation=TrainTransform(clip.spec, crop_scale),
    )
