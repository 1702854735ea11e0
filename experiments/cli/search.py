"""The ``search`` command of the command line, and the pages of ``ui``."""

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from experiments.cli.console import console, table
from experiments.configs import config_path

RUNS = Path("runs")


def search_command(
    config: Annotated[str, typer.Argument(help="A .gin file or the name of a shipped one")],
    trials: Annotated[int | None, typer.Option(help="Instead of search.trials")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, on top of the file")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 runs in this one")] = -1,
    control: Annotated[
        bool, typer.Option("--control", help="Also a random search of equal budget")
    ] = False,
    final: Annotated[bool, typer.Option(help="Judge the winner on test images at the end")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show, run nothing")] = False,
    track: Annotated[bool, typer.Option(help="Mirror runs in MLflow")] = True,
    steal_lock: Annotated[bool, typer.Option("--steal-lock", hidden=True)] = False,
    runs: Annotated[Path, typer.Option("--runs", help="Where studies and caches live")] = RUNS,
    data_root: Annotated[
        Path | None,
        typer.Option("--data-root", envvar="REFINELAB_DATA", help="Folder of datasets"),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
) -> None:
    """Search hyper-parameters on validation images; judge the winner once on test images."""
    from experiments.run.run import Place
    from experiments.search.search import SearchCommand, describe_search

    if dry_run:
        rows = describe_search(config_path(config), overrides or [], trials)
        console().print(table(f"search {config}", ["what", "value"], rows))
        return
    place = Place(cache_dir=(runs / "cache").absolute(), data_root=data_root, device=device)
    command = SearchCommand(runs, place, jobs=jobs, track=track, steal_lock=steal_lock)
    code = command.run(
        config_path(config), overrides or [], trials=trials, control=control, final=final
    )
    raise typer.Exit(code)


class Pages(NamedTuple):
    """A server of pages: its name, how to start it, and its address."""

    title: str
    argv: list[str]
    env: dict[str, str]
    url: str


def pages_of(folder: Path, port: int) -> Pages:
    """Optuna's dashboard for the folder of a search, MLflow for a study or a folder of them."""
    from experiments.search.mirror import dashboard_command
    from experiments.search.status import is_search
    from experiments.study.tracking import ui_command

    if is_search(folder):
        command = dashboard_command(folder, port=port)
        return Pages("Optuna dashboard", list(command.argv), dict(command.env), command.url)
    folder = folder.parent if (folder / "study.json").exists() else folder
    command = ui_command(folder, port=port)
    return Pages("MLflow", list(command.argv), dict(command.env), command.url)
