"""Is a study a toggle grid? Which of its variants switch which parts on, from their factors.

A variant's factors are the parameters that it binds, with the text of their levels; a parameter
that it leaves alone is as the study configures it. A part is a parameter with two levels, of which
the first is on and the last is off; ``@No...`` and ``@Null...`` are always off.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from analysis.stats import Parts

OFF = re.compile(r"@?(No|Null)[A-Z]")
NONE_NAME = "none"
"""The name of the reference variant of an add-one-in grid, which lists levels from off to on."""

Factors = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToggleGrid:
    """The parts that a study switches, and the variant of every combination that it runs.

    ``cells`` maps the parts that are on to a variant; ``levels`` a part to its (on, off) texts;
    ``outside`` are variants that do something else too. Without parts ``reason`` says why, and
    ``factors`` has every factor with its levels, for effects by level.
    """

    parts: tuple[str, ...] = ()
    cells: Mapping[Parts, str] = field(default_factory=dict)
    levels: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    factors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    by_level: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    reason: str = ""


def find_toggle_grid(
    factors: Factors,
    *,
    levels: Mapping[str, Sequence[str]] | None = None,
    base: str = "",
) -> ToggleGrid:
    """Find the grid among variants, in the order of the study.

    ``levels`` gives the levels of the study's factors in their order where they are known; else the
    order in which variants show them is taken. ``base`` names a variant that equals all parts off,
    such as a null refiner when the parts are all parts of the refiner: that cannot be seen here.
    """
    found = _from_factors(factors, levels or {}) or _from_named(factors)
    if found.parts and base and frozenset[str]() not in found.cells:
        if base not in factors:
            raise ValueError(f"base must be a variant, got {base!r}; known: {', '.join(factors)}")
        return ToggleGrid(
            parts=found.parts,
            cells={**found.cells, frozenset(): base},
            levels=found.levels,
            outside=tuple(v for v in found.outside if v != base),
        )
    return found


def _from_factors(factors: Factors, known: Mapping[str, Sequence[str]]) -> ToggleGrid | None:
    """A grid whose variants all bind the same parameters; None where there is none. Of two variants
    with the same levels, the first is the cell.
    """
    keys = tuple(known) or _common_keys(factors)
    if not keys:
        return None
    inside = [v for v, bound in factors.items() if set(bound) == set(keys)]
    shown = {k: tuple(dict.fromkeys(factors[v][k] for v in inside)) for k in keys}
    reverse = bool(inside) and inside[0] == NONE_NAME and not known
    order = {k: tuple(known.get(k, shown[k][::-1] if reverse else shown[k])) for k in keys}
    names = part_names(keys)
    by_level: dict[tuple[str, ...], str] = {}
    for v in inside:
        by_level.setdefault(tuple(factors[v][k] for k in keys), v)
    outside = tuple(v for v in factors if v not in by_level.values())
    everything = {names[k]: order[k] for k in keys}
    if more := [names[k] for k in keys if len(order[k]) != 2]:
        return ToggleGrid(
            outside=outside,
            factors=everything,
            by_level=by_level,
            reason=f"not a toggle grid, because {', '.join(more)} has other than two levels; only "
            "effects by level are given",
        )
    both = {names[k]: _on_off(order[k]) for k in keys}
    cells = {
        frozenset(names[k] for k in keys if factors[v][k] == both[names[k]][0]): v
        for v in by_level.values()
    }
    return ToggleGrid(
        parts=tuple(both),
        cells=cells,
        levels=both,
        outside=outside,
        factors=everything,
        by_level=by_level,
    )


def _common_keys(factors: Factors) -> tuple[str, ...]:
    """The parameters that most variants bind together, each with two levels or more among them."""
    groups = Counter(tuple(sorted(bound)) for bound in factors.values() if bound)
    for keys, count in groups.most_common():
        rows = [bound for bound in factors.values() if tuple(sorted(bound)) == keys]
        if count > 1 and all(len({row[k] for row in rows}) > 1 for k in keys):
            return tuple(k for k in rows[0] if k in keys)
    return ()


def _from_named(factors: Factors) -> ToggleGrid:
    """Named variants that switch parts off, relative to the study's own configuration."""
    switched = [
        bound
        for bound in factors.values()
        if bound and all(OFF.match(level) for level in bound.values())
    ]
    keys = tuple(dict.fromkeys(k for bound in switched for k in bound if not _whole(k)))
    if not keys:
        return ToggleGrid(reason="not a toggle grid: no variant only switches parts off or on")
    names = part_names(keys)
    cells: dict[Parts, str] = {}
    outside = []
    for variant, bound in factors.items():
        only_off = all(k in keys and OFF.match(level) for k, level in bound.items())
        on = frozenset(names[k] for k in keys if k not in bound)
        if only_off and on not in cells:
            cells[on] = variant
        else:
            outside.append(variant)
    off = {k: next(b[k] for b in switched if k in b) for k in keys}
    return ToggleGrid(
        parts=tuple(names[k] for k in keys),
        cells=cells,
        levels={names[k]: ("as configured", off[k]) for k in keys},
        outside=tuple(outside),
    )


def _whole(key: str) -> bool:
    """Whether a parameter takes the whole refiner or method away, which is no part of it."""
    return key in ("experiment.refiner", "experiment.method")


def _on_off(levels: tuple[str, ...]) -> tuple[str, str]:
    first, last = levels
    return (last, first) if OFF.match(first) and not OFF.match(last) else (first, last)


def part_names(keys: Sequence[str]) -> dict[str, str]:
    """Short names of parameters: the last word, or all of it where two would be called alike."""
    shorts = Counter(key.rpartition(".")[2] for key in keys)
    return {key: short if shorts[short := key.rpartition(".")[2]] == 1 else key for key in keys}
