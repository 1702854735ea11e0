"""Captions of drawn images, as varied as real captions: attributes may be missing, order and
wording vary.

A *detailed* caption names nearly every attribute; a *sparse* one leaves many out and keeps the
attributes that are hard to see (shape, texture, parts) more often than color, which is easy.
"""

from collections.abc import Sequence

import numpy as np

from core.mosaic.world import (
    Action,
    Critter,
    Land,
    Look,
    Shape,
    Subject,
    Surface,
    Vehicle,
    pick,
)

_STYLE_WORDS = {
    "blurry": ["blurry", "blurred", "soft"],
    "dark": ["dark", "dim", "night"],
    "noisy": ["noisy", "grainy", "bad"],
    "faded": ["faded", "pale", "washed"],
    "sketch": ["sketched", "drawn", "pencil"],
}
_BACKGROUND_WORDS = {
    "plain": "on a plain background",
    "gradient": "on a smooth background",
    "blocks": "on a mosaic",
    "horizon": "in the open",
}


def write_caption(subject: Subject, look: Look, rng: np.random.Generator, *, detailed: bool) -> str:
    """One caption of an image of ``subject`` in ``look``; lower case, at most about 30 tokens."""
    phrase = _phrase(subject, rng, detailed)
    style = ""
    if look.style in _STYLE_WORDS and rng.random() < 0.65:
        style = pick(rng, _STYLE_WORDS[look.style]) + " "
    chance = float(rng.random())
    if chance < 0.25:
        text = f"{style}{phrase}"
    elif chance < 0.42:
        text = f"a {style}{phrase}"
    else:
        noun = "photo" if chance < 0.74 else "picture" if chance < 0.88 else "image"
        article = "an" if noun == "image" and not style else "a"
        text = f"{article} {style}{noun} of a {phrase}"
    if not isinstance(subject, Land | Surface) and rng.random() < 0.05:
        text += " " + _BACKGROUND_WORDS[look.background]
    return text + "." if rng.random() < 0.5 else text


def _phrase(subject: Subject, rng: np.random.Generator, detailed: bool) -> str:
    match subject:
        case Shape():
            return _shape_phrase(subject, rng, detailed)
        case Critter():
            return _critter_phrase(subject, rng, detailed)
        case Vehicle():
            return _vehicle_phrase(subject, rng, detailed)
        case Land():
            return _land_phrase(subject, rng, detailed)
        case Action():
            return _action_phrase(subject, rng, detailed)
        case Surface():
            return _surface_phrase(subject, rng, detailed)


def _kept(rng: np.random.Generator, detailed: bool, sparse: float) -> bool:
    """Whether an attribute is named: nearly always in a detailed caption, with probability
    ``sparse`` in a sparse one.
    """
    return bool(rng.random() < (0.94 if detailed else sparse))


def _join(rng: np.random.Generator, things: Sequence[str]) -> str:
    """What follows "with", with or without articles, in any order; empty for nothing."""
    if not things:
        return ""
    order = list(things) if rng.random() < 0.6 else list(things)[::-1]
    article = "a " if rng.random() < 0.35 else ""
    return " with " + " and ".join(article + thing for thing in order)


def _adjectives(rng: np.random.Generator, words: list[str]) -> str:
    if len(words) > 1 and rng.random() < 0.2:
        words = words[::-1]
    return "".join(word + " " for word in words)


def _shape_phrase(subject: Shape, rng: np.random.Generator, detailed: bool) -> str:
    words = []
    if _kept(rng, detailed, 0.3 if subject.texture == "solid" else 0.6):
        words.append(subject.texture)
    if _kept(rng, detailed, 0.3):
        words.append(subject.colour)
    named = _kept(rng, detailed, 0.7) or not words
    return _adjectives(rng, words) + (
        subject.shape if named else pick(rng, ["thing", "object", "shape"])
    )


def _critter_phrase(subject: Critter, rng: np.random.Generator, detailed: bool) -> str:
    words = []
    if _kept(rng, detailed, 0.3 if subject.pattern == "plain" else 0.55):
        words.append(subject.pattern)
    if _kept(rng, detailed, 0.3):
        words.append(subject.colour)
    noun = "critter" if rng.random() < 0.75 else pick(rng, ["animal", "creature"])
    parts = [part for part in subject.parts if _kept(rng, detailed, 0.7)]
    if len(parts) > 1 and rng.random() < 0.3:
        parts = parts[::-1]
    joined = " with " + " and ".join(parts) if parts else ""
    return _adjectives(rng, words) + noun + joined


def _vehicle_phrase(subject: Vehicle, rng: np.random.Generator, detailed: bool) -> str:
    color = subject.colour + " " if _kept(rng, detailed, 0.35) else ""
    kind = subject.kind if _kept(rng, detailed, 0.8) else pick(rng, ["vehicle", "machine"])
    addon = [subject.addon] if subject.addon and _kept(rng, detailed, 0.7) else []
    return color + kind + _join(rng, addon)


def _land_phrase(subject: Land, rng: np.random.Generator, detailed: bool) -> str:
    ground = subject.terrain if _kept(rng, detailed, 0.7) else pick(rng, ["land", "place"])
    return ground + _join(rng, [name for name in subject.features if _kept(rng, detailed, 0.75)])


def _action_phrase(subject: Action, rng: np.random.Generator, detailed: bool) -> str:
    who = "person" if rng.random() < 0.75 else pick(rng, ["figure", "man"])
    clothes = f" in {subject.clothes}" if rng.random() < 0.15 else ""
    pose = " " + subject.pose if _kept(rng, detailed, 0.75) else ""
    item = [subject.item] if subject.item and _kept(rng, detailed, 0.7) else []
    return who + clothes + pose + _join(rng, item)


def _surface_phrase(subject: Surface, rng: np.random.Generator, detailed: bool) -> str:
    colors = [color for color in subject.colours if _kept(rng, detailed, 0.45)]
    if len(colors) > 1 and rng.random() < 0.4:
        colors = colors[::-1]
    texture = subject.texture + " " if _kept(rng, detailed, 0.8) or not colors else ""
    shades = " and ".join(colors) + " " if colors else ""
    noun = "texture" if rng.random() < 0.75 else pick(rng, ["pattern", "surface"])
    return texture + shades + noun
