"""Base against new accuracy: which variant buys the one with the other."""

from collections.abc import Sequence

from analysis.figures.plane import PlanePoint, plane
from analysis.sections.analysis import Analysis
from analysis.sections.results import main
from analysis.sections.section import Section, Topic


def _sections(analysis: Analysis) -> Sequence[Section]:
    results, found = analysis.results, main(analysis)
    average, drawn = found.datasets[0], None
    if {"base", "new"} <= set(found.metrics[average]):
        shown = [v for v in results.variants if v not in results.aliases]
        cells = found.cells
        drawn = plane(
            [PlanePoint(v, cells[v, average, "base"], cells[v, average, "new"]) for v in shown]
        )
    return [
        Section(
            key="base_to_new",
            title="Base against new",
            figures=(drawn,) if drawn else (),
            reason="" if drawn else "the study has no base and new accuracy",
        )
    ]


TOPIC = Topic(key="base_to_new", build=_sections)
