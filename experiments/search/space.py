"""The search space: ranges and choices of settings, checked against the actual parameters.

A dict with ``low`` and ``high`` is a range, of integers where the parameter is one. A tuple is a
choice, possibly of parts. A setting of a part that a trial does not use is not proposed for that
trial: the space is conditional by construction.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from core.config import Config, Value, format_value, lookup, references
from experiments.study.planner import ROOT

MAX_STRUCTURES = 256
SOURCE = "search.space"
RANGE_KEYS = ("low", "high", "log", "step")
FIXED: Mapping[str, str] = {
    **dict.fromkeys(
        ("dataset", "targets", "protocol", "template", "split_fractions", "split_seed"),
        "the search compares its runs by it",
    ),
    **dict.fromkeys(("backbone", "weights", "precision"), "all trials share one frozen model"),
    **dict.fromkeys(("seed", "shots", "shots_file"), "all trials use the same images"),
    "selection": "all trials follow one selection rule",
}
"""Settings of the experiment that a search must not vary, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; ``whole``, in steps, or on a log scale."""

    key: str
    low: float
    high: float
    whole: bool
    log: bool = False
    step: float | None = None

    @property
    def examples(self) -> tuple[Value, ...]:
        """Example values: the two ends."""
        return (self.value(self.low), self.value(self.high))

    def value(self, number: float) -> int | float:
        """A proposed number in the type of the parameter."""
        return round(number) if self.whole else float(number)

    def contains(self, value: Value) -> bool:
        """Whether a setting lies in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high

    def describe(self) -> dict[str, Any]:
        """The range as plain data."""
        kind = "int" if self.whole else "float"
        ends = {name: self.value(end) for name, end in (("low", self.low), ("high", self.high))}
        return {"kind": kind, **ends, "log": self.log, "step": self.step}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of several values, identified by their text."""

    key: str
    examples: tuple[Value, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as text, in order."""
        return tuple(format_value(value) for value in self.examples)

    @property
    def plugs(self) -> bool:
        """Whether some value is a part, so that the choice decides which other settings exist."""
        return any(True for value in self.examples for _ in references(value))

    def value(self, text: str) -> Value:
        """The value that a text stands for."""
        return self.examples[self.texts.index(text)]

    def contains(self, value: Value) -> bool:
        """Whether a setting is one of the values."""
        return format_value(value) in self.texts

    def describe(self) -> dict[str, Any]:
        """The choice as plain data."""
        return {"kind": "choice", "choices": list(self.texts)}


Dimension = Range | Choice

Suggest = Callable[[Dimension], Any]
"""Maps a dimension to a number for a range, to a text for a choice."""


