"""What can this design detect, and what would settle the question: more seeds or more datasets?

Effects and spreads are fractions, like scores. D datasets, S seeds, R simulated studies. The sample
is the datasets: the mean difference on a dataset varies by how much the effect differs between
datasets (dataset x method) and by the noise of training, which alone shrinks with more seeds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from analysis import stats
from analysis.read.published import TABLES, PublishedRow, load_published
from analysis.sections.published import ZERO_SHOT
from analysis.stats import MIN_DATASETS_FOR_WILCOXON, Array
from analysis.stats.power import NO_SPREAD, Designs, Spread
from analysis.text import points

TARGET_POWER = 0.8
MOST_SEEDS, MOST_DATASETS = 1000, 10_000
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
class DesignPower:
    """What a design can do. Effects are fractions; None where there is no number, with a note.

    ``seeds_needed`` and ``datasets_needed`` settle ``effect`` with the target power when only that
    one number is raised; they equal the design's own where it suffices.
    """

    num_datasets: int
    num_seeds: int
    comparisons: int
    alpha: float
    target_power: float
    test: str
    claim: str
    spread: Spread
    effect: float
    power: float | None
    minimum_effect: float | None
    smallest_p: float | None
    seeds_needed: int | None
    datasets_needed: int | None
    notes: tuple[str, ...] = ()

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
    rng: np.random.Generator,
) -> DesignPower:
    """Power for a true mean difference ``effect``, the smallest detectable one, and what would
    settle it. Normal differences are assumed; ``rng`` draws the simulated studies of Wilcoxon.
    """
    _check(num_datasets, num_seeds, effect, comparisons, alpha, target_power)
    primary = stats.primary_test(num_datasets, num_seeds, comparisons, alpha=alpha)
    designs = Designs(spread=spread, comparisons=comparisons, alpha=alpha, rng=rng)
    own = (num_datasets, num_seeds)
    power = designs.power(effect, *own)
    seeds, datasets, notes = _settled(designs, effect, own, power, target_power)
    few = 1 < num_datasets < MIN_DATASETS_FOR_WILCOXON
    notes += (
        [f"a decision holds {primary.claim}, without a claim about others"]
        if few and primary.claim
        else []
    )
    return DesignPower(
        num_datasets=num_datasets,
        num_seeds=num_seeds,
        comparisons=comparisons,
        alpha=alpha,
        target_power=target_power,
        test=primary.reason,
        claim=primary.claim,
        spread=spread,
        effect=effect,
        power=power,
        minimum_effect=designs.detectable(target_power, *own),
        smallest_p=stats.smallest_adjusted_p(primary, num_datasets, comparisons),
        seeds_needed=seeds,
        datasets_needed=datasets,
        notes=tuple(filter(None, notes)),
    )


def _settled(
    designs: Designs, effect: float, own: tuple[int, int], power: float | None, target: float
) -> tuple[int | None, int | None, list[str]]:
    """Seeds and datasets that settle ``effect``, each alone, and what to say about it."""
    num_datasets, num_seeds = own
    if power is not None and power >= target:
        return num_seeds, num_datasets, []
    reason = "" if power is not None else designs.why_no_power(*own)
    if reason == NO_SPREAD:
        return None, None, [reason]
    seeds, why_seeds = _seeds_needed(designs, effect, num_datasets, target)
    datasets, why_datasets = _datasets_needed(designs, effect, num_seeds, target)
    return seeds, datasets, [why_seeds, why_datasets, reason]


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


def _seeds_needed(
    designs: Designs, effect: float, num_datasets: int, target: float
) -> tuple[int | None, str]:
    """Fewest seeds on the same datasets, or None and why no number suffices."""
    if designs.spread.seed is None:
        return (
            None,
            "seeds needed are unknown: training noise has to be measured with two seeds first",
        )
    few = num_datasets < MIN_DATASETS_FOR_WILCOXON
    needed = _first(
        lambda seeds: (designs.power(effect, num_datasets, seeds) or 0.0) >= target,
        2 if few else 1,
        MOST_SEEDS,
    )
    if needed is not None:
        return needed, ""
    least = designs.floor(target, num_datasets)
    if least is None or least < effect:
        return None, f"more than {MOST_SEEDS} seeds would be needed"
    return None, (
        f"more seeds do not suffice: with {num_datasets} datasets, the spread between them alone "
        f"hides effects below {points(least)} points"
    )


def _datasets_needed(
    designs: Designs, effect: float, num_seeds: int, target: float
) -> tuple[int | None, str]:
    """Fewest datasets with the same number of seeds on which a test over them settles it, or None
    and why no number does.
    """
    needed = _first(
        lambda datasets: (designs.power(effect, datasets, num_seeds) or 0.0) >= target,
        MIN_DATASETS_FOR_WILCOXON,
        MOST_DATASETS,
    )
    return needed, "" if needed else f"more than {MOST_DATASETS} datasets would be needed"


def _first(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """Smallest whole number for which a condition, once true, stays true; None beyond ``high``."""
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def study_power(
    difference_DS: Array,
    *,
    effect: float = stats.ROPE,
    comparisons: int = 1,
    alpha: float = 0.05,
    rng: np.random.Generator,
) -> tuple[DesignPower | None, str]:
    """The plan for a study's own paired differences (D, S): its design and its measured spread.

    ``effect`` is what one would want to see, one point by default, not the difference observed:
    power at an observed difference only restates its p. None and why where no spread can be told.
    """
    known = np.isfinite(np.atleast_2d(difference_DS))
    spread, reason = variance_components(difference_DS)
    if int(known.any(axis=1).sum()) == 1 and known.sum() > 1:
        return _power_on_one(difference_DS, effect, comparisons, alpha, rng), ""
    if spread is None:
        return None, reason
    counts = known.sum(axis=1)
    num_seeds = max(1, round(len(counts[counts > 0]) / float((1 / counts[counts > 0]).sum())))
    plan = plan_study(
        int((counts > 0).sum()),
        num_seeds,
        effect=effect,
        spread=spread,
        comparisons=comparisons,
        alpha=alpha,
        rng=rng,
    )
    return plan, reason


def _power_on_one(
    difference_DS: Array, effect: float, comparisons: int, alpha: float, rng: np.random.Generator
) -> DesignPower:
    """The plan of a study on one dataset; nothing is known about others."""
    values = difference_DS[np.isfinite(difference_DS)]
    spread = Spread(between=0.0, seed=float(values.std(ddof=1)), source="the seeds of this dataset")
    plan = plan_study(
        1, values.size, effect=effect, spread=spread, comparisons=comparisons, alpha=alpha, rng=rng
    )
    notes = tuple(note for note in plan.notes if "datasets" not in note)
    unknown = "datasets needed are unknown: their spread cannot be estimated from one dataset"
    return replace(plan, datasets_needed=None, notes=(*notes, unknown))


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
    spread of ``metric`` where none is given. Draws are those of seed 0, so that the same call
    gives the same answer.
    """
    if spread is not None and seed_spread is not None:
        assumed = Spread(between=spread / 100, seed=seed_spread / 100, source="given")
    else:
        assumed = published_spread(metric)
    if (spread is None) != (seed_spread is None):
        assumed = Spread(
            between=assumed.between if spread is None else spread / 100,
            seed=assumed.seed if seed_spread is None else seed_spread / 100,
            source=f"one part given, the other from {assumed.source}",
        )
    return plan_study(
        num_datasets,
        num_seeds,
        effect=effect / 100,
        spread=assumed,
        comparisons=comparisons,
        alpha=alpha,
        rng=np.random.default_rng(0),
    )


