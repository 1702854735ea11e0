"""Would the order of the variants hold with other seeds, or on other datasets?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, once, resamples
from analysis.sections.section import Section, Topic, running_text
from analysis.sections.selection import grouped
from analysis.sections.shared_tests import as_sentence, scored, without
from analysis.stats import RankStability, Resamples
from analysis.text import Column, Columns, Kind, Show, counted, table


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStability:
    """Rank stability on the ``datasets`` that are complete; ``left_out`` are the others."""

    variants: tuple[str, ...]
    found: RankStability | None
    datasets: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    num_seeds: int = 0
    reason: str = ""


def study_stability(
    results: Results, compared: Sequence[str], metric: str, draws: Resamples
) -> StudyStability:
    """On the datasets on which every variant has all of its seeds, with the same draws for all."""
    variants = tuple(compared)
    if len(variants) < 2:
        reason = "a single variant always ranks first"
        return StudyStability(variants=variants, found=None, reason=reason)
    scores_VDS = results.direction(metric) * results.cube(variants, metric)
    complete = np.asarray(~np.isnan(scores_VDS).any(axis=(0, 2)), dtype=bool)
    used = tuple(d for d, whole in zip(results.datasets, complete, strict=True) if whole)
    left_out = tuple(d for d in results.datasets if d not in used)
    if not used:
        reason = "there is no dataset on which every variant has all of its seeds"
        return StudyStability(variants=variants, found=None, left_out=left_out, reason=reason)
    return StudyStability(
        variants=variants,
        found=stats.rank_stability(scores_VDS[:, complete], draws),
        datasets=used,
        left_out=left_out,
        num_seeds=scores_VDS.shape[2],
    )


@once
def stability(analysis: Analysis) -> StudyStability:
    """Rank stability of this report."""
    return study_stability(analysis.results, scored(analysis), analysis.metric, resamples(analysis))


class Standing(NamedTuple):
    """A variant's shares of first places; None for a scope that the design cannot describe."""

    variant: str
    mean_rank: float
    best_on_these: float | None
    best_on_like_these: float | None
    first_two_on_these: float | None
    first_two_on_like_these: float | None


def standings(view: StudyStability) -> Iterator[Standing]:
    """The numbers of every variant."""
    found = view.found
    for v, variant in enumerate(view.variants if found else ()):
        assert found is not None
        yield Standing(
            variant=variant,
            mean_rank=found.mean_ranks[v],
            best_on_these=_share(found.best_on_these, v),
            best_on_like_these=_share(found.best_on_like_these, v),
            first_two_on_these=_share(found.first_two_on_these, v),
            first_two_on_like_these=_share(found.first_two_on_like_these, v),
        )


def _share(shares: Sequence[float] | None, index: int) -> float | None:
    return None if shares is None else shares[index]


COLUMNS: Columns[Standing] = (
    Column("variant", "Variant", Kind.NAME, lambda s: s.variant),
    Column(
        "best_on_like_these",
        "Best, datasets like these",
        Kind.NUMBER,
        lambda s: s.best_on_like_these,
        help="share of the draws in which the variant ranks first",
    ),
    Column(
        "first_two_on_like_these",
        "Top two, datasets like these",
        Kind.NUMBER,
        lambda s: s.first_two_on_like_these,
    ),
    Column("best_on_these", "Best, these datasets", Kind.NUMBER, lambda s: s.best_on_these),
    Column(
        "first_two_on_these",
        "Top two, these datasets",
        Kind.NUMBER,
        lambda s: s.first_two_on_these,
    ),
    Column("mean_rank", "Mean rank", Kind.NUMBER, lambda s: s.mean_rank),
)
DATASET_COLUMNS: Columns[tuple[str, bool]] = (
    Column("dataset", "Dataset", Kind.NAME, lambda d: d[0], Show.FILES),
    Column("complete", "Complete", Kind.YES_NO, lambda d: d[1], Show.FILES),
)


def _sections(analysis: Analysis) -> Sequence[Section]:
    view, title = stability(analysis), "Rank stability"
    known = set(view.datasets)
    datasets = [
        (d, d in known) for d in analysis.results.datasets if d in known or d in view.left_out
    ]
    files = table("datasets", "Datasets", DATASET_COLUMNS, datasets)
    if view.found is None:
        return [Section(key="rank_stability", title=title, tables=(files,), reason=view.reason)]
    text = (
        "How often each variant ranks first by its mean over datasets when datasets and seeds are "
        "resampled, with the same draws for all variants "
        f"({counted(len(view.datasets), 'dataset')}, {counted(view.num_seeds, 'seed')}). "
        "A mean rank of 1 is best. The shares describe the spread of this study; with few datasets "
        "or seeds they are too sure of the leader, so no verdict rests on them."
    )
    found = table("variants", title, COLUMNS, standings(view))
    limits = as_sentence(view.found.reason)
    return [
        Section(
            key="rank_stability",
            title=title,
            sentences=running_text([text, *without(view.left_out), *limits]),
            tables=(*grouped(analysis, found, view.variants), files),
        )
    ]


TOPIC = Topic(
    key="rank_stability",
    build=_sections,
    files={"variants": COLUMNS, "datasets": DATASET_COLUMNS},
)
