"""Checks a binding against the parameter that it names."""

from typing import Any

from core.config.parse import Binding
from core.config.registry import Parameter, did_you_mean_key, lookup, registered_classes
from core.config.value_types import MismatchError, Value, conform, part_kinds
from core.suggestions import did_you_mean


def checked(binding: Binding) -> Value:
    """The value in the normal form of its parameter. Raises ValueError with the source."""
    where = f"{binding.source}: {binding.key}"
    try:
        annotation = parameter_of(binding.key).annotation
        return conform(binding.value, annotation, lookup)
    except MismatchError as error:
        raise ValueError(f"{where} {error}{choices(annotation)}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def choices(annotation: Any) -> str:
    """``; choose one of @A, @B`` if the annotation requires a part."""
    names = [
        f"@{entry.name}" for kind in part_kinds(annotation) for entry in registered_classes(kind)
    ]
    return f"; choose one of {', '.join(sorted(names))}" if names else ""


def parameter_of(key: str) -> Parameter:
    """The parameter of a ``Class.parameter``. Raises ValueError where there is none."""
    name, _, parameter = key.rpartition(".")
    entry = lookup(name)
    if parameter in entry.parameters:
        return entry.parameters[parameter]
    near = did_you_mean(parameter, entry.parameters) or did_you_mean_key(parameter)
    known = ", ".join(entry.parameters) or "(none)"
    raise ValueError(f"{name} has no parameter {parameter!r}; its parameters: {known}{near}")
