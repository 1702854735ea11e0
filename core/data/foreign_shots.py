"""Few-shot lists of other projects: pickles of Dassl code, JSON lines, plain text.

* ``.pkl``: a dictionary with ``train`` and perhaps ``val``, lists of Dassl ``Datum`` objects with
  absolute paths, as CoOp keeps in ``split_fewshot/`` (K. Zhou et al., arXiv:2109.01134). Read by an
  unpickler that knows this one class by name and refuses everything else; Dassl is not needed, and
  no code in the file is run.
* ``.jsonl``: one JSON object or ``[path, label, class name]`` per line, as 2SFS publishes splits
  (M. Farina et al., CVPR 2025). The path is the value of the first of ``PATH_KEYS`` present, the
  label that of ``LABEL_KEYS``; a value "val" of ``PART_KEYS`` puts the image into val.
* ``.txt``: one image per line: a path, or path and label. They are separated by a TAB, or else by
  the last space before a number. Text after a second TAB, the class name, is ignored.

Blank lines are ignored in the last two.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.store.documents import parse_json
from core.store.shots import Shot, Shots, checked_shot

PATH_KEYS = ("impath", "path", "image_path", "img_path", "image", "filepath", "file", "filename")
LABEL_KEYS = ("label", "class_id", "class_idx", "target")
PART_KEYS = ("split", "part", "subset")
KNOWN_CLASS = ("dassl.data.datasets.base_dataset", "Datum")
MAX_PICKLE_BYTES = 64 * 2**20  # 16 shots of ImageNet take 3 MiB


def read_foreign_shots(path: Path) -> Shots:
    """Read a .pkl, .jsonl or .txt list. Raises ValueError, one line, naming file and line."""
    readers = {".pkl": _read_pickle, ".jsonl": _read_json_lines, ".txt": _read_text}
    if path.suffix not in readers:
        raise ValueError(
            f"shots file {path}: unknown file type {path.suffix!r}; use .json, {', '.join(readers)}"
        )
    try:
        shots = readers[path.suffix](path)
    except OSError as error:
        raise ValueError(f"shots file {path} cannot be read: {error}") from error
    if not shots.train:
        raise ValueError(f"shots file {path} names no training images")
    return shots


class _Datum:
    """Stands in for Dassl's item class; holds its saved attributes and has no behavior."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("an item without attributes")
        self.path: object = state.get("_impath")
        self.label: object = state.get("_label")


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows one class and no function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != KNOWN_CLASS:
            raise pickle.UnpicklingError(
                f"it refers to {module}.{name}, but only Dassl's Datum is allowed"
            )
        return _Datum


def _read_pickle(path: Path) -> Shots:
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise ValueError(f"shots file {path} is larger than {MAX_PICKLE_BYTES >> 20} MiB; refused")
    try:
        with path.open("rb") as file:
            found = _RestrictedUnpickler(file).load()
    except OSError:
        raise
    except Exception as error:  # a broken pickle raises almost anything
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"shots file {path} is refused: {what}") from error
    if not isinstance(found, dict) or not isinstance(found.get("train"), list):
        raise ValueError(f"shots file {path} must hold a dictionary with the list 'train'")
    train, val = (
        _data(found.get(part, []), f"shots file {path}: {part}") for part in ("train", "val")
    )
    return Shots(train=train, val=val)


def _data(items: object, where: str) -> tuple[Shot, ...]:
    if not isinstance(items, list) or not all(type(item) is _Datum for item in items):
        raise ValueError(f"{where} must be a list of Dassl items")
    return tuple(
        checked_shot(getattr(item, "path", None), getattr(item, "label", None), f"{where}[{n}]")
        for n, item in enumerate(items)
    )


def _lines(path: Path) -> list[tuple[str, str]]:
    """The non-empty lines, each with its position."""
    # a file name that is not UTF-8 keeps its bytes; a zero byte is in no file name
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if "\0" in text or text.startswith("\udcff\udcfe"):
        raise ValueError(f"shots file {path} is not UTF-8 text: save it as UTF-8")
    numbered = enumerate(text.split("\n"), start=1)
    return [(f"shots file {path}:{n}", line.rstrip("\r")) for n, line in numbered if line.strip()]


def _read_json_lines(path: Path) -> Shots:
    parts: dict[str, list[Shot]] = {"train": [], "val": []}
    for where, line in _lines(path):
        try:
            entry = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
        if isinstance(entry, list) and len(entry) >= 2:
            parts["train"].append(checked_shot(entry[0], entry[1], where))
            continue
        if not isinstance(entry, dict) or _first(entry, PATH_KEYS) is None:
            raise ValueError(f"{where} must be an object with one of {', '.join(PATH_KEYS)}")
        part = _first(entry, PART_KEYS) or "train"
        if part not in parts:
            raise ValueError(f"{where}: a part is train or val, got {part!r}")
        shot = checked_shot(_first(entry, PATH_KEYS), _first(entry, LABEL_KEYS), where)
        parts[part].append(shot)
    return Shots(train=tuple(parts["train"]), val=tuple(parts["val"]))


def _first(entry: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((entry[key] for key in keys if key in entry), None)


def _read_text(path: Path) -> Shots:
    train = []
    for where, line in _lines(path):
        name, tab, rest = line.partition("\t")
        label = rest.partition("\t")[0] if tab else ""
        if not tab:
            name, _, label = line.rpartition(" ")
            if not name or not label.isdecimal():
                name, label = line, ""
        if label and not label.isdecimal():
            raise ValueError(f"{where}: the label must be an integer of at least 0, got {label!r}")
        train.append(checked_shot(name.strip(), int(label) if label else None, where))
    return Shots(train=tuple(train))
