"""Styles and sensor effects, applied to a finished image of ``(48, 48, 3)`` float32 values in
0..1.
"""

import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]

STYLES = ("normal", "blurry", "dark", "noisy", "faded", "sketch")
SHIFT_STYLES = ("tint", "corrupt")


def noise_like(image: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Near-normal noise of unit variance as a sum of uniforms, so that no platform's ``log`` or
    ``exp`` enters.
    """
    parts = rng.random((3, *image.shape), dtype=np.float32)
    total = parts[0] + parts[1] + parts[2]
    return np.asarray((total - np.float32(1.5)) * np.float32(2.0), dtype=np.float32)


def apply_style(
    image: FloatImage, style: str, rng: np.random.Generator, *, strength: float, noise: float
) -> FloatImage:
    """The image in a style, with a slight color cast and sensor noise; clipped to 0..1.

    ``strength`` 1.0 is the style as in pre-training; more goes further.
    """
    cast = 1 + 0.1 * (rng.random(3, dtype=np.float32) - np.float32(0.5))
    image = image * cast
    match style:
        case "blurry":
            for _ in range(round(2 * strength)):
                image = _box_blur(image)
        case "dark":
            image = image * np.float32(0.4 / strength)
        case "noisy":
            image = image + np.float32(0.14 * strength) * noise_like(image, rng)
        case "faded":
            keep = np.float32(max(0.42 / strength, 0.0))
            image = keep * image + (1 - keep) * np.float32(0.72)
        case "sketch":
            image = _sketch(image, strength)
        case "tint":
            image = _tint(image, rng, strength)
        case "corrupt":
            image = _corrupt(image, rng, strength)
    return np.clip(image + np.float32(noise) * noise_like(image, rng), 0.0, 1.0)


def _box_blur(image: FloatImage) -> FloatImage:
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9.0))


def _sketch(image: FloatImage, strength: float) -> FloatImage:
    """Dark lines where brightness or color changes, on a page that keeps a hint of the colors."""
    across = np.abs(np.diff(image, axis=1, append=image[:, -1:])).max(axis=2)
    down = np.abs(np.diff(image, axis=0, append=image[-1:])).max(axis=2)
    line = np.clip(3.2 * (across + down) - 0.18, 0.0, 1.0)[..., None]
    hint = np.float32(0.22 / strength)
    page = (1 - hint) * np.float32(0.97) + hint * image
    return np.asarray(page * (1 - 0.86 * line), dtype=np.float32)


def _tint(image: FloatImage, rng: np.random.Generator, strength: float) -> FloatImage:
    """Colored light: a gain for each channel, less saturation, another exposure."""
    gain = 1 - 0.5 * strength * rng.random(3, dtype=np.float32)
    gray = (image[..., :1] + image[..., 1:2] + image[..., 2:]) / np.float32(3.0)
    drained = image + np.float32(0.35 * strength) * (gray - image)
    exposure = 0.65 + 0.6 * float(rng.random())
    return np.asarray(drained * gain * np.float32(exposure), dtype=np.float32)


def _corrupt(image: FloatImage, rng: np.random.Generator, strength: float) -> FloatImage:
    """Heavy noise, dead pixels and coarse blocks."""
    rows = image[::2] + image[1::2]
    coarse = np.float32(0.25) * (rows[:, ::2] + rows[:, 1::2])
    image = 0.5 * image + 0.5 * coarse.repeat(2, axis=0).repeat(2, axis=1)
    noisy = image + np.float32(0.2 * strength) * noise_like(image, rng)
    dead = rng.random((*image.shape[:2], 1), dtype=np.float32) < np.float32(0.04 * strength)
    return np.asarray(np.where(dead, np.float32(0.05), noisy), dtype=np.float32)
