"""A configuration: its bindings, which of them have an effect, and its identity.

``load_config`` reads a file, its includes and overrides into a ``Config``: checked values under
``Class.parameter`` keys. Everything that a planner needs to know (what a root reaches, what is
unused, the identity of a run) is derived from the registry without building anything;
``core/config/build.py`` builds. A worker process receives ``Config.text()`` and reads it with
``config_from_text``.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from core.config.library import ConfigLibrary
from core.config.parse import (
    Binding,
    LoadPlugins,
    read_file,
    read_overrides,
    read_text,
    resolve,
)
from core.config.registry import (
    Parameter,
    RegisteredClass,
    Required,
    did_you_mean_key,
    lookup,
    registered_classes,
)
from core.config.value_types import (
    MismatchError,
    Reference,
    Value,
    accepts_text,
    conform,
    format_value,
    part_kinds,
    references,
    replace_reference,
    type_text,
)
from core.suggestions import did_you_mean

IDENTITY_DIGITS = 12
MOST_SIMPLIFICATIONS = 100


@dataclass(frozen=True)
class Config:
    """Checked bindings and the source of each. Two are equal if their bindings are.

    ``_included`` are the keys that come from an included file or a preset: a person may not know
    them, and those without effect may be dropped.
    """

    _bindings: dict[str, Value]
    _sources: dict[str, str] = field(compare=False)
    _included: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def bindings(self) -> Mapping[str, Value]:
        """The bindings, by ``Class.parameter``."""
        return MappingProxyType(self._bindings)

    @property
    def sources(self) -> Mapping[str, str]:
        """The source of each binding: ``file:line`` or ``--set``."""
        return MappingProxyType(self._sources)

    def text(self) -> str:
        """The bindings in gin's syntax, sorted; ``config_from_text`` reads them back."""
        lines = (f"{key} = {format_value(self._bindings[key])}\n" for key in sorted(self._bindings))
        return "".join(lines)

    def with_bindings(self, bindings: Mapping[str, object], source: str) -> "Config":
        """A configuration with these bindings on top, also checked; ``source`` is their origin."""
        added = {key: Binding(key, value, source) for key, value in bindings.items()}
        return Config(
            self._bindings | {key: _checked(binding) for key, binding in added.items()},
            self._sources | dict.fromkeys(added, source),
            self._included - added.keys(),
        )

    def without(self, keys: Iterable[str]) -> "Config":
        """A configuration without the bindings of these keys."""
        left = self._bindings.keys() - set(keys)
        return Config(
            {key: value for key, value in self._bindings.items() if key in left},
            {key: source for key, source in self._sources.items() if key in left},
            self._included & left,
        )

    def operative(self, root: str) -> dict[str, Value]:
        """Every parameter that building ``root`` can read, with defaults filled in, sorted by key.

        Those are the parameters of the root, and of every class that a value among them refers to.
        Raises ValueError when one of them has neither a binding nor a default.
        """
        reached = _reach(root, self._bindings)
        for key, value in reached.items():
            if isinstance(value, Required):
                _refuse_missing(key, reached)
        return {key: value for key, value in reached.items() if not isinstance(value, Required)}

    def canonical(self, root: str) -> dict[str, Value]:
        """The operative parameters after every class has removed what cannot matter.

        See ``Configurable.simplify``. Parameters that are no longer reached are dropped.
        """
        idle = _idle(_reach(root, self._bindings))
        bindings = {key: value for key, value in self._bindings.items() if key not in idle}
        for _ in range(MOST_SIMPLIFICATIONS):
            values = Config(bindings, self._sources).operative(root)
            simpler = _simplify_once(root, values)
            if simpler == values:
                return values
            bindings = bindings | simpler
        raise RuntimeError(
            f"the simplifications below {root!r} do not converge: {format_value(simpler)}"
        )

    def identity(self, root: str, extra: Mapping[str, str] = MappingProxyType({})) -> str:
        """12 hex digits that agree exactly if the canonical parameters and ``extra`` do.

        Permissions are not among these parameters, nor are later ones at their default; see
        ``Configurable``.
        """
        parameters = {
            key: format_value(value, sort_keys=True)
            for key, value in self.canonical(root).items()
            if not _is_permission(key) and not _is_later_default(key, value)
        }
        content = {"root": root, "parameters": parameters, "extra": dict(extra)}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:IDENTITY_DIGITS]

    def unused(self, roots: Sequence[str]) -> tuple[str, ...]:
        """The bound keys without effect, sorted: building any of the roots cannot read them, or
        their class says that they contradict others (``Configurable.idle``).
        """
        reached, idle = self._effective(roots)
        return tuple(sorted(self._bindings.keys() - (reached.keys() - idle.keys())))

    def unplugged(self, roots: Sequence[str]) -> frozenset[str]:
        """The bindings without effect that an included file or a preset has, for parts that are not
        plugged in or beside others that contradict them: nobody typed them.
        """
        idle = self._effective(roots)[1]
        unused = self._included.intersection(self.unused(roots))
        return frozenset(k for k in unused if k in idle or not _is_root(k.rpartition(".")[0]))

    def unplugged_notes(self, keys: Iterable[str], roots: Sequence[str]) -> list[str]:
        """A line for every reason why ``unplugged`` bindings are dropped."""
        reached, idle = self._effective(roots)
        dropped: dict[str, list[str]] = {}
        for key in sorted(keys, key=lambda key: (key not in idle, key)):
            why = idle.get(key) or self._why_unused(key.rpartition(".")[0], reached, ())
            dropped.setdefault(why, []).append(f"{key} ({self._sources[key]})")
        return [f"{why}: dropped {', '.join(bindings)}" for why, bindings in dropped.items()]

    def _reached(self, roots: Sequence[str]) -> dict[str, Value | Required]:
        return {key: v for root in roots for key, v in _reach(root, self._bindings).items()}

    def _effective(
        self, roots: Sequence[str]
    ) -> tuple[dict[str, Value | Required], dict[str, str]]:
        """What building the roots reads without the bindings that have no effect beside others, and
        those bindings with the reason. A part that such a binding plugs in is not reached.
        """
        config, idle = self, dict[str, str]()
        reached = config._reached(roots)
        while new := {k: why for k, why in _idle(reached).items() if k in config._bindings}:
            idle |= new
            config = config.without(new)
            reached = config._reached(roots)
        return reached, idle

    def check_used(self, roots: Sequence[str]) -> None:
        """Raises ValueError that states, for every unused binding, its source and the reason."""
        unused = self.unused(roots)
        if unused:
            reached, idle = self._effective(roots)
            reasons = {
                key: idle.get(key) or self._why_unused(key.split(".")[0], reached, ())
                for key in unused
            }
            told = "; ".join(f"{self._sources[key]}: {key}: {why}" for key, why in reasons.items())
            outside = "; remove bindings without effect, or use the class"
            raise ValueError(told + ("" if unused[-1] in idle else outside))

    def _why_unused(
        self, name: str, reached: Mapping[str, Value | Required], seen: tuple[str, ...]
    ) -> str:
        """Why a class is not reached: what is used instead of it, or which class would hold it."""
        kind = lookup(name).kind
        slots = [
            f"{entry.name}.{parameter.name}"
            for entry in registered_classes()
            for parameter in entry.parameters.values()
            if kind in part_kinds(parameter.annotation)
        ]
        taken = [f"{key} = {format_value(reached[key])}" for key in slots if key in reached]
        if taken:
            return f"{name} is not plugged in ({', '.join(taken)})"
        for key in slots:
            holder = key.split(".")[0]
            if holder not in (name, *seen):
                reason = self._why_unused(holder, reached, (*seen, name))
                return f"{name} belongs in {key}, but {reason}"
        return f"{name} is not plugged in, and no class in use takes a part of kind {kind}"


