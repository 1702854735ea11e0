"""The ``grid``, ``status`` and ``rerun`` commands: plan, run, show."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import experiments.run.registered  # noqa: F401  (fills the registry)
from experiments.cli.console import console, table
from experiments.configs import read_config
from experiments.run.run import Place, fingerprints
from experiments.study.driver import StudyOutcome, rerun, run_study
from experiments.study.planner import Plan, plan
from experiments.study.progress import duration, make_progress
from experiments.study.status import find_run, summary
from experiments.study.tracking import MlflowTracker, NullTracker
from experiments.workers.jobs import Executor
from experiments.workers.local import InlineExecutor, LocalExecutor, available_cores


def plan_of(config_file: Path, overrides: Sequence[str], place: Place, *, yes: bool) -> Plan:
    """The plan of a grid file. Raises ValueError for whatever is wrong with it."""
    config = read_config(config_file, overrides)
    prints = partial(fingerprints, cache_dir=place.cache_dir, data_root=place.data_root)
    return plan(config, prints, yes=yes)


def executor_of(jobs: int, study_dir: Path, *, job_seconds: float | None = None) -> Executor:
    """Workers of this machine: ``jobs`` of them, one a core for -1, none for 0."""
    if jobs == 0:
        return InlineExecutor()
    count = available_cores() if jobs < 0 else jobs
    return LocalExecutor(count, log_dir=study_dir, job_seconds=job_seconds)


def run_grid(
    config_file: Path,
    overrides: Sequence[str],
    runs_dir: Path,
    place: Place,
    *,
    jobs: int,
    yes: bool,
    track: bool,
    retry_failed: bool,
    steal_lock: bool,
) -> StudyOutcome:
    """Plan a grid and run what is not done of it."""
    made = plan_of(config_file, overrides, place, yes=yes)
    study_dir = runs_dir / made.grid.study
    outcome = run_study(
        made,
        study_dir,
        executor_of(jobs, study_dir),
        place=place,
        tracker=MlflowTracker(study_dir) if track else NullTracker(),
        progress=make_progress(),
        retry_failed=retry_failed,
        steal_lock=steal_lock,
    )
    _print_outcome(outcome, study_dir)
    return outcome


def rerun_cell(study_dir: Path, run: str, place: Place) -> StudyOutcome:
    """Run one cell again, in this process."""
    identity = find_run(study_dir, run)
    outcome = rerun(
        study_dir,
        identity,
        InlineExecutor(),
        place=place,
        tracker=MlflowTracker(study_dir),
        progress=make_progress(),
    )
    _print_outcome(outcome, study_dir)
    return outcome


def print_plan(
    config_file: Path,
    overrides: Sequence[str],
    runs_dir: Path,
    place: Place,
    *,
    jobs: int,
    yes: bool,
) -> None:
    """What a grid would do: cells, inert and duplicate cells, what is done, about how long."""
    made = plan_of(config_file, overrides, place, yes=yes)
    workers = available_cores() if jobs < 0 else max(jobs, 1)
    found = summary(made, runs_dir / made.grid.study, jobs=workers)
    rows = [dict(row) for row in found.rows]
    columns = list(rows[0])
    screen = console()
    screen.print(table(f"grid {made.grid.study}", columns, [[r[c] for c in columns] for r in rows]))
    for note in sorted({f"{c.variant}: {c.note}" for c in made.cells if c.note}):
        screen.print(f"  {note}", markup=False)
    time = "unknown until the first runs are done"
    if found.seconds is not None:
        time = f"about {duration(found.seconds)} with {workers} jobs"
    print(
        f"{found.cells} cells, {found.runs} runs ({found.repeated} cells repeat another): "
        f"{found.done} done, {found.failed} failed, {found.diverged} diverged, "
        f"{found.to_do} to do; time: {time}"
    )
    if found.change is not None:
        print(found.change)


def print_status(found: Mapping[str, Any]) -> None:
    """The ``status`` of a study as a table with its problems."""
    rows = found["rows"]
    columns = list(rows[0])
    screen = console()
    screen.print(
        table(f"study {found['study']}", columns, [[row[c] for c in columns] for row in rows])
    )
    for problem in found["problems"]:
        screen.print(f"{problem['status']}: {problem['variant']} on {problem['dataset']}", end=" ")
        screen.print(f"seed {problem['seed']}: {problem['message']}", markup=False)
    for path in found["damaged"]:
        screen.print(f"damaged, will run again: {path}", markup=False)
    print(
        f"{found['finished']} of {found['runs']} runs finished, {found['failed']} failed, "
        f"{found['diverged']} diverged, {found['missing']} missing; "
        f"driver: {found['holder'] or 'none'}"
    )


def _print_outcome(outcome: StudyOutcome, study_dir: Path) -> None:
    print(
        f"{len(outcome.done)} runs done, {len(outcome.skipped)} were done before, "
        f"{len(outcome.failed)} failed, {len(outcome.diverged)} diverged, {len(outcome.left)} left"
    )
    if outcome.interrupted:
        again = shlex.join(["python", "main.py", *sys.argv[1:]])
        print(f"interrupted; the same command does the rest: {again}", file=sys.stderr)
    else:
        print(f"next: python main.py report {study_dir}")
