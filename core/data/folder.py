"""Datasets from image folders: with a published split file, as train/val/test folders, or just
class/image.

Three layouts, recognized in this order (``find_layout`` says which):

* ``split``: exactly one ``split_zhou_*.json`` in the given folder, or in its parent when the given
  folder is the image folder it lists. The image folder is the given folder or the one direct
  sub-folder that holds the listed files. The file is the only source of names, labels, order and
  lists; suffixes do not matter.
* ``parts``: the only sub-folders are ``train`` and ``test``, optionally ``val``; below each
  ``class/image``. Classes are those of all parts, sorted by code point.
* ``classes``: ``class/image``; classes sorted by code point; split by a seed, 50/20/30 within each
  class unless specified otherwise.

In the last two an image is a file, at any depth below its class folder, with one of ``SUFFIXES`` in
any case; other files, hidden names and links to folders below a class folder are ignored. Nothing
is ever written below the data root. A ``refinelab.json`` beside the images or the split file may
give the prompt ``template``.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from core.config import OneSlot
from core.data.benchmarks.definitions import PLAIN_TEMPLATE
from core.data.dataset import Dataset, Item
from core.data.images import open_rgb
from core.data.split_file import PREFIX, read_split, template_of
from core.data.splits import SplitFractions, cut_classes

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
SETTINGS_NAME = "refinelab.json"
PART_FOLDERS = ("train", "val", "test")

_PROBES = 32  # listed files looked up to find out which sub-folder is the image folder
_SAMPLED_FILES = 100_000  # up to this many files, content fingerprints look into the files
_SAMPLE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderReader:
    """Reads images below ``root``; see ``core.data.images`` for unusual pixel formats."""

    root: Path

    def read(self, path: str) -> Image.Image:
        return open_rgb(self.root / path)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderLayout:
    """How a folder will be read. Item paths are relative to ``images``; ``home`` may hold the
    settings.
    """

    kind: Literal["split", "parts", "classes"]
    home: Path
    images: Path
    split_file: Path | None = None

    def describe(self) -> str:
        """A readable line: the kind and the paths by which it was recognized."""
        if self.split_file is not None:
            return f"split file {self.split_file}, images below {self.images}"
        if self.kind == "parts":
            return f"train/val/test folders of class folders below {self.images}"
        return f"class folders below {self.images}, split by RefineLab (no split file)"


def read_folder(
    path: Path,
    *,
    name: str | None = None,
    template: str | None = None,
    fractions: SplitFractions | None = None,
    split_seed: int = 0,
) -> Dataset:
    """Read a tree on disk. Every listed file must exist; none is decoded yet.

    ``name`` defaults to ``folder/<folder name>``. ``template`` defaults to that of
    ``refinelab.json``, then to the published one of the split file's name, then to "a photo of a
    {}.". ``fractions`` and ``split_seed`` matter only for the ``classes`` layout.

    Raises ValueError, one line, for a missing folder, an empty class, missing files (the first and
    how many), a malformed split file or template, or an ambiguous folder.
    """
    layout = find_layout(path)
    if layout.split_file is not None:
        split = read_split(layout.split_file)
        class_names, lists = split.class_names, (split.train, split.val, split.test)
        paths = split.paths()
    else:
        class_names, lists = _list_tree(layout, fractions or SplitFractions(), split_seed)
        paths = [item.path for part in lists for item in part]
    train, val, test = lists
    return Dataset(
        name=name or f"folder/{layout.home.resolve().name}",
        class_names=class_names,
        template=_template(layout) if template is None else require_template(template, str(path)),
        train=train,
        val=val,
        test=test,
        reader=FolderReader(root=layout.images),
        content=_content(layout.images, paths),
    )


def find_layout(path: Path) -> FolderLayout:
    """Recognize a folder's layout.

    Raises ValueError when it is not a folder or its layout is ambiguous.
    """
    if not path.is_dir():
        raise ValueError(
            f"data folder {path} does not exist or is not a folder; check the name and the root"
        )
    if (own := _split_file_in(path)) is not None:
        return FolderLayout(
            kind="split", home=path, images=_image_folder(path, own), split_file=own
        )
    parent = path.resolve().parent
    above = _split_file_in(parent, several_is_none=True)
    if above is not None and _num_present(path, read_split(above).paths()):
        return FolderLayout(kind="split", home=parent, images=path, split_file=above)
    folders = set(_subfolders(path))
    if {"train", "test"} <= folders <= set(PART_FOLDERS):
        return FolderLayout(kind="parts", home=path, images=path)
    if folders == {"train", "val"}:
        raise ValueError(
            f"{path} has train/ and val/ but no test/; rename the part to test on to test/"
        )
    return FolderLayout(kind="classes", home=path, images=path)


def _split_file_in(folder: Path, *, several_is_none: bool = False) -> Path | None:
    found = sorted(folder.glob(f"{PREFIX}*.json"))
    if len(found) > 1 and not several_is_none:
        names = ", ".join(file.name for file in found)
        raise ValueError(
            f"{folder} holds {len(found)} split files ({names}); keep exactly one there"
        )
    return found[0] if len(found) == 1 else None


def _image_folder(home: Path, split_file: Path) -> Path:
    """The folder to which the listed paths are relative: the one below which most of a sample of
    them exist.
    """
    paths = read_split(split_file).paths()
    candidates = [home, *(home / folder for folder in _subfolders(home))]
    counts = [_num_present(candidate, paths) for candidate in candidates]
    if not any(counts):
        raise ValueError(
            f"none of the {len(paths)} files listed in {split_file} was found below {home} or its "
            f"sub-folders, first {paths[0]}; put the image folder beside the split file"
        )
    return candidates[counts.index(max(counts))]


def _num_present(folder: Path, paths: Sequence[str]) -> int:
    step = max(1, len(paths) // _PROBES)
    return sum((folder / path).is_file() for path in paths[::step])


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _list_tree(
    layout: FolderLayout, fractions: SplitFractions, split_seed: int
) -> tuple[tuple[str, ...], tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]]]:
    """Class names and the train, val and test items of a tree without a split file."""
    if layout.kind == "classes":
        names = _subfolders(layout.images)
        members = {name: _images_of(layout.images, f"{name}") for name in names}
        _require_images(members, layout.images)
        return tuple(names), cut_classes(members, fractions, split_seed)
    found = {part: _subfolders(layout.images / part) for part in _subfolders(layout.images)}
    names = sorted({name for part in found.values() for name in part})
    if untrained := sorted(set(names) - set(found["train"])):
        raise ValueError(
            f"{layout.images}: class {untrained[0]!r} ({len(untrained)} in all) has no folder in "
            "train/; add it or remove it from the other parts"
        )
    lists = []
    for part in PART_FOLDERS:
        members = {n: _images_of(layout.images, f"{part}/{n}") for n in found.get(part, [])}
        _require_images(members, layout.images / part)
        lists.append(
            tuple(Item(p, label) for label, n in enumerate(names) for p in members.get(n, ()))
        )
    return tuple(names), (lists[0], lists[1], lists[2])


def _images_of(root: Path, folder: str) -> list[str]:
    """Image paths below ``root/folder`` at any depth, relative to ``root``, sorted."""
    found: list[str] = []
    for here, folders, files in os.walk(root / folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = Path(here).relative_to(root).as_posix()
        found += [f"{prefix}/{name}" for name in files if _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _require_images(members: dict[str, list[str]], where: Path) -> None:
    if not members:
        raise ValueError(f"{where} has no class folders; expected {where}/<class>/<image>")
    if empty := [name for name, images in members.items() if not images]:
        raise ValueError(
            f"{where}: class folder {empty[0]!r} ({len(empty)} in all) has no image "
            f"({' '.join(sorted(SUFFIXES))}); add images or remove the folder"
        )


def _template(layout: FolderLayout) -> str:
    settings = layout.home / SETTINGS_NAME
    if settings.is_file():
        try:
            template = json.loads(settings.read_text(encoding="utf-8")).get("template")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{settings} must be a JSON object: {error}") from error
        if template is not None:
            return require_template(template, str(settings))
    return PLAIN_TEMPLATE if layout.split_file is None else template_of(layout.split_file)


def require_template(template: object, where: str) -> str:
    """The template. Raises ValueError unless it is text with one ``{}`` and no other brace."""
    if not isinstance(template, str) or not OneSlot().allows(template):
        raise ValueError(f"{where}: template must be text with one {{}}, got {template!r}")
    return template


def _content(root: Path, paths: Iterable[str]) -> str:
    """Fingerprint (16 hex digits) of the files: path, size, first and last 4 KiB; above 100,000
    files only path and size.

    Unlike time stamps, it survives copying the tree; unlike sizes alone, it detects re-encoded
    images. Raises ValueError naming the first missing file and how many are missing.
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
        raise ValueError(
            f"{root}: {len(missing)} of {len(ordered)} listed images are missing or unreadable, "
            f"first {missing[0]}; complete the download or correct the split file"
        )
    return digest.hexdigest()[:16]


def _sample(file: Path, path: str, look_inside: bool) -> bytes:
    size = os.stat(file).st_size
    head = f"\0{path}\0{size}\0".encode()
    if not look_inside:
        return head
    with open(file, "rb", buffering=0) as raw:
        start = raw.read(_SAMPLE_BYTES)
        raw.seek(max(len(start), size - _SAMPLE_BYTES))
        return head + start + raw.read(_SAMPLE_BYTES)
