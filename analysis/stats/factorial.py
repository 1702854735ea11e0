"""Factors with any number of levels: effects of single levels, and cell means of pairs of factors.

``cells`` maps one level of each factor, in the order of ``factors``, to scores (D, S), fractions,
NaN where missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from analysis.stats.attribution import Judge, KnownPair, PartEffect, Wanted, part_effects
from analysis.stats.decision import judge as default_judge
from analysis.stats.intervals import Array, MeanInterval, t_interval
from analysis.stats.unbalanced import filled

Levels = tuple[str, ...]
LevelCells = Mapping[Levels, Array]


def level_effects(
    cells: LevelCells,
    factors: Mapping[str, Sequence[str]],
    *,
    judge: Judge = default_judge,
    known: KnownPair[Levels] | None = None,
) -> tuple[PartEffect, ...]:
    """Main effects by level, for factors with any number of levels: each level minus the first.

    A level is compared over the combinations of the other factors that have scores with it and with
    the first level, so that nothing else changes. Each factor is one family for ``judge``;
    ``known`` has the judgments of pairs that are judged elsewhere.
    """
    made: list[PartEffect] = []
    observed = {c: s for c, s in cells.items() if np.isfinite(s).any()}
    for index, (name, levels) in enumerate(factors.items()):
        found = []
        for level in levels[1:]:
            pairs = {
                cell: first
                for cell in observed
                if cell[index] == level
                and (first := (*cell[:index], levels[0], *cell[index + 1 :])) in observed
            }
            if pairs:
                weights = dict.fromkeys(pairs, 1 / len(pairs))
                weights |= dict.fromkeys(pairs.values(), -1 / len(pairs))
                found.append(Wanted((name, levels[0], level), weights))
        made += part_effects("level", observed, found, judge=judge, known=known)
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
    """Cell means of every pair of factors, the pair that interacts most first.

    Missing runs are filled as ``unbalanced`` fits them; a mean that needs such a run has no
    interval.
    """
    names = list(factors)
    made = []
    scores_CDS = np.stack(list(cells.values()))
    fitted = np.stack([filled(scores_CDS[:, d]) for d in range(scores_CDS.shape[1])], axis=1)
    expected = dict(zip(cells, fitted, strict=True))
    for i, j in combinations(range(len(names)), 2):
        first, second = tuple(factors[names[i]]), tuple(factors[names[j]])
        table = tuple(
            tuple(
                _over_seeds(
                    [s for c, s in cells.items() if (c[i], c[j]) == (one, two)],
                    [s for c, s in expected.items() if (c[i], c[j]) == (one, two)],
                )
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


def _over_seeds(tables: Sequence[Array], expected: Sequence[Array]) -> MeanInterval | None:
    """Mean over variants and datasets of every seed that is complete, and its t interval; without
    an interval where only a fit completes a seed.
    """
    if not tables:
        return None
    scores, fitted = np.stack(tables), np.stack(expected)
    per_seed = fitted.mean(axis=(0, 1))
    known = per_seed[~np.isnan(per_seed)]
    if not known.size:
        return None
    made = np.isnan(scores).any(axis=(0, 1)) & ~np.isnan(per_seed)
    return MeanInterval(float(known.mean()), None, known.size) if made.any() else t_interval(known)
