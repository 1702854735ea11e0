"""The constants of a set of reference vectors: which were used, and what they say of the steps.

A replay uses every constant. One that this project cannot vary is compared with what it has; one
that nothing uses is named, because the set may have been recorded with a rule that is not replayed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

TEXTS = ("comment", "description", "equations", "note", "notes", "source")  # no constants
LEARNING_RATE = 0.01  # the README of the sets: plain SGD; a set that says nothing has this

_NUMBER = r"([0-9.]+(?:e[+-]?[0-9]+)?)"
_CLAUSES = {
    "kind": r"(?:plain )?(sgd)",
    "lr": rf"(?:lr|learning rate) {_NUMBER}",
    "momentum": rf"(no) momentum|momentum {_NUMBER}",
    "weight_decay": rf"(no) weight decay|weight decay {_NUMBER}",
    "pace": r"(one) step per training batch",
    "order": r"batches ([0-9]+(?:, ?[0-9]+)*) in order",
}


class NotReplayableError(ValueError):
    """A set was recorded with a constant that this project cannot follow."""


class Constants(Mapping[str, Any]):
    """The constants of a set by name, nested ones as ``Constants``; notes which were used."""

    def __init__(
        self, values: Mapping[str, Any], path: str = "", used: set[str] | None = None
    ) -> None:
        self._values = values
        self._path = path
        self._used: set[str] = set() if used is None else used

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Constants":
        """Any mapping as constants; those that are some already keep their notes."""
        return values if isinstance(values, Constants) else cls(values)

    def __getitem__(self, name: str) -> Any:
        value, path = self._values[name], self._path + name
        self._used.add(path)
        return Constants(value, f"{path}.", self._used) if isinstance(value, Mapping) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        """Asking is not using."""
        return name in self._values

    def require(self, name: str, here: object) -> None:
        """Raise NotReplayableError where the set has another value than this project."""
        if name in self and self[name] != here:
            raise self.refuse(name, f"here {here!r}")

    def without_effect(self, *names: str) -> None:
        """Count constants as used that no recorded tensor depends on; every call says why."""
        self._used |= {self._path + name for name in names}

    def refuse(self, name: str, why: str) -> NotReplayableError:
        value = self._values[name]
        return NotReplayableError(f"not replayable: constant {self._path}{name} = {value!r}, {why}")

    def unused(self) -> list[str]:
        """``NAME = VALUE`` of the constants that nothing used; texts that explain are none."""
        found = []
        for name, value in self._values.items():
            if isinstance(value, Mapping):
                found += Constants(value, f"{self._path}{name}.", self._used).unused()
            elif self._path + name not in self._used and not _explains(name, value):
                found.append(f"{self._path}{name} = {value!r}")
        return found


def _explains(name: str, value: object) -> bool:
    lines = value if isinstance(value, list) else [value]
    return name in TEXTS and all(isinstance(line, str) for line in lines)


@dataclass(frozen=True)
class RecordedSGD:
    """The recorded optimizer; ``order`` is the batch of each step, None without a word of it."""

    lr: float = LEARNING_RATE
    momentum: float = 0.0
    weight_decay: float = 0.0
    order: tuple[int, ...] | None = None

    def build(self, parameters: list[nn.Parameter]) -> torch.optim.SGD:
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )


def recorded_sgd(constants: Constants) -> RecordedSGD:
    """What the set says of its optimizer, such as "SGD, lr 0.01, no momentum, weight decay 5e-4".

    Raises NotReplayableError for words that say something else.
    """
    key = "optimizer" if "optimizer" in constants else "optimiser"
    if key not in constants:
        return RecordedSGD()
    said: dict[str, str] = {}
    for clause in re.split(r"[,;] ", str(constants[key]).strip().removesuffix(".")):
        kind, value = _clause(clause)
        if not kind or kind in said:
            raise constants.refuse(key, f"of which {clause!r} cannot be replayed")
        said[kind] = value
    if absent := [kind for kind in ("kind", "lr") if kind not in said]:
        missing = {"kind": "SGD", "lr": "a learning rate"}[absent[0]]
        raise constants.refuse(key, f"which does not name {missing}")
    order = [int(index) for index in said["order"].split(",")] if "order" in said else None
    return RecordedSGD(
        lr=float(said["lr"]),
        momentum=float(said.get("momentum", 0)),
        weight_decay=float(said.get("weight_decay", 0)),
        order=None if order is None else tuple(order),
    )


def _clause(text: str) -> tuple[str, str]:
    """The kind of a clause and its value; two empty texts for one that is not known."""
    for kind, pattern in _CLAUSES.items():
        if found := re.fullmatch(pattern, text.strip(), re.IGNORECASE):
            value = next(group for group in found.groups() if group is not None)
            return kind, "0" if value.lower() == "no" else value
    return "", ""
