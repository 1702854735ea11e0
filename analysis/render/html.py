"""The page of a report: one HTML file without scripts, requests or outside files."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from analysis.figures.figure import Figure, to_svg
from analysis.read.integrity import saw_test
from analysis.read.results import Results
from analysis.read.shot_curves import curve_text, point
from analysis.render.page_templates import page_templates
from analysis.sections.comparisons import TESTS, Block
from analysis.sections.further_text import boxes
from analysis.sections.images_text import page_tables
from analysis.sections.pairwise import Pairwise
from analysis.sections.power import plan_rows
from analysis.sections.published_views import published_context
from analysis.sections.tables import AVERAGE, least_text, seeds_text
from analysis.text import HM_OF_MEANS, counted, label, p_text
from core.program import command_line

if TYPE_CHECKING:
    from analysis.report import Report

PACKAGES = ("numpy", "scipy", "statsmodels", "pandas", "matplotlib", "seaborn", "jinja2")
FILES = (
    "report.md",
    "report.tex",
    "references.bib",
    "report.json",
    "results.csv",
    "comparisons.csv",
    "evidence.csv",
    "scores.csv",
)
KIND_NAMES = {
    "full_minus_base": "all on minus all off",
    "shapley": "share (Shapley)",
    "main": "main effect",
    "add_one_in": "alone (add one in)",
    "leave_one_out": "in the whole (leave one out)",
    "interaction": "interaction",
    "level": "level",
}


def render_page(report: "Report") -> str:
    """The page as text."""
    environment = page_templates()
    environment.filters |= {
        "label": label,
        "minus": _minus,
        "typeset": _typeset,
        "share": _share,
        "least": least_text,
    }
    return environment.get_template("index.html").render(**_context(report))


def _context(report: "Report") -> dict[str, Any]:
    results = report.results
    anchors = _Anchors(results)
    return {
        "report": report,
        "results": results,
        "table": report.table,
        "blocks": [_page_block(report, b) for b in report.blocks],
        "average": AVERAGE,
        "hm_of_means": HM_OF_MEANS,
        "seeds": {v: seeds_text(report.table, v) for v in results.variants},
        "planned": {
            v: len(results.planned_seeds) if results.seeded(v) else 1 for v in results.variants
        },
        "tags": {v: _tags(results, v) for v in results.variants},
        "flagged": [v for v in results.variants if _saw_test(results, v)],
        "anchors": anchors,
        "curve": curve_text(results, report.table),
        "figure": _Figures(report),
        "absent": report.gallery.absent,
        "pairs": report.pairwise[results.primary_metric],
        "pairs_line": _omnibus_line(report.pairwise[results.primary_metric]),
        "boxes": boxes(report.further),
        "images": page_tables(report.images, report.options.alpha),
        "kind_names": KIND_NAMES,
        "tests": TESTS,
        "plans": _plans(report),
        "costs": results.costs.to_dict("records"),
        "published": published_context(results),
        "runs": _runs(report, anchors),
        "versions": _versions(),
        "files": [*FILES, *(["cost.csv"] if not results.costs.empty else [])],
    }


class _Figures:
    """Inline figures by name, each drawn when the page asks for it."""

    def __init__(self, report: "Report") -> None:
        self._figures = report.gallery.figures

    def __contains__(self, name: str) -> bool:
        return name in self._figures

    def __getitem__(self, name: str) -> Figure:
        return self._figures[name]

    def svg(self, name: str) -> Markup:
        """A whole figure."""
        return Markup(to_svg(self._figures[name], prefix=f"f-{name}"))

    def panels(self, name: str) -> list[Markup]:
        """A figure as its small panels; the whole where it has none."""
        panels = self._figures[name].panels or (self._figures[name],)
        return [Markup(to_svg(p, prefix=f"p-{name}-{i}")) for i, p in enumerate(panels)]

    def block(self, reference: str) -> list[Markup]:
        """The forest plots against one reference."""
        if "forest" not in self._figures:
            return []
        panels = enumerate(self._figures["forest"].panels)
        chosen = [(i, p) for i, p in panels if p.info.reference == reference]
        return [Markup(to_svg(p, prefix=f"forest-{i}")) for i, p in chosen]


class _Anchors:
    """Where on the page the runs behind a number are."""

    def __init__(self, results: Results) -> None:
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


def _minus(text: str) -> str:
    """Typographic minus signs for a page."""
    return text.replace("-", "−")


def _share(value: float | None) -> str:
    """A probability with two decimals, "-" for None."""
    return "-" if value is None else f"{value:.2f}"


def _typeset(text: str) -> str:
    """Typographic minus signs before numbers, and no line break inside an interval or a p.

    Names keep their hyphens.
    """
    text = re.sub(r"(?<=[ \[])-(?=\d)", "−", text)
    text = re.sub(r"(\[[^\[\], ]+,) (?=[^\[\], ]+\])", "\\1\u00a0", text)
    return re.sub(r"p ([<=]) (?=\d)", "p\u00a0\\1\u00a0", text)


def _page_block(report: "Report", block: Block) -> dict[str, Any]:
    """What the page shows of one block: forest plots, evidence, and one table a metric, the primary
    one first.
    """
    results = report.results
    metrics = [
        results.primary_metric,
        *(m for m in block.comparisons if m != results.primary_metric),
    ]
    return {
        "reference": block.reference,
        "evidence": [e for e in report.evidence if e.comparison.reference == block.reference],
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


def _saw_test(results: Results, variant: str) -> bool:
    setting = results.settings.get(variant)
    return setting is not None and saw_test(setting.selection)


def _tags(results: Results, variant: str) -> list[str]:
    tags = ["baseline"] if variant == results.baseline else []
    tags += ["reference"] if variant in results.references else []
    tags += [results.inert[variant]] if variant in results.inert else []
    tags += ["batch-coupled"] if variant in results.batch_coupled else []
    tags += [] if results.seeded(variant) or not results.planned_seeds else ["no randomness"]
    if reason := results.not_comparable(variant, results.baseline):
        tags.append(f"not ranked: {reason}")
    return tags


def _omnibus_line(pairs: Pairwise) -> str:
    """Friedman's test in a sentence, or why there is none."""
    found = pairs.omnibus
    if found.p is None or found.kendall_w is None:
        return f"No omnibus test: {found.reason or 'nothing to compare'}."
    statistic = "F is infinite" if found.f is None else f"F = {found.f:.2f}"
    p = p_text(found.p)
    p = f"< {p[1:]}" if p.startswith("<") else f"= {p}"
    return (
        f"Do the variants differ at all? Iman-Davenport {statistic}, p {p}, Kendall's W = "
        f"{found.kendall_w:.2f} over {counted(found.n, 'complete dataset')}."
    )


