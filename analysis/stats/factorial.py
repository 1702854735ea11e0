"""Factors with any number of levels: effects of single levels, and cell means of pairs of factors.

``cells`` maps one level of each factor, in the order of ``factors``, to scores (D, S), fractions,
NaN where missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from analysis.stats.attribution import Judge, PartEffect, part_effects
from analysis.stats.decision import judge as default_judge
from analysis.stats.intervals import Array, MeanInterval, paired_differences, t_interval

LevelCells = Mapping[tuple[str, ...], Array]


def level_effects(
    cells: LevelCells,
    factors: Mapping[str, Sequence[str]],
    *,
    judge: Judge = default_judge,
) -> tuple[PartEffect, ...]:
    """Main effects by level, for factors with any number of levels: each level minus the first.

    A level is compared over the combinations of the other factors that have scores with it and with
    the first level, so that nothing else changes. Each factor is one family for ``judge``.
    """
    made: list[PartEffect] = []
    known = {c: s for c, s in cells.items() if np.isfinite(s).any()}
    for index, (name, levels) in enumerate(factors.items()):
        found = []
        for level in levels[1:]:
            pairs = [
                (known[c], known[first])
                for c in known
                if c[index] == level
                and (first := (*c[:index], levels[0], *c[index + 1 :])) in known
            ]
            if pairs:
                differences = [paired_differences(a, b) for a, b in pairs]
                found.append(((name, levels[0], level), np.mean(differences, axis=0)))
        made += part_effects("level", found, judge=judge)
    return tuple(made)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellMeans:
    """Mean score of every combination of the levels of two factors, over the levels of the others
    and over datasets; ``cells[i][j]`` is level i of ``first`` with level j of ``second``, None
    where there is no score.
    """

    first: str
    second: str
    first_levels: tuple[str, ...]
    second_levels: tuple[str, ...]
    cells: tuple[tuple[MeanInterval | None, ...], ...]

    @property
    def departure(self) -> float:
        """How far the cell means are from parallel lines; 0 where one is missing."""
        table = np.array([[c.mean if c else np.nan for c in row] for row in self.cells])
        if np.isnan(table).any():
            return 0.0
        rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        return float(np.abs(rest).max())


def cell_means(cells: LevelCells, factors: Mapping[str, Sequence[str]]) -> tuple[CellMeans, ...]:
    """Cell means of every pair of factors, the pair that interacts most first."""
    names = list(factors)
    made = []
    for i, j in combinations(range(len(names)), 2):
        first, second = tuple(factors[names[i]]), tuple(factors[names[j]])
        table = tuple(
            tuple(
                _over_seeds([s for c, s in cells.items() if (c[i], c[j]) == (one, two)])
                for two in second
            )
            for one in first
        )
        made.append(
            CellMeans(
                first=names[i],
                second=names[j],
                first_levels=first,
                second_levels=second,
                cells=table,
            )
        )
    return tuple(sorted(made, key=lambda pair: -pair.departure))


def _over_seeds(tables: Sequence[Array]) -> MeanInterval | None:
    """Mean over variants and datasets of every seed that is complete, and its t interval."""
    if not tables:
        return None
    per_seed = np.mean([t.mean(axis=0) for t in tables], axis=0)
    known = per_seed[~np.isnan(per_seed)]
    return t_interval(known) if known.size else None
