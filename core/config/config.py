"""A configuration: its bindings, which of them have an effect, and its identity.

``load_config`` reads a file, its includes and overrides into a ``Config``: checked values under
``Class.parameter`` keys. Everything that a planner needs to know (what a root reaches, what is
unused, the identity of a run) is derived from the registry without building anything;
``core/config/build.py`` builds. A worker process receives ``Config.text()`` and reads it with
``config_from_text``.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
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
    PLAIN,
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
    _found: dict[str, "_Reached"] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

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
        return _filled(self._reached(root))

    def canonical(self, root: str) -> dict[str, Value]:
        """The operative parameters after every class has removed what cannot matter.

        See ``Configurable.simplify``. Parameters that are no longer reached are dropped.
        """
        return self._simplified(root)[0]

    def identity(self, root: str, extra: Mapping[str, str] = MappingProxyType({})) -> str:
        """12 hex digits that agree exactly if the canonical parameters and ``extra`` do.

        Permissions are not among these parameters, nor are later ones at their default; see
        ``Configurable``.
        """
        values, classes = self._simplified(root)
        left_out = _left_out(values, classes)
        parameters = {
            key: format_value(value, sort_keys=True)
            for key, value in values.items()
            if key not in left_out
        }
        content = {"root": root, "parameters": parameters, "extra": dict(extra)}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:IDENTITY_DIGITS]

    def _simplified(self, root: str) -> tuple[dict[str, Value], tuple[RegisteredClass, ...]]:
        """The canonical parameters, and the classes whose they are."""
        reached, bindings = self._reached(root), self._bindings
        if idle := _idle(reached):
            bindings = {key: value for key, value in bindings.items() if key not in idle}
            reached = _reach(root, bindings)
        for _ in range(MOST_SIMPLIFICATIONS):
            values = _filled(reached)
            simpler = _simplify_once(root, reached.classes, values)
            if simpler == values:
                return values, reached.classes
            bindings = bindings | simpler
            reached = _reach(root, bindings)
        raise RuntimeError(
            f"the simplifications below {root!r} do not converge: {format_value(simpler)}"
        )

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

    def _reached(self, root: str) -> "_Reached":
        """What building a root reads, found once as long as its classes are the same."""
        found = self._found.get(root)
        if found is None or not all(entry.registered for entry in found.classes):
            found = self._found[root] = _reach(root, self._bindings)
        return found

    def _effective(
        self, roots: Sequence[str]
    ) -> tuple[dict[str, Value | Required], dict[str, str]]:
        """What building the roots reads without the bindings that have no effect beside others, and
        those bindings with the reason. A part that such a binding plugs in is not reached.
        """
        config, idle = self, dict[str, str]()
        reached = _all_of(config._reached(root) for root in roots)
        while new := {k: why for k, why in _idle(reached).items() if k in config._bindings}:
            idle |= new
            config = config.without(new)
            reached = _all_of(config._reached(root) for root in roots)
        return dict(reached.values), idle

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


def _left_out(values: Mapping[str, Value], classes: Iterable[RegisteredClass]) -> set[str]:
    """The parameters that are not in an identity: permissions, and later ones at their default."""
    found: set[str] = set()
    for entry in classes:
        found |= {entry.keys[name] for name in entry.cls.permissions & entry.keys.keys()}
        later = entry.cls.later & entry.keys.keys()
        found |= {
            key
            for name in later
            if values[key := entry.keys[name]] == entry.parameters[name].default
        }
    return found


def _takes_text(key: str) -> bool:
    try:
        return accepts_text(_parameter_of(key).annotation)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class _Reached:
    """Every parameter of a root and of the classes below it, bound or not, sorted by key; those
    without a value; and the classes, sorted by name.
    """

    values: Mapping[str, Value | Required]
    missing: tuple[str, ...]
    classes: tuple[RegisteredClass, ...]


def _reach(root: str, bindings: Mapping[str, Value]) -> _Reached:
    values: dict[str, Value | Required] = {}
    missing: list[str] = []
    seen: dict[str, RegisteredClass] = {}
    pending = [root]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        entry = seen[name] = lookup(name)
        for parameter, key in entry.keys.items():
            value = values[key] = bindings.get(key, entry.parameters[parameter].default)
            if isinstance(value, Required):
                missing.append(key)
            elif type(value) not in PLAIN:
                pending += [reference.name for reference in references(value)]
    classes = tuple(seen[name] for name in sorted(seen))
    return _Reached(dict(sorted(values.items())), tuple(sorted(missing)), classes)


def _filled(reached: _Reached) -> dict[str, Value]:
    """The values. Raises ValueError where one is missing."""
    if reached.missing:
        _refuse_missing(reached.missing[0], reached.values)
    return {key: v for key, v in reached.values.items() if not isinstance(v, Required)}


def _all_of(several: Iterable[_Reached]) -> _Reached:
    """What building several roots reads."""
    found = list(several)
    if len(found) == 1:
        return found[0]
    classes = {entry.name: entry for reached in found for entry in reached.classes}
    return _Reached(
        {key: value for reached in found for key, value in reached.values.items()},
        tuple(key for reached in found for key in reached.missing),
        tuple(classes.values()),
    )


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


def _simplify_once(
    root: str, classes: Iterable[RegisteredClass], values: Mapping[str, Value]
) -> dict[str, Value]:
    """The values after one call of every ``simplify`` among their classes."""
    simpler = dict(values)
    for entry in classes:
        name = entry.name
        if entry.answers("simplify"):
            result = entry.ask("simplify", _own(entry, simpler))
            if isinstance(result, Reference):
                assert name != root, f"{name}.simplify cannot replace the root"
                old = Reference(name)
                simpler = {k: replace_reference(v, old, result) for k, v in simpler.items()}
            else:
                own = "simplify" in vars(entry.cls)  # an inherited one may know further parameters
                known = {p: v for p, v in result.items() if own or p in entry.parameters}
                changed = {entry.keys.get(p, f"{name}.{p}"): v for p, v in known.items()}
                _update(simpler, changed, f"{name}.simplify")
        if entry.answers("simplify_below"):
            below = entry.ask("simplify_below", simpler)
            _update(simpler, below, f"{name}.simplify_below")
    return simpler


def _update(values: dict[str, Value], changed: Mapping[str, object], source: str) -> None:
    """Set the values that are other objects now, in the normal form of their parameters."""
    for key, value in changed.items():
        if key not in values or values[key] is not value:
            values[key] = _checked(Binding(key, value, source))


def _idle(reached: _Reached) -> dict[str, str]:
    """The parameters among these that have no effect beside the others, and why."""
    found: dict[str, str] = {}
    for entry in reached.classes:
        if not entry.parameters or not entry.answers("idle"):
            continue
        own = {name: reached.values[key] for name, key in entry.keys.items()}
        if not any(isinstance(value, Required) for value in own.values()):
            reasons = entry.ask("idle", own, reached.values)
            found |= {f"{entry.name}.{parameter}": why for parameter, why in reasons.items()}
    return found


def _own(entry: RegisteredClass, values: Mapping[str, Value]) -> dict[str, Value]:
    return {name: values[key] for name, key in entry.keys.items()}
