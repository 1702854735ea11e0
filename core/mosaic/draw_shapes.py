"""Draws the shapes family (one textured outline) and the textures family (a surface that fills the
image).
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from core.mosaic.canvas import (
    CANVAS,
    Canvas,
    Frame,
    Point,
    Rgb,
    Texture,
    color_of,
    contrast_of,
    ellipse_points,
    empty_mask,
    shade,
)
from core.mosaic.world import SHAPES, Look, Shape, Surface, pick


def _star() -> list[Point]:
    spokes = [(0.52 if k % 2 == 0 else 0.215, math.pi * (k / 5 - 0.5)) for k in range(10)]
    return [(r * math.cos(a), r * math.sin(a) + 0.03) for r, a in spokes]


def _heart() -> list[Point]:
    turns = [2 * math.pi * k / 36 for k in range(36)]
    return [
        (
            0.030 * 16 * math.sin(t) ** 3,
            -0.030 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)) - 0.03,
        )
        for t in turns
    ]


def _moon() -> list[Point]:
    outer = [math.pi * (0.27 + 1.46 * k / 20) for k in range(21)]
    inner = [math.pi * (1.62 - 1.24 * k / 20) for k in range(21)]
    rim = [(0.5 * math.cos(a) + 0.1, 0.5 * math.sin(a)) for a in outer]
    return rim + [(0.36 * math.cos(a) + 0.3, 0.38 * math.sin(a)) for a in inner]


_A, _B = 0.165, 0.48

OUTLINES: dict[str, list[Point]] = {
    "circle": ellipse_points(0, 0, 0.47, 0.47),
    "square": [(-0.42, -0.42), (0.42, -0.42), (0.42, 0.42), (-0.42, 0.42)],
    "triangle": [(0, -0.5), (0.52, 0.42), (-0.52, 0.42)],
    "star": _star(),
    "heart": _heart(),
    "cross": [
        (-_A, -_B), (_A, -_B), (_A, -_A), (_B, -_A), (_B, _A), (_A, _A),
        (_A, _B), (-_A, _B), (-_A, _A), (-_B, _A), (-_B, -_A), (-_A, -_A),
    ],
    "ring": ellipse_points(0, 0, 0.5, 0.5),
    "diamond": [(0, -0.54), (0.36, 0), (0, 0.54), (-0.36, 0)],
    "arrow": [
        (-0.5, -0.15), (0.04, -0.15), (0.04, -0.42), (0.52, 0),
        (0.04, 0.42), (0.04, 0.15), (-0.5, 0.15),
    ],
    "moon": _moon(),
}  # fmt: skip


def _outline_mask(shape: str, frame: Frame) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    mask, pen = empty_mask()
    pen.polygon(frame.points(OUTLINES[shape]), fill=255)
    if shape == "ring":
        pen.polygon(frame.points(ellipse_points(0, 0, 0.25, 0.25)), fill=0)
    return mask, pen


def draw_shape(
    canvas: Canvas, frame: Frame, subject: Shape, look: Look, rng: np.random.Generator
) -> None:
    """A filled outline on a soft shadow."""
    shadow = Frame(frame.x + 3, frame.y + 4, frame.scale, frame.angle, frame.flip)
    soft, _ = _outline_mask(subject.shape, shadow)
    canvas.paste(soft.point(_QUARTER), (20, 20, 28))
    mask, _ = _outline_mask(subject.shape, frame)
    color = color_of(subject.colour, rng, jitter=look.jitter)
    canvas.paste(mask, color)
    if subject.texture != "solid":
        period = frame.scale * (0.2 + 0.06 * float(rng.random()))
        angle = 2 * math.pi * float(rng.random())
        shift = 0.25 * frame.scale * (rng.random(2) - 0.5)
        center = (frame.x + float(shift[0]), frame.y + float(shift[1]))
        texture = Texture(subject.texture, max(period, 12.0), angle, center)
        canvas.paste_texture(mask, texture, contrast_of(color), rng)


_QUARTER = [value // 4 for value in range(256)]


def draw_surface(
    canvas: Canvas, frame: Frame, subject: Surface, look: Look, rng: np.random.Generator
) -> None:
    """A texture in two colors over the whole image; ``look.size`` sets its period."""
    order = subject.colours if rng.integers(2) else subject.colours[::-1]
    first, second = (color_of(name, rng, jitter=look.jitter) for name in order)
    period = CANVAS * (0.1 + 0.16 * look.size)
    texture = Texture(subject.texture, period, look.angle * 6.0, (frame.x, frame.y))
    canvas.image.paste(first, (0, 0, CANVAS, CANVAS))
    canvas.paste_texture(Image.new("L", (CANVAS, CANVAS), 255), texture, second, rng)


def draw_clutter(canvas: Canvas, count: int, rng: np.random.Generator) -> None:
    """Small muted objects around a subject."""
    for _ in range(count):
        x, y, turn, tone, size = (float(value) for value in rng.random(5))
        frame = Frame(CANVAS * x, CANVAS * y, CANVAS * (0.07 + 0.07 * size), 6.28 * turn)
        color: Rgb = shade(color_of(pick(rng, _MUTED), rng), 0.75 + 0.7 * tone)
        canvas.polygon(frame, OUTLINES[pick(rng, SHAPES)], color)


_MUTED = ["pink", "gray", "cyan", "brown", "yellow", "purple", "green", "white"]
