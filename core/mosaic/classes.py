"""The classes of the six datasets. No image of the pre-training world shows any of these
subjects.

They were chosen once, before the embedded model was trained: few and similar colors, attributes
used about equally often, so that no single attribute identifies a class. Single attributes and
other combinations of them do occur in pre-training.
"""

from core.mosaic.world import Action, Critter, Land, Shape, Subject, Surface, Vehicle, name_of

_SHAPES = """
checkered blue circle, checkered orange cross, checkered purple heart, checkered red square,
checkered red star, dotted blue diamond, dotted blue square, dotted orange heart, dotted purple
cross, dotted purple triangle, dotted red circle, solid blue circle, solid orange triangle, solid
purple ring, solid purple square, solid red diamond, striped blue triangle, striped orange heart,
striped orange star, striped purple cross, striped red ring, wavy blue ring, wavy blue star, wavy
orange circle, wavy purple diamond, wavy red heart, wavy red triangle, zigzag blue ring, zigzag
orange diamond, zigzag orange square, zigzag purple star, zigzag red cross
"""
_CRITTERS = """
plain brown ears tail, plain brown horns spikes, plain brown spikes wings, plain orange ears
horns, plain orange horns wings, plain red ears tail, plain red spikes wings, plain red tail
wings, spotted brown horns tail, spotted brown horns wings, spotted brown spikes wings, spotted
orange ears horns, spotted orange ears tail, spotted orange horns tail, spotted red ears spikes,
spotted red spikes tail, striped brown ears wings, striped brown horns tail, striped orange ears
spikes, striped orange ears wings, striped orange spikes tail, striped red ears spikes, striped
red horns spikes, striped red tail wings
"""
_VEHICLES = """
brown bus flag, brown bus stripe, brown car chimney, brown car ladder, brown plane flag, brown
train chimney, brown truck ladder, brown truck stripe, orange bus chimney, orange bus ladder,
orange car flag, orange plane chimney, orange plane stripe, orange train ladder, orange train
stripe, orange truck flag, red bus chimney, red car flag, red car stripe, red plane ladder, red
plane stripe, red train flag, red train ladder, red truck chimney
"""
_LAND = """
desert camp lake, desert camp railway, desert camp river, desert railway wall, field lake river,
field lake wall, field railway wall, field road wall, forest lake road, forest railway river,
forest river road, forest river wall, grass camp railway, grass camp river, grass lake railway,
grass railway road, snow camp wall, snow lake river, snow lake wall, snow railway river, town camp
road, town lake road, town river road, town road wall
"""
_ACTIONS = """
bowing bag, bowing flag, bowing hat, jumping flag, jumping stick, jumping umbrella, kicking ball,
kicking flag, kicking stick, lying bag, lying box, lying stick, running bag, running box, running
flag, sitting ball, sitting box, sitting umbrella, standing ball, standing hat, standing umbrella,
waving bag, waving hat, waving umbrella
"""
_TEXTURES = """
checkered blue orange, checkered blue red, checkered orange pink, checkered orange purple, dotted
blue white, dotted orange red, dotted orange white, ringed blue pink, ringed blue purple, ringed
blue white, ringed pink red, speckled blue pink, speckled orange pink, speckled orange white,
striped pink purple, striped purple red, striped red white, wavy orange purple, wavy pink white,
wavy purple red, wavy purple white, zigzag blue red, zigzag pink purple, zigzag red white
"""


def _rows(table: str) -> list[list[str]]:
    return [entry.split() for entry in table.replace("\n", " ").split(",")]


def _in_order(subjects: list[Subject]) -> tuple[Subject, ...]:
    return tuple(sorted(subjects, key=name_of))


CLASSES: dict[str, tuple[Subject, ...]] = {
    "shapes": _in_order([Shape(*row) for row in _rows(_SHAPES)]),
    "critters": _in_order([Critter(row[0], row[1], tuple(row[2:])) for row in _rows(_CRITTERS)]),
    "vehicles": _in_order([Vehicle(*row) for row in _rows(_VEHICLES)]),
    "land": _in_order([Land(row[0], tuple(row[1:])) for row in _rows(_LAND)]),
    "actions": _in_order([Action(*row) for row in _rows(_ACTIONS)]),
    "textures": _in_order([Surface(row[0], (row[1], row[2])) for row in _rows(_TEXTURES)]),
}
"""Family -> its classes, alphabetical by name: the first half is base, the second half new."""

HELD_OUT: frozenset[str] = frozenset(
    name_of(subject) for subjects in CLASSES.values() for subject in subjects
)
