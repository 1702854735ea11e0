"""Published checkpoints: their prompts, evaluated as a run of this suite."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.clip.frozen import fingerprint
from core.config import Config, lookup
from core.store.names import SHOTS_NAME
from core.store.own_files import file_checksums
from core.store.record import RunRecord, read_record, record_paths, write_record
from core.store.settings import has_config, read_config
from core.train.fit import FitResult
from core.train.published_checkpoints import Published, load_published, read_published
from experiments.run.run import Assembly, Progress, fingerprints
from experiments.run.runtime import Runtime
from experiments.run.standalone import load_run_config, run_alone
from experiments.run.unchanged import changed_inputs, check_unchanged

log = logging.getLogger(__name__)


def import_checkpoint(
    checkpoint: Path,
    config_file: Path,
    overrides: Sequence[str],
    out: Path | None,
    home: Path,
    runtime: Runtime,
    *,
    allow_changed: bool = False,
) -> tuple[Path, RunRecord]:
    """Load a published checkpoint into a configuration's method and refiner, and evaluate it.

    The configuration supplies what the file does not state: the backbone, the words of the context,
    the class position and the training data. Writes a run folder, ``out`` or one below ``home``
    named by the run's identity, which includes the fingerprint of the checkpoint's tensors. The
    record takes seed and shots from the configuration; it does not claim to know the images. Raises
    ValueError for a file that cannot be read or does not fit, and, unless ``allow_changed``, where
    the same import was made before with other data, class names or frozen weights.
    """
    config = load_run_config(config_file, overrides)
    published = _read(checkpoint, config)
    about = {"checkpoint": fingerprint(published.tensors)}
    changes = _changes(config, about, out, home, runtime, allow_changed=allow_changed)
    folder, record = run_alone(
        config,
        config_file.stem,
        out,
        home,
        runtime,
        prints=about,
        on_progress=lambda epoch: None,
        learn=partial(_restore, published),
    )
    (folder / SHOTS_NAME).unlink(missing_ok=True)
    about |= {"few_shot": ""}
    since = f"; changed since an earlier import: {'; '.join(changes)}" if changes else ""
    record = replace(
        record,
        fingerprints={**record.fingerprints, **about},
        files_sha256=file_checksums(folder),
        message=f"imported from {checkpoint}{since}",
    )
    write_record(folder, record)
    return folder, record


def _changes(
    config: Config,
    about: Mapping[str, str],
    out: Path | None,
    home: Path,
    runtime: Runtime,
    *,
    allow_changed: bool,
) -> list[str]:
    """What changed since the same file was imported with the same configuration.

    Says so where a folder already holds the import.
    """
    current = {
        **fingerprints(config, cache_dir=runtime.cache_dir, data_root=runtime.data_root),
        **about,
    }
    folders = [out] if out is not None else sorted(path.parent for path in record_paths(home))
    for folder in folders:
        record = read_record(folder) if has_config(folder) else None
        if record is None or not _same_import(folder, record, config, about):
            continue
        changes = list(changed_inputs(record.fingerprints, current))
        check_unchanged(folder, changes, allow_changed=allow_changed)
        if changes:
            return changes
        log.warning("%s already holds this import; it is scored again", folder)
        return []
    if out is not None and read_record(out) is not None:
        log.warning("%s holds another run, which this import replaces", out)
    return []


def _same_import(folder: Path, record: RunRecord, config: Config, about: Mapping[str, str]) -> bool:
    stored = record.fingerprints.get("checkpoint", "")
    return stored == about["checkpoint"] and read_config(folder) == config.text()


def _read(checkpoint: Path, config: Config) -> Published:
    """The checkpoint, with the refiner's own file where the release writes one."""
    refiner: Any = config.operative("experiment")["experiment.refiner"]
    published = read_published(checkpoint)
    kind: Any = lookup(refiner.name).cls
    return published.beside(kind.released_file) if kind.released_file else published


def _restore(published: Published, built: Assembly, log: Progress) -> FitResult:
    """Replaces training."""
    names, unused = built.model.released_names(), built.model.method.released_unused
    load_published(built.model, names, published, unused=unused)
    built.model.eval()
    return FitResult(selected_epoch=published.epoch)
