"""Draws the vehicles family: seven machines seen from the side and four additions."""

from collections.abc import Callable

import numpy as np

from core.mosaic.canvas import Canvas, Frame, Point, Rgb, color_of, shade
from core.mosaic.world import Look, Vehicle

_TYRE: Rgb = (34, 34, 40)
_HUB: Rgb = (196, 196, 202)
_GLASS: Rgb = (206, 232, 244)


def draw_vehicle(
    canvas: Canvas, frame: Frame, subject: Vehicle, look: Look, rng: np.random.Generator
) -> None:
    """The machine, then its addition."""
    color = color_of(subject.colour, rng, jitter=look.jitter)
    anchor = _ANCHORS[subject.kind]
    if subject.addon in ("flag", "chimney", "ladder"):
        _DRAW_ADDON[subject.addon](canvas, frame, anchor, rng)
    _DRAW_KIND[subject.kind](canvas, frame, color)
    if subject.addon == "stripe":
        left, right, level = _STRIPES[subject.kind]
        band = (255, 214, 40) if color[0] + color[1] < 420 else (30, 60, 150)
        canvas.polygon(
            frame,
            [
                (left, level - 0.03),
                (right, level - 0.03),
                (right, level + 0.04),
                (left, level + 0.04),
            ],
            band,
        )


def _box(canvas: Canvas, frame: Frame, box: tuple[float, float, float, float], fill: Rgb) -> None:
    left, top, right, bottom = box
    canvas.polygon(frame, [(left, top), (right, top), (right, bottom), (left, bottom)], fill)


def _wheels(canvas: Canvas, frame: Frame, places: list[float], level: float, radius: float) -> None:
    for x in places:
        canvas.ellipse(frame, (x, level), radius, radius, _TYRE)
        canvas.ellipse(frame, (x, level), 0.45 * radius, 0.45 * radius, _HUB)


def _draw_car(canvas: Canvas, frame: Frame, color: Rgb) -> None:
    canvas.polygon(frame, [(-0.3, 0), (-0.19, -0.2), (0.16, -0.2), (0.3, 0)], shade(color, 0.82))
    canvas.polygon(frame, [(-0.22, -0.01), (-0.15, -0.16), (-0.02, -0.16), (-0.02, -0.01)], _GLASS)
    canvas.polygon(frame, [(0.03, -0.01), (0.03, -0.16), (0.13, -0.16), (0.23, -0.01)], _GLASS)
    canvas.polygon(
        frame,
        [(-0.48, 0.02), (-0.42, -0.03), (0.36, -0.03), (0.48, 0.05), (0.48, 0.19), (-0.48, 0.19)],
        color,
    )
    _wheels(canvas, frame, [-0.27, 0.27], 0.19, 0.105)


def _draw_truck(canvas: Canvas, frame: Frame, color: Rgb) -> None:
    _box(canvas, frame, (-0.48, -0.24, 0.16, 0.19), shade(color, 0.82))
    canvas.polygon(
        frame, [(0.18, -0.1), (0.35, -0.1), (0.48, 0.05), (0.48, 0.19), (0.18, 0.19)], color
    )
    canvas.polygon(frame, [(0.24, -0.06), (0.34, -0.06), (0.42, 0.05), (0.24, 0.05)], _GLASS)
    _wheels(canvas, frame, [-0.34, -0.14, 0.32], 0.21, 0.09)


def _draw_bus(canvas: Canvas, frame: Frame, color: Rgb) -> None:
    _box(canvas, frame, (-0.49, -0.24, 0.49, 0.2), color)
    for k in range(5):
        left = -0.43 + 0.18 * k
        _box(canvas, frame, (left, -0.17, left + 0.13, -0.03), _GLASS)
    _wheels(canvas, frame, [-0.29, 0.29], 0.21, 0.085)


def _draw_boat(canvas: Canvas, frame: Frame, color: Rgb) -> None:
    canvas.polygon(frame, [(-0.47, 0.08), (0.49, 0.08), (0.33, 0.28), (-0.34, 0.28)], color)
    canvas.stroke(frame, [(-0.02, 0.08), (-0.02, -0.42)], 0.035, (110, 78, 48))
    canvas.polygon(frame, [(0.02, -0.4), (0.37, 0.01), (0.02, 0.01)], (244, 242, 232))
    canvas.polygon(frame, [(-0.06, -0.3), (-0.06, 0.01), (-0.31, 0.01)], shade(color, 1.35))
    _box(canvas, frame, (-0.5, 0.28, 0.5, 0.34), (104, 164, 212))


def _draw_train(canvas: Canvas, frame: Frame, color: Rgb) -> None:
    _box(canvas, frame, (-0.48, -0.28, -0.1, 0.16), shade(color, 0.84))
    _box(canvas, frame, (-0.41, -0.2, -0.18, -0.02), _GLASS)
    _box(canvas, frame, (-0.1, -0.08, 0.4, 0.16), color)
    canvas.ellipse(frame, (0.4, 0.04), 0.08, 0.12, shade(color, 0.7))
    canvas.polygon(frame, [(0.4, 0.14), (0.5, 0.26), (0.3, 0.26)], _TYRE)
    _wheels(canvas, frame, [-0.36, -0.19, 0.0, 0.17, 0.32], 0.21, 0.075)
    canvas.stroke(frame, [(-0.36, 0.21), (0.17, 0.21)], 0.03, _HUB)


