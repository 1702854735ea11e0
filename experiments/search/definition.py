"""What a search is: everything that its trials follow from, kept with it and held against changes.

``search.json`` is written before the first trial. A search of that name that is something else now
is refused with what differs. The number of trials is no part of it: a search can be made longer
until its winner was judged.
"""

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.config import format_value
from core.store.record import write_atomic
from experiments.search.settings import Parsed
from experiments.search.space import Space
from experiments.study.planner import ROOT, FingerprintOf
from experiments.study.status import read_versioned

DEFINITION_NAME = "search.json"
DEFINITION_VERSION = 1
TRAINING_PACKAGES = ("torch", "open_clip_torch", "safetensors")
MAX_SHOWN = 5


def definition_of(parsed: Parsed, space: Space, fingerprint_of: FingerprintOf) -> dict[str, Any]:
    """Everything that the trials follow from, as plain data.

    Raises ValueError where a package that the sampler needs is not installed.
    """
    search = parsed.search
    packages = sorted({*TRAINING_PACKAGES, *parsed.sampler.packages})
    return {
        "schema_version": DEFINITION_VERSION,
        "study": search.study,
        "objectives": list(search.objectives),
        "directions": list(search.directions),
        "protocol": search.protocol,
        "datasets": list(search.datasets),
        "seeds": list(search.seeds),
        "final_seeds": list(search.final_seeds),
        "space": space.describe(),
        "sampler": f"@{type(parsed.sampler).__name__}",
        "pruner": f"@{type(parsed.pruner).__name__}",
        "options": {key: format_value(value) for key, value in sorted(parsed.options.items())},
        "mode": search.mode,
        "round_size": search.round_size,
        "stage": search.stage if parsed.pruner.prunes else "",
        "seed": search.seed,
        "run_seconds": search.run_seconds,
        "base": {k: format_value(v) for k, v in sorted(parsed.base.bindings.items())},
        "inputs": _inputs(parsed, fingerprint_of),
        "packages": {name: _version(name) for name in packages},
    }


def _inputs(parsed: Parsed, fingerprint_of: FingerprintOf) -> dict[str, dict[str, str]]:
    """The fingerprints of data and weights."""
    found: dict[str, dict[str, str]] = {}
    for dataset in parsed.search.datasets:
        bindings = {
            f"{ROOT}.dataset": dataset,
            f"{ROOT}.seed": parsed.search.seeds[0],
            f"{ROOT}.protocol": parsed.search.protocol,
            f"{ROOT}.targets": (),
        }
        found[dataset] = dict(fingerprint_of(parsed.base.with_bindings(bindings, "search")))
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"the package {package!r} is not installed: pip install {package}, or use another "
            "search.sampler"
        ) from None


def keep_definition(definition: Mapping[str, Any], search_dir: Path) -> None:
    """Write ``search.json``, or hold the definition against the one that is there.

    Raises ValueError that says what differs.
    """
    path = search_dir / DEFINITION_NAME
    if not path.exists():
        write_atomic(path, json.dumps(definition, indent=1) + "\n")
        return
    differences = list(_differences(read_definition(search_dir), definition))
    if differences:
        shown = "; ".join(differences[:MAX_SHOWN])
        more = f"; and {len(differences) - MAX_SHOWN} more" if differences[MAX_SHOWN:] else ""
        raise ValueError(
            f"{search_dir} holds another search of this name: {shown}{more}; go back to that, or "
            "use another search.study"
        )


def read_definition(search_dir: Path) -> dict[str, Any]:
    """The definition of a search folder. Raises ValueError where none can be read."""
    return read_versioned(
        search_dir / DEFINITION_NAME,
        DEFINITION_VERSION,
        what="search",
        remedy="restore it or search anew",
    )


def _differences(old: object, new: object, name: str = "") -> Iterator[str]:
    """``name: was X, is Y`` for every leaf in which two definitions differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            below = f"{name}[{key!r}]" if name else str(key)
            yield from _differences(old.get(key, "absent"), new.get(key, "absent"), below)
    elif old != new:
        yield f"{name} was {_short(old)}, is {_short(new)}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
