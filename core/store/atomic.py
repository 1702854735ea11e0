"""Writing a file so that a reader, or a killed process, never sees half of it."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.store.names import DAMAGED_SUFFIX

UMASK = os.umask(0o077)  # the umask can only be read by setting it
os.umask(UMASK)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file so that it always has either the old or the new content, even after a kill."""
    with _written_beside(path, data) as temporary:
        os.replace(temporary, path)


def write_new(path: Path, data: str | bytes) -> bool:
    """Write a file unless there is one already, whoever writes at the same time; returns whether
    this call wrote it. Raises OSError where the file system has no hard links.
    """
    with _written_beside(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        return True


@contextmanager
def _written_beside(path: Path, data: str | bytes) -> Iterator[str]:
    """A temporary file of this content in the folder of a file; removed in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, 0o666 & ~UMASK)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        Path(temporary).unlink(missing_ok=True)


def keep_copy(path: Path) -> Path:
    """Copy a damaged file to ``NAME.damaged`` beside it, or ``NAME.damaged.2``, ...; returns the
    copy. An earlier copy of other content is never overwritten.
    """
    data = path.read_bytes()
    for number in itertools.count(1):
        more = "" if number == 1 else f".{number}"
        copy = path.with_name(f"{path.name}{DAMAGED_SUFFIX}{more}")
        if not copy.exists():
            write_atomic(copy, data)
            return copy
        if copy.read_bytes() == data:
            return copy
    raise AssertionError("there is always another number")


def check_folder(folder: Path, option: str) -> None:
    """Raise ValueError where files could not be written into a folder that may not exist yet."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{option} must be a folder, but {folder} is a file; name another place")
    _check_parent(folder, option)


def check_file(path: Path, option: str) -> None:
    """Raise ValueError where a file could not be written."""
    if path.is_dir():
        raise ValueError(f"{option} must be a file, but {path} is a folder; name a file in it")
    _check_parent(path.parent, option)


def _check_parent(folder: Path, option: str) -> None:
    """Raise ValueError where nothing can be created in a folder, or in what exists of its path."""
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return
    except OSError as error:
        raise ValueError(
            f"{option}: cannot write into {existing} ({error.strerror}); name another place"
        ) from None
