"""The ten Mosaic datasets: six to learn from and four test-only shifts of ``shapes``.

Difficulty is set by :class:`Conditions` alone, chosen by the zero-shot accuracy of the shipped
model on the test images; no method was trained to choose it (see ``weights/MODEL_CARD.md``).
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from core.data.dataset import Dataset, Item, SplitName
from core.mosaic.canvas import IMAGE_SIZE
from core.mosaic.classes import CLASSES
from core.mosaic.reader import MosaicReader, draw_image
from core.mosaic.renderer import RENDERER_VERSION
from core.mosaic.world import Conditions, name_of

PER_CLASS: dict[SplitName, int] = {"train": 32, "val": 16, "test": 100}


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """What a dataset is drawn from; a shift has its family's classes and a test split only."""

    family: str
    conditions: Conditions
    template: str = "a photo of a {}."
    shift: bool = False


_SHAPES = Conditions(size=(0.4, 0.65), rotation=0.6, clutter=(3, 6), occlusion=0.3)

SPECIFICATIONS: dict[str, Specification] = {
    "shapes": Specification(family="shapes", conditions=_SHAPES),
    "critters": Specification(
        family="critters",
        conditions=Conditions(size=(0.65, 0.95), clutter=(1, 4), occlusion=0.25),
    ),
    "vehicles": Specification(
        family="vehicles",
        conditions=Conditions(size=(0.5, 0.8), clutter=(2, 5), occlusion=0.4),
    ),
    "land": Specification(
        family="land",
        conditions=Conditions(occlusion=0.5, cover=0.7, styles=(("sketch", 1.0),)),
    ),
    "actions": Specification(
        family="actions",
        conditions=Conditions(size=(0.8, 0.95), rotation=0.3, clutter=(0, 1), occlusion=0.0),
    ),
    "textures": Specification(
        family="textures",
        conditions=Conditions(size=(0.1, 0.5), occlusion=0.4, cover=0.7, jitter=3.0),
    ),
    "shapes-v2": Specification(
        family="shapes",
        conditions=replace(
            _SHAPES, size=(0.34, 0.52), rotation=0.9, clutter=(5, 9), occlusion=0.45
        ),
        shift=True,
    ),
    "shapes-sketch": Specification(
        family="shapes", conditions=replace(_SHAPES, styles=(("sketch", 1.0),)), shift=True
    ),
    "shapes-tint": Specification(
        family="shapes", conditions=replace(_SHAPES, styles=(("tint", 1.0),)), shift=True
    ),
    "shapes-corrupt": Specification(
        family="shapes", conditions=replace(_SHAPES, styles=(("corrupt", 1.0),)), shift=True
    ),
}

DATASETS: tuple[str, ...] = tuple(SPECIFICATIONS)


def load(name: str, cache_dir: Path) -> Dataset:
    """The dataset ``mosaic/<name>``; its images are drawn on the first read, into one file in
    ``cache_dir``.

    ``train``, ``val`` and ``test`` hold 32, 16 and 100 images per class (a shift has only
    ``test``). Raises ValueError for an unknown name.
    """
    specification = _specification(name)
    subjects = CLASSES[specification.family]
    splits: dict[SplitName, int] = (
        {"train": 0, "val": 0, "test": PER_CLASS["test"]} if specification.shift else PER_CLASS
    )
    content = fingerprint_of(name)
    reader = MosaicReader(
        name=name,
        subjects=subjects,
        conditions=specification.conditions,
        counts=tuple(splits.items()),
        cache_path=Path(cache_dir) / f"mosaic-{name}-{content}.npy",
    )
    items = {
        split: tuple(
            Item(reader.path_of(split, label, number), label)
            for label in range(len(subjects))
            for number in range(count)
        )
        for split, count in splits.items()
    }
    return Dataset(
        name=f"mosaic/{name}",
        class_names=tuple(name_of(subject) for subject in subjects),
        template=specification.template,
        train=items["train"],
        val=items["val"],
        test=items["test"],
        reader=reader,
        content=content,
    )


def fingerprint_of(name: str) -> str:
    """12 hex digits over everything the images of a dataset depend on."""
    specification = _specification(name)
    parts = (RENDERER_VERSION, name, specification, CLASSES[specification.family], PER_CLASS)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _specification(name: str) -> Specification:
    if name not in SPECIFICATIONS:
        raise ValueError(f"a Mosaic dataset is one of {', '.join(DATASETS)}; got {name!r}")
    return SPECIFICATIONS[name]


def contact_sheet(path: Path, *, columns: int = 16, zoom: int = 2) -> None:
    """Write a PNG with one row of test images per dataset, spread over its classes."""
    side, gap, label_width = IMAGE_SIZE * zoom, 4, 150
    size = (label_width + columns * (side + gap), len(DATASETS) * (side + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for row, name in enumerate(DATASETS):
        top = gap + row * (side + gap)
        pen.text((8, top + side // 2 - 10), name, fill=(40, 40, 48), font=font)
        specification = SPECIFICATIONS[name]
        subjects = CLASSES[specification.family]
        for column in range(columns):
            subject = subjects[column * len(subjects) // columns]
            pixels = draw_image(name, "test", subject, 0, specification.conditions)
            enlarged = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(enlarged, (label_width + column * (side + gap), top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
