"""Hashes of the project's own code that an earlier process computed, kept as Python keeps compiled
modules: beside them, and thrown away as soon as any source file is another one.

To read every file takes a twentieth of the time of parsing those that a run executes. What is kept
belongs to one content of all source files together, and to one version of Python.
"""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.source.tree import SourceTree
from core.store.documents import read_document, write_document

VERSION = 1
FILE_NAME = "code_hashes.json"
COMPILED = "__pycache__"


class KnownHashes:
    """The hash of a class with all that it calls, by its key; empty where nothing is kept.

    ``fingerprint`` is that of the source files, "" where there is none and nothing is kept.
    """

    def __init__(self, file: Path, fingerprint: str) -> None:
        self.file, self.fingerprint = file, fingerprint
        self._hashes: dict[str, str] = {}
        self._is_new = False
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = read_document(file, VERSION, remedy="it is made again")
            if fingerprint and found["fingerprint"] == fingerprint:
                self._hashes = {str(key): str(value) for key, value in found["hashes"].items()}

    def get(self, key: str) -> str | None:
        """The hash of a class, None where it is not known."""
        return self._hashes.get(key)

    def add(self, key: str, value: str) -> None:
        """Learn the hash of a class."""
        self._is_new |= bool(self.fingerprint)
        self._hashes[key] = value

    def save(self) -> None:
        """Keep what is new for later processes, where that is possible."""
        if self._is_new:
            document: dict[str, Any] = {"fingerprint": self.fingerprint, "hashes": self._hashes}
            with suppress(OSError):
                write_document(self.file, VERSION, document)
        self._is_new = False


def hashes_file() -> Path:
    """Where hashes are kept: where Python keeps what it compiled of this module."""
    return Path(importlib.util.cache_from_source(__file__)).with_name(FILE_NAME)


def read_all(tree: SourceTree, packages: Iterable[str]) -> str:
    """Read every source file of these packages below the tree's folder now, so that a later change
    is not seen; returns a fingerprint of the names and contents of all files, "" where a link to a
    folder hides some.
    """
    found = hashlib.sha256(repr((VERSION, sys.version_info[:3])).encode())
    for package in sorted(packages):
        beside = tree.home / f"{package}.py"
        try:
            paths = [*_files(str(tree.home / package)), *([str(beside)] * beside.exists())]
        except NotADirectoryError:
            return ""
        for path in paths:
            source = tree.keep(Path(path)) if _is_source(path) else ""
            name = path.removeprefix(str(tree.home))
            found.update(repr((name, len(source))).encode("utf-8", "surrogatepass"))
            found.update(source.encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def _is_source(path: str) -> bool:
    """Whether a module could be read from a file: a name without an ending is one as well."""
    return path.endswith(".py") or "." not in os.path.basename(path)


def _files(folder: str) -> Iterator[str]:
    """Every file and folder in a folder and below, in order, without what Python compiled.

    Raises NotADirectoryError for a link to a folder.
    """
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name == COMPILED:
            continue
        yield entry.path
        if entry.is_dir():
            if entry.is_symlink():
                raise NotADirectoryError(entry.path)
            yield from _files(entry.path)
