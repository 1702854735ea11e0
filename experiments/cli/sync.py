"""``sync``: update the MLflow mirror of a study."""

import typer

from experiments.cli.options import Study


def sync_command(study: Study) -> None:
    """Write the runs that are missing from MLflow; no run is written twice."""
    from core.store.manifest import has_manifest
    from core.store.record import record_paths
    from experiments.study.tracking import sync

    if study.is_file():
        raise ValueError(f"{study} is a file: sync copies the runs of a study folder")
    if study.is_dir() and not any(record_paths(study)):
        if not has_manifest(study):
            raise ValueError(f"{study} is not a study folder: it holds no runs; name one that does")
        print(f"nothing to copy: {study} has no run yet")
        return
    found = sync(study)
    print(found)
    if found.error:
        raise typer.Exit(1)
