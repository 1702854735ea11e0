"""``code.json``: the definitions of the code that a run executed, each with its hash.

    {"schema_version": 1, "classes": {"module:Class": hash}, "files": {path: {name: hash}},
     "plugins": {module: path}, "digest": ...}

``classes`` is what the record has as ``code``; "every run" stands for what every run passes
through. Paths are relative to the project's own folder; the code of a plug-in has absolute paths,
and the place of its top-level module is in ``plugins``.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from core.store.documents import read_document, write_document
from core.store.names import CODE_NAME

CODE_VERSION = 1
REMEDY = "repeat the run"
SHOWN = 3

EVERY_RUN = "every run"
"""The key of the code that every run passes through; those of classes have a colon."""

Listing = Mapping[str, Mapping[str, str]]
"""Hashes of definitions by file and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCode:
    """The code of a run: a hash for every class, and for every definition by file and name."""

    classes: Mapping[str, str]
    files: Listing
    plugins: Mapping[str, str] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """One hash for all classes."""
        text = "\n".join(f"{key} {self.classes[key]}" for key in sorted(self.classes))
        return hashlib.sha256(text.encode()).hexdigest()


def write_code(run_dir: Path, code: RunCode) -> None:
    """Write ``code.json``, atomically."""
    write_document(run_dir / CODE_NAME, CODE_VERSION, asdict(code))


def read_code(run_dir: Path) -> RunCode | None:
    """The code of a run, None where it has no such file. Raises ValueError for a damaged one."""
    path = run_dir / CODE_NAME
    try:
        raw = read_document(path, CODE_VERSION, remedy=REMEDY)
    except FileNotFoundError:
        return None
    try:
        return RunCode(
            classes=dict(raw["classes"]),
            files={str(path): dict(names) for path, names in raw["files"].items()},
            plugins=dict(raw["plugins"]),
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): {REMEDY}") from None


def differences(before: Listing, after: Listing) -> list[tuple[str, str]]:
    """File and name of the definitions that differ: those in both, or else new and gone ones.

    A definition that was moved to another file does not differ, unless nothing else does: then it
    took the place of another one.
    """
    old, new = dict(_flat(before)), dict(_flat(after))
    lost, made = Counter(old.values()), Counter(new.values())
    gone = {key for key, text in old.items() if new.get(key) != text and not made[text]}
    come = {key for key, text in new.items() if old.get(key) != text and not lost[text]}
    swapped = {key for key, text in old.items() if new.get(key, text) != text}
    return sorted(gone & come or gone | come or swapped)


def _flat(listing: Listing) -> Iterator[tuple[tuple[str, str], str]]:
    for path, names in listing.items():
        for name, text in names.items():
            yield (path, name), text


def class_names(keys: Iterable[str]) -> str:
    """Classes as ``RunCode.classes`` names them, without their modules."""
    return ", ".join(key.rpartition(":")[2] for key in keys)


def names_of(
    changes: Sequence[tuple[str, str]], about: Callable[[str], str] = lambda path: ""
) -> str:
    """The first of some (file, name) as text, by file; ``about`` a file says more of it."""
    files: dict[str, list[str]] = {}
    for path, name in changes:
        files.setdefault(path, []).append(name)
    words = [f"{path}: {_some(names, ', ')}{about(path)}" for path, names in files.items()]
    return _some(words, "; ")


def _some(words: Sequence[str], between: str) -> str:
    more = len(words) - SHOWN
    return between.join(words[:SHOWN]) + (f" and {more} more" if more > 0 else "")
