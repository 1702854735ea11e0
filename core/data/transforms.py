"""From an image to normalized pixels: CLIP's evaluation transform and the published training
augmentation.

Same numbers, bit for bit, as torchvision's Resize / CenterCrop / RandomResizedCrop /
RandomHorizontalFlip / ToTensor / Normalize on Pillow images (bicubic, anti-aliased), but every
random number comes from the generator that is passed in. Arithmetic is in numpy's float32, so that
decoding threads do not start threads of their own.
"""

import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.config import Configurable, PositiveFloat, Probability, register
from core.types import FeatureSpec

_CROP_TRIES = 10


class Transform(Protocol):
    """Image to a float32 (3, H, W) tensor. ``id`` names everything that determines the result; it
    is a cache key.
    """

    @property
    def id(self) -> str: ...

    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Tensor: ...


class EvalTransform:
    """Shorter side to the backbone's size (bicubic, aspect kept), center crop, to [0, 1],
    normalize.

    With ``spec.squash``, both sides are resized to it instead, whatever the aspect. An image of
    that size is not resampled. Draws no random numbers; the generator is ignored.
    As in A. Radford et al., Learning Transferable Visual Models From Natural Language Supervision,
    arXiv:2103.00020.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self.size = spec.image_size
        self._squash = spec.squash
        self._normalize = Normalization(spec)
        squash = "squash|" if spec.squash else ""
        self.id = f"eval-1|{squash}{_describe(spec)}"
        self.geometry = f"eval-1|{squash}{spec.image_size[0]}x{spec.image_size[1]}|bicubic"

    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Tensor:
        return self._normalize(self._cropped(image))

    def bytes_of(self, image: Image.Image) -> NDArray[np.uint8]:
        """The 8-bit pixels (H, W, 3) that are normalized; they depend on ``geometry`` alone."""
        return np.asarray(self._cropped(image).convert("RGB"))

    def _cropped(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        if self._squash:
            return _resize(image, self.size)
        image = _resize(image, _covering_size(image.height, image.width, self.size))
        top = round((image.height - height) / 2)
        left = round((image.width - width) / 2)
        return _crop(image, top, left, height, width)


CROP_SCALE = (0.08, 1.0)


class Augmentation(Configurable, ABC):
    """What training images go through: an RGB image to a float32 (3, H, W) tensor, normalized.

    Built as ``Augmentation(spec, crop_scale, *, settings)``; ``experiment.augmentation`` plugs one
    in. All random numbers come from the generator, which depends on the image, the epoch (or the
    number of the fixed view) and the seed: every variant sees the same images. ``id`` names
    everything that determines the result, all settings included: it is the key of cached features.
    """

    def __init__(self, spec: FeatureSpec, crop_scale: tuple[float, float] = CROP_SCALE) -> None:
        self.spec = spec
        self.crop_scale = crop_scale

    @property
    @abstractmethod
    def id(self) -> str: ...

    @abstractmethod
    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Tensor: ...


def cache_key(transform: Transform) -> str:
    """What cached features depend on: the transform's ``id``, and the source of a transform that is
    not part of this package, whose author may change it without another ``id``.
    """
    module = inspect.getmodule(type(transform))
    if module is None or module.__name__.partition(".")[0] == "core":
        return transform.id
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):  # typed into a notebook
        return transform.id
    return f"{transform.id}|{hashlib.sha256(source.encode()).hexdigest()[:12]}"


@register("augmentation", name="RandomResizedCropFlip")
class TrainTransform(Augmentation):
    """Random resized crop (fraction ``scale`` of the area, aspect within ``ratio``, bicubic), flip
    with probability ``flip``, normalize.

    The generator is consumed exactly as torchvision consumes the global one: per attempt an area,
    an aspect ratio and, if the crop fits, its corner; then the flip. As in K. Zhou et al.,
    arXiv:2109.01134 (scale 0.08 to 1).

    Raises ValueError for a scale that is not 0 < low <= high <= 1, or a call without a generator.
    """

    RATIO: ClassVar[tuple[float, float]] = (3 / 4, 4 / 3)
    FLIP: ClassVar[float] = 0.5

    def __init__(
        self,
        spec: FeatureSpec,
        scale: tuple[float, float] = CROP_SCALE,
        *,
        ratio: tuple[PositiveFloat, ...] = RATIO,
        flip: Probability = FLIP,
    ) -> None:
        super().__init__(spec, scale)
        if len(ratio) != 2 or ratio[0] > ratio[1]:
            raise ValueError(
                "RandomResizedCropFlip.ratio must be (low, high) with low <= high, width over "
                f"height, got {ratio}"
            )
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(
                f"crop scale must be 0 < low <= high <= 1 (fractions of the area), got {scale}"
            )
        self._size = spec.image_size
        self._scale, self._ratio, self._flip = scale, (ratio[0], ratio[1]), flip
        self._normalize = Normalization(spec)

    @property
    def id(self) -> str:
        low, high = self._scale
        name = f"train-1|{low!r}-{high!r}|{_describe(self.spec)}"
        if (self._ratio, self._flip) != (self.RATIO, self.FLIP):
            name += f"|ratio {self._ratio}|flip {self._flip!r}"
        return name

    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Tensor:
        return self._normalize(self.crop_and_flip(image, generator))

    def crop_and_flip(self, image: Image.Image, generator: torch.Generator | None) -> Image.Image:
        """The image before it becomes a tensor."""
        if generator is None:
            raise ValueError("an augmentation draws random numbers; pass a torch.Generator")
        top, left, height, width = self.draw_crop(image.height, image.width, generator)
        image = _resize(_crop(image, top, left, height, width), self._size)
        if torch.rand(1, generator=generator).item() < self._flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image

    def draw_crop(
        self, height: int, width: int, generator: torch.Generator
    ) -> tuple[int, int, int, int]:
        """Top, left, height and width of a crop; after ten crops that do not fit, the largest
        central one.
        """
        log_low, log_high = torch.log(torch.tensor(self._ratio)).tolist()
        for _ in range(_CROP_TRIES):
            area = height * width * uniform(*self._scale, generator).item()
            aspect = torch.exp(uniform(log_low, log_high, generator)).item()
            crop_width = round(math.sqrt(area * aspect))
            crop_height = round(math.sqrt(area / aspect))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                top = torch.randint(height - crop_height + 1, (1,), generator=generator).item()
                left = torch.randint(width - crop_width + 1, (1,), generator=generator).item()
                return int(top), int(left), crop_height, crop_width
        return self._central_crop(height, width)

    def _central_crop(self, height: int, width: int) -> tuple[int, int, int, int]:
        crop_height, crop_width = height, width
        if width / height < min(self._ratio):
            crop_height = round(width / min(self._ratio))
        elif width / height > max(self._ratio):
            crop_width = round(height * max(self._ratio))
        return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


@register("augmentation")
class NoAugmentation(Augmentation):
    """The evaluation view: shorter side to the backbone's size, center crop, normalize.

    Source: ours; what training sees without augmentation.
    """

    def __init__(self, spec: FeatureSpec, crop_scale: tuple[float, float] = CROP_SCALE) -> None:
        super().__init__(spec, crop_scale)
        self._view = EvalTransform(spec)

    @property
    def id(self) -> str:
        return self._view.id

    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Tensor:
        return self._view(image)


class Views:
    """One view of each transform, (V, 3, H, W), of an image that is decoded once.

    The generator runs through them in their order: the first view is what it would be alone.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self._transforms = tuple(transforms)
        self.id = " + ".join(transform.id for transform in transforms)

    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Tensor:
        return torch.stack([transform(image, generator) for transform in self._transforms])


