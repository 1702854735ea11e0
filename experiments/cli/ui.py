"""``ui``: browse finished runs in a web interface."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from experiments.cli.options import RUNS


def ui_command(
    runs: Annotated[
        Path, typer.Argument(help="Folder of studies, or of a single study or search")
    ] = RUNS,
    port: Annotated[int, typer.Option(help="First port to try")] = 5000,
) -> None:
    """Serve MLflow for runs or Optuna's dashboard for a search, locally; press Ctrl-C to stop."""
    server = server_for(runs, port)
    print(f"{server.title} at {server.url}", flush=True)
    # Replace this process so that signals reach the server itself.
    os.execve(server.argv[0], server.argv, dict(server.env))


class Server(NamedTuple):
    """A web server: its name, how to start it, and its address."""

    title: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    url: str


def server_for(folder: Path, port: int) -> Server:
    """Optuna's dashboard for the folder of a search, MLflow for a study or a folder of them."""
    from core.store import has_manifest, is_search
    from experiments.search.mirror import dashboard_command
    from experiments.study.tracking import ui_command

    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {what}: ui shows a folder of studies, a study or a search")
    if not 0 < port < 2**16:
        raise ValueError(f"--port must be from 1 to 65535, got {port}")
    if is_search(folder):
        command = dashboard_command(folder, port=port)
        return Server("Optuna dashboard", command.argv, command.env, command.url)
    folder = folder.parent if has_manifest(folder) else folder
    command = ui_command(folder, port=port)
    return Server("MLflow", command.argv, command.env, command.url)
