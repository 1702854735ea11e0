"""One run outside a study: train it, describe it, score it again."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import get_args

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.config import Config
from core.data.dataset import ClassSubset
from core.metrics import harmonic_mean
from core.store.record import Evaluation, RunRecord, write_record
from core.train.fit import FitResult
from experiments.cli.console import percent
from experiments.configs import read_config
from experiments.run.data_inputs import read_dataset
from experiments.run.protocols import protocol_of
from experiments.run.run import Assembly, Place, Progress, evaluate, fingerprints, reload, run


def train_one(
    config_file: Path,
    overrides: Sequence[str],
    out: Path | None,
    home: Path,
    place: Place,
    *,
    on_progress: Progress,
) -> tuple[Path, RunRecord]:
    """Train one configuration into ``out``, or into a folder below ``home`` named by identity."""
    config = single_config(config_file, overrides)
    folder, record = run_alone(
        config, config_file.stem, out, home, place, prints={}, on_progress=on_progress
    )
    write_record(folder, record)
    return folder, record


def single_config(config_file: Path, overrides: Sequence[str]) -> Config:
    """The configuration of one run; what a grid file says of its grid is left out."""
    config = read_config(config_file, overrides)
    config = config.without(key for key in config.bindings if key.startswith("grid."))
    config.check_used(["experiment"])
    return config


def run_alone(
    config: Config,
    variant: str,
    out: Path | None,
    home: Path,
    place: Place,
    *,
    prints: Mapping[str, str],
    on_progress: Progress,
    learn: Callable[[Assembly, Progress], FitResult] | None = None,
) -> tuple[Path, RunRecord]:
    """Run a configuration, in ``out`` or below ``home``; its folder and its record, unwritten.

    ``prints`` are fingerprints that belong to the identity besides those of data and backbone.
    """
    found = fingerprints(config, cache_dir=place.cache_dir, data_root=place.data_root)
    identity = config.identity("experiment", {**found, **prints})
    folder = out or home / identity
    folder.mkdir(parents=True, exist_ok=True)
    record = run(
        config,
        folder,
        identity=identity,
        variant=variant,
        factors={},
        cache_dir=place.cache_dir,
        data_root=place.data_root,
        device=place.device,
        on_progress=on_progress,
        learn=learn,
    )
    return folder, record


def describe_run(record: RunRecord) -> list[tuple[str, str]]:
    """A record as rows of two columns, percent for accuracies."""
    rows = [
        ("dataset", record.dataset),
        *_rules(record),
        ("seed, shots", f"{'-' if record.seed is None else record.seed}, {record.shots}"),
        ("status", f"{record.status} {record.message}".strip()),
    ]
    rows += [(f"{e.target} accuracy %", percent(e.accuracy)) for e in record.evaluations]
    base, new = record.accuracy("base"), record.accuracy("new")
    if base is not None and new is not None:
        rows.append(("harmonic mean %", percent(harmonic_mean(base, new))))
    others = [e.accuracy for e in record.evaluations if e.dataset != record.dataset]
    if others:
        rows.append((f"average over {len(others)} targets %", percent(fmean(others))))
    if record.cost is not None:
        rows.append(("training seconds", f"{record.cost.train_seconds:.2f}"))
        rows.append(("trainable parameters", f"{record.cost.trainable_parameters:,}"))
    return rows


def _rules(record: RunRecord) -> list[tuple[str, str]]:
    """What the protocol let this run see, and what it scored."""
    protocol = protocol_of(record.protocol)
    return [
        ("protocol", f"{protocol.name}: {protocol.summary}"),
        ("scored", protocol.scores),
        ("templates", protocol.templates),
        ("regime", f"{record.regime}: training sees {protocol.regimes[record.regime]}"),
        ("selection", f"{record.selection}: sees {protocol.selections[record.selection]}"),
    ]


def evaluate_run(run_dir: Path, dataset: str, classes: str, place: Place) -> list[Evaluation]:
    """Score a finished run on everything its protocol scores, or on the classes of one dataset.

    Nothing is trained. Raises ValueError for an unknown subset or dataset.
    """
    subsets = get_args(ClassSubset)
    if classes and classes not in subsets:
        raise ValueError(f"classes must be one of {', '.join(subsets)}, got {classes!r}")
    named = tuple(s for s in subsets if s == classes)
    built = reload(run_dir, place)
    if not dataset and not named:
        return [evaluate(built, *scored) for scored in built.scored()]
    if not dataset or dataset == built.dataset.name:
        return [evaluate(built, built.dataset, s) for s in named or built.targets()]
    other = read_dataset(built.settings, dataset, place)
    return [evaluate(built, other, s) for s in named or ("all",)]
