"""``grid``: plan a study and run what is left of it."""

import sys
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from core.program import command_line, same_command
from core.store.secrets import without_secrets
from experiments.cli.console import console, print_notes, table
from experiments.cli.executors import (
    LOCAL,
    Address,
    ExecutorName,
    NodeCache,
    Nodes,
    Shared,
    ShareSeconds,
    SlurmParameters,
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
from experiments.run.devices import CPU, WorkPlace
from experiments.run.runtime import Runtime


def grid_command(
    context: typer.Context,
    config: Config,
    overrides: Set = None,
    plugin: Plugin = None,
    jobs: Jobs = -1,
    jobs_per_gpu: JobsPerGpu = None,
    lockstep: Lockstep = LOCKSTEP,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan without running anything")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also rerun runs that failed before")
    ] = False,
    job_seconds: JobSeconds = None,
    silent_seconds: SilentSeconds = None,
    track: Track = MLFLOW,
    no_track: NoTrack = False,
    yes: Annotated[bool, typer.Option("--yes", help="Allow a very large grid")] = False,
    executor: ExecutorName = LOCAL,
    share: Shared = False,
    share_seconds: ShareSeconds = None,
    address: Address = "",
    node_cache: NodeCache = None,
    nodes: Nodes = None,
    slurm: SlurmParameters = None,
    steal_lock: StealLock = False,
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Devices = "cpu",
) -> None:
    """Run a study: variants x datasets x seeds. Rerun the same command to finish what is left."""
    import experiments.cli.registered  # noqa: F401  (fills the registry)
    from experiments.configs import config_path, read_config_file
    from experiments.study.planner import grid_of
    from experiments.study.progress import make_progress
    from experiments.study.trackers import make_tracker
    from experiments.workers.local import check_limits, make_executor

    here = executor == LOCAL
    placement = place_workers(device if here else CPU, jobs, jobs_per_gpu if here else None)
    mirrors = track_choice(track, no_track)
    limits = {"job_seconds": job_seconds, "silent_seconds": silent_seconds}
    check_limits(placement.workers, **limits)
    where = Where.of(context, workers=placement.workers, limits=limits)
    place = replace(placement.work, here=here)
    runtime = make_runtime(runs, data_root, placement.device)
    given = read_config_file(config_path(config), overrides or [])
    study_dir = runs / grid_of(given).study
    local = make_executor(place.workers, study_dir, gpus=place.gpus, lockstep=lockstep, **limits)
    with where.begun(dry_run=dry_run), closing(local):
        if here and not dry_run and may_have_runs_left(study_dir):
            local.start_early()
        made = make_plan(given, runtime, yes=yes)
        if dry_run:
            show_plan(made, study_dir, runtime, place)
            return
        check_data(made, study_dir, runtime, place)
        outcome = where.run(
            made,
            study_dir,
            local,
            runtime=runtime,
            tracker=make_tracker(study_dir, mirrors),
            progress=make_progress(),
            retry_failed=retry_failed,
            steal_lock=steal_lock,
        )
    print_outcome(outcome, study_dir)
    raise typer.Exit(outcome.exit_code)


def make_plan(given: Any, runtime: Runtime, *, yes: bool) -> Any:
    """The ``Plan`` of a ``Config``. Raises ValueError as ``plan`` does."""
    from experiments.run.dataset_names import with_canonical_names
    from experiments.run.run import fingerprints
    from experiments.study.planner import plan

    fingerprint_of = partial(fingerprints, cache_dir=runtime.cache_dir, data_root=runtime.data_root)
    return plan(with_canonical_names(given, runtime.data_root), fingerprint_of, yes=yes)


def may_have_runs_left(study_dir: Path) -> bool:
    """Whether something is left to run, as far as the folder tells before the plan is made."""
    from core.store.manifest import read_manifest
    from core.store.record import has_record

    with suppress(ValueError, OSError):
        return not all(has_record(study_dir, c.identity) for c in read_manifest(study_dir).cells)
    return True


def show_plan(plan: Any, study_dir: Path, runtime: Runtime, place: WorkPlace) -> None:
    """Print a ``Plan`` and how its data were read. Raises ValueError for data that cannot be."""
    from experiments.run.preflight import DRY_RUN_IMAGES, require_readable

    print_changes(plan, study_dir, runtime)
    print_plan(plan, study_dir, jobs=place.workers)
    require_readable(print_data(plan, study_dir, runtime, place, limit=DRY_RUN_IMAGES), runtime)


