"""Studies and searches in Python: plan and run a grid, its scores as a table, its report; the
winner of a search.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import experiments.cli.registered  # noqa: F401  (fills the registry)
from analysis.read.load import load_results
from analysis.render.scores_table import scores_frame
from analysis.report import Report, build_report
from core.plugins import Plugin, load_plugins
from core.store.manifest import has_manifest, read_manifest
from core.store.names import BEST_NAME
from core.store.search import (
    TUNED,
    Trial,
    read_definition,
    read_result,
    read_trials,
)
from experiments.configs import config_path, read_config_file
from experiments.run.dataset_names import with_canonical_names
from experiments.run.devices import devices_of
from experiments.run.preflight import preflight, require_readable
from experiments.run.run import fingerprints
from experiments.search.status import search_status
from experiments.study.driver import StudyOutcome, run_study
from experiments.study.dry_run import unfinished_configs
from experiments.study.planner import Plan, plan
from experiments.study.progress import NoProgress
from experiments.study.trackers import make_tracker, mirrors_named
from experiments.workers.local import make_executor
from experiments.workers.placement import place
from refinelab.runs import LoadedRun, load_run, runtime_of

log = logging.getLogger(__name__)

OnProgress = Callable[[float, float], None]
"""Is called with the number of runs that are done, and of all."""


def load_plugin(name: str | Path) -> Plugin:
    """Load a plug-in: a .py file, a folder, or the name of a module. See ``docs/api.md``."""
    return load_plugins([str(name)])[0]


class CountedProgress(NoProgress):
    """Passes the number of finished runs on."""

    def __init__(self, on_progress: OnProgress) -> None:
        self.on_progress = on_progress
        self.done = self.total = 0

    def begin(self, *, total: int, done: int) -> None:
        """Count what was finished before."""
        self.total = total
        self.catch_up(done)

    def finished(self, key: str, label: str, status: str) -> None:
        """Count one more."""
        self.catch_up(self.done + 1)

    def catch_up(self, done: int) -> None:
        """Count to ``done``."""
        self.done = max(self.done, done)
        self.on_progress(self.done, self.total)


class Study:
    """A study: a planned one, or one that is only read; see ``open_study``."""

    def __init__(
        self, folder: Path, made: Plan | None, *, runs: Path, data_root: Path | None, device: str
    ) -> None:
        self.folder = folder
        self.plan = made
        self._places: dict[str, Any] = {"runs": runs, "data_root": data_root, "device": device}

    def __repr__(self) -> str:
        return f"Study({str(self.folder)!r})"

    def cells(self) -> pd.DataFrame:
        """A row per cell: variant, dataset, seed, the identity of its run, and a note."""
        found = self.plan.cells if self.plan is not None else read_manifest(self.folder).cells
        return pd.DataFrame([cell.to_dict() for cell in found])

    def run(
        self,
        *,
        jobs: int = 0,
        jobs_per_gpu: int | None = None,
        on_progress: OnProgress | None = None,
        track: bool | str = False,
        retry_failed: bool = False,
    ) -> StudyOutcome:
        """Run what is left. ``jobs`` worker processes on the CPU, or 0 for this one, or
        ``jobs_per_gpu`` on each GPU of the study's device; ``track`` mirrors the runs in MLflow, or
        where it says: "mlflow", "wandb" or "both".

        Raises ValueError for data that cannot be read, for a study that was opened by its folder,
        and for a mirror that does not exist or is not installed.
        """
        if self.plan is None:
            raise ValueError(f"{self.folder} was opened to be read: open its configuration to run")
        mirrors = track if isinstance(track, str) else "mlflow" if track else "none"
        mirrors_named(mirrors)
        some = -1 if jobs_per_gpu is not None and not jobs else jobs
        placement = place(self._places["device"], jobs=some, jobs_per_gpu=jobs_per_gpu)
        if placement.note:
            log.warning(placement.note)
        runtime = runtime_of(**{**self._places, "device": placement.device})
        left = list(unfinished_configs(self.plan, self.folder))
        with closing(
            make_executor(placement.workers, self.folder, gpus=placement.gpus)
        ) as executor:
            if left:
                executor.start_early()
            require_readable(preflight(left, runtime, placement.work).decode(runtime), runtime)
            return run_study(
                self.plan,
                self.folder,
                executor,
                runtime=runtime,
                tracker=make_tracker(self.folder, mirrors),
                progress=None if on_progress is None else CountedProgress(on_progress),
                retry_failed=retry_failed,
            )

    def results(self) -> pd.DataFrame:
        """The scores as a table, one row per run, as fractions: what ``export`` writes."""
        return scores_frame(load_results(self.folder))

    def report(self, out: Path | str | None = None, **choices: Any) -> Report:
        """Write the report, and return it; ``report.page`` is the file to open.

        ``choices`` are those of ``analysis.report.build_report``: baseline, references, metric,
        figures, ...
        """
        place = self.folder / "report" if out is None else Path(out)
        return build_report(self.folder, out=place, **choices)

    def load_run(
        self, variant: str, dataset: str, seed: int | None = None, **choices: Any
    ) -> LoadedRun:
        """The run of a cell; ``seed`` may be left out where there is one. See ``load_run``."""
        cells = self.plan.cells if self.plan is not None else read_manifest(self.folder).cells
        found = {
            cell.identity
            for cell in cells
            if (cell.variant, cell.dataset) == (variant, dataset) and seed in (None, cell.seed)
        }
        if len(found) != 1:
            named = sorted({f"{cell.variant!r} on {cell.dataset!r}" for cell in cells})
            raise ValueError(
                f"{len(found) or 'no'} runs of {self.folder} are {variant!r} on {dataset!r}, seed "
                f"{seed}; it has {', '.join(named)}"
            )
        return load_run(self.folder / found.pop(), **{**self._places, **choices})


def open_study(
    study: Path | str,
    overrides: Sequence[str] = (),
    *,
    runs: Path | str = "runs",
    data_root: Path | str | None = None,
    device: str = "cpu",
    plugins: Sequence[str] = (),
) -> Study:
    """A study of a grid's configuration, planned and checked but not run, or of a study folder.

    ``study`` is a .gin file, the name of a shipped grid, or a folder below ``runs``. Raises
    ValueError for anything that the command ``grid --dry-run`` refuses.
    """
    places: dict[str, Any] = {
        "runs": Path(runs),
        "data_root": None if data_root is None else Path(data_root),
        "device": device,
    }
    load_plugins(plugins)
    if has_manifest(Path(study)):
        return Study(Path(study), None, **places)
    runtime = runtime_of(**{**places, "device": devices_of(device)[0]})
    config = read_config_file(config_path(str(study)), overrides)
    fingerprint_of = partial(fingerprints, cache_dir=runtime.cache_dir, data_root=runtime.data_root)
    made = plan(with_canonical_names(config, runtime.data_root), fingerprint_of)
    return Study(Path(runs) / made.grid.study, made, **places)


class LoadedSearch:
    """A search as it is on disk; see ``load_search``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.definition = read_definition(folder)

    def __repr__(self) -> str:
        return f"LoadedSearch({str(self.folder)!r})"

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Its trials in order, with their settings as text and their objectives."""
        return read_trials(self.folder)

    @property
    def best(self) -> dict[str, Any]:
        """The best trial so far: its number, its settings as text, and its objectives by name.

        Raises ValueError where no trial is complete.
        """
        found: dict[str, Any] | None = search_status(self.folder)["best"]
        if found is None:
            raise ValueError(f"no trial of {self.folder} is complete")
        return found

    @property
    def best_config(self) -> Path:
        """The winner's complete configuration, which ``train`` takes."""
        path = self.folder / BEST_NAME
        if not path.is_file():
            raise ValueError(f"{self.folder} has no {BEST_NAME}: the search has not ended")
        return path

    def table(self) -> pd.DataFrame:
        """A row per trial: number, state, settings as text, objectives."""
        names = self.definition["objectives"]
        return pd.DataFrame(
            [
                {
                    "trial": trial.number,
                    "state": trial.state,
                    **trial.params,
                    **dict(zip(names, trial.values, strict=False)),
                }
                for trial in self.trials
            ]
        )

    def load_best(
        self, dataset: str | None = None, seed: int | None = None, **choices: Any
    ) -> LoadedRun:
        """The winner as it was trained with fresh seeds and scored on test images: the run on a
        dataset, by default the first, with a seed, by default the first. See ``load_run``.
        """
        result = read_result(self.folder)
        if result is None:
            raise ValueError(f"the winner of {self.folder} was not scored on test images yet")
        final = Study(
            self.folder.parent / result["final_study"],
            None,
            **{"runs": self.folder.parent, "data_root": None, "device": "cpu", **choices},
        )
        cells = [cell for cell in read_manifest(final.folder).cells if cell.variant == TUNED]
        chosen = dataset or cells[0].dataset
        seeds = [cell.seed for cell in cells if cell.dataset == chosen]
        return final.load_run(TUNED, chosen, seeds[0] if seeds and seed is None else seed)


def load_search(folder: Path | str) -> LoadedSearch:
    """A search: its trials, its winner, and the winner's runs. Raises ValueError for any other
    folder.
    """
    return LoadedSearch(Path(folder))
