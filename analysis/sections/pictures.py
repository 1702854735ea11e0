"""Which figures a report has: every figure from its results, or the reason why it has none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis import stats
from analysis.figures.attribution import attribution_figure
from analysis.figures.cost import CostInfo, cost_figure
from analysis.figures.critical_difference import RankInfo, critical_difference
from analysis.figures.curves import CurveInfo, shot_curves
from analysis.figures.figure import Estimated, Figure
from analysis.figures.forest import ForestInfo, ForestRow, forests
from analysis.figures.heatmap import MatrixInfo, PairwiseInfo, difference_heatmap, pairwise_heatmap
from analysis.figures.interaction import interaction_figure
from analysis.figures.levels import level_figure
from analysis.figures.plane import BaseNewInfo, base_new_figure
from analysis.figures.profiles import ProfileInfo, profile_figure
from analysis.figures.seeds import SeedInfo, seed_scatter
from analysis.figures.variance import variance_figure
from analysis.read.results import Results
from analysis.sections.comparisons import Block, Options
from analysis.sections.pairwise import Pairwise
from analysis.sections.parts import PartsView
from analysis.sections.tables import AVERAGE, MainTable
from analysis.stats import Array, Resamples
from analysis.text import label

PROFILE_REPS = 2000
NUM_POINTS = 41
NO_COST = "the source has no costs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the figures are drawn from."""

    results: Results
    table: MainTable
    blocks: tuple[Block, ...]
    pairwise: Pairwise
    parts: PartsView
    options: Options

    @property
    def metric(self) -> str:
        """The metric of the headline."""
        return self.results.primary_metric

    @property
    def average(self) -> str:
        """The column that stands for all datasets."""
        return AVERAGE if AVERAGE in self.table.datasets else self.table.datasets[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Figures by name, and for every name without one the reason."""

    figures: Mapping[str, Figure]
    absent: Mapping[str, str]

    def all(self) -> Iterable[Figure]:
        """The figures in the order of the page."""
        return self.figures.values()


def gallery(material: Material) -> Gallery:
    """Every figure that the results allow."""
    single = "only one variant: nothing to compare"
    drawn: list[tuple[str, Figure | None, str]] = [
        ("base_new", _plane(material), "the study has no base and new accuracy"),
        ("forest", _forest(material), "no variant can be compared with a reference"),
        ("difference_heatmap", _difference_heatmap(material), "no pair of runs to compare"),
        ("pairwise_heatmap", _pairwise_heatmap(material), single),
        ("critical_difference", _critical_difference(material), material.pairwise.reason or single),
        ("attribution", _attribution(material), material.parts.reason),
        ("variance_shares", *_variance(material)),
        ("levels", _levels(material), "no factor of a grid has more than two levels"),
        (
            "interaction",
            _interaction(material),
            "it needs every combination of two factors or more: in a part of them an "
            "interaction cannot be told from the effect of another factor",
        ),
        ("seed_scatter", _seeds(material), "no pair of runs to compare"),
        ("profiles", *_profiles(material)),
        ("curves", _curves(material), "the study has one number of shots"),
        ("cost", _cost(material), NO_COST),
    ]
    return Gallery(
        figures={name: figure for name, figure, _ in drawn if figure is not None},
        absent={name: reason for name, figure, reason in drawn if figure is None},
    )


def forest_metrics(results: Results) -> tuple[str, ...]:
    """Metrics that get a forest plot: all three of base-to-new, otherwise at most four, the primary
    one among them.
    """
    return results.metrics[-4:] if results.curve else results.metrics[:4]


def _forest(m: Material) -> Figure | None:
    shown = forest_metrics(m.results)
    return forests([forest_panels(block, shown, rope=m.options.rope) for block in m.blocks])


def forest_panels(block: Block, metrics: Sequence[str], *, rope: float) -> list[ForestInfo]:
    """The panels of the forest plots against one reference."""
    return [
        ForestInfo(
            reference=block.reference,
            metric=metric,
            rope=rope,
            rows=tuple(
                ForestRow(
                    variant=c.variant,
                    verdict=c.verdict,
                    difference=c.difference,
                    on_these_datasets=c.seeds_only,
                    on_datasets_like_these=c.two_level,
                    per_dataset=c.per_dataset,
                    fallback=c.t_interval,
                )
                for c in block.comparisons.get(metric, ())
                if c.difference is not None
            ),
        )
        for metric in metrics
    ]


def _plane(m: Material) -> Figure | None:
    if not {"base", "new"} <= set(m.table.metrics[m.average]):
        return None
    cells = m.table.cells
    shown = [v for v in m.results.variants if v not in m.results.aliases]
    base, new = ({v: cells[v, m.average, metric] for v in shown} for metric in ("base", "new"))
    return base_new_figure(
        [
            BaseNewInfo(
                variant=v,
                base=base[v].mean,
                base_half_width=base[v].half_width,
                new=new[v].mean,
                new_half_width=new[v].half_width,
            )
            for v in shown
        ]
    )


def _against_baseline(m: Material) -> tuple[list[str], Array]:
    """Variants that may be compared with the baseline, and their paired differences (V, D, S)."""
    results = m.results
    shown = [
        v
        for v in results.variants
        if v != results.baseline
        and v not in results.aliases
        and not results.not_comparable(v, results.baseline)
    ]
    scores_VDS = results.cube([results.baseline, *shown], m.metric)
    return shown, scores_VDS[1:] - scores_VDS[0]


def _difference_heatmap(m: Material) -> Figure | None:
    shown, differences_VDS = _against_baseline(m)
    if not shown:
        return None
    info = MatrixInfo(
        rows=tuple(shown),
        columns=m.results.datasets,
        difference=stats.dataset_means(differences_VDS),
    )
    return difference_heatmap(info, baseline=m.results.baseline, metric=label(m.metric))


def _seeds(m: Material) -> Figure | None:
    shown, differences_VDS = _against_baseline(m)
    if not shown:
        return None
    info = SeedInfo(
        baseline=m.results.baseline,
        variants=tuple(shown),
        datasets=m.results.datasets,
        seeds=m.results.planned_seeds,
        difference=differences_VDS,
    )
    return seed_scatter(info, metric=label(m.metric))


def _pairwise_heatmap(m: Material) -> Figure | None:
    p = m.pairwise
    info = PairwiseInfo(
        rows=p.variants, columns=p.variants, difference=p.difference_VV, verdicts=p.words_VV
    )
    return pairwise_heatmap(info, metric=label(m.metric))


def _critical_difference(m: Material) -> Figure | None:
    ranks, variants = m.pairwise.ranks, m.pairwise.variants
    if ranks is None:
        return None
    test = m.pairwise.primary.reason.split(";")[0].split(",")[0]
    info = RankInfo(
        variants=tuple(variants[v] for v in ranks.order),
        mean_ranks=ranks.mean_ranks,
        groups=tuple(tuple(variants[v] for v in group) for group in ranks.groups),
    )
    return critical_difference(info, alpha=m.options.alpha, test=test)


def _attribution(m: Material) -> Figure | None:
    found = m.parts.attribution
    return attribution_figure(found, metric=label(m.metric)) if found else None


def _variance(m: Material) -> tuple[Figure | None, str]:
    """Shares of variance, or the first reason why a dataset has none."""
    if m.parts.attribution is None:
        return None, m.parts.reason
    parts = m.parts.attribution.parts
    reasons = [shares.reason for shares in m.parts.variance.values()]
    return variance_figure(m.parts.variance, parts, metric=label(m.metric)), reasons[0]


def _levels(m: Material) -> Figure | None:
    if m.parts.attribution is not None:
        return None
    return level_figure(m.parts.levels, metric=label(m.metric))


def _interaction(m: Material) -> Figure | None:
    return interaction_figure(m.parts.pairs, metric=label(m.metric))


def _profiles(m: Material) -> tuple[Figure | None, str]:
    """Profiles of the variants with a complete table; the others are named."""
    results, metric = m.results, m.metric
    own = [v for v in results.variants if v not in results.aliases]
    tables = zip(own, results.cube(own, metric), strict=True)
    complete = {v: t for v, t in tables if not np.isnan(t).any()}
    if not complete:
        return None, "aggregates need a variant without missing cells"
    resamples = Resamples.draw(
        len(results.datasets),
        results.num_seeds,
        reps=min(PROFILE_REPS, m.options.reps),
        rng=np.random.default_rng(m.options.rng_seed),
        shared_seeds=results.shared_seeds,
    )
    points = _points(list(complete.values()))
    profiles = [
        ProfileInfo(
            variant=v,
            points=points,
            share_above=tuple(s.value for s in stats.profile_claims(t, resamples, points)),
            **_estimated(stats.aggregates(t, resamples)),
        )
        for v, t in complete.items()
    ]
    return profile_figure(profiles, metric=label(metric)), ""


def _estimated(summary: stats.Aggregates) -> dict[str, Estimated]:
    return {
        name: Estimated(
            value=claims.value,
            on_these_datasets=claims.on_these_datasets,
            on_datasets_like_these=claims.on_datasets_like_these,
        )
        for name, claims in summary._asdict().items()
    }


def _points(tables: Sequence[Array]) -> tuple[float, ...]:
    low = min(float(t.min()) for t in tables)
    high = max(float(t.max()) for t in tables)
    room = 0.03 * max(high - low, 0.01)
    ends = max(0.0, low - room), min(1.0, high + room)
    return tuple(np.linspace(*ends, NUM_POINTS).round(6).tolist())


def _curves(m: Material) -> Figure | None:
    if not m.results.curve:
        return None
    shots = m.results.curve
    curves = []
    for variant in m.table.variants:
        for dataset in m.table.datasets:
            cells = [m.table.cells[variant, dataset, metric] for metric in shots]
            curves.append(
                CurveInfo(
                    variant=variant,
                    dataset=dataset,
                    shots=tuple(shots.values()),
                    mean=tuple(cell.mean for cell in cells),
                    half_width=tuple(cell.half_width for cell in cells),
                )
            )
    return shot_curves(curves)


def _cost(m: Material) -> Figure | None:
    if m.results.costs.empty:
        return None
    known = {str(row["variant"]): row for row in m.results.costs.to_dict("records")}
    priced = []
    for variant in m.results.variants:
        cell = m.table.cells[variant, m.average, m.metric]
        costs = known.get(variant, {})
        priced.append(
            CostInfo(
                variant=variant,
                score=cell.mean,
                half_width=cell.half_width,
                costs={str(k): float(v) for k, v in costs.items() if k != "variant"},
            )
        )
    return cost_figure(priced, metric=label(m.metric))
