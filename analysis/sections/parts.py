"""The parts of a study: attribution over its toggle grid, effects by level, interactions.

Which variant switches what is read from the factors alone, see ``toggle_grid``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

from analysis.read.results import Results
from analysis.read.toggle_grid import find_toggle_grid
from analysis.sections.comparisons import Options
from analysis.sections.tables import TextTable
from analysis.stats import (
    MAX_PARTS,
    Attribution,
    CellMeans,
    LevelCells,
    PartEffect,
    Resamples,
    VarianceShares,
    attribute,
    cell_means,
    level_effects,
    variance_shares,
)
from analysis.stats import judge as judge_family
from analysis.text import rounded, rounded_ends, rounded_p

NO_REFINER = {"experiment.refiner": "@NullRefiner"}
MAX_PAIRS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsView:
    """What a study says about its parts on one metric. What does not exist is None or empty, and
    ``reason`` says why. ``levels`` are effects of (factor, first level, level); ``variance`` has
    the shares of variance by dataset.
    """

    attribution: Attribution | None = None
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
    pairs = _cell_means(by_level, grid.factors) if by_level and whole else ()
    if not 1 < len(grid.parts) <= MAX_PARTS:
        reason = grid.reason or f"attribution needs 2 to {MAX_PARTS} parts, found {len(grid.parts)}"
        return PartsView(levels=levels, pairs=pairs, reason=reason, outside=grid.outside)
    cells = {cell: tables[v] for cell, v in grid.cells.items()}
    return PartsView(
        attribution=attribute(cells, grid.parts, resamples, judge=judge),
        levels=levels,
        pairs=pairs,
        outside=grid.outside,
        variance=dict(zip(results.datasets, variance_shares(cells, grid.parts), strict=True)),
    )


def variance_text(view: PartsView) -> TextTable | None:
    """Shares of variance in percent, a row a dataset; None where no dataset has any."""
    shares = {dataset: found.by_source for dataset, found in view.variance.items()}
    sources = next((tuple(found) for found in shares.values() if found), None)
    if sources is None:
        return None
    rows = tuple(
        (dataset, *(f"{100 * found[n]:.1f}" if found else "-" for n in sources))
        for dataset, found in shares.items()
    )
    title = "Where the variance comes from, percent of a dataset's runs"
    return TextTable(title=title, header=("Dataset", *(s.name for s in sources)), rows=rows)


def _bare(results: Results) -> str:
    """The variant that has no refiner and is otherwise as configured: all parts of it are off."""
    return next((v for v, bound in results.factors.items() if dict(bound) == NO_REFINER), "")


def _cell_means(
    by_level: LevelCells, factors: Mapping[str, tuple[str, ...]]
) -> tuple[CellMeans, ...]:
    """The ``MAX_PAIRS`` pairs of factors that interact most, with levels as people read them."""
    return tuple(
        replace(
            pair,
            first_levels=tuple(level.lstrip("@") for level in pair.first_levels),
            second_levels=tuple(level.lstrip("@") for level in pair.second_levels),
        )
        for pair in cell_means(by_level, factors)[:MAX_PAIRS]
    )


def effect_record(effect: PartEffect) -> dict[str, Any]:
    """One effect for files."""
    return {
        "kind": effect.kind,
        "parts": list(effect.parts),
        "value": rounded(effect.value),
        "on_these_datasets": rounded_ends(effect.on_these_datasets),
        "on_datasets_like_these": rounded_ends(effect.on_datasets_like_these),
        "p": rounded_p(effect.p),
        "holm_p": rounded_p(effect.holm_p),
        "verdict": effect.verdict,
        "decided_by": effect.decided_by,
        "reason": effect.reason,
    }
