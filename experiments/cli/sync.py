"""``sync``: update the MLflow mirror of a study."""

import typer

from experiments.cli.options import Study


def sync_command(study: Study) -> None:
    """Write the runs that are missing from MLflow; no run is written twice."""
    from experiments.study.tracking import sync

    found = sync(study)
    print(found)
    if found.error:
        raise typer.Exit(1)
