"""``search``: hyper-parameter search on validation images."""

from typing import Annotated

import typer

from experiments.cli.console import console, table
from experiments.cli.executors import (
    LOCAL,
    OF_A_SEARCH,
    Address,
    NodeCache,
    SearchExecutor,
    Where,
)
from experiments.cli.options import (
    LOCKSTEP,
    MLFLOW,
    RUNS,
    Config,
    DataRoot,
    Devices,
    Jobs,
    JobSeconds,
    JobsPerGpu,
    Lockstep,
    NoTrack,
    Plugin,
    Runs,
    Set,
    SilentSeconds,
    StealLock,
    Track,
    make_runtime,
    place_workers,
    track_choice,
)
from experiments.run.devices import CPU


def search_command(
    context: typer.Context,
    config: Config,
    trials: Annotated[
        int | None, typer.Option(help="Number of trials; overrides search.trials")
    ] = None,
    overrides: Set = None,
    plugin: Plugin = None,
    jobs: Jobs = -1,
    jobs_per_gpu: JobsPerGpu = None,
    lockstep: Lockstep = LOCKSTEP,
    control: Annotated[
        bool, typer.Option("--control", help="Also run a random search of equal budget")
    ] = False,
    final: Annotated[
        bool, typer.Option(help="Evaluate the winner on test images at the end")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show the plan without running anything")
    ] = False,
    track: Track = MLFLOW,
    no_track: NoTrack = False,
    job_seconds: JobSeconds = None,
    silent_seconds: SilentSeconds = None,
    executor: SearchExecutor = LOCAL,
    address: Address = "",
    node_cache: NodeCache = None,
    steal_lock: StealLock = False,
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Devices = "cpu",
) -> None:
    """Search hyper-parameters on validation images; evaluate the winner once on test images."""
    from experiments.cli.search_commands import SearchCommand, describe_search
    from experiments.configs import config_path

    here = executor == LOCAL
    placement = place_workers(device if here else CPU, jobs, jobs_per_gpu if here else None)
    limits = {"job_seconds": job_seconds, "silent_seconds": silent_seconds}
    where = Where.of(context, workers=placement.workers, limits=limits, executors=OF_A_SEARCH)
    runtime = make_runtime(runs, data_root, placement.device)
    command = SearchCommand(
        runs,
        runtime,
        jobs=placement.workers,
        gpus=placement.gpus,
        track=track_choice(track, no_track),
        steal_lock=steal_lock,
        where=None if here else where,
        lockstep=lockstep,
        **limits,
    )
    if dry_run:
        path = config_path(config)
        rows = describe_search(path, overrides or [], trials, command)
        console().print(table(f"search {config}", ["item", "value"], rows))
        return
    code = command.run(
        config_path(config), overrides or [], trials=trials, control=control, final=final
    )
    raise typer.Exit(code)
