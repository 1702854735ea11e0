"""Training augmentations beyond the published crop and flip: changes of color, and RandAugment.

Each crops and flips as the published one does, on the same random numbers, before it changes the
image; ``core/data/transforms.py`` has the base class.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from core.config import Between, NonNegativeFloat, PositiveInt, register
from core.data.transforms import CROP_SCALE, TrainTransform, uniform
from core.types import FeatureSpec

MAGNITUDES = 31
"""RandAugment's magnitudes are 0 to 30."""
MAX_SHEAR, MAX_DEGREES, MAX_ENHANCEMENT = 0.3, 30.0, 0.9
MAX_TRANSLATION = 150 / 331  # of the width or height; 331 is the image size of the paper
MAX_DROPPED_BITS = 4


class CropThenChange(TrainTransform):
    """The published crop and flip, then a change of the image."""

    def __init__(self, spec: FeatureSpec, crop_scale: tuple[float, float] = CROP_SCALE) -> None:
        super().__init__(spec, crop_scale)

    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Tensor:
        image = self.crop_and_flip(image, generator).convert("RGB")
        assert generator is not None
        return self._normalize(self.change(image, generator))

    @abstractmethod
    def change(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        """Another RGB image of the same size."""


@register("augmentation")
class ColorJitter(CropThenChange):
    """Crop and flip, then brightness, contrast, saturation and hue, in a random order.

    The first three are multiplied by a factor from 1 - s to 1 + s, at least 0; the hue is shifted
    by a fraction from -s to s of the color circle. A strength of 0 leaves one out. The generator is
    consumed as by torchvision.

    Source: ours; strengths as in Chen et al., SimCLR, ICML 2020, arXiv 2002.05709, halved.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        crop_scale: tuple[float, float] = CROP_SCALE,
        *,
        brightness: NonNegativeFloat = 0.4,
        contrast: NonNegativeFloat = 0.4,
        saturation: NonNegativeFloat = 0.4,
        hue: Annotated[float, Between(0, 0.5)] = 0.1,
    ) -> None:
        super().__init__(spec, crop_scale)
        self._strengths = (brightness, contrast, saturation)
        self._hue = hue

    @property
    def id(self) -> str:
        return f"jitter-1|{self._strengths}|{self._hue!r}|{super().id}"

    def change(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        order = torch.randperm(4, generator=generator).tolist()
        factors = [_factor(strength, generator) for strength in self._strengths]
        hue = uniform(-self._hue, self._hue, generator).item() if self._hue else 0.0
        for change in order:
            if change == 3:
                image = _shift_hue(image, hue)
            elif self._strengths[change]:
                image = ENHANCEMENTS[change](image).enhance(factors[change])
        return image


ENHANCEMENTS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def _factor(strength: float, generator: torch.Generator) -> float:
    """A factor around 1; nothing is drawn for a strength of 0."""
    if not strength:
        return 1.0
    return float(uniform(max(0.0, 1 - strength), 1 + strength, generator).item())


def _shift_hue(image: Image.Image, fraction: float) -> Image.Image:
    """Turn the color circle, whose values have eight bits."""
    if not fraction:
        return image
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int64) + int(fraction * 255)) % 256
    hue = Image.fromarray(turned.astype(np.uint8), "L")
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


class Operation(NamedTuple):
    """One operation of RandAugment on an image, given its strength; a signed one goes both ways."""

    apply: Callable[[Image.Image, float], Image.Image]
    signed: bool


def _move(image: Image.Image, *matrix: float) -> Image.Image:
    """The affine map from places in the result to places in the image; black outside."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def apply(image: Image.Image, strength: float) -> Image.Image:
        return kind(image).enhance(1 + strength * MAX_ENHANCEMENT)

    return Operation(apply, True)


def _shifted(image: Image.Image, pixels: float, *, across: bool) -> Image.Image:
    whole = int(pixels)
    return _move(image, 1, 0, -whole if across else 0, 0, 1, 0 if across else -whole)


OPERATIONS = (
    Operation(lambda image, strength: image, False),
    Operation(lambda image, s: _move(image, 1, _shear(s), 0, 0, 1, 0), True),
    Operation(lambda image, s: _move(image, 1, 0, 0, _shear(s), 1, 0), True),
    Operation(
        lambda image, s: _shifted(image, s * MAX_TRANSLATION * image.width, across=True), True
    ),
    Operation(
        lambda image, s: _shifted(image, s * MAX_TRANSLATION * image.height, across=False), True
    ),
    Operation(lambda image, s: image.rotate(s * MAX_DEGREES, Image.Resampling.NEAREST), True),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Color),
    _enhanced(ImageEnhance.Contrast),
    _enhanced(ImageEnhance.Sharpness),
    Operation(lambda image, s: ImageOps.posterize(image, 8 - round(s * MAX_DROPPED_BITS)), False),
    Operation(lambda image, s: ImageOps.solarize(image, math.ceil(255 * (1 - s))), False),
    Operation(lambda image, s: ImageOps.autocontrast(image), False),
    Operation(lambda image, s: ImageOps.equalize(image), False),
)


def _shear(strength: float) -> float:
    return math.tan(math.atan(strength * MAX_SHEAR))


@register("augmentation")
class RandAugment(CropThenChange):
    """Crop and flip, then ``num_ops`` operations drawn from fourteen (shear, translation, rotation,
    color, ...), all at one ``magnitude`` of 0 to 30. The generator is consumed as by torchvision.

    Source: Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search
    Space, NeurIPS 2020, arXiv 1909.13719.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        crop_scale: tuple[float, float] = CROP_SCALE,
        *,
        num_ops: PositiveInt = 2,
        magnitude: Annotated[int, Between(0, MAGNITUDES - 1)] = 9,
    ) -> None:
        super().__init__(spec, crop_scale)
        self._num_ops, self._magnitude = num_ops, magnitude

    @property
    def id(self) -> str:
        return f"randaugment-1|{self._num_ops}|{self._magnitude}|{super().id}"

    def change(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        for _ in range(self._num_ops):
            drawn = torch.randint(len(OPERATIONS), (1,), generator=generator).item()
            operation = OPERATIONS[int(drawn)]
            strength = self._magnitude / (MAGNITUDES - 1)
            if operation.signed and torch.randint(2, (1,), generator=generator).item():
                strength = -strength
            image = operation.apply(image, strength)
        return image
