"""Every planned run: its score, its folder, and the command that reruns it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.read.results import Results
from analysis.read.shot_curves import point
from analysis.read.sources import SCORED
from analysis.sections.analysis import Analysis, once
from analysis.sections.section import Section, Topic
from analysis.text import (
    Column,
    Columns,
    Kind,
    Linked,
    Name,
    Show,
    Table,
    counted,
    label,
    table,
)
from core.program import command_line
from core.store.names import INSPECTION_NAME, INSPECTION_PAGE

MAX_ON_PAGE = 2000
"""Longer lists have a page of their own: a browser takes seconds for ten thousand rows."""

PAGE = "runs.html"
"""The file of that page, beside the report."""


class RunAnchors:
    """Links to the runs behind a number: the ids of rows in the table of runs, on ``page`` (blank:
    the page of the report).
    """

    def __init__(self, results: Results, *, page: str = "") -> None:
        self._page = page
        self._variants = {v: i for i, v in enumerate(results.variants)}
        frame = results.runs if not results.runs.empty else results.frame
        names = dict.fromkeys(str(d) for d in frame["dataset"])
        self._datasets = {d: i for i, d in enumerate(names)}

    def cell(self, variant: str, dataset: str) -> str:
        """The id of the runs of one cell; of the variant where the dataset has no runs itself."""
        if dataset not in self._datasets:
            return self.variant(variant)
        return f"c{self._variants[variant]}-{self._datasets[dataset]}"

    def variant(self, variant: str) -> str:
        """The id of the first run of a variant."""
        return f"v{self._variants[variant]}"

    def to_cell(self, variant: str, dataset: str) -> str:
        """The link to the runs of one cell."""
        return f"{self._page}#{self.cell(variant, dataset)}"

    def to_variant(self, variant: str) -> str:
        """The link to the runs of a variant."""
        return f"{self._page}#{self.variant(variant)}"


@once
def anchors(analysis: Analysis) -> RunAnchors:
    """The ids of the runs of this report."""
    return RunAnchors(analysis.results, page=PAGE if _apart(analysis.results) else "")


def _apart(results: Results) -> bool:
    """Whether the runs have a page of their own."""
    return len(results.frame if results.runs.empty else results.runs) > MAX_ON_PAGE


class PlannedRun(NamedTuple):
    """One row: ``folder`` is relative to the report, blank without a study folder; so is
    ``inspection``, the page of the inspect command, blank for a run without one.
    """

    variant: Name
    dataset: str
    shots: int | None
    seed: int | None
    score: float | None
    status: str
    identity: str
    folder: str
    command: str
    inspection: str
    note: str


def _columns(curve: bool, metric: str) -> Columns[PlannedRun]:
    shots: Columns[PlannedRun] = (Column("shots", "Shots", Kind.COUNT, lambda r: r.shots),)
    return (
        Column("variant", "Variant", Kind.NAME, lambda r: r.variant),
        Column("dataset", "Dataset", Kind.TEXT, lambda r: r.dataset),
        *(shots if curve else ()),
        Column("seed", "Seed", Kind.ID, lambda r: r.seed),
        Column("score", metric, Kind.POINTS, lambda r: r.score),
        Column("status", "Status", Kind.TEXT, lambda r: r.status),
        Column(
            "run",
            "Run",
            Kind.CODE,
            lambda r: Linked(r.identity, r.folder) if r.folder else r.identity,
        ),
        Column(
            "inspection",
            "What it learned",
            Kind.CODE,
            lambda r: Linked("inspect", r.inspection) if r.inspection else None,
            optional=True,
        ),
        Column("command", "Command to rerun", Kind.CODE, lambda r: r.command, optional=True),
        Column("note", "Note", Kind.TEXT, lambda r: r.note, optional=True),
    )


def planned_runs(analysis: Analysis) -> Iterator[PlannedRun]:
    """Every planned run; the first one of a variant or a cell bears its id."""
    results, where = analysis.results, anchors(analysis)
    scores, seen = _run_scores(results), set[str]()
    frame = results.runs
    if frame.empty:
        frame = results.frame[["variant", "dataset", "seed"]].assign(
            identity=results.provenance.get("run", ""), status=SCORED, note=""
        )
    for raw in frame.to_dict("records"):
        row: dict[str, Any] = {str(key): value for key, value in raw.items()}
        seed = row["seed"] if isinstance(row["seed"], int) else None
        shots = row["shots"] if isinstance(row.get("shots"), int) else None
        metric = results.primary_metric if shots is None else point(shots)
        ids = (where.variant(row["variant"]), where.cell(row["variant"], row["dataset"]))
        fresh = tuple(i for i in dict.fromkeys(ids) if i not in seen)
        seen |= set(fresh)
        folder, command = _folder_and_command(analysis, str(row["identity"]), row["status"])
        yield PlannedRun(
            variant=Name(row["variant"], ids=fresh),
            dataset=row["dataset"],
            shots=shots,
            seed=seed,
            score=scores.get((row["variant"], row["dataset"], seed, metric)),
            status=row["status"],
            identity=str(row["identity"]),
            folder=folder,
            command=command,
            inspection=_inspection(analysis, str(row["identity"]), folder),
            note=row["note"],
        )


def _run_scores(results: Results) -> Mapping[tuple[str, str, int | None, str], float]:
    """The score of (variant, dataset, seed, metric): the headline's, or those of a curve."""
    frame = results.frame
    keys = [
        (str(v), str(d), None if pd.isna(s) else int(s))
        for v, d, s in zip(frame["variant"], frame["dataset"], frame["seed"], strict=True)
    ]
    return {
        (*key, metric): float(score)
        for metric in results.curve or (results.primary_metric,)
        for key, score in zip(keys, frame[metric], strict=True)
        if not pd.isna(score)
    }


