"""How a search proceeds: when the sampler is asked, which runs come next, and when it is done.

In rounds, ``round_size`` trials are asked for, written to the ledger, run, and told to the sampler
in order of their numbers when the last one has ended: the sampler receives the same results in the
same order, no matter which run finishes first or which process was killed. In asynchronous mode, a
trial is told when it ends and is replaced at once; the ledger keeps the order, but a second search
would see a different one.
"""

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from core.config import Config, format_value
from core.store.record import RunRecord
from core.store.search import RUNNING, Trial, has_result, write_trials
from experiments.run.runtime import Runtime
from experiments.run.stale import CodeCheck
from experiments.search.ledger import (
    Asked,
    Ledger,
    LedgerEvent,
    Told,
    asked_trials,
    read_events,
    told_trials,
)
from experiments.search.mirror import Mirror, NullMirror, StorageMirror, check_storage
from experiments.search.samplers import Pruner, Sampler
from experiments.search.scorable import check_choices
from experiments.search.settings import (
    OBJECTIVES,
    Search,
    SearchSetup,
    definition_of,
    keep_definition,
    space_of,
)
from experiments.search.space import Choice, Dimension, Space
from experiments.search.trials import TrialRuns, judge, runs_of_trial
from experiments.study.claims import take_back
from experiments.study.driver import Driver, StudyOutcome
from experiments.study.lock import StudyLock
from experiments.study.mirror import NullTracker, Tracker
from experiments.study.planner import Cell, FingerprintOf
from experiments.study.progress import NoProgress, Progress
from experiments.study.share import Sharing, run_scheduled
from experiments.study.status import read_valid_records
from experiments.workers.jobs import Executor

MAX_ATTEMPTS = 3
DIVERGED_ACCURACY = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOutcome:
    """A search after a call: its trials, and the outcome of the runs of this call."""

    scheduler: "TrialScheduler"
    study: StudyOutcome

    @property
    def complete(self) -> bool:
        """Whether all trials have ended; if not, the same call continues."""
        return self.scheduler.complete


def run_trials(
    setup: SearchSetup,
    search_dir: Path,
    executor: Executor,
    *,
    runtime: Runtime,
    fingerprint_of: FingerprintOf,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
    steal_lock: bool = False,
    share: Sharing | None = None,
) -> SearchOutcome:
    """Run what is left of a search; closes the executor and the tracker.

    A run is attempted ``MAX_ATTEMPTS`` times before it counts as failed. ``share`` says how runs
    are given to an executor that may lose them (see ``experiments.study.share``).

    Raises ValueError, before any run, for an invalid space, for a storage that cannot be used, for
    another search of this name in the folder, for trials that were made by other code, and for a
    folder in use by another driver.
    """
    progress = progress or NoProgress()
    space = space_of(setup)
    definition = definition_of(setup, space, fingerprint_of)
    check_choices(setup, space, fingerprint_of)
    url = setup.search.storage
    if url:
        check_storage(url)
    with StudyLock(search_dir, steal=steal_lock):
        take_back(search_dir)
        keep_definition(definition, search_dir)
        require_same_code(search_dir)
        ledger = Ledger(search_dir)
        if ledger.num_lost:
            progress.note(
                f"{ledger.path}: a torn end of {ledger.num_lost} line(s) was cut off and kept as "
                f"{ledger.kept.name if ledger.kept else ledger.path.name}; its trials are asked "
                "for again"
            )
        _check_length(setup, ledger, search_dir)
        mirror = StorageMirror(search_dir, url, progress) if url else NullMirror()
        scheduler = TrialScheduler(
            OptunaStudy(setup.search, space, setup.sampler, setup.pruner),
            ledger,
            setup.base,
            fingerprint_of,
            mirror=mirror,
        )
        outcome = _run(
            scheduler, search_dir, executor, runtime, tracker or NullTracker(), progress, share
        )
        try:
            scheduler.publish()
        except OSError:
            if not outcome.paused:
                raise
    return SearchOutcome(scheduler=scheduler, study=outcome)


def _run(
    scheduler: "TrialScheduler",
    search_dir: Path,
    executor: Executor,
    runtime: Runtime,
    tracker: Tracker,
    progress: Progress,
    share: Sharing | None,
) -> StudyOutcome:
    """Run what the scheduler says."""
    if share is None:
        driver = Driver(search_dir, executor, runtime, tracker, progress, scheduler=scheduler)
        return driver.run(scheduler.begin(), max_attempts=MAX_ATTEMPTS, retry_failed=False)
    return run_scheduled(
        scheduler.begin(),
        search_dir,
        executor,
        scheduler=scheduler,
        share=share,
        runtime=runtime,
        tracker=tracker,
        progress=progress,
        max_attempts=MAX_ATTEMPTS,
    )


