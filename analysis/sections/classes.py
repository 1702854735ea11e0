"""Accuracy class by class: what gained and what lost between the full method and the baseline."""

from collections.abc import Sequence
from typing import NamedTuple

from analysis.figures.classes import ClassShift, ClassShiftInfo, class_figure
from analysis.figures.figure import Figure
from analysis.sections.analysis import Analysis, once
from analysis.sections.class_counts import (
    Contrast,
    Scored,
    StudyCounts,
    main_contrasts,
    paired,
    study_counts,
)
from analysis.sections.section import Section, Topic, running_text
from analysis.text import Column, Columns, Kind, Table, only_in_files, table

EACH_WAY = 6
MAX_FIGURES = 2
NO_PAIR = "no variant and baseline were scored on the same classes with the same seed"


class ShiftedClass(NamedTuple):
    """One class of one contrast."""

    contrast: Contrast
    shift: ClassShift
    seeds: int


class ClassTally(NamedTuple):
    """How many classes of a subset gained and lost, on average and in every seed."""

    contrast: Contrast
    subset: str
    classes: int
    gained: int
    lost: int
    always_gained: int
    always_lost: int


@once
def shifted_classes(analysis: Analysis) -> tuple[ShiftedClass, ...]:
    """Every class of every main contrast, in the order of the datasets and classes."""
    study = study_counts(analysis)
    return tuple(
        found
        for contrast in main_contrasts(analysis.results)
        for scored in study.counts
        for found in _shifts(study, scored, contrast)
    )


def _shifts(study: StudyCounts, scored: Scored, contrast: Contrast) -> list[ShiftedClass]:
    pairs = paired(study.of(scored, contrast.variant), study.of(scored, contrast.reference))
    if not pairs:
        return []
    found = []
    for c, name in enumerate(pairs[0].variant.class_names):
        both = [
            (
                p.variant.correct[c] / p.variant.total[c],
                p.reference.correct[c] / p.reference.total[c],
            )
            for p in pairs
            if p.variant.class_names == pairs[0].variant.class_names
            and p.variant.total[c]
            and p.reference.total[c]
        ]
        if not both:
            continue
        differences = [one - two for one, two in both]
        shift = ClassShift(
            dataset=scored.dataset,
            subset=scored.subset,
            name=name,
            images=pairs[0].variant.total[c],
            reference=sum(two for _, two in both) / len(both),
            variant=sum(one for one, _ in both) / len(both),
            lowest=min(differences),
            highest=max(differences),
        )
        found.append(ShiftedClass(contrast, shift, len(both)))
    return found


def _tallies(found: Sequence[ShiftedClass]) -> list[ClassTally]:
    groups: dict[tuple[Contrast, str], list[ClassShift]] = {}
    for entry in found:
        groups.setdefault((entry.contrast, entry.shift.subset), []).append(entry.shift)
    return [
        ClassTally(
            contrast=contrast,
            subset=subset,
            classes=len(shifts),
            gained=sum(s.difference > 0 for s in shifts),
            lost=sum(s.difference < 0 for s in shifts),
            always_gained=sum(s.lowest > 0 for s in shifts),
            always_lost=sum(s.highest < 0 for s in shifts),
        )
        for (contrast, subset), shifts in groups.items()
    ]


def _figure(found: Sequence[ShiftedClass], contrast: Contrast, name: str) -> Figure | None:
    groups: dict[str, list[ClassShift]] = {}
    for entry in found:
        if entry.contrast == contrast:
            groups.setdefault(entry.shift.subset, []).append(entry.shift)
    panels = []
    for subset, shifts in groups.items():
        ordered = sorted(shifts, key=lambda s: -s.difference)
        gained = [s for s in ordered[:EACH_WAY] if s.difference > 0]
        lost = [s for s in ordered[-EACH_WAY:] if s.difference < 0]
        panels.append(
            ClassShiftInfo(
                variant=contrast.variant,
                reference=contrast.reference,
                subset=subset,
                num_classes=len(shifts),
                shown=(*gained, *lost),
            )
        )
    return class_figure(panels, name=name)


TALLY_COLUMNS: Columns[ClassTally] = (
    Column("variant", "Variant", Kind.NAME, lambda t: t.contrast.variant),
    Column("reference", "Against", Kind.TEXT, lambda t: t.contrast.reference),
    Column("subset", "Classes of", Kind.TEXT, lambda t: t.subset),
    Column("classes", "Classes", Kind.COUNT, lambda t: t.classes),
    Column("gained", "Gained", Kind.COUNT, lambda t: t.gained, help="mean over seeds above zero"),
    Column("lost", "Lost", Kind.COUNT, lambda t: t.lost, help="mean over seeds below zero"),
    Column("always_gained", "Gained in every seed", Kind.COUNT, lambda t: t.always_gained),
    Column("always_lost", "Lost in every seed", Kind.COUNT, lambda t: t.always_lost),
)
CLASS_COLUMNS: Columns[ShiftedClass] = (
    Column("class", "Class", Kind.NAME, lambda f: f.shift.name),
    Column("dataset", "Dataset", Kind.TEXT, lambda f: f.shift.dataset),
    Column("subset", "Subset", Kind.TEXT, lambda f: f.shift.subset),
    Column("variant", "Variant", Kind.TEXT, lambda f: f.contrast.variant),
    Column("reference", "Against", Kind.TEXT, lambda f: f.contrast.reference),
    Column("images", "Test images", Kind.COUNT, lambda f: f.shift.images),
    Column("seeds", "Seeds", Kind.COUNT, lambda f: f.seeds),
    Column("accuracy_reference", "Accuracy before", Kind.POINTS, lambda f: f.shift.reference),
    Column("accuracy_variant", "Accuracy after", Kind.POINTS, lambda f: f.shift.variant),
    Column("difference", "Change, points", Kind.DIFFERENCE, lambda f: f.shift.difference),
    Column("lowest", "Lowest seed", Kind.DIFFERENCE, lambda f: f.shift.lowest),
    Column("highest", "Highest seed", Kind.DIFFERENCE, lambda f: f.shift.highest),
)


def _tables(found: Sequence[ShiftedClass]) -> list[Table]:
    return [
        table("class_tally", "How many classes gained and lost", TALLY_COLUMNS, _tallies(found)),
        table("classes", "Accuracy per class", only_in_files(CLASS_COLUMNS), found),
    ]


def _sections(analysis: Analysis) -> Sequence[Section]:
    study, title = study_counts(analysis), "Accuracy per class"
    if study.reason:
        return [Section(key="classes", title=title, reason=study.reason)]
    found = shifted_classes(analysis)
    if not found:
        return [Section(key="classes", title=title, reason=NO_PAIR)]
    contrasts = list(dict.fromkeys(entry.contrast for entry in found))[:MAX_FIGURES]
    drawn = [
        _figure(found, contrast, "classes" if i == 0 else f"classes_{i + 1}")
        for i, contrast in enumerate(contrasts)
    ]
    lead = (
        "Accuracy on the test images of each class, mean over seeds. A mean over all classes can "
        "hide a class that is lost."
    )
    if study.shots is not None:
        lead += f" Runs with {study.shots} shots."
    return [
        Section(
            key="classes",
            title=title,
            sentences=running_text([lead]),
            figures=tuple(figure for figure in drawn if figure),
            tables=tuple(_tables(found)),
        )
    ]


TOPIC = Topic(
    key="classes",
    build=_sections,
    files={"class_tally": TALLY_COLUMNS, "classes": CLASS_COLUMNS},
)
