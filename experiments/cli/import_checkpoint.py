"""``import``: evaluate a published checkpoint as a run."""

from pathlib import Path
from typing import Annotated

import typer

from core.store.names import RECORD_NAME
from experiments.cli.console import console, table
from experiments.cli.options import (
    RUNS,
    Config,
    DataRoot,
    Device,
    Json,
    RunFolder,
    Runs,
    Set,
    cache_dir,
)
from experiments.cli.train import describe_run


def import_command(
    checkpoint: Annotated[Path, typer.Argument(help="model.pth.tar-N of a published trainer")],
    config: Config,
    overrides: Set = None,
    out: RunFolder = None,
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Evaluate a published checkpoint with this suite; writes an ordinary run folder."""
    import experiments.cli.registered  # noqa: F401  (fills the registry)
    from experiments.configs import config_path
    from experiments.run.checkpoint_import import import_checkpoint
    from experiments.run.runtime import Runtime

    runtime = Runtime(cache_dir=cache_dir(runs), data_root=data_root, device=device)
    folder, record = import_checkpoint(
        checkpoint, config_path(config), overrides or [], out, runs / "imported", runtime
    )
    if as_json:
        print((folder / RECORD_NAME).read_text(), end="")
    else:
        console().print(table(f"run {folder}", ["item", "value"], describe_run(record)))
