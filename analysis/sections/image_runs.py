"""Which test images the runs of a study predicted correctly, by dataset, variant and seed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.read.results import Results
from analysis.read.shot_curves import point
from core.store.correct import CorrectImages, read_correct_images

NOT_RECORDED = "the correctly classified images were not recorded; rerun to record them"

Seeds = Mapping[int | None, str]
"""Identities of finished runs by seed; None for a variant without seeds."""

Run = TypeVar("Run")
"""What is known of a run: its identity, or what was read of it."""

Read = Callable[[str], "Mapping[str, CorrectImages] | str"]


def compared_variants(results: Results) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The variants that are tested against the baseline, and why the others are not."""
    kept, left_out = results.ranked()
    others = tuple(v for v in kept if v != results.baseline)
    return others, tuple((v, reason) for v, reason in left_out if v != results.baseline)


def runs_by_dataset(
    results: Results, variants: Sequence[str]
) -> dict[str, dict[str, dict[Any, str]]]:
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


def shared_seeds(
    one: Mapping[int | None, Any], two: Mapping[int | None, Any]
) -> Sequence[int | None]:
    """Seeds that both have; what has none is one measurement, compared with every seed."""
    if None in one and None in two:
        return [None]
    if None in one or None in two:
        return sorted(seed for seed in (*one, *two) if seed is not None)
    return sorted(seed for seed in one if seed in two and seed is not None)


def run_of(runs: Mapping[int | None, Run], seed: int | None) -> Run:
    """The run of a seed, or the only one of a variant without seeds."""
    return runs[seed] if seed in runs else runs[None]


def needed_runs(runs: Mapping[str, Seeds], baseline: str) -> Iterator[str]:
    """The runs that have a partner."""
    for variant, own in runs.items():
        for seed in shared_seeds(own, runs[baseline]) if variant != baseline else ():
            yield run_of(own, seed)
            yield run_of(runs[baseline], seed)


def reader(study_dir: Path) -> Read:
    """A function that reads the correct images of a run of this study."""

    def read(identity: str) -> Mapping[str, CorrectImages] | str:
        """On which images a run is correct, or why that is unknown."""
        try:
            return read_correct_images(study_dir / identity) or NOT_RECORDED
        except ValueError as error:
            return str(error).replace(f"{study_dir}/", "")

    return read


def bits(images: CorrectImages) -> NDArray[np.uint8]:
    """One 0 or 1 per image, in the order of the test list."""
    return np.unpackbits(np.frombuffer(images.bits, np.uint8), count=images.num_images)
