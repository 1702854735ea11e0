"""Further tests beside the verdicts: a mixed model, Conover's test, rank stability, trends over
shots, overlapping resamples, and the row of the decision table. No verdict rests on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.sections.comparisons import Options, differences
from analysis.sections.design import Fact
from analysis.sections.pairwise import Pairwise
from analysis.stats import (
    Array,
    MixedModel,
    Posterior,
    RankStability,
    ResampledT,
    Resamples,
    Rule,
    Trend,
)

DECIDED = ("better", "worse")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedView:
    """The mixed model against the baseline. ``num_missing`` of ``num_planned`` scores are not
    there; ``unseeded`` variants stand as one column. ``shared_seeds``: one trained model a seed was
    scored on every dataset, which the model does not know.
    """

    model: MixedModel
    num_planned: int
    num_missing: int
    num_datasets: int
    unseeded: tuple[str, ...] = ()
    shared_seeds: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A pair on which the pairwise test and Conover's differ: how ``variant`` stands to ``other``
    by either, and Conover's Holm-adjusted p.
    """

    variant: str
    other: str
    pairwise: str
    conover: str
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConoverView:
    """Conover's test beside the pairwise verdicts. ``p_VV`` follows ``variants``; None with the
    reason.
    """

    variants: tuple[str, ...]
    p_VV: Array | None
    num_datasets: int
    disagreements: tuple[Disagreement, ...] = ()
    reason: str = ""

    @property
    def num_pairs(self) -> int:
        """Number of pairs of variants."""
        return len(self.variants) * (len(self.variants) - 1) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilityView:
    """Rank stability on the ``datasets`` that are complete; ``left_out`` are the others."""

    variants: tuple[str, ...]
    found: RankStability | None
    datasets: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    num_seeds: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotTrend:
    """Page's trend of one variant. ``word``: rises, grows, shrinks or undecided; ``p`` is one-sided
    for a rise and two-sided for an advantage.
    """

    variant: str
    trend: Trend
    p: float | None
    holm_p: float | None
    word: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendView:
    """Does accuracy rise with shots, and does the difference from the baseline grow or shrink?"""

    rise: tuple[ShotTrend, ...] = ()
    advantage: tuple[ShotTrend, ...] = ()
    unseeded: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResampleTest:
    """A variant minus the baseline over the overlapping resamples of one dataset. ``plain_p`` is
    what a t test would say that takes them as independent.
    """

    variant: str
    dataset: str
    num_resamples: int
    difference: float
    test: ResampledT
    plain_p: float | None
    posterior: Posterior


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapView:
    """All of these tests; ``ratio`` is n_test / n_train, None where seeds share nothing."""

    ratio: float | None
    tests: tuple[ResampleTest, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Further:
    """All further tests of the headline's metric. ``left_out`` names variants that are in none of
    them, with the reason.
    """

    baseline: str
    alpha: float
    mixed: MixedView
    conover: ConoverView
    stability: StabilityView
    trends: TrendView
    overlap: OverlapView
    rules: tuple[Rule, ...]
    left_out: tuple[tuple[str, str], ...] = ()


def further_tests(
    results: Results, pairs: Pairwise, options: Options, resamples: Resamples
) -> Further:
    """All of them on the headline's metric, for the variants that may be ranked together."""
    metric = results.primary_metric
    scores = {v: results.scores(v, metric) for v in pairs.variants}
    empty = [v for v, table in scores.items() if not np.isfinite(table).any()]
    compared = [v for v in pairs.variants if v not in empty]
    mixed = _mixed(results, compared, metric)
    return Further(
        baseline=results.baseline,
        alpha=options.alpha,
        mixed=mixed,
        conover=_conover(results, compared, pairs, options),
        stability=_stability(results, compared, metric, resamples),
        trends=_trends(results, compared, options),
        overlap=_overlap(results, compared, metric, options),
        rules=_rules(results, len(compared), mixed.num_missing > 0, options),
        left_out=(*pairs.left_out, *((v, "it has no score") for v in empty)),
    )


def _mixed(results: Results, compared: Sequence[str], metric: str) -> MixedView:
    tables = [results.scores(v, metric) for v in compared]
    planned = sum(table.size for table in tables)
    missing = sum(int(np.isnan(table).sum()) for table in tables)
    if results.baseline not in compared:
        model = MixedModel(reason=f"the baseline {results.baseline} has no score to compare with")
    else:
        scores_VDS = results.cube(compared, metric, repeat_unseeded=False)
        place = compared.index(results.baseline)
        model = stats.mixed_model(scores_VDS, compared, baseline=place)
    unseeded = tuple(v for v in compared if results.planned_seeds and not results.seeded(v))
    scored = [np.isfinite(table).any(axis=1) for table in tables]
    return MixedView(
        model=model,
        num_planned=planned,
        num_missing=missing,
        num_datasets=int(np.any(scored, axis=0).sum()) if scored else 0,
        unseeded=unseeded,
        shared_seeds=results.shared_seeds,
    )


def _conover(
    results: Results, compared: Sequence[str], pairs: Pairwise, options: Options
) -> ConoverView:
    table_DV = stats.dataset_means(results.cube(compared, pairs.metric)).T
    p_VV, reason = stats.conover_friedman(table_DV)
    ranks = stats.friedman(table_DV)
    view = ConoverView(variants=tuple(compared), p_VV=p_VV, num_datasets=ranks.n, reason=reason)
    if p_VV is None:
        return view
    found = []
    for i, j in combinations(range(len(compared)), 2):
        ahead = "better" if ranks.mean_ranks[i] < ranks.mean_ranks[j] else "worse"
        word, p = ahead if p_VV[i, j] < options.alpha else "undecided", float(p_VV[i, j])
        one, two = compared[i], compared[j]
        decided = pairs.word(one, two)
        if word != (decided if decided in DECIDED else "undecided"):
            found.append(Disagreement(variant=one, other=two, pairwise=decided, conover=word, p=p))
    return replace(view, disagreements=tuple(found))


def _stability(
    results: Results, compared: Sequence[str], metric: str, resamples: Resamples
) -> StabilityView:
    """On the datasets on which every variant has all of its seeds, with the same draws for all."""
    if len(compared) < 2:
        reason = "one variant is first whatever is drawn"
        return StabilityView(variants=tuple(compared), found=None, reason=reason)
    scores_VDS = results.cube(compared, metric)
    complete = np.asarray(~np.isnan(scores_VDS).any(axis=(0, 2)), dtype=bool)
    used = tuple(d for d, whole in zip(results.datasets, complete, strict=True) if whole)
    left_out = tuple(d for d in results.datasets if d not in used)
    if not used:
        reason = "no dataset on which every variant has all of its seeds"
        return StabilityView(variants=tuple(compared), found=None, left_out=left_out, reason=reason)
    return StabilityView(
        variants=tuple(compared),
        found=stats.rank_stability(scores_VDS[:, complete], resamples),
        datasets=used,
        left_out=left_out,
        num_seeds=results.num_seeds,
    )


def _trends(results: Results, compared: Sequence[str], options: Options) -> TrendView:
    if not results.curve:
        return TrendView(reason="the study has one number of shots")
    trained = [v for v in compared if results.seeded(v)]
    curves = {
        v: np.stack([stats.dataset_means(results.scores(v, m)) for m in results.curve], axis=1)
        for v in trained
    }
    apart = {
        v: np.stack(
            [
                stats.dataset_means(differences(results, v, results.baseline, m))
                for m in results.curve
            ],
            axis=1,
        )
        for v in compared
        if v != results.baseline and results.baseline in compared
    }
    rise = [(v, stats.page_trend(curve), "rises") for v, curve in curves.items()]
    advantage = [(v, *_two_sided(table)) for v, table in apart.items()]
    gaps = [np.isnan(table).any(axis=1) for table in (*curves.values(), *apart.values())]
    lacking = np.asarray(np.any(gaps, axis=0)) if gaps else np.zeros(len(results.datasets))
    return TrendView(
        rise=_with_holm(rise, options.alpha),
        advantage=_with_holm(advantage, options.alpha),
        unseeded=tuple(v for v in compared if v not in trained),
        left_out=tuple(d for d, gap in zip(results.datasets, lacking, strict=True) if gap),
    )


def _two_sided(table_DK: Array) -> tuple[Trend, str]:
    """Page's trend in the direction in which the data lean, with twice its p."""
    up, down = stats.page_trend(table_DK), stats.page_trend(-table_DK)
    if up.p is None or down.p is None:
        return up, "undecided"
    trend, word = (up, "grows") if up.p <= down.p else (down, "shrinks")
    assert trend.p is not None
    return trend._replace(p=min(1.0, 2 * trend.p)), word


def _with_holm(found: Sequence[tuple[str, Trend, str]], alpha: float) -> tuple[ShotTrend, ...]:
    """One family: all variants, the one question."""
    adjusted = stats.holm([trend.p for _, trend, _ in found])
    return tuple(
        ShotTrend(
            variant=variant,
            trend=trend,
            p=trend.p,
            holm_p=p,
            word=word if p is not None and p < alpha else "undecided",
        )
        for (variant, trend, word), p in zip(found, adjusted, strict=True)
    )


def _overlap(
    results: Results, compared: Sequence[str], metric: str, options: Options
) -> OverlapView:
    ratio = options.overlap
    if ratio is None:
        return OverlapView(
            ratio=None, reason="without --overlap, seeds are draws that share no data"
        )
    tests = []
    for variant in compared:
        if variant == results.baseline or results.baseline not in compared:
            continue
        difference_DS = differences(results, variant, results.baseline, metric)
        for dataset, row in zip(results.datasets, difference_DS, strict=True):
            known = row[np.isfinite(row)]
            if not known.size:
                continue
            tests.append(
                ResampleTest(
                    variant=variant,
                    dataset=dataset,
                    num_resamples=int(known.size),
                    difference=float(known.mean()),
                    test=stats.corrected_resampled_t(known, test_over_train=ratio),
                    plain_p=stats.paired_t(known).p,
                    posterior=stats.bayesian_correlated_t(
                        known, test_over_train=ratio, rope=options.rope
                    ),
                )
            )
    return OverlapView(
        ratio=ratio, tests=tuple(tests), reason="" if tests else "no pair of resamples to compare"
    )


def _rules(
    results: Results, num_variants: int, missing_cells: bool, options: Options
) -> tuple[Rule, ...]:
    """The row of the decision table for this design, and for a curve that of trends."""
    if num_variants < 2:
        return ()
    datasets, seeds = len(results.datasets), results.num_seeds
    row = stats.decision_rule(
        datasets,
        seeds,
        num_variants=num_variants,
        overlapping=options.overlap is not None,
        missing_cells=missing_cells,
        alpha=options.alpha,
    )
    trend = stats.decision_rule(datasets, seeds, num_variants=num_variants, shots_trend=True)
    return (row, trend) if results.curve else (row,)


def rule_facts(found: Further) -> tuple[Fact, ...]:
    """Lines of the design box: what the decision table asks for at these counts."""
    facts = []
    for rule, name in zip(found.rules, ("Decision table", "Decision table, shots"), strict=False):
        least = "" if rule.smallest_p is None else f"smallest p it can give: {rule.smallest_p:.2g}"
        lines = [
            ("what decides", "; ".join(filter(None, (rule.primary, least)))),
            ("beside it", "; ".join(rule.also)),
            ("never", "; ".join(rule.never)),
            ("the claim", rule.claim),
            ("to note", "; ".join(rule.notes)),
        ]
        facts += [Fact(term=f"{name}: {what}", text=text) for what, text in lines if text]
    return tuple(facts)
