"""A small drawing board on PIL: a canvas of three times the final size, frames, textures and
backgrounds.

Points are pairs in the subject's own frame: origin at its center, x to the right, y down, about one
unit across. Images are drawn at ``CANVAS`` pixels and box-averaged to ``IMAGE_SIZE``, so that edges
are smooth.
"""

import colorsys
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

IMAGE_SIZE = 48
OVERSAMPLING = 3
CANVAS = IMAGE_SIZE * OVERSAMPLING

Point = tuple[float, float]
Rgb = tuple[int, int, int]

HSV: dict[str, tuple[float, float, float]] = {
    "red": (0.985, 0.82, 0.86),
    "orange": (0.07, 0.86, 0.97),
    "yellow": (0.138, 0.78, 0.97),
    "green": (0.365, 0.68, 0.66),
    "cyan": (0.495, 0.62, 0.84),
    "blue": (0.605, 0.80, 0.84),
    "purple": (0.765, 0.62, 0.66),
    "pink": (0.92, 0.42, 0.97),
    "brown": (0.065, 0.62, 0.46),
    "gray": (0.6, 0.04, 0.56),
    "white": (0.14, 0.03, 0.96),
    "black": (0.65, 0.12, 0.13),
}

_Y, _X = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32)


def hsv(hue: float, saturation: float, value: float) -> Rgb:
    """8-bit RGB of a color given in 0..1; hue wraps, the others are clipped."""
    parts = colorsys.hsv_to_rgb(
        hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0)
    )
    red, green, blue = (round(255 * part) for part in parts)
    return red, green, blue


def color_of(name: str, rng: np.random.Generator, *, jitter: float = 1.0) -> Rgb:
    """A shade of a named color."""
    hue, saturation, value = HSV[name]
    wander = (rng.random(3) - 0.5) * jitter
    return hsv(
        hue + 0.04 * float(wander[0]),
        saturation + 0.18 * float(wander[1]) * (saturation > 0.2),
        value + 0.16 * float(wander[2]),
    )


def shade(color: Rgb, factor: float) -> Rgb:
    """The color darkened for factors below 1, lightened (towards white) above 1."""
    if factor <= 1.0:
        red, green, blue = (round(part * factor) for part in color)
    else:
        red, green, blue = (round(255 - (255 - part) * max(2.0 - factor, 0.0)) for part in color)
    return red, green, blue


def contrast_of(color: Rgb) -> Rgb:
    """The second color of a texture: a dark version of a light color, a light version of a dark
    one.
    """
    luma = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]
    return shade(color, 0.36) if luma > 105 else shade(color, 1.68)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where and how large a subject is drawn: center and scale in pixels, rotation in radians."""

    x: float
    y: float
    scale: float
    angle: float = 0.0
    flip: bool = False

    def points(self, local: Iterable[Point]) -> list[Point]:
        """Canvas coordinates of points given in the subject's frame."""
        cos, sin = math.cos(self.angle) * self.scale, math.sin(self.angle) * self.scale
        sign = -1.0 if self.flip else 1.0
        return [
            (self.x + sign * px * cos - py * sin, self.y + sign * px * sin + py * cos)
            for px, py in local
        ]


def ellipse_points(x: float, y: float, rx: float, ry: float, *, tilt: float = 0.0) -> list[Point]:
    """The outline of an ellipse as 24 points."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    ring = [(rx * cx, ry * cy) for cx, cy in _UNIT_RING]
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in ring]


_UNIT_RING = [(math.cos(k * math.pi / 12), math.sin(k * math.pi / 12)) for k in range(24)]


@dataclass(frozen=True, slots=True)
class Texture:
    """A texture laid over the canvas: period and center in pixels, rotation in radians."""

    name: str
    period: float
    angle: float
    center: Point


class Canvas:
    """One image being drawn."""

    def __init__(self, background: Image.Image) -> None:
        self.image = background
        self.pen = ImageDraw.Draw(background)

    def polygon(self, frame: Frame, local: Sequence[Point], fill: Rgb) -> None:
        self.pen.polygon(frame.points(local), fill=fill)

    def ellipse(self, frame: Frame, center: Point, rx: float, ry: float, fill: Rgb) -> None:
        self.polygon(frame, ellipse_points(*center, rx, ry), fill)

    def stroke(self, frame: Frame, local: Sequence[Point], width: float, fill: Rgb) -> None:
        """A line with round joints and ends; ``width`` in the subject's units."""
        pixels = max(1, round(width * frame.scale))
        points = frame.points(local)
        self.pen.line(points, fill=fill, width=pixels, joint="curve")
        radius = pixels / 2
        for x, y in (points[0], points[-1]):
            self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    def paste(self, mask: Image.Image, fill: Rgb) -> None:
        """Fill the area of a mask (8-bit gray, canvas size)."""
        box = mask.getbbox()
        if box is not None:
            self.image.paste(fill, box, mask.crop(box))

    def paste_texture(
        self, mask: Image.Image, texture: Texture, fill: Rgb, rng: np.random.Generator
    ) -> None:
        """Fill where a texture shows its second color inside a mask."""
        box = mask.getbbox() or (0, 0, 1, 1)
        inside = np.asarray(mask.crop(box)) * texture_pattern(texture, box, rng)
        self.image.paste(fill, box, Image.fromarray(inside))

    def pixels(self) -> NDArray[np.float32]:
        """The image at its final size, ``(48, 48, 3)`` float32 in 0..1."""
        return np.asarray(self.image.reduce(OVERSAMPLING), dtype=np.float32) / np.float32(255)


