"""What is measured once a machine: a decision that is kept, so that all later processes make the
same one. The runs of a study differ in nothing that they do not name.

A decision is a file in the cache folder, named by what it depends on: the processor, PyTorch, the
threads that a process may use and the sizes of a backbone. Whoever is first decides for all.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from core.machine import processor
from core.store.atomic import write_new

FOLDER = "measured"

_CACHE: ContextVar[Path | None] = ContextVar("cache", default=None)


@contextmanager
def measured_in(cache_dir: Path) -> Iterator[None]:
    """A context in which every backbone that is shared gets the fastest way of computing; what is
    measured is kept below this folder.
    """
    token = _CACHE.set(cache_dir)
    try:
        yield
    finally:
        _CACHE.reset(token)


def cache_folder() -> Path | None:
    """The folder of ``measured_in``; None outside, where nothing is measured or changed."""
    return _CACHE.get()


def decided_once(
    cache_dir: Path,
    question: str,
    facts: Mapping[str, Any],
    measure: Callable[[], Mapping[str, Any]],
    is_answer: Callable[[Any], bool],
) -> Any:
    """The ``answer`` to a question under these facts: an earlier one, or what ``measure`` gives.

    None where an answer cannot be kept, so that other processes could decide otherwise.
    """
    about = {"question": question, **_machine(), **facts}
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    file = cache_dir / FOLDER / f"{digest}.json"
    if (found := _read(file, is_answer)) is not None:
        return found
    made = measure()
    try:
        write_new(file, json.dumps(about | dict(made), indent=1) + "\n")
    except OSError:
        return None
    return _read(file, is_answer)  # another process may have been first


def decisions(cache_dir: Path) -> list[dict[str, Any]]:
    """Everything that was decided on this machine and is kept, as it stands in the files."""
    found = []
    for file in sorted((cache_dir / FOLDER).glob("*.json")):
        with suppress(OSError, ValueError):
            said = json.loads(file.read_text())
            if isinstance(said, dict) and said.items() >= _machine().items():
                found.append(said)
    return found


def _machine() -> dict[str, Any]:
    return {"processor": processor(), "torch": torch.__version__}


def _read(file: Path, is_answer: Callable[[Any], bool]) -> Any:
    """The answer in a file; None where there is none, or a damaged one, which is removed."""
    try:
        answer = json.loads(file.read_text())["answer"]
        if is_answer(answer):
            return answer
    except OSError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    with suppress(OSError):
        file.unlink()
    return None
