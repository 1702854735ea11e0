"""The class counts of a study's runs, and which variants the sections on single classes compare."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from analysis.read.predictions import ClassCounts, read_class_counts
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, once
from analysis.sections.image_runs import run_of, shared_seeds

NEEDS_FOLDER = "single classes need a study folder, which records them"
MAX_CONTRASTS = 8

Seed = int | None
BySeed = Mapping[Seed, ClassCounts]


class Scored(NamedTuple):
    """What was scored: a subset of the classes of a dataset, after training on ``source``."""

    source: str
    dataset: str
    subset: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCounts:
    """Class counts by what was scored, variant and seed; ``reason`` says why there are none.

    ``shots`` is the one point of a few-shot curve that they are from, the largest.
    """

    counts: Mapping[Scored, Mapping[str, BySeed]] = field(default_factory=dict)
    shots: int | None = None
    reason: str = ""

    def of(self, scored: Scored, variant: str) -> BySeed:
        """The counts of a variant by seed."""
        return self.counts[scored].get(variant, {})

    @property
    def subsets(self) -> tuple[str, ...]:
        """Base, new or all classes, in the order in which they are scored."""
        return tuple(dict.fromkeys(scored.subset for scored in self.counts))

    @property
    def runs(self) -> Iterator[ClassCounts]:
        """All counts of all runs."""
        for by_variant in self.counts.values():
            for by_seed in by_variant.values():
                yield from by_seed.values()


@once
def study_counts(analysis: Analysis) -> StudyCounts:
    """The class counts of every finished run, read once, unless there are too many runs."""
    results = analysis.results
    if analysis.folder is None or results.runs.empty:
        return StudyCounts(reason=NEEDS_FOLDER)
    rows, shots = finished_runs(results)
    if len(rows) > analysis.image_runs:
        reason = (
            f"{len(rows):,} runs would have to be read, and the limit is {analysis.image_runs:,}; "
            f"report with --image-runs {len(rows)}, or report a study of fewer variants"
        )
        return StudyCounts(reason=reason)
    found: dict[Scored, dict[str, dict[Seed, ClassCounts]]] = {}
    for row in rows:
        try:
            read = read_class_counts(analysis.folder / row["identity"])
        except ValueError as error:
            return StudyCounts(reason=str(error).replace(f"{analysis.folder}/", ""))
        for counts in read.values():
            scored = Scored(row["dataset"], counts.dataset, counts.subset)
            found.setdefault(scored, {}).setdefault(row["variant"], {})[row["seed"]] = counts
    return StudyCounts(counts=found, shots=shots)


def finished_runs(results: Results) -> tuple[list[dict[str, Any]], int | None]:
    """Finished runs that the report uses, without those of inert copies: variant, dataset, seed and
    identity; and of a few-shot curve the largest number of shots, which they are from.
    """
    frame = results.runs[results.runs["status"] == "finished"]
    frame = frame[~frame["variant"].isin(list(results.aliases))]
    shots = max(results.curve.values(), default=None)
    if shots is not None:
        frame = frame[frame["shots"].isna() | (frame["shots"] == shots)]
    rows = frame[["variant", "dataset", "seed", "identity"]].to_dict("records")
    return [
        {
            "variant": str(row["variant"]),
            "dataset": str(row["dataset"]),
            "seed": None if pd.isna(row["seed"]) else int(row["seed"]),
            "identity": str(row["identity"]),
        }
        for row in rows
    ], shots


class SeedPair(NamedTuple):
    """The counts of a variant and of its reference for one seed."""

    variant: ClassCounts
    reference: ClassCounts


def paired(own: BySeed, other: BySeed) -> list[SeedPair]:
    """Counts of the seeds that both have, on the same classes; what has no seed is one measurement,
    which meets every seed of the other.
    """
    pairs = [
        SeedPair(run_of(own, seed), run_of(other, seed))
        for seed in shared_seeds(own, other)
        if own and other
    ]
    return [p for p in pairs if p.variant.class_names == p.reference.class_names]


class Contrast(NamedTuple):
    """A variant and what it is compared with."""

    variant: str
    reference: str


def main_contrasts(results: Results) -> tuple[Contrast, ...]:
    """The full method, which the references are, against the baseline; every variant where the
    study names no reference.
    """
    against = results.references or results.variants
    known = (Contrast(variant, results.baseline) for variant in against)
    return tuple(c for c in known if _comparable(results, c))[:MAX_CONTRASTS]


def part_contrasts(results: Results) -> tuple[Contrast, ...]:
    """The full method against the baseline and against every variant that differs from it in one
    factor, which is what one part does; the main contrasts where no reference is named.
    """
    if not results.references:
        return main_contrasts(results)
    full = results.references[0]
    others = (v for v in results.variants if len(results.what_differs(v, full)) == 1)
    names = dict.fromkeys((results.baseline, *others))
    known = (Contrast(full, name) for name in names)
    return tuple(c for c in known if _comparable(results, c))[:MAX_CONTRASTS]


def _comparable(results: Results, contrast: Contrast) -> bool:
    variant, reference = contrast
    return (
        variant != reference
        and not {variant, reference} & set(results.aliases)
        and not results.not_comparable(variant, reference)
    )
