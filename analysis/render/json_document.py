"""The report as one JSON document: every number of the page, fractions, in a documented schema.

The schema is ``templates/report.schema.json``. Costs, times, paths and versions of packages are
left out, except in the figure about costs, so that equal scores give equal bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.sections.evidence import evidence_records
from analysis.sections.further_records import further_record
from analysis.sections.images_text import image_record
from analysis.sections.pairwise import Pairwise
from analysis.sections.parts import effect_record
from analysis.sections.tables import comparison_records, main_records
from analysis.stats import VarianceShares
from analysis.text import rounded, rounded_p

if TYPE_CHECKING:
    from analysis.report import Report

SCHEMA_VERSION = 2
SCHEMA_PATH = Path(__file__).parent / "templates" / "report.schema.json"
WITH_COSTS = ("cost",)


def schema() -> dict[str, Any]:
    """The JSON schema of the document."""
    found: dict[str, Any] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return found


def document(report: "Report") -> dict[str, Any]:
    """Everything the report says, JSON-able.

    Equal records give equal bytes, whatever order or machine they came from.
    """
    results = report.results
    return {
        "schema_version": SCHEMA_VERSION,
        "study": results.name,
        "baseline": results.baseline,
        "references": list(results.references),
        "primary_metric": results.primary_metric,
        "options": asdict(report.options),
        "headline": [{"kind": s.kind, "text": s.text} for s in report.headline],
        "design": {fact.term: fact.text for fact in report.design},
        "results": main_records(report.table),
        "comparisons": comparison_records(report.blocks),
        "evidence": evidence_records(report.evidence),
        "pairwise": {m: _pairwise(p) for m, p in report.pairwise.items()},
        "further": further_record(report.further),
        "images": image_record(report.images),
        "parts": _parts(report),
        "figures": {
            name: figure.values
            for name, figure in report.gallery.figures.items()
            if name not in WITH_COSTS
        },
        "figures_absent": dict(report.gallery.absent),
        "methods": {
            "paragraph": report.methods.paragraph,
            "references": [r.text for r in report.methods.references],
        },
        "problems": [asdict(problem) for problem in results.problems],
        "inert": dict(results.inert),
        "batch_coupled": list(results.batch_coupled),
        "notes": list(results.notes),
    }


def _pairwise(found: Pairwise) -> dict[str, Any]:
    omnibus = found.omnibus
    return {
        "variants": list(found.variants),
        "difference": _matrix(found.difference_VV),
        "holm_p": _matrix(found.p_VV),
        "verdicts": [list(row) for row in found.words_VV],
        "left_out": dict(found.left_out),
        "omnibus": {
            "datasets": omnibus.n,
            "mean_ranks": [rounded(r) for r in omnibus.mean_ranks],
            "friedman_chi2": rounded(omnibus.chi2),
            "iman_davenport_f": rounded(omnibus.f),
            "p": rounded_p(omnibus.p),
            "kendall_w": rounded(omnibus.kendall_w),
            "reason": omnibus.reason,
        },
    }


def _matrix(values: "np.ndarray[Any, Any]") -> list[list[float | None]]:
    return [[rounded(float(v)) if np.isfinite(v) else None for v in row] for row in values]


def _parts(report: "Report") -> Mapping[str, Any]:
    view = report.parts
    found: dict[str, Any] = {
        "reason": view.reason,
        "outside": list(view.outside),
        "levels": [effect_record(e) for e in view.levels],
    }
    if view.attribution is None:
        names = ("effects", "refused", "aliases", "variance")
        return {**found, "statement": "", **{name: [] for name in names}}
    attribution = view.attribution
    return {
        **found,
        "statement": attribution.statement,
        "effects": [effect_record(e) for e in attribution.effects],
        "refused": [
            {"kind": r.kind, "parts": list(r.parts), "reason": r.reason}
            for r in attribution.refused
        ],
        "aliases": [
            {
                "part": a.part,
                "value": rounded(a.value),
                "with": {" x ".join(group): weight for group, weight in a.with_effects.items()},
                "reason": a.reason,
            }
            for a in attribution.aliases
        ],
        "variance": [_variance(d, found) for d, found in view.variance.items()],
    }


def _variance(dataset: str, found: VarianceShares) -> dict[str, Any]:
    shares = (found.shares or {}).items()
    return {
        "dataset": dataset,
        "shares": [{"parts": list(parts), "share": rounded(share)} for parts, share in shares],
        "seeds": rounded(found.seeds),
        "reason": found.reason,
    }
