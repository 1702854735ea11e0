"""The ``search`` command: trials, the random control, and the winner on test images."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.config import Config
from core.program import command_line
from core.store.names import FINAL_SUFFIX
from core.store.search import COST_OBJECTIVES, read_trials, write_importances, write_result
from experiments.cli.console import console, percent, print_notes, table
from experiments.cli.executors import Where
from experiments.cli.grid import interruption, may_have_runs_left
from experiments.cli.options import MLFLOW
from experiments.configs import read_config_file
from experiments.run.data_inputs import planned, read_dataset
from experiments.run.dataset_names import with_canonical_names
from experiments.run.device_check import require_device
from experiments.run.devices import WorkPlace
from experiments.run.preflight import preflight
from experiments.run.runtime import Runtime
from experiments.run.standalone import readable_fingerprints
from experiments.search.importances import importances_of
from experiments.search.mirror import check_storage
from experiments.search.result import final_plan, result_of, winning_settings, write_best
from experiments.search.scheduler import SearchOutcome, require_same_code, run_trials
from experiments.search.scorable import check_choices, choices_of
from experiments.search.settings import OBJECTIVES, Search, SearchSetup, search_of, space_of
from experiments.study.driver import StudyOutcome, run_study
from experiments.study.mirror import Tracker
from experiments.study.planner import ROOT, FingerprintOf
from experiments.study.progress import make_progress
from experiments.study.share import Sharing, run_shared_study
from experiments.study.trackers import make_tracker
from experiments.workers.jobs import Executor
from experiments.workers.local import check_limits, make_executor


class SearchCommand:
    """One invocation of the command: where it runs, with how many workers, and its mirrors."""

    def __init__(
        self,
        runs_dir: Path,
        runtime: Runtime,
        *,
        jobs: int = -1,
        gpus: Sequence[str] = (),
        track: str = MLFLOW,
        steal_lock: bool = False,
        job_seconds: float | None = None,
        silent_seconds: float | None = None,
        lockstep: int = 1,
        where: Where | None = None,
    ) -> None:
        check_limits(jobs, job_seconds, silent_seconds)
        self.lockstep = lockstep
        self.where = where
        self.job_seconds = job_seconds
        self.silent_seconds = silent_seconds
        self.runs_dir = runs_dir
        self.runtime = runtime
        self.jobs = jobs
        self.place = WorkPlace(workers=max(jobs, 0), gpus=tuple(gpus))
        self.track = track
        self.steal_lock = steal_lock
        self.fingerprint_of: FingerprintOf = partial(
            readable_fingerprints, cache_dir=runtime.cache_dir, data_root=runtime.data_root
        )

    def run(
        self,
        config_file: Path,
        overrides: Sequence[str],
        *,
        trials: int | None,
        control: bool,
        final: bool,
    ) -> int:
        """Run what is left of a search and return the exit code.

        Raises ValueError before the first trial if anything is wrong with the search.
        """
        config = read_config_file(config_file, overrides)
        config = with_canonical_names(config, self.runtime.data_root)
        setups = [search_of(config, trials=trials)]
        print_notes(setups[0].notes)
        setups += [search_of(config, trials=trials, control=True)] if control else []
        outcomes: list[SearchOutcome] = []
        for setup in setups:
            outcome = self._run_trials(setup)
            if not outcome.complete:
                return _interrupted(outcome.study)
            folder = self.runs_dir / setup.search.study
            write_importances(folder, importances_of(folder))
            print(f"winning configuration: {write_best(outcome, folder)}")
            outcomes.append(outcome)
        return self._judge(setups[0], outcomes) if final else 0

    def _run_trials(self, setup: SearchSetup) -> SearchOutcome:
        folder = self.runs_dir / setup.search.study
        require_device(choices_of(setup, space_of(setup)), self.runtime, self.place)
        if setup.search.mode == "asynchronous":
            print(
                "asynchronous mode: faster with many workers, but not reproducible", file=sys.stderr
            )
        with closing(self._executor(folder, setup.search.run_seconds)) as executor:
            if num_ended(folder) < setup.search.trials:
                executor.start_early()
            return run_trials(
                setup,
                folder,
                executor,
                runtime=self.runtime,
                fingerprint_of=self.fingerprint_of,
                tracker=self._tracker(folder),
                progress=make_progress(),
                steal_lock=self.steal_lock,
                share=self._sharing(executor),
            )

    def _judge(self, setup: SearchSetup, outcomes: Sequence[SearchOutcome]) -> int:
        """Train the default and the winners with fresh seeds, and score them on test images."""
        search, folder = setup.search, self.runs_dir / setup.search.study
        final_dir = self.runs_dir / f"{search.study}{FINAL_SUFFIX}"
        with closing(self._executor(final_dir, search.run_seconds)) as executor:
            if may_have_runs_left(final_dir):
                executor.start_early()
            final = final_plan(setup, winning_settings(outcomes), self.fingerprint_of)
            options: dict[str, Any] = {
                "runtime": self.runtime,
                "tracker": self._tracker(final_dir),
                "progress": make_progress(),
                "steal_lock": self.steal_lock,
            }
            if (share := self._sharing(executor)) is None:
                outcome = run_study(final, final_dir, executor, **options)
            else:
                outcome = run_shared_study(final, final_dir, executor, share=share, **options)
        if outcome.interrupted:
            return _interrupted(outcome)
        control = outcomes[1] if len(outcomes) > 1 else None
        result = result_of(outcomes[0], control, final, final_dir)
        write_result(folder, result)
        print_result(result)
        print(f"next: {command_line('report', folder)}")
        return outcome.exit_code

    def _executor(self, folder: Path, run_seconds: float | None) -> Executor:
        """An executor; a run is stopped after the shorter one of both limits."""
        given = [limit for limit in (run_seconds, self.job_seconds) if limit is not None]
        seconds = min(given) if given and self.jobs else None  # without a worker nothing is stopped
        if self.where is not None:
            cluster: Executor = self.where.cluster(seconds)
            return cluster
        return make_executor(
            self.jobs,
            folder,
            gpus=self.place.gpus,
            job_seconds=seconds,
            silent_seconds=self.silent_seconds,
            lockstep=self.lockstep,
        )

    def _sharing(self, executor: Executor) -> Sharing | None:
        """How runs are given to an executor that may lose them."""
        share: Sharing | None = self.where.sharing(executor) if self.where else None
        return share

    def _tracker(self, folder: Path) -> Tracker:
        return make_tracker(folder, self.track)


def num_ended(folder: Path) -> int:
    """How many trials of a search have ended, as far as its folder tells before it is checked."""
    with suppress(ValueError, OSError):
        return sum(trial.state != "running" for trial in read_trials(folder))
    return 0


def print_result(result: Mapping[str, Any]) -> None:
    """Print the objectives at search time beside the same metrics on test images."""
    rows = []
    for name, variant in result["variants"].items():
        row = [name]
        pairs = zip(result["objectives"], result["test_metrics"], strict=True)
        for objective, metric in pairs:
            row.append(_shown(objective, variant["search"].get(objective)))
            row.append(_shown(metric, variant["test"].get(metric)))
        rows.append(row)
    heads = zip(result["objectives"], result["test_metrics"], strict=True)
    columns = ["variant", *(w for o, m in heads for w in (f"search: {o}", f"test: {m}"))]
    title = f"search {result['study']}"
    console().print(table(title, columns, rows, numbers=len(columns) - 1))
    print(f"{result['num_trials']} trials, {result['search_runs']} runs")


def _shown(name: str, value: float | None) -> str:
    if value is None or name not in COST_OBJECTIVES:
        return percent(value)
    return f"{value:.6g}"


def describe_search(
    config_file: Path, overrides: Sequence[str], trials: int | None, command: "SearchCommand"
) -> list[Any]:
    """The plan of a search as rows of two columns; checks everything, runs nothing."""
    runtime = command.runtime
    config = with_canonical_names(read_config_file(config_file, overrides), runtime.data_root)
    setup = search_of(config, trials=trials)
    print_notes(setup.notes)
    space, search = space_of(setup), setup.search
    require_same_code(command.runs_dir / search.study)
    unread = _unread(setup, runtime)
    check_choices(setup, space, command.fingerprint_of, without=unread)
    known = tuple(name for name in search.datasets if name not in unread)
    require_device(choices_of(setup, space), runtime, command.place)
    found = preflight(_runs_of(setup, known), runtime, command.place)
    if search.storage:
        check_storage(search.storage)
    runs = (search.trials + 1) * len(search.datasets) * len(search.seeds)
    judged = ", ".join(f"{name} ({OBJECTIVES[name].summary})" for name in search.objectives)
    return [
        ("study", search.study),
        ("objectives", judged),
        (
            "trials",
            f"{search.trials} x {len(search.datasets)} datasets x {len(search.seeds)} seeds",
        ),
        (
            "maximum number of runs",
            f"{runs} with the default, then {_final_runs(search)} on test images",
        ),
        ("sampler, pruner", f"@{type(setup.sampler).__name__}, @{type(setup.pruner).__name__}"),
        *((key, _dimension(shape)) for key, shape in space.describe().items()),
        ("conditional settings", ", ".join(space.conditional) or "none"),
        *(("note", line) for line in found.notes()),
        *(("not checked", f"{name}: {reason}") for name, reason in unread.items()),
    ]


def _unread(setup: SearchSetup, runtime: Runtime) -> dict[str, str]:
    """The datasets that are not on this machine, with the reason."""
    unread: dict[str, str] = {}
    for dataset in setup.search.datasets:
        bindings = setup.search.run_bindings(dataset, setup.search.seeds[0])
        settings, _ = planned(setup.base.with_bindings(bindings, "search"))
        try:
            read_dataset(settings, dataset, runtime)
        except ValueError as error:
            unread[dataset] = str(error)
    return unread


def _runs_of(setup: SearchSetup, datasets: Sequence[str]) -> Iterator[Config]:
    """The default configuration on each dataset, in trials and where the winner is judged."""
    for dataset in datasets:
        bindings = setup.search.run_bindings(dataset, setup.search.seeds[0])
        yield setup.base.with_bindings(bindings, "search")
        judged = {key: bindings[key] for key in (f"{ROOT}.dataset", f"{ROOT}.seed")}
        yield setup.base.with_bindings(judged, "search")


def _final_runs(search: Search) -> int:
    return 2 * len(search.datasets) * len(search.final_seeds)


def _dimension(shape: Mapping[str, Any]) -> str:
    if shape["kind"] == "choice":
        return " | ".join(shape["choices"])
    words = [shape["kind"], f"{shape['low']} to {shape['high']}"]
    words += ["log"] if shape["log"] else []
    return ", ".join(words + ([f"step {shape['step']}"] if shape["step"] else []))


def _interrupted(outcome: StudyOutcome) -> int:
    print(interruption(outcome), file=sys.stderr)
    return 3
