"""Annotation files in plain text and JSON: read whole, with errors that name file and line."""

from pathlib import Path
from typing import Any

from core.store.documents import parse_json


def lines_of(path: Path) -> list[tuple[str, str]]:
    """The lines of a text file, each with its position ("path:number"), stripped of spaces and line
    ends.

    Raises ValueError for a missing or undecodable file and for an empty line.
    """
    text = _text(path)
    lines = [(f"{path}:{n}", line.strip()) for n, line in enumerate(text.splitlines(), start=1)]
    if not lines:
        raise ValueError(f"annotation file {path} is empty; download it again")
    if empty := [where for where, line in lines if not line]:
        raise ValueError(f"{empty[0]} is an empty line; remove it")
    return lines


def json_of(path: Path) -> Any:
    """The content of a JSON file. Raises ValueError for a missing or broken one."""
    try:
        return parse_json(_text(path))
    except ValueError as error:
        raise ValueError(f"annotation file {path} cannot be read: {error}") from error


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(
            f"annotation file {path} does not exist; complete the download (a published split file "
            "takes its place where the set has one)"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"annotation file {path} cannot be read: {error}") from error
