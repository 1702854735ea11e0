"""The report of a study: tables, comparisons, figures and one page, made from records or a CSV
file.
"""

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import plots
from analysis.compare import HM_OF_MEANS, Block, Options, compare_all
from analysis.design import Fact, design_facts
from analysis.frames import load, seen_from
from analysis.headline import Sentence, headline
from analysis.markdown import report_markdown
from analysis.results import Results
from analysis.tables import (
    AVERAGE,
    MainTable,
    comparison_brief,
    comparison_records,
    counted,
    interval_text,
    label,
    main_records,
    main_table,
    main_text,
    p_text,
    points,
    seeds_text,
    to_csv,
)
from core.records import write_atomic

SCHEMA_VERSION = 1
PACKAGES = ("numpy", "scipy", "statsmodels", "pandas", "matplotlib", "seaborn", "jinja2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A built report: its numbers and where its files are. ``page`` is the file to open."""

    results: Results
    options: Options
    table: MainTable
    blocks: tuple[Block, ...]
    headline: tuple[Sentence, ...]
    design: tuple[Fact, ...]
    out: Path
    page: Path

    def to_dict(self) -> dict[str, Any]:
        """Everything the report says, JSON-able, without costs, versions, paths or times.

        Equal records give equal bytes, whatever order or machine they came from.
        """
        results = self.results
        return {
            "schema_version": SCHEMA_VERSION,
            "study": results.name,
            "baseline": results.baseline,
            "references": list(results.references),
            "primary_metric": results.primary_metric,
            "options": {
                "alpha": self.options.alpha,
                "reps": self.options.reps,
                "rng_seed": self.options.rng_seed,
            },
            "headline": [{"kind": s.kind, "text": s.text} for s in self.headline],
            "design": {fact.term: fact.text for fact in self.design},
            "results": main_records(self.table),
            "comparisons": comparison_records(self.blocks),
            "problems": [
                {
                    "kind": p.kind,
                    "variant": p.variant,
                    "dataset": p.dataset,
                    "seed": p.seed,
                    "detail": p.detail,
                }
                for p in results.problems
            ],
            "inert": dict(results.inert),
            "batch_coupled": list(results.batch_coupled),
            "notes": list(results.notes),
        }


def build_report(
    source: Results | Path,
    *,
    out: Path,
    baseline: str | None = None,
    references: Sequence[str] | None = None,
    metric: str | None = None,
    scale: str = "auto",
    options: Options | None = None,
) -> Report:
    """Build the report of a study folder, a tidy CSV file or loaded results, and write its files
    into ``out``.

    ``baseline``, ``references`` and ``metric`` (of the headline) replace what the source says;
    ``scale`` is for a CSV file. Files: index.html (one self-contained page), report.md,
    results.csv, comparisons.csv, scores.csv (the runs, in the format that a report reads),
    report.json, forest.png, cost.csv. All but index.html and cost.csv depend on the scores alone.
    Raises ValueError for anything that cannot be read or does not exist.
    """
    options = options or Options()
    loaded = load(source, scale=scale) if isinstance(source, Path) else source
    results = seen_from(loaded, baseline=baseline, references=references, metric=metric)
    table = main_table(results)
    blocks = compare_all(results, options)
    report = Report(
        results=results,
        options=options,
        table=table,
        blocks=blocks,
        headline=headline(results, blocks),
        design=design_facts(results, blocks, options),
        out=out,
        page=out / "index.html",
    )
    folder = source if isinstance(source, Path) and source.is_dir() else None
    for name, content in _files(report, folder).items():
        write_atomic(out / name, content)
    return report


def _files(report: Report, study_dir: Path | None) -> dict[str, str | bytes]:
    results = report.results
    text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    scores = results.frame[["variant", "dataset", "seed", *results.metrics]].round(9)
    files: dict[str, str | bytes] = {
        "report.json": text + "\n",
        "results.csv": to_csv(main_records(report.table)),
        "comparisons.csv": to_csv(comparison_records(report.blocks)),
        "scores.csv": scores.to_csv(index=False, lineterminator="\n"),
        "report.md": report_markdown(
            results, report.table, report.blocks, report.headline, report.design
        ),
        "index.html": _page(report, study_dir),
    }
    if not results.costs.empty:
        files["cost.csv"] = results.costs.round(6).to_csv(index=False, lineterminator="\n")
    if picture := plots.forest_png(report.blocks, _panels(results)):
        files["forest.png"] = picture
    return files


def _panels(results: Results) -> tuple[str, ...]:
    """Metrics that get a forest plot: all three of base-to-new, otherwise at most four."""
    return results.metrics[:4]


def _page(report: Report, study_dir: Path | None) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "points": points,
        "p": p_text,
        "interval": interval_text,
        "label": label,
        "minus": _minus,
        "typeset": _typeset,
        "counted": counted,
    }
    results = report.results
    return environment.get_template("index.html").render(
        report=report,
        results=results,
        table=report.table,
        blocks=[_page_block(results, b, index) for index, b in enumerate(report.blocks)],
        average=AVERAGE,
        hm_of_means=HM_OF_MEANS,
        seeds={v: seeds_text(report.table, v) for v in results.variants},
        planned={
            v: len(results.planned_seeds) if results.seeded(v) else 1 for v in results.variants
        },
        tags={v: _tags(results, v) for v in results.variants},
        plane=Markup(plots.plane_svg(results, report.table, prefix="plane")),
        forest_caption=plots.FOREST_CAPTION,
        costs=results.costs.to_dict("records"),
        runs=_runs(results, study_dir, report.out),
        versions=_versions(),
        files=["report.md", "results.csv", "comparisons.csv", "scores.csv", "report.json"],
    )


