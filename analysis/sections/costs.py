"""What a run of each variant costs, and whether gains come at that cost.

Times depend on the machine, so none of this is in report.json or report.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.figures.cost import CostInfo, cost_figure
from analysis.figures.figure import Figure
from analysis.read.study_folder import LOCKSTEP
from analysis.sections.analysis import Analysis
from analysis.sections.devices import words
from analysis.sections.results import main
from analysis.sections.section import Section, Topic
from analysis.sections.selection import noted, selection
from analysis.text import Column, Columns, Kind, Show, label, table

COLUMNS: Columns[Mapping[Any, Any]] = (
    Column("variant", "Variant", Kind.NAME, lambda c: c["variant"], Show.PAGE),
    Column("runs", "Runs", Kind.COUNT, lambda c: c["runs"], Show.PAGE),
    Column(
        "trainable_parameters",
        "Trainable parameters",
        Kind.COUNT,
        lambda c: c["trainable_parameters"],
        Show.PAGE,
    ),
    Column("train_seconds", "Training, s", Kind.NUMBER, lambda c: c["train_seconds"], Show.PAGE),
    Column(
        "evaluate_seconds", "Evaluation, s", Kind.NUMBER, lambda c: c["evaluate_seconds"], Show.PAGE
    ),
    Column(
        "images_per_second",
        "Images per s",
        Kind.COUNT,
        lambda c: c["images_per_second"],
        Show.PAGE,
    ),
    Column(
        "peak_memory_mb", "Peak memory, MB", Kind.COUNT, lambda c: c["peak_memory_mb"], Show.PAGE
    ),
)


def _figure(analysis: Analysis) -> Figure | None:
    """Average scores against costs."""
    results, found = analysis.results, main(analysis)
    known = {str(row["variant"]): row for row in results.costs.to_dict("records")}
    infos = []
    for variant in selection(analysis).shown:
        cell = found.cells[variant, found.datasets[0], analysis.metric]
        costs = known.get(variant, {})
        infos.append(
            CostInfo(
                variant=variant,
                score=cell.mean,
                half_width=cell.half_width,
                costs={str(k): float(v) for k, v in costs.items() if k != "variant"},
            )
        )
    return noted(analysis, cost_figure(infos, metric=label(analysis.metric)))


def _sections(analysis: Analysis) -> Sequence[Section]:
    costs = analysis.results.costs
    if costs.empty:
        return [Section(key="cost", reason="the source does not record costs")]
    drawn = _figure(analysis)
    notes = [
        "Means over finished runs; for memory and parameters, the maximum. Times depend on the "
        "machine and its load.",
        *_lockstep_notes(analysis),
        *_device_notes(analysis),
    ]
    rows = costs.to_dict("records")
    return [
        Section(
            key="cost",
            tables=(table("costs", "Cost of a run", COLUMNS, rows, notes=notes, folded=True),),
            figures=(drawn,) if drawn else (),
        )
    ]


def _lockstep_notes(analysis: Analysis) -> Iterator[str]:
    """What a reader of the costs has to know of runs that trained side by side."""
    sizes = sorted(map(int, analysis.results.environment.get(LOCKSTEP, ())))
    if sizes:
        yield (
            f"Runs were trained in lockstep, up to {sizes[-1]} side by side. Training seconds are "
            "those of each run alone: the making of batches that several runs share counts in full "
            "for each. Peak memory is that of all runs of a worker together."
        )


def _device_notes(analysis: Analysis) -> Iterator[str]:
    """Which devices the seconds are of, where these are several."""
    devices = analysis.results.devices
    if len(devices) < 2:
        return
    made = []
    for variant in analysis.results.variants:
        counts = {words(d): sum(run[0] == variant for run in runs) for d, runs in devices.items()}
        found = [f"{n} on {device}" for device, n in counts.items() if n]
        made += [f"{variant}: {', '.join(found)}"] if found else []
    yield (
        "Different devices made the runs, and their seconds do not compare: a mean over several "
        f"devices is that of none ({'; '.join(made)})."
    )


TOPIC = Topic(key="cost", build=_sections, show=Show.PAGE | Show.PAPER)
