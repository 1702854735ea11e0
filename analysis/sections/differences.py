"""Where the differences from the baseline are: by dataset, and in every single run."""

from collections.abc import Sequence

from analysis import stats
from analysis.figures.heatmap import MatrixInfo, difference_heatmap
from analysis.figures.seeds import SeedInfo, seed_scatter
from analysis.sections.analysis import Analysis, once
from analysis.sections.section import Section, Topic
from analysis.sections.selection import noted, selection
from analysis.stats import Array
from analysis.text import label

NO_PAIR = "no pair of runs to compare"


@once
def against_baseline(analysis: Analysis) -> tuple[tuple[str, ...], Array]:
    """The shown variants that may be compared with the baseline, and their paired differences
    (V, D, S).
    """
    results = analysis.results
    shown = tuple(
        v
        for v in selection(analysis).shown
        if v != results.baseline
        and v not in results.aliases
        and not results.not_comparable(v, results.baseline)
    )
    scores_VDS = results.cube((results.baseline, *shown), analysis.metric)
    return shown, scores_VDS[1:] - scores_VDS[:1]


def _by_dataset(analysis: Analysis) -> Sequence[Section]:
    results, (shown, difference_VDS) = analysis.results, against_baseline(analysis)
    drawn = None
    if shown:
        info = MatrixInfo(
            rows=shown,
            columns=results.datasets,
            difference=stats.dataset_means(difference_VDS),
        )
        drawn = difference_heatmap(info, baseline=results.baseline, metric=label(analysis.metric))
        drawn = noted(analysis, drawn)
    return [
        Section(
            key="differences",
            title="By dataset",
            figures=(drawn,) if drawn else (),
            reason="" if drawn else NO_PAIR,
        )
    ]


def _by_run(analysis: Analysis) -> Sequence[Section]:
    results, (shown, difference_VDS) = analysis.results, against_baseline(analysis)
    drawn = None
    if shown:
        info = SeedInfo(
            baseline=results.baseline,
            variants=shown,
            datasets=results.datasets,
            seeds=results.planned_seeds,
            difference=difference_VDS,
        )
        drawn = noted(analysis, seed_scatter(info, metric=label(analysis.metric)))
    return [
        Section(key="every_run", figures=(drawn,) if drawn else (), reason="" if drawn else NO_PAIR)
    ]


BY_DATASET = Topic(key="differences", build=_by_dataset)
BY_RUN = Topic(key="every_run", build=_by_run)
