"""The parts of a study: attribution over its toggle grid, effects by level, interactions.

Which variant switches what is read from the factors alone, see ``toggle_grid``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from math import prod

import numpy as np

from analysis.figures.attribution import Shares
from analysis.figures.interaction import CellMeans
from analysis.figures.variance import by_order
from analysis.read.results import Results
from analysis.read.toggle_grid import ToggleGrid, find_toggle_grid, level_effects
from analysis.sections.comparisons import Options
from analysis.sections.tables import TextTable
from analysis.stats import Array, MeanInterval, Resamples, dataset_means, t_interval
from analysis.stats import judge as judge_family
from analysis.stats.attribution import (
    MAX_PARTS,
    PartEffect,
    VarianceShares,
    attribute,
    variance_shares,
)
from analysis.text import label

NO_REFINER = {"experiment.refiner": "@NullRefiner"}
MAX_PAIRS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsView:
    """What a study says about its parts on one metric. What does not exist is None or empty, and
    ``reason`` says why. ``levels`` are effects of (factor, first level, level); ``variance`` has
    the shares of variance by dataset.
    """

    shares: Shares | None = None
    levels: tuple[PartEffect, ...] = ()
    pairs: tuple[CellMeans, ...] = ()
    reason: str = ""
    outside: tuple[str, ...] = ()
    variance: Mapping[str, VarianceShares] = field(default_factory=dict)


def parts_view(results: Results, metric: str, resamples: Resamples, options: Options) -> PartsView:
    """Attribution where parts are switched on and off, effects by level where there are more."""
    if not any(results.factors.values()):
        return PartsView(reason="the variants come without factors: nothing says what they switch")
    grid = find_toggle_grid(results.factors, levels=results.levels, base=_bare(results))
    tables = dict(zip(results.variants, results.cube(results.variants, metric), strict=True))
    judge = partial(
        judge_family,
        alpha=options.alpha,
        rope=options.rope,
        names=results.datasets,
        overlap=options.overlap,
    )
    by_level = {levels: tables[v] for levels, v in grid.by_level.items()}
    levels = level_effects(by_level, grid.factors, resamples, judge=judge) if by_level else ()
    whole = len(by_level) == prod(len(levels) for levels in grid.factors.values())
    pairs = _cell_means(by_level, grid) if by_level and whole else ()
    if not 1 < len(grid.parts) <= MAX_PARTS:
        reason = grid.reason or f"attribution needs 2 to {MAX_PARTS} parts, found {len(grid.parts)}"
        return PartsView(levels=levels, pairs=pairs, reason=reason, outside=grid.outside)
    cells = {cell: tables[v] for cell, v in grid.cells.items()}
    shares = Shares(
        found=attribute(cells, grid.parts, resamples, judge=judge),
        labels=grid.parts,
        base=_average(cells.get(frozenset())),
        full=_average(cells.get(frozenset(grid.parts))),
        what=label(metric),
    )
    return PartsView(
        shares=shares,
        levels=levels,
        pairs=pairs,
        outside=grid.outside,
        variance=dict(zip(results.datasets, variance_shares(cells, grid.parts), strict=True)),
    )


def variance_text(view: PartsView) -> TextTable | None:
    """Shares of variance in percent, a row a dataset; None where no dataset has any."""
    shares = {dataset: by_order(found) for dataset, found in view.variance.items()}
    names = next((tuple(found) for found in shares.values() if found), None)
    if names is None:
        return None
    rows = tuple(
        (dataset, *(f"{100 * found[n]:.1f}" if found else "-" for n in names))
        for dataset, found in shares.items()
    )
    title = "Where the variance comes from, percent of a dataset's runs"
    return TextTable(title=title, header=("Dataset", *names), rows=rows)


def _bare(results: Results) -> str:
    """The variant that has no refiner and is otherwise as configured: all parts of it are off."""
    return next((v for v, bound in results.factors.items() if dict(bound) == NO_REFINER), "")


def _average(scores_DS: Array | None) -> float | None:
    if scores_DS is None:
        return None
    means = dataset_means(scores_DS)
    return None if np.isnan(means).any() else float(means.mean())


def _cell_means(by_level: dict[tuple[str, ...], Array], grid: ToggleGrid) -> tuple[CellMeans, ...]:
    """Means of every pair of factors, the pairs that interact most first, ``MAX_PAIRS`` at most."""
    names = list(grid.factors)
    made = []
    for i, j in combinations(range(len(names)), 2):
        first, second = grid.factors[names[i]], grid.factors[names[j]]
        cells = tuple(
            tuple(
                _over_seeds([s for c, s in by_level.items() if (c[i], c[j]) == (one, two)])
                for two in second
            )
            for one in first
        )
        made.append(
            CellMeans(
                first=names[i],
                second=names[j],
                first_levels=tuple(level.lstrip("@") for level in first),
                second_levels=tuple(level.lstrip("@") for level in second),
                cells=cells,
            )
        )
    return tuple(sorted(made, key=lambda pair: -_departure(pair))[:MAX_PAIRS])


def _over_seeds(tables: Sequence[Array]) -> MeanInterval | None:
    """Mean over variants and datasets of every seed that is complete, and its t interval."""
    if not tables:
        return None
    per_seed = np.mean([t.mean(axis=0) for t in tables], axis=0)
    known = per_seed[~np.isnan(per_seed)]
    return t_interval(known) if known.size else None


def _departure(pair: CellMeans) -> float:
    """How far the cell means are from parallel lines."""
    table = np.array([[c.mean if c else np.nan for c in row] for row in pair.cells])
    if np.isnan(table).any():
        return 0.0
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float(np.abs(rest).max())
