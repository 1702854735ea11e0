"""RefineLab as one package: ``refinelab.core``, ``refinelab.methods``, ... are the rooms of the
project under names that shadow nobody's ``core`` or ``analysis``.

The functions below are the Python interface, described in ``docs/api.md``.
"""

import importlib
from typing import Any

from refinelab.rooms import install

install()

_WHERE = {
    "load_run": "refinelab.runs",
    "LoadedRun": "refinelab.runs",
    "Prediction": "refinelab.runs",
    "load_plugin": "refinelab.studies",
    "open_study": "refinelab.studies",
    "Study": "refinelab.studies",
    "load_search": "refinelab.studies",
    "LoadedSearch": "refinelab.studies",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: torch takes seconds."""
    if name not in _WHERE:
        raise AttributeError(f"module 'refinelab' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]
