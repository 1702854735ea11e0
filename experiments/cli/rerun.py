"""``rerun``: repeat one run of a study."""

from contextlib import closing
from typing import Annotated

import typer

from experiments.cli.console import print_notes
from experiments.cli.grid import print_outcome
from experiments.cli.options import (
    MLFLOW,
    RUNS,
    AllowOutside,
    DataRoot,
    Device,
    JobSeconds,
    NoTrack,
    Plugin,
    Runs,
    SilentSeconds,
    StealLock,
    Study,
    Track,
    make_runtime,
    track_choice,
)


def rerun_command(
    study: Study,
    run: Annotated[str, typer.Argument(help="Identity of a run, or the beginning of it")],
    job_seconds: JobSeconds = None,
    silent_seconds: SilentSeconds = None,
    track: Track = MLFLOW,
    no_track: NoTrack = False,
    steal_lock: StealLock = False,
    allow_outside: AllowOutside = False,
    plugin: Plugin = None,
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Device = "cpu",
) -> None:
    """Repeat one run of a study: in this process, or with a time limit in a worker process."""
    import experiments.cli.registered  # noqa: F401  (fills the registry)
    from core.store.search import is_search
    from core.store.settings import has_config
    from experiments.run.outside_files import check_named_files
    from experiments.run.stored_plugins import load_stored_plugins
    from experiments.search.status import refuse_rerun
    from experiments.study.driver import rerun
    from experiments.study.progress import make_progress
    from experiments.study.status import find_run
    from experiments.study.trackers import make_tracker
    from experiments.workers.local import make_executor
    from experiments.workers.placement import place_one

    mirrors = track_choice(track, no_track)
    if is_search(study):
        refuse_rerun(study, run)
    limits = {"job_seconds": job_seconds, "silent_seconds": silent_seconds}
    placement = place_one(device, apart=any(limit is not None for limit in limits.values()))
    identity = find_run(study, run)
    runtime = make_runtime(runs, data_root, placement.device)
    made = make_executor(placement.workers, study, gpus=placement.gpus, lockstep=1, **limits)
    with closing(made) as executor:
        executor.start_early()
        changes = load_stored_plugins(study / identity, runtime.cache_dir, allow_changed=True)
        print_notes(f"changed since the run: {change}" for change in changes)
        if has_config(study / identity):
            check_named_files(study / identity, runtime, allow_outside=allow_outside)
        outcome = rerun(
            study,
            identity,
            executor,
            runtime=runtime,
            place=placement.work,
            tracker=make_tracker(study, mirrors),
            progress=make_progress(),
            steal_lock=steal_lock,
        )
    print_outcome(outcome, study)
    raise typer.Exit(outcome.exit_code)
