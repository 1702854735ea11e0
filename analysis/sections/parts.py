"""The parts of a study: attribution over its toggle grid, effects by level, interactions.

Which variant switches what is read from the factors alone, see ``toggle_grid``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import NamedTuple

from analysis.figures.attribution import attribution_figure
from analysis.figures.interaction import interaction_figure
from analysis.figures.levels import level_figure
from analysis.figures.variance import variance_figure
from analysis.read.results import Results
from analysis.read.toggle_grid import find_toggle_grid
from analysis.sections.analysis import Analysis, Options, once
from analysis.sections.claims import claim_columns
from analysis.sections.comparisons import judge_family
from analysis.sections.pairwise import Pairwise, paired
from analysis.sections.section import Section, Topic, running_text
from analysis.sections.shared_tests import as_sentence
from analysis.stats import (
    MAX_PARTS,
    Alias,
    Array,
    Attribution,
    Cell,
    CellMeans,
    Judgment,
    KnownPair,
    LevelCells,
    PartEffect,
    Parts,
    Refusal,
    SeedMeans,
    VarianceShares,
    VarianceSource,
    attribute,
    cell_means,
    level_effects,
    variance_shares,
)
from analysis.text import Column, Columns, Kind, Show, Table, label, table

NO_REFINER = {"experiment.refiner": "@NullRefiner"}
MAX_PAIRS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsView:
    """The results on the parts of a study for one metric. What does not exist is None or empty, and
    ``reason`` says why. ``variant_of`` has the variants of the cells of the attribution; ``levels``
    are effects of (factor, first level, level); ``variance`` has the shares of variance by dataset.
    """

    attribution: Attribution | None = None
    variant_of: Mapping[Parts, str] = field(default_factory=dict)
    levels: tuple[PartEffect, ...] = ()
    pairs: tuple[CellMeans, ...] = ()
    reason: str = ""
    outside: tuple[str, ...] = ()
    variance: Mapping[str, VarianceShares] = field(default_factory=dict)


def parts_view(
    results: Results, metric: str, options: Options, pairs: Pairwise | None = None
) -> PartsView:
    """Attribution where parts are switched on and off, effects by level where there are more.
    ``pairs`` has the judgments of pairs of variants.
    """
    if not any(results.factors.values()):
        return PartsView(
            reason="the variants have no factors, so the parts they switch are unknown"
        )
    grid = find_toggle_grid(results.factors, levels=results.levels, base=_bare(results))
    tables = dict(zip(results.variants, results.cube(results.variants, metric), strict=True))

    def judge(family: Sequence[Array | SeedMeans]) -> tuple[Judgment, ...]:
        return judge_family(family, results, options, results.direction(metric), len(family))

    by_level = {levels: tables[v] for levels, v in grid.by_level.items()}
    known = _known(results, pairs, grid.by_level)
    levels = level_effects(by_level, grid.factors, judge=judge, known=known) if by_level else ()
    whole = len(by_level) == prod(len(levels) for levels in grid.factors.values())
    means = _cell_means(by_level, grid.factors) if by_level and whole else ()
    if not 1 < len(grid.parts) <= MAX_PARTS:
        reason = grid.reason or f"attribution needs 2 to {MAX_PARTS} parts, found {len(grid.parts)}"
        return PartsView(levels=levels, pairs=means, reason=reason, outside=grid.outside)
    cells = {cell: tables[v] for cell, v in grid.cells.items()}
    return PartsView(
        attribution=attribute(
            cells, grid.parts, judge=judge, known=_known(results, pairs, grid.cells)
        ),
        variant_of=grid.cells,
        levels=levels,
        pairs=means,
        outside=grid.outside,
        variance=dict(zip(results.datasets, variance_shares(cells, grid.parts), strict=True)),
    )


def _known(
    results: Results, pairs: Pairwise | None, variant_of: Mapping[Cell, str]
) -> KnownPair[Cell]:
    """The judgment of a pair of cells where their variants have one, so that a pair has one word
    per scope everywhere.
    """

    def known(cell: Cell, other: Cell) -> Judgment | None:
        names = [results.aliases.get(v, v) for v in (variant_of[cell], variant_of[other])]
        return pairs.judgment(*names) if pairs else None

    return known


def _bare(results: Results) -> str:
    """The variant that has no refiner and is otherwise as configured: all parts of it are off."""
    return next((v for v, bound in results.factors.items() if dict(bound) == NO_REFINER), "")


def _cell_means(
    by_level: LevelCells, factors: Mapping[str, tuple[str, ...]]
) -> tuple[CellMeans, ...]:
    """The ``MAX_PAIRS`` pairs of factors that interact most, with levels as they are printed."""
    return tuple(
        replace(
            pair,
            first_levels=tuple(level.lstrip("@") for level in pair.first_levels),
            second_levels=tuple(level.lstrip("@") for level in pair.second_levels),
        )
        for pair in cell_means(by_level, factors)[:MAX_PAIRS]
    )


@once
def parts(analysis: Analysis) -> PartsView:
    """The parts of this report's study, on the metric of the headline."""
    pairs = paired(analysis)[analysis.metric]
    return parts_view(analysis.results, analysis.metric, analysis.options, pairs)