class Normalization:
    """RGB image to a float32 (3, H, W) tensor: value / 255, minus mean, over std, in that
    order.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self._mean = np.asarray(spec.image_mean, dtype=np.float32).reshape(3, 1, 1)
        self._std = np.asarray(spec.image_std, dtype=np.float32).reshape(3, 1, 1)

    def __call__(self, image: Image.Image) -> Tensor:
        pixels_HWC = np.asarray(image.convert("RGB"))
        pixels_CHW = np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1)).astype(np.float32)
        pixels_CHW /= np.float32(255)
        pixels_CHW -= self._mean
        pixels_CHW /= self._std
        return torch.from_numpy(pixels_CHW)


def uniform(low: float, high: float, generator: torch.Generator) -> Tensor:
    """One number (1,) from the interval, as torchvision draws it."""
    return torch.empty(1).uniform_(low, high, generator=generator)


def _describe(spec: FeatureSpec) -> str:
    height, width = spec.image_size
    return f"{height}x{width}|bicubic|{list(spec.image_mean)}|{list(spec.image_std)}"


def _covering_size(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest size of the same aspect that covers ``size``; the long side is rounded down."""
    if height * size[1] <= width * size[0]:
        return size[0], max(size[1], int(size[0] * width / height))
    return max(size[0], int(size[1] * height / width)), size[1]


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if (image.height, image.width) == size:
        return image
    return image.resize((size[1], size[0]), Image.Resampling.BICUBIC)


def _crop(image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
    if (top, left, height, width) == (0, 0, image.height, image.width):
        return image
    return image.crop((left, top, left + width, top + height))
