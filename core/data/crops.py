"""The cache of decoded evaluation crops: what every method that sees pixels would decode again.

An evaluation transform ends in 8-bit pixels of the backbone's image size before it normalizes them.
These are kept, and read as images of that size, which the transform then only normalizes: bit for
bit what decoding gives. All methods, runs and worker processes share them.

Layout: ``root/<key>/<sha256>.crops``. A key hashes the dataset's name and content, the geometry of
the transform, the version of Pillow and the code; ``key.json`` lists them in readable form. A shard
is a line of JSON (its paths, what their files were, and the checksums of their pixels) behind the
length of it, then the pixels of one image after the other; its name is the sha256 of the line.
Shards appear by rename and never change, so that killing a process at any moment leaves complete
ones only. A file whose size or time of modification is another one is decoded again, whatever the
dataset's fingerprint says, which does not read all of every file. An image is read by its place in
the shard, and its checksum compared; the shard of one that does not match is dropped. No file stays
open: there are hundreds of shards, and a process may open about a thousand files.

Images are read, not mapped: on a network file system a mapped shard that another machine deletes
ends the process (SIGBUS), where a read fails and the image is decoded. A map would save up to
0.05 of 0.3 ms of processor time an image, and five of six system calls (``docs/speed.md``).
"""

import hashlib
import json
import logging
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from core.data.dataset import Dataset, ImageReader, Item
from core.data.decoding import folder_reader
from core.data.locked import locked
from core.data.pixels import map_images
from core.data.transforms import EvalTransform
from core.data.validation_only import RestrictedReader
from core.store.atomic import write_atomic
from core.store.storage import free_below

SUFFIX = ".crops"
SHARD_BYTES = 64 * 2**20  # decoding is saved in pieces of about this size
GIGABYTE = 10**9
_LENGTH_BYTES = 8
_STALE_SECONDS = 3600.0
_KEPT_FREE = 2 * GIGABYTE

log = logging.getLogger(__name__)

_Pixels = NDArray[np.uint8]
_Stamp = tuple[int, int] | None  # size and time of modification in ns; None for no file


