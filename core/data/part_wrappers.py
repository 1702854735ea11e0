"""What the folders of the parts hold: class folders, one wrapper around them, or nothing."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from core.data.dataset import SplitName
from core.data.image_files import CONTAINERS, has_direct_images, has_images, is_system, subfolders
from core.data.split_file import PREFIX
from core.streams import printable

_MAX_WRAPPERS = 8


def class_places(
    images: Path, parts: Mapping[SplitName, str]
) -> tuple[dict[SplitName, str], list[str]]:
    """For each part the folder, below ``images``, that holds its class folders, and notes.

    A part with nothing but one folder of folders is read through it (``seg_train/seg_train/``),
    unless that folder is a class in another part. A validation part with nothing in it is left out.
    Raises ValueError for a part with its images directly in one folder.
    """
    notes = []
    kept = dict(parts)
    if "val" in kept and _is_empty(images / kept["val"]):
        notes.append(f"{printable(kept.pop('val'))}/ is empty and is left out: there is no val")
    places = dict(kept)
    for _ in range(_MAX_WRAPPERS):
        wrapped = _wrapped(images, places)
        _require_class_folders(images, [p for p in places.values() if not subfolders(images / p)])
        if len(wrapped) < len(places):
            named = [p for p in wrapped.values() if PurePath(p).name.casefold() in CONTAINERS]
            _require_class_folders(images, named)
        deeper = {p: place for p, place in wrapped.items() if _holds_class_folders(images / place)}
        if not deeper:
            break
        places.update(deeper)
    notes += [
        f"{printable(place)}/ is the only folder of images in {printable(kept[part])}/, and is "
        "read in its place"
        for part, place in places.items()
        if place != kept[part]
    ]
    return places, notes


def _wrapped(images: Path, places: Mapping[SplitName, str]) -> dict[SplitName, str]:
    """The only folder of each part that holds nothing else, unless it is a class in another."""
    inside = {part: subfolders(images / place) for part, place in places.items()}
    return {
        part: f"{place}/{inside[part][0]}"
        for part, place in places.items()
        if len(inside[part]) == 1
        and not has_direct_images(images / place)
        and all(len(found) == 1 or inside[part][0] not in found for found in inside.values())
    }


def _require_class_folders(images: Path, places: Iterable[str]) -> None:
    for place in places:
        if has_direct_images(images / place):
            raise ValueError(
                f"{images / place} holds images directly; expected {images / place}/<class>/"
                f"<image>, or a split file {PREFIX}<Name>.json that lists them"
            )


def _holds_class_folders(folder: Path) -> bool:
    inner = subfolders(folder)
    return not has_direct_images(folder) and any(has_images(folder / name) for name in inner)


def _is_empty(folder: Path) -> bool:
    """Whether there is no file below a folder, but for hidden and system ones."""
    return all(is_system(path.name) or path.is_dir() for path in folder.rglob("*"))