def empty_mask() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A black mask of canvas size and its pen."""
    mask = Image.new("L", (CANVAS, CANVAS))
    return mask, ImageDraw.Draw(mask)


def texture_pattern(
    texture: Texture, box: tuple[int, int, int, int], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Where a texture shows its second color in ``box`` (left, top, right, bottom)."""
    cos, sin = math.cos(texture.angle) / texture.period, math.sin(texture.angle) / texture.period
    left, top, right, bottom = box
    x = _X[top:bottom, left:right] - np.float32(texture.center[0])
    y = _Y[top:bottom, left:right] - np.float32(texture.center[1])
    u, v = x * np.float32(cos) + y * np.float32(sin), y * np.float32(cos) - x * np.float32(sin)
    match texture.name:
        case "striped":
            pattern = u % 1 < 0.5
        case "dotted":
            pattern = (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.1
        case "checkered":
            pattern = ((u * 1.5) % 2 < 1) ^ ((v * 1.5) % 2 < 1)
        case "zigzag":
            pattern = (u + 1.3 * np.abs((v * 0.62) % 1 - 0.5)) % 1 < 0.5
        case "wavy":
            pattern = (u * 0.9 + 0.33 * _sine(v * np.float32(2.2))) % 1 < 0.5
        case "ringed":
            pattern = np.sqrt(u * u + v * v) % 1 < 0.5
        case "speckled":
            grains = rng.random((CANVAS // 4, CANVAS // 4), dtype=np.float32) < 0.3
            pattern = grains.repeat(4, axis=0).repeat(4, axis=1)[top:bottom, left:right]
        case _:
            raise ValueError(f"no pattern for texture {texture.name!r}")
    return np.asarray(pattern, dtype=np.bool_)


def _sine(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sine in double precision, so that pixels do not depend on the machine."""
    return np.sin(values.astype(np.float64)).astype(np.float32)


def draw_background(kind: str, rng: np.random.Generator) -> Image.Image:
    """A muted background for a subject."""
    first = hsv(
        float(rng.random()), 0.08 + 0.4 * float(rng.random()), 0.3 + 0.68 * float(rng.random())
    )
    match kind:
        case "gradient":
            ramp = Image.linear_gradient("L").rotate(90 * int(rng.integers(4)))
            mask = ramp.resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)
            image = Image.new("RGB", (CANVAS, CANVAS), first)
            image.paste(shade(first, 0.55 + 0.9 * float(rng.random())), (0, 0), mask)
            return image
        case "blocks":
            cells = int(rng.integers(6, 13))
            tone = 0.72 + 0.5 * rng.random((cells, cells, 1), dtype=np.float32)
            grid = np.clip(np.asarray(first, dtype=np.float32) * tone, 0, 255).astype(np.uint8)
            return Image.fromarray(grid).resize((CANVAS, CANVAS), Image.Resampling.NEAREST)
        case "horizon":
            image = Image.new("RGB", (CANVAS, CANVAS), shade(first, 1.35))
            level = int(CANVAS * (0.5 + 0.3 * float(rng.random())))
            image.paste(shade(first, 0.8), (0, level, CANVAS, CANVAS))
            return image
    return Image.new("RGB", (CANVAS, CANVAS), first)


def draw_card(canvas: Canvas, frame: Frame, side: float, rng: np.random.Generator) -> None:
    """A gray card somewhere over the subject, hiding a part of it; ``side`` relative to the
    subject.
    """
    angle = 2 * math.pi * float(rng.random())
    reach = 0.36 * frame.scale * (0.5 + 0.5 * float(rng.random()))
    x, y = frame.x + reach * math.cos(angle), frame.y + reach * math.sin(angle)
    card = Frame(x, y, frame.scale * side, 0.3 * (float(rng.random()) - 0.5))
    tone = round(70 + 130 * float(rng.random()))
    corners = [(-0.5, -0.42), (0.5, -0.42), (0.5, 0.42), (-0.5, 0.42)]
    canvas.polygon(card, corners, (tone - 30, tone - 30, tone - 24))
    canvas.polygon(card, [(0.88 * px, 0.86 * py) for px, py in corners], (tone, tone, tone + 6))
