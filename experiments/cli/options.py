"""Options and arguments shared by several commands, and values derived from them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from core.store.names import CACHE_FOLDER
from experiments.run.runtime import Runtime
from experiments.workers.placement import WorkerPlacement, place

RUNS = Path("runs")
MLFLOW = "mlflow"
TRACK_VARIABLE = "REFINELAB_TRACK"

Config = Annotated[str, typer.Argument(help="A .gin file, or the name of a shipped configuration")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE, overrides the file; repeatable")
]


def _load(names: list[str] | None) -> list[str] | None:
    """Load the plug-ins that a person names, before the command looks anything up."""
    if names:
        import experiments.cli.registered  # noqa: F401  (fills the registry)
        from core.plugins import load_plugins

        load_plugins(names)
    return names


Plugin = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        callback=_load,
        help="Code of your own that registers methods, parts or datasets: a .py file, a folder or "
        "a module; repeatable",
    ),
]
Runs = Annotated[
    Path, typer.Option("--runs", help="Folder for studies, caches and the MLflow database")
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", envvar="REFINELAB_DATA", help="Folder of datasets")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N")]
Devices = Annotated[
    str,
    typer.Option(
        "--device", help="cpu, cuda (all GPUs that are visible), or some: cuda:N, cuda:0,cuda:3"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output")]
Study = Annotated[Path, typer.Argument(help="Folder of a study, such as runs/demo")]
RunFolder = Annotated[Path | None, typer.Option("--out", help="Run folder")]
Jobs = Annotated[
    int,
    typer.Option(
        help="Worker processes on the CPU (-1: one per core; 0: none, run in this process)",
        min=-1,
        max=1024,
    ),
]
JobsPerGpu = Annotated[
    int | None,
    typer.Option(
        "--jobs-per-gpu",
        help="Worker processes for each GPU of --device; default: 1",
        min=1,
        max=1024,
    ),
]
Track = Annotated[
    str,
    typer.Option(
        envvar=TRACK_VARIABLE, help="Where runs are mirrored: mlflow, wandb, both or none"
    ),
]
NoTrack = Annotated[bool, typer.Option("--no-track", help="The same as --track none")]
AllowChanged = Annotated[
    bool,
    typer.Option(
        "--allow-changed",
        help="Go on where data, class names or frozen weights are not those of the record",
    ),
]
StealLock = Annotated[
    bool,
    typer.Option(
        "--steal-lock",
        help="Take over a folder whose lock names a process of another machine that is gone",
    ),
]
AllowOutside = Annotated[
    bool,
    typer.Option(
        "--allow-outside-files",
        help="Read files outside the study folder, and datasets outside the data root, that the "
        "configuration of a run names which was not made here: weights, shots, teachers",
    ),
]
JobSeconds = Annotated[
    float | None, typer.Option("--job-seconds", help="Stop a run that takes longer, and retry it")
]
SilentSeconds = Annotated[
    float | None,
    typer.Option(
        "--silent-seconds",
        help="Stop a run that reports no progress for so long, and retry it; default: a worker "
        "that neither reports nor computes for 300 seconds, and for five times the longest "
        "silence seen",
    ),
]

LOCKSTEP = 8
Lockstep = Annotated[
    int,
    typer.Option(
        "--lockstep",
        help="How many runs that see the same images in every step one worker trains side by side, "
        "so that each image is decoded and encoded once for all; 1: each run alone",
        min=1,
        max=1024,
    ),
]


def make_runtime(runs: Path, data_root: Path | None, device: str) -> Runtime:
    """The ``Runtime`` that the options describe."""
    return Runtime(cache_dir=cache_dir(runs), data_root=data_root, device=device)


def place_workers(device: str, jobs: int, jobs_per_gpu: int | None) -> WorkerPlacement:
    """The workers that the options describe; says so where one of them does not count.

    Raises ValueError as ``place`` does.
    """
    placement = place(device, jobs=jobs, jobs_per_gpu=jobs_per_gpu)
    if placement.note:
        print(placement.note, file=sys.stderr)
    return placement


def track_choice(track: str, no_track: bool) -> str:
    """What ``--track`` and ``--no-track`` say together.

    Raises ValueError for an unknown mirror, and for one that is not installed.
    """
    from experiments.study.trackers import mirrors_named

    mirrors_named(track)
    return "none" if no_track else track


def cache_dir(runs: Path) -> Path:
    """The folder in which rendered datasets, folder indexes and features are cached."""
    return (runs / CACHE_FOLDER).absolute()
