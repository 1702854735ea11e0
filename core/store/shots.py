"""``shots.json``: the few-shot images of a run, by path and label.

    {"format": "refinelab shots 1", "dataset": NAME, "train": [[path, label], ...],
     "val": [[path, label], ...] or "test", "train_sha256": ..., "val_sha256": ...}

``val`` is the word "test" if the validation list is the test list. ``core.data.item_hashes``
defines the hashes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.store.atomic import write_atomic
from core.store.documents import parse_json
from core.store.names import SHOTS_NAME
from core.store.own_files import require_own
from core.store.record import read_record

FORMAT = "refinelab shots 1"


@dataclass(frozen=True, slots=True)
class Shot:
    """One image of a list: its path as written, and its label where the list has one."""

    path: str
    label: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shots:
    """The images of a file. ``sha256`` holds the hash of each part where the file has one."""

    train: tuple[Shot, ...]
    val: tuple[Shot, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)


def shots_of_pairs(value: object, where: str) -> tuple[Shot, ...]:
    """Checked ``[[path, label], ...]``. Raises ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list of [path, label]")
    made = []
    for n, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) < 2:
            raise ValueError(f"{where}[{n}] must be [path, label], got {pair!r}")
        made.append(checked_shot(pair[0], pair[1], f"{where}[{n}]"))
    return tuple(made)


def checked_shot(path: object, label: object, where: str) -> Shot:
    """An image of a list; a ValueError begins with ``where``, its position."""
    if not isinstance(path, str) or not path:
        raise ValueError(f"{where}: the path must be text, got {path!r}")
    if label is not None and (not isinstance(label, int) or isinstance(label, bool) or label < 0):
        raise ValueError(f"{where}: the label must be an integer of at least 0, got {label!r}")
    return Shot(path, label)


def write_shot_file(
    path: Path,
    dataset: str,
    *,
    train: Sequence[tuple[str, int]],
    val: Sequence[tuple[str, int]] | None,
    hashes: Mapping[str, str],
) -> None:
    """Write the (path, label) pairs of a draw, atomically; ``val`` None means the test list."""
    values = {
        "format": json.dumps(FORMAT),
        "dataset": json.dumps(dataset),
        "train": _one_per_line(train),
        "val": json.dumps("test") if val is None else _one_per_line(val),
        **{f"{part}_sha256": json.dumps(digest) for part, digest in hashes.items()},
    }
    body = ",\n".join(f'"{key}": {value}' for key, value in values.items())
    write_atomic(path, f"{{\n{body}\n}}\n")


def _one_per_line(pairs: Sequence[tuple[str, int]]) -> str:
    lines = ",\n".join(json.dumps([path, label]) for path, label in pairs)
    return f"[\n{lines}\n]"


def read_shot_file(path: Path) -> Shots:
    """The images that a file of ``write_shot_file`` names.

    Raises ValueError, one line, also for a file that is not the one that the run beside it drew.
    """
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"shots file {path} cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(
            f'shots file {path} must be a JSON object with "format": "{FORMAT}"; lists of other '
            "projects are .pkl, .jsonl or .txt"
        )
    if path.name == SHOTS_NAME:
        require_own(path, read_record(path.parent))
    hashes = {part: document.get(f"{part}_sha256") for part in ("train", "val")}
    return Shots(
        train=_pairs(document, "train", path),
        val=() if document.get("val") == "test" else _pairs(document, "val", path),
        sha256={part: value for part, value in hashes.items() if isinstance(value, str)},
    )


def _pairs(document: Mapping[str, Any], part: str, path: Path) -> tuple[Shot, ...]:
    return shots_of_pairs(document.get(part), f"shots file {path}: {part}")