def check_data(plan: Any, study_dir: Path, runtime: Runtime, place: WorkPlace) -> None:
    """Print the same of a ``Plan`` that is about to run; opens every image. Raises ValueError."""
    from experiments.run.preflight import require_readable

    print_changes(plan, study_dir, runtime)
    require_readable(print_data(plan, study_dir, runtime, place, limit=None), runtime)


def print_changes(plan: Any, study_dir: Path, runtime: Runtime) -> None:
    """Print what a ``Plan`` noted, and what changed in the data since the study was run."""
    from experiments.study.data_changes import data_changes

    print_notes(plan.notes)
    for line in data_changes(plan, study_dir, runtime):
        print(line)


def print_plan(plan: Any, study_dir: Path, *, jobs: int) -> None:
    """Print a ``Plan``: cells, inert and duplicate ones, what is done, and the time."""
    from core.machine import available_cores
    from experiments.run.stale import counted, stale_line
    from experiments.study.dry_run import dry_run
    from experiments.study.progress import UNKNOWN, duration

    workers = available_cores() if jobs < 0 else max(jobs, 1)
    found = dry_run(plan, study_dir, jobs=workers)
    columns = list(found.rows[0])
    rows = [[row[column] for column in columns] for row in found.rows]
    screen = console()
    screen.print(table(f"grid {plan.grid.study}", columns, rows))
    for note in sorted({f"{c.variant}: {c.note}" for c in plan.cells if c.note}):
        screen.print(f"  {note}", markup=False)
    for number, change in counted(found.stale.values()):
        screen.print(stale_line(number, change), markup=False)
    of_them = {"stale": len(found.stale), "lacked memory before": found.lacked}
    which = "".join(f", {number} of them {what}" for what, number in of_them.items() if number)
    time = UNKNOWN
    if found.seconds is not None:
        time = f"about {duration(found.seconds)} with {workers} jobs"
    print(
        f"{found.cells} cells, {found.runs} runs ({found.repeated} cells repeat another): "
        f"{found.done} done, {found.failed} failed, {found.diverged} diverged, "
        f"{found.to_do} left{which}; time: {time}"
    )
    if found.change is not None:
        print(found.change)


def print_data(
    plan: Any, study_dir: Path, runtime: Runtime, place: WorkPlace, *, limit: int | None
) -> Any:
    """Print how the data of the runs that are left were read; returns the ``Decoded`` of each.

    Images that were never opened are opened, unless there are more than ``limit``.
    """
    from experiments.run.preflight import decode_command, preflight
    from experiments.study.dry_run import unfinished_configs
    from experiments.study.progress import Bar

    found = preflight(unfinished_configs(plan, study_dir), runtime, place)
    for line in (*found.lines(), *found.notes()):
        print(line)
    with Bar("opening images") as bar:
        decoded = found.decode(runtime, progress=bar.show, limit=limit)
    for data in decoded:
        if data.unopened:
            print(
                f"{data.name}: {data.unopened} of {data.total} images were never opened; "
                f"'{decode_command(data.name, runtime)}' opens them"
            )
    return decoded


def print_outcome(outcome: Any, study_dir: Path) -> None:
    """Print the outcome of a study's runs (a ``StudyOutcome``) and the command to run next."""
    print(
        f"{len(outcome.done)} runs done now, {len(outcome.skipped)} done before, "
        f"{len(outcome.failed)} failed, {len(outcome.diverged)} diverged, {len(outcome.left)} left"
    )
    if outcome.interrupted:
        print(interruption(outcome), file=sys.stderr)
    else:
        if outcome.failed and "--retry-failed" not in sys.argv:
            print(f"to try failed runs again: {without_secrets(retry_command())}")
        print(f"next: {command_line('report', study_dir)}")


def interruption(outcome: Any) -> str:
    """The line about a study (a ``StudyOutcome``) that was interrupted or paused."""
    command = without_secrets(same_command())
    if outcome.paused:
        return (
            f"paused: {outcome.paused}; finished runs are kept and no attempt was counted; once "
            f"that is mended, rerun: {command}"
        )
    return f"interrupted; to continue, rerun: {command}"


def retry_command() -> str:
    """The command that started this process, with the option that repeats failed runs."""
    return command_line(*sys.argv[1:], "--retry-failed")
