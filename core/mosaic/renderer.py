"""Renders a subject with a look as an image of 48 x 48 pixels.

Every random number comes from the generator that is passed in, as uniform numbers and integers
only, so that a seed gives the same image on every machine.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from core.mosaic.canvas import CANVAS, Canvas, Frame, draw_background, draw_card
from core.mosaic.draw_actions import draw_action
from core.mosaic.draw_critters import draw_critter
from core.mosaic.draw_land import draw_land
from core.mosaic.draw_shapes import draw_clutter, draw_shape, draw_surface
from core.mosaic.draw_vehicles import draw_vehicle
from core.mosaic.styles import apply_style
from core.mosaic.world import (
    Action,
    Conditions,
    Critter,
    Land,
    Look,
    Shape,
    Subject,
    Surface,
    Vehicle,
    sample_look,
)

RENDERER_VERSION = 1  # part of every dataset's fingerprint: raise it when any image changes


def image_generator(*purpose: str | int) -> np.random.Generator:
    """The random stream of an image, seeded by the words that name it; equal on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, purpose)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def render(subject: Subject, look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image, ``(48, 48, 3)`` uint8 RGB."""
    canvas = Canvas(draw_background(look.background, rng))
    frame = Frame(
        CANVAS * look.center[0],
        CANVAS * look.center[1],
        CANVAS * look.size,
        look.angle,
        look.flip,
    )
    if not isinstance(subject, Land | Surface):
        draw_clutter(canvas, look.clutter, rng)
    _draw_subject(canvas, frame, subject, look, rng)
    if look.occluded:
        draw_card(canvas, frame, look.cover, rng)
    image = apply_style(canvas.pixels(), look.style, rng, strength=look.strength, noise=look.noise)
    return np.asarray(np.rint(image * np.float32(255)), dtype=np.uint8)


def render_sample(
    subject: Subject, conditions: Conditions, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Look]:
    """An image of a subject with a random look within the conditions, and that look."""
    look = sample_look(conditions, rng)
    return render(subject, look, rng), look


def _draw_subject(
    canvas: Canvas, frame: Frame, subject: Subject, look: Look, rng: np.random.Generator
) -> None:
    match subject:
        case Shape():
            draw_shape(canvas, frame, subject, look, rng)
        case Critter():
            draw_critter(canvas, frame, subject, look, rng)
        case Vehicle():
            draw_vehicle(canvas, frame, subject, look, rng)
        case Land():
            draw_land(canvas, frame, subject, look, rng)
        case Action():
            draw_action(canvas, frame, subject, look, rng)
        case Surface():
            draw_surface(canvas, frame, subject, look, rng)