def _plans(report: "Report") -> list[dict[str, Any]]:
    """The power box: one line a comparison with the baseline, and the whole plan of the first."""
    found = []
    for e in report.evidence:
        rows = plan_rows(e.plan) if e.plan is not None else []
        found.append({"c": e.comparison, "plan": e.plan, "rows": rows, "reason": e.plan_reason})
    return found


def _runs(report: "Report", anchors: _Anchors) -> list[dict[str, Any]]:
    """Every planned run with its score, its folder and the command that makes it again."""
    results = report.results
    scores = _run_scores(results)
    frame = results.runs
    if frame.empty:
        frame = results.frame[["variant", "dataset", "seed"]].assign(
            identity=results.provenance.get("run", ""), status="scored", note=""
        )
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for raw in frame.to_dict("records"):
        row = {str(key): value for key, value in raw.items()}
        seed = row["seed"] if isinstance(row["seed"], int) else None
        shots = row["shots"] if isinstance(row.get("shots"), int) else None
        metric = results.primary_metric if shots is None else point(shots)
        ids = (anchors.variant(row["variant"]), anchors.cell(row["variant"], row["dataset"]))
        fresh = [i for i in dict.fromkeys(ids) if i not in seen]
        seen |= set(fresh)
        rows.append(
            {
                **row,
                "ids": fresh,
                "seed": "-" if seed is None else str(seed),
                "shots": shots,
                "score": scores.get((row["variant"], row["dataset"], seed, metric)),
                **_whereabouts(report, row),
            }
        )
    return rows


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


def _whereabouts(report: "Report", row: Mapping[str, Any]) -> dict[str, str]:
    if report.source is None:
        return {"link": "", "rerun": ""}
    identity = str(row["identity"])
    rerun = command_line("rerun", report.source, identity)
    if row["status"] == "missing":
        return {"link": "", "rerun": ""}
    folder = os.path.relpath(report.source / identity, report.out)
    return {"link": Path(folder).as_posix() + "/", "rerun": rerun}


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions}