def _draw_plane(canvas: Canvas, frame: Frame, color: Rgb) -> None:
    canvas.polygon(
        frame, [(-0.46, -0.24), (-0.36, -0.24), (-0.2, 0.0), (-0.44, 0.0)], shade(color, 0.8)
    )
    canvas.ellipse(frame, (0.02, 0.02), 0.48, 0.115, color)
    canvas.polygon(
        frame, [(0.12, 0.03), (-0.06, 0.03), (-0.22, 0.27), (-0.1, 0.27)], shade(color, 0.68)
    )
    canvas.polygon(
        frame, [(0.1, -0.06), (-0.02, -0.06), (-0.12, -0.22), (-0.05, -0.22)], shade(color, 0.75)
    )
    canvas.polygon(frame, [(0.32, -0.07), (0.4, -0.05), (0.44, 0.01), (0.32, 0.01)], _GLASS)
    for k in range(4):
        canvas.ellipse(frame, (-0.14 + 0.11 * k, -0.02), 0.024, 0.024, _GLASS)


def _draw_rocket(canvas: Canvas, frame: Frame, color: Rgb) -> None:
    canvas.polygon(frame, [(-0.09, 0.3), (0.09, 0.3), (0.0, 0.5)], (250, 168, 40))
    canvas.polygon(frame, [(-0.13, 0.06), (-0.28, 0.34), (-0.1, 0.28)], shade(color, 0.66))
    canvas.polygon(frame, [(0.13, 0.06), (0.28, 0.34), (0.1, 0.28)], shade(color, 0.66))
    canvas.polygon(
        frame,
        [
            (0, -0.5),
            (0.1, -0.34),
            (0.15, -0.12),
            (0.13, 0.31),
            (-0.13, 0.31),
            (-0.15, -0.12),
            (-0.1, -0.34),
        ],
        color,
    )
    canvas.ellipse(frame, (0, -0.13), 0.075, 0.075, (236, 236, 240))
    canvas.ellipse(frame, (0, -0.13), 0.052, 0.052, _GLASS)


def _draw_flag(canvas: Canvas, frame: Frame, at: Point, rng: np.random.Generator) -> None:
    x, y = at
    canvas.stroke(frame, [(x, y + 0.06), (x, y - 0.26)], 0.025, (90, 66, 44))
    cloth = color_of("red" if rng.integers(2) else "green", rng)
    canvas.polygon(frame, [(x, y - 0.27), (x - 0.22, y - 0.2), (x, y - 0.1)], cloth)


def _draw_chimney(canvas: Canvas, frame: Frame, at: Point, rng: np.random.Generator) -> None:
    x, y = at
    _box(canvas, frame, (x - 0.055, y - 0.15, x + 0.055, y + 0.08), (64, 58, 60))
    _box(canvas, frame, (x - 0.08, y - 0.18, x + 0.08, y - 0.13), (44, 40, 42))
    drift = 0.03 + 0.05 * float(rng.random())
    for k, radius in enumerate((0.05, 0.065, 0.08)):
        puff = (x - drift * (k + 1) * 1.2, y - 0.22 - 0.07 * k)
        canvas.ellipse(frame, puff, radius, 0.8 * radius, (222, 222, 226))


def _draw_ladder(canvas: Canvas, frame: Frame, at: Point, rng: np.random.Generator) -> None:
    x, y = at
    lean = 0.16 + 0.1 * float(rng.random())
    rails = [
        ((x - 0.16, y + 0.06), (x - 0.16 + lean, y - 0.3)),
        ((x, y + 0.06), (x + lean, y - 0.3)),
    ]
    for rail in rails:
        canvas.stroke(frame, rail, 0.026, (226, 206, 150))
    for k in range(4):
        t = 0.18 + 0.22 * k
        rung = [(a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])) for a, b in rails]
        canvas.stroke(frame, rung, 0.024, (226, 206, 150))


_DrawKind = Callable[[Canvas, Frame, Rgb], None]
_DrawAddon = Callable[[Canvas, Frame, Point, np.random.Generator], None]

_DRAW_KIND: dict[str, _DrawKind] = {
    "car": _draw_car,
    "truck": _draw_truck,
    "bus": _draw_bus,
    "boat": _draw_boat,
    "train": _draw_train,
    "plane": _draw_plane,
    "rocket": _draw_rocket,
}
_DRAW_ADDON: dict[str, _DrawAddon] = {
    "flag": _draw_flag,
    "chimney": _draw_chimney,
    "ladder": _draw_ladder,
}
_ANCHORS: dict[str, Point] = {
    "car": (-0.02, -0.2),
    "truck": (-0.2, -0.24),
    "bus": (-0.1, -0.24),
    "boat": (-0.36, 0.08),
    "train": (0.22, -0.08),
    "plane": (0.16, -0.08),
    "rocket": (0.16, 0.12),
}
_STRIPES: dict[str, tuple[float, float, float]] = {
    "car": (-0.48, 0.48, 0.07),
    "truck": (-0.48, 0.16, -0.06),
    "bus": (-0.49, 0.49, 0.06),
    "boat": (-0.42, 0.44, 0.14),
    "train": (-0.1, 0.4, 0.04),
    "plane": (-0.38, 0.42, 0.05),
    "rocket": (-0.14, 0.14, 0.12),
}
