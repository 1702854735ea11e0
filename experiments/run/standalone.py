"""A run outside a study: training it, or scoring it again."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, get_args

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.config import Config, Reference
from core.config.parse import OVERRIDE
from core.data.dataset import ClassSubset
from core.data.dataset_names import one_name_each
from core.program import command_line
from core.store.names import STALE_SUFFIX
from core.store.record import Evaluation, RunRecord, read_record, set_aside, write_record
from core.train.fit import FitResult
from experiments.configs import SHIPPED, read_config_file
from experiments.run.data_inputs import read_data_inputs, read_dataset
from experiments.run.dataset_names import with_canonical_names
from experiments.run.grid_settings import grid_settings
from experiments.run.preflight import require_decodable
from experiments.run.run import Assembly, Progress, evaluate, fingerprints, reload, run
from experiments.run.runtime import Runtime
from experiments.run.stale import CodeCheck

log = logging.getLogger(__name__)

ROOTS = ("experiment",)


def train_one(
    config_file: Path,
    overrides: Sequence[str],
    out: Path | None,
    home: Path,
    runtime: Runtime,
    *,
    on_progress: Progress,
) -> tuple[Path, RunRecord]:
    """Train one configuration into ``out``, or into a folder below ``home`` named by identity."""
    config = load_run_config(config_file, overrides)
    folder, record = run_alone(
        config, config_file.stem, out, home, runtime, prints={}, on_progress=on_progress
    )
    write_record(folder, record)
    return folder, record


def readable_fingerprints(
    config: Config, *, cache_dir: Path, data_root: Path | None
) -> dict[str, str]:
    """``fingerprints`` of a run all of whose images can be decoded.

    Raises ValueError as it does, and for images that cannot.
    """
    found = fingerprints(config, cache_dir=cache_dir, data_root=data_root)
    runtime = Runtime(cache_dir=cache_dir, data_root=data_root)
    require_decodable(config, read_data_inputs(config, runtime), runtime, training=True)
    return found


class RunConfig(NamedTuple):
    """The configuration of one run, and a line for what was dropped from its presets."""

    config: Config
    notes: list[str]


def load_run_config(config_file: Path, overrides: Sequence[str]) -> Config:
    """The configuration of ``read_run_config``."""
    return read_run_config(config_file, overrides).config


def read_run_config(config_file: Path, overrides: Sequence[str]) -> RunConfig:
    """The configuration of one run; the grid bindings of a grid file are dropped, and so is what
    an included file or a preset binds without effect.

    Raises ValueError for a setting without effect that a person typed: in the file, unless it is a
    preset, or among the overrides.
    """
    config = read_config_file(config_file, overrides)
    config = config.without(grid_settings(config, "a single run"))
    dropped = config.unplugged(ROOTS)
    notes = config.unplugged_notes(dropped, ROOTS)
    config = config.without(dropped)
    try:
        config.check_used(ROOTS)
    except ValueError as error:
        raise ValueError(f"{error}{_replaced_part(config)}") from error
    return RunConfig(config, notes)


def _replaced_part(config: Config) -> str:
    """The way out where a part of a file is replaced and the file has settings of it, or ""."""
    unused = config.unused(ROOTS)
    if all(config.sources[key] == OVERRIDE for key in unused):
        return ""
    replaced = [
        (key, value)
        for key, value in config.bindings.items()
        if isinstance(value, Reference) and config.sources[key] == OVERRIDE and key not in unused
    ]
    for key, value in replaced:
        own = [n for n in SHIPPED.files() if n.replace("_", "") == value.name.casefold()]
        way_out = f": '{command_line('train', own[0])}'" if own else ""
        return (
            f"; {key} is replaced by {OVERRIDE}, and the file has settings of another part: start "
            f"from a configuration of @{value.name} instead{way_out}"
        )
    return ""


def run_alone(
    config: Config,
    variant: str,
    out: Path | None,
    home: Path,
    runtime: Runtime,
    *,
    prints: Mapping[str, str],
    on_progress: Progress,
    learn: Callable[[Assembly, Progress], FitResult] | None = None,
) -> tuple[Path, RunRecord]:
    """Run a configuration in ``out`` or below ``home``; returns the folder and the unwritten
    record. An earlier record of the same run that was made by other code is set aside.

    ``prints`` are fingerprints that enter the identity in addition to those of data and backbone.
    """
    config = with_canonical_names(config, runtime.data_root)
    found = fingerprints(config, cache_dir=runtime.cache_dir, data_root=runtime.data_root)
    identity = config.identity("experiment", {**found, **prints})
    folder = out or home / identity
    folder.mkdir(parents=True, exist_ok=True)
    change = _changed_code(folder, identity)
    record = run(
        config,
        folder,
        identity=identity,
        variant=variant,
        factors={},
        cache_dir=runtime.cache_dir,
        data_root=runtime.data_root,
        device=runtime.device,
        on_progress=on_progress,
        learn=learn,
    )
    if change:
        kept = set_aside(folder.parent, folder.name, STALE_SUFFIX)
        log.warning("the code changed since %s was made: %s; kept as %s", folder, change, kept.name)
    return folder, record


def _changed_code(folder: Path, identity: str) -> str:
    """What has changed since a folder's earlier record of the same run was made, if it has one."""
    with suppress(ValueError):
        old = read_record(folder)
        if old is not None and old.identity == identity:
            return CodeCheck().changes(old, folder)
    return ""


class Rescored(NamedTuple):
    """Scores of a finished run, and what changed since it was made, where that is allowed."""

    evaluations: list[Evaluation]
    changes: tuple[str, ...]


def rescore_run(
    run_dir: Path, dataset: str, classes: str, runtime: Runtime, *, allow_changed: bool = False
) -> Rescored:
    """Score a finished run on everything its protocol scores, or on the classes of one dataset.

    Nothing is trained. Raises ValueError for an unknown subset or dataset, and, unless
    ``allow_changed``, where data, class names or frozen weights are not those of its record.
    """
    _subset(classes)
    built = reload(run_dir, runtime, allow_changed=allow_changed)
    return Rescored(rescore(built, dataset, classes, runtime), built.changes)


def _subset(classes: str) -> tuple[ClassSubset, ...]:
    """The subset of that name, none for "". Raises ValueError for an unknown one."""
    subsets = get_args(ClassSubset)
    if classes and classes not in subsets:
        raise ValueError(f"classes must be one of {', '.join(subsets)}, got {classes!r}")
    return tuple(s for s in subsets if s == classes)


def rescore(built: Assembly, dataset: str, classes: str, runtime: Runtime) -> list[Evaluation]:
    """The scores of ``rescore_run``, of a run that is loaded."""
    named = _subset(classes)
    if not dataset and not named:
        return [evaluate(built, *scored) for scored in built.scored()]
    own = one_name_each([built.dataset.name, *filter(None, [dataset])], runtime.data_root)
    if not dataset or own[dataset] == own[built.dataset.name]:
        asked = [(built.dataset, s) for s in named or built.scored_subsets()]
    else:
        other = read_dataset(built.settings, dataset, runtime)
        asked = [(other, s) for s in named or ("all",)]
    return [evaluate(built, *scored) for scored in asked]


def evaluate_run(run_dir: Path, dataset: str, classes: str, runtime: Runtime) -> list[Evaluation]:
    """The scores of ``rescore_run``, where nothing has changed since the run."""
    return rescore_run(run_dir, dataset, classes, runtime).evaluations
