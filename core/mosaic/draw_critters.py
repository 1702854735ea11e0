"""Draws the critters family: an animal seen from the side, a coat pattern and up to three parts."""

import math

import numpy as np

from core.mosaic.canvas import (
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
from core.mosaic.world import Critter, Look

_HORN: Rgb = (240, 226, 188)
_COATS = {"spotted": "dotted", "striped": "striped"}


def draw_critter(
    canvas: Canvas, frame: Frame, subject: Critter, look: Look, rng: np.random.Generator
) -> None:
    """Parts behind the body first, then legs, body, coat, head and the parts on top."""
    color = color_of(subject.colour, rng, jitter=look.jitter)
    girth, reach = 0.2 + 0.05 * float(rng.random()), 0.3 + 0.04 * float(rng.random())
    head = (reach + 0.04 + 0.05 * float(rng.random()), -0.2 - 0.07 * float(rng.random()))
    dark = shade(color, 0.62)
    if "tail" in subject.parts:
        _draw_tail(canvas, frame, reach, dark, rng)
    if "spikes" in subject.parts:
        _draw_spikes(canvas, frame, girth, reach, dark)
    for x in (-0.22, -0.1, 0.12, 0.24):
        sway = 0.05 * (float(rng.random()) - 0.5)
        canvas.stroke(frame, [(x, 0.08), (x + sway, 0.42)], 0.075, shade(color, 0.74))
    body = [
        ellipse_points(0, 0, reach, girth),
        [(0.1, -0.12), (head[0] - 0.04, head[1] + 0.02), (head[0], head[1] + 0.12), (0.2, 0.1)],
        ellipse_points(*head, 0.155, 0.135),
    ]
    _draw_body(canvas, frame, body, color, subject.pattern, rng)
    if "ears" in subject.parts:
        _draw_ears(canvas, frame, head, color)
    if "horns" in subject.parts:
        _draw_horns(canvas, frame, head)
    if "wings" in subject.parts:
        _draw_wing(canvas, frame, girth, color, rng)
    _draw_face(canvas, frame, head, dark)


def _draw_body(
    canvas: Canvas,
    frame: Frame,
    outlines: list[list[Point]],
    color: Rgb,
    pattern: str,
    rng: np.random.Generator,
) -> None:
    mask, pen = empty_mask()
    for outline in outlines:
        pen.polygon(frame.points(outline), fill=255)
    canvas.paste(mask, color)
    if pattern != "plain":
        period = frame.scale * (0.135 + 0.04 * float(rng.random()))
        angle = frame.angle + 0.5 * (float(rng.random()) - 0.5)
        coat = Texture(_COATS[pattern], period, angle, (frame.x, frame.y))
        canvas.paste_texture(mask, coat, contrast_of(color), rng)


def _draw_face(canvas: Canvas, frame: Frame, head: Point, dark: Rgb) -> None:
    canvas.ellipse(frame, (head[0] + 0.05, head[1] - 0.025), 0.042, 0.042, (250, 250, 250))
    canvas.ellipse(frame, (head[0] + 0.062, head[1] - 0.02), 0.022, 0.024, (15, 15, 20))
    canvas.ellipse(frame, (head[0] + 0.14, head[1] + 0.03), 0.024, 0.022, dark)


def _draw_tail(
    canvas: Canvas, frame: Frame, reach: float, color: Rgb, rng: np.random.Generator
) -> None:
    lift = 0.16 + 0.16 * float(rng.random())
    steps = [k / 6 for k in range(7)]
    curl = [(-reach + 0.04 - 0.2 * t, -0.03 - lift * t * t + 0.06 * math.sin(5 * t)) for t in steps]
    canvas.stroke(frame, curl, 0.06, color)
    canvas.ellipse(frame, curl[-1], 0.055, 0.055, color)


def _draw_spikes(canvas: Canvas, frame: Frame, girth: float, reach: float, color: Rgb) -> None:
    for k in range(5):
        x = (k - 2.4) * 0.3 * reach
        top = -girth * math.sqrt(max(1 - (x / reach) ** 2, 0.0))
        spike = [(x - 0.055, top + 0.04), (x - 0.015, top - 0.14), (x + 0.055, top + 0.04)]
        canvas.polygon(frame, spike, color)


def _draw_ears(canvas: Canvas, frame: Frame, head: Point, color: Rgb) -> None:
    for x in (-0.085, 0.045):
        ear = ellipse_points(head[0] + x, head[1] - 0.16, 0.05, 0.105, tilt=3.0 * x)
        canvas.polygon(frame, ear, shade(color, 0.8))
        inner = ellipse_points(head[0] + x, head[1] - 0.15, 0.022, 0.065, tilt=3.0 * x)
        canvas.polygon(frame, inner, shade(color, 1.5))


def _draw_horns(canvas: Canvas, frame: Frame, head: Point) -> None:
    x, y = head
    for side in (-0.1, 0.04):
        horn = [
            (x + side - 0.035, y - 0.08),
            (x + side - 0.02, y - 0.2),
            (x + side + 0.09, y - 0.29),
            (x + side + 0.045, y - 0.18),
            (x + side + 0.045, y - 0.08),
        ]
        canvas.polygon(frame, horn, _HORN)


def _draw_wing(
    canvas: Canvas, frame: Frame, girth: float, color: Rgb, rng: np.random.Generator
) -> None:
    lift = 0.26 + 0.1 * float(rng.random())
    top = -girth * 0.35
    wing = [
        (0.1, top),
        (0.04, top - lift),
        (-0.1, top - lift - 0.05),
        (-0.26, top - lift + 0.02),
        (-0.17, top - 0.15),
        (-0.2, top - 0.06),
        (-0.1, top + 0.02),
    ]
    canvas.polygon(frame, wing, shade(color, 1.55))
    canvas.stroke(frame, [(0.08, top), (-0.1, top - lift)], 0.03, shade(color, 0.8))
