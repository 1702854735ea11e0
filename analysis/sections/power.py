"""What could this study have detected in each comparison, and what would settle it?"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from analysis.sections.analysis import Analysis, once
from analysis.sections.claims import LIKE, THESE
from analysis.sections.comparisons import Comparison, compared, differences, headline_family
from analysis.sections.design_power import DesignPower, plan_notes, study_power
from analysis.sections.section import Section, Topic, running_text
from analysis.stats import ROPE
from analysis.text import Column, Columns, Kind, points, table


class ComparisonPower(NamedTuple):
    """What the design can detect in one comparison; without a ``plan``, ``reason`` says why."""

    c: Comparison
    plan: DesignPower | None
    reason: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know in addition to the numbers."""
        return tuple(filter(None, (*(plan_notes(self.plan) if self.plan else ()), self.reason)))


def comparison_power(analysis: Analysis, c: Comparison) -> ComparisonPower:
    """The power of one comparison, from its own paired differences."""
    results, options = analysis.results, analysis.options
    plan, reason = study_power(
        differences(results, c.variant, c.reference, c.metric),
        effect=options.rope or ROPE,
        comparisons=max(c.family_size, 1),
        alpha=options.alpha,
        overlap=options.overlap,
        shared_seeds=results.shared_seeds,
    )
    return ComparisonPower(c, plan, reason)


@once
def powers(analysis: Analysis) -> tuple[ComparisonPower, ...]:
    """The power of every comparison of the headline's metric."""
    return tuple(
        comparison_power(analysis, c)
        for block in compared(analysis)
        for c in headline_family(analysis.results, block)
    )


def _of_scope(key: str, name: str) -> Callable[[ComparisonPower], Any]:
    def value(row: ComparisonPower) -> Any:
        return None if row.plan is None else getattr(getattr(row.plan, key), name)

    return value


def columns(effect: float) -> Columns[ComparisonPower]:
    """The columns of the table, for a question about ``effect``."""
    return (
        Column("variant", "Variant", Kind.NAME, lambda r: r.c.variant),
        Column("reference", "Against", Kind.TEXT, lambda r: r.c.reference),
        *_scope_columns("these", THESE, effect),
        *_scope_columns("like", LIKE, effect),
        Column(
            "spread_between",
            "Spread between datasets, points",
            Kind.POINTS,
            lambda r: r.plan and r.plan.spread.between,
        ),
        Column(
            "spread_seed",
            "Spread over seeds, points",
            Kind.POINTS,
            lambda r: r.plan and r.plan.spread.seed,
        ),
        Column("power_note", "Note", Kind.NOTE, lambda r: r.notes),
    )


def _scope_columns(key: str, scope: str, effect: float) -> Columns[ComparisonPower]:
    def of(name: str) -> Callable[[ComparisonPower], Any]:
        return _of_scope(key, name)

    return (
        Column(
            f"{key}_power",
            f"Power for {points(effect)} points",
            Kind.NUMBER,
            of("power"),
            group=scope,
        ),
        Column(
            f"{key}_minimum_effect",
            "Detectable with 80 % power, points",
            Kind.POINTS,
            of("minimum_effect"),
            group=scope,
        ),
        Column(
            f"{key}_seeds_needed", "Seeds required", Kind.COUNT, of("seeds_needed"), group=scope
        ),
        Column(
            f"{key}_datasets_needed",
            "Datasets required",
            Kind.COUNT,
            of("datasets_needed"),
            group=scope,
        ),
    )


def _sections(analysis: Analysis) -> Sequence[Section]:
    found, effect = powers(analysis), analysis.options.rope or ROPE
    if not found:
        return [Section(key="power", reason="no variant can be compared with a reference")]
    text = (
        "What this design can detect in each scope, and how many seeds or datasets it would take "
        f"to detect {points(effect)} points. The spread is measured in this study; power at the "
        "observed difference is not reported, since it only restates p."
    )
    made = table("power", "Power", columns(effect), found)
    return [Section(key="power", sentences=running_text([text]), tables=(made,))]


TOPIC = Topic(key="power", build=_sections, files={"power": columns(ROPE)})
