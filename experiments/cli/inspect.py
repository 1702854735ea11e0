"""``inspect``: pictures of what one run has learned."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import (
    RUNS,
    AllowChanged,
    AllowOutside,
    DataRoot,
    Device,
    Plugin,
    Runs,
    make_runtime,
)


def inspect_command(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run")],
    images: Annotated[
        int, typer.Option(min=1, help="Test images that are searched for patches")
    ] = 128,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: inspect in the run folder")
    ] = None,
    plugin: Plugin = None,
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Device = "cpu",
    allow_changed: AllowChanged = False,
    allow_outside: AllowOutside = False,
) -> None:
    """Show what one run has learned: memory, attention, errors, calibration, context words."""
    from analysis.inspect_page import write_inspection
    from core.store.names import INSPECTION_NAME
    from experiments.run.inspection import inspect_run, read_finished
    from experiments.run.outside_files import check_named_files
    from experiments.run.stored_plugins import load_stored_plugins

    read_finished(run_dir)
    runtime = make_runtime(runs, data_root, device)
    load_stored_plugins(run_dir, runtime.cache_dir, allow_changed=allow_changed)
    check_named_files(run_dir, runtime, allow_outside=allow_outside)
    folder = out or run_dir / INSPECTION_NAME
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give another one with --out")
    folder.mkdir(parents=True, exist_ok=True)
    found = inspect_run(run_dir, runtime, num_images=images, allow_changed=allow_changed)
    print(f"page: {write_inspection(found, folder)}")