class Space:
    """The dimensions of a search, each ordered after those that decide whether it exists.

    ``base`` is the configuration without what an included file or a preset binds to no effect in
    any trial, and ``notes`` names that. Raises ValueError, one line, for a name, range or choice
    that the parameter does not accept, for a setting that a search must not vary, and for one that
    no trial could reach.
    """

    def __init__(self, described: Mapping[str, Any], base: Config) -> None:
        if not described:
            raise ValueError("search.space is empty: give at least one parameter")
        self.base = base
        self.dimensions = {key: _dimension(key, value, base) for key, value in described.items()}
        structures = tuple(self._structures())
        dropped = frozenset(base.bindings).intersection(
            *(config.unplugged((ROOT,)) for config in structures)
        )
        self.notes = structures[0].unplugged_notes(dropped, (ROOT,))
        self.base = base.without(dropped)
        self.structures = tuple(config.without(dropped) for config in structures)
        self._check_used()
        self._check_matters()
        self.order = self._order()

    def _check_used(self) -> None:
        """Every binding, and every value of every setting, must have an effect in some trial."""
        first = self.structures[0]
        for key, dimension in self.dimensions.items():
            for value in dimension.examples:
                tried = [config.with_bindings({key: value}, SOURCE) for config in self.structures]
                if all(key in config.unused((ROOT,)) for config in tried):
                    config = tried[0]
                    config.without(set(config.unused((ROOT,))) - {key}).check_used((ROOT,))
        idle = set(self.base.bindings)
        for config in self.structures:
            idle &= set(config.unused((ROOT,)))
        first.without(set(first.unused((ROOT,))) - idle).check_used((ROOT,))

    def _check_matters(self) -> None:
        """No setting may be one that never makes another run (``Configurable.permissions``)."""
        for key in self.dimensions:
            name, _, parameter = key.rpartition(".")
            if parameter in lookup(name.rpartition("/")[2]).cls.permissions:
                raise ValueError(
                    f"{SOURCE}: {key} cannot be searched: it changes no result; remove it"
                )

    def propose(self, suggest: Suggest) -> dict[str, Value]:
        """A value for every setting of this trial, obtained one by one from ``suggest``."""
        chosen: dict[str, Value] = {}
        config = self.base
        for key in self.order:
            dimension = self.dimensions[key]
            if _acts(config, dimension):
                chosen[key] = dimension.value(suggest(dimension))
                config = config.with_bindings({key: chosen[key]}, SOURCE)
        return {key: chosen[key] for key in self.dimensions if key in chosen}

    def bindings(self, texts: Mapping[str, str]) -> dict[str, Value]:
        """The settings of a trial from their texts."""
        made: dict[str, Value] = {}
        for key, text in texts.items():
            dimension = self.dimensions[key]
            given: Any = float(text) if isinstance(dimension, Range) else text
            made[key] = dimension.value(given)
        return made

    def config(self, bindings: Mapping[str, Value]) -> Config:
        """The configuration of a trial; settings that it does not reach are not bound."""
        made = self.base.with_bindings(bindings, SOURCE)
        return made.without(made.unused((ROOT,)))

    def describe(self) -> dict[str, dict[str, Any]]:
        """The space as plain data, in the order of the configuration."""
        return {key: dimension.describe() for key, dimension in self.dimensions.items()}

    @property
    def conditional(self) -> tuple[str, ...]:
        """Settings that only some trials have."""
        return tuple(
            key
            for key in self.dimensions
            if not all(_acts(config, self.dimensions[key]) for config in self.structures)
        )

    @property
    def common_ranges(self) -> tuple[str, ...]:
        """Ranges that every trial has."""
        ranges = [key for key, dimension in self.dimensions.items() if isinstance(dimension, Range)]
        return tuple(key for key in ranges if key not in self.conditional)

    def _structures(self) -> Iterator[Config]:
        """Every combination of parts, with example values for the other settings."""
        plugs = [d for d in self.dimensions.values() if isinstance(d, Choice) and self._decides(d)]
        count = math.prod(len(d.examples) for d in plugs)
        if count > MAX_STRUCTURES:
            raise ValueError(
                f"search.space has {count} combinations of parts, more than {MAX_STRUCTURES}: "
                "search fewer parts at a time"
            )
        others = {k: d.examples[0] for k, d in self.dimensions.items() if d not in plugs}
        for values in itertools.product(*(d.examples for d in plugs)):
            parts = {d.key: value for d, value in zip(plugs, values, strict=True)}
            yield self.base.with_bindings({**others, **parts}, SOURCE)

    def _decides(self, choice: Choice) -> bool:
        """Whether a choice decides which other settings have an effect: by the part that it plugs
        in, or as the words of a context beside their number.
        """
        if choice.plugs:
            return True
        trials = [self.base.with_bindings({choice.key: v}, SOURCE) for v in choice.examples]
        others = [d for d in self.dimensions.values() if d is not choice]
        return any(len({_acts(trial, other) for trial in trials}) == 2 for other in others)

    def _order(self) -> tuple[str, ...]:
        """The keys, each after the choices that decide whether it exists."""
        above: dict[str, set[str]] = {key: set() for key in self.dimensions}
        for config in self.structures:
            for key, dimension in self.dimensions.items():
                if isinstance(dimension, Choice) and self._decides(dimension):
                    trials = [config.with_bindings({key: v}, SOURCE) for v in dimension.examples]
                    for other in self.dimensions.keys() - {key}:
                        acting = {_acts(trial, self.dimensions[other]) for trial in trials}
                        if len(acting) == 2:
                            above[other].add(key)
        try:
            return tuple(TopologicalSorter(above).static_order())
        except CycleError as error:
            cycle = " and ".join(sorted(set(error.args[1])))
            raise ValueError(
                f"search.space: {cycle} depend on each other; search over only one of them"
            ) from None


