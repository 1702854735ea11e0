"""The numbers of the further tests for the JSON document, fractions; None where there is none."""

from typing import Any

from analysis.sections.further import (
    ConoverView,
    Further,
    MixedView,
    OverlapView,
    ShotTrend,
    StabilityView,
)
from analysis.stats import Rule
from analysis.text import rounded, rounded_ends, rounded_p


def further_record(found: Further) -> dict[str, Any]:
    """Every number of the boxes."""
    trends = found.trends
    return {
        "left_out": dict(found.left_out),
        "mixed_model": _mixed(found.mixed),
        "conover": _conover(found.conover),
        "rank_stability": _stability(found.stability),
        "shot_trends": {
            "reason": trends.reason,
            "left_out": list(trends.left_out),
            "rise": [_trend(t) for t in trends.rise],
            "advantage": [_trend(t) for t in trends.advantage],
        },
        "overlap": _overlap(found.overlap),
        "decision_table": [_rule(rule) for rule in found.rules],
    }


def _mixed(view: MixedView) -> dict[str, Any]:
    model = view.model
    return {
        "reason": model.reason,
        "planned": view.num_planned,
        "missing": view.num_missing,
        "variance_dataset": rounded_p(model.var_dataset),
        "variance_interaction": rounded_p(model.var_interaction),
        "variance_seed": rounded_p(model.var_seed),
        "effects": [
            {
                "variant": e.variant,
                "difference": rounded(e.difference),
                "standard_error": rounded(e.standard_error),
                "interval": rounded_ends(e.interval),
                "p": rounded_p(e.p),
                "holm_p": rounded_p(e.holm_p),
            }
            for e in model.effects
        ],
    }


def _conover(view: ConoverView) -> dict[str, Any]:
    p_VV = [] if view.p_VV is None else view.p_VV.tolist()
    return {
        "reason": view.reason,
        "datasets": view.num_datasets,
        "pairs": view.num_pairs,
        "variants": list(view.variants),
        "holm_p": [[rounded_p(p) for p in row] for row in p_VV],
        "disagreements": [
            {"variant": d.variant, "other": d.other, "pairwise": d.pairwise, "conover": d.conover}
            for d in view.disagreements
        ],
    }


def _stability(view: StabilityView) -> dict[str, Any]:
    found = view.found
    rows: list[dict[str, Any]] = []
    for v, variant in enumerate(view.variants if found else ()):
        assert found is not None
        rank = found.mean_ranks[v]
        these, like = rank.on_these_datasets, rank.on_datasets_like_these
        rows.append(
            {
                "variant": variant,
                "mean_rank": rounded(rank.value),
                "on_these_datasets": rounded_ends(these),
                "on_datasets_like_these": rounded_ends(like),
                "best_on_these": rounded(found.best_on_these[v]) if these else None,
                "best_on_like_these": rounded(found.best_on_like_these[v]) if like else None,
                "first_two_on_these": rounded(found.first_two_on_these[v]) if these else None,
                "first_two_on_like_these": rounded(found.first_two_on_like_these[v])
                if like
                else None,
            }
        )
    return {
        "reason": view.reason,
        "datasets": list(view.datasets),
        "left_out": list(view.left_out),
        "variants": rows,
    }


def _trend(t: ShotTrend) -> dict[str, Any]:
    return {
        "variant": t.variant,
        "statistic": t.trend.statistic,
        "datasets": t.trend.n,
        "p": rounded_p(t.p),
        "holm_p": rounded_p(t.holm_p),
        "trend": t.word,
        "reason": t.trend.reason,
    }


def _overlap(view: OverlapView) -> dict[str, Any]:
    return {
        "reason": view.reason,
        "test_over_train": view.ratio,
        "tests": [
            {
                "variant": t.variant,
                "dataset": t.dataset,
                "resamples": t.num_resamples,
                "difference": rounded(t.difference),
                "interval": rounded_ends(t.test.interval),
                "p": rounded_p(t.test.p),
                "plain_p": rounded_p(t.plain_p),
                "p_worse": rounded(t.posterior.worse),
                "p_equal": rounded(t.posterior.equal),
                "p_better": rounded(t.posterior.better),
                "reason": t.test.reason,
            }
            for t in view.tests
        ],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "primary": rule.primary,
        "also": list(rule.also),
        "never": list(rule.never),
        "claim": rule.claim,
        "notes": list(rule.notes),
        "smallest_p": rounded_p(rule.smallest_p),
    }
