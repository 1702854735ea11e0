"""Reads the images of a Mosaic dataset: drawn once into one file, mapped into memory from then
on.
"""

import hashlib
import logging
import os
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.data.dataset import SplitName
from core.mosaic.canvas import IMAGE_SIZE
from core.mosaic.renderer import image_generator, render_sample
from core.mosaic.world import COLORS, Action, Conditions, Subject, name_of, pick

_CHECKSUM_BYTES = hashlib.sha256().digest_size

log = logging.getLogger(__name__)

_PATH = re.compile(r"(?P<split>\w+)/(?P<label>\d{2})-\w+/(?P<number>\d{3})\.png")
# The threads of a process draw a dataset once; each process draws into a file of its own.
_ONE_THREAD = threading.Lock()


def draw_image(
    dataset: str, split: str, subject: Subject, number: int, conditions: Conditions
) -> NDArray[np.uint8]:
    """Image ``number`` of a class in a split, ``(48, 48, 3)`` uint8; the same on every call and
    machine.
    """
    rng = image_generator("mosaic", dataset, split, name_of(subject), number)
    if isinstance(subject, Action):
        subject = replace(subject, clothes=pick(rng, COLORS))
    return render_sample(subject, conditions, rng)[0]


@dataclass(eq=False)
class MosaicReader:
    """Images of one dataset by item path, such as ``test/03-wavy_blue_ring/007.png``.

    The first read draws all images into ``cache_path``, ``(N, 48, 48, 3)`` uint8 in NumPy's format,
    followed by the sha256 of all bytes before it. The file appears atomically and complete, so
    several processes may start together: each draws the same images, and the last file written
    remains. A file that was changed since is drawn again, with a warning; where it cannot be
    written, the images stay in memory.
    """

    name: str
    subjects: tuple[Subject, ...]
    conditions: Conditions
    counts: tuple[tuple[SplitName, int], ...]
    cache_path: Path
    _pixels: NDArray[np.uint8] | None = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        """Everything but the mapped images: another process maps the file itself."""
        return {**self.__dict__, "_pixels": None}

    def path_of(self, split: SplitName, label: int, number: int) -> str:
        """The item path of image ``number`` of class ``label``."""
        folder = name_of(self.subjects[label]).replace(" ", "_")
        return f"{split}/{label:02d}-{folder}/{number:03d}.png"

    def read(self, path: str) -> Image.Image:
        """The RGB image of an item. Raises ValueError for a path that is not an item of this
        dataset.
        """
        row = self._row_of(path)
        return Image.fromarray(np.array(self.pixels()[row]))

    def pixels(self) -> NDArray[np.uint8]:
        """All images ``(N, 48, 48, 3)`` uint8, read-only: split by split, class by class, number
        by number.
        """
        if self._pixels is None:
            with _ONE_THREAD:
                if self._pixels is None:
                    self._pixels = self._mapped()
        return self._pixels

    def _mapped(self) -> NDArray[np.uint8]:
        if self.cache_path.exists():
            if problem := self._problem():
                log.warning("%s %s; its images are drawn again", self.cache_path, problem)
            else:
                return self._map()
        pixels = self._draw()
        try:
            self._keep(pixels)
            return self._map()
        except OSError as error:
            log.warning("images are not cached, %s cannot be written (%s)", self.cache_path, error)
            return pixels

    def _map(self) -> NDArray[np.uint8]:
        mapped: NDArray[np.uint8] = np.load(self.cache_path, mmap_mode="r")
        return mapped

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        total = len(self.subjects) * sum(count for _, count in self.counts)
        return total, IMAGE_SIZE, IMAGE_SIZE, 3

    def _problem(self) -> str:
        """What is wrong with the cache file, or nothing."""
        try:
            cached: Any = self._map()
            whole = self.cache_path.read_bytes()
        except (OSError, ValueError, EOFError):
            return "cannot be read"
        if cached.shape != self._shape or cached.dtype != np.uint8:
            return "holds other images"
        if len(whole) == cached.offset + cached.nbytes:
            return "was written without a checksum"
        body, checksum = whole[:-_CHECKSUM_BYTES], whole[-_CHECKSUM_BYTES:]
        if hashlib.sha256(body).digest() != checksum:
            return "is damaged: its checksum does not match"
        return ""

    def _draw(self) -> NDArray[np.uint8]:
        pixels = np.empty(self._shape, np.uint8)
        row = 0
        for split, count in self.counts:
            for subject in self.subjects:
                for number in range(count):
                    pixels[row] = draw_image(self.name, split, subject, number, self.conditions)
                    row += 1
        return pixels

    def _keep(self, pixels: NDArray[np.uint8]) -> None:
        self.cache_path.parent.mkdir(parents=True, exist_ok=True)
        part = self.cache_path.with_name(f".{self.cache_path.stem}.{os.getpid()}.npy")
        try:
            np.save(part, pixels)
            checksum = hashlib.sha256(part.read_bytes()).digest()
            with part.open("ab") as file:
                file.write(checksum)
            os.replace(part, self.cache_path)
        except OSError:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def _row_of(self, path: str) -> int:
        """The row of an item path in the cache file; the path must be exactly one that ``path_of``
        gives.
        """
        match = _PATH.fullmatch(path)
        first = 0
        for split, count in self.counts:
            if match is not None and match["split"] == split:
                label, number = int(match["label"]), int(match["number"])
                known = label < len(self.subjects) and number < count
                if known and path == self.path_of(split, label, number):
                    return first + label * count + number
            first += count * len(self.subjects)
        raise ValueError(
            f"{path!r} is not an image of mosaic/{self.name}; use paths of the dataset's items"
        )