def load_config(
    path: Path | str,
    overrides: Sequence[str] = (),
    library: ConfigLibrary | None = None,
    load_plugins: LoadPlugins | None = None,
) -> Config:
    """The checked configuration of a file, what it includes, and overrides on top.

    Includes are looked up beside the file that names them, then in the ``library``.

    An override is ``Class.parameter=value``, or ``name=value`` for a macro of the files; its value
    is in gin's syntax, and bare words stand for text if the parameter accepts text. The classes
    that the file names must already be registered, that is, imported, or are registered by the
    plug-ins that it names and ``load_plugins`` loads. Nothing in a file is executed.

    Raises ValueError, with file and line, for any error.
    """
    bindings = read_file(path, library, load_plugins)
    return _config(resolve([*bindings, *read_overrides(overrides, _takes_text)]).values())


def config_from_text(text: str, name: str = "configuration") -> Config:
    """The checked configuration of a resolved text, as ``Config.text`` writes it.

    ``name`` is its name in messages. Raises ValueError as ``load_config`` does, and for includes
    and imports.
    """
    bindings = [item for item in read_text(text, name, resolved=True) if isinstance(item, Binding)]
    return _config(resolve(bindings).values())


def _config(bindings: Iterable[Binding]) -> Config:
    found = {binding.key: binding for binding in bindings}
    return Config(
        {key: _checked(binding) for key, binding in found.items()},
        {key: binding.source for key, binding in found.items()},
        frozenset(key for key, binding in found.items() if binding.included),
    )


