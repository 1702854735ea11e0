"""What could this study have detected in each comparison, and what would settle it?"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.sections.analysis import Analysis, Options, once
from analysis.sections.comparisons import Comparison, compared, differences, headline_family
from analysis.sections.design_power import DesignPower, study_power
from analysis.sections.section import Section, Topic, running_text
from analysis.stats import ROPE, Array
from analysis.text import Column, Columns, Kind, Show, points, table


class ComparisonPower(NamedTuple):
    """What the design can detect in one comparison; without a ``plan``, ``reason`` says why."""

    c: Comparison
    plan: DesignPower | None
    reason: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know in addition to the numbers."""
        return tuple(filter(None, (*(self.plan.notes if self.plan else ()), self.reason)))


def comparison_power(c: Comparison, difference_DS: Array, options: Options) -> ComparisonPower:
    """The power of one comparison, from its own paired differences (D, S)."""
    if options.overlap is not None and c.num_datasets == 1:
        reason = "the seeds share data, so that more of them would add little: none are planned"
        return ComparisonPower(c, None, reason)
    plan, reason = study_power(
        difference_DS,
        effect=options.rope,
        comparisons=max(c.family_size, 1),
        alpha=options.alpha,
        rng=np.random.default_rng(options.rng_seed),
    )
    return ComparisonPower(c, plan, reason)


@once
def powers(analysis: Analysis) -> tuple[ComparisonPower, ...]:
    """The power of every comparison of the headline's metric."""
    results = analysis.results
    return tuple(
        comparison_power(
            c, differences(results, c.variant, c.reference, c.metric), analysis.options
        )
        for block in compared(analysis)
        for c in headline_family(analysis, block)
    )


def _of_plan(name: str) -> Callable[[ComparisonPower], Any]:
    def value(row: ComparisonPower) -> Any:
        return None if row.plan is None else getattr(row.plan, name)

    return value


def columns(rope: float) -> Columns[ComparisonPower]:
    """The columns of the table, for a question about ``rope``."""
    return (
        Column("variant", "Variant", Kind.NAME, lambda r: r.c.variant),
        Column("reference", "Against", Kind.TEXT, lambda r: r.c.reference),
        Column("verdict", "Verdict", Kind.VERDICT, lambda r: r.c.verdict, Show.READ),
        Column("power", f"Power for {points(rope)} points", Kind.NUMBER, _of_plan("power")),
        Column(
            "minimum_effect",
            "Detectable with 80 % power, points",
            Kind.POINTS,
            _of_plan("minimum_effect"),
        ),
        Column("seeds_needed", "Seeds required", Kind.COUNT, _of_plan("seeds_needed")),
        Column(
            "datasets_needed",
            "Datasets required",
            Kind.COUNT,
            _of_plan("datasets_needed"),
        ),
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


def _sections(analysis: Analysis) -> Sequence[Section]:
    found, rope = powers(analysis), analysis.options.rope
    if not found:
        return [Section(key="power", reason="no variant can be compared with a reference")]
    text = (
        "What this design can detect, and how many seeds or datasets it would take to detect "
        f"{points(rope)} points. The spread is measured in this study; power at the observed "
        "difference is not reported, since it only restates p."
    )
    made = table("power", "Power", columns(rope), found)
    return [Section(key="power", sentences=running_text([text]), tables=(made,))]


TOPIC = Topic(key="power", build=_sections, files={"power": columns(ROPE)})
