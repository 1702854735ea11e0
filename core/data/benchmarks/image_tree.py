"""The files of an image folder, from one listing per folder, kept in an index in the cache.

A dataset has up to a thousand times more images than folders, so existence is looked up in folder
listings, never file by file. The index remembers each listing with the folder's times (modification
and change) and lists a folder again when one of them differs; adding, removing and renaming a file
all change them. It cannot detect an image overwritten in place under the same name: relist after
that, as ``data check`` does. A listing made within two seconds of the folder's last change is not
kept, since a further change might have the same time.

Names are always sorted by code point; the file system's own order has no effect.
"""

import hashlib
import json
import logging
import os
import stat
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.store.atomic import write_atomic
from core.store.documents import DIGEST, digest_of, parse_json, with_digest

log = logging.getLogger(__name__)

_VERSION = 2  # 1 had no digest
_SETTLED_NS = 2 * 10**9
_BROKEN, _FOLDER = -1, -2  # instead of a size: a dead link, a folder

_Listing = dict[str, int]


class ImageTree:
    """Lists the folders below ``root``; paths are relative to it, with ``/``.

    ``cache_dir`` keeps the index; None lists the disk every time. ``relist`` ignores the content of
    the index.
    """

    def __init__(self, root: Path, cache_dir: Path | None = None, *, relist: bool = False) -> None:
        self.root = root
        self._file = None if cache_dir is None else _index_file(root, cache_dir)
        self._known = _read_index(self._file) if self._file and not relist else {}
        self._listings: dict[str, _Listing] = {}
        self._changed = False

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder, sorted, without hidden ones."""
        return self._names(folder, wanted=True)

    def files(self, folder: str = "") -> list[str]:
        """Names of everything else in it, including dead links, sorted, without hidden ones."""
        return self._names(folder, wanted=False)

    def sizes(self, paths: Sequence[str]) -> list[int]:
        """The size of each file in bytes, a negative number if there is no such file."""
        sizes, last, listing = [], None, {}
        for path in paths:
            folder, _, name = path.rpartition("/")
            if folder != last:
                last, listing = folder, self._list(folder)
            sizes.append(listing.get(name, _BROKEN))
        return sizes

    def near(self, path: str) -> str | None:
        """A name in the same folder that differs from the path's only in case or in the encoding of
        accents, or None.
        """
        folder, _, name = path.rpartition("/")
        same = [other for other in self._list(folder) if _folded(other) == _folded(name)]
        return next((other for other in same if other != name), None)

    def save(self) -> None:
        """Write the index if it has changed."""
        if self._file is not None and self._changed:
            document = {"version": _VERSION, "root": str(self.root), "folders": self._known}
            text = json.dumps(with_digest(document), separators=(",", ":"))
            try:
                write_atomic(self._file, text)
            except OSError as error:
                log.warning("the index %s cannot be written (%s)", self._file, error)
            self._changed = False

    def _names(self, folder: str, *, wanted: bool) -> list[str]:
        listing = self._list(folder)
        return sorted(
            name
            for name, size in listing.items()
            if (size == _FOLDER) == wanted and not name.startswith(".")
        )

    def _list(self, folder: str) -> _Listing:
        if folder not in self._listings:
            self._listings[folder] = self._look(folder)
        return self._listings[folder]

    def _look(self, folder: str) -> _Listing:
        path = self.root / folder if folder else self.root
        try:
            before = os.stat(path)
            times = [before.st_mtime_ns, before.st_ctime_ns]
            known = self._known.get(folder)
            if known is not None and known[:2] == times:
                listing: _Listing = known[2]
                return listing
            listed_at = time.time_ns()
            listing = _scan(path)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise ValueError(f"folder {path} cannot be listed: {error.strerror}") from error
        if listed_at - max(times) > _SETTLED_NS:
            self._known[folder] = [*times, listing]
            self._changed = True
        elif self._known.pop(folder, None) is not None:
            self._changed = True
        return listing


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _scan(path: Path) -> _Listing:
    listing: _Listing = {}
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                found = entry.stat()
            except OSError:
                listing[entry.name] = _BROKEN
                continue
            listing[entry.name] = _FOLDER if stat.S_ISDIR(found.st_mode) else found.st_size
    return listing


def _index_file(root: Path, cache_dir: Path) -> Path:
    key = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:16]
    return cache_dir / "indexes" / f"{root.name}-{key}.json"


def _read_index(file: Path) -> dict[str, list[Any]]:
    """The stored index; an absent or older one is read as empty, and so is a damaged one, with a
    warning.
    """
    try:
        document = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        document = None
    if isinstance(document, dict) and document.get("version") != _VERSION:
        return {}
    if not isinstance(document, dict) or document.get(DIGEST) != digest_of(document):
        log.warning("the index %s is damaged; the folders are listed again", file)
        return {}
    folders: dict[str, list[Any]] = document["folders"]
    return folders
