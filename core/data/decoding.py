"""Whether images can be decoded: each file is opened once, and the result is kept.

``cache_dir/decoded/<image folder>.json`` remembers for every file its size, its times (modification
and change) and, where it cannot be read, why; a file whose size or times differ is opened again,
and so is one that could not be read. It carries a checksum, and a damaged one is rebuilt.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from core.data.dataset import Dataset, ImageReader
from core.data.folder import FolderReader
from core.data.reading import counted
from core.data.validation_only import RestrictedReader
from core.machine import available_cores
from core.store.atomic import write_atomic
from core.streams import printable

MAX_THREADS = 8
_VERSION = 1
_PER_CALL = 64
_SHOWN = 3

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
_Stamp = tuple[int, int, int]
_Known = dict[str, tuple[_Stamp, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """The images of a dataset that were asked for: how many, why some cannot be read (by path), and
    how many have not been opened yet.
    """

    name: str
    total: int
    unreadable: Mapping[str, str]
    unopened: int = 0

    def problem(self) -> str:
        """One line with the number and the first files, or ""."""
        if not self.unreadable:
            return ""
        bad = list(self.unreadable)
        others = "".join(f", {printable(path)}" for path in bad[1:_SHOWN])
        more = ", ..." if len(bad) > _SHOWN else ""
        also = f"; also {others.removeprefix(', ')}{more}" if others else ""
        return (
            f"{len(bad)} of {counted(self.total, 'image')} cannot be read, first: "
            f"{printable(self.unreadable[bad[0]])}{also}"
        )


def decode_all(
    dataset: Dataset,
    paths: Iterable[str],
    cache_dir: Path,
    *,
    progress: Progress | None = None,
    limit: int | None = None,
) -> Decoded:
    """Open every image that is not known from an earlier call, in parallel.

    ``progress(done, total)`` counts the images that are opened. With more than ``limit`` of them
    none is opened, and ``unopened`` says how many. Images that are not files (rendered ones) count
    as readable.
    """
    wanted = list(dict.fromkeys(paths))
    reader = folder_reader(dataset.reader)
    if reader is None:
        return Decoded(name=dataset.name, total=len(wanted), unreadable={})
    root = reader.root
    file = _file_of(root, cache_dir)
    stamps = {path: _stamp(root / path) for path in wanted}
    known = {path: row for path, row in _read(file).items() if stamps.get(path) == row[0]}
    # what failed is tried again: the disk or the memory may have been the reason
    new = [path for path in wanted if path not in known or known[path][1]]
    unopened = len(new) if limit is not None and len(new) > limit else 0
    if new and not unopened:
        opened: dict[str, str] = {}
        try:
            _open(reader, new, opened, progress or _no_progress)
        finally:  # what was opened before Ctrl-C is kept, too
            found = {path: (stamps[path], message) for path, message in opened.items()}
            _write(file, root, {**_read(file), **found})
        known |= found
    unreadable = {path: known[path][1] for path in wanted if path in known and known[path][1]}
    return Decoded(name=dataset.name, total=len(wanted), unreadable=unreadable, unopened=unopened)


def folder_reader(reader: ImageReader) -> FolderReader | None:
    """The reader of files behind a reader; None for images that are not files."""
    if isinstance(reader, RestrictedReader):
        return folder_reader(reader.reader)
    return reader if isinstance(reader, FolderReader) else None


def _no_progress(done: int, total: int) -> None:
    return


def _open(
    reader: FolderReader, paths: Sequence[str], opened: dict[str, str], progress: Progress
) -> None:
    """Add to ``opened`` why each image cannot be read, "" for one that can."""
    pieces = [paths[n : n + _PER_CALL] for n in range(0, len(paths), _PER_CALL)]
    pool = ThreadPoolExecutor(min(MAX_THREADS, available_cores()), "decode")
    try:
        for piece in pool.map(lambda some: [(p, _problem(reader, p)) for p in some], pieces):
            opened.update(piece)
            progress(len(opened), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)


def _problem(reader: FolderReader, path: str) -> str:
    try:
        reader.read(path)
    except ValueError as error:
        return str(error)
    return ""


def _stamp(file: Path) -> _Stamp:
    try:
        found = os.stat(file)
    except OSError:
        return (-1, 0, 0)
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _file_of(root: Path, cache_dir: Path) -> Path:
    key = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:16]
    return cache_dir / "decoded" / f"{key}.json"


def _read(file: Path) -> _Known:
    """What was kept; nothing for a file that is absent, damaged or of another version."""
    try:
        head, _, body = file.read_text(encoding="utf-8").partition("\n")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        log.warning("%s cannot be read (%s); the images are opened again", file, error)
        return {}
    if head != _checksum(body):
        log.warning("%s is damaged; the images are opened again", file)
        return {}
    document = json.loads(body)
    if document["version"] != _VERSION:
        return {}
    return {path: ((row[0], row[1], row[2]), row[3]) for path, row in document["files"].items()}


def _write(file: Path, root: Path, known: _Known) -> None:
    files = {path: [*stamp, message] for path, (stamp, message) in known.items()}
    document = {"version": _VERSION, "root": str(root), "files": files}
    body = json.dumps(document, separators=(",", ":"))
    try:
        write_atomic(file, f"{_checksum(body)}\n{body}")
    except OSError as error:
        log.warning("what was opened is not kept, %s cannot be written (%s)", file, error)


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
