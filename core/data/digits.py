"""scikit-learn's handwritten digits: 1797 real scans of 8 x 8 pixels that come with the library.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository (test
part), as packaged by scikit-learn. Gray values 0..16 are scaled to 0..255; the pen is white on
black. Images stay 8 x 8 here; the transform enlarges them.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.data.dataset import Dataset
from core.data.splits import SplitFractions, cut_classes

NAME = "sklearn/digits"
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATE = 'a photo of the number "{}".'


@dataclass(frozen=True, slots=True)
class DigitsReader:
    """Reads ``<class name>/<index>.png``: the index-th scan of the library, without any file."""

    def read(self, path: str) -> Image.Image:
        pixels, _ = _scans()
        return Image.fromarray(pixels[int(path.rsplit("/", 1)[1].removesuffix(".png"))]).convert(
            "RGB"
        )


def load_digits() -> Dataset:
    """The ten digits, split 50/20/30 within each class; the same split on every machine."""
    pixels, labels = _scans()
    paths = {
        name: [f"{name}/{index:04d}.png" for index in np.flatnonzero(labels == label)]
        for label, name in enumerate(CLASS_NAMES)
    }
    train, val, test = cut_classes(paths, SplitFractions(), seed=0)
    return Dataset(
        name=NAME,
        class_names=CLASS_NAMES,
        template=TEMPLATE,
        train=train,
        val=val,
        test=test,
        reader=DigitsReader(),
        content=hashlib.sha256(pixels.tobytes()).hexdigest()[:16],
    )


@lru_cache(maxsize=1)
def _scans() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(1797, 8, 8) gray images and (1797,) labels."""
    from sklearn import datasets  # seconds to import, and only this dataset needs it

    raw = datasets.load_digits()
    return np.rint(raw.images * (255 / 16)).astype(np.uint8), raw.target.astype(np.int64)
