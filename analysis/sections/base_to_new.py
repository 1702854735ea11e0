"""Base against new accuracy: which variants trade one for the other."""

from collections.abc import Sequence

from analysis.figures.plane import BaseNewInfo, base_new_figure
from analysis.sections.analysis import Analysis
from analysis.sections.results import main
from analysis.sections.section import Section, Topic
from analysis.sections.selection import noted, selection


def _sections(analysis: Analysis) -> Sequence[Section]:
    results, found = analysis.results, main(analysis)
    average, drawn = found.datasets[0], None
    if {"base", "new"} <= set(found.metrics[average]):
        shown = [v for v in selection(analysis).shown if v not in results.aliases]
        base, new = ({v: found.cells[v, average, m] for v in shown} for m in ("base", "new"))
        drawn = base_new_figure(
            [
                BaseNewInfo(
                    variant=v,
                    base=base[v].mean,
                    base_half_width=base[v].half_width,
                    new=new[v].mean,
                    new_half_width=new[v].half_width,
                )
                for v in shown
            ]
        )
        drawn = noted(analysis, drawn)
    return [
        Section(
            key="base_to_new",
            title="Base against new",
            figures=(drawn,) if drawn else (),
            reason="" if drawn else "the study has no base and new accuracy",
        )
    ]


TOPIC = Topic(key="base_to_new", build=_sections)
