"""The ``search`` command: trials, the random control, and the judgment of the winner."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import experiments.run.registered  # noqa: F401  (fills the registry)
from experiments.cli.console import console, percent, table
from experiments.cli.grid import executor_of
from experiments.configs import read_config
from experiments.run.run import Place, fingerprints
from experiments.search.course import Course, run_trials
from experiments.search.importances import write_importances
from experiments.search.mirror import check_storage
from experiments.search.result import (
    FINAL_SUFFIX,
    final_plan,
    winning_settings,
    write_best,
    write_result,
)
from experiments.search.settings import AIMS, Parsed, search_of
from experiments.search.space import Space
from experiments.study.driver import run_study
from experiments.study.planner import FingerprintOf
from experiments.study.progress import make_progress
from experiments.study.tracking import MlflowTracker, NullTracker, Tracker
from experiments.workers.jobs import Executor

COSTS = ("train_seconds", "trainable_parameters")


class SearchCommand:
    """One call of the command: where it runs, with how many workers, and who is told."""

    def __init__(
        self,
        runs_dir: Path,
        place: Place,
        *,
        jobs: int = -1,
        track: bool = True,
        steal_lock: bool = False,
    ) -> None:
        self.runs_dir = runs_dir
        self.place = place
        self.jobs = jobs
        self.track = track
        self.steal_lock = steal_lock
        self.fingerprint_of: FingerprintOf = partial(
            fingerprints, cache_dir=place.cache_dir, data_root=place.data_root
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
        """Run what is left of a search; the exit code.

        Raises ValueError for whatever is wrong with it, before the first trial.
        """
        config = read_config(config_file, overrides)
        searches = [search_of(config, trials=trials)]
        searches += [search_of(config, trials=trials, control=True)] if control else []
        courses: list[Course] = []
        for parsed in searches:
            course = self._trials(parsed)
            if not course.complete:
                return _interrupted()
            folder = self.runs_dir / parsed.search.study
            write_importances(folder)
            print(f"the winner: {write_best(course, folder)}")
            courses.append(course)
        return self._judge(searches[0], courses) if final else 0

    def _trials(self, parsed: Parsed) -> Course:
        folder = self.runs_dir / parsed.search.study
        if parsed.search.mode == "asynchronous":
            print("asynchronous: faster with many workers, and not reproducible", file=sys.stderr)
        return run_trials(
            parsed,
            folder,
            self._executor(folder, parsed.search.run_seconds),
            place=self.place,
            fingerprint_of=self.fingerprint_of,
            tracker=self._tracker(folder),
            progress=make_progress(),
            steal_lock=self.steal_lock,
        )

    def _judge(self, parsed: Parsed, courses: Sequence[Course]) -> int:
        """Train the default and the winners with fresh seeds, and score them on test images."""
        search, folder = parsed.search, self.runs_dir / parsed.search.study
        final_dir = self.runs_dir / f"{search.study}{FINAL_SUFFIX}"
        made = final_plan(parsed, winning_settings(courses), self.fingerprint_of)
        outcome = run_study(
            made,
            final_dir,
            self._executor(final_dir, search.run_seconds),
            place=self.place,
            tracker=self._tracker(final_dir),
            progress=make_progress(),
            steal_lock=self.steal_lock,
        )
        if outcome.interrupted:
            return _interrupted()
        control = courses[1] if len(courses) > 1 else None
        print_result(write_result(courses[0], control, made, folder, final_dir))
        print(f"next: python main.py report {folder}")
        return outcome.exit_code

    def _executor(self, folder: Path, run_seconds: float | None) -> Executor:
        return executor_of(self.jobs, folder, job_seconds=run_seconds)

    def _tracker(self, folder: Path) -> Tracker:
        return MlflowTracker(folder) if self.track else NullTracker()


def print_result(result: Mapping[str, Any]) -> None:
    """What was promised at search time beside what was kept on test images."""
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
    if value is None or name not in COSTS:
        return percent(value)
    return f"{value:.6g}"


def describe_search(config_file: Path, overrides: Sequence[str], trials: int | None) -> list[Any]:
    """What a search would do, as rows of two columns; checks everything, runs nothing."""
    parsed = search_of(read_config(config_file, overrides), trials=trials)
    space, search = Space(parsed.search.space, parsed.base), parsed.search
    if search.storage:
        check_storage(search.storage)
    runs = (search.trials + 1) * len(search.datasets) * len(search.seeds)
    judged = ", ".join(f"{name} ({AIMS[name].summary})" for name in search.objectives)
    return [
        ("study", search.study),
        ("judged by", judged),
        (
            "trials",
            f"{search.trials} x {len(search.datasets)} datasets x {len(search.seeds)} seeds",
        ),
        ("runs at most", f"{runs} with the default's, then {_final_runs(search)} on test images"),
        ("sampler, pruner", f"@{type(parsed.sampler).__name__}, @{type(parsed.pruner).__name__}"),
        *((key, _dimension(shape)) for key, shape in space.describe().items()),
        ("only in some trials", ", ".join(space.conditional) or "none"),
    ]


def _final_runs(search: Any) -> int:
    return 2 * len(search.datasets) * len(search.final_seeds)


def _dimension(shape: Mapping[str, Any]) -> str:
    if shape["kind"] == "choice":
        return " | ".join(shape["choices"])
    words = [shape["kind"], f"{shape['low']} to {shape['high']}"]
    words += ["log"] if shape["log"] else []
    return ", ".join(words + ([f"step {shape['step']}"] if shape["step"] else []))


def _interrupted() -> int:
    again = shlex.join(["python", "main.py", *sys.argv[1:]])
    print(f"interrupted; the same command does the rest: {again}", file=sys.stderr)
    return 3
