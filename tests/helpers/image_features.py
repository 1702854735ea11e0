"""A fake image tower that counts its calls, and datasets of noise for the cache of features."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from core.data.dataset import Dataset, Item
from core.data.pixels import load_pixels
from core.data.transforms import EvalTransform, TrainTransform
from core.derived_seeds import derive_seed
from core.types import FeatureSpec, ImageFeatures

ALL_FIELDS = frozenset({"pooled", "local", "attention"})
POOLED_FIELDS = frozenset({"pooled", "local"})  # what the tower is asked for when pooled is missing
SPEC = FeatureSpec(
    joint_width=12, vision_width=8, vision_depth=1, text_width=8, text_depth=1, context_length=8,
    image_size=(6, 6), grid=(2, 2), image_mean=(0.5, 0.4, 0.3), image_std=(0.2, 0.3, 0.25),
    fingerprint="one",
)  # fmt: skip


class FakeCLIP:
    """A linear image tower; counts its images and notes calls in a file that processes share."""

    def __init__(self, spec: FeatureSpec = SPEC, notes: Path | None = None, delay: float = 0.0):
        self.spec, self.notes, self.delay = spec, notes, delay
        self.calls: list[tuple[int, frozenset[str]]] = []
        self.sizes: set[int] = set()
        shape = (3 * 36, 12)
        self.weight = torch.nn.Parameter(torch.arange(3 * 36 * 12.0).reshape(shape).sin())

    def encode_image(self, pixels, need):
        count = len(pixels.flatten(1).unique(dim=0))  # a filled-up batch repeats its last image
        self.calls.append((count, need))
        self.sizes.add(len(pixels))
        if self.notes is not None:
            with open(self.notes, "a") as file:
                file.write(f"{count}\n")
        time.sleep(self.delay)
        pooled = pixels.flatten(1) @ self.weight
        local = torch.stack([pooled * k for k in range(1, 6)], 1) if "local" in need else None
        attention = pooled[:, :4].softmax(1) if "attention" in need else None
        return ImageFeatures(pooled=pooled, local=local, attention=attention)

    @property
    def num_images(self) -> int:
        return sum(count for count, _ in self.calls)


@dataclass(frozen=True)
class NoiseReader:
    salt: int = 0

    def read(self, path: str) -> Image.Image:
        noise = np.random.default_rng([self.salt, int(path)]).integers(0, 256, (9, 7, 3))
        return Image.fromarray(noise.astype(np.uint8))


def noise_dataset(count: int = 10, **changes) -> Dataset:
    items = tuple(Item(str(n), n % 2) for n in range(count))
    dataset = Dataset(
        name="t/noise", class_names=("a", "b"), template="{}", train=items, val=(), test=(),
        reader=NoiseReader(), content="c",
    )  # fmt: skip
    return replace(dataset, **changes)


def encoded_directly(clip, dataset, items, view=None) -> torch.Tensor:
    transform = EvalTransform(SPEC) if view is None else TrainTransform(SPEC)
    seeds = None if view is None else [derive_seed(0, "view", i.path, view) for i in items]
    with torch.no_grad():
        pixels = load_pixels(dataset, items, transform, seeds=seeds, num_threads=1)
        return clip.encode_image(pixels, ALL_FIELDS).pooled


def shard_files(root: Path, field: str = "*") -> list[Path]:
    return sorted(root.glob(f"*/{field}/*.safetensors"))