def has_attribution(analysis: Analysis) -> bool:
    """Whether the gain is divided among the parts."""
    found = parts(analysis).attribution
    return found is not None and bool(found.of("shapley"))


def assumed(analysis: Analysis) -> tuple[str, ...]:
    """What effects of parts assume, without repetition."""
    found = parts(analysis).attribution
    effects = found.effects if found else ()
    return tuple(dict.fromkeys(a for effect in effects for a in effect.assumptions))


KIND_NAMES = {
    "full_minus_base": "all on minus all off",
    "shapley": "Shapley value",
    "main": "main effect",
    "add_one_in": "alone (add one in)",
    "leave_one_out": "in the full set (leave one out)",
    "interaction": "interaction",
    "level": "level",
}


EFFECT_COLUMNS: Columns[PartEffect] = (
    Column("kind", "Kind", Kind.TEXT, lambda e: e.kind, Show.FILES),
    Column("parts", "Parts", Kind.LIST, lambda e: e.parts, Show.FILES),
    Column("value", "Points", Kind.DIFFERENCE, lambda e: e.value, Show.FILES),
    *claim_columns(lambda e: e.judgment, read=Show.FILES),
    Column("assumptions", "Assumes", Kind.LIST, lambda e: e.assumptions, Show.FILES),
    Column("reason", "Remark", Kind.NOTE, lambda e: e.reason, Show.FILES),
)
CLAIMS: Columns[PartEffect] = claim_columns(lambda e: e.judgment)
READ_CLAIMS = tuple(replace(c, show=c.show & Show.READ) for c in CLAIMS if c.show & Show.READ)
READ_COLUMNS: Columns[PartEffect] = (
    Column("parts", "Parts", Kind.NAME, lambda e: " × ".join(e.parts) or "all", Show.READ),
    Column("kind", "Effect", Kind.TEXT, lambda e: KIND_NAMES.get(e.kind, e.kind), Show.READ),
    Column("value", "Points", Kind.DIFFERENCE, lambda e: e.value, Show.READ),
    *READ_CLAIMS,
    Column(
        "assumptions",
        "Assumes",
        Kind.NOTE,
        lambda e: e.assumptions,
        Show.READ,
        optional=True,
    ),
    Column("remark", "Remark", Kind.NOTE, lambda e: e.reason, Show.READ, optional=True),
)
REFUSED_COLUMNS: Columns[Refusal] = (
    Column("kind", "Kind", Kind.TEXT, lambda r: r.kind, Show.FILES),
    Column("parts", "Parts", Kind.LIST, lambda r: r.parts, Show.FILES),
    Column("reason", "Reason", Kind.TEXT, lambda r: r.reason, Show.FILES),
)


class Confounded(NamedTuple):
    """An effect that an incomplete grid cannot tell from that of a part, and with which weight."""

    alias: Alias
    group: tuple[str, ...]
    weight: float | None


ALIAS_COLUMNS: Columns[Confounded] = (
    Column("part", "Part", Kind.NAME, lambda c: c.alias.part, Show.FILES),
    Column("value", "On minus off", Kind.DIFFERENCE, lambda c: c.alias.value, Show.FILES),
    Column("with", "With", Kind.LIST, lambda c: c.group, Show.FILES),
    Column("weight", "Weight", Kind.MEASURE, lambda c: c.weight, Show.FILES),
    Column("reason", "Remark", Kind.NOTE, lambda c: c.alias.reason, Show.FILES),
)
OUTSIDE_COLUMNS: Columns[str] = (Column("variant", "Variant", Kind.NAME, str, Show.FILES),)


def _confounded(alias: Alias) -> list[Confounded]:
    """One row per group; a row without a group for a part that is not aliased."""
    rows = [Confounded(alias, group, weight) for group, weight in alias.with_effects.items()]
    return rows or [Confounded(alias, (), None)]


SAID_IN_THE_ANSWER = {"full_minus_base", "leave_one_out"}
"""Effects that are comparisons with a reference, which the answer and the forest plot draw."""

EFFECTS_NOTE = (
    "The difference of two variants (all on minus all off, alone, in the full set) has the verdict "
    "and the p values that this pair has in the comparisons. Each other kind of effect is a family "
    "of its own for Holm's adjustment."
)


def _attribution(analysis: Analysis) -> Sequence[Section]:
    """What each part is worth."""
    view = parts(analysis)
    outside = table("outside", "Outside the grid", OUTSIDE_COLUMNS, view.outside)
    found = view.attribution
    if found is None:
        return [Section(key="attribution", tables=(outside,), reason=view.reason)]
    drawn = attribution_figure(
        found,
        metric=label(analysis.metric),
        direction=analysis.results.direction(analysis.metric),
    )
    if {effect.kind for effect in found.effects} <= SAID_IN_THE_ANSWER:
        drawn = None
    return [
        Section(
            key="attribution",
            sentences=running_text(as_sentence(found.statement.rstrip("."))),
            figures=(drawn,) if drawn else (),
            tables=(
                table(
                    "shown_effects",
                    "All effects in points",
                    READ_COLUMNS,
                    found.effects,
                    notes=[EFFECTS_NOTE],
                    folded=True,
                ),
                table("effects", "Effects", EFFECT_COLUMNS, found.effects),
                table("refused", "Refused", REFUSED_COLUMNS, found.refused),
                table(
                    "aliases",
                    "Aliases",
                    ALIAS_COLUMNS,
                    [row for alias in found.aliases for row in _confounded(alias)],
                ),
                outside,
            ),
        )
    ]


