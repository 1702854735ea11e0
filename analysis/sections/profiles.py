"""Aggregates over all runs of a variant, and performance profiles (Agarwal et al., 2021)."""

from collections.abc import Sequence

import numpy as np

from analysis import stats
from analysis.figures.figure import Estimated
from analysis.figures.profiles import ProfileInfo, profile_figure
from analysis.sections.analysis import Analysis
from analysis.sections.section import Section, Topic
from analysis.sections.selection import noted, selection
from analysis.stats import Array
from analysis.text import label

NUM_POINTS = 41
INCOMPLETE = "aggregates need at least one variant without missing cells"


def has_profiles(analysis: Analysis) -> bool:
    """Whether any variant has a complete table."""
    return bool(_complete(analysis))


def _complete(analysis: Analysis) -> dict[str, Array]:
    """The scores (D, S) of the shown variants that lack none."""
    results = analysis.results
    variants = [v for v in selection(analysis).shown if v not in results.aliases]
    tables = {v: results.scores(v, analysis.metric) for v in variants}
    return {v: table_DS for v, table_DS in tables.items() if not np.isnan(table_DS).any()}


def _profiles(analysis: Analysis) -> list[ProfileInfo]:
    """Profiles of the variants with a complete table."""
    complete, direction = _complete(analysis), analysis.results.direction(analysis.metric)
    ideal = 1.0 if direction > 0 else 0.0
    points = _points(list(complete.values())) if complete else ()
    return [
        ProfileInfo(
            variant=v,
            points=points,
            share_better=tuple(_shares(direction * table_DS, direction * np.array(points))),
            iqm=Estimated(value=float(stats.iqm(table_DS))),
            median=Estimated(value=float(stats.median_of_datasets(table_DS))),
            mean=_over_seeds(table_DS),
            optimality_gap=_over_seeds(np.maximum(direction * (ideal - table_DS), 0.0)),
        )
        for v, table_DS in complete.items()
    ]


def _shares(gains_DS: Array, points: Array) -> list[float]:
    """Share of runs that are better than each of the points."""
    shares: list[float] = stats.profile(gains_DS, points.tolist()).tolist()
    return shares


def _over_seeds(values_DS: Array) -> Estimated:
    """The mean with its t interval over seeds, each averaged over all datasets."""
    mean, half_width, _ = stats.t_interval(values_DS.mean(axis=0))
    these = None if half_width is None else stats.Interval(mean - half_width, mean + half_width)
    return Estimated(value=mean, on_these_datasets=these)


def _points(tables: Sequence[Array]) -> tuple[float, ...]:
    low = min(float(t.min()) for t in tables)
    high = max(float(t.max()) for t in tables)
    room = 0.03 * max(high - low, 0.01)
    ends = max(0.0, low - room), min(1.0, high + room)
    return tuple(np.linspace(*ends, NUM_POINTS).round(6).tolist())


def _sections(analysis: Analysis) -> Sequence[Section]:
    drawn = profile_figure(
        _profiles(analysis),
        metric=label(analysis.metric),
        direction=analysis.results.direction(analysis.metric),
    )
    drawn = noted(analysis, drawn)
    return [
        Section(
            key="profiles",
            title="Aggregates and profiles",
            figures=(drawn,) if drawn else (),
            reason="" if drawn else INCOMPLETE,
        )
    ]


TOPIC = Topic(key="profiles", build=_sections)
