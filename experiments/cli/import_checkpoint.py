"""``import``: evaluate a published checkpoint as a run."""

from pathlib import Path
from typing import Annotated

import typer

from core.store.names import IMPORTED_FOLDER
from experiments.cli.options import (
    RUNS,
    AllowChanged,
    Config,
    DataRoot,
    Device,
    Json,
    Plugin,
    RunFolder,
    Runs,
    Set,
    make_runtime,
)
from experiments.cli.train import print_run


def import_command(
    checkpoint: Annotated[Path, typer.Argument(help="model.pth.tar-N of a published trainer")],
    config: Config,
    overrides: Set = None,
    plugin: Plugin = None,
    out: RunFolder = None,
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Device = "cpu",
    allow_changed: AllowChanged = False,
    as_json: Json = False,
) -> None:
    """Evaluate a published checkpoint with this suite; writes an ordinary run folder."""
    import experiments.cli.registered  # noqa: F401  (fills the registry)
    from experiments.configs import config_path
    from experiments.run.checkpoint_import import import_checkpoint

    runtime = make_runtime(runs, data_root, device)
    folder, record = import_checkpoint(
        checkpoint,
        config_path(config),
        overrides or [],
        out,
        runs / IMPORTED_FOLDER,
        runtime,
        allow_changed=allow_changed,
    )
    print_run(folder, record, as_json=as_json)
