"""Configurations that name datasets: every dataset by its one canonical name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.config import Config
from core.data.dataset_names import one_name_each

NAMING = frozenset(
    {"experiment.dataset", "experiment.targets", "grid.datasets", "search.datasets", "datasets"}
)
"""The settings that name datasets; "datasets" is that of a rule of ``grid.overrides``."""


def with_canonical_names(config: Config, root: Path | None) -> Config:
    """The configuration with canonical names of datasets, in variants and rules of a grid, too.

    Raises ValueError for a relative path that leaves the data root, and for a list that names one
    dataset in two spellings.
    """
    named = {
        key: list(_names(key, value))
        for key, value in config.bindings.items()
        if key in NAMING or isinstance(value, tuple | Mapping)
    }
    own = one_name_each((name for names in named.values() for name in names), root)
    for key in [key for key, names in named.items() if any(own[name] != name for name in names)]:
        value = _renamed(key, config.bindings[key], own)
        config = config.with_bindings({key: value}, config.sources[key])
    return config


def _names(key: str, value: Any) -> Iterator[str]:
    """The names of datasets in a binding, which may hold other bindings."""
    if isinstance(value, Mapping):
        for inner, content in value.items():
            yield from _names(inner, content)
    elif isinstance(value, tuple):
        for content in value:
            yield from _names(key, content)
    elif isinstance(value, str) and key in NAMING:
        yield value


def _renamed(key: str, value: Any, own: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {inner: _renamed(inner, content, own) for inner, content in value.items()}
    if isinstance(value, tuple):
        _require_one_spelling(key, value, own)
        return tuple(_renamed(key, content, own) for content in value)
    return own[value] if isinstance(value, str) and key in NAMING else value


def _require_one_spelling(key: str, values: tuple[Any, ...], own: Mapping[str, str]) -> None:
    """Raise ValueError, with both spellings, where a list names one dataset in two."""
    typed: dict[str, str] = {}
    for value in values:
        if not isinstance(value, str) or key not in NAMING:
            continue
        name = own[value]
        if typed.setdefault(name, value) != value:
            how = (
                f"a dataset, {name!r} does"
                if key == "experiment.targets"
                else f"a value, but {name!r} appears twice"
            )
            raise ValueError(f"{key} must not repeat {how}: as {typed[name]!r} and as {value!r}")
