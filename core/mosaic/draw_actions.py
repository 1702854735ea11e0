"""Draws the actions family: a figure in one of eight poses with at most one item."""

import math

import numpy as np

from core.mosaic.canvas import Canvas, Frame, Point, Rgb, color_of, ellipse_points, shade
from core.mosaic.world import COLORS, Action, Look, pick

_SKIN: tuple[Rgb, ...] = ((244, 206, 172), (222, 172, 130), (168, 118, 82), (104, 70, 48))

# Joints of a pose: head, neck, hip; elbow and hand of the free and of the carrying arm; knee and
# foot of both legs.
_Pose = tuple[Point, Point, Point, Point, Point, Point, Point, Point, Point, Point, Point]

_POSES: dict[str, _Pose] = {
    "standing": (
        (0, -0.38), (0, -0.27), (0, 0.04),
        (-0.1, -0.13), (-0.11, 0.03), (0.1, -0.13), (0.15, 0.02),
        (-0.06, 0.24), (-0.07, 0.46), (0.06, 0.24), (0.07, 0.46),
    ),
    "waving": (
        (0, -0.36), (0, -0.25), (0, 0.06),
        (-0.17, -0.28), (-0.13, -0.46), (0.11, -0.1), (0.17, 0.04),
        (-0.05, 0.26), (-0.06, 0.47), (0.07, 0.26), (0.09, 0.47),
    ),
    "running": (
        (0.13, -0.36), (0.09, -0.25), (0, 0.03),
        (-0.08, -0.12), (-0.16, -0.24), (0.2, -0.08), (0.32, -0.2),
        (0.19, 0.12), (0.15, 0.34), (-0.13, 0.2), (-0.36, 0.24),
    ),
    "jumping": (
        (0, -0.36), (0, -0.26), (0, -0.02),
        (-0.18, -0.3), (-0.28, -0.43), (0.18, -0.3), (0.28, -0.42),
        (-0.22, 0.04), (-0.25, 0.26), (0.22, 0.04), (0.25, 0.26),
    ),
    "sitting": (
        (-0.1, -0.32), (-0.1, -0.2), (-0.12, 0.12),
        (-0.2, -0.05), (-0.16, 0.1), (0.02, -0.04), (0.16, -0.07),
        (0.14, 0.12), (0.15, 0.42), (0.2, 0.14), (0.22, 0.42),
    ),
    "kicking": (
        (-0.14, -0.36), (-0.11, -0.25), (-0.04, 0.04),
        (-0.26, -0.15), (-0.38, -0.2), (0.05, -0.16), (0.16, -0.24),
        (-0.07, 0.26), (-0.12, 0.47), (0.19, 0.04), (0.43, 0.0),
    ),
    "bowing": (
        (0.3, -0.1), (0.21, -0.14), (-0.08, -0.04),
        (0.16, 0.06), (0.12, 0.2), (0.26, 0.06), (0.31, 0.2),
        (-0.1, 0.2), (-0.1, 0.46), (-0.02, 0.2), (0.0, 0.46),
    ),
    "lying": (
        (-0.38, 0.2), (-0.26, 0.24), (0.04, 0.28),
        (-0.15, 0.33), (-0.03, 0.35), (-0.13, 0.12), (-0.05, 0.0),
        (0.24, 0.26), (0.46, 0.3), (0.22, 0.33), (0.44, 0.37),
    ),
}  # fmt: skip


