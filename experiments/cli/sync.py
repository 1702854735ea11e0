"""``sync``: update the mirrors of a study, or of a single run."""

import typer

from experiments.cli.options import MLFLOW, RUNS, Runs, Study, Track


def sync_command(study: Study, track: Track = MLFLOW, runs: Runs = RUNS) -> None:
    """Write the runs that are missing from MLflow or W&B; no run is written twice.

    The folder of a single run is copied among the runs of ``train`` below ``--runs``.
    """
    from core.store.manifest import has_manifest
    from core.store.names import RECORD_NAME, TRAIN_FOLDER
    from core.store.record import record_paths
    from experiments.study.trackers import mirrors_named, sync_all

    if not mirrors_named(track):
        raise ValueError("--track none leaves sync nothing to do; choose mlflow, wandb or both")
    if study.is_file():
        raise ValueError(f"{study} is a file: sync copies the runs of a study folder")
    if (study / RECORD_NAME).is_file() and (
        has_manifest(study.parent) or study.parent.name == TRAIN_FOLDER
    ):
        study = study.parent  # a run of a study belongs to the study
    extra = [study] if (study / RECORD_NAME).is_file() else []
    folder = runs / TRAIN_FOLDER if extra else study
    if not extra and study.is_dir() and not any(record_paths(study)):
        if not has_manifest(study):
            raise ValueError(f"{study} is not a study folder: it holds no runs; name one that does")
        print(f"nothing to copy: {study} has no run yet")
        return
    if extra:
        folder.mkdir(parents=True, exist_ok=True)
    reports = sync_all(folder, track, extra)
    for report in reports:
        print(report)
    if any(report.error for report in reports):
        raise typer.Exit(1)
