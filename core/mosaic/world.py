"""The vocabulary of the drawn world: what an image can show and how it can look.

A *subject* is what a caption names (a red striped star, a person jumping with a ball); a *look* is
everything else (style, background, size, occlusion). Class names of the datasets are names of
subjects.
"""

from dataclasses import dataclass

import numpy as np

COLORS = [
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
    "brown",
    "gray",
    "white",
    "black",
]
TEXTURES = ["solid", "striped", "dotted", "checkered", "zigzag", "wavy", "ringed", "speckled"]
SHAPES = [
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "diamond",
    "arrow",
    "moon",
]
PATTERNS = ["plain", "spotted", "striped"]
PARTS = ["ears", "horns", "spikes", "tail", "wings"]
VEHICLES = ["car", "truck", "bus", "boat", "train", "plane", "rocket"]
ADDONS = ["flag", "ladder", "chimney", "stripe"]
TERRAINS = ["desert", "field", "forest", "grass", "snow", "town"]
FEATURES = ["camp", "lake", "railway", "river", "road", "wall"]
POSES = ["bowing", "jumping", "kicking", "lying", "running", "sitting", "standing", "waving"]
ITEMS = ["bag", "ball", "box", "flag", "hat", "stick", "umbrella"]
BACKGROUNDS = ["plain", "gradient", "blocks", "horizon"]

# The text of the subjects below, names of their fields included, is hashed into the fingerprints of
# the datasets: no field can be renamed.


@dataclass(frozen=True, slots=True)
class Shape:
    """One filled outline: "checkered purple circle"."""

    texture: str
    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Critter:
    """An animal with a coat and up to three parts: "plain red critter with horns and tail"."""

    pattern: str
    colour: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A machine with at most one addition: "red bus with flag". ``addon`` is empty for none."""

    colour: str
    kind: str
    addon: str


@dataclass(frozen=True, slots=True)
class Land:
    """Ground seen from above with up to two features: "forest with lake and road"."""

    terrain: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Action:
    """A figure doing something, at most one item in hand: "person jumping with ball".

    ``clothes`` is a color that a caption may name; it is not part of the subject's name.
    """

    pose: str
    item: str
    clothes: str = "blue"


@dataclass(frozen=True, slots=True)
class Surface:
    """A texture in two colors that fills the image: "wavy blue and white texture"."""

    texture: str
    colours: tuple[str, str]


Subject = Shape | Critter | Vehicle | Land | Action | Surface

FAMILIES = ("shapes", "critters", "vehicles", "land", "actions", "textures")


def family_of(subject: Subject) -> str:
    """Which of the six families a subject belongs to."""
    kinds = (Shape, Critter, Vehicle, Land, Action, Surface)
    return FAMILIES[kinds.index(type(subject))]


def name_of(subject: Subject) -> str:
    """The one name of a subject; two subjects with the same name are the same class."""
    match subject:
        case Shape():
            return f"{subject.texture} {subject.colour} {subject.shape}"
        case Critter():
            return f"{subject.pattern} {subject.colour} critter{_with(sorted(subject.parts))}"
        case Vehicle():
            return (
                f"{subject.colour} {subject.kind}{_with([subject.addon] if subject.addon else [])}"
            )
        case Land():
            return f"{subject.terrain}{_with(sorted(subject.features))}"
        case Action():
            return f"person {subject.pose}{_with([subject.item] if subject.item else [])}"
        case Surface():
            return f"{subject.texture} {' and '.join(sorted(subject.colours))} texture"


def _with(things: list[str]) -> str:
    return " with " + " and ".join(things) if things else ""


def pick(rng: np.random.Generator, options: "list[str] | tuple[str, ...]") -> str:
    """One of the options, with equal probability."""
    return options[int(rng.integers(len(options)))]


def pick_some(rng: np.random.Generator, options: list[str], count: int) -> tuple[str, ...]:
    """``count`` different options in alphabetical order."""
    order = np.argsort(rng.random(len(options)), kind="stable")[:count]
    return tuple(sorted(options[int(i)] for i in order))


def sample_subject(family: str, rng: np.random.Generator) -> Subject:
    """A subject of one family, with every attribute drawn independently."""
    match family:
        case "shapes":
            return Shape(pick(rng, TEXTURES), pick(rng, COLORS), pick(rng, SHAPES))
        case "critters":
            count = int(rng.integers(4))
            return Critter(pick(rng, PATTERNS), pick(rng, COLORS), pick_some(rng, PARTS, count))
        case "vehicles":
            addon = pick(rng, [*ADDONS, ""])
            return Vehicle(pick(rng, COLORS), pick(rng, VEHICLES), addon)
        case "land":
            count = 1 + int(rng.random() < 0.6)
            return Land(pick(rng, TERRAINS), pick_some(rng, FEATURES, count))
        case "actions":
            return Action(pick(rng, POSES), pick(rng, [*ITEMS, ""]), pick(rng, COLORS))
        case "textures":
            first, second = pick_some(rng, COLORS, 2)
            return Surface(pick(rng, TEXTURES[1:]), (first, second))
    raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {family!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The ranges from which looks are drawn; they determine a dataset's difficulty.

    ``size`` is the subject's extent as a fraction of the image's side; ``rotation`` the largest
    rotation in radians; ``clutter`` the minimum and maximum number of small objects around it;
    ``occlusion`` the probability that a card hides a part of it, ``cover`` that card's side as a
    fraction of the subject; ``noise`` the sensor noise's standard deviation; ``styles`` names with
    weights; ``strength`` the strength of a style (1.0 as in pre-training); ``jitter`` the variation
    of colors.
    """

    size: tuple[float, float] = (0.4, 0.9)
    rotation: float = 0.5
    clutter: tuple[int, int] = (0, 3)
    occlusion: float = 0.1
    cover: float = 0.4
    noise: float = 0.02
    styles: tuple[tuple[str, float], ...] = (("normal", 1.0),)
    strength: float = 1.0
    jitter: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How one image looks, apart from its subject; fields as in :class:`Conditions`."""

    style: str
    background: str
    size: float
    angle: float
    flip: bool
    center: tuple[float, float]
    clutter: int
    occluded: bool
    cover: float
    noise: float
    strength: float
    jitter: float


def sample_look(conditions: Conditions, rng: np.random.Generator) -> Look:
    """One look within the conditions; the subject stays inside the image unless it is nearly as
    large.
    """
    size = _between(rng, *conditions.size)
    room = max(0.06, 0.5 - 0.5 * size)
    return Look(
        style=_weighted(rng, conditions.styles),
        background=pick(rng, BACKGROUNDS),
        size=size,
        angle=_between(rng, -conditions.rotation, conditions.rotation),
        flip=bool(rng.integers(2)),
        center=(0.5 + _between(rng, -room, room), 0.5 + _between(rng, -room, room)),
        clutter=int(rng.integers(conditions.clutter[0], conditions.clutter[1] + 1)),
        occluded=bool(rng.random() < conditions.occlusion),
        cover=conditions.cover,
        noise=conditions.noise,
        strength=conditions.strength,
        jitter=conditions.jitter,
    )


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _weighted(rng: np.random.Generator, options: tuple[tuple[str, float], ...]) -> str:
    """One option by weight, from one uniform number (the same on every numpy version)."""
    left = float(rng.random()) * sum(weight for _, weight in options)
    for name, weight in options:
        left -= weight
        if left < 0:
            return name
    return options[-1][0]
