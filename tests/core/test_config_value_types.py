"""Which values fit which annotations, in which normal form, and how a misfit is told."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Optional

import pytest

from core.config import (
    Above,
    AtLeast,
    Between,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
    Probability,
    Reference,
    format_value,
)
from core.config.value_types import MismatchError, conform, type_text


def accept_all(name: str, kind: str | None) -> None:
    """Every reference is good."""


CACHE = Annotated[Callable[..., Any], Part("cache")]
GOOD = [
    (int, 3, 3),
    (float, 3, 3.0),
    (float, -0.0, 0.0),
    (bool, True, True),
    (str, "x", "x"),
    (None, None, None),
    (int | None, None, None),
    (Optional[int], 3, 3),  # noqa: UP045
    (float | bool, True, True),
    (int | float, 2.5, 2.5),
    (Literal["a", 1, True], True, True),
    (Literal["a", 1], 1, 1),
    (tuple[int, ...], [1, 2], (1, 2)),
    (tuple[int, ...], (), ()),
    (tuple[int, float], [1, 2], (1, 2.0)),
    (list[float], (1,), (1.0,)),
    (Sequence[str], ["a"], ("a",)),
    (dict[str, float], {"a": 1}, {"a": 1.0}),
    (Mapping[str, tuple[int, ...]], {"a": [1]}, {"a": (1,)}),
    (Any, {"a": [1, (True, None, "x", 0.5)]}, {"a": (1, (True, None, "x", 0.5))}),
    (Any, Reference("X"), Reference("X")),
    (PositiveInt, 1, 1),
    (NonNegativeInt, 0, 0),
    (PositiveFloat, 1, 1.0),
    (NonNegativeFloat, 0, 0.0),
    (Probability, 1, 1.0),
    (Probability | None, None, None),
    (Annotated[int, "a count"], 7, 7),
    (Annotated[float, Above(0), Between(0, 2)], 2, 2.0),
    (CACHE, Reference("X"), Reference("X")),
    (CACHE | None, None, None),
    (tuple[CACHE, ...], [Reference("X")], (Reference("X"),)),
    (dict[str, CACHE], {"a": Reference("X")}, {"a": Reference("X")}),
]


@pytest.mark.parametrize(("annotation", "value", "expected"), GOOD)
def test_good_values_take_their_normal_form(annotation, value, expected):
    result = conform(value, annotation, accept_all)
    assert result == expected
    assert format_value(result) == format_value(expected), "types and signs count too"


BAD = [
    (int, True, "must be int, got True"),
    (int, 2.0, "must be int, got 2.0"),
    (int, None, "must be int, got None"),
    (float, True, "must be float, got True"),
    (float, "1", "must be float, got '1'"),
    (float, float("nan"), "must be float, got nan; nan and infinity are not allowed"),
    (float, float("-inf"), "must be float, got -inf; nan and infinity are not allowed"),
    (Any, float("inf"), "must be any literal, got inf; nan and infinity are not allowed"),
    (Any, 1j, "must be any literal, got 1j"),
    (Any, b"x", "must be any literal, got b'x'"),
    (Any, {1: 2}, "must be any literal, got {1: 2}"),
    (dict[str, Any], {"a": float("nan")}, "must be {text: any literal}, got {'a': nan}"),
    (bool, 1, "must be bool, got 1"),
    (str, 3, "must be text, got 3; text is written in quotes"),
    (None, 0, "must be None, got 0"),
    (Literal["a", 1], True, "must be one of 'a', 1, got True"),
    (Literal["a", "b"], "c", "must be one of 'a', 'b', got 'c'"),
    (Literal[True], 1, "must be one of True, got 1"),
    (int | None, "x", "must be int or None, got 'x'"),
    (tuple[int, ...], 3, "must be (int, ...), got 3; a sequence of one is written [x]"),
    (tuple[int, ...], "ab", "must be (int, ...), got 'ab'; a sequence of one is written [x]"),
    (tuple[int, ...], [1, True], "must be (int, ...), got (1, True)"),
    (tuple[int, float], [1], "must be (int, float), got (1,)"),
    (list[int], ["a"], "must be (int, ...), got ('a',)"),
    (dict[str, int], {"a": "b"}, "must be {text: int}, got {'a': 'b'}"),
    (dict[str, int], [1], "must be {text: int}, got (1,)"),
    (PositiveInt, 0, "must be int >= 1, got 0"),
    (PositiveFloat, 0, "must be float > 0, got 0"),
    (NonNegativeFloat, -1e-9, "must be float >= 0, got -1e-09"),
    (Probability, 1.5, "must be float in [0, 1], got 1.5"),
    (Probability | None, 2, "must be float in [0, 1] or None, got 2"),
    (CACHE, "NoCache", "must be @cache, got 'NoCache'; a class is written @NoCache, without"),
    (CACHE, None, "must be @cache, got None"),
    (int, Reference("X"), "must be int, got @X"),
]


@pytest.mark.parametrize(("annotation", "value", "message"), BAD)
def test_bad_values_are_refused_with_rule_and_value(annotation, value, message):
    with pytest.raises(MismatchError) as caught:
        conform(value, annotation, accept_all)
    assert str(caught.value).startswith(message)


def test_numbers_too_large_for_a_float_are_refused():
    with pytest.raises(MismatchError, match=r"must be float, got 1000.*\.\.\.$"):
        conform(10**400, float, accept_all)


def test_references_are_checked_with_the_kind_wherever_they_stand():
    asked = []
    value = {"a": [Reference("X")], "b": Reference("Y")}
    conform(value, Any, lambda name, kind: asked.append((name, kind)))
    conform([Reference("Z")], tuple[CACHE, ...], lambda name, kind: asked.append((name, kind)))
    assert asked == [("X", None), ("Y", None), ("Z", "cache")]


def test_numpy_scalars_become_python_numbers_or_are_refused():
    numpy = pytest.importorskip("numpy")
    result = conform(numpy.float64(0.5), float, accept_all)
    assert type(result) is float
    assert type(conform(numpy.str_("a"), Any, accept_all)) is str
    with pytest.raises(MismatchError):
        conform(numpy.int64(3), int, accept_all)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (CACHE | None, "@cache or None"),
        (dict[str, tuple[PositiveInt, ...]], "{text: (int >= 1, ...)}"),
        (Sequence[Literal["a", "b"]], "(one of 'a', 'b', ...)"),
        (Annotated[float, Above(0), AtLeast(1)], "float > 0 and >= 1"),
    ],
)
def test_type_text(annotation, text):
    assert type_text(annotation) == text
