"""Names of datasets: one canonical name for each, whatever was typed. Standard library only.

A tree on disk is ``folder/<path below the data root>`` if it lies there, and ``folder//<absolute
path>`` if it does not. Links, ``.``, ``..``, ``~``, repeated and trailing slashes are resolved,
with one exception: a link below the data root to a place outside keeps its own name. Two names mean
the same dataset if they lead to the same folder; ``one_name_each`` gives them one name.
"""

import os
from collections.abc import Hashable, Iterable
from pathlib import Path, PurePosixPath

FOLDER = "folder"


def data_root(root: Path | None) -> Path:
    """The folder in which datasets are looked up: the working folder unless one is given."""
    return Path.cwd() if root is None else root.expanduser().absolute()


def canonical_name(name: str, root: Path | None) -> str:
    """The one name of a dataset. A name that stands for no dataset is not changed.

    Raises ValueError where a relative path leaves the data root.
    """
    family, _, rest = name.partition("/")
    if family == FOLDER and rest:
        return f"{FOLDER}/{_path_text(name, rest, data_root(root))}"
    return PurePosixPath(name).as_posix() if rest.strip("/") else name


def folder_path(name: str, root: Path | None) -> Path:
    """The folder of a canonical ``folder/<path>``."""
    return data_root(root) / name.removeprefix(f"{FOLDER}/")


def require_below_root(name: str, root: Path | None) -> str:
    """The canonical name of a dataset of a configuration that the person did not write.

    Raises ValueError for a folder that such a file may not choose: one outside the data root.
    """
    found = canonical_name(name, root)
    if (
        found.startswith(f"{FOLDER}/")
        and PurePosixPath(found.removeprefix(f"{FOLDER}/")).is_absolute()
    ):
        raise ValueError(
            f"dataset {name!r} is outside the data root {data_root(root)}; to read it, give a "
            "data root that contains it (--data-root)"
        )
    return found


def one_name_each(names: Iterable[str], root: Path | None) -> dict[str, str]:
    """Every name with its dataset's canonical name, the same for names of the same folder.

    A name below the data root is preferred to an absolute one. Raises ValueError where a relative
    path leaves the data root.
    """
    own = {name: canonical_name(name, root) for name in dict.fromkeys(names)}
    ordered = sorted(own.values(), key=lambda name: name.startswith(f"{FOLDER}//"))
    first: dict[Hashable, str] = {}
    for name in ordered:
        first.setdefault(_place(name, root), name)
    return {name: first[_place(found, root)] for name, found in own.items()}


def _path_text(name: str, rest: str, root: Path) -> str:
    """The path of a canonical name: below ``root`` where the folder is there, else absolute."""
    given = Path(os.path.expanduser(rest))
    path = root / given
    resolved, home = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    if ".." in path.parts:
        path = resolved
    for found, above in ((resolved, home), (path, root), (path, home)):
        if found.is_relative_to(above):
            return found.relative_to(above).as_posix()
    if not given.is_absolute():
        raise ValueError(
            f"dataset {name!r} leaves the data root {root}; give another --data-root, or the "
            f"absolute path, {FOLDER}/{resolved.as_posix()}"
        )
    return resolved.as_posix()


def _place(name: str, root: Path | None) -> Hashable:
    """What two names of one dataset have in common: the file system's identity of a folder."""
    if not name.startswith(f"{FOLDER}/"):
        return name
    path = folder_path(name, root)
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino
