"""From a configuration to objects: instances of the classes it names, with its settings.

There is no global state: objects of several configurations can be built in one process, in any
thread.
"""

import functools
from collections.abc import Mapping
from typing import Any

from core.config.config import Config
from core.config.registry import lookup
from core.config.value_types import Reference, Value


class Factory(functools.partial[Any]):
    """A registered class with all its settings; call it with the run-time objects.

    ``@Class`` in a configuration becomes a Factory for the owner of the part. It can be pickled.
    """

    def __call__(self, /, *runtime: Any, **named_runtime: Any) -> Any:
        """Build the object. Raises TypeError for a setting: only the configuration sets those."""
        if settings := sorted(named_runtime.keys() & self.keywords.keys()):
            raise TypeError(
                f"{', '.join(settings)} of {self.func.__name__} can only be set by bindings"
            )
        return super().__call__(*runtime, **named_runtime)


def build(config: Config, root: str, /, *runtime: Any, **named_runtime: Any) -> Any:
    """An instance of a registered class, from its settings and its run-time objects.

    The settings are exactly ``config.operative(root)``, in which every reference becomes a
    ``Factory``. Raises ValueError for a setting that has no value, and for a class that contains
    itself.
    """
    return _factory(root, config.operative(root), ())(*runtime, **named_runtime)


def _factory(name: str, values: Mapping[str, Value], holders: tuple[str, ...]) -> Factory:
    if name in holders:
        raise ValueError(f"{' -> '.join((*holders, name))}: a class cannot be a part of itself")
    entry = lookup(name)
    holders = (*holders, name)
    settings = {
        parameter: _built(values[f"{name}.{parameter}"], values, holders)
        for parameter in entry.parameters
    }
    return Factory(entry.cls, **settings)


def _built(value: Value, values: Mapping[str, Value], holders: tuple[str, ...]) -> Any:
    """The value with every reference replaced by a factory."""
    if isinstance(value, Reference):
        return _factory(value.name, values, holders)
    if isinstance(value, tuple):
        return tuple(_built(item, values, holders) for item in value)
    if isinstance(value, Mapping):
        return {key: _built(item, values, holders) for key, item in value.items()}
    return value
