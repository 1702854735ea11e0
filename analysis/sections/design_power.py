"""What can this design detect, and what would settle the question: more seeds or more datasets?

Effects and spreads are fractions, like scores. D datasets, S seeds. Every answer is given for both
scopes. On *these datasets* only the noise of training hides an effect, and more seeds shrink it. On
*datasets like these* the effect also differs between datasets (dataset x method), and only more
datasets shrink that.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from analysis import stats
from analysis.read.published import TABLES, PublishedRow, load_published
from analysis.sections.claims import LIKE, THESE
from analysis.sections.published import ZERO_SHOT
from analysis.stats import MOST_DATASETS, MOST_SEEDS, Array, Designs, Limit, Spread
from analysis.text import counted, points, share_text

TARGET_POWER = 0.8
SEEDS_OF_A_PRINTED_FIGURE = 3
PLANNED_BACKBONE = "ViT-B/16"


def variance_components(difference_DS: Array) -> tuple[Spread | None, str]:
    """The spread in paired differences (D, S) by the method of moments; None and why where it
    cannot be told.

    With one seed per dataset the two parts cannot be told apart: all of it counts as ``between``.
    """
    rows = [row[np.isfinite(row)] for row in np.atleast_2d(difference_DS)]
    rows = [row for row in rows if row.size]
    if len(rows) < 2:
        return None, "the spread between datasets cannot be estimated from fewer than two"
    means = np.array([row.mean() for row in rows])
    several = [row for row in rows if row.size > 1]
    total = float(means.var(ddof=1))
    source = f"these {len(rows)} datasets"
    if not several:
        return Spread(between=math.sqrt(total), seed=None, source=source), (
            "with one seed per dataset, training noise cannot be separated from the spread between "
            "datasets"
        )
    freedom = sum(row.size - 1 for row in several)
    noise = sum(float(row.var(ddof=1)) * (row.size - 1) for row in several) / freedom
    share = float(np.mean([1 / row.size for row in rows]))
    between = math.sqrt(max(0.0, total - noise * share))
    return Spread(between=between, seed=math.sqrt(noise), source=source), ""


def published_spread(metric: str, rows: Sequence[PublishedRow] | None = None) -> Spread:
    """The spread in published base-to-new tables over the 11 datasets of the field.

    Total: the median, over pairs of trained methods, of the standard deviation of their paired
    differences. Seed noise: the median over methods of the same for a method's own figures and
    another group's re-run of it, which bounds it from above, since settings differ too. Printed
    figures are taken to be means of three seeds. Raises ValueError for another metric.
    """
    table = TABLES["base_to_new"]
    if metric not in table.metrics:
        raise ValueError(
            f"published spreads are known for {', '.join(table.metrics)}, got {metric!r}; "
            "name one of them or give the spread"
        )
    own, reruns = _complete_series(rows if rows is not None else load_published(), metric)
    totals = [np.std(own[a] - own[b], ddof=1) for a, b in combinations(own, 2)]
    noises = [np.std(own[m] - again, ddof=1) for m, again in reruns if m in own]
    total, noise = float(np.median(totals)), float(np.median(noises))
    return Spread(
        between=math.sqrt(max(0.0, total**2 - noise**2)),
        seed=noise * math.sqrt(SEEDS_OF_A_PRINTED_FIGURE),
        source=(
            f"published base-to-new tables, {metric}: {len(own)} trained methods with "
            f"{PLANNED_BACKBONE} on {len(table.averaged)} datasets (median of {len(totals)} "
            f"pairs); seed noise at most that of {len(noises)} re-runs by others"
        ),
    )


def _complete_series(
    rows: Sequence[PublishedRow], metric: str
) -> tuple[dict[str, Array], list[tuple[str, Array]]]:
    """Figures over all datasets of each trained method, and of the re-runs by other groups."""
    averaged = TABLES["base_to_new"].averaged
    found: dict[object, dict[str, PublishedRow]] = {}
    for row in rows:
        if row.table == "base_to_new" and row.method != ZERO_SHOT:
            found.setdefault(row.series, {})[row.dataset] = row
    own: dict[str, Array] = {}
    reruns: list[tuple[str, Array]] = []
    for cells in found.values():
        first = next(iter(cells.values()))
        if first.backbone != PLANNED_BACKBONE or not set(averaged) <= set(cells):
            continue
        figures = np.array([getattr(cells[d], metric) for d in averaged], dtype=np.float64)
        if first.origin == "rerun":
            reruns.append((first.method, figures))
        else:
            own.setdefault(first.method, figures)
    return own, reruns


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopePower:
    """What a design can do in one scope. Effects are fractions.

    ``minimum_effect`` is decided with the target power. ``seeds_needed`` and ``datasets_needed``
    settle the effect of the plan with the target power when only that one number is changed; they
    equal the design's own where it suffices. ``floor`` is the smallest effect that any number of
    seeds would settle. A number that does not exist is None, and ``limits`` says why under its
    name.
    """

    power: float | None = None
    minimum_effect: float | None = None
    seeds_needed: int | None = None
    datasets_needed: int | None = None
    floor: float | None = None
    limits: Mapping[str, Limit]


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignPower:
    """What a design can do: on ``these`` datasets, where ``effect`` is the mean over them, and on
    datasets ``like`` these, where it is the mean over all such datasets.
    """

    num_datasets: int
    num_seeds: int
    comparisons: int
    alpha: float
    target_power: float
    spread: Spread
    effect: float
    these: ScopePower
    like: ScopePower

    def to_dict(self) -> dict[str, Any]:
        """The plan, as JSON values."""
        return asdict(self)


def plan_study(
    num_datasets: int,
    num_seeds: int,
    *,
    effect: float,
    spread: Spread,
    comparisons: int = 1,
    alpha: float = 0.05,
    target_power: float = TARGET_POWER,
    overlap: float | None = None,
) -> DesignPower:
    """Power for a true mean difference ``effect``, the smallest detectable one, and what would
    settle it, in both scopes, at the level that the first step of Holm's adjustment leaves.

    Normal differences and the same spread over seeds on every dataset are assumed; ``overlap`` as
    in ``judge``.
    """
    _check(num_datasets, num_seeds, effect, comparisons, alpha, target_power)
    these, like = (
        _scope_power(
            Designs(spread=spread, level=alpha / comparisons, like=scope, overlap=overlap or 0.0),
            effect,
            (num_datasets, num_seeds),
            target_power,
        )
        for scope in (False, True)
    )
    return DesignPower(
        num_datasets=num_datasets,
        num_seeds=num_seeds,
        comparisons=comparisons,
        alpha=alpha,
        target_power=target_power,
        spread=spread,
        effect=effect,
        these=these,
        like=like,
    )


def _scope_power(
    designs: Designs, effect: float, own: tuple[int, int], target: float
) -> ScopePower:
    """What a design of ``own`` datasets and seeds can do in the scope of ``designs``."""
    num_datasets, num_seeds = own
    power = designs.power(effect, *own)
    least = designs.minimum_effect(target, *own)
    seeds: tuple[int | None, Limit | None] = (num_seeds, None)
    datasets: tuple[int | None, Limit | None] = (num_datasets, None)
    if power is None or power < target:
        seeds = designs.seeds_needed(effect, target, num_datasets)
        datasets = designs.datasets_needed(effect, target, num_seeds)
    unknown = designs.limit(*own)
    why = {
        "power": unknown,
        "minimum_effect": unknown or (Limit.NO_EFFECT if least is None else None),
        "seeds_needed": seeds[1],
        "datasets_needed": datasets[1],
    }
    return ScopePower(
        power=power,
        minimum_effect=least,
        seeds_needed=seeds[0],
        datasets_needed=datasets[0],
        floor=designs.floor(target, num_datasets),
        limits={name: limit for name, limit in why.items() if limit},
    )


def _check(
    num_datasets: int,
    num_seeds: int,
    effect: float,
    comparisons: int,
    alpha: float,
    target_power: float,
) -> None:
    counts = {"datasets": num_datasets, "seeds": num_seeds, "comparisons": comparisons}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if not (math.isfinite(effect) and effect > 0):
        raise ValueError(
            f"effect is the size of a difference, above 0, got {100 * effect:g} points"
        )
    for name, share in (("alpha", alpha), ("power", target_power)):
        if not 0 < share < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {share:g}")


def study_power(
    difference_DS: Array,
    *,
    effect: float = stats.ROPE,
    comparisons: int = 1,
    alpha: float = 0.05,
    overlap: float | None = None,
    shared_seeds: bool = False,
) -> tuple[DesignPower | None, str]:
    """The plan for a study's own paired differences (D, S): its design and its measured spread.

    ``effect`` is what one would want to see, one point by default, not the difference observed:
    power at an observed difference only restates its p. ``overlap`` and ``shared_seeds`` as in
    ``judge``. None and why where no spread can be told.
    """
    table = np.atleast_2d(difference_DS)
    known = np.isfinite(table)
    table = table[known.any(axis=1)]
    if known.sum() < 2:
        return None, "the spread cannot be estimated from fewer than two pairs of runs"
    spread, reason = _measured_spread(table)
    plan = plan_study(
        len(table),
        _seeds_per_dataset(table),
        effect=effect,
        spread=spread,
        comparisons=comparisons,
        alpha=alpha,
        overlap=overlap,
    )
    if shared_seeds and len(table) > 1:
        plan = replace(plan, these=_with_shared_seeds(plan, table, overlap or 0.0))
    return plan, reason


def _with_shared_seeds(plan: DesignPower, known_DS: Array, overlap: float) -> ScopePower:
    """The power on these datasets where one model was scored on all: the sample is one number per
    seed, so that the design is like that of one dataset, and further datasets are no help.
    """
    per_seed = known_DS[:, np.isfinite(known_DS).all(axis=0)].mean(axis=0)
    if per_seed.size == 0:
        return plan.these
    seed = float(per_seed.std(ddof=1)) if per_seed.size > 1 else None
    designs = Designs(
        spread=Spread(between=None, seed=seed, source="these seeds"),
        level=plan.alpha / plan.comparisons,
        like=False,
        overlap=overlap,
    )
    found = _scope_power(designs, plan.effect, (1, per_seed.size), plan.target_power)
    if found.datasets_needed is not None:
        return replace(found, datasets_needed=plan.num_datasets)
    return replace(found, limits={**found.limits, "datasets_needed": Limit.SHARED_SEEDS})


def _measured_spread(known_DS: Array) -> tuple[Spread, str]:
    """The spread of a study; on one dataset nothing is known about how datasets differ."""
    if len(known_DS) > 1:
        spread, reason = variance_components(known_DS)
        assert spread is not None
        return spread, reason
    seed = float(np.nanstd(known_DS, ddof=1))
    return Spread(between=None, seed=seed, source="the seeds of this dataset"), ""


def _seeds_per_dataset(known_DS: Array) -> int:
    """The harmonic mean of the datasets' numbers of seeds, as a whole number; above 1 where any
    dataset has several.
    """
    counts = np.isfinite(known_DS).sum(axis=1)
    return max(min(2, int(counts.max())), round(len(counts) / float((1 / counts).sum())))


def datasets_to_tell(
    difference_DS: Array,
    *,
    effect: float,
    comparisons: int = 1,
    alpha: float = 0.05,
    target_power: float = TARGET_POWER,
) -> int | None:
    """How many datasets would tell, in the scope of datasets like these, whether there is an
    ``effect``, of either sign, if the spread observed in these paired differences (D, S) holds.

    None where that is unknown, where no number up to ``MOST_DATASETS`` would, and where the
    datasets at hand would already: then it is not their number that leaves it undecided.
    """
    table = np.atleast_2d(difference_DS)
    table = table[np.isfinite(table).any(axis=1)]
    spread, _ = variance_components(table)
    if spread is None or not (math.isfinite(effect) and effect != 0):
        return None
    designs = Designs(spread=spread, level=alpha / comparisons, like=True)
    found, _ = designs.datasets_needed(abs(effect), target_power, _seeds_per_dataset(table))
    return None if found is None or found <= len(table) else found


def plan_in_points(
    num_datasets: int,
    num_seeds: int,
    effect: float,
    metric: str,
    spread: float | None,
    seed_spread: float | None,
    *,
    comparisons: int = 1,
    alpha: float = 0.05,
) -> DesignPower:
    """``plan_study`` as the command line gives it: effect and spreads in points, the published
    spread of ``metric`` where none is given.
    """
    if spread is not None and seed_spread is not None:
        assumed = Spread(between=spread / 100, seed=seed_spread / 100, source="given")
    else:
        published = published_spread(metric)
        assumed = published
        if (spread is None) != (seed_spread is None):
            assumed = Spread(
                between=published.between if spread is None else spread / 100,
                seed=published.seed if seed_spread is None else seed_spread / 100,
                source=f"one part given, the other from {published.source}",
            )
    return plan_study(
        num_datasets,
        num_seeds,
        effect=effect / 100,
        spread=assumed,
        comparisons=comparisons,
        alpha=alpha,
    )


class PlanLine(NamedTuple):
    """A line about a plan: a question and its answer in each scope."""

    question: str
    these: str
    like: str


def plan_answers(plan: DesignPower) -> list[PlanLine]:
    """What a plan says, scope by scope, in points and percent."""

    def both(question: str, of: Callable[[ScopePower], str]) -> PlanLine:
        return PlanLine(question, of(plan.these), of(plan.like))

    target = f"{100 * plan.target_power:g} % power"
    return [
        PlanLine("test", "stratified t over seeds", "paired t over dataset means"),
        both(
            f"power for {points(plan.effect)} points",
            lambda s: "-" if s.power is None else f"{100 * s.power:.0f} %",
        ),
        both(f"effect detectable with {target}", lambda s: _detectable(s.minimum_effect)),
        both(f"seeds for {target}", lambda s: _needed(s.seeds_needed, plan.num_seeds)),
        both(f"datasets for {target}", lambda s: _needed(s.datasets_needed, plan.num_datasets)),
    ]


def plan_assumptions(plan: DesignPower) -> list[tuple[str, str]]:
    """What a plan takes for granted."""
    return [
        (
            "design",
            f"{counted(plan.num_datasets, 'dataset')}, {counted(plan.num_seeds, 'seed')}",
        ),
        ("comparisons (Holm)", f"{plan.comparisons} at alpha {plan.alpha:g}"),
        ("spread between datasets", _in_points(plan.spread.between)),
        ("spread over seeds", _in_points(plan.spread.seed)),
        ("source of the spread", plan.spread.source),
        (
            f"to show P(better run) > 1/2 if it is {share_text(stats.GAMMA)}",
            f"{stats.noether_size()} paired runs on one dataset",
        ),
    ]


def plan_notes(plan: DesignPower) -> tuple[str, ...]:
    """Why a plan lacks a number, one note per scope and reason."""
    notes = [
        f"{name}: {limit_text(limit, scope, plan)}"
        for name, scope in ((THESE, plan.these), (LIKE, plan.like))
        for limit in dict.fromkeys(scope.limits.values())
    ]
    return tuple(dict.fromkeys(notes))


def limit_text(limit: Limit, scope: ScopePower, plan: DesignPower) -> str:
    """A limit as a clause."""
    if limit is Limit.SPREAD_HIDES_IT:
        hides = "how datasets differ" if scope is plan.like else "what resamples share"
        below = "" if scope.floor is None else f" below {points(scope.floor)} points"
        return f"more seeds do not suffice: {hides} alone hides effects{below}"
    if limit is Limit.TOO_MANY:
        both = [
            f"more than {most:,} {name}"
            for name, most in (("seeds", MOST_SEEDS), ("datasets", MOST_DATASETS))
            if scope.limits.get(f"{name}_needed") is limit
        ]
        return f"{' and '.join(both)} would be needed"
    return LIMITS[limit]


LIMITS: Mapping[Limit, str] = {
    Limit.ONE_RUN: "one seed per dataset says nothing about other seeds",
    Limit.ONE_DATASET: "one dataset says nothing about others",
    Limit.NO_SPREAD: "no spread is known or assumed, so there is no power",
    Limit.SEED_SPREAD_UNKNOWN: (
        "the spread over seeds is unknown until two seeds of a dataset are measured"
    ),
    Limit.DATASET_SPREAD_UNKNOWN: "how datasets differ is unknown until two of them are measured",
    Limit.SHARED_SEEDS: "one model was scored on all datasets, so further ones share its noise",
    Limit.NO_EFFECT: "no effect of any size would be detected",
}


def _in_points(value: float | None) -> str:
    return "-" if value is None else f"{points(value)} points"


def _detectable(effect: float | None) -> str:
    """No accuracies differ by more than 100 points."""
    return "more than 100 points" if effect and effect > 1 else _in_points(effect)


def _needed(count: int | None, own: int) -> str:
    """How many would settle the question, compared with how many the design has."""
    if count is None:
        return "-"
    return f"{own:,}, as planned" if count == own else f"{count:,} instead of {own:,}"
