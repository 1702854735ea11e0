"""The report of a study: one page, tables, figures and data, from records or a CSV file.

``CHAPTERS`` is the order of the report. Each topic is a file of ``analysis/sections``, each format
one of ``analysis/render``.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.figures.drawing import to_files
from analysis.figures.figure import Figure
from analysis.read.csv_text import spreadsheet_text
from analysis.read.load import load_results
from analysis.read.results import Results, with_choices
from analysis.render.html import render_page
from analysis.render.json_document import document, json_text, schema
from analysis.render.latex import report_latex
from analysis.render.markdown import report_markdown
from analysis.render.scores_table import csv_text, scores_frame
from analysis.render.terminal import print_lines, report_lines
from analysis.sections import (
    base_to_new,
    calibration,
    classes,
    comparisons,
    confusions,
    conover,
    costs,
    design,
    devices,
    differences,
    evidence,
    headline,
    images,
    methods_paragraph,
    mixed_model,
    overlapping_resamples,
    pairwise,
    parts,
    power,
    problems,
    profiles,
    published,
    rank_stability,
    results,
    runs,
    settings,
    shared_tests,
    shot_curves,
    shot_trends,
    training,
    versions,
)
from analysis.sections.analysis import MAX_IMAGE_RUNS, Analysis, Options
from analysis.sections.answers import rows_of
from analysis.sections.headline import question
from analysis.sections.section import Chapter, Header, Section, cited, left_out
from analysis.text import Show, counted, records, terms
from core.store.atomic import write_atomic
from core.store.collector import many_objects
from core.store.manifest import has_manifest

SCHEMA_VERSION = 3

CHAPTERS: tuple[Chapter[Analysis], ...] = (
    Chapter(key="headline", title="", topics=(headline.TOPIC, headline.REMARKS)),
    Chapter(key="results", title="Results", topics=(results.TOPIC, shot_curves.TOPIC)),
    Chapter(
        key="where",
        title="Where the differences are",
        topics=(differences.BY_DATASET, base_to_new.TOPIC),
        side_by_side=True,
    ),
    Chapter(
        key="parts",
        title="What each part is worth",
        nav="Parts",
        topics=(parts.ATTRIBUTION, parts.LEVELS, parts.INTERACTIONS),
    ),
    Chapter(key="cost", title="Cost", topics=(costs.TOPIC,)),
    Chapter(
        key="design",
        title="Design",
        question="What was run, by which rules was it judged, and what was left out?",
        topics=(design.TOPIC, design.NOTES, devices.TOPIC),
        detail=True,
    ),
    Chapter(
        key="problems",
        title="Cells without a score",
        question="Which planned runs are missing, and why?",
        topics=(problems.TOPIC,),
        detail=True,
    ),
    Chapter(
        key="comparisons",
        title="Comparisons",
        question="Every variant against every reference, on every metric, with all tests.",
        topics=(comparisons.TOPIC, evidence.TOPIC),
        detail=True,
    ),
    Chapter(
        key="pairs",
        title="All pairs",
        question="How does each variant stand to each other one?",
        topics=(pairwise.TOPIC, pairwise.DIFFERENCES),
        detail=True,
    ),
    Chapter(
        key="power",
        title="Power",
        question="Was the study large enough to see a difference?",
        topics=(power.TOPIC,),
        detail=True,
    ),
    Chapter(
        key="spread",
        title="Every run",
        question="Does a single seed or dataset drive the result?",
        topics=(differences.BY_RUN, profiles.TOPIC, parts.VARIANCE),
        detail=True,
    ),
    Chapter(
        key="further",
        title="Further tests",
        question="Would another analysis say the same?",
        topics=(
            shared_tests.TOPIC,
            mixed_model.TOPIC,
            conover.TOPIC,
            rank_stability.TOPIC,
            shot_trends.RISE,
            shot_trends.ADVANTAGE,
            overlapping_resamples.TOPIC,
        ),
        detail=True,
    ),
    Chapter(
        key="images",
        title="Image by image",
        question="Which of two trained models is correct on more of the same images?",
        topics=(images.TOPIC,),
        detail=True,
    ),
    Chapter(
        key="classes",
        title="Class by class",
        question="Which classes gained and lost most, and which are confused less?",
        topics=(classes.TOPIC, confusions.TOPIC),
        detail=True,
    ),
    Chapter(
        key="calibration",
        title="Calibration",
        question="Can the confidence of a prediction be believed?",
        topics=(calibration.TOPIC,),
        detail=True,
    ),
    Chapter(
        key="training",
        title="Training curves",
        question="Was training long enough, and did a seed go astray?",
        topics=(training.TOPIC,),
        detail=True,
    ),
    Chapter(
        key="settings",
        title="Settings that differ",
        question="In what do the variants differ?",
        topics=(settings.TOPIC,),
        detail=True,
    ),
    Chapter(
        key="published",
        title="Published context",
        question="What do papers report on these datasets?",
        topics=(published.TOPIC,),
        detail=True,
    ),
    Chapter(
        key="methods",
        title="Methods paragraph for a paper",
        question="What was done, in words that can be copied, with references.",
        topics=(methods_paragraph.TOPIC,),
        detail=True,
    ),
    Chapter(
        key="runs",
        title="Runs",
        question="Every run, with its folder and the command that repeats it.",
        topics=(runs.TOPIC,),
        detail=True,
    ),
    Chapter(
        key="versions",
        title="Versions",
        question="With which software was it run?",
        topics=(versions.TOPIC,),
        detail=True,
    ),
)

FILES = (
    "report.md",
    "report.tex",
    "references.bib",
    "report.json",
    "report.schema.json",
    "results.csv",
    "comparisons.csv",
    "evidence.csv",
    "scores.csv",
)
NOT_IN_EVIDENCE = ("spread_between", "spread_seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A built report: what it says and where its files are. ``page`` is the file to open."""

    analysis: Analysis
    header: Header
    chapters: tuple[Chapter[Analysis], ...]
    out: Path
    page: Path

    @property
    def results(self) -> Results:
        """The results that the report is about."""
        return self.analysis.results

    @property
    def sections(self) -> list[Section]:
        """All sections in the order of the page, those that do not apply among them."""
        return [section for chapter in self.chapters for section in chapter.sections]

    @property
    def figures(self) -> dict[str, Figure]:
        """All figures by the names of their files, in the order of the page."""
        return {figure.name: figure for s in self.sections for figure in s.figures}

    def section(self, key: str) -> Section:
        """The first section of a topic."""
        return next(section for section in self.sections if section.key == key)

    def to_dict(self) -> dict[str, Any]:
        """Everything the report says, as JSON values, see ``document``."""
        return document(self.header, self.chapters)


