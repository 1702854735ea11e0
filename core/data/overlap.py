"""Images of one list that also stand in another: the same file under any path, or an equal copy."""

import hashlib
import os
import posixpath
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

from core.data.dataset import Dataset, Item
from core.data.folder import FolderReader
from core.data.validation_only import RestrictedReader

MAX_STATUSES = 200_000
"""For more images, a network disk would take minutes to answer file by file."""

_KeyOf = Callable[[str], Hashable]


class ImageList(NamedTuple):
    """Some images of a dataset, such as its training list."""

    dataset: Dataset
    items: Sequence[Item]


class SharedImages(NamedTuple):
    """How many images of a list stand in another one; the first, by its path in both."""

    number: int
    first: str
    other: str


def shared_images(asked: ImageList, seen: ImageList, *, copies: bool = False) -> SharedImages:
    """The images of ``asked`` that are also in ``seen``; an image counts once.

    The same image is the same file, whatever the spelling of its path. Links of single images are
    followed in trees of up to ``MAX_STATUSES`` images; in benchmarks, whose files are never looked
    at one by one, only where ``copies`` is set. ``copies``: also another file of equal bytes, or an
    image of equal pixels where a dataset has no files.
    """
    few = len(asked.items) + len(seen.items) <= MAX_STATUSES
    trees = not asked.dataset.folder and not seen.dataset.folder
    found = _shared(asked, seen, _inode if copies or (few and trees) else _path)
    if copies:
        found = {**_shared(asked, seen, _content), **found}
    order = [item.path for item in asked.items if item.path in found]
    return SharedImages(len(set(order)), order[0], found[order[0]]) if order else NOTHING


def same_tree(one: Dataset, two: Dataset) -> bool:
    """Whether two datasets have the same test list of the same image folder, as a tree has that is
    named by the folder of its split file and by that of its images.
    """
    folder = _folder(one)
    return folder is not None and folder == _folder(two) and one.test == two.test


def shared_by_path(one: Dataset, two: Dataset) -> SharedImages:
    """The listed images of ``two`` that ``one`` lists as well, for a folder and one inside it.

    By path alone, which costs no look at the disk.
    """
    folders = [_folder(one), _folder(two)]
    inside = [f"{folder}/" for folder in folders if folder is not None]
    if len(inside) < 2 or not (inside[0].startswith(inside[1]) or inside[1].startswith(inside[0])):
        return NOTHING
    asked, seen = (ImageList(d, (*d.train, *d.val, *d.test)) for d in (two, one))
    found = _shared(asked, seen, _path)
    first = next(iter(found), "")
    return SharedImages(len(found), first, found.get(first, ""))


NOTHING = SharedImages(0, "", "")


def _shared(
    asked: ImageList, seen: ImageList, key_of: Callable[[ImageList, ImageList], _KeyOf]
) -> dict[str, str]:
    """Path in ``asked`` -> path in ``seen``, for the images of equal keys."""
    mine, theirs = key_of(asked, seen), key_of(seen, asked)
    wanted: dict[Hashable, list[str]] = {}
    for path in _paths(asked):
        wanted.setdefault(mine(path), []).append(path)
    found: dict[str, str] = {}
    for path in (item.path for item in seen.items):
        if equal := wanted.pop(theirs(path), None):
            found |= dict.fromkeys(equal, path)
    return found


def _paths(images: ImageList) -> Iterable[str]:
    return dict.fromkeys(item.path for item in images.items)


def _folder(dataset: Dataset) -> str | None:
    """The image folder of a dataset, without links; None for a dataset that has no files."""
    reader = dataset.reader
    if isinstance(reader, RestrictedReader):
        reader = reader.reader
    return os.path.realpath(reader.root) if isinstance(reader, FolderReader) else None


def _path(images: ImageList, others: ImageList) -> _KeyOf:
    """The path of an image, or its name in a dataset without files."""
    folder = _folder(images.dataset)
    if images.dataset is others.dataset:
        return _plain
    if folder is None:
        return lambda path: (images.dataset.name, _plain(path))
    return lambda path: f"{folder}/{_plain(path)}"


def _plain(path: str) -> str:
    """A path without superfluous parts, which the most have not."""
    return posixpath.normpath(path) if "./" in path or "//" in path else path


def _inode(images: ImageList, others: ImageList) -> _KeyOf:
    """The file that a path leads to, whatever its name."""
    folder, by_path = _folder(images.dataset), _path(images, others)
    if folder is None:
        return by_path

    def inode(path: str) -> Hashable:
        try:
            status = os.stat(f"{folder}/{path}")
        except OSError:
            return by_path(path)
        return status.st_dev, status.st_ino

    return inode


def _content(images: ImageList, others: ImageList) -> _KeyOf:
    folder, reader = _folder(images.dataset), images.dataset.reader
    if folder is None:
        return lambda path: hashlib.sha256(reader.read(path).tobytes()).digest()
    sizes = _sizes(others)

    def content(path: str) -> Hashable:
        try:
            size = os.stat(f"{folder}/{path}").st_size
            if sizes and size not in sizes:
                return size, path, images.dataset.name  # no file of the other list can be equal
            with open(f"{folder}/{path}", "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return images.dataset.name, path

    return content


def _sizes(images: ImageList) -> frozenset[int]:
    """The sizes of the files of a list, empty where it has none."""
    folder = _folder(images.dataset)
    if folder is None:
        return frozenset()
    found = set()
    for path in _paths(images):
        try:
            found.add(os.stat(f"{folder}/{path}").st_size)
        except OSError:
            continue
    return frozenset(found)
