"""Styles and sensor effects, applied to a finished picture of ``(48, 48, 3)`` float32 values in
0..1.
"""

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]

STYLES = ("normal", "blurry", "dark", "noisy", "faded", "sketch")
SHIFT_STYLES = ("tint", "corrupt")


def noise_like(picture: Picture, rng: np.random.Generator) -> Picture:
    """Near-normal noise of unit variance as a sum of uniforms, so that no platform's ``log`` or
    ``exp`` enters.
    """
    parts = rng.random((3, *picture.shape), dtype=np.float32)
    total = parts[0] + parts[1] + parts[2]
    return np.asarray((total - np.float32(1.5)) * np.float32(2.0), dtype=np.float32)


def apply_style(
    picture: Picture, style: str, rng: np.random.Generator, *, strength: float, noise: float
) -> Picture:
    """The picture in a style, with a slight color cast and sensor noise; clipped to 0..1.

    ``strength`` 1.0 is the style as in pre-training; more goes further.
    """
    cast = 1 + 0.1 * (rng.random(3, dtype=np.float32) - np.float32(0.5))
    picture = picture * cast
    match style:
        case "blurry":
            for _ in range(round(2 * strength)):
                picture = _box_blur(picture)
        case "dark":
            picture = picture * np.float32(0.4 / strength)
        case "noisy":
            picture = picture + np.float32(0.14 * strength) * noise_like(picture, rng)
        case "faded":
            keep = np.float32(max(0.42 / strength, 0.0))
            picture = keep * picture + (1 - keep) * np.float32(0.72)
        case "sketch":
            picture = _sketch(picture, strength)
        case "tint":
            picture = _tint(picture, rng, strength)
        case "corrupt":
            picture = _corrupt(picture, rng, strength)
    return np.clip(picture + np.float32(noise) * noise_like(picture, rng), 0.0, 1.0)


def _box_blur(picture: Picture) -> Picture:
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9.0))


def _sketch(picture: Picture, strength: float) -> Picture:
    """Dark lines where brightness or color changes, on a page that keeps a hint of the colors."""
    across = np.abs(np.diff(picture, axis=1, append=picture[:, -1:])).max(axis=2)
    down = np.abs(np.diff(picture, axis=0, append=picture[-1:])).max(axis=2)
    line = np.clip(3.2 * (across + down) - 0.18, 0.0, 1.0)[..., None]
    hint = np.float32(0.22 / strength)
    page = (1 - hint) * np.float32(0.97) + hint * picture
    return np.asarray(page * (1 - 0.86 * line), dtype=np.float32)


def _tint(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Colored light: a gain for each channel, less saturation, another exposure."""
    gain = 1 - 0.5 * strength * rng.random(3, dtype=np.float32)
    gray = (picture[..., :1] + picture[..., 1:2] + picture[..., 2:]) / np.float32(3.0)
    drained = picture + np.float32(0.35 * strength) * (gray - picture)
    exposure = 0.65 + 0.6 * float(rng.random())
    return np.asarray(drained * gain * np.float32(exposure), dtype=np.float32)


def _corrupt(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Heavy noise, dead pixels and coarse blocks."""
    rows = picture[::2] + picture[1::2]
    coarse = np.float32(0.25) * (rows[:, ::2] + rows[:, 1::2])
    picture = 0.5 * picture + 0.5 * coarse.repeat(2, axis=0).repeat(2, axis=1)
    noisy = picture + np.float32(0.2 * strength) * noise_like(picture, rng)
    dead = rng.random((*picture.shape[:2], 1), dtype=np.float32) < np.float32(0.04 * strength)
    return np.asarray(np.where(dead, np.float32(0.05), noisy), dtype=np.float32)
