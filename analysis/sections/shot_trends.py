"""Does accuracy rise with shots, and does the advantage over the baseline grow?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, Options, once
from analysis.sections.comparisons import differences
from analysis.sections.section import Section, Topic, running_text
from analysis.sections.shared_tests import scored, without
from analysis.stats import Array, Trend
from analysis.text import Column, Columns, Kind, Show, table


class ShotTrend(NamedTuple):
    """Page's trend of one variant. ``word``: rises, grows, shrinks or undecided; ``p`` is one-sided
    for a rise and two-sided for an advantage.
    """

    variant: str
    trend: Trend
    p: float | None
    holm_p: float | None
    word: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotTrends:
    """The trends of the curves, and of the differences from the baseline."""

    rise: tuple[ShotTrend, ...] = ()
    advantage: tuple[ShotTrend, ...] = ()
    unseeded: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    reason: str = ""


def shot_trends(results: Results, compared: Sequence[str], options: Options) -> ShotTrends:
    """Page's L of every variant over the points of the curve."""
    if not results.curve:
        return ShotTrends(reason="the study has a single number of shots")
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
    advantage = [(v, *_two_sided(table_DK)) for v, table_DK in apart.items()]
    gaps = [np.isnan(table_DK).any(axis=1) for table_DK in (*curves.values(), *apart.values())]
    lacking = np.asarray(np.any(gaps, axis=0)) if gaps else np.zeros(len(results.datasets))
    return ShotTrends(
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
    """All variants form one family."""
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


@once
def trends(analysis: Analysis) -> ShotTrends:
    """The trends of this report."""
    return shot_trends(analysis.results, scored(analysis), analysis.options)


COLUMNS: Columns[ShotTrend] = (
    Column("variant", "Variant", Kind.NAME, lambda t: t.variant),
    Column("statistic", "L", Kind.MEASURE, lambda t: t.trend.statistic, help="Page's L"),
    Column("datasets", "Datasets", Kind.COUNT, lambda t: t.trend.n),
    Column("p", "p", Kind.P, lambda t: t.p),
    Column("holm_p", "p Holm", Kind.P, lambda t: t.holm_p),
    Column(
        "trend",
        "Trend",
        Kind.TEXT,
        lambda t: t.word,
        help="rises, grows, shrinks or undecided",
    ),
    Column("reason", "Remark", Kind.NOTE, lambda t: t.trend.reason, optional=True),
)
DATASET_COLUMNS: Columns[str] = (Column("dataset", "Dataset", Kind.NAME, str, Show.FILES),)


def _rise(analysis: Analysis) -> Sequence[Section]:
    view, title = trends(analysis), "Does accuracy rise with shots?"
    if not view.rise:
        reason = view.reason or "no variant is trained"
        return [Section(key="shot_rise", title=title, reason=reason)]
    text = (
        "Page's L over datasets tests the whole curve of a variant at once instead of each number "
        "of shots separately; p is one-sided and adjusted by Holm over variants."
    )
    named = ", ".join(view.unseeded)
    flat = [f"Not trained, and therefore without a curve: {named}."] if named else []
    return [
        Section(
            key="shot_rise",
            title=title,
            sentences=running_text([text, *flat, *without(view.left_out)]),
            tables=(
                table("trends", title, COLUMNS, view.rise),
                table("left_out", "Datasets with gaps", DATASET_COLUMNS, view.left_out),
            ),
        )
    ]


def _advantage(analysis: Analysis) -> Sequence[Section]:
    view, title = trends(analysis), "Does the advantage grow with shots?"
    baseline = analysis.results.baseline
    if not view.advantage:
        reason = view.reason or f"no variant has scores to compare with {baseline}"
        return [Section(key="shot_advantage", title=title, reason=reason)]
    text = (
        f"Page's L of the difference from {baseline}; p is two-sided and adjusted by Holm over "
        "variants. The advantage grows if the difference rises with the number of shots, and "
        "shrinks if it falls."
    )
    return [
        Section(
            key="shot_advantage",
            title=title,
            sentences=running_text([text, *without(view.left_out)]),
            tables=(table("trends", title, COLUMNS, view.advantage),),
        )
    ]


RISE = Topic(key="shot_rise", build=_rise, files={"trends": COLUMNS, "left_out": DATASET_COLUMNS})
ADVANTAGE = Topic(key="shot_advantage", build=_advantage, files={"trends": COLUMNS})
