"""Which files of a tree are images, and what else is in it."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from core.data.reading import by_suffix, counted

# Formats that every build of Pillow reads. AVIF, JPEG 2000 and HEIC need libraries or plugins that
# not every machine has: the same tree would be another dataset there.
_READ = ".bmp .gif .jfif .jpe .jpeg .jpg .pgm .png .ppm .tif .tiff .webp"
_UNREAD = (
    ".arw .avif .avifs .cr2 .cr3 .dng .eps .exr .heic .heif .ico .j2k .jp2 .jxl .nef .pbm .pcx "
    ".pnm .psd .qoi .raw .svg .tga .xpm"
)
SUFFIXES = frozenset(_READ.split())
_UNREAD_IMAGES = frozenset(_UNREAD.split())
# Names of folders that say that they hold the images.
_CONTAINER = "images image imgs img jpg jpeg jpegs jpegimages png pngs pictures photos frames data"
CONTAINERS = frozenset(_CONTAINER.split())
_SYSTEM = (
    "thumbs.db, ehthumbs.db, desktop.ini, icon\r, __macosx, __pycache__, $recycle.bin, @eadir, "
    "lost+found, system volume information"
)
_SYSTEM_NAMES = frozenset(_SYSTEM.split(", "))


@dataclass(slots=True)
class Ignored:
    """What was passed over below some folders."""

    by_suffix: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    linked_folders: int = 0

    def lines(self) -> list[str]:
        """One line for each reason."""
        images = {s: n for s, n in self.by_suffix.items() if s in _UNREAD_IMAGES}
        others = {s: n for s, n in self.by_suffix.items() if s not in _UNREAD_IMAGES}
        found = []
        if images:
            found.append(
                f"{by_suffix(images)}: image formats that are not read; convert them to .png or "
                ".jpg to use them"
            )
        if others:
            found.append(f"{by_suffix(others)}: not images ({' '.join(sorted(SUFFIXES))})")
        if self.hidden:
            found.append(f"{counted(self.hidden, 'hidden or system file')}")
        if self.linked_folders:
            found.append(
                f"{counted(self.linked_folders, 'link')} to folders below a class folder: links "
                "are not followed"
            )
        return found


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or was left by an operating system."""
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES


def is_image(name: str) -> bool:
    """Whether a file name is that of an image: not hidden, with one of ``SUFFIXES``."""
    return not is_system(name) and os.path.splitext(name)[1].lower() in SUFFIXES


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted by code point, without hidden and system ones."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not is_system(e.name))


def files_in(folder: Path) -> list[str]:
    """Names of everything in a folder that is not a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.is_dir())


def images_below(root: Path, folder: str, ignored: Ignored) -> list[str]:
    """Image paths below ``root/folder`` at any depth, relative to ``root``, sorted; everything
    else is counted in ``ignored``.
    """
    found: list[str] = []
    for here, _, files in _walk(root / folder, ignored):
        prefix = Path(here).relative_to(root).as_posix()
        for name in files:
            if is_image(name):
                found.append(f"{prefix}/{name}" if prefix != "." else name)
            elif is_system(name):
                ignored.hidden += 1
            else:
                ignored.by_suffix[os.path.splitext(name)[1].lower()] += 1
    return sorted(found)


def has_images(folder: Path) -> bool:
    """Whether there is an image at any depth below a folder; stops at the first one."""
    return any(is_image(name) for _, _, files in _walk(folder, Ignored()) for name in files)


def has_direct_images(folder: Path) -> bool:
    """Whether there is an image in a folder itself."""
    with os.scandir(folder) as entries:
        return any(is_image(e.name) and not e.is_dir() for e in entries)


def _refuse(error: OSError) -> None:
    """Raises ValueError where a folder cannot be listed: its images would be left out silently."""
    raise ValueError(f"folder {error.filename} cannot be listed: {error.strerror}") from error


def _walk(folder: Path, ignored: Ignored) -> Iterator[tuple[str, list[str], list[str]]]:
    for here, folders, files in os.walk(folder, onerror=_refuse):
        kept = [name for name in folders if not is_system(name)]
        ignored.linked_folders += sum(os.path.islink(os.path.join(here, name)) for name in kept)
        folders[:] = kept
        yield here, folders, files
