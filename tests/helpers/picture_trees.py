"""Small trees of pictures of noise, a file a picture and every picture another one."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("crow", "duck", "hawk", "wren")


def picture(path: Path, seed: int) -> Path:
    """One picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def class_tree(
    root: Path, seed: int, *, images: int = 8, classes: tuple[str, ...] = CLASSES
) -> Path:
    """``class/image``; trees of different seeds have no picture in common."""
    for label, name in enumerate(classes):
        for n in range(images):
            picture(root / name / f"{n}.png", 10_000 * seed + 100 * label + n)
    return root


def parts_tree(root: Path, seed: int, *, train: int = 4, val: int = 2, test: int = 3) -> Path:
    """``part/class/image``."""
    for shift, (part, images) in enumerate((("train", train), ("val", val), ("test", test))):
        class_tree(root / part, 100 * seed + shift, images=images)
    return root
