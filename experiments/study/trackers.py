"""Which mirrors a command writes to, as ``--track`` says."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from core.suggestions import did_you_mean
from experiments.study.mirror import MirrorReport, NullTracker, Tracker, Trackers
from experiments.study.tracking import MlflowTracker, sync
from experiments.study.wandb_mirror import WandbTracker, require_wandb, sync_wandb

MIRRORS: Mapping[str, tuple[str, ...]] = {
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "both": ("mlflow", "wandb"),
    "none": (),
}


def mirrors_named(track: str) -> tuple[str, ...]:
    """The mirrors of a choice of ``--track``.

    Raises ValueError for another choice, and for wandb where it is not installed.
    """
    if track not in MIRRORS:
        near = did_you_mean(track, MIRRORS)
        raise ValueError(f"--track must be one of {', '.join(MIRRORS)}, got {track!r}{near}")
    if "wandb" in MIRRORS[track]:
        require_wandb()
    return MIRRORS[track]


def make_tracker(study_dir: Path, track: str, extra: Sequence[Path] = ()) -> Tracker:
    """A tracker for the runs of a folder, and those in ``extra``. Raises as ``mirrors_named``."""
    made: list[Tracker] = []
    for name in mirrors_named(track):
        if name == "mlflow":
            made.append(MlflowTracker(study_dir, extra=extra))
        else:
            made.append(WandbTracker(study_dir, extra))
    return Trackers(made) if made else NullTracker()


def sync_all(study_dir: Path, track: str, only: Sequence[Path] = ()) -> list[MirrorReport]:
    """Write to each mirror what it lacks of a folder, or of the run folders in ``only``. Raises as
    ``mirrors_named``.
    """
    return [
        sync(study_dir, only=only) if name == "mlflow" else sync_wandb(study_dir, only)
        for name in mirrors_named(track)
    ]
