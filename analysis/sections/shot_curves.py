"""Few-shot curves: accuracy over the number of shots."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from analysis.figures.curves import CurveInfo, shot_curves
from analysis.sections.analysis import Analysis
from analysis.sections.results import MainTable, column_name, main
from analysis.sections.section import Section, Topic
from analysis.sections.selection import grouped, noted, selection
from analysis.text import Column, Kind, MeanScore, Show, Table, table

TITLE = "Accuracy over shots"


class CurveRow(NamedTuple):
    """One curve; the dataset is ``AVERAGE`` for the average over all."""

    dataset: str | None
    variant: str


def _dataset(found: MainTable, row: CurveRow) -> str:
    return column_name(row.dataset, found.datasets)


def _score(found: MainTable, metric: str, row: CurveRow) -> MeanScore:
    return found.cells[row.variant, row.dataset, metric]


def _tables(analysis: Analysis, found: MainTable) -> tuple[Table, ...]:
    """One row per dataset and variant, one column per number of shots."""
    columns: list[Column[CurveRow]] = [
        Column("dataset", "Dataset", Kind.NAME, partial(_dataset, found), Show.READ),
        Column("variant", "Variant", Kind.TEXT, lambda r: r.variant, Show.READ),
        *(
            Column(metric, metric, Kind.SCORE, partial(_score, found, metric), Show.READ)
            for metric in analysis.results.curve
        ),
    ]
    rows = [CurveRow(dataset, v) for dataset in found.datasets for v in found.variants]
    made = table("curves", TITLE, tuple(columns), rows)
    return grouped(analysis, made, [row.variant for row in rows])


def _sections(analysis: Analysis) -> Sequence[Section]:
    results, found = analysis.results, main(analysis)
    if not results.curve:
        reason = "the study has a single number of shots"
        return [Section(key="shot_curves", title=TITLE, reason=reason)]
    shots = results.curve
    curves = []
    for v in selection(analysis).shown:
        for d in found.datasets:
            cells = [found.cells[v, d, metric] for metric in shots]
            curves.append(
                CurveInfo(
                    variant=v,
                    dataset=column_name(d, found.datasets),
                    shots=tuple(shots.values()),
                    mean=tuple(cell.mean for cell in cells),
                    half_width=tuple(cell.half_width for cell in cells),
                )
            )
    drawn = noted(analysis, shot_curves(curves))
    return [
        Section(
            key="shot_curves",
            title=TITLE,
            tables=_tables(analysis, found),
            figures=(drawn,) if drawn else (),
        )
    ]


TOPIC = Topic(key="shot_curves", build=_sections)