def require_same_code(search_dir: Path) -> None:
    """Raise ValueError where the code has changed since trials of a search ended: later ones
    depend on them. The runs of a trial that has not ended are made again instead.
    """
    events = read_events(search_dir)
    told, check = told_trials(events), CodeCheck()
    changes: dict[str, list[int]] = {}
    for number, asked in asked_trials(events).items():
        if number in told:
            stale = check.stale(search_dir, read_valid_records(search_dir, asked.runs))
            for change in dict.fromkeys(stale.values()):
                changes.setdefault(change, []).append(number)
    for change, trials in changes.items():
        raise ValueError(
            f"the code changed since {len(trials)} of {len(told)} trials of {search_dir.name!r} "
            f"were made: {change}; later trials depend on them: restore that code, or use another "
            "search.study"
        )


def _check_length(setup: SearchSetup, ledger: Ledger, search_dir: Path) -> None:
    """Raises ValueError for a number of trials that is no longer possible for the search."""
    asked = len(asked_trials(ledger.events))
    wanted = setup.search.trials
    if wanted < asked:
        raise ValueError(
            f"search.trials is {wanted}, but {asked} trials of {search_dir.name!r} have begun "
            f"already: ask for {asked} or more"
        )
    if wanted > asked and has_result(search_dir):
        raise ValueError(
            f"the winner of {search_dir.name!r} was evaluated on test images after {asked} trials, "
            f"and a longer search would choose again: use {asked} trials, or another search.study"
        )


class TrialScheduler:
    """Gives a driver the runs of a search; see ``experiments.study.driver.Scheduler``.

    Raises ValueError for a ledger whose trials cannot be reproduced.
    """

    def __init__(
        self,
        study: "OptunaStudy",
        ledger: Ledger,
        base: Config,
        fingerprint_of: FingerprintOf,
        *,
        mirror: Mirror,
    ) -> None:
        self.study = study
        self.search: Search = study.search
        self.ledger = ledger
        self.fingerprint_of = fingerprint_of
        self.mirror = mirror
        study.replay(ledger.events)
        self.default = self._trial(None, {}, base)
        self.asked = asked_trials(ledger.events)
        self.told = told_trials(ledger.events)
        self.open = [self._reopened(e) for n, e in self.asked.items() if n not in self.told]

    @property
    def complete(self) -> bool:
        """Whether every trial was told and the default has run."""
        return len(self.told) >= self.search.trials and not self.default.waits

    @property
    def total(self) -> int:
        """The maximum number of runs: all trials and the default."""
        return (self.search.trials + 1) * len(self.default.cells)

    @property
    def done(self) -> int:
        """The number of those runs that ended or were pruned with their trial."""
        waiting = sum(len(trial.records) for trial in (self.default, *self.open))
        return len(self.told) * len(self.default.cells) + waiting

    def begin(self) -> list[Cell]:
        """The first runs: those of the default, and of trials that are running or can begin."""
        cells = [*self.default.cells, *(c for trial in self.open for c in trial.stages[0])]
        cells += self._ask()
        self.publish()
        return cells

    def ended(self, cell: Cell, record: RunRecord) -> Sequence[Cell]:
        """The runs that can begin after this one has ended."""
        if self.default.waits_for(cell.identity):
            self.default.records[cell.identity] = record
        following: list[Cell] = []
        for trial in self.open:
            if trial.told is None and trial.waits_for(cell.identity):
                trial.records[cell.identity] = record
                following += self._advance(trial)
        self._tell()
        return following + self._ask()

    def _advance(self, trial: TrialRuns) -> list[Cell]:
        """Continue a trial whose current stages are done: end it, or begin the next stage."""
        following: list[Cell] = []
        while not trial.waits and trial.told is None:
            assert trial.number is not None
            trouble = any(record.status != "finished" for record in trial.records.values())
            if trouble or trial.num_begun == len(trial.stages):
                trial.told = judge(trial, self.search, pruned=False)
            elif self.study.should_prune(trial.number, trial.parts(self.search)):
                trial.told = judge(trial, self.search, pruned=True)
            else:
                trial.num_begun += 1
                following += trial.stages[trial.num_begun - 1]
        return following

    def _tell(self) -> None:
        """Tell the sampler what has ended: a whole round in order or, in asynchronous mode, at
        once.
        """
        ended = [trial for trial in self.open if trial.told is not None]
        if not ended or (self.search.mode == "rounds" and len(ended) < len(self.open)):
            return
        outcomes = [trial.told for trial in ended if trial.told is not None]
        self.ledger.append(outcomes)
        for told in outcomes:
            self.study.tell(told)
            self.told[told.trial] = told
        self.open = [trial for trial in self.open if trial.told is None]
        self.publish()

    def _ask(self) -> list[Cell]:
        """Ask for the trials that may begin, write them down, and return their first runs."""
        new: list[Asked] = []
        cells: list[Cell] = []
        while len(self.asked) < self.search.trials and self._may_begin():
            number, params = len(self.asked), self.study.ask()
            trial = self._trial(number, params, self.study.config(params))
            runs = tuple(cell.identity for cell in trial.cells)
            self.asked[number] = Asked(trial=number, params=params, runs=runs)
            self.open.append(trial)
            new.append(self.asked[number])
            cells += trial.stages[0]
        self.ledger.append(new)
        return cells

    def _may_begin(self) -> bool:
        """Whether another trial may begin: in rounds, once all earlier rounds were told."""
        size = self.search.round_size
        if self.search.mode == "asynchronous":
            return len(self.open) < size
        return len(self.told) >= len(self.asked) // size * size

    def _trial(self, number: int | None, params: Mapping[str, str], config: Config) -> TrialRuns:
        staged = self.study.pruner.prunes and number is not None
        return runs_of_trial(
            number, params, config, self.search, self.fingerprint_of, staged=staged
        )

    def _reopened(self, asked: Asked) -> TrialRuns:
        """A trial that was asked but not told. Raises ValueError if its runs have changed."""
        trial = self._trial(asked.trial, dict(asked.params), self.study.config(asked.params))
        if asked.runs != tuple(cell.identity for cell in trial.cells):
            raise ValueError(
                f"the runs of trial {asked.trial} of {self.search.study!r} are not those that were "
                "asked for: the code or the data changed; use another search.study"
            )
        return trial

    def publish(self) -> None:
        """Write the ledger as a table for readers, and update the mirror."""
        trials = [
            Trial(
                number=number,
                params=dict(asked.params),
                state=told.state if (told := self.told.get(number)) else RUNNING,
                values=told.values if told else (),
                message=told.message if told else "",
                num_runs=len(told.parts) if told else 0,
            )
            for number, asked in sorted(self.asked.items())
        ]
        write_trials(self.ledger.path.parent, trials, planned=self.search.trials)
        self.mirror.update()


