"""Draws the land family: ground seen from above, with up to two features on it."""

import itertools
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from core.mosaic.canvas import CANVAS, Canvas, Frame, Point, Rgb, ellipse_points, hsv, shade
from core.mosaic.world import Land, Look

_WATER: Rgb = (74, 142, 206)
_GROUND: dict[str, tuple[float, float, float]] = {
    "desert": (0.11, 0.42, 0.88),
    "field": (0.15, 0.48, 0.74),
    "forest": (0.36, 0.5, 0.36),
    "grass": (0.27, 0.5, 0.66),
    "snow": (0.58, 0.04, 0.94),
    "town": (0.08, 0.08, 0.66),
}


def draw_land(
    canvas: Canvas, frame: Frame, subject: Land, look: Look, rng: np.random.Generator
) -> None:
    """The terrain over the whole image, then its features, water below roads."""
    hue, saturation, value = _GROUND[subject.terrain]
    wander = look.jitter * (rng.random(3) - 0.5)
    ground = hsv(
        hue + 0.05 * float(wander[0]),
        saturation + 0.12 * float(wander[1]),
        value + 0.1 * float(wander[2]),
    )
    canvas.image.paste(ground, (0, 0, CANVAS, CANVAS))
    _DRAW_TERRAIN[subject.terrain](canvas, ground, rng)
    for feature in ("lake", "river", "wall", "railway", "road", "camp"):
        if feature in subject.features:
            _DRAW_FEATURE[feature](canvas, rng)