def draw_action(
    canvas: Canvas, frame: Frame, subject: Action, look: Look, rng: np.random.Generator
) -> None:
    """Far limbs, body, near limbs, head, item; every joint moves a little."""
    wobble = 0.045 * (rng.random((11, 2)) - 0.5)
    joints = [
        (x + float(dx), y + float(dy))
        for (x, y), (dx, dy) in zip(_POSES[subject.pose], wobble, strict=True)
    ]
    head, neck, hip = joints[:3]
    hand = joints[6]
    top = color_of(subject.clothes, rng, jitter=look.jitter)
    legs = shade(color_of("blue" if rng.integers(2) else "black", rng), 0.7)
    skin = _SKIN[int(rng.integers(len(_SKIN)))]
    shoulder = (0.85 * neck[0] + 0.15 * hip[0], 0.85 * neck[1] + 0.15 * hip[1])
    canvas.stroke(frame, [shoulder, joints[3], joints[4]], 0.07, shade(top, 0.8))
    canvas.stroke(frame, [hip, joints[7], joints[8]], 0.085, shade(legs, 0.8))
    canvas.stroke(frame, [hip, joints[9], joints[10]], 0.085, legs)
    canvas.stroke(frame, [shoulder, hip], 0.15, top)
    canvas.stroke(frame, [shoulder, joints[5], hand], 0.07, shade(top, 1.15))
    canvas.ellipse(frame, joints[4], 0.042, 0.042, skin)
    canvas.ellipse(frame, head, 0.1, 0.105, skin)
    if subject.item == "hat":
        _draw_hat(canvas, frame, head, neck, rng)
    elif subject.item:
        _draw_item(canvas, frame, subject.item, hand, rng)
    canvas.ellipse(frame, hand, 0.042, 0.042, skin)


def _draw_hat(
    canvas: Canvas, frame: Frame, head: Point, neck: Point, rng: np.random.Generator
) -> None:
    """A hat along the line from neck to head, so that it follows a bent figure."""
    lean = math.atan2(head[0] - neck[0], neck[1] - head[1])
    cos, sin = math.cos(lean), math.sin(lean)
    color = color_of(pick(rng, COLORS), rng)

    def place(x: float, y: float) -> Point:
        return (head[0] + x * cos - y * sin, head[1] + x * sin + y * cos)

    brim = [place(-0.17, -0.05), place(0.17, -0.05), place(0.17, -0.095), place(-0.17, -0.095)]
    crown = [place(-0.1, -0.09), place(0.1, -0.09), place(0.085, -0.24), place(-0.085, -0.24)]
    canvas.polygon(frame, brim, shade(color, 0.75))
    canvas.polygon(frame, crown, color)


def _draw_item(
    canvas: Canvas, frame: Frame, item: str, hand: Point, rng: np.random.Generator
) -> None:
    x, y = hand
    color = color_of(pick(rng, COLORS), rng)
    dark = shade(color, 0.65)
    match item:
        case "ball":
            canvas.ellipse(frame, (x + 0.07, y), 0.115, 0.115, dark)
            canvas.ellipse(frame, (x + 0.065, y - 0.01), 0.095, 0.095, color)
        case "box":
            corners = [
                (x - 0.06, y - 0.11),
                (x + 0.2, y - 0.11),
                (x + 0.2, y + 0.11),
                (x - 0.06, y + 0.11),
            ]
            canvas.polygon(frame, corners, color)
            canvas.stroke(frame, [(x - 0.06, y), (x + 0.2, y)], 0.035, dark)
            canvas.stroke(frame, [(x + 0.07, y - 0.11), (x + 0.07, y + 0.11)], 0.035, dark)
        case "flag":
            canvas.stroke(frame, [(x, y + 0.1), (x, y - 0.34)], 0.03, (96, 70, 46))
            cloth = [(x, y - 0.35), (x + 0.26, y - 0.3), (x + 0.24, y - 0.13), (x, y - 0.15)]
            canvas.polygon(frame, cloth, color)
        case "stick":
            canvas.stroke(frame, [(x - 0.1, y - 0.3), (x + 0.1, y + 0.3)], 0.045, dark)
        case "bag":
            bag = [
                (x - 0.1, y + 0.09),
                (x + 0.1, y + 0.09),
                (x + 0.14, y + 0.3),
                (x - 0.14, y + 0.3),
            ]
            canvas.polygon(frame, bag, color)
            canvas.stroke(frame, [(x - 0.07, y + 0.1), (x, y), (x + 0.07, y + 0.1)], 0.028, dark)
        case "umbrella":
            canvas.stroke(frame, [(x, y + 0.06), (x, y - 0.26)], 0.028, (60, 60, 66))
            dome = [p for p in ellipse_points(x, y - 0.2, 0.25, 0.2) if p[1] <= y - 0.199]
            canvas.polygon(frame, sorted(dome), color)
