"""Aggregates over all runs of a variant, and performance profiles (Agarwal et al., 2021)."""

from collections.abc import Sequence

import numpy as np

from analysis import stats
from analysis.figures.figure import Estimated
from analysis.figures.profiles import ProfileInfo, profile_figure
from analysis.sections.analysis import Analysis
from analysis.sections.section import Section, Topic
from analysis.stats import Array, Resamples
from analysis.text import label

MAX_REPS = 2000
NUM_POINTS = 41
INCOMPLETE = "aggregates need at least one variant without missing cells"


def has_profiles(analysis: Analysis) -> bool:
    """Whether any variant has a complete table."""
    return bool(_complete(analysis))


def _complete(analysis: Analysis) -> dict[str, Array]:
    """The scores (D, S) of the variants that lack none."""
    results = analysis.results
    variants = [v for v in results.variants if v not in results.aliases]
    tables = zip(variants, results.cube(variants, analysis.metric), strict=True)
    return {v: table_DS for v, table_DS in tables if not np.isnan(table_DS).any()}


def _profiles(analysis: Analysis) -> list[ProfileInfo]:
    """Profiles of the variants with a complete table."""
    results, options = analysis.results, analysis.options
    complete = _complete(analysis)
    draws = Resamples.draw(
        len(results.datasets),
        results.num_seeds,
        reps=min(MAX_REPS, options.reps),
        rng=np.random.default_rng(options.rng_seed),
        shared_seeds=results.shared_seeds,
    )
    points = _points(list(complete.values())) if complete else ()
    return [
        ProfileInfo(
            variant=v,
            points=points,
            share_above=tuple(s.value for s in stats.profile_claims(table_DS, draws, points)),
            **_estimated(stats.aggregates(table_DS, draws)),
        )
        for v, table_DS in complete.items()
    ]


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


def _sections(analysis: Analysis) -> Sequence[Section]:
    drawn = profile_figure(_profiles(analysis), metric=label(analysis.metric))
    return [
        Section(
            key="profiles",
            title="Aggregates and profiles",
            figures=(drawn,) if drawn else (),
            reason="" if drawn else INCOMPLETE,
        )
    ]


TOPIC = Topic(key="profiles", build=_sections)
