"""How well confidence matches accuracy: reliability curves and the expected calibration error."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

from analysis.figures.calibration import ReliabilityInfo, reliability_figure
from analysis.read.predictions import NOT_STORED
from analysis.sections.analysis import Analysis, once
from analysis.sections.class_counts import StudyCounts, study_counts
from analysis.sections.section import Section, Topic, cite, make_sentence
from analysis.text import Column, Columns, Kind, Show, counted, only_in_files, table
from core.metrics import ReliabilityBin, expected_calibration_error

TITLE = "Calibration"
MAX_CURVES = 4


class Calibration(NamedTuple):
    """One variant on one subset of one dataset (the mean over datasets where ``dataset`` is blank):
    means over seeds of the error, the confidence and the accuracy.
    """

    variant: str
    subset: str
    dataset: str
    seeds: int
    ece: float
    confidence: float
    accuracy: float

    @property
    def excess(self) -> float:
        """Mean confidence minus accuracy: above zero is overconfident."""
        return self.confidence - self.accuracy


@once
def calibrations(analysis: Analysis) -> tuple[Calibration, ...]:
    """Every variant on every dataset and subset whose predictions are stored."""
    study = study_counts(analysis)
    found = []
    for scored, by_variant in study.counts.items():
        for variant in analysis.results.variants:
            runs = [c.bins for c in by_variant.get(variant, {}).values() if c.bins is not None]
            if not runs:
                continue
            totals = [_total(bins) for bins in runs]
            found.append(
                Calibration(
                    variant=variant,
                    subset=scored.subset,
                    dataset=scored.dataset,
                    seeds=len(runs),
                    ece=fmean(expected_calibration_error(bins) for bins in runs),
                    confidence=fmean(t.confidence / t.images for t in totals),
                    accuracy=fmean(t.correct / t.images for t in totals),
                )
            )
    return tuple(found)


def _total(bins: Sequence[ReliabilityBin]) -> ReliabilityBin:
    return ReliabilityBin(
        sum(b.images for b in bins), sum(b.confidence for b in bins), sum(b.correct for b in bins)
    )


def _means(found: Sequence[Calibration]) -> list[Calibration]:
    """The mean over datasets of every variant and subset."""
    groups: dict[tuple[str, str], list[Calibration]] = {}
    for entry in found:
        groups.setdefault((entry.variant, entry.subset), []).append(entry)
    return [
        Calibration(
            variant=variant,
            subset=subset,
            dataset="",
            seeds=max(e.seeds for e in entries),
            ece=fmean(e.ece for e in entries),
            confidence=fmean(e.confidence for e in entries),
            accuracy=fmean(e.accuracy for e in entries),
        )
        for (variant, subset), entries in groups.items()
    ]


def _curves(analysis: Analysis, study: StudyCounts) -> list[ReliabilityInfo]:
    """The curves of the baseline, the references and the variants whose error differs most from
    that of the baseline, pooled over all runs.
    """
    results = analysis.results
    means = {(m.variant, m.subset): m.ece for m in _means(calibrations(analysis))}
    gaps = {v: _gap(means, v, results.baseline) for v in dict.fromkeys(v for v, _ in means)}
    first = (results.baseline, *results.references)
    order = dict.fromkeys((*first, *sorted(gaps, key=lambda v: -gaps[v])))
    kept = [v for v in order if v in gaps][:MAX_CURVES]
    curves = []
    for subset in study.subsets:
        for variant in kept:
            if (variant, subset) not in means:
                continue
            pooled = _pooled(study, variant, subset)
            images = sum(b.images for b in pooled)
            filled = [b for b in pooled if b.images]
            curves.append(
                ReliabilityInfo(
                    variant=variant,
                    subset=subset,
                    ece=means[variant, subset],
                    confidence=tuple(b.confidence / b.images for b in filled),
                    accuracy=tuple(b.correct / b.images for b in filled),
                    share=tuple(b.images / images for b in filled),
                )
            )
    return curves


def _gap(means: Mapping[tuple[str, str], float], variant: str, baseline: str) -> float:
    """How far the errors of a variant are from those of the baseline."""
    shared = [s for v, s in means if v == variant and (baseline, s) in means]
    return max((abs(means[variant, s] - means[baseline, s]) for s in shared), default=0.0)


def _pooled(study: StudyCounts, variant: str, subset: str) -> list[ReliabilityBin]:
    """The bins of all runs of a variant, added up."""
    runs = [
        counts.bins
        for scored in study.counts
        for counts in study.of(scored, variant).values()
        if scored.subset == subset and counts.bins is not None
    ]
    return [_total(bins) for bins in zip(*runs, strict=True)]


ECE_HELP = "expected calibration error: mean gap between confidence and accuracy over 20 bins"


class CalibrationRow(NamedTuple):
    """A variant with its means on every subset."""

    variant: str
    by_subset: dict[str, Calibration]


def _value(row: CalibrationRow, key: str, subset: str) -> Any:
    return getattr(row.by_subset[subset], key) if subset in row.by_subset else None


def _read_columns(subsets: Sequence[str]) -> Columns[CalibrationRow]:
    columns: list[Column[CalibrationRow]] = [
        Column("variant", "Variant", Kind.NAME, lambda r: r.variant)
    ]
    for subset in subsets:
        heading = f"{subset} classes".capitalize()
        for key, title, kind in (
            ("ece", "ECE, %", Kind.POINTS),
            ("accuracy", "Accuracy, %", Kind.POINTS),
            ("excess", "Excess confidence, points", Kind.DIFFERENCE),
        ):
            of = partial(_value, key=key, subset=subset)
            columns.append(Column(f"{key}_{subset}", title, kind, of, Show.READ, heading))
    return tuple(columns)


COLUMNS: Columns[Calibration] = (
    Column("variant", "Variant", Kind.NAME, lambda c: c.variant),
    Column("dataset", "Dataset", Kind.TEXT, lambda c: c.dataset or None),
    Column("subset", "Subset", Kind.TEXT, lambda c: c.subset),
    Column("seeds", "Seeds", Kind.COUNT, lambda c: c.seeds),
    Column("ece", "ECE", Kind.POINTS, lambda c: c.ece, help=ECE_HELP),
    Column("confidence", "Mean confidence", Kind.POINTS, lambda c: c.confidence),
    Column("accuracy", "Accuracy", Kind.POINTS, lambda c: c.accuracy),
)


def _sections(analysis: Analysis) -> Sequence[Section]:
    study = study_counts(analysis)
    found = () if study.reason else calibrations(analysis)
    if not found:
        return [Section(key="calibration", reason=study.reason or NOT_STORED)]
    means, curves = _means(found), _curves(analysis, study)
    variants = list(dict.fromkeys(m.variant for m in means))
    rows = [
        CalibrationRow(v, {m.subset: m for m in means if m.variant == v})
        for v in analysis.results.variants
        if v in variants
    ]
    shown = len({curve.variant for curve in curves})
    cut = "" if shown == len(rows) else f" {shown} of {len(rows)} variants, all are in the table."
    datasets = counted(len({f.dataset for f in found}), "dataset")
    drawn = reliability_figure(curves, pooled=f", over {datasets} and all seeds")
    if drawn is not None and cut:
        drawn = replace(drawn, caption=drawn.caption + cut)
    lead = make_sentence(
        "ECE is the mean gap between confidence and accuracy",
        cite("guo2017"),
        "; here the mean "
        "over datasets and seeds. It can improve while accuracy falls, so read both. Excess "
        "confidence is the mean confidence minus the accuracy.",
    )
    read = _read_columns(study.subsets)
    return [
        Section(
            key="calibration",
            sentences=(lead,),
            figures=(drawn,) if drawn else (),
            tables=(
                table("calibration_means", "Calibration by variant", read, rows),
                table("calibration", TITLE, only_in_files(COLUMNS), [*means, *found]),
            ),
        )
    ]


TOPIC = Topic(key="calibration", build=_sections, files={"calibration": COLUMNS})