def _folder_and_command(analysis: Analysis, identity: str, status: str) -> tuple[str, str]:
    """The folder of a run as the report sees it, and the command that reruns it."""
    if analysis.folder is None or not identity or status == "missing":
        return "", ""
    folder = os.path.relpath(analysis.folder / identity, analysis.out)
    command = command_line("rerun", analysis.folder, identity)
    return Path(folder).as_posix() + "/", command


def _inspection(analysis: Analysis, identity: str, folder: str) -> str:
    """The page of the inspect command as the report sees it, where the run has one."""
    if analysis.folder is None or not folder:
        return ""
    page = analysis.folder / identity / INSPECTION_NAME / INSPECTION_PAGE
    return f"{folder}{INSPECTION_NAME}/{INSPECTION_PAGE}" if page.is_file() else ""


def _table(analysis: Analysis, *, folded: bool) -> Table:
    results = analysis.results
    metric = "Accuracy" if results.curve else label(results.primary_metric)
    rows, columns = list(planned_runs(analysis)), _columns(bool(results.curve), metric)
    count = counted(len(rows), "run")
    notes = _notes(analysis)
    return table("runs", "Runs", columns, rows, folded=folded, summary=count, notes=notes)


LINK_COLUMNS: Columns[tuple[str, str, str]] = (
    Column("page", "Page", Kind.NAME, lambda link: link[0], Show.PAGE),
    Column("content", "Content", Kind.TEXT, lambda link: Linked(link[1], link[2]), Show.PAGE),
)


def _sections(analysis: Analysis) -> Sequence[Section]:
    """The table of runs, or the link to the page that has it."""
    if not _apart(analysis.results):
        return [Section(key="runs", tables=(_table(analysis, folded=True),))]
    frame = analysis.results.frame if analysis.results.runs.empty else analysis.results.runs
    count = counted(len(frame), "run")
    link = table("link", "Every run", LINK_COLUMNS, [("Runs", count, PAGE)])
    return [Section(key="runs", tables=(link,))]


def runs_page(analysis: Analysis) -> Section | None:
    """The content of the page of runs, None where the report has them itself."""
    if not _apart(analysis.results):
        return None
    back = table("link", "Report", LINK_COLUMNS, [("Report", analysis.results.name, "index.html")])
    return Section(key="runs", tables=(back, _table(analysis, folded=False)))


def _notes(analysis: Analysis) -> list[str]:
    """How to see what one run has learned."""
    if analysis.folder is None:
        return []
    command = command_line("inspect", analysis.folder / "RUN")
    return [f"{command} shows what one run learned: its memory, attention, errors and words."]


TOPIC = Topic(key="runs", build=_sections, show=Show.PAGE)
