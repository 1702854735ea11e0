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

from core.config.canonical import Family, Reached, all_of, idle_parameters, left_out
from core.config.check import checked, parameter_of
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
    RegisteredClass,
    Required,
    lookup,
    registered_classes,
)
from core.config.value_types import (
    Value,
    accepts_text,
    format_value,
    part_kinds,
)

IDENTITY_DIGITS = 12


@dataclass(frozen=True)
class Config:
    """Checked bindings and the source of each. Two are equal if their bindings are.

    ``_included`` are the keys that come from an included file or a preset: a person may not know
    them, and those without effect may be dropped. ``_family`` and ``_found`` keep what was found
    out, so that it is not found out again.
    """

    _bindings: dict[str, Value]
    _sources: dict[str, str] = field(compare=False)
    _included: frozenset[str] = field(default=frozenset(), compare=False)
    _family: Family = field(default_factory=Family, compare=False, repr=False)
    _found: dict[str, Reached] = field(default_factory=dict, init=False, compare=False, repr=False)

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
            self._bindings | {key: checked(binding) for key, binding in added.items()},
            self._sources | dict.fromkeys(added, source),
            self._included - added.keys(),
            self._family,
        )

    def without(self, keys: Iterable[str]) -> "Config":
        """A configuration without the bindings of these keys."""
        left = self._bindings.keys() - set(keys)
        return Config(
            {key: value for key, value in self._bindings.items() if key in left},
            {key: source for key, source in self._sources.items() if key in left},
            self._included & left,
            self._family,
        )

    def operative(self, root: str) -> dict[str, Value]:
        """Every parameter that building ``root`` can read, with defaults filled in, sorted by key.

        Those are the parameters of the root, and of every class that a value among them refers to.
        Raises ValueError when one of them has neither a binding nor a default.
        """
        return self._reached(root).filled()

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
        absent = left_out(values, classes)
        parameters = {k: self._family.text(k, v) for k, v in values.items() if k not in absent}
        content = {"root": root, "parameters": parameters, "extra": dict(extra)}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:IDENTITY_DIGITS]

    def _simplified(self, root: str) -> tuple[dict[str, Value], tuple[RegisteredClass, ...]]:
        """The canonical parameters, and the classes whose they are."""
        return self._family.canonical(root, self._bindings, self._reached(root))

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

    def _reached(self, root: str) -> Reached:
        """What building a root reads, found once as long as its classes are the same."""
        found = self._found.get(root)
        if found is None or not found.registered:
            found = self._found[root] = self._family.reach(root, self._bindings)
        return found

    def _effective(
        self, roots: Sequence[str]
    ) -> tuple[dict[str, Value | Required], dict[str, str]]:
        """What building the roots reads without the bindings that have no effect beside others, and
        those bindings with the reason. A part that such a binding plugs in is not reached.
        """
        config, idle = self, dict[str, str]()
        reached = all_of(config._reached(root) for root in roots)
        while new := {
            k: why for k, why in idle_parameters(reached).items() if k in config._bindings
        }:
            idle |= new
            config = config.without(new)
            reached = all_of(config._reached(root) for root in roots)
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
        {key: checked(binding) for key, binding in found.items()},
        {key: binding.source for key, binding in found.items()},
        frozenset(key for key, binding in found.items() if binding.included),
    )


def _is_root(name: str) -> bool:
    """Whether a class is what a command builds, such as a grid, and no part of anything."""
    return lookup(name).kind == name


def _takes_text(key: str) -> bool:
    try:
        return accepts_text(parameter_of(key).annotation)
    except ValueError:
        return False
