"""The main table: means over seeds per dataset and their average over datasets, fractions.

Nothing here depends on the clock, the machine or the order in which runs finished.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from analysis.read.integrity import saw_test
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, once
from analysis.sections.pairwise import standing
from analysis.sections.runs import anchors
from analysis.sections.section import Section, Topic, make_sentence
from analysis.sections.selection import grouped, selection
from analysis.stats import Array, dataset_means, t_interval
from analysis.text import (
    HM_OF_MEANS,
    Column,
    Columns,
    Kind,
    Linked,
    MeanScore,
    Name,
    Show,
    Span,
    Table,
    label,
    table,
)
from core.metrics import harmonic_mean

AVERAGE = None
"""Takes the place of a dataset for the average over all: no name would do, as any may be taken."""
AVERAGE_NAME = "average"


def column_name(dataset: str | None, datasets: Sequence[str | None]) -> str:
    """A dataset in words, or the average over all, whose name differs from that of any dataset."""
    if dataset is not AVERAGE:
        return dataset
    taken = {d.casefold() for d in datasets if d is not AVERAGE}
    return AVERAGE_NAME if AVERAGE_NAME not in taken else f"{AVERAGE_NAME} over all"


CellAddress = tuple[str, str | None, str]
"""Variant, dataset or ``AVERAGE``, metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MainTable:
    """Cells by (variant, dataset, metric). ``datasets`` begins with the average where there are
    several.
    """

    variants: tuple[str, ...]
    datasets: tuple[str | None, ...]
    metrics: Mapping[str | None, tuple[str, ...]]
    cells: Mapping[CellAddress, MeanScore]

    @property
    def columns(self) -> list[tuple[str | None, str]]:
        """All (dataset, metric) columns in order."""
        return [(d, m) for d in self.datasets for m in self.metrics[d]]


def main_table(results: Results) -> MainTable:
    """Means over seeds per dataset and their average over datasets, with t-based 95 % half widths.

    The half width of an average is over seeds, each averaged over all datasets: it speaks about
    these datasets. Two summaries of base and new are given: hm averages the harmonic means of the
    runs (mean of HMs), hm_of_means is the harmonic mean of the two averages (the field's
    convention). A variant that lacks a dataset has no average.
    """
    averages = results.metrics
    if {"base", "new"} <= set(averages):
        averages = (*averages, HM_OF_MEANS)
    cells: dict[CellAddress, MeanScore] = {}
    for variant in results.variants:
        scores = {metric: results.scores(variant, metric) for metric in results.metrics}
        for metric, values_DS in scores.items():
            cells[variant, AVERAGE, metric] = _average(values_DS)
            for dataset, row in zip(results.datasets, values_DS, strict=True):
                cells[variant, dataset, metric] = _cell(row)
        if HM_OF_MEANS in averages:
            cells[variant, AVERAGE, HM_OF_MEANS] = _hm_of_means(scores["base"], scores["new"])
    several = len(results.datasets) > 1
    found = MainTable(
        variants=results.variants,
        datasets=(AVERAGE, *results.datasets) if several else results.datasets,
        metrics={AVERAGE: averages, **dict.fromkeys(results.datasets, results.metrics)},
        cells=cells,
    )
    return replace(found, cells=_marked(found, results))


def _cell(row: Array) -> MeanScore:
    if np.isnan(row).all():
        return MeanScore()
    return MeanScore(**t_interval(row)._asdict())


def _per_seed(values_DS: Array) -> Array:
    """Average over datasets of every seed that is complete, shape (n,)."""
    complete = ~np.isnan(values_DS).any(axis=0)
    return np.asarray(values_DS[:, complete].mean(axis=0), dtype=np.float64)


def _average(values_DS: Array) -> MeanScore:
    means = dataset_means(values_DS)
    if np.isnan(means).any():
        return MeanScore()
    return _centered(float(means.mean()), _per_seed(values_DS))


def _hm_of_means(base_DS: Array, new_DS: Array) -> MeanScore:
    base, new = dataset_means(base_DS), dataset_means(new_DS)
    if np.isnan(base).any() or np.isnan(new).any():
        return MeanScore()
    pairs = zip(_per_seed(base_DS), _per_seed(new_DS), strict=True)
    per_seed = np.array([harmonic_mean(float(b), float(n)) for b, n in pairs])
    return _centered(harmonic_mean(float(base.mean()), float(new.mean())), per_seed)


def _centered(mean: float, per_seed: Array) -> MeanScore:
    spread = t_interval(per_seed) if per_seed.size else None
    return MeanScore(
        mean=mean,
        half_width=spread.half_width if spread else None,
        n=spread.n if spread else 0,
    )