def build_report(
    source: Results | Path,
    *,
    out: Path,
    baseline: str | None = None,
    references: Sequence[str] | None = None,
    metric: str | None = None,
    scale: str = "auto",
    options: Options | None = None,
    figures: bool = True,
    allow_mixed: bool = False,
    image_runs: int = MAX_IMAGE_RUNS,
    folder: Path | None = None,
) -> Report:
    """Build the report of a study folder, a tidy CSV file or loaded results, and write its files
    into ``out``.

    ``baseline``, ``references`` and ``metric`` (of the headline) replace what the source says;
    ``scale`` is for a CSV file, ``allow_mixed`` uses runs of different code versions together.
    ``image_runs`` is the largest number of runs that are compared image by image; ``folder`` is the
    study folder that loaded results are from.
    Files: index.html (one self-contained page), report.md, report.tex, references.bib, report.json,
    results.csv, comparisons.csv, evidence.csv, scores.csv (the runs, in the format that a report
    reads), cost.csv, and with ``figures`` every figure as PNG and PDF.
    All but index.html, cost.csv and the figure of costs depend on scores and images alone. Raises
    ValueError for anything that cannot be read or does not exist.
    """
    loaded = source
    if isinstance(loaded, Path):
        folder = loaded if has_manifest(loaded) else None
        loaded = load_results(loaded, scale=scale, allow_mixed=allow_mixed)
    analysis = Analysis(
        results=with_choices(loaded, baseline=baseline, references=references, metric=metric),
        options=options or Options(),
        folder=folder,
        out=out,
        image_runs=image_runs,
    )
    with many_objects():
        report = Report(
            analysis=analysis,
            header=_header(analysis, figures),
            chapters=_chapters(analysis),
            out=out,
            page=out / "index.html",
        )
        files = _files(report)
    (out / runs.PAGE).unlink(missing_ok=True)
    for name, content in files.items():
        write_atomic(out / name, content)
    if figures:
        for figure in report.figures.values():
            for ending, raw in to_files(figure).items():
                write_atomic(out / "figures" / f"{figure.name}.{ending}", raw)
    return report


def _chapters(analysis: Analysis) -> tuple[Chapter[Analysis], ...]:
    """All chapters; what does not apply is named in the design chapter, and nowhere else."""
    built = [chapter.built(analysis) for chapter in CHAPTERS]
    absent = terms("not_applicable", "Left out, and why", left_out(built))
    names = Section(
        key="not_applicable", title="Left out, and why", tables=(absent,), show=Show.WIDE
    )
    return tuple(
        replace(chapter, sections=(*chapter.sections, names))
        if chapter.key == "design"
        else chapter
        for chapter in built
    )


