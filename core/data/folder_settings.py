"""``refinelab.json`` beside the images: what a folder cannot say by its layout.

    {"template": "a photo of a {}, a pet.", "class_names": {"n01440764": "tench", ...},
     "parts": {"train": "fold_1", "test": "fold_2"}, "layout": "classes", "ignore": ["notes.json"]}

Every key is optional. ``class_names`` maps every class folder to its class name. ``parts`` names
the folders of the parts, and ``layout`` "classes" says that folders which look like parts are
classes. ``ignore`` lists files and folders beside the images that do not belong to the data. An
export adds three more keys that say where it comes from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from core.data.part_names import PARTS
from core.data.templates import require_template
from core.store.documents import parse_json
from core.suggestions import did_you_mean

SETTINGS_NAME = "refinelab.json"
ORIGIN_KEYS = ("source", "source_fingerprint", "images_sha256")
KEYS = ("template", "class_names", "parts", "layout", "ignore", *ORIGIN_KEYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSettings:
    """The contents of a ``refinelab.json``, checked; ``file`` is None where there is none."""

    file: Path | None = None
    template: str | None = None
    class_names: Mapping[str, str] | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    layout: Literal["classes"] | None = None
    ignore: tuple[str, ...] = ()


def settings_line(key: str, value: object) -> str:
    """A ``refinelab.json`` of one key, as a line to write."""
    return json.dumps({key: value})


def read_folder_settings(folders: Sequence[Path]) -> FolderSettings:
    """The settings in one of ``folders``.

    Raises ValueError, one line, for a file that is not a JSON object, an unknown or repeated key, a
    value of the wrong type, a wrong template, and for two files.
    """
    files = [folder / SETTINGS_NAME for folder in folders]
    found = [file for file in dict.fromkeys(files) if file.is_file()]
    if len(found) > 1:
        raise ValueError(f"{found[0]} and {found[1]} both hold settings; keep exactly one")
    return _read(found[0]) if found else FolderSettings()


def _read(file: Path) -> FolderSettings:
    try:
        text = file.read_text(encoding="utf-8-sig")
        given = parse_json(text, object_pairs_hook=lambda pairs: _object(file, pairs))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} must be a JSON object: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{file} must be a JSON object, got {given!r}")
    for key in given:
        if key not in KEYS:
            raise ValueError(
                f"{file}: unknown key {key!r}; known: {', '.join(KEYS)}{did_you_mean(key, KEYS)}"
            )
        if key in ORIGIN_KEYS and not isinstance(given[key], str):
            raise ValueError(f"{file}: {key} must be text, got {given[key]!r}")
    template = given.get("template")
    return FolderSettings(
        file=file,
        template=None if "template" not in given else require_template(template, str(file)),
        class_names=_class_names(file, given),
        parts=_parts(file, given),
        layout=_layout(file, given),
        ignore=_ignore(file, given),
    )


def _object(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{file}: {twice!r} is there twice; keep one")
    return made


def _class_names(file: Path, given: Mapping[str, Any]) -> Mapping[str, str] | None:
    if "class_names" not in given:
        return None
    names = given["class_names"]
    if not isinstance(names, dict):
        raise ValueError(
            f"{file}: class_names must map each class folder to its class name, got {names!r}"
        )
    for folder, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"{file}: class_names: the name of {folder!r} must be non-empty text, got {name!r}"
            )
    return {folder: name.strip() for folder, name in names.items()}


def _parts(file: Path, given: Mapping[str, Any]) -> dict[str, str]:
    parts = given.get("parts", {})
    named = isinstance(parts, dict) and all(isinstance(f, str) and f for f in parts.values())
    if not named or (parts and not {"train", "test"} <= set(parts) <= set(PARTS)):
        raise ValueError(
            f"{file}: parts must name the folders of train and test, and of val where there is "
            f"one, got {parts!r}"
        )
    if len(set(parts.values())) < len(parts):
        raise ValueError(f"{file}: parts must name different folders, got {parts!r}")
    if any("/" in folder or folder in (".", "..") for folder in parts.values()):
        raise ValueError(f"{file}: parts must name folders beside the file, got {parts!r}")
    return dict(parts)


def _layout(file: Path, given: Mapping[str, Any]) -> Literal["classes"] | None:
    if "layout" not in given:
        return None
    if given["layout"] != "classes":
        raise ValueError(f'{file}: layout can only be "classes", got {given["layout"]!r}')
    if "parts" in given:
        raise ValueError(f"{file}: layout and parts contradict each other; keep one")
    return "classes"


def _ignore(file: Path, given: Mapping[str, Any]) -> tuple[str, ...]:
    names = given.get("ignore", [])
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        raise ValueError(f"{file}: ignore must be a list of file or folder names, got {names!r}")
    return tuple(names)