def _marked(found: MainTable, results: Results) -> Mapping[CellAddress, MeanScore]:
    """Best and second of each column among the variants that may be ranked with the baseline."""
    ranked = [v for v in found.variants if not results.not_comparable(v, results.baseline)]
    cells = dict(found.cells)
    for dataset, metric in found.columns:
        means = {
            v: round(m, 9) for v in ranked if (m := cells[v, dataset, metric].mean) is not None
        }
        lower = results.direction(metric) < 0
        ordered = sorted(set(means.values()), reverse=not lower) if len(means) > 1 else []
        for mark, value in zip(("best", "second"), ordered, strict=False):
            for variant in (v for v, mean in means.items() if mean == value):
                address = (variant, dataset, metric)
                cells[address] = replace(cells[address], mark=mark)
    return cells


@once
def main(analysis: Analysis) -> MainTable:
    """The main table of this report."""
    return main_table(analysis.results)


def flagged(results: Results, variant: str) -> bool:
    """Whether the weights of a variant were selected or trained on test data."""
    return bool(_warning(results, variant))


def _warning(results: Results, variant: str) -> str:
    """How test data came into the weights of a variant, "" where it did not."""
    setting = results.settings.get(variant)
    ways = ["selection"] if setting is not None and saw_test(setting.selection) else []
    ways += ["training"] if variant in results.trained_on_test else []
    return f"{' and '.join(ways)} used test data" if ways else ""


def tags(results: Results, variant: str) -> tuple[str, ...]:
    """What qualifies a variant wherever it is ranked."""
    found = ["baseline"] if variant == results.baseline else []
    found += ["reference"] if variant in results.references else []
    found += [results.inert[variant]] if variant in results.inert else []
    found += ["batch-coupled"] if variant in results.batch_coupled else []
    found += [] if results.seeded(variant) or not results.planned_seeds else ["no randomness"]
    if (origin := results.origin(variant)) and origin != results.origins[0]:
        found.append(f"from {origin.name}")
    if reason := results.not_comparable(variant, results.baseline):
        found.append(f"not ranked: {reason}")
    return tuple(found)


def num_seeds(found: MainTable, variant: str) -> int | Span:
    """Number of seeds behind a row, or the range where cells differ. A metric that the variant
    lacks does not count.
    """
    cells = [(m, found.cells[variant, d, m]) for d, m in found.columns if d is not AVERAGE]
    known = {m for m, cell in cells if cell.n}
    counts = {cell.n for m, cell in cells if m in known} or {0}
    return min(counts) if len(counts) == 1 else Span(min(counts), max(counts))


class ResultRow(NamedTuple):
    """One cell of the main table as files hold it; the dataset may be ``AVERAGE``."""

    variant: str
    dataset: str | None
    metric: str
    cell: MeanScore

    @property
    def summary(self) -> str | None:
        """What is summarized over datasets; None for the mean on one dataset."""
        if self.metric is HM_OF_MEANS:
            return str(self.metric)
        return AVERAGE_NAME if self.dataset is AVERAGE else None


FILE_COLUMNS: Columns[ResultRow] = (
    Column("variant", "Variant", Kind.NAME, lambda r: r.variant, Show.FILES),
    Column(
        "dataset",
        "Dataset",
        Kind.TEXT,
        lambda r: AVERAGE_NAME if r.dataset is AVERAGE else r.dataset,
        Show.FILES,
        help="the word average where summary is not null",
    ),
    Column("metric", "Metric", Kind.TEXT, lambda r: str(r.metric), Show.FILES),
    Column(
        "summary",
        "Summary",
        Kind.TEXT,
        lambda r: r.summary,
        Show.FILES,
        help="average: over all datasets; hm_of_means: harmonic mean of the averages of base and "
        "new; null: the mean on a dataset",
    ),
    Column("mean", "Mean", Kind.POINTS, lambda r: r.cell.mean, Show.FILES),
    Column(
        "half_width_95",
        "Half width",
        Kind.POINTS,
        lambda r: r.cell.half_width,
        Show.FILES,
        help="of the 95 % t interval over seeds",
    ),
    Column("n", "n", Kind.COUNT, lambda r: r.cell.n, Show.FILES, help="number of seeds"),
)


def _file_rows(found: MainTable) -> list[ResultRow]:
    return [
        ResultRow(v, d, m, found.cells[v, d, m]) for v in found.variants for d, m in found.columns
    ]


TITLE = "{what} in percent, mean ± half width of the 95 % t interval over n seeds"
PAGE_TITLE = "Mean over seeds, in percent"


def _title(results: Results) -> str:
    """What the numbers are: accuracies, unless lower is better for one of them."""
    return TITLE.format(what="Scores" if results.lower_is_better else "Accuracy")


def _label(results: Results, metric: str) -> str:
    """A metric with an arrow where lower is better."""
    return f"{label(metric)} ↓" if results.direction(metric) < 0 else label(metric)