class OptunaStudy:
    """The in-memory study that proposes the trials of one search, in order.

    It is never saved but rebuilt from the ledger by asking and telling in the same order, and every
    proposal must equal the one in the ledger.
    """

    def __init__(self, search: Search, space: Space, sampler: Sampler, pruner: Pruner) -> None:
        import optuna

        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(logging.ERROR)
        self.search = search
        self.space = space
        self.sampler = sampler
        self.pruner = pruner
        self.study = optuna.create_study(
            directions=list(search.directions),
            sampler=sampler.build(search.seed, 0),
            pruner=pruner.build(),
        )
        self.trials: dict[int, Any] = {}
        self.num_reported: dict[int, int] = {}

    def ask(self) -> dict[str, str]:
        """The settings of the next trial, as text; trials are numbered in the order of proposal."""
        number = len(self.trials)
        self.study.sampler = self.sampler.build(self.search.seed, number)
        trial = self.study.ask()
        assert trial.number == number
        self.trials[number] = trial
        found = self.space.propose(partial(_suggested, trial))
        return {key: format_value(value) for key, value in found.items()}

    def config(self, params: Mapping[str, str]) -> Config:
        """The configuration of a trial."""
        return self.space.config(self.space.bindings(params))

    def should_prune(self, number: int, parts: Sequence[float]) -> bool:
        """Whether the pruner ends a trial after these runs; depends only on trials already told."""
        self._report(number, parts)
        return bool(self.trials[number].should_prune()) if parts else False

    def tell(self, told: Told) -> None:
        """Process the outcome of a trial. A diverged trial counts as accuracy 0."""
        from optuna.trial import TrialState

        trial = self.trials[told.trial]
        self._report(told.trial, told.parts)
        maximized = all(OBJECTIVES[name].maximized for name in self.search.objectives)
        if told.state == "complete":
            self.study.tell(trial, list(told.values))
        elif told.state == "diverged" and maximized:  # no cost would be meaningful
            self.study.tell(trial, [DIVERGED_ACCURACY] * len(self.search.objectives))
        elif told.state == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def replay(self, events: Iterable[LedgerEvent]) -> None:
        """Replay a ledger. Raises ValueError where a proposal differs from the ledger."""
        for event in events:
            if isinstance(event, Told):
                self.tell(event)
                continue
            again = self.ask()
            if again != dict(event.params):
                raise ValueError(
                    f"trial {event.trial} of {self.search.study!r} would now be {again}, but the "
                    f"ledger has {dict(event.params)}: the sampler behaves differently here; use "
                    "the library versions and the machine type it began with, or another "
                    "search.study"
                )

    def _report(self, number: int, parts: Sequence[float]) -> None:
        """Report to the pruner those values of a trial that were not reported before."""
        first = self.num_reported.setdefault(number, 0)
        values = self.pruner.intermediate_values(parts)
        for step, value in enumerate(values[first:], start=first):
            self.trials[number].report(value, step)
            self.num_reported[number] = step + 1


def _suggested(trial: Any, dimension: Dimension) -> Any:
    """The sampler's proposal for one dimension; choices are identified by their text."""
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(dimension.key, dimension.texts)
    low, high, log = dimension.low, dimension.high, dimension.log
    if not dimension.whole:
        return trial.suggest_float(dimension.key, low, high, log=log, step=dimension.step)
    step = round(dimension.step or 1)
    return trial.suggest_int(dimension.key, round(low), round(high), log=log, step=step)
