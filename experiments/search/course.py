"""One search from its definition to its last trial; resumable at any moment."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core.store.search import has_result
from experiments.run.runtime import Runtime
from experiments.search.definition import definition_of, keep_definition
from experiments.search.ledger import Ledger
from experiments.search.mirror import NullMirror, StorageMirror, check_storage
from experiments.search.proposer import Proposer
from experiments.search.rounds import Rounds, write_trials
from experiments.search.settings import Parsed
from experiments.search.space import Space
from experiments.study.driver import Driver, StudyOutcome
from experiments.study.lock import StudyLock
from experiments.study.planner import FingerprintOf
from experiments.study.progress import NoProgress, Progress
from experiments.study.tracking import NullTracker, Tracker
from experiments.workers.jobs import Executor

MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A search after a call: its trials, and what became of the runs of this call."""

    rounds: Rounds
    outcome: StudyOutcome

    @property
    def complete(self) -> bool:
        """Whether all trials have ended; otherwise the same call does the rest."""
        return self.rounds.complete


def run_trials(
    parsed: Parsed,
    search_dir: Path,
    executor: Executor,
    *,
    runtime: Runtime,
    fingerprint_of: FingerprintOf,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
    steal_lock: bool = False,
) -> Course:
    """Run what a search lacks; closes the executor and the tracker.

    A run is tried ``MAX_ATTEMPTS`` times before it counts as failed.

    Raises ValueError, before any run, for a space that breaks a rule, for a storage that cannot be
    used, for another search of this name in the folder, and for a folder that another driver works
    in.
    """
    progress = progress or NoProgress()
    space = Space(parsed.search.space, parsed.base)
    definition = definition_of(parsed, space, fingerprint_of)
    url = parsed.search.storage
    if url:
        check_storage(url)
    with StudyLock(search_dir, steal=steal_lock):
        keep_definition(definition, search_dir)
        ledger = Ledger(search_dir)
        if ledger.lost:
            progress.note(
                f"{ledger.path}: a torn end of {ledger.lost} line(s) was cut off and kept as "
                f"{ledger.path.name}.damaged; its trials are asked for again"
            )
        _check_length(parsed, ledger, search_dir)
        proposer = Proposer(parsed.search, space, parsed.sampler, parsed.pruner)
        mirror = StorageMirror(search_dir, url, progress) if url else NullMirror()
        on_told = partial(_after_round, search_dir, mirror)
        rounds = Rounds(proposer, ledger, parsed.base, fingerprint_of, on_told=on_told)
        driver = Driver(
            search_dir, executor, runtime, tracker or NullTracker(), progress, scheduler=rounds
        )
        first = rounds.begin()
        _after_round(search_dir, mirror, rounds)
        outcome = driver.run(first, max_attempts=MAX_ATTEMPTS, retry_failed=False)
        _after_round(search_dir, mirror, rounds)
    return Course(rounds=rounds, outcome=outcome)


def _after_round(search_dir: Path, mirror: "StorageMirror | NullMirror", rounds: Rounds) -> None:
    write_trials(rounds, search_dir)
    mirror.update()


def _check_length(parsed: Parsed, ledger: Ledger, search_dir: Path) -> None:
    """Raises ValueError for a number of trials that the search can no longer have."""
    asked = len({event.trial for event in ledger.events})
    wanted = parsed.search.trials
    if wanted < asked:
        raise ValueError(
            f"search.trials is {wanted}, but {asked} trials of {search_dir.name!r} were begun "
            f"already: ask for {asked} or more"
        )
    if wanted > asked and has_result(search_dir):
        raise ValueError(
            f"the winner of {search_dir.name!r} was judged on test images after {asked} trials, "
            f"and a longer search would choose again: take {asked} trials, or another search.study"
        )