def plan_rows(plan: DesignPower) -> list[tuple[str, str]]:
    """The power of a design as lines of a table, in points and percent."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{points(value)} points"

    return [
        ("design", f"{plan.num_datasets} datasets, {plan.num_seeds} seeds"),
        ("comparisons (Holm)", f"{plan.comparisons} at alpha {plan.alpha:g}"),
        ("primary test", plan.test),
        (
            "smallest attainable p, adjusted",
            "no limit" if plan.smallest_p is None else f"{plan.smallest_p:.3g}",
        ),
        (f"effect detectable with {100 * plan.target_power:g} % power", shown(plan.minimum_effect)),
        (
            f"power for {shown(plan.effect)}",
            "-" if plan.power is None else f"{100 * plan.power:.0f} %",
        ),
        ("seeds needed", _needed(plan.seeds_needed, plan.num_seeds, "seeds")),
        ("datasets needed", _needed(plan.datasets_needed, plan.num_datasets, "datasets")),
        ("spread between datasets", shown(plan.spread.between)),
        ("spread over seeds", shown(plan.spread.seed)),
        ("source of the spread", plan.spread.source),
        (
            f"to show P(better run) > 1/2 if it is {stats.GAMMA:g}",
            f"{stats.noether_size()} paired runs on one dataset",
        ),
        *(("note", note) for note in plan.notes),
    ]


def _needed(count: int | None, own: int, what: str) -> str:
    """How many would settle the question, compared with how many the design has."""
    if count is None:
        return "-"
    return f"{count} {what} would suffice" + (f", instead of {own}" if count > own else "")