class CropCache:
    """Decoded evaluation crops below ``root``, at most ``limit_bytes`` of them on disk.

    One cache belongs to one process; any number of processes may share ``root``. ``code`` is a hash
    of the code that decodes, crops and resizes, which is part of the key.
    """

    def __init__(
        self, root: Path, view: EvalTransform, *, limit_bytes: int, code: str = ""
    ) -> None:
        self.root, self.view, self.limit_bytes, self.code = root, view, limit_bytes, code
        self._tables: dict[tuple[str, Path], CropTable] = {}

    def holding(self, dataset: Dataset, items: Sequence[Item]) -> Dataset:
        """The same dataset, whose images are read from the cache; those of ``items`` are decoded
        now where they are not in it.

        Unchanged where nothing is kept: for images that are not files, for a dataset whose content
        has no fingerprint, and where they do not fit.
        """
        table = self._table_of(dataset) if items else None
        if table is None:
            return dataset
        paths = list(dict.fromkeys(item.path for item in items))
        if missing := table.missing(paths):
            problem = self._no_room(len(missing) * table.nbytes_of_one)
            if problem:
                _note(f"decoded images of {dataset.name} are not all kept: {problem}")
            else:
                self._fill(table, dataset, paths)
        return replace(dataset, reader=_behind_limits(dataset.reader, table))

    def reading(self, dataset: Dataset) -> Dataset:
        """The same dataset, whose images are read from the cache where they are in it already."""
        table = self._table_of(dataset)
        if table is None or table.is_empty:
            return dataset
        return replace(dataset, reader=_behind_limits(dataset.reader, table))

    def _table_of(self, dataset: Dataset) -> "CropTable | None":
        """What is kept of a dataset; None for images that are no files or have no fingerprint."""
        files = folder_reader(dataset.reader)
        return self._table(dataset, files.root) if files and dataset.content else None

    def _table(self, dataset: Dataset, images: Path) -> "CropTable":
        about = {
            "dataset": dataset.name,
            "content": dataset.content,
            "geometry": self.view.geometry,
            "pillow": PIL.__version__,
            "code": self.code,
        }
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]
        if (key, images) not in self._tables:
            self._tables[key, images] = CropTable(self.root / key, images, self.view.size, about)
        table = self._tables[key, images]
        table.refresh()
        return table

    def _fill(self, table: "CropTable", dataset: Dataset, paths: Sequence[str]) -> None:
        """Decode what is missing, a shard at a time: while one process decodes one of them, others
        wait for it and then go on with the next.
        """
        number = max(SHARD_BYTES // table.nbytes_of_one, 1)
        while True:
            with locked(table.folder / "lock", "decode the same images"):
                table.refresh()
                missing = table.missing(paths)[:number]
                if not missing:
                    return
                stamps = [table.stamp(path) for path in missing]
                images = map_images(dataset.reader, self.view.bytes_of, missing)
                if not table.append(missing, stamps, images):
                    return

    def _no_room(self, wanted: int) -> str:
        """Why so many more bytes cannot be kept, or nothing."""
        limit = self.limit_bytes / GIGABYTE
        if _bytes_below(self.root) + wanted > self.limit_bytes:
            return (
                f"with {size_on_disk(wanted)} more, {self.root} would hold more than "
                f"{limit:g} GB; delete that folder or set experiment.crop_cache_gb"
            )
        free = free_below(self.root)
        if free < wanted + _KEPT_FREE:
            return (
                f"{size_on_disk(wanted)} more do not fit beside {self.root}, where "
                f"{size_on_disk(free)} are free"
            )
        return ""


@dataclass(frozen=True, slots=True)
class CropReader:
    """Reads an image from the table if it is there, or else from its file."""

    reader: ImageReader
    table: "CropTable"

    def read(self, path: str) -> Image.Image:
        """The crop of an image, or the whole of it where it is not kept."""
        crop = self.table.get(path)
        return self.reader.read(path) if crop is None else Image.fromarray(crop)


class CropTable:
    """The crops of one folder: its shards, and where in them an image is. ``images`` is the folder
    of the files.
    """

    def __init__(
        self, folder: Path, images: Path, size: tuple[int, int], about: dict[str, str]
    ) -> None:
        self.folder, self.images, self.about = folder, images, about
        self.shape = (*size, 3)
        self.nbytes_of_one = int(np.prod(self.shape))
        self._shards: dict[str, _Shard] = {}
        self._place_of: dict[tuple[str, _Stamp], tuple[str, int]] = {}

    @property
    def is_empty(self) -> bool:
        return not self._place_of

    def stamp(self, path: str) -> _Stamp:
        """What the file of an image is now."""
        try:
            found = (self.images / path).stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns

    def missing(self, paths: Iterable[str]) -> list[str]:
        """The paths that no shard has, or not as they are now."""
        return [path for path in paths if (path, self.stamp(path)) not in self._place_of]

    def get(self, path: str) -> _Pixels | None:
        """The pixels (H, W, 3) of an image; None where they are not kept or are damaged."""
        place = self._place_of.get((path, self.stamp(path)))
        if place is None:
            return None
        name, row = place
        shard = self._shards.get(name)
        try:
            return None if shard is None else shard.row(row)
        except FileNotFoundError:  # the cache was deleted meanwhile
            self._drop(name)
        except (OSError, ValueError) as error:
            log.warning("%s is damaged (%s); its images are decoded again", shard, error)
            self._drop(name)
        return None

    def refresh(self) -> None:
        """Look at the shards that appeared since the last call; a broken one is deleted."""
        for file in sorted(self.folder.glob(f"*{SUFFIX}")):
            if file.name in self._shards:
                continue
            try:
                shard = _Shard(file, self.shape)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                log.warning("%s is damaged (%s); its images are decoded again", file, error)
                _delete(file)
                continue
            self._shards[file.name] = shard
            for row, image in enumerate(zip(shard.paths, shard.stamps, strict=True)):
                self._place_of.setdefault(image, (file.name, row))

    def append(
        self, paths: Sequence[str], stamps: Sequence[_Stamp], images: Sequence[_Pixels]
    ) -> bool:
        """Keep images as one new shard; False, with a warning, where it cannot be written. The
        stamps are those of the files before they were decoded.
        """
        for file in self.folder.glob(f".*{SUFFIX}.*"):
            if time.time() - _modified(file) > _STALE_SECONDS:
                _delete(file)
        checksums = [zlib.crc32(image.tobytes()) for image in images]
        about = {"paths": list(paths), "files": list(stamps), "crc32": checksums}
        document = {"shape": self.shape, **about}
        line = json.dumps(document).encode()
        name = hashlib.sha256(line).hexdigest() + SUFFIX
        data = [len(line).to_bytes(_LENGTH_BYTES, "little"), line, *(i.tobytes() for i in images)]
        try:
            if not (self.folder / "key.json").exists():
                write_atomic(self.folder / "key.json", json.dumps(self.about, indent=1) + "\n")
            write_atomic(self.folder / name, b"".join(data))
        except OSError as error:
            _note(f"decoded images are not kept, {self.folder} cannot be written ({error})")
            return False
        self.refresh()
        return not self.missing(paths)

    def _drop(self, name: str) -> None:
        self._shards.pop(name, None)  # another thread may have been faster
        self._place_of = {i: place for i, place in self._place_of.items() if place[0] != name}
        _delete(self.folder / name)


class _Shard:
    """One file. Raises ValueError for one that is not a shard of these images."""

    def __init__(self, file: Path, shape: tuple[int, ...]) -> None:
        self.file, self.shape = file, shape
        with file.open("rb") as raw:
            length = int.from_bytes(raw.read(_LENGTH_BYTES), "little")
            size = file.stat().st_size
            if length > size:
                raise ValueError("it is too short")
            line = raw.read(length)
        if hashlib.sha256(line).hexdigest() + SUFFIX != file.name:
            raise ValueError("its list of images does not match its name")
        document = json.loads(line)
        if tuple(document["shape"]) != shape:
            raise ValueError(f"its images are of the shape {document['shape']}")
        if "files" not in document:
            raise ValueError("it does not say what the files were")
        self.paths: list[str] = document["paths"]
        self.stamps: list[_Stamp] = [file and tuple(file) for file in document["files"]]
        self._checksums: list[int] = document["crc32"]
        self._start = _LENGTH_BYTES + length
        self._nbytes = int(np.prod(shape))
        if size != self._start + len(self.paths) * self._nbytes:
            raise ValueError("its size does not match its list of images")

    def __str__(self) -> str:
        return str(self.file)

    def row(self, row: int) -> _Pixels:
        """The pixels of an image. Raises ValueError where they are not those that were kept."""
        with self.file.open("rb", buffering=0) as raw:
            raw.seek(self._start + row * self._nbytes)
            data = raw.read(self._nbytes)
        if zlib.crc32(data) != self._checksums[row]:
            raise ValueError("the checksum of an image does not match")
        return np.frombuffer(data, np.uint8).reshape(self.shape)


def _behind_limits(reader: ImageReader, table: CropTable) -> ImageReader:
    """The reader with the table in front of the files, and with what refuses paths before that."""
    if isinstance(reader, RestrictedReader):
        return replace(reader, reader=_behind_limits(reader.reader, table))
    return CropReader(reader, table)


def bytes_of_crops(image_size: tuple[int, int], number: int) -> int:
    """What the crops of so many images take on disk."""
    return number * 3 * image_size[0] * image_size[1]


def size_on_disk(number: int) -> str:
    """A number of bytes for readers."""
    if number < GIGABYTE:
        return f"{number / 10**6:.1f} MB"
    return f"{number / GIGABYTE:.1f} GB"


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in folder.glob(f"*/*{SUFFIX}"):
        try:
            total += file.stat().st_size
        except OSError:
            continue
    return total


_noted: set[str] = set()


def _note(text: str) -> None:
    """Warn once a process."""
    if text not in _noted:
        _noted.add(text)
        log.warning("%s", text)


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return time.time()


def _delete(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be deleted (%s)", file, error)