def _checked(binding: Binding) -> Value:
    """The value in the normal form of its parameter. Raises ValueError with the source."""
    where = f"{binding.source}: {binding.key}"
    try:
        annotation = _parameter_of(binding.key).annotation
        return conform(binding.value, annotation, lookup)
    except MismatchError as error:
        raise ValueError(f"{where} {error}{_choices(annotation)}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _choices(annotation: Any) -> str:
    """``; choose one of @A, @B`` if the annotation requires a part."""
    names = [
        f"@{entry.name}" for kind in part_kinds(annotation) for entry in registered_classes(kind)
    ]
    return f"; choose one of {', '.join(sorted(names))}" if names else ""


def _parameter_of(key: str) -> Parameter:
    name, _, parameter = key.rpartition(".")
    entry = lookup(name)
    if parameter in entry.parameters:
        return entry.parameters[parameter]
    near = did_you_mean(parameter, entry.parameters) or did_you_mean_key(parameter)
    known = ", ".join(entry.parameters) or "(none)"
    raise ValueError(f"{name} has no parameter {parameter!r}; its parameters: {known}{near}")


def _is_root(name: str) -> bool:
    """Whether a class is what a command builds, such as a grid, and no part of anything."""
    return lookup(name).kind == name


def _is_permission(key: str) -> bool:
    name, _, parameter = key.rpartition(".")
    return parameter in lookup(name).cls.permissions


def _is_later_default(key: str, value: Value) -> bool:
    name, _, parameter = key.rpartition(".")
    entry = lookup(name)
    return parameter in entry.cls.later and value == entry.parameters[parameter].default


def _takes_text(key: str) -> bool:
    try:
        return accepts_text(_parameter_of(key).annotation)
    except ValueError:
        return False


def _reach(root: str, bindings: Mapping[str, Value]) -> dict[str, Value | Required]:
    """Every parameter of the root and of the classes below it, bound or not, sorted by key."""
    reached: dict[str, Value | Required] = {}
    seen: set[str] = set()
    pending = [root]
    while pending:
        entry = lookup(pending.pop())
        if entry.name in seen:
            continue
        seen.add(entry.name)
        for parameter in entry.parameters.values():
            key = f"{entry.name}.{parameter.name}"
            value = bindings.get(key, parameter.default)
            reached[key] = value
            if not isinstance(value, Required):
                pending += [reference.name for reference in references(value)]
    return dict(sorted(reached.items()))


def _refuse_missing(key: str, reached: Mapping[str, Value | Required]) -> NoReturn:
    name, _, _ = key.rpartition(".")
    annotation = _parameter_of(key).annotation
    holders = [
        holder
        for holder, value in reached.items()
        if not isinstance(value, Required) and Reference(name) in references(value)
    ]
    because = f" ({name} is plugged in by {holders[0]})" if holders else ""
    raise ValueError(
        f"{key} has no value{because}; it must be {type_text(annotation)}{_choices(annotation)}; "
        f"bind it in a file or by --set {key}=..."
    )


def _simplify_once(root: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """The values after one call of every ``simplify`` among their classes."""
    simpler = dict(values)
    for name in sorted({key.split(".")[0] for key in values} | set(_referred(values))):
        entry = lookup(name)
        result = entry.ask("simplify", _own(entry, simpler))
        if isinstance(result, Reference):
            assert name != root, f"{name}.simplify cannot replace the root"
            old = Reference(name)
            simpler = {k: replace_reference(v, old, result) for k, v in simpler.items()}
        else:
            own = "simplify" in vars(entry.cls)  # an inherited one may know further parameters
            changed = {f"{name}.{p}": v for p, v in result.items() if own or p in entry.parameters}
            source = f"{name}.simplify"
            simpler |= {k: _checked(Binding(k, v, source)) for k, v in changed.items()}
        below = entry.ask("simplify_below", simpler)
        simpler |= {k: _checked(Binding(k, v, f"{name}.simplify_below")) for k, v in below.items()}
    return simpler


def _idle(reached: Mapping[str, Value | Required]) -> dict[str, str]:
    """The parameters among these that have no effect beside the others, and why."""
    found: dict[str, str] = {}
    for name in {key.rpartition(".")[0]: None for key in reached}:
        entry = lookup(name)
        own = {parameter: reached[f"{name}.{parameter}"] for parameter in entry.parameters}
        if not any(isinstance(value, Required) for value in own.values()):
            reasons = entry.ask("idle", own, reached)
            found |= {f"{name}.{parameter}": why for parameter, why in reasons.items()}
    return found


def _own(entry: RegisteredClass, values: Mapping[str, Value]) -> dict[str, Value]:
    return {name: values[f"{entry.name}.{name}"] for name in entry.parameters}


def _referred(values: Mapping[str, Value]) -> Iterator[str]:
    for value in values.values():
        yield from (reference.name for reference in references(value))
