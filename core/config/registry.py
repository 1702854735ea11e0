"""The registry of what a configuration can name: methods, refiners, parts, and the roots.

``@register("cache")`` above a class makes ``@Class`` usable in a configuration, and its
keyword-only constructor parameters bindable as ``Class.parameter``. Positional parameters are
objects that exist only at run time (a backbone, class names, seeds) and cannot be bound. Calling
the class from Python is not affected by any configuration.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, TypeVar, get_args, get_origin, get_type_hints

from core.config.value_types import Reference, Value, conform, format_value, type_text
from core.suggestions import closest, did_you_mean

GIN_NAMES = frozenset({"macro", "constant", "singleton"})

C = TypeVar("C", bound="type[Configurable]")


class Configurable:
    """The base of every class that can be registered, with hooks for its own settings.

    ``parameters`` are the operative values by bare name; parts appear as References.
    ``permissions`` are parameters that only let a run happen or refuse it, and never change it:
    they are left out of its identity. ``later`` are parameters that a class got after runs were
    made with it: at their default they are left out as well, so that those runs keep their names.
    """

    __slots__ = ()
    permissions: ClassVar[frozenset[str]] = frozenset()
    later: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> Mapping[str, Any] | Reference:
        """Equivalent parameters without those that cannot matter; omitted ones stay unchanged.

        Or a Reference to an equivalent class. Configurations that are equal afterwards are one run.
        """
        return parameters

    @classmethod
    def simplify_below(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Like ``simplify``, for settings that do not matter because of another class: new values
        by ``Class.parameter``, given all operative ones.
        """
        return {}

    @classmethod
    def idle(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> Mapping[str, str]:
        """Parameters that contradict others and so have no effect: by name, why and the way out.

        A binding of one is refused as unused; a factor's level is inert. ``values`` are those of
        all classes, by ``Class.parameter``.
        """
        return {}

    @classmethod
    def input_files(cls, parameters: Mapping[str, Any]) -> tuple[Path, ...]:
        """Files that the object will read; their content belongs to the identity of a run.

        The constructor checks whether they exist and are valid.
        """
        return ()


class Required:
    """The type of ``REQUIRED``."""

    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = Required()


@dataclass(frozen=True, slots=True)
class Parameter:
    """One bindable constructor parameter; ``doc`` is the string in its ``Annotated``, if any."""

    name: str
    annotation: Any
    default: Value | Required
    doc: str = ""


@dataclass(frozen=True, slots=True)
class RegisteredClass:
    """A class that a configuration can name.

    ``summary`` is the first line of its docstring, ``reference`` the text after "Source:".
    """

    name: str
    kind: str
    cls: type[Configurable]
    summary: str
    reference: str
    parameters: Mapping[str, Parameter]
    keys: Mapping[str, str] = field(init=False, repr=False, compare=False)
    """``Class.parameter`` of every parameter, by its bare name."""

    def __post_init__(self) -> None:
        keys = {name: f"{self.name}.{name}" for name in self.parameters}
        object.__setattr__(self, "keys", MappingProxyType(keys))

    @property
    def registered(self) -> bool:
        """Whether the name still stands for this class."""
        return _REGISTRY.get(self.name) is self

    def answers(self, hook: str) -> bool:
        """Whether the class, or one between it and ``Configurable``, has a hook of its own."""
        own, default = getattr(self.cls, hook), getattr(Configurable, hook)
        return own.__func__ is not default.__func__

    def ask(self, hook: str, values: Mapping[str, Any], *more: Any) -> Any:
        """What a hook of the class says, such as ``idle``, given its parameters.

        A hook may be inherited from a class with parameters that this one does not have: it cannot
        say anything then, and the default of the interface is the answer.
        """
        try:
            return getattr(self.cls, hook)(values, *more)
        except KeyError as error:
            first = next(base for base in reversed(self.cls.__mro__) if hook in vars(base))
            if hook in vars(self.cls) or error.args[0] in values:
                raise
            return vars(first)[hook].__get__(None, self.cls)(values, *more)


_REGISTRY: dict[str, RegisteredClass] = {}


def register(kind: str, *, name: str | None = None) -> Callable[[C], C]:
    """A class decorator: makes a class usable in configurations, by its own name or ``name``.

    Raises TypeError if a configuration could not set the class safely: for ``*args`` or
    ``**kwargs``, a keyword-only parameter without a usable annotation, or a default that violates
    its annotation.
    """

    def add(cls: C) -> C:
        entry = _registered(cls, kind, name or cls.__name__)
        if entry.name in _REGISTRY:
            other = _REGISTRY[entry.name].cls
            raise ValueError(
                f"{entry.name!r} is already registered by {other.__module__}.{other.__qualname__}: "
                "give the class another name"
            )
        _REGISTRY[entry.name] = entry
        return cls

    return add


def _registered(cls: type[Configurable], kind: str, name: str) -> RegisteredClass:
    if not name.isidentifier() or name in GIN_NAMES:
        raise TypeError(f"{name!r} cannot name a class in a configuration: use an identifier")
    if not issubclass(cls, Configurable):
        raise TypeError(f"{name} cannot be registered: derive it from core.config.Configurable")
    doc = inspect.cleandoc(cls.__doc__ or "")
    if doc.startswith(f"{cls.__name__}("):  # what @dataclass writes when there is no docstring
        doc = ""
    source = re.search(r"Source:\s*(.+?)\s*(?:\n\s*\n|\Z)", doc, re.DOTALL)
    return RegisteredClass(
        name=name,
        kind=kind,
        cls=cls,
        summary=doc.partition("\n")[0],
        reference=" ".join(source[1].split()) if source else "",
        parameters=MappingProxyType(_parameters(cls, name)),
    )


def _parameters(cls: type, name: str) -> dict[str, Parameter]:
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    arguments = list(signature.parameters.values())[1:]
    variadic = [a for a in arguments if a.kind in (a.VAR_POSITIONAL, a.VAR_KEYWORD)]
    if variadic and len(variadic) == len(arguments) and "__init__" not in vars(cls):
        return {}  # object's, Protocol's or torch's own constructor: nothing to configure
    if variadic:
        raise TypeError(
            f"{name}.__init__ takes {' and '.join(map(str, variadic))}, which accepts misspelled "
            "settings: name every parameter"
        )
    hints = _hints(cls, name)
    configurable = [a for a in arguments if a.kind is a.KEYWORD_ONLY]
    return {a.name: _parameter(cls, f"{name}.{a.name}", a, hints) for a in configurable}


def _hints(cls: type, name: str) -> dict[str, Any]:
    try:
        return get_type_hints(cls.__init__, include_extras=True)  # type: ignore[misc]
    except NameError as error:
        raise TypeError(
            f"the annotations of {name}.__init__ cannot be read ({error}): "
            "import what they name at run time, not only for type checking"
        ) from None


def _parameter(
    cls: type, key: str, argument: inspect.Parameter, hints: Mapping[str, Any]
) -> Parameter:
    if argument.name not in hints:
        raise TypeError(
            f"{key} has no annotation, but a setting needs one to define its valid values"
        )
    annotation = hints[argument.name]
    try:
        type_text(annotation)
    except TypeError as error:
        raise TypeError(f"{key}: {error}") from None
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    doc = next((item for item in metadata if isinstance(item, str)), "")
    return Parameter(argument.name, annotation, _default(cls, key, argument, annotation), doc)


def _default(cls: type, key: str, argument: inspect.Parameter, annotation: Any) -> Value | Required:
    default = argument.default
    if default is argument.empty:
        return REQUIRED
    if dataclasses.is_dataclass(cls):
        factories = {field.name: field.default_factory for field in dataclasses.fields(cls)}
        factory = factories.get(argument.name, dataclasses.MISSING)
        if factory is not dataclasses.MISSING:
            default = factory()
    if isinstance(default, Reference) or callable(default):
        raise TypeError(
            f"{key} has {default!r} as its default, but a class as a Python default ignores its "
            "own settings: omit the default and bind a class in the configuration"
        )
    try:
        return conform(default, annotation, lookup)
    except ValueError as error:
        raise TypeError(f"the default of {key} {error}") from None


def registered_classes(kind: str | None = None) -> list[RegisteredClass]:
    """The registered classes (of one kind, if given), sorted by name."""
    found = (entry for entry in _REGISTRY.values() if kind in (None, entry.kind))
    return sorted(found, key=lambda entry: entry.name)


def lookup(name: str, kind: str | None = None) -> RegisteredClass:
    """The registered class of that name.

    Raises ValueError, with the nearest name and all valid ones, where there is none of that kind.
    """
    entry = _REGISTRY.get(name)
    if entry is not None and kind in (None, entry.kind):
        return entry
    names = [entry.name for entry in registered_classes(kind)]
    near = did_you_mean(name, names)
    if entry is not None:
        problem = f"{name!r} is of kind {entry.kind}, not {kind}"
    else:
        problem = f"there is no {kind or 'class'} {name!r}"
    if near and kind is None:
        raise ValueError(f"{problem}{near}")
    own = "" if near or entry is not None else "; a class of your own needs --plugin PATH"
    known = ", ".join(names) or "(none registered)"
    raise ValueError(f"{problem}; choose one of: {known}{near}{own}")


def did_you_mean_key(parameter: str) -> str:
    """``; did you mean 'Class.parameter'?`` for a parameter given with the wrong class."""
    keys = {
        name: entry.name for entry in reversed(registered_classes()) for name in entry.parameters
    }
    near = closest(parameter, keys)
    return f"; did you mean '{keys[near]}.{near}'?" if near else ""


def parameter_help(entry: RegisteredClass) -> list[tuple[str, str, str]]:
    """Name, type and default of each parameter as text, in the order of the constructor."""
    return [
        (name, type_text(parameter.annotation), format_value(parameter.default))
        for name, parameter in entry.parameters.items()
    ]


def forget_class(name: str) -> None:
    """Undo ``register``, for a plug-in that cannot be loaded as a whole."""
    _REGISTRY.pop(name, None)


@contextmanager
def isolated_registry(*, empty: bool = False) -> Iterator[None]:
    """For tests: classes registered inside the context are removed afterwards.

    ``empty`` hides all existing registrations inside the context.
    """
    before = dict(_REGISTRY)
    if empty:
        _REGISTRY.clear()
    try:
        yield
    finally:
        _REGISTRY.clear()
        _REGISTRY.update(before)
