"""The report of a study: tables, comparisons, figures and one page, made from records or a CSV
file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.figures.figure import to_files
from analysis.read.load import load_results
from analysis.read.results import Results, with_choices
from analysis.read.settings import SettingTable, differing_settings
from analysis.render.html import render_page
from analysis.render.json_document import document
from analysis.render.latex import report_latex
from analysis.render.markdown import report_markdown
from analysis.render.tidy_table import tidy_frame
from analysis.sections.comparisons import Block, Options, compare_all
from analysis.sections.design import Fact, design_facts
from analysis.sections.evidence import Evidence, evidence, evidence_records
from analysis.sections.further import Further, further_tests, rule_facts
from analysis.sections.further_text import boxes
from analysis.sections.headline import Sentence, headline
from analysis.sections.images import MOST_RUNS, ImagesView, images_view
from analysis.sections.images_text import image_sentences, images_markdown
from analysis.sections.methods_paragraph import MethodsText, methods_text
from analysis.sections.pairwise import Pairwise, all_pairs
from analysis.sections.parts import PartsView, parts_view, variance_text
from analysis.sections.pictures import Gallery, Material, gallery
from analysis.sections.tables import (
    AVERAGE,
    MainTable,
    comparison_brief,
    comparison_records,
    main_records,
    main_table,
    main_text,
    to_csv,
)
from analysis.stats import Resamples
from core.store.atomic import write_atomic

PARTS_REPS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A built report: its numbers and where its files are. ``page`` is the file to open.

    ``pairwise`` has all pairs by metric; ``source`` is the study folder, None for other sources.
    """

    results: Results
    options: Options
    table: MainTable
    blocks: tuple[Block, ...]
    evidence: tuple[Evidence, ...]
    pairwise: Mapping[str, Pairwise]
    further: Further
    images: ImagesView
    parts: PartsView
    gallery: Gallery
    methods: MethodsText
    settings: SettingTable
    headline: tuple[Sentence, ...]
    design: tuple[Fact, ...]
    source: Path | None
    out: Path
    page: Path

    def to_dict(self) -> dict[str, Any]:
        """Everything the report says, JSON-able, see ``document``."""
        return document(self)

    def standing(self, variant: str, metric: str) -> str:
        """The mark of an average: † significantly worse than the best, ≈ practically equal to it,
        "" otherwise, by Holm over all pairs.
        """
        pairs = self.pairwise.get(metric)
        if pairs is None or pairs.best is None:
            return ""
        word = pairs.word(self.results.aliases.get(variant, variant), pairs.variants[pairs.best])
        return {"worse": "†", "equivalent": "≈"}.get(word, "")


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
    image_runs: int = MOST_RUNS,
) -> Report:
    """Build the report of a study folder, a tidy CSV file or loaded results, and write its files
    into ``out``.

    ``baseline``, ``references`` and ``metric`` (of the headline) replace what the source says;
    ``scale`` is for a CSV file, ``allow_mixed`` uses runs of different code versions together.
    ``image_runs`` is the largest number of runs that are compared image by image.
    Files: index.html (one self-contained page), report.md, report.tex, references.bib, report.json,
    results.csv, comparisons.csv, evidence.csv, scores.csv (the runs, in the format that a report
    reads), cost.csv, and with ``figures`` every figure as PNG and PDF.
    All but index.html, cost.csv and the figure of costs depend on scores and images alone. Raises
    ValueError for anything that cannot be read or does not exist.
    """
    options = options or Options()
    loaded = source
    if isinstance(loaded, Path):
        loaded = load_results(loaded, scale=scale, allow_mixed=allow_mixed)
    results = with_choices(loaded, baseline=baseline, references=references, metric=metric)
    folder = source if isinstance(source, Path) and source.is_dir() else None
    images = images_view(results, folder, most=image_runs)
    report = _report(results, images, options, folder, out)
    for name, content in _files(report).items():
        write_atomic(out / name, content)
    if figures:
        for figure in report.gallery.all():
            for ending, raw in to_files(figure).items():
                write_atomic(out / "figures" / f"{figure.name}.{ending}", raw)
    return report


