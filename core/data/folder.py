"""Datasets from image folders: with a published split file, as train/val/test folders, or just
class/image.

``layout.py`` recognizes which of the three a folder has:

* ``split``: the split file is the only source of names, labels, order and lists; suffixes do not
  matter.
* ``parts``: train, test and optionally val folders; below each ``class/image``. Classes are those
  of all parts, sorted by code point.
* ``classes``: ``class/image``; classes sorted by code point; split by a seed, 50/20/30 within each
  class unless specified otherwise.

In the last two an image is a file, at any depth below its class folder, with one of ``SUFFIXES`` in
any case; other files, hidden names and links to folders below a class folder are ignored, and
counted in the ``DataReading`` of the dataset. ``classnames.txt``, or ``class_names`` in
``refinelab.json``, may give the classes other names than their folders have. Nothing is ever
written below the data root.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from core.data.benchmarks.definitions import PLAIN_TEMPLATE
from core.data.class_maps import is_class_map, read_classnames, require_all_named
from core.data.dataset import Dataset, Item, SplitName
from core.data.image_files import (
    SUFFIXES,
    Ignored,
    files_in,
    images_below,
    is_image,
    subfolders,
)
from core.data.images import open_rgb
from core.data.layout import FolderLayout, find_layout
from core.data.part_names import PARTS, spelled_alike
from core.data.reading import (
    SPLIT_SETTINGS,
    DataReading,
    by_suffix,
    counted,
    name_notes,
    name_problem,
)
from core.data.split_file import read_split, template_of
from core.data.splits import SplitFractions, cut_classes
from core.data.templates import require_template
from core.streams import one_line, printable

_SAMPLED_FILES = 100_000  # up to this many files, content fingerprints look into the files
_SAMPLE_BYTES = 4096

_Lists = tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderReader:
    """Reads images below ``root``; see ``core.data.images`` for unusual pixel formats."""

    root: Path

    def read(self, path: str) -> Image.Image:
        return open_rgb(self.root / path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """What a layout says about a dataset: folders or class names by label, and the three lists."""

    class_names: tuple[str, ...]
    lists: _Lists
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def paths(self) -> list[str]:
        return [item.path for part in self.lists for item in part]


def read_folder(
    path: Path,
    *,
    name: str | None = None,
    template: str | None = None,
    fractions: SplitFractions | None = None,
    split_seed: int = 0,
) -> Dataset:
    """Read a tree on disk. Every listed file must exist; none is decoded yet.

    ``name`` defaults to ``folder/`` and the absolute path. ``template`` defaults to that of
    ``refinelab.json``, then to the published one of the split file's name, then to "a photo of a
    {}.". ``fractions`` and ``split_seed`` matter only for the ``classes`` layout.

    Raises ValueError, one line, for a missing folder, a layout that is refused, a single class, an
    empty class, missing files (the first and how many), and for a malformed split file, template or
    map of class names.
    """
    layout = find_layout(path)
    listing = _list(layout, fractions or SplitFractions(), split_seed)
    content = _content(layout.images, listing.paths(), listed=layout.split_file is not None)
    if len(listing.class_names) < 2:
        expected = "give the folder that holds the class folders"
        if layout.kind == "parts":
            expected = f"expected {layout.images}/<part>/<class>/<image>"
        raise ValueError(
            f"{layout.images} has a single class, {listing.class_names[0]!r}; every image would be "
            f"predicted correctly: {expected}"
        )
    names = _own_names(layout, listing.class_names)
    train, val, test = listing.lists
    return Dataset(
        name=name or f"folder/{path.resolve().as_posix()}",
        class_names=names,
        template=_template(layout) if template is None else require_template(template, str(path)),
        train=train,
        val=val,
        test=test,
        reader=FolderReader(root=layout.images),
        content=content,
        reading=DataReading(
            layout=layout.describe(),
            ignored=(*layout.ignored, *listing.ignored),
            notes=(*layout.notes, *listing.notes, *name_notes(names)),
            split_settings=SPLIT_SETTINGS if layout.kind == "classes" else frozenset(),
        ),
    )


def _list(layout: FolderLayout, fractions: SplitFractions, split_seed: int) -> _Listing:
    if layout.split_file is not None:
        return _list_split(layout, layout.split_file)
    if layout.parts is not None:
        return _list_parts(layout.images, layout.parts)
    ignored = Ignored()
    folders = layout.class_folders
    members = {folder: images_below(layout.images, folder, ignored) for folder in folders}
    _require_images(members, layout.images)
    lists = cut_classes(members, fractions, split_seed)
    return _Listing(class_names=folders, lists=lists, ignored=tuple(ignored.lines()))


def _list_split(layout: FolderLayout, split_file: Path) -> _Listing:
    split = read_split(split_file)
    ignored = Ignored()
    listed = set(split.paths())
    unlisted = [p for p in images_below(layout.images, "", ignored) if p not in listed]
    if layout.images == layout.home:  # the layout names what is directly in it
        beside = [name for name in files_in(layout.home) if not is_image(name)]
        ignored.by_suffix -= Counter(os.path.splitext(name)[1].lower() for name in beside)
    lines = ignored.lines()
    if unlisted:
        lines = [
            f"{counted(len(unlisted), 'image')} not listed in {split_file.name}, first "
            f"{printable(unlisted[0])}",
            *lines,
        ]
    return _Listing(
        class_names=split.class_names,
        lists=(split.train, split.val, split.test),
        ignored=tuple(lines),
    )


def _list_parts(images: Path, parts: Mapping[SplitName, str]) -> _Listing:
    ignored = Ignored()
    found = {part: subfolders(images / folder) for part, folder in parts.items()}
    names = sorted({name for part in found.values() for name in part})
    _require_trained(images, names, found, parts["train"])
    lists = []
    for part in PARTS:
        place = parts.get(part, part)
        members = {
            name: images_below(images, f"{place}/{name}", ignored) for name in found.get(part, [])
        }
        if part in parts:
            _require_images(members, images / place)
        lists.append(
            tuple(Item(p, label) for label, n in enumerate(names) for p in members.get(n, ()))
        )
    return _Listing(
        class_names=tuple(names),
        lists=(lists[0], lists[1], lists[2]),
        ignored=tuple(ignored.lines()),
        notes=tuple(_absent_classes(names, found, parts)),
    )


def _require_trained(
    images: Path, names: Sequence[str], found: Mapping[SplitName, list[str]], train: str
) -> None:
    """Raises ValueError for a class without training images."""
    known = set(found["train"])
    if not (untrained := [name for name in names if name not in known]):
        return
    alike = [name for name in known if spelled_alike(name) == spelled_alike(untrained[0])]
    hint = "add it or remove it from the other parts"
    if alike:
        accents = alike[0].casefold() != untrained[0].casefold()
        what = f"the Unicode form of its accents, {alike[0]!a}" if accents else "case"
        hint = f"{alike[0]!r} there differs only in {what}, names must match exactly"
    raise ValueError(
        f"{images}: class {untrained[0]!r} ({len(untrained)} in all) has no folder in {train}/; "
        f"{hint}"
    )


def _absent_classes(
    names: Sequence[str], found: Mapping[SplitName, list[str]], parts: Mapping[SplitName, str]
) -> Iterable[str]:
    for part, folder in parts.items():
        present = set(found[part])
        if absent := [name for name in names if name not in present]:
            yield (
                f"{counted(len(absent), 'class')} of {len(names)} without {part} images: no folder "
                f"in {printable(folder)}/, first {printable(absent[0])}"
            )


def _own_names(layout: FolderLayout, folders: tuple[str, ...]) -> tuple[str, ...]:
    """The class names by label: those of a map, or else the names of the folders."""
    if layout.kind == "split":
        return folders
    places = dict.fromkeys((layout.home, layout.images))
    maps = [place / name for place in places for name in files_in(place) if is_class_map(name)]
    settings = layout.settings
    if len(maps) + (settings.class_names is not None) > 1:
        both = [*map(str, maps), *([str(settings.file)] if settings.class_names else [])]
        raise ValueError(f"{' and '.join(both)} both name the classes; keep one")
    if settings.class_names is not None:
        named = dict(settings.class_names)
        require_all_named(named, folders, f"{settings.file}: class_names")
    else:
        named = read_classnames(maps[0], folders) if maps else {name: name for name in folders}
    names = tuple(named[folder] for folder in folders)
    for name in names:
        if problem := name_problem(name):
            raise ValueError(
                f"{layout.images}: the class name '{one_line(printable(name))}' {problem}, so no "
                "prompt can be made of it; rename its folder, or name it in class_names of "
                "refinelab.json"
            )
    return names


def _require_images(members: dict[str, list[str]], where: Path) -> None:
    if not members:
        loose = sum(map(is_image, files_in(where)))
        directly = f" ({counted(loose, 'image')} directly in it)" if loose else ""
        raise ValueError(
            f"{where} has no class folders{directly}; expected {where}/<class>/<image>"
        )
    if empty := [name for name, images in members.items() if not images]:
        ignored = Ignored()
        images_below(where, empty[0], ignored)
        there = f", but {by_suffix(ignored.by_suffix)}" if ignored.by_suffix else ""
        raise ValueError(
            f"{where}: class folder {empty[0]!r} ({len(empty)} in all) has no image "
            f"({' '.join(sorted(SUFFIXES))}){there}; add images or remove the folder"
        )


def _template(layout: FolderLayout) -> str:
    if layout.settings.template is not None:
        return layout.settings.template
    return PLAIN_TEMPLATE if layout.split_file is None else template_of(layout.split_file)


def _content(root: Path, paths: Iterable[str], *, listed: bool) -> str:
    """Fingerprint (16 hex digits) of the files: path, size, first and last 4 KiB; above 100,000
    files only path and size.

    Unlike time stamps, it survives copying the tree; unlike sizes alone, it detects re-encoded
    images. Raises ValueError naming the first missing file and how many are missing; ``listed`` by
    a split file, or else found in the tree.
    """
    ordered = sorted(set(paths))
    missing: list[str] = []
    digest = hashlib.sha256()
    look_inside = len(ordered) <= _SAMPLED_FILES
    for path in ordered:
        try:
            digest.update(_sample(root / path, path, look_inside))
        except OSError:
            missing.append(path)
    if missing:
        numbers = f"{len(missing)} of {len(ordered)}"
        raise ValueError(
            f"{root}: {numbers} listed images are missing or unreadable, first {missing[0]}; "
            "complete the download or correct the split file"
            if listed
            else f"{root}: {numbers} images cannot be read, first {missing[0]} (a broken link, a "
            "pipe or a file without permission); mend or remove it"
        )
    return digest.hexdigest()[:16]


def _sample(file: Path, path: str, look_inside: bool) -> bytes:
    found = os.stat(file)
    if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
        raise OSError(f"{file} is not a regular file")
    size = found.st_size
    head = f"\0{path}\0{size}\0".encode("utf-8", "surrogateescape")
    if not look_inside:
        return head
    with open(file, "rb", buffering=0) as raw:
        start = raw.read(_SAMPLE_BYTES)
        raw.seek(max(len(start), size - _SAMPLE_BYTES))
        return head + start + raw.read(_SAMPLE_BYTES)
