"""Faults of the storage, as opposed to those of what is stored: a full disk, a lost folder."""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

# Errors of a device or a file system: they say nothing about the run that met them.
STORAGE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EIO})
FOLDER_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR})


def storage_problem(error: BaseException, home: Path | None = None) -> str:
    """One line on a fault of the storage behind an error, or nothing where there is none.

    ``home`` is a folder that must be writable: a refusal below it counts as well, and so does its
    absence.
    """
    if home is not None and (lost := vanished(home)):
        return lost
    for cause in causes(error):
        if isinstance(cause, OSError):
            refused = cause.errno in FOLDER_ERRORS and _is_below(cause.filename, home)
            if refused or cause.errno in STORAGE_ERRORS:
                return describe_os_error(cause)
    return ""


def vanished(home: Path, mark: str = "") -> str:
    """One line on a folder that is no longer there, or nothing. Without the file ``mark`` it is
    another one, such as a run makes that writes its results into a folder that was removed.
    """
    if not home.is_dir():
        return f"the folder {home} has vanished"
    if mark and not (home / mark).exists():
        return f"the folder {home} has vanished: what is there now has no {mark}"
    return ""


LONGEST_NAME = 200


def describe_os_error(error: OSError) -> str:
    """An error of the system as one line: what is wrong, and with which file."""
    if error.strerror is None:
        return str(error) or type(error).__name__
    reason = error.strerror[:1].lower() + error.strerror[1:]
    names = [_short(str(n)) for n in (error.filename, error.filename2) if n is not None]
    return f"{reason}: {' -> '.join(names)}" if names else reason


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that caused it."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _is_below(name: object, home: Path | None) -> bool:
    if home is None or not isinstance(name, str | bytes | Path):
        return False
    text = name.decode(errors="surrogateescape") if isinstance(name, bytes) else name
    return Path(text).absolute().is_relative_to(home.absolute())


def free_below(folder: Path) -> int:
    """The bytes that are free where a folder is or will be."""
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(place).free
