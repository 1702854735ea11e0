"""Settings for some cells of a grid: published hyper-parameters differ by dataset and shots."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from core.config import Config
from core.suggestions import did_you_mean

AXES = ("variants", "datasets", "shots")
SETTINGS = "set"


class CellGroup(NamedTuple):
    """The cells that differ in nothing but their seed; ``shots`` is None without ``grid.shots``."""

    variant: str
    dataset: str
    shots: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Bindings for the cells whose variant, dataset and shots are among those named.

    An axis that names nothing covers everything. ``source`` is the name of the rule in messages.
    """

    bindings: Mapping[str, Any]
    covers: Mapping[str, tuple[Any, ...]]
    source: str

    def applies(self, group: CellGroup) -> bool:
        """Whether the cells of a group are covered."""
        named = (self.covers.get(axis, ()) for axis in AXES)
        return all(not names or value in names for names, value in zip(named, group, strict=True))


def read_overrides(
    raw: Sequence[Mapping[str, Any]], known: Mapping[str, Collection[Any]]
) -> tuple[Override, ...]:
    """The rules of ``grid.overrides``. ``known`` has the values that each axis may name.

    A rule may name a dataset or shots that a narrowed grid does not have. Raises ValueError for a
    rule without settings or axes, and for values that are not known.
    """
    return tuple(_override(rule, f"grid.overrides[{n}]", known) for n, rule in enumerate(raw))


def _override(
    rule: Mapping[str, Any], source: str, known: Mapping[str, Collection[Any]]
) -> Override:
    keys = (*AXES, SETTINGS)
    for key in rule:
        if key not in keys:
            raise ValueError(
                f"{source} has the unknown key {key!r}; a rule has {', '.join(keys)}"
                f"{did_you_mean(key, keys)}"
            )
    bindings, covers = rule.get(SETTINGS), {axis: rule[axis] for axis in AXES if axis in rule}
    if not isinstance(bindings, Mapping) or not bindings:
        raise ValueError(f"{source} sets nothing: give {SETTINGS!r}, bindings as in a variant")
    if not covers:
        raise ValueError(
            f"{source} covers every cell: name {', '.join(AXES)}, or bind it above the grid"
        )
    for axis, names in covers.items():
        if not isinstance(names, tuple) or not names:
            raise ValueError(f"{source}: {axis} is a tuple of names, got {names!r}; write (x,)")
        for name in names:
            if name not in known[axis]:
                near = did_you_mean(str(name), map(str, known[axis]))
                raise ValueError(f"{source}: {name!r} is not among the {axis} of the grid{near}")
    return Override(bindings=bindings, covers=covers, source=source)


def check_overrides(
    overrides: Sequence[Override], configs: Mapping[CellGroup, Config], root: str
) -> None:
    """Every setting of a rule must act in at least one cell that the rule covers.

    ``configs`` has the configuration of every group. Raises ValueError for an idle setting.
    """
    for override in overrides:
        covered = [config for group, config in configs.items() if override.applies(group)]
        idle = set(override.bindings)
        for config in covered:
            idle &= set(config.unused((root,)))
        if covered and idle:
            config = covered[0]
            config.without(set(config.unused((root,))) - idle).check_used((root,))