def _page_table(analysis: Analysis) -> Table:
    """The averages, and the metric of the headline on each dataset; numbers link to their runs."""
    found = main(analysis)
    average, *datasets = found.datasets
    name, count = _first_columns(analysis, Show.PAGE)
    counts = {num_seeds(found, v) for v in found.variants if analysis.results.seeded(v)}
    columns = [name, count] if len(counts) > 1 else [name]
    columns += [
        _score_column(analysis, average, metric, column_name(average, found.datasets), Show.PAGE)
        for metric in found.metrics[average]
        if metric is not HM_OF_MEANS
    ]
    for dataset in datasets:
        column = _score_column(analysis, dataset, analysis.metric, "", Show.PAGE)
        named = f"{_label(analysis.results, analysis.metric)} by dataset"
        columns.append(replace(column, title=str(dataset), group=named))
    return table("main", PAGE_TITLE, tuple(columns), found.variants, notes=_notes(analysis))


def _full_table(analysis: Analysis) -> Table:
    """All metrics of a dataset side by side."""
    found = main(analysis)
    more = len(found.columns) > len(found.metrics[found.datasets[0]]) + len(found.datasets) - 1
    page = Show.PAGE if more else Show(0)
    columns = _first_columns(analysis, Show.MARKDOWN | Show.TERMINAL | page)
    for dataset, metric in found.columns:
        brief = dataset == found.datasets[0] or analysis.results.shared_seeds
        show = Show.MARKDOWN | page | (Show.TERMINAL if brief else Show(0))
        columns.append(
            _score_column(analysis, dataset, metric, column_name(dataset, found.datasets), show)
        )
    title = "All metrics on every dataset"
    return table("all_metrics", title, tuple(columns), found.variants, folded=True)


def _first_columns(analysis: Analysis, show: Show) -> list[Column[str]]:
    return [
        Column("variant", "Variant", Kind.NAME, partial(_name, analysis.results), show),
        Column("n", "n", Kind.COUNT, partial(num_seeds, main(analysis)), show),
    ]


def _score_column(
    analysis: Analysis, dataset: str | None, metric: str, group: str, show: Show
) -> Column[str]:
    score = partial(_linked, analysis, dataset, metric)
    title = _label(analysis.results, metric)
    return Column(metric, title, Kind.SCORE, score, show, group=group)


def _name(results: Results, variant: str) -> Name:
    warning = _warning(results, variant)
    return Name(variant, tags(results, variant), warning)


def _shown(analysis: Analysis, dataset: str | None, metric: str, variant: str) -> MeanScore:
    """A cell with what a reader must know about it."""
    results, found = analysis.results, main(analysis)
    cell = found.cells[variant, dataset, metric]
    return replace(
        cell,
        standing=standing(analysis, variant, metric) if dataset == found.datasets[0] else "",
        flagged=flagged(results, variant),
        partial=cell.n < results.planned(variant),
    )


def _linked(analysis: Analysis, dataset: str | None, metric: str, variant: str) -> Linked:
    where = anchors(analysis)
    target = where.to_variant(variant) if dataset is AVERAGE else where.to_cell(variant, dataset)
    return Linked(_shown(analysis, dataset, metric, variant), target)


def _notes(analysis: Analysis) -> list[str]:
    found = main(analysis)
    said = ["±: half width of the 95 % interval over seeds."]
    if found.datasets[0] is AVERAGE:
        equal = "; ≈ equivalent to it" if analysis.options.rope else ""
        said.append(f"† worse than the best on these datasets{equal}; no mark: undecided.")
    return [" ".join(said)]


def _paper_tables(analysis: Analysis) -> list[Table]:
    """One table per metric, with one column per dataset."""
    found = main(analysis)
    made = []
    for metric in dict.fromkeys(metric for _, metric in found.columns):
        columns: list[Column[str]] = [
            Column("variant", "Variant", Kind.NAME, str, Show.PAPER),
            *(
                Column(
                    metric,
                    column_name(dataset, found.datasets),
                    Kind.SCORE,
                    partial(_shown, analysis, dataset, metric),
                    Show.PAPER,
                )
                for dataset in found.datasets
                if metric in found.metrics[dataset]
            ),
        ]
        unit = "accuracy in percent" if analysis.results.direction(metric) > 0 else "in percent"
        title = (
            f"{_label(analysis.results, metric)}, {unit}, mean ± half width of the 95 % t interval"
        )
        made.append(
            table("by_metric", f"{title} over seeds", tuple(columns), found.variants, notes=LEGEND)
        )
    return made


LEGEND = (
    "†: worse than the best on these datasets on average; ≈: equivalent to it.",
    "HM is the mean of the harmonic means of the runs; HM of means is the harmonic mean of the two "
    "averages, which most papers report.",
)


def _sections(analysis: Analysis) -> Sequence[Section]:
    found, said = main(analysis), selection(analysis).sentence
    shown = (_page_table(analysis), _full_table(analysis), *_paper_tables(analysis))
    tables = [t for each in shown for t in grouped(analysis, each, found.variants)]
    tables.append(table("results", _title(analysis.results), FILE_COLUMNS, _file_rows(found)))
    sentences = (make_sentence(said, kind="note"),) if said else ()
    return [Section(key="results", sentences=sentences, tables=tuple(tables))]


TOPIC = Topic(key="results", build=_sections, files={"results": FILE_COLUMNS}, show=Show.ALL)
