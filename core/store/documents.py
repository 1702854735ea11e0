"""JSON objects with a schema version: the format of all files but records and ledgers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.store.atomic import write_atomic


class NewerSchemaError(ValueError):
    """A file was written by a newer version: it is not damaged, and must be left as it is."""


def check_version(document: object, *, newest: int, oldest: int) -> int:
    """The schema version of what a JSON file holds.

    Raises NewerSchemaError for one above ``newest``, and ValueError for anything else that is not
    between the two.
    """
    version = document.get("schema_version") if isinstance(document, dict) else None
    readable = f"{oldest} to {newest}" if oldest < newest else f"{newest}"
    if type(version) is int and version > newest:
        raise NewerSchemaError(
            f"it has schema version {version}, and this version of RefineLab reads {readable}; "
            "use the version that wrote it, or a newer one"
        )
    if type(version) is not int or version < oldest:
        raise ValueError(f"it has schema version {version}, but this version reads {readable}")
    return version


def write_document(path: Path, version: int, document: Mapping[str, Any]) -> None:
    """Write a JSON object and its schema version, atomically, keys in their order.

    Raises ValueError for a NaN.
    """
    versioned = {"schema_version": version, **document}
    write_atomic(path, json.dumps(versioned, indent=1, allow_nan=False) + "\n")


def read_document(path: Path, version: int, *, remedy: str) -> dict[str, Any]:
    """A JSON object of this schema version.

    Raises FileNotFoundError where there is none, NewerSchemaError for one of a newer version, and
    ValueError for one that is damaged; ``remedy`` is the advice for that.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error
    try:
        check_version(found, newest=version, oldest=version)
    except NewerSchemaError as error:
        raise NewerSchemaError(f"{path}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from None
    return dict(found)