class VarianceRow(NamedTuple):
    """The share of variance of one dataset that one group of parts explains."""

    dataset: str
    parts: tuple[str, ...]
    share: float | None
    seeds: float | None
    reason: str


VARIANCE_COLUMNS: Columns[VarianceRow] = (
    Column("dataset", "Dataset", Kind.NAME, lambda r: r.dataset, Show.FILES),
    Column("parts", "Parts", Kind.LIST, lambda r: r.parts, Show.FILES),
    Column("share", "Share", Kind.POINTS, lambda r: r.share, Show.FILES),
    Column(
        "seeds",
        "Seeds",
        Kind.POINTS,
        lambda r: r.seeds,
        Show.FILES,
        help="the share of the dataset's variance that is left to seeds",
    ),
    Column("reason", "Remark", Kind.NOTE, lambda r: r.reason, Show.FILES),
)


def _variance_rows(dataset: str, found: VarianceShares) -> list[VarianceRow]:
    shares = (found.shares or {}).items()
    rows = [VarianceRow(dataset, p, share, found.seeds, found.reason) for p, share in shares]
    return rows or [VarianceRow(dataset, (), None, found.seeds, found.reason)]


Shares = tuple[str, Mapping[VarianceSource, float]]


def _share(source: VarianceSource, row: Shares) -> float | None:
    return row[1].get(source)


def _variance_table(variance: Mapping[str, VarianceShares]) -> Table | None:
    """One row per dataset, one column per source; None where no dataset has shares."""
    rows = [(dataset, found.by_source) for dataset, found in variance.items()]
    sources = next((tuple(shares) for _, shares in rows if shares), None)
    if sources is None:
        return None
    columns: list[Column[Shares]] = [
        Column("dataset", "Dataset", Kind.NAME, lambda row: row[0], Show.READ),
        *(Column(s.name, s.name, Kind.POINTS, partial(_share, s), Show.READ) for s in sources),
    ]
    title = "Where the variance comes from, in percent of the variance of each dataset's runs"
    return table("shares", title, tuple(columns), rows, folded=True)


def _variance(analysis: Analysis) -> Sequence[Section]:
    """Where the variance of the runs comes from."""
    view, title = parts(analysis), "Where the variance comes from"
    rows = [row for d, found in view.variance.items() for row in _variance_rows(d, found)]
    files = table("variance", title, VARIANCE_COLUMNS, rows)
    if view.attribution is None:
        return [Section(key="variance", title=title, tables=(files,), reason=view.reason)]
    metric, shown = label(analysis.metric), _variance_table(view.variance)
    drawn = variance_figure(view.variance, view.attribution.parts, metric=metric)
    if drawn is None or shown is None:
        reason = next(found.reason for found in view.variance.values())
        return [Section(key="variance", title=title, tables=(files,), reason=reason)]
    return [Section(key="variance", title=title, tables=(shown, files), figures=(drawn,))]


def _levels(analysis: Analysis) -> Sequence[Section]:
    """Effects by level, where a factor has more levels than on and off."""
    view, title = parts(analysis), "Effects by level"
    files = table("levels", title, EFFECT_COLUMNS, view.levels)
    drawn = None
    if view.attribution is None:
        drawn = level_figure(view.levels, metric=label(analysis.metric))
    return [
        Section(
            key="levels",
            title=title,
            tables=(files,),
            figures=(drawn,) if drawn else (),
            reason="" if drawn else "no factor of the grid has more than two levels",
        )
    ]


NO_INTERACTION = (
    "interactions need every combination of two or more factors: in an incomplete grid, an "
    "interaction is confounded with the effect of another factor"
)


def _interactions(analysis: Analysis) -> Sequence[Section]:
    """Does the effect of one factor depend on the level of another?"""
    drawn = interaction_figure(parts(analysis).pairs, metric=label(analysis.metric))
    return [
        Section(
            key="interactions",
            title="Interactions",
            figures=(drawn,) if drawn else (),
            reason="" if drawn else NO_INTERACTION,
        )
    ]


ATTRIBUTION = Topic(
    key="attribution",
    build=_attribution,
    files={
        "effects": EFFECT_COLUMNS,
        "refused": REFUSED_COLUMNS,
        "aliases": ALIAS_COLUMNS,
        "outside": OUTSIDE_COLUMNS,
    },
)
VARIANCE = Topic(key="variance", build=_variance, files={"variance": VARIANCE_COLUMNS})
LEVELS = Topic(key="levels", build=_levels, files={"levels": EFFECT_COLUMNS})
INTERACTIONS = Topic(key="interactions", build=_interactions)
