"""``config.gin``: the resolved configuration of a run, one binding per line.

``operative.json``: the settings in force, defaults included, and what the classes in use cite.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.store.atomic import write_atomic
from core.store.checksums import file_sha256
from core.store.documents import read_document, write_document
from core.store.names import CONFIG_NAME, OPERATIVE_NAME, RECORD_NAME
from core.store.own_files import require_own
from core.store.record import check_place, read_record

OPERATIVE_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Operative:
    """The settings in force as text, by ``Class.parameter``, and by class the text after "Source:"
    of its docstring.
    """

    settings: Mapping[str, str]
    sources: Mapping[str, str] = field(default_factory=dict)


def write_config(run_dir: Path, text: str) -> str:
    """Write the resolved configuration of a run, atomically; returns the sha256 of the file."""
    write_atomic(run_dir / CONFIG_NAME, text)
    return file_sha256(run_dir / CONFIG_NAME)


def has_config(run_dir: Path) -> bool:
    """Whether the run has begun, so that its configuration exists."""
    return (run_dir / CONFIG_NAME).is_file()


def read_config(run_dir: Path) -> str:
    """The text of the resolved configuration.

    Raises ValueError for a folder that has none, and for one that is not the run's own.
    """
    if not has_config(run_dir):
        if (run_dir / RECORD_NAME).exists():
            raise ValueError(
                f"{run_dir} has a record, but its {CONFIG_NAME} is missing; restore it, or delete "
                "the run folder and repeat the command that made it"
            )
        raise ValueError(f"{run_dir} is not a run folder: it has no {CONFIG_NAME}")
    record = read_record(run_dir)
    if record is not None:
        check_place(run_dir, record)
        require_own(run_dir / CONFIG_NAME, record)
    return (run_dir / CONFIG_NAME).read_text(encoding="utf-8")


def read_settings(run_dir: Path) -> dict[str, str]:
    """The resolved settings of a run as text, by ``Class.parameter``.

    Raises ValueError for a folder whose configuration is missing or was changed.
    """
    pairs = (line.partition(" = ") for line in read_config(run_dir).splitlines())
    return {key: value for key, equals, value in pairs if equals}


def write_operative(run_dir: Path, operative: Operative) -> None:
    """Write the settings in force, atomically."""
    content = {"settings": dict(operative.settings), "sources": dict(operative.sources)}
    write_document(run_dir / OPERATIVE_NAME, OPERATIVE_VERSION, content, sort_keys=True)


def read_operative(run_dir: Path) -> Operative:
    """The settings in force in a run. Of runs of earlier versions, only those that were bound.

    Raises ValueError for a file that is damaged or not the run's own.
    """
    bound = read_settings(run_dir)
    path = run_dir / OPERATIVE_NAME
    try:
        raw = read_document(path, OPERATIVE_VERSION, remedy="rerun the run")
        settings, sources = _texts(raw["settings"]), _texts(raw["sources"])
    except FileNotFoundError:
        return Operative(settings=bound)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): rerun the run") from None
    require_own(path, read_record(run_dir))
    return Operative(settings=settings, sources=sources)


def _texts(raw: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in raw.items()}


def plain_value(text: str) -> str:
    """A value in gin's syntax as people write it: a text without its quotes, also in a tuple."""
    try:
        return _plain(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text  # a reference, or a value that holds one


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, tuple | list):
        inner = ", ".join(map(_plain, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return repr(value)