def _report(
    results: Results, images: ImagesView, options: Options, folder: Path | None, out: Path
) -> Report:
    """All numbers of a report; nothing is written."""
    table = main_table(results)
    blocks = compare_all(results, options)
    draws = _resamples(results, options)
    pairwise = {m: all_pairs(results, m, options) for m in results.metrics}
    further = further_tests(results, pairwise[results.primary_metric], options, draws)
    parts = parts_view(results, results.primary_metric, draws, options)
    drawn = gallery(
        Material(
            results=results,
            table=table,
            blocks=blocks,
            pairwise=pairwise[results.primary_metric],
            parts=parts,
            options=options,
        )
    )
    return Report(
        results=results,
        options=options,
        table=table,
        blocks=blocks,
        evidence=tuple(e for b in blocks for e in evidence(results, b, options, draws)),
        pairwise=pairwise,
        further=further,
        images=images,
        parts=parts,
        gallery=drawn,
        methods=_methods(results, blocks, options, drawn, images),
        settings=differing_settings(results, folder),
        headline=(*headline(results, blocks), *image_sentences(images, options.alpha)),
        design=(*design_facts(results, blocks, options), *rule_facts(further)),
        source=folder,
        out=out,
        page=out / "index.html",
    )


def _methods(
    results: Results, blocks: Sequence[Block], options: Options, drawn: Gallery, images: ImagesView
) -> MethodsText:
    """What the methods paragraph says of the boxes that this report has."""
    return methods_text(
        results,
        blocks,
        options,
        attribution="attribution" in drawn.figures,
        profiles="profiles" in drawn.figures,
        images=images.only_test,
    )


def _resamples(results: Results, options: Options) -> Resamples:
    return Resamples.draw(
        len(results.datasets),
        results.num_seeds,
        reps=min(options.reps, PARTS_REPS),
        rng=np.random.default_rng(options.rng_seed),
        shared_seeds=results.shared_seeds,
        overlap=options.overlap,
    )


def _files(report: Report) -> dict[str, str | bytes]:
    results = report.results
    text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    scores = tidy_frame(results)
    files: dict[str, str | bytes] = {
        "report.json": text + "\n",
        "results.csv": to_csv(main_records(report.table)),
        "comparisons.csv": to_csv(comparison_records(report.blocks)),
        "evidence.csv": to_csv(evidence_records(report.evidence)),
        "scores.csv": scores.to_csv(index=False, lineterminator="\n"),
        "report.md": report_markdown(
            results,
            report.table,
            report.blocks,
            boxes(report.further),
            report.headline,
            report.design,
            report.methods,
            report.standing,
            images=images_markdown(report.images, report.options.alpha),
            variance=variance_text(report.parts),
        ),
        "report.tex": report_latex(
            results,
            report.table,
            report.blocks,
            boxes(report.further),
            report.headline,
            report.methods,
            report.gallery.all(),
            report.standing,
        ),
        "references.bib": "\n".join(r.bibtex for r in report.methods.references),
        "index.html": render_page(report),
    }
    if not results.costs.empty:
        files["cost.csv"] = results.costs.round(6).to_csv(index=False, lineterminator="\n")
    return files


def summary_lines(report: Report) -> list[str]:
    """The report for a terminal: headline, averages, comparisons of the primary metric, problems,
    where the page is.
    """
    results = report.results
    first = AVERAGE if AVERAGE in report.table.datasets else report.table.datasets[0]
    shown = None if results.shared_seeds else (first,)  # of targets, one short column each
    lines = [f"Study {results.name}", ""]
    lines += [f"{MARKS.get(s.kind, ' ')} {s.text}" for s in report.headline]
    lines += ["", *main_text(report.table, datasets=shown).to_text().splitlines()]
    for block in report.blocks:
        if block.comparisons[results.primary_metric]:
            table = comparison_brief(block, results.primary_metric)
            lines += ["", *table.to_text().splitlines()]
            remarks = [c for c in block.comparisons[results.primary_metric] if c.reason]
            lines += [f"  {c.variant}: {c.reason}" for c in remarks]
    if results.problems:
        lines += ["", f"Planned cells without a score: {len(results.problems)}"]
        lines += [f"  {p}" for p in results.problems[:10]]
        lines += [f"  and {len(results.problems) - 10} more"] if len(results.problems) > 10 else []
    return [*lines, "", f"Report: {report.page}"]


MARKS: Mapping[str, str] = {
    "better": "+",
    "worse": "-",
    "equivalent": "=",
    "undecided": "?",
    "flag": "⚑",
    "note": "!",
}


def print_report(report: Report, console: Any) -> None:
    """Print the summary to a rich console: wide tables are not wrapped, names are not read as
    markup.
    """
    for line in summary_lines(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