def _header(analysis: Analysis, figures: bool) -> Header:
    found = analysis.results
    counts = (
        counted(len(found.variants), "variant"),
        counted(len(found.datasets), "dataset"),
        counted(len(found.planned_seeds) or 1, "seed"),
    )
    return Header(
        title=found.name,
        product="RefineLab report",
        lead=f"{', '.join(counts)}. Baseline: {found.baseline}.",
        question=question(found, rows_of(analysis)),
        identity={
            "schema_version": SCHEMA_VERSION,
            "study": found.name,
            "baseline": found.baseline,
            "references": list(found.references),
            "primary_metric": found.primary_metric,
            "options": asdict(analysis.options),
        },
        closing="The folder figures holds every figure as PNG and PDF." if figures else "",
        links=(*FILES, *(() if found.costs.empty else ("cost.csv",))),
    )


def report_schema() -> dict[str, Any]:
    """The JSON schema of report.json."""
    text, number = {"type": "string"}, {"type": "number"}
    ratio = "test images per training image of overlapping resamples; null without overlap"
    options = {
        "alpha": number,
        "reps": {"type": "integer"},
        "rng_seed": {"type": "integer"},
        "rope": number,
        "overlap": {"type": ["number", "null"], "description": ratio},
        "adjusted_intervals": {"type": "boolean"},
    }
    identity = {
        "schema_version": {"const": SCHEMA_VERSION},
        "study": text,
        "baseline": text,
        "references": {"type": "array", "items": text},
        "primary_metric": text,
        "options": {"type": "object", "properties": options, "required": list(options)},
    }
    return schema(CHAPTERS, identity)


def _files(report: Report) -> dict[str, str | bytes]:
    found, header, chapters = report.results, report.header, report.chapters
    names = (*found.variants, *found.datasets)
    files: dict[str, str | bytes] = {
        "report.json": json_text(report.to_dict()),
        "report.schema.json": json.dumps(report_schema(), indent=1) + "\n",
        "results.csv": _csv(_rows(report, "results", "results")),
        "comparisons.csv": _csv(_comparison_rows(report)),
        "evidence.csv": _csv(_evidence_rows(report)),
        "scores.csv": csv_text(scores_frame(found)),
        "report.md": report_markdown(header, chapters),
        "report.tex": report_latex(header, chapters, names),
        "references.bib": "\n".join(work.bibtex for work in cited(chapters)),
        "index.html": render_page(header, chapters),
    }
    if (every_run := runs.runs_page(report.analysis)) is not None:
        chapter: Chapter[Analysis] = Chapter(
            key="runs", title="Runs", topics=(), sections=(every_run,)
        )
        files[runs.PAGE] = render_page(replace(header, question="", links=()), (chapter,))
    if not found.costs.empty:
        files["cost.csv"] = csv_text(found.costs.round(6))
    return files


def _rows(report: Report, section: str, table: str) -> list[dict[str, Any]]:
    """The records of all tables of one key."""
    return [
        row
        for s in report.sections
        if s.key == section
        for t in s.tables
        if t.key == table
        for row in records(t)
    ]


def _comparison_rows(report: Report) -> list[dict[str, Any]]:
    """All comparisons, by reference and metric as the results have them."""
    order = {metric: i for i, metric in enumerate(report.results.metrics)}
    rows = _rows(report, "comparisons", "comparisons")
    names = list(dict.fromkeys(row["reference"] for row in rows))
    return sorted(
        rows, key=lambda row: (names.index(row["reference"]), order.get(row["metric"], len(order)))
    )


def _evidence_rows(report: Report) -> list[dict[str, Any]]:
    """The evidence of every comparison, with the power of the design."""
    found, power_rows = _rows(report, "evidence", "evidence"), _rows(report, "power", "power")
    return [
        row | {name: value for name, value in planned.items() if name not in NOT_IN_EVIDENCE}
        for row, planned in zip(found, power_rows, strict=True)
    ]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV text with a header; None is an empty field, a list its entries."""
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {k: "; ".join(v) if isinstance(v, list) else v for k, v in row.items()}
        writer.writerow(
            {k: spreadsheet_text(v) if isinstance(v, str) else v for k, v in cells.items()}
        )
    return buffer.getvalue()


def summary_lines(report: Report) -> list[str]:
    """The report for a terminal."""
    return report_lines(report.header, report.chapters, report.page)


def print_report(report: Report, console: Console) -> None:
    """Print the summary to a rich console."""
    print_lines(summary_lines(report), console)