def _acts(config: Config, dimension: Dimension) -> bool:
    """Whether every value of a setting has an effect in a configuration."""
    return not any(
        dimension.key in config.with_bindings({dimension.key: value}, SOURCE).unused((ROOT,))
        for value in dimension.examples
    )


def _dimension(key: str, described: object, base: Config) -> Dimension:
    where = f"search.space: {key}"
    name, _, parameter = key.rpartition(".")
    if name == ROOT and parameter in FIXED:
        raise ValueError(f"{where} cannot be searched: {FIXED[parameter]}; remove it")
    if isinstance(described, Mapping):
        return _range(key, described, base)
    if not isinstance(described, tuple | list):
        raise ValueError(
            f"{where} must be a range {{'low': 1, 'high': 9}} or a tuple of choices, got "
            f"{format_value(described)}"
        )
    values = tuple(_checked(key, value, base) for value in described)
    texts = [format_value(value) for value in values]
    if len(texts) < 2 or len(set(texts)) < len(texts):
        raise ValueError(
            f"{where} needs at least two different choices, got {format_value(described)}"
        )
    return Choice(key=key, examples=values)


def _range(key: str, described: Mapping[str, Any], base: Config) -> Range:
    where = f"search.space: {key}"
    unknown = sorted(described.keys() - set(RANGE_KEYS))
    if unknown or not {"low", "high"} <= described.keys():
        raise ValueError(
            f"{where}: a range has low and high, and optionally log or step, got "
            f"{format_value(dict(described))}"
        )
    low, high = (_checked(key, described[end], base) for end in ("low", "high"))
    if isinstance(low, bool) or not isinstance(low, int | float) or type(low) is not type(high):
        raise ValueError(f"{where} is not a number; give its choices in a tuple")
    assert isinstance(high, int | float)
    log, step = described.get("log", False), described.get("step")
    if low >= high:
        word = "empty" if low == high else "inverted"
        raise ValueError(f"{where}: the range is {word}, low must be below high, got {low}, {high}")
    if not isinstance(log, bool):
        raise ValueError(f"{where}: log must be True or False, got {format_value(log)}")
    if log and (low <= 0 or step is not None):
        rule = "has no step" if low > 0 else f"starts above 0, got low = {low}"
        raise ValueError(f"{where}: a log range {rule}")
    _check_step(where, low, high, step)
    return Range(key=key, low=low, high=high, whole=isinstance(low, int), log=log, step=step)


def _check_step(where: str, low: float, high: float, step: Any) -> None:
    if step is None:
        return
    whole = isinstance(low, int)
    fits = type(step) is int or (type(step) is float and not whole)
    if not fits or not 0 < step <= high - low:
        kind = "an integer" if whole else "a number"
        raise ValueError(
            f"{where}: step must be {kind} above 0 and at most high - low, got {format_value(step)}"
        )
    parts = (high - low) / step
    if abs(parts - round(parts)) > 1e-9:
        raise ValueError(f"{where}: high must be low plus a number of steps, got {low}, {high}")


def _checked(key: str, value: object, base: Config) -> Value:
    """The value as the parameter accepts it. Raises the parameter's own ValueError."""
    return base.with_bindings({key: value}, SOURCE).bindings[key]
