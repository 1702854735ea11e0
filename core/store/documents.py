"""JSON objects with a schema version: the format of all files but records and ledgers.

Each carries a digest of its content, so that a changed character is noticed. Files of RefineLab 0.1
have none, and are read as they are.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.store.atomic import write_atomic

DIGEST = "digest"
_DIGEST_LINE = f'\n "{DIGEST}": "'
_REST_OF_DIGEST = len('",') + 64
_COLONS = tuple(f'{before}": ' for before in " [,{:")


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


def write_document(
    path: Path, version: int, document: Mapping[str, Any], *, sort_keys: bool = False
) -> None:
    """Write a JSON object with its schema version and digest, atomically, keys in their order.

    Raises ValueError for a NaN.
    """
    sealed = with_digest({"schema_version": version, **document})
    text = json.dumps(sealed, indent=1, allow_nan=False, sort_keys=sort_keys)
    write_atomic(path, text + "\n")


def with_digest(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document and the digest of its content."""
    return {**document, DIGEST: digest_of(document)}


def digest_of(document: Mapping[str, Any]) -> str:
    """sha256 of the canonical text of everything but the digest itself."""
    rest = {key: value for key, value in document.items() if key != DIGEST}
    return _sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def is_sealed(text: str, content: Mapping[str, Any], digest: object) -> bool:
    """Whether a digest is that of the content of a JSON text, which is ``content`` and the digest.

    The canonical text is first tried to be had from the text itself, without line breaks and spaces
    between its tokens: that is what is left of a file that nobody has changed.
    """
    return digest == _sha256(_joined(text)) or digest == digest_of(content)


def _joined(text: str) -> str:
    """A JSON text in one line without its digest, or "" where that could change a string: where one
    begins with a colon. Without backslashes, every quotation mark begins or ends a string, and one
    that begins a string stands after a space or one of ``[,{:``.
    """
    before, found, after = text.partition(_DIGEST_LINE)
    if not found or "\\" in text:
        return ""
    lines = (before + after[_REST_OF_DIGEST:]).split("\n")
    line = "".join(map(str.lstrip, lines))
    unclear = any(map(line.__contains__, _COLONS))
    return "" if unclear else line.replace('": ', '":')


def parse_json(text: str | bytes, **options: Any) -> Any:
    """``json.loads`` that raises JSONDecodeError also for a text that is nested too deeply."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from None


def sealed_document(text: str, version: int, *, check: bool = True) -> dict[str, Any]:
    """The content of a file of ``write_document``, without its digest.

    Raises NewerSchemaError for one of a newer version, and ValueError for one that is damaged.
    ``check`` off, a digest that contradicts the content is passed over.
    """
    found = parse_json(text)
    check_version(found, newest=version, oldest=version)
    digest = found.pop(DIGEST, None)
    if check and digest is not None and not is_sealed(text, found, digest):
        raise ValueError("its content was changed after it was written: the digest does not match")
    return dict(found)


def read_document(path: Path, version: int, *, remedy: str, check: bool = True) -> dict[str, Any]:
    """The content of a file of ``write_document``, without its digest; see ``sealed_document``.

    Raises FileNotFoundError where there is none, NewerSchemaError for one of a newer version, and
    ValueError for one that is damaged; ``remedy`` is the advice for that.
    """
    try:
        return sealed_document(path.read_text(encoding="utf-8"), version, check=check)
    except NewerSchemaError as error:
        raise NewerSchemaError(f"{path}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from None
