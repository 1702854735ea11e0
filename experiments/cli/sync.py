"""``sync``: update the mirrors of a study, or of a single run."""

import os
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import MLFLOW, RUNS, TRACK_VARIABLE, Runs, Study

Mirror = Annotated[
    str, typer.Option("--track", help="What is updated: mlflow, wandb or both; default: mlflow")
]


def sync_command(study: Study, track: Mirror = "", runs: Runs = RUNS) -> None:
    """Write the runs that are missing from MLflow or W&B; no run is written twice.

    Of the folder of a single run, that run is written: among those of its study, or, where it is
    outside of one, among the runs of ``train`` below ``--runs``.
    """
    from core.store.manifest import has_manifest
    from core.store.names import RECORD_NAME, TRAIN_FOLDER
    from core.store.record import record_paths
    from experiments.study.trackers import mirrors_named, sync_all

    usual = os.environ.get(TRACK_VARIABLE, MLFLOW)
    track = track or (usual if mirrors_named(usual) else MLFLOW)
    if not mirrors_named(track):
        raise ValueError("--track none leaves sync nothing to do; choose mlflow, wandb or both")
    if study.is_file():
        raise ValueError(f"{study} is a file: sync copies the runs of a study folder")
    only: list[Path] = []
    if (study / RECORD_NAME).is_file():
        only = [study.absolute()]
        home = only[0].parent  # a run of a study belongs to the study
        own = has_manifest(home) or home.name == TRAIN_FOLDER
        study = home if own else runs / TRAIN_FOLDER
        study.mkdir(parents=True, exist_ok=True)
    elif study.is_dir() and not any(record_paths(study)):
        if not has_manifest(study):
            raise ValueError(f"{study} is not a study folder: it holds no runs; name one that does")
        print(f"nothing to copy: {study} has no run yet")
        return
    reports = sync_all(study, track, only)
    for report in reports:
        print(report)
    if any(report.error for report in reports):
        raise typer.Exit(1)
