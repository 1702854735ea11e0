"""Image by image: the test images that only one of two trained models gets right.

McNemar's exact test of every variant against the baseline and Cochran's Q over all of them, always
one run of each on the same images. The claim is about these trained models, not about the methods:
images of one run are no sample of runs. Runs of different seeds are therefore never pooled.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import stats
from analysis.read.results import Results
from analysis.read.shot_curves import point
from analysis.stats import Interval
from analysis.text import counted, p_text
from core.store.correct import CorrectImages, read_correct_images

MOST_RUNS = 2000
"""So many runs are read in a few seconds; a study of ten thousand would wait for minutes."""

LEAST_MODELS = 3
NOT_KNOWN = "-"
NOT_RECORDED = "which images were right was not recorded; run it again to have it"
OTHER_IMAGES = "not the same test images in the same order and among the same classes"

Seeds = Mapping[int | None, str]
"""Identities of finished runs by seed; None for a variant without seeds."""

Read = Callable[[str], "Mapping[str, CorrectImages] | str"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePair:
    """A run of a variant against the baseline's run of the same seed, on one target.

    ``difference`` and ``interval`` are of the accuracies, variant minus baseline. ``holm_p`` and
    the smallest p that so many disagreements could give are adjusted over all variants and seeds of
    the dataset and target. ``reason`` says why there is no test.
    """

    variant: str
    dataset: str
    target: str
    seed: int | None
    images: int = 0
    only_variant: int | None = None
    only_baseline: int | None = None
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None
    holm_p: float | None = None
    smallest_holm_p: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOmnibus:
    """Cochran's Q of all models of one seed on one target; Holm is over the seeds."""

    dataset: str
    target: str
    seed: int | None
    variants: tuple[str, ...]
    images: int = 0
    q: float | None = None
    p: float | None = None
    holm_p: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesView:
    """All tests on images. ``only_test`` says that the study has one seed and too few datasets for
    any other test, see ``stats.primary_test``; ``reason`` says why there is none at all.
    """

    baseline: str
    only_test: bool = False
    pairs: tuple[ImagePair, ...] = ()
    omnibus: tuple[ImageOmnibus, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    reason: str = ""


Row = TypeVar("Row", ImagePair, ImageOmnibus)


def images_view(results: Results, study_dir: Path | None, *, most: int = MOST_RUNS) -> ImagesView:
    """Read the runs of a study folder, at most ``most``, and compare them image by image."""
    blank = ImagesView(baseline=results.baseline)
    if study_dir is None or results.runs.empty:
        return replace(blank, reason="this needs the images: give a study folder")
    compared, left_out = _compared(results)
    blank = replace(blank, left_out=left_out)
    groups = _groups(results, (results.baseline, *compared))
    needed = {name for runs in groups.values() for name in _needed(runs, results.baseline)}
    if not needed:
        return replace(blank, reason="no finished pair of runs with the same dataset and seed")
    if len(needed) > most:
        reason = (
            f"{len(needed):,} runs would have to be read, and at most {most:,} are; report with "
            f"--image-runs {len(needed)}, or report a study of fewer variants or one dataset"
        )
        return replace(blank, reason=reason)
    pairs: list[ImagePair] = []
    omnibus: list[ImageOmnibus] = []
    for dataset, runs in groups.items():
        read = cache(_reader(study_dir))
        pairs += _pairs(dataset, runs, results.baseline, read)
        omnibus += _omnibus(dataset, runs, results.baseline, read)
    if all(pair.p is None for pair in pairs):
        first, *others = dict.fromkeys(pair.reason for pair in pairs)
        more = f" (and {counted(len(others), 'other reason')})" if others else ""
        return replace(blank, reason=f"{first}{more}")
    return replace(
        blank,
        only_test=_no_other_test(results),
        pairs=_adjusted_pairs(pairs),
        omnibus=_adjusted_omnibus(omnibus),
    )


def _no_other_test(results: Results) -> bool:
    few = len(results.datasets) < stats.MIN_DATASETS_FOR_WILCOXON
    return few and len(results.planned_seeds) <= 1


def image_rows(first_dir: Path, second_dir: Path) -> list[tuple[str, str, str, str]]:
    """How many images only one of two runs gets right, by target: what, first, second, exact p."""
    what = "images that only it gets right"
    one, two = (_reader(folder.parent)(folder.name) for folder in (first_dir, second_dir))
    if isinstance(one, str) or isinstance(two, str):
        folder, why = (first_dir, one) if isinstance(one, str) else (second_dir, two)
        return [(what, NOT_KNOWN, NOT_KNOWN, f"n/a, {folder.name}: {why}")]
    rows = []
    for target in dict.fromkeys((*one, *two)):
        pair = _pair(ImagePair(variant="", dataset="", target=target, seed=None), one, two)
        p = f"n/a: {pair.reason}" if pair.p is None else f"McNemar's exact p {p_text(pair.p)}"
        counts = (pair.only_variant, pair.only_baseline)
        first, second = (NOT_KNOWN if count is None else str(count) for count in counts)
        rows.append((f"{target}: {what}", first, second, p))
    return rows


def _compared(results: Results) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The variants that are tested against the baseline, and why the others are not."""
    reasons: dict[str, str] = {}
    for variant in results.variants:
        if variant in results.aliases:
            reasons[variant] = f"the same runs as {results.aliases[variant]}"
        else:
            reasons[variant] = results.not_comparable(variant, results.baseline)
    del reasons[results.baseline]
    kept = tuple(variant for variant, reason in reasons.items() if not reason)
    return kept, tuple((variant, reason) for variant, reason in reasons.items() if reason)


def _groups(results: Results, variants: Sequence[str]) -> dict[str, dict[str, dict[Any, str]]]:
    """Finished runs by dataset (and point of a few-shot curve), variant and seed."""
    finished = results.runs[results.runs["status"] == "finished"]
    groups: dict[str, dict[str, dict[Any, str]]] = {}
    for row in finished.to_dict("records"):
        if row["variant"] not in variants:
            continue
        shots = None if pd.isna(row["shots"]) else int(row["shots"])
        dataset = row["dataset"] if shots is None else f"{row['dataset']}, {point(shots)}"
        seed = None if pd.isna(row["seed"]) else int(row["seed"])
        groups.setdefault(dataset, {v: {} for v in variants})[row["variant"]][seed] = str(
            row["identity"]
        )
    return groups


def _shared(one: Seeds, two: Seeds) -> Sequence[int | None]:
    """Seeds that both have; what has none is one measurement, held against every seed."""
    if None in one and None in two:
        return [None]
    if None in one or None in two:
        return sorted(seed for seed in (*one, *two) if seed is not None)
    return sorted(seed for seed in one if seed in two and seed is not None)


def _run_of(runs: Seeds, seed: int | None) -> str:
    return runs[seed] if seed in runs else runs[None]


def _needed(runs: Mapping[str, Seeds], baseline: str) -> Iterator[str]:
    """The runs that have a partner."""
    for variant, own in runs.items():
        for seed in _shared(own, runs[baseline]) if variant != baseline else ():
            yield _run_of(own, seed)
            yield _run_of(runs[baseline], seed)


def _reader(study_dir: Path) -> Read:
    def read(identity: str) -> Mapping[str, CorrectImages] | str:
        """What a run got right, or why nobody knows."""
        try:
            return read_correct_images(study_dir / identity) or NOT_RECORDED
        except ValueError as error:
            return str(error).replace(f"{study_dir}/", "")

    return read


def _pairs(
    dataset: str, runs: Mapping[str, Seeds], baseline: str, read: Read
) -> Iterator[ImagePair]:
    for variant, own in runs.items():
        for seed in _shared(own, runs[baseline]) if variant != baseline else ():
            found = [read(_run_of(side, seed)) for side in (own, runs[baseline])]
            blank = ImagePair(variant=variant, dataset=dataset, target="", seed=seed)
            if why := [side for side in found if isinstance(side, str)]:
                yield replace(blank, reason=why[0])
                continue
            one, two = (side for side in found if not isinstance(side, str))
            for target in dict.fromkeys((*two, *one)):
                yield _pair(replace(blank, target=target), one, two)


def _pair(
    blank: ImagePair, one: Mapping[str, CorrectImages], two: Mapping[str, CorrectImages]
) -> ImagePair:
    """McNemar's exact test on ``blank.target``, or the reason why there is none."""
    if blank.target not in one or blank.target not in two:
        return replace(blank, reason="scored for one of the two alone")
    mine, other = one[blank.target], two[blank.target]
    if mine.test_list != other.test_list:
        return replace(blank, reason=OTHER_IMAGES)
    test = stats.mcnemar_exact(_bits(mine), _bits(other))
    return replace(
        blank,
        images=mine.num_images,
        only_variant=test.table[0][1],
        only_baseline=test.table[1][0],
        difference=test.difference,
        interval=test.interval,
        p=test.p,
        smallest_holm_p=test.smallest_p,
        reason=test.reason,
    )


def _omnibus(
    dataset: str, runs: Mapping[str, Seeds], baseline: str, read: Read
) -> Iterator[ImageOmnibus]:
    """Cochran's Q for every seed of the baseline, or for every seed where it has none."""
    seeds = {s for own in runs.values() for s in own if s is not None and None in runs[baseline]}
    planned: list[int | None] = [*sorted(seeds or {s for s in runs[baseline] if s is not None})]
    for seed in planned or [None]:
        models = {v: read(_run_of(own, seed)) for v, own in runs.items() if {seed, None} & {*own}}
        known = {v: found for v, found in models.items() if not isinstance(found, str)}
        for target, asked in known.get(baseline, {}).items():
            columns = {
                v: found[target]
                for v, found in known.items()
                if target in found and found[target].test_list == asked.test_list
            }
            row = ImageOmnibus(dataset=dataset, target=target, seed=seed, variants=tuple(columns))
            if len(columns) < LEAST_MODELS:
                why = f"Cochran's Q needs {LEAST_MODELS} models on the same images"
                yield replace(row, images=asked.num_images, reason=why)
                continue
            test = stats.cochran_q(np.stack([_bits(c) for c in columns.values()], axis=1))
            yield replace(row, images=asked.num_images, q=test.q, p=test.p, reason=test.reason)


def _bits(images: CorrectImages) -> NDArray[np.uint8]:
    """0 or 1 an image, in the order of the test list."""
    return np.unpackbits(np.frombuffer(images.bits, np.uint8), count=images.num_images)


def _adjusted_pairs(pairs: Sequence[ImagePair]) -> tuple[ImagePair, ...]:
    """Holm over the tests of one dataset and target, which then stand together."""
    done: list[ImagePair] = []
    for pair, holm_p, size in _holm_by_family(pairs):
        least = pair.smallest_holm_p
        least = None if least is None else min(1.0, least * size)
        done.append(replace(pair, holm_p=holm_p, smallest_holm_p=least))
    return tuple(done)


def _adjusted_omnibus(rows: Sequence[ImageOmnibus]) -> tuple[ImageOmnibus, ...]:
    return tuple(replace(row, holm_p=holm_p) for row, holm_p, _ in _holm_by_family(rows))


def _holm_by_family(rows: Sequence[Row]) -> Iterator[tuple[Row, float | None, int]]:
    """Each row with its adjusted p and the number of tests on its dataset and target; a row
    without a test does not count.
    """
    families: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        families.setdefault((row.dataset, row.target), []).append(row)
    for family in families.values():
        tested = [row.p for row in family if row.p is not None]
        adjusted = iter(stats.holm(tested))
        for row in family:
            yield row, None if row.p is None else next(adjusted), len(tested)
