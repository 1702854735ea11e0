"""The values of a configuration, and the rules that a parameter's annotation imposes on them.

A value is a literal, a tuple or a dict of values, or a reference to a registered class. An
annotation such as ``Annotated[int, AtLeast(1)]`` defines which values a parameter accepts.
``conform`` checks a value against it and returns it in a normal form (an int for a float parameter
becomes a float, a list becomes a tuple), so that equal settings are equal values.
"""

import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

LONGEST_VALUE_SHOWN = 100
LARGEST_INT = 2**64
UNIONS = (Union, types.UnionType)
SEQUENCES = (tuple, list, Sequence)
MAPPINGS = (dict, Mapping)
PLAIN = frozenset({int, float, str, bool, type(None)})
"""The types of values that hold no others."""


@dataclass(frozen=True, slots=True)
class Reference:
    """``@Class`` in a configuration: the configured class, to be built by its owner."""

    name: str

    def __str__(self) -> str:
        return f"@{self.name}"


Value = None | bool | int | float | str | Reference | tuple["Value", ...] | Mapping[str, "Value"]


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The number is at least ``minimum``."""

    minimum: float

    def allows(self, number: float) -> bool:
        """Whether the number obeys the rule."""
        return number >= self.minimum

    def __str__(self) -> str:
        return f">= {self.minimum}"


@dataclass(frozen=True, slots=True)
class Above:
    """The number is greater than ``bound``."""

    bound: float

    def allows(self, number: float) -> bool:
        """Whether the number obeys the rule."""
        return number > self.bound

    def __str__(self) -> str:
        return f"> {self.bound}"


@dataclass(frozen=True, slots=True)
class Between:
    """The number lies in the closed interval from ``minimum`` to ``maximum``."""

    minimum: float
    maximum: float

    def allows(self, number: float) -> bool:
        """Whether the number obeys the rule."""
        return self.minimum <= number <= self.maximum

    def __str__(self) -> str:
        return f"in [{self.minimum}, {self.maximum}]"


@dataclass(frozen=True, slots=True)
class OneSlot:
    """The text is a prompt template: ``{}`` exactly once, where the class name goes, and no other
    brace.
    """

    def allows(self, text: str) -> bool:
        """Whether the text obeys the rule."""
        beside = text.replace("{}", "", 1)
        return "{}" in text and not set("{}") & set(beside) and not (beside and not beside.strip())

    def __str__(self) -> str:
        return "(a prompt template: {} exactly once, no other brace)"


NUMERIC_RULES = (AtLeast, Above, Between)
TEXT_RULES = (OneSlot,)


@dataclass(frozen=True, slots=True)
class Part:
    """The parameter accepts a reference to a registered class of this kind."""

    kind: str


PositiveInt = Annotated[int, AtLeast(1)]
NonNegativeInt = Annotated[int, AtLeast(0)]
PositiveFloat = Annotated[float, Above(0)]
NonNegativeFloat = Annotated[float, AtLeast(0)]
Probability = Annotated[float, Between(0, 1)]
PromptTemplate = Annotated[str, OneSlot()]

CheckReference = Callable[[str, str | None], object]
"""Raises ValueError unless a class of this name (and kind, if given) exists."""


class MismatchError(ValueError):
    """A value does not fit an annotation."""


def conform(value: object, annotation: Any, check_reference: CheckReference) -> Value:
    """The value in the normal form of its annotation.

    Raises MismatchError, stating the rule and the value, if it does not fit. All references are
    passed to ``check_reference``, whose errors propagate.
    """
    try:
        return _conform(value, annotation, check_reference)
    except MismatchError:
        shown = shortened(_shown(value))
        rule = type_text(annotation)
        raise MismatchError(f"must be {rule}, got {shown}{_hint(value, rule)}") from None


def shortened(text: str) -> str:
    """A text for a message, cut where it is very long."""
    return text if len(text) <= LONGEST_VALUE_SHOWN else f"{text[:LONGEST_VALUE_SHOWN]}..."


def _shown(value: object) -> str:
    try:
        return format_value(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


def _hint(value: object, rule: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "; nan and infinity are not allowed"
    if isinstance(value, int) and abs(value) > LARGEST_INT and rule.startswith("int"):
        return "; a whole number goes up to 2^64"
    if isinstance(value, str) and "\0" in value:
        return "; text has no null characters"
    if isinstance(value, str) and "@" in rule:
        return f"; a class is written @{value.lstrip('@')}, without quotes"
    if rule.startswith("(") and not isinstance(value, tuple | list):
        return "; a sequence of one is written [x]"
    if rule.startswith("text") and not isinstance(value, str):
        return "; text is written in quotes"
    return ""


def _conform(value: object, annotation: Any, check_reference: CheckReference) -> Value:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return _conform_any(value, check_reference)
    if origin is Annotated:
        return _conform_annotated(value, arguments[0], arguments[1:], check_reference)
    if origin in UNIONS:
        return _conform_union(value, arguments, check_reference)
    if origin is Literal:
        return _conform_literal(value, arguments)
    if origin in SEQUENCES:
        return _conform_sequence(value, arguments, check_reference)
    if origin in MAPPINGS:
        return _conform_mapping(value, arguments[1], check_reference)
    return _within_limits(_conform_scalar(value, annotation))


def _within_limits(value: Value) -> Value:
    """The value of a single setting: a number that a machine counts, text that a file can name."""
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        raise MismatchError
    if isinstance(value, str) and "\0" in value:
        raise MismatchError
    return value


def _conform_any(value: object, check_reference: CheckReference) -> Value:
    if isinstance(value, Reference):
        check_reference(value.name, None)
        return value
    if isinstance(value, tuple | list):
        return tuple(_conform_any(item, check_reference) for item in value)
    if isinstance(value, Mapping):
        return _conform_mapping(value, Any, check_reference)
    return _conform_scalar(value, type(value))


def _conform_annotated(
    value: object, base: Any, rules: tuple[object, ...], check_reference: CheckReference
) -> Value:
    for rule in rules:
        if isinstance(rule, Part):
            if not isinstance(value, Reference):
                raise MismatchError
            check_reference(value.name, rule.kind)
            return value
    result = _conform(value, base, check_reference)
    for rule in rules:
        if isinstance(rule, NUMERIC_RULES):
            assert isinstance(result, int | float), "type_text accepts these rules on numbers only"
            if not rule.allows(result):
                raise MismatchError
        if isinstance(rule, TEXT_RULES) and not rule.allows(str(result)):
            raise MismatchError
    return result


def _conform_union(
    value: object, options: tuple[Any, ...], check_reference: CheckReference
) -> Value:
    for option in options:
        try:
            return _conform(value, option, check_reference)
        except MismatchError:
            continue
    raise MismatchError


def _conform_literal(value: object, choices: tuple[Any, ...]) -> Value:
    for choice in choices:
        if value == choice and isinstance(value, bool) is isinstance(choice, bool):
            return choice  # type: ignore[no-any-return]
    raise MismatchError


def _conform_sequence(
    value: object, arguments: tuple[Any, ...], check_reference: CheckReference
) -> Value:
    if not isinstance(value, tuple | list):
        raise MismatchError
    if len(arguments) == 1 or arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise MismatchError
    pairs = zip(value, arguments, strict=True)
    return tuple(_conform(item, argument, check_reference) for item, argument in pairs)


def _conform_mapping(value: object, argument: Any, check_reference: CheckReference) -> Value:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise MismatchError
    return {str(key): _conform(item, argument, check_reference) for key, item in value.items()}


def _conform_scalar(value: object, annotation: Any) -> Value:
    if value is None and annotation in (None, type(None)):
        return None
    if isinstance(value, bool):
        if annotation is bool:
            return value
    elif isinstance(value, int) and annotation is int:
        return int(value)
    elif isinstance(value, int | float) and _is_a(annotation, float):
        return _finite(value)
    elif isinstance(value, str) and _is_a(annotation, str):
        return str(value)
    raise MismatchError


def _is_a(annotation: Any, scalar: type) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, scalar)


def _finite(value: int | float) -> float:
    try:
        number = float(value) + 0.0  # -0.0 and 0.0 are the same setting
    except OverflowError:
        raise MismatchError from None
    if not math.isfinite(number):
        raise MismatchError
    return number


def type_text(annotation: Any) -> str:
    """An annotation as text for users.

    Raises TypeError for an annotation that no configuration value can meet.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated_text(arguments[0], arguments[1:])
    if origin in UNIONS:
        return " or ".join(type_text(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if origin in SEQUENCES:
        arguments = arguments if origin is tuple else (*arguments, Ellipsis)
        items = ("..." if item is Ellipsis else type_text(item) for item in arguments)
        return f"({', '.join(items)})"
    if origin in MAPPINGS and arguments[0] is str:
        return f"{{text: {type_text(arguments[1])}}}"
    return _scalar_text(annotation)


def _scalar_text(annotation: Any) -> str:
    names = {Any: "any literal", int: "int", float: "float", bool: "bool", str: "text"}
    if annotation in (None, type(None)):
        return "None"
    for scalar, text in names.items():
        if annotation is scalar:
            return text
    raise TypeError(
        f"{annotation!r} is not a type for a setting: use int, float, bool, str, Literal, "
        "tuple[...], dict[str, ...], Any, unions, or Annotated[Callable[..., X], Part(kind)]"
    )


def _annotated_text(base: Any, rules: tuple[object, ...]) -> str:
    for rule in rules:
        if isinstance(rule, Part):
            return f"@{rule.kind}"
    limits = " and ".join(str(rule) for rule in rules if isinstance(rule, NUMERIC_RULES))
    if limits and base not in (int, float):
        raise TypeError(f"the rule {limits} cannot apply to {base!r}: it needs an int or a float")
    texts = " and ".join(str(rule) for rule in rules if isinstance(rule, TEXT_RULES))
    if texts and base is not str:
        raise TypeError(f"the rule {texts!r} cannot apply to {base!r}: it needs text")
    return f"{type_text(base)} {limits}{texts}".strip()


def accepts_text(annotation: Any) -> bool:
    """Whether text is accepted, so that a bare word on the command line can stand for it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return accepts_text(arguments[0])
    if origin in UNIONS:
        return any(accepts_text(argument) for argument in arguments)
    if origin is Literal:
        return any(isinstance(choice, str) for choice in arguments)
    return annotation is str


def part_kinds(annotation: Any) -> frozenset[str]:
    """The kinds of part that occur in the annotation."""
    if isinstance(annotation, Part):
        return frozenset({annotation.kind})
    return frozenset().union(*(part_kinds(argument) for argument in get_args(annotation)))


def references(value: Value) -> Iterator[Reference]:
    """Every reference inside a value, in order."""
    if type(value) in PLAIN:
        return
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from references(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)


def replace_reference(value: Value, old: Reference, new: Reference) -> Value:
    """The value with every ``old`` reference inside it replaced by ``new``."""
    if isinstance(value, tuple):
        return tuple(replace_reference(item, old, new) for item in value)
    if isinstance(value, Mapping):
        return {key: replace_reference(item, old, new) for key, item in value.items()}
    return new if value == old else value


def format_value(value: object, *, sort_keys: bool = False) -> str:
    """The value in gin's syntax. Reading the text back gives the value again."""
    if type(value) in PLAIN:
        return repr(value)
    if isinstance(value, tuple | list):
        items = [format_value(item, sort_keys=sort_keys) for item in value]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if isinstance(value, Mapping):
        pairs = sorted(value.items()) if sort_keys else value.items()
        items = [f"{key!r}: {format_value(item, sort_keys=sort_keys)}" for key, item in pairs]
        return f"{{{', '.join(items)}}}"
    return str(value) if isinstance(value, Reference) else repr(value)
