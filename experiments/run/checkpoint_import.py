"""Published checkpoints: their prompts, evaluated as a run of this suite."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.clip.frozen import fingerprint
from core.config import Config, lookup
from core.store.names import SHOTS_NAME
from core.store.record import RunRecord, write_record
from core.train.fit import FitResult
from core.train.published_checkpoints import Published, load_published, read_published
from experiments.run.run import Assembly, Progress
from experiments.run.runtime import Runtime
from experiments.run.standalone import load_run_config, run_alone


def import_checkpoint(
    checkpoint: Path,
    config_file: Path,
    overrides: Sequence[str],
    out: Path | None,
    home: Path,
    runtime: Runtime,
) -> tuple[Path, RunRecord]:
    """Load a published checkpoint into a configuration's method and refiner, and evaluate it.

    The configuration supplies what the file does not state: the backbone, the words of the context,
    the class position and the training data. Writes a run folder, ``out`` or one below ``home``
    named by the run's identity, which includes the fingerprint of the checkpoint's tensors. The
    record takes seed and shots from the configuration; it does not claim to know the images. Raises
    ValueError for a file that cannot be read or does not fit.
    """
    config = load_run_config(config_file, overrides)
    published = _read(checkpoint, config)
    about = {"checkpoint": fingerprint(published.tensors)}
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
    record = replace(
        record,
        fingerprints={**record.fingerprints, **about},
        message=f"imported from {checkpoint}",
    )
    write_record(folder, record)
    return folder, record


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
