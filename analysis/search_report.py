"""The report of a search: one page and its JSON document. ``CHAPTERS`` is the order of the page."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.read.results import with_choices
from analysis.read.search_trials import SearchData, read_search
from analysis.read.study_folder import load_study
from analysis.render.html import render_page
from analysis.render.json_document import document, json_text, schema
from analysis.sections import search as topics
from analysis.sections.analysis import Options
from analysis.sections.comparisons import Comparison, compare_all
from analysis.sections.search import SearchAnalysis
from analysis.sections.section import Chapter, Header, Section, Sentence, left_out
from analysis.text import Show, counted, terms
from core.store.atomic import write_atomic
from core.store.search import CONTROL, DEFAULT, TUNED

SCHEMA_VERSION = 2

CHAPTERS: tuple[Chapter[SearchAnalysis], ...] = (
    Chapter(key="headline", title="", topics=(topics.HEADLINE,)),
    Chapter(
        key="judgment",
        title="Search-time and test values",
        nav="Judgment",
        topics=(topics.JUDGMENT, topics.COMPARISONS),
    ),
    Chapter(key="winner", title="Winner", topics=(topics.WINNER,)),
    Chapter(
        key="course",
        title="Progress",
        topics=(topics.HISTORY, topics.BUDGET, topics.FRONT),
        side_by_side=True,
    ),
    Chapter(
        key="settings",
        title="Settings",
        question="Where did the sampler look, and what did it find there?",
        topics=(topics.PARALLEL, topics.SLICES),
        detail=True,
    ),
    Chapter(
        key="importances",
        title="Importances",
        question="Which settings moved the objective?",
        topics=(topics.IMPORTANCES,),
        detail=True,
    ),
    Chapter(
        key="trials",
        title="Trials",
        question="Every trial with its settings.",
        topics=(topics.TRIALS,),
        detail=True,
    ),
    Chapter(
        key="definition",
        title="Definition",
        question="What determines the trials, and what was left out?",
        topics=(topics.DEFINITION,),
        detail=True,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReport:
    """A built report: what it says, and ``page``, the file to open."""

    analysis: SearchAnalysis
    header: Header
    chapters: tuple[Chapter[SearchAnalysis], ...]
    page: Path

    @property
    def findings(self) -> tuple[Sentence, ...]:
        """What the search found."""
        return self.chapters[0].sections[0].sentences

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The comparisons on fresh seeds."""
        return self.analysis.comparisons

    def to_dict(self) -> dict[str, Any]:
        """What the report says, as JSON values, without paths and times."""
        return document(self.header, self.chapters)


def build_search_report(
    folder: Path,
    *,
    out: Path | None = None,
    options: Options | None = None,
    allow_mixed: bool = False,
) -> SearchReport:
    """Build the report of a search folder into ``out``: index.html, one self-contained page, and
    report.json.

    A search that has not been judged yet has no sentence about test images. Raises ValueError for a
    folder that cannot be read.
    """
    search = read_search(folder)
    out = out or folder / "report"
    found = _comparisons(search, options or Options(), allow_mixed)
    chosen = options or Options()
    analysis = SearchAnalysis(search=search, comparisons=found, rope=chosen.rope)
    report = SearchReport(
        analysis=analysis,
        header=_header(search),
        chapters=_chapters(analysis),
        page=out / "index.html",
    )
    write_atomic(out / "report.json", json_text(report.to_dict()))
    write_atomic(out / "report.schema.json", json_text(search_report_schema()))
    write_atomic(report.page, render_page(report.header, report.chapters))
    return report


def _chapters(analysis: SearchAnalysis) -> tuple[Chapter[SearchAnalysis], ...]:
    """All chapters; what does not apply is named below the definition, and nowhere else."""
    built = [chapter.built(analysis) for chapter in CHAPTERS]
    absent = terms("not_applicable", "Left out, and why", left_out(built))
    title = "Left out, and why"
    names = Section(key="not_applicable", title=title, tables=(absent,), show=Show.WIDE)
    last = replace(built[-1], sections=(*built[-1].sections, names))
    return (*built[:-1], last)


def _header(search: SearchData) -> Header:
    definition = search.definition
    counts = (
        counted(len(search.trials), "trial"),
        counted(len(definition["datasets"]), "dataset"),
        counted(len(definition["seeds"]), "seed"),
    )
    return Header(
        title=search.name,
        product="RefineLab search",
        lead=f"{', '.join(counts)}. Sampler: {definition['sampler']}. Objectives: "
        f"{', '.join(search.objectives)}.",
        question="Did tuning pay, and would it have paid elsewhere?",
        identity={
            "schema_version": SCHEMA_VERSION,
            "study": search.name,
            "objectives": list(search.objectives),
            "result": search.result,
            "importances": search.importances,
        },
        closing="Generated by RefineLab from the ledger of the search and the records of its runs.",
    )


def search_report_schema() -> dict[str, Any]:
    """The JSON schema of a search's report.json."""
    text, data = {"type": "string"}, {"type": ["object", "null"]}
    identity = {
        "schema_version": {"const": SCHEMA_VERSION},
        "study": text,
        "objectives": {"type": "array", "items": text},
        "result": {
            **data,
            "description": "result.json of the search; null until the search is judged",
        },
        "importances": {**data, "description": "importances.json of the search"},
    }
    return schema(CHAPTERS, identity)


def report_search(
    folder: Path,
    out: Path | None,
    json_file: Path | None,
    options: Options,
    *,
    allow_mixed: bool = False,
) -> None:
    """Build the report of a search, print its findings, and say which page to open."""
    report = build_search_report(folder, out=out, options=options, allow_mixed=allow_mixed)
    if json_file is not None:
        write_atomic(json_file, json_text(report.to_dict()))
    for finding in report.findings:
        print(f"* {finding.text}")
    print(f"page: {report.page}")


def _comparisons(search: SearchData, options: Options, allow_mixed: bool) -> tuple[Comparison, ...]:
    """The winner against the default, the control against it, and the winner against the control,
    on the metric that the first objective stands for.
    """
    if search.result is None:
        return ()
    final_dir = search.folder.parent / search.result["final_study"]
    study = load_study(final_dir, allow_mixed=allow_mixed)
    metric = search.result["test_metrics"][0]
    against = [name for name in (CONTROL,) if name in study.variants]
    results = with_choices(study, baseline=DEFAULT, references=against, metric=metric)
    blocks = {block.reference: block.comparisons[metric] for block in compare_all(results, options)}
    wanted = [(TUNED, DEFAULT), (CONTROL, DEFAULT), (TUNED, CONTROL)]
    return tuple(
        found
        for variant, reference in wanted
        for found in blocks.get(reference, ())
        if found.variant == variant
    )
