"""Planned cells without a usable score."""

from collections.abc import Sequence

from analysis.read.results import Problem
from analysis.sections.analysis import Analysis
from analysis.sections.section import Section, Topic, running_text
from analysis.text import Column, Columns, Kind, Show, table

COLUMNS: Columns[Problem] = (
    Column("variant", "Variant", Kind.NAME, lambda p: p.variant),
    Column("dataset", "Dataset", Kind.TEXT, lambda p: p.dataset),
    Column("seed", "Seed", Kind.ID, lambda p: p.seed),
    Column("kind", "Status", Kind.TEXT, lambda p: p.kind),
    Column("detail", "Reason", Kind.TEXT, lambda p: p.detail),
)


def _sections(analysis: Analysis) -> Sequence[Section]:
    problems = analysis.results.problems
    if not problems:
        return [Section(key="problems", reason="every planned cell has a score")]
    text = (
        "These cells enter no mean and no test. A comparison uses the datasets and seeds that both "
        "sides have."
    )
    found = table("problems", f"Planned cells without a score: {len(problems)}", COLUMNS, problems)
    return [Section(key="problems", sentences=running_text([text]), tables=(found,))]


TOPIC = Topic(
    key="problems", build=_sections, files={"problems": COLUMNS}, show=Show.ALL ^ Show.PAPER
)
