"""Data sets by name: ``<family>/<rest>``. A new family is one loader in ``_FAMILIES``."""

import difflib
from collections.abc import Callable
from pathlib import Path

from core.data.dataset import Dataset
from core.data.digits import NAME as DIGITS
from core.data.digits import load_digits
from core.data.folder import read_folder

_Loader = Callable[[str, Path | None, Path], Dataset]


def load_dataset(name: str, *, root: Path | None, cache_dir: Path) -> Dataset:
    """The data set of a name.

    * ``mosaic/<set>``: drawn by the embedded benchmark; ``cache_dir`` keeps what it has drawn.
    * ``sklearn/digits``: handwritten digits that come with scikit-learn.
    * ``folder/<path>``: a tree on disk, absolute or below ``root`` (below the working folder
      without one).

    Raises ValueError, one line, for an unknown name or a tree that cannot be read.
    """
    family, _, rest = name.partition("/")
    if family not in _FAMILIES or not rest:
        raise ValueError(_unknown(name))
    return _FAMILIES[family](rest, root, cache_dir)


def dataset_names() -> list[tuple[str, str]]:
    """Every name with one line of help; ``folder/<path>`` stands for all trees on disk."""
    return [
        *((f"mosaic/{name}", "embedded benchmark, drawn on demand") for name in _mosaic_names()),
        (DIGITS, "1797 real handwritten digits of 8 x 8 pixels, 10 classes; nothing to download"),
        (
            "folder/<path>",
            "a tree on disk: split_zhou_*.json, train/val/test folders, or class/image",
        ),
    ]


def _unknown(name: str) -> str:
    known = [n for n, _ in dataset_names() if "<" not in n]
    short = {n.rpartition("/")[2]: n for n in known}
    close = difflib.get_close_matches(name.lower(), known, n=1) or [
        short[n] for n in difflib.get_close_matches(name.lower().rpartition("/")[2], short, n=1)
    ]
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown data set {name!r}{hint} Names: {', '.join(known)}, folder/<path>"


def _mosaic_names() -> tuple[str, ...]:
    from core.mosaic.datasets import DATASETS  # the renderer is only needed for its own sets

    return tuple(DATASETS)


def _load_mosaic(rest: str, root: Path | None, cache_dir: Path) -> Dataset:
    from core.mosaic.datasets import load

    if rest not in _mosaic_names():
        raise ValueError(_unknown(f"mosaic/{rest}"))
    return load(rest, cache_dir)


def _load_sklearn(rest: str, root: Path | None, cache_dir: Path) -> Dataset:
    if rest != DIGITS.partition("/")[2]:
        raise ValueError(_unknown(f"sklearn/{rest}"))
    return load_digits()


def _load_folder(rest: str, root: Path | None, cache_dir: Path) -> Dataset:
    given = Path(rest).expanduser()
    if given.is_absolute():
        return read_folder(given)
    return read_folder((root or Path.cwd()) / given, name=f"folder/{given.as_posix()}")


_FAMILIES: dict[str, _Loader] = {
    "mosaic": _load_mosaic,
    "sklearn": _load_sklearn,
    "folder": _load_folder,
}
