"""What building a class reads, and its canonical form: what is left when every class has said what
cannot matter (``Configurable.simplify``, ``simplify_below``, ``idle``).

Configurations of one family, made from each other by ``Config.with_bindings``, differ in few
values. A ``Family`` keeps what was last found out, and says it again where the values it depends on
are the same objects. Hooks must be functions of what they are given.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from core.config.check import checked, choices, parameter_of
from core.config.parse import Binding
from core.config.registry import RegisteredClass, Required, lookup
from core.config.value_types import (
    PLAIN,
    Reference,
    Value,
    format_value,
    references,
    replace_reference,
    type_text,
)

MOST_SIMPLIFICATIONS = 100
SHAPES_KEPT, KEPT = 16, 4
"""What is kept of each kind: the parts that the variants of a grid plug in by turns, and more than
one of the rest, because a simplification takes several rounds.
"""
UNSET = object()


@dataclass(frozen=True, slots=True)
class Reached:
    """Every parameter of a root and of the classes below it, bound or not, sorted by key; those
    without a value; and the classes, sorted by name.
    """

    values: Mapping[str, Value | Required]
    missing: tuple[str, ...]
    classes: tuple[RegisteredClass, ...]

    @property
    def registered(self) -> bool:
        """Whether the names of the classes still stand for them."""
        return all(entry.registered for entry in self.classes)

    def filled(self) -> dict[str, Value]:
        """The values. Raises ValueError where one is missing."""
        if self.missing:
            _refuse_missing(self.missing[0], self.values)
        return dict(self.values)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class ReachedShape:
    """What a root reached, with the default of every parameter, and the values that decide which
    classes are reached.
    """

    reached: Reached
    defaults: Mapping[str, Value | Required]
    deciding: Mapping[str, Value | Required]

    def of(self, bindings: Mapping[str, Value]) -> Reached | None:
        """What the root reaches with other bindings; None where these lead to other classes."""
        default = self.defaults
        if not all(_alike(bindings.get(k, default[k]), v) for k, v in self.deciding.items()):
            return None
        values = {key: bindings.get(key, value) for key, value in default.items()}
        if len(_deciding(values)) > len(self.deciding) or not self.reached.registered:
            return None
        return Reached(values, self.reached.missing, self.reached.classes)


@dataclass(frozen=True, slots=True)
class Simplified:
    """The parameters of a class, and what its ``simplify`` changes."""

    entry: RegisteredClass
    given: tuple[Value, ...]
    changed: Mapping[str, Value] | Reference


@dataclass(slots=True)
class Family:
    """What was found out last about configurations that share most of their values.

    ``shapes`` is by root, ``simplified`` by class; ``values`` and ``texts`` have the last value of
    each parameter that a hook gave, and that was written in gin's syntax.
    """

    shapes: dict[str, deque[ReachedShape]] = field(default_factory=dict)
    simplified: dict[str, deque[Simplified]] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    texts: dict[str, tuple[object, str]] = field(default_factory=dict)

    def text(self, key: str, value: Value) -> str:
        """A value in gin's syntax, the keys of mappings sorted."""
        found = self.texts.get(key)
        if found is None or found[0] is not value:
            found = self.texts[key] = value, format_value(value, sort_keys=True)
        return found[1]

    def reach(self, root: str, bindings: Mapping[str, Value]) -> Reached:
        """Everything that building a root reads."""
        known = self.shapes.setdefault(root, deque(maxlen=SHAPES_KEPT))
        for shape in known:
            if (same := shape.of(bindings)) is not None:
                return same
        found, defaults = _reach(root, bindings)
        known.appendleft(ReachedShape(found, defaults, _deciding(found.values)))
        return found

    def canonical(
        self, root: str, bindings: Mapping[str, Value], reached: Reached
    ) -> tuple[dict[str, Value], tuple[RegisteredClass, ...]]:
        """The canonical parameters of a root, and their classes. ``reached`` is what it reads."""
        if idle := idle_parameters(reached):
            bindings = {key: value for key, value in bindings.items() if key not in idle}
            reached = self.reach(root, bindings)
        for _ in range(MOST_SIMPLIFICATIONS):
            values = reached.filled()
            simpler = self._simplify_once(root, reached.classes, values)
            if simpler == values:
                return values, reached.classes
            bindings = {**bindings, **simpler}
            reached = self.reach(root, bindings)
        raise RuntimeError(
            f"the simplifications below {root!r} do not converge: {format_value(simpler)}"
        )

    def _simplify_once(
        self, root: str, classes: Iterable[RegisteredClass], values: Mapping[str, Value]
    ) -> dict[str, Value]:
        """The values after one call of every ``simplify`` among their classes."""
        simpler = dict(values)
        for entry in classes:
            if entry.answers("simplify"):
                changed = self._simplify(entry, simpler)
                if isinstance(changed, Reference):
                    assert entry.name != root, f"{root}.simplify cannot replace the root"
                    old = Reference(entry.name)
                    simpler = {k: replace_reference(v, old, changed) for k, v in simpler.items()}
                else:
                    simpler |= changed
            if entry.answers("simplify_below"):
                below = entry.ask("simplify_below", simpler)
                simpler |= self._changes(simpler, below, f"{entry.name}.simplify_below")
        return simpler

    def _simplify(
        self, entry: RegisteredClass, values: Mapping[str, Value]
    ) -> Mapping[str, Value] | Reference:
        """What ``simplify`` of a class changes, or the class that takes its place."""
        own = {name: values[key] for name, key in entry.keys.items()}
        given = tuple(own.values())
        known = self.simplified.setdefault(entry.name, deque(maxlen=KEPT))
        for last in known:
            if last.entry is entry and all(map(_alike, last.given, given)):
                return last.changed
        result = entry.ask("simplify", own)
        changed: Mapping[str, Value] | Reference = result
        if not isinstance(result, Reference):
            every = "simplify" in vars(entry.cls)  # an inherited one may know further parameters
            named = {p: v for p, v in result.items() if every or p in entry.parameters}
            keyed = {f"{entry.name}.{p}": v for p, v in named.items()}
            changed = self._changes(values, keyed, f"{entry.name}.simplify")
        known.appendleft(Simplified(entry, given, changed))
        return changed

    def _changes(
        self, values: Mapping[str, Value], changed: Mapping[str, object], source: str
    ) -> dict[str, Value]:
        """The values that are not those of before, in the normal form of their parameters."""
        found: dict[str, Value] = {}
        for key, value in changed.items():
            before = values.get(key, UNSET)
            if before is value:
                continue
            made = checked(Binding(key, value, source))
            if not _identical(made, before):
                last = self.values.get(key, made)
                found[key] = self.values[key] = last if _identical(made, last) else made
        return found