def _minus(text: str) -> str:
    """Typographic minus signs for a page."""
    return text.replace("-", "−")


def _typeset(text: str) -> str:
    """Typographic minus signs before numbers, and no line break inside an interval or a p.

    Names keep their hyphens.
    """
    text = re.sub(r"(?<=[ \[])-(?=\d)", "−", text)
    text = re.sub(r"(\[[^\[\], ]+,) (?=[^\[\], ]+\])", "\\1\u00a0", text)
    return re.sub(r"p ([<=]) (?=\d)", "p\u00a0\\1\u00a0", text)


def _page_block(results: Results, block: Block, index: int) -> dict[str, Any]:
    """What the page shows of one block: forest plots and one table a metric, the primary one
    first.
    """
    metrics = [
        results.primary_metric,
        *(m for m in block.comparisons if m != results.primary_metric),
    ]
    return {
        "reference": block.reference,
        "forests": [
            Markup(plots.forest_svg(block, m, prefix=f"f{index}{i}"))
            for i, m in enumerate(_panels(results))
            if any(c.difference is not None for c in block.comparisons[m])
        ],
        "families": [
            {
                "metric": m,
                "rows": [
                    (c, _changes(results, c.variant, c.reference)) for c in block.comparisons[m]
                ],
                "primary": block.primary[m].reason if m in block.primary else "",
            }
            for m in metrics
        ],
    }


def _changes(results: Results, variant: str, reference: str) -> list[str]:
    """The factors that differ where they are one or two, otherwise how many they are."""
    changes = results.what_differs(variant, reference)
    if len(changes) > 2:
        return [f"differs in {len(changes)} factors"]
    return [f"{name}: {old} → {new}" for name, old, new in changes]


def _tags(results: Results, variant: str) -> list[str]:
    tags = ["baseline"] if variant == results.baseline else []
    tags += ["reference"] if variant in results.references else []
    tags += [results.inert[variant]] if variant in results.inert else []
    tags += ["batch-coupled"] if variant in results.batch_coupled else []
    tags += [] if results.seeded(variant) or not results.planned_seeds else ["no randomness"]
    if reason := results.not_comparable(variant, results.baseline):
        tags.append(f"not ranked: {reason}")
    return tags


def _runs(results: Results, study_dir: Path | None, out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for raw in results.runs.to_dict("records"):
        row = {str(key): value for key, value in raw.items()}
        link = ""
        if study_dir is not None and row["status"] != "missing":
            folder = os.path.relpath(study_dir / str(row["identity"]), out)
            link = Path(folder).as_posix() + "/"
        rows.append({**row, "seed": _seed_text(row["seed"]), "link": link})
    return rows


def _seed_text(value: object) -> str:
    """A seed as text, "-" for a run without one."""
    return str(value) if isinstance(value, int) else "-"


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions}


def summary_lines(report: Report) -> list[str]:
    """The report for a terminal: headline, averages, comparisons of the primary metric, problems,
    where the page is.
    """
    results = report.results
    first = AVERAGE if AVERAGE in report.table.datasets else report.table.datasets[0]
    lines = [f"Study {results.name}", ""]
    lines += [f"{MARKS.get(s.kind, ' ')} {s.text}" for s in report.headline]
    lines += ["", *main_text(report.table, datasets=(first,)).to_text().splitlines()]
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


MARKS: Mapping[str, str] = {"better": "+", "worse": "-", "undecided": "?", "note": "!"}


def print_report(report: Report, console: Any) -> None:
    """Print the summary to a rich console: wide tables are not wrapped, names are not read as
    markup.
    """
    for line in summary_lines(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
