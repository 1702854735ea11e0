"""JSON objects with a schema version: the format of all files but records and ledgers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.store.atomic import write_atomic


def write_document(path: Path, version: int, document: Mapping[str, Any]) -> None:
    """Write a JSON object and its schema version, atomically, keys in their order.

    Raises ValueError for a NaN.
    """
    versioned = {"schema_version": version, **document}
    write_atomic(path, json.dumps(versioned, indent=1, allow_nan=False) + "\n")


def read_document(path: Path, version: int, *, remedy: str) -> dict[str, Any]:
    """A JSON object of this schema version.

    Raises FileNotFoundError where there is none, and ValueError for one that is damaged or of
    another version; ``remedy`` is the advice for a damaged file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error
    stored = found.get("schema_version") if isinstance(found, dict) else None
    if stored != version:
        raise ValueError(
            f"{path} has schema version {stored}, but this version reads {version}; use the one "
            "that wrote it"
        )
    return dict(found)
