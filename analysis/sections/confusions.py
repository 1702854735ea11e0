"""Confusion pairs, true class -> predicted class, that a part fixes or causes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from analysis.figures.confusions import ConfusionInfo, ConfusionPair, confusion_figure
from analysis.read.predictions import NOT_STORED
from analysis.sections.analysis import Analysis, once
from analysis.sections.class_counts import (
    Contrast,
    Scored,
    StudyCounts,
    paired,
    part_contrasts,
    study_counts,
)
from analysis.sections.section import Section, Topic, running_text
from analysis.text import Column, Columns, Kind, only_in_files, table

SHOWN_EACH_WAY = 6
LISTED = 20
"""Changes in each direction that files hold for every contrast."""
TITLE = "Confusions fixed and caused"


class ConfusionChange(NamedTuple):
    """The mean number over seeds of images of one class that are predicted as another one, with a
    variant and with its reference.
    """

    contrast: Contrast
    pair: ConfusionPair
    variant: float
    reference: float
    seeds: int

    @property
    def change(self) -> float:
        """Above zero: caused; below zero: fixed."""
        return self.variant - self.reference


@once
def confusion_changes(analysis: Analysis) -> Mapping[Contrast, tuple[ConfusionChange, ...]]:
    """Every confusion that changes, by contrast, the largest reduction first."""
    study = study_counts(analysis)
    return {
        contrast: tuple(
            sorted(
                (c for scored in study.counts for c in _changes(study, scored, contrast)),
                key=lambda c: c.change,
            )
        )
        for contrast in part_contrasts(analysis.results)
    }


def _changes(study: StudyCounts, scored: Scored, contrast: Contrast) -> list[ConfusionChange]:
    pairs = [
        (p.variant.confused, p.reference.confused, p.variant)
        for p in paired(study.of(scored, contrast.variant), study.of(scored, contrast.reference))
        if p.variant.test_list == p.reference.test_list
    ]
    known = [(one, two, on) for one, two, on in pairs if one is not None and two is not None]
    sums: dict[tuple[str, str, int], list[int]] = {}
    for one, two, on in known:
        for true, predicted in {*one, *two}:
            names = on.class_names
            key = (names[true], names[predicted], on.total[true])
            both = sums.setdefault(key, [0, 0])
            both[0] += one.get((true, predicted), 0)
            both[1] += two.get((true, predicted), 0)
    return [
        ConfusionChange(
            contrast=contrast,
            pair=ConfusionPair(
                dataset=scored.dataset,
                subset=scored.subset,
                true=true,
                predicted=predicted,
                images=images,
            ),
            variant=one / len(known),
            reference=two / len(known),
            seeds=len(known),
        )
        for (true, predicted, images), (one, two) in sums.items()
        if one != two
    ]


def _info(changes: Mapping[Contrast, tuple[ConfusionChange, ...]], full: str) -> ConfusionInfo:
    """The pairs that change most in any contrast, in the order of their change in the first one."""
    everything = sorted((c for found in changes.values() for c in found), key=lambda c: c.change)
    fixed = _first_pairs(c for c in everything if c.change < 0)
    caused = _first_pairs(c for c in reversed(everything) if c.change > 0)
    known = {(c.contrast, c.pair): c.change for found in changes.values() for c in found}
    first = next(iter(changes))
    pairs = tuple(
        sorted(dict.fromkeys((*fixed, *caused)), key=lambda pair: known.get((first, pair), 0.0))
    )
    compared = {
        (contrast, c.pair.dataset, c.pair.subset)
        for contrast, found in changes.items()
        for c in found
    }
    matrix = [
        [
            known.get(
                (contrast, pair),
                0.0 if (contrast, pair.dataset, pair.subset) in compared else np.nan,
            )
            for contrast in changes
        ]
        for pair in pairs
    ]
    return ConfusionInfo(
        pairs=pairs,
        columns=tuple(f"vs {c.reference}" if full else c.variant for c in changes),
        change=np.array(matrix, dtype=float).reshape(len(pairs), len(changes)),
    )


def _first_pairs(changes: Iterable[ConfusionChange]) -> list[ConfusionPair]:
    return list(dict.fromkeys(change.pair for change in changes))[:SHOWN_EACH_WAY]


COLUMNS: Columns[ConfusionChange] = (
    Column("true", "True class", Kind.NAME, lambda c: c.pair.true),
    Column("predicted", "Predicted as", Kind.TEXT, lambda c: c.pair.predicted),
    Column("dataset", "Dataset", Kind.TEXT, lambda c: c.pair.dataset),
    Column("subset", "Subset", Kind.TEXT, lambda c: c.pair.subset),
    Column("variant", "Variant", Kind.TEXT, lambda c: c.contrast.variant),
    Column("reference", "Against", Kind.TEXT, lambda c: c.contrast.reference),
    Column("images", "Images of the class", Kind.COUNT, lambda c: c.pair.images),
    Column("seeds", "Seeds", Kind.COUNT, lambda c: c.seeds),
    Column("confused_reference", "Confused before", Kind.NUMBER, lambda c: c.reference),
    Column("confused_variant", "Confused after", Kind.NUMBER, lambda c: c.variant),
    Column("change", "Change", Kind.NUMBER, lambda c: c.change, help="images, mean over seeds"),
)


def _sections(analysis: Analysis) -> Sequence[Section]:
    study, results = study_counts(analysis), analysis.results
    stored = any(counts.confused is not None for counts in study.runs)
    if study.reason or not stored:
        return [Section(key="confusions", title=TITLE, reason=study.reason or NOT_STORED)]
    changes = {c: found for c, found in confusion_changes(analysis).items() if found}
    if not changes:
        reason = "no two comparable variants confuse different images of the same test list"
        return [Section(key="confusions", title=TITLE, reason=reason)]
    full = results.references[0] if results.references else ""
    drawn = confusion_figure(_info(changes, full), full=full, baseline=results.baseline)
    listed = [c for found in changes.values() for c in _extremes(found)]
    lead = (
        "A confusion is an image of one class that is predicted as another one; which of them "
        "change says what a part has learned to tell apart."
    )
    return [
        Section(
            key="confusions",
            title=TITLE,
            sentences=running_text([lead]),
            figures=(drawn,) if drawn else (),
            tables=(table("confusions", TITLE, only_in_files(COLUMNS), listed),),
        )
    ]


def _extremes(found: Sequence[ConfusionChange]) -> list[ConfusionChange]:
    """The largest changes in each direction of a sorted sequence."""
    fixed = [c for c in found[:LISTED] if c.change < 0]
    return [*fixed, *(c for c in found[-LISTED:] if c.change > 0)]


TOPIC = Topic(key="confusions", build=_sections, files={"confusions": COLUMNS})
