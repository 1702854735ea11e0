"""``evaluate``: score a finished run again."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.console import console, percent, print_json, table
from experiments.cli.options import (
    RUNS,
    AllowChanged,
    AllowOutside,
    DataRoot,
    Device,
    Json,
    Plugin,
    Runs,
    make_runtime,
)


def evaluate_command(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run")],
    dataset: Annotated[str, typer.Option(help="Dataset; default: the run's own")] = "",
    classes: Annotated[str, typer.Option(help="all, base or new; default: the protocol's")] = "",
    plugin: Plugin = None,
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Device = "cpu",
    allow_changed: AllowChanged = False,
    allow_outside: AllowOutside = False,
    as_json: Json = False,
) -> None:
    """Score a finished run again, on its own classes or on another dataset, without retraining."""
    from experiments.run.outside_files import check_named_files
    from experiments.run.standalone import rescore_run
    from experiments.run.stored_plugins import load_stored_plugins

    runtime = make_runtime(runs, data_root, device)
    edited = load_stored_plugins(run_dir, runtime.cache_dir, allow_changed=allow_changed)
    check_named_files(run_dir, runtime, allow_outside=allow_outside)
    scores, others = rescore_run(run_dir, dataset, classes, runtime, allow_changed=allow_changed)
    changes = (*edited, *others)
    if as_json:
        keys = ("target", "dataset", "classes", "accuracy", "correct", "total")
        changed = {"changed": changes} if changes else {}
        print_json([{key: getattr(score, key) for key in keys} | changed for score in scores])
        return
    for change in changes:
        print(f"changed since the run: {change}", file=sys.stderr)
    rows = [
        (s.target, s.dataset, percent(s.accuracy), sum(s.correct), sum(s.total)) for s in scores
    ]
    columns = ["target", "dataset", "accuracy %", "correct", "total"]
    console().print(table(str(run_dir), columns, rows, numbers=3))