def _scatter(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    return [(CANVAS * float(x), CANVAS * float(y), float(t)) for x, y, t in rng.random((count, 3))]


def _draw_desert(canvas: Canvas, ground: Rgb, rng: np.random.Generator) -> None:
    for x, y, t in _scatter(13, rng):
        curve = [(x - 26 + 13 * k, y - 5 * math.sin(1.05 * k)) for k in range(5)]
        canvas.pen.line(curve, fill=shade(ground, 0.8 + 0.06 * t), width=3, joint="curve")


def _draw_field(canvas: Canvas, ground: Rgb, rng: np.random.Generator) -> None:
    step = int(rng.integers(11, 16))
    layer = Image.new("RGB", (CANVAS * 3 // 2, CANVAS * 3 // 2), ground)
    rows = Canvas(layer)
    for k, left in enumerate(range(0, layer.width, step)):
        tone = shade(ground, 0.74) if k % 2 else shade(ground, 1.15)
        rows.pen.rectangle((left, 0, left + step // 2, layer.height), fill=tone)
    turned = layer.rotate(180 * float(rng.random()), resample=Image.Resampling.BILINEAR)
    edge = CANVAS // 4
    canvas.image.paste(turned.crop((edge, edge, edge + CANVAS, edge + CANVAS)))


def _draw_forest(canvas: Canvas, ground: Rgb, rng: np.random.Generator) -> None:
    for x, y, t in _scatter(60, rng):
        r = 8 + 6 * t
        canvas.pen.ellipse((x - r, y - r, x + r, y + r), fill=shade(ground, 0.62))
        canvas.pen.ellipse(
            (x - r, y - r - 2, x + r - 3, y + r - 5), fill=shade(ground, 1.0 + 0.3 * t)
        )


def _draw_grass(canvas: Canvas, ground: Rgb, rng: np.random.Generator) -> None:
    for x, y, t in _scatter(70, rng):
        canvas.pen.line((x, y, x + 4 * t - 2, y - 8), fill=shade(ground, 0.78 + 0.5 * t), width=2)


def _draw_snow(canvas: Canvas, ground: Rgb, rng: np.random.Generator) -> None:
    for x, y, t in _scatter(11, rng):
        half, height = 6 + 4 * t, 16 + 8 * t
        tree = [(x, y - height), (x + half, y), (x - half, y)]
        canvas.pen.polygon([(px + 4, py + 2) for px, py in tree], fill=shade(ground, 0.86))
        canvas.pen.polygon(tree, fill=hsv(0.42, 0.3, 0.4 + 0.2 * t))


def _draw_town(canvas: Canvas, ground: Rgb, rng: np.random.Generator) -> None:
    step = int(rng.integers(26, 32))
    shift = rng.integers(0, step, 2)
    for left in range(int(shift[0]) - step, CANVAS, step):
        for top in range(int(shift[1]) - step, CANVAS, step):
            t = float(rng.random())
            if t < 0.12:
                continue
            box = (left + 5, top + 5, left + step - 3, top + step - 3)
            canvas.pen.rectangle(
                (box[0] + 3, box[1] + 3, box[2] + 3, box[3] + 3), fill=shade(ground, 0.6)
            )
            canvas.pen.rectangle(box, fill=hsv(0.02 + 0.06 * t, 0.35 + 0.3 * t, 0.62 + 0.2 * t))


def _track(rng: np.random.Generator, *, bend: float) -> list[Point]:
    """A line across the image, from one side to the other, at a random angle."""
    turn = math.pi * float(rng.random())
    offset, phase = 0.5 * CANVAS * (float(rng.random()) - 0.5), 6.28 * float(rng.random())
    frame = Frame(CANVAS / 2, CANVAS / 2, 1.0, turn)
    steps = [(k - 10) * CANVAS / 13 for k in range(21)]
    return frame.points((s, offset + bend * math.sin(phase + s * 5.2 / CANVAS)) for s in steps)


def _draw_river(canvas: Canvas, rng: np.random.Generator) -> None:
    course = _track(rng, bend=13 + 8 * float(rng.random()))
    width = int(rng.integers(15, 21))
    canvas.pen.line(course, fill=shade(_WATER, 0.7), width=width + 5, joint="curve")
    canvas.pen.line(course, fill=_WATER, width=width, joint="curve")


def _draw_road(canvas: Canvas, rng: np.random.Generator) -> None:
    course = _track(rng, bend=4 * float(rng.random()))
    canvas.pen.line(course, fill=(74, 74, 80), width=17, joint="curve")
    for start, end in zip(course[::2], course[1::2], strict=False):
        canvas.pen.line([start, end], fill=(244, 232, 150), width=3)


def _draw_railway(canvas: Canvas, rng: np.random.Generator) -> None:
    course = _track(rng, bend=7 * float(rng.random()))
    for (ax, ay), (bx, by) in itertools.pairwise(course):
        length = math.hypot(bx - ax, by - ay)
        nx, ny = 10 * (ay - by) / length, 10 * (bx - ax) / length
        canvas.pen.line((ax - nx, ay - ny, ax + nx, ay + ny), fill=(92, 62, 42), width=5)
    canvas.pen.line(course, fill=(60, 60, 66), width=8, joint="curve")
    canvas.pen.line(course, fill=(196, 196, 202), width=3, joint="curve")


def _draw_wall(canvas: Canvas, rng: np.random.Generator) -> None:
    course = _track(rng, bend=0.0)
    canvas.pen.line(course, fill=(104, 96, 92), width=11)
    for x, y in course[::2]:
        canvas.pen.rectangle((x - 9, y - 9, x + 9, y + 9), fill=(126, 118, 112))
        canvas.pen.rectangle((x - 6, y - 6, x + 6, y + 6), fill=(168, 160, 152))


def _draw_lake(canvas: Canvas, rng: np.random.Generator) -> None:
    x, y = (CANVAS * (0.28 + 0.44 * float(value)) for value in rng.random(2))
    waves = 1 + 0.3 * (rng.random(24) - 0.5)
    smooth = (waves + np.roll(waves, 1) + np.roll(waves, 2) + np.roll(waves, -1)) / 4
    rx, ry = (CANVAS * (0.2 + 0.09 * float(value)) for value in rng.random(2))
    shore = [
        (x + (px - x) * float(w), y + (py - y) * float(w))
        for (px, py), w in zip(ellipse_points(x, y, rx, ry), smooth, strict=True)
    ]
    rim = [(x + 1.12 * (px - x), y + 1.12 * (py - y)) for px, py in shore]
    canvas.pen.polygon(rim, fill=(222, 206, 156))
    canvas.pen.polygon(shore, fill=_WATER)


def _draw_camp(canvas: Canvas, rng: np.random.Generator) -> None:
    cx, cy = (CANVAS * (0.3 + 0.4 * float(value)) for value in rng.random(2))
    canvas.pen.ellipse((cx - 6, cy - 6, cx + 6, cy + 6), fill=(250, 150, 40))
    turn = 6.28 * float(rng.random())
    for k in range(3):
        angle = turn + 2.09 * k
        x, y = cx + 25 * math.cos(angle), cy + 25 * math.sin(angle)
        cloth = hsv((0.0, 0.13, 0.55)[k] + 0.04 * float(rng.random()), 0.7, 0.9)
        canvas.pen.polygon([(x - 15, y + 11), (x, y - 15), (x, y + 11)], fill=shade(cloth, 0.7))
        canvas.pen.polygon([(x, y + 11), (x, y - 15), (x + 15, y + 11)], fill=cloth)


_DRAW_TERRAIN: dict[str, Callable[[Canvas, Rgb, np.random.Generator], None]] = {
    "desert": _draw_desert,
    "field": _draw_field,
    "forest": _draw_forest,
    "grass": _draw_grass,
    "snow": _draw_snow,
    "town": _draw_town,
}
_DRAW_FEATURE: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "camp": _draw_camp,
    "lake": _draw_lake,
    "railway": _draw_railway,
    "river": _draw_river,
    "road": _draw_road,
    "wall": _draw_wall,
}