def all_of(several: Iterable[Reached]) -> Reached:
    """What building several roots reads."""
    found = list(several)
    classes = {entry.name: entry for reached in found for entry in reached.classes}
    return Reached(
        {key: value for reached in found for key, value in reached.values.items()},
        tuple(key for reached in found for key in reached.missing),
        tuple(classes.values()),
    )


def idle_parameters(reached: Reached) -> dict[str, str]:
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


def left_out(values: Mapping[str, Value], classes: Iterable[RegisteredClass]) -> set[str]:
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


def _reach(root: str, bindings: Mapping[str, Value]) -> tuple[Reached, dict[str, Any]]:
    """Everything that building a root reads, and the default of each parameter."""
    defaults: dict[str, Any] = {}
    seen: dict[str, RegisteredClass] = {}
    pending = [root]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        entry = seen[name] = lookup(name)
        for parameter, key in entry.keys.items():
            defaults[key] = entry.parameters[parameter].default
            value = bindings.get(key, defaults[key])
            if not isinstance(value, Required):
                pending += [reference.name for reference in references(value)]
    defaults = dict(sorted(defaults.items()))
    values = {key: bindings.get(key, default) for key, default in defaults.items()}
    missing = tuple(key for key, value in values.items() if isinstance(value, Required))
    classes = tuple(seen[name] for name in sorted(seen))
    return Reached(values, missing, classes), defaults


def _deciding(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that can hold references, and those that are missing."""
    return {key: value for key, value in values.items() if type(value) not in PLAIN}


def _alike(one: object, two: object) -> bool:
    """Whether two values are the same object, or name the same class."""
    return one is two or (type(one) is Reference and one == two)


def _identical(one: object, two: object) -> bool:
    """Whether two values are equal and of the same types, so that they are written alike."""
    if type(one) is not type(two):
        return False
    if isinstance(one, tuple) and isinstance(two, tuple):
        return len(one) == len(two) and all(map(_identical, one, two))
    return not isinstance(one, Mapping) and one == two


def _refuse_missing(key: str, reached: Mapping[str, Value | Required]) -> NoReturn:
    name, _, _ = key.rpartition(".")
    annotation = parameter_of(key).annotation
    holders = [
        holder
        for holder, value in reached.items()
        if not isinstance(value, Required) and Reference(name) in references(value)
    ]
    because = f" ({name} is plugged in by {holders[0]})" if holders else ""
    raise ValueError(
        f"{key} has no value{because}; it must be {type_text(annotation)}{choices(annotation)}; "
        f"bind it in a file or by --set {key}=..."
    )
