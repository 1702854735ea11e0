"""Runs the cells of a study: submits what is not done, commits records, stops when asked to.

The driver alone writes records, so a run is done exactly when its result arrived here. It can be
killed at any moment; the same call again does the rest.
"""

import json
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, Self

from core.config import config_from_text
from core.store.record import RECORD_NAME, STATUSES, RunRecord, from_json, write_record
from experiments.study.lock import StudyLock
from experiments.study.planner import ROOT, Cell, Plan
from experiments.study.progress import NoProgress, Progress
from experiments.study.status import set_aside, stored_cell, valid_record, write_manifest
from experiments.study.tracking import CLOSE_SECONDS, NullTracker, Tracker
from experiments.workers.jobs import Event, Executor, Job

if TYPE_CHECKING:
    from experiments.run.run import Place

LOG_NAME = "output.log"
STOPPING = "stopping when the running cells are done; once more stops at once"
POLL_SECONDS = 0.5
HURRIED_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOutcome:
    """What became of the cells.

    ``skipped`` were finished before; ``failed`` and ``diverged`` include those of earlier calls;
    ``left`` were not run because the study was interrupted.
    """

    done: tuple[Cell, ...]
    skipped: tuple[Cell, ...]
    failed: tuple[Cell, ...]
    diverged: tuple[Cell, ...]
    left: tuple[Cell, ...]

    @property
    def interrupted(self) -> bool:
        """Whether something is left to do; the same call again does it."""
        return bool(self.left)

    @property
    def exit_code(self) -> int:
        """0 all good, 1 some failed or diverged, 3 interrupted and resumable."""
        if self.interrupted:
            return 3
        return 1 if self.failed or self.diverged else 0


def run_study(
    plan: Plan,
    study_dir: Path,
    executor: Executor,
    *,
    place: "Place",
    tracker: Tracker | None = None,
    progress: Progress | None = None,
    max_attempts: int = 3,
    retry_failed: bool = False,
    steal_lock: bool = False,
) -> StudyOutcome:
    """Run what a plan has that the study folder has not; closes the executor and the tracker.

    A cell that failed ``max_attempts`` times gets a record that says so, and later calls skip it
    unless ``retry_failed``. The first Ctrl-C or SIGTERM lets running cells finish, the second stops
    at once.

    Raises:
        ValueError: another driver works on the study.
    """
    progress = progress or NoProgress()
    with StudyLock(study_dir, steal=steal_lock):
        if change := write_manifest(plan, study_dir):
            progress.note(str(change))
        driver = Driver(study_dir, executor, place, tracker or NullTracker(), progress)
        return driver.run(plan.runs, max_attempts=max_attempts, retry_failed=retry_failed)


def rerun(
    study_dir: Path,
    identity: str,
    executor: Executor,
    *,
    place: "Place",
    tracker: Tracker | None = None,
    progress: Progress | None = None,
) -> StudyOutcome:
    """Run one cell of a study again, whatever its state.

    Its old record stays beside the new one, as ``record.json.previous``.
    """
    with StudyLock(study_dir):
        cell = stored_cell(study_dir, identity)
        if (study_dir / identity / RECORD_NAME).exists():
            set_aside(study_dir, identity, "previous")
        driver = Driver(
            study_dir, executor, place, tracker or NullTracker(), progress or NoProgress()
        )
        return driver.run((cell,), max_attempts=1, retry_failed=True)


class Feed(Protocol):
    """Who has more cells than those that a driver begins with. ``total`` counts all at most,
    ``done`` those that ended or need not be run any more.
    """

    @property
    def total(self) -> int: ...

    @property
    def done(self) -> int: ...

    def ended(self, cell: Cell, record: RunRecord) -> Sequence[Cell]:
        """The cells that can run now that this one has ended, in this call or an earlier one."""
        ...


class NoFeed:
    """Has no more cells."""

    total = 0
    done = 0

    def ended(self, cell: Cell, record: RunRecord) -> Sequence[Cell]:
        return ()


class Driver:
    """Runs cells, once, and those that a feed adds as they end.

    The caller holds the study's lock.
    """

    def __init__(
        self,
        study_dir: Path,
        executor: Executor,
        place: "Place",
        tracker: Tracker,
        progress: Progress,
        feed: Feed | None = None,
    ) -> None:
        self.study_dir = study_dir
        self.executor = executor
        self.place = place
        self.tracker = tracker
        self.progress = progress
        self.feed: Feed = feed or NoFeed()
        self.open: dict[str, Cell] = {}
        self.queued: dict[str, None] = {}
        self.left: list[Cell] = []
        self.skipped: list[Cell] = []
        self.ended: dict[str, list[Cell]] = {status: [] for status in STATUSES}

    def run(self, cells: Sequence[Cell], *, max_attempts: int, retry_failed: bool) -> StudyOutcome:
        """Run the cells that are not done; the outcome."""
        self._admit_all(cells, retry_failed)
        total = max(len(cells), self.feed.total)
        ended = sum(map(len, self.ended.values()))
        there = max(len(self.skipped) + ended, self.feed.done)
        self.progress.begin(total=total, done=there)
        with _Interrupts() as interrupts, suppress(KeyboardInterrupt):
            try:
                with suppress(KeyboardInterrupt):
                    self._work(interrupts, max_attempts, retry_failed)
            finally:
                self.executor.close()
                self.progress.end()
            patience = HURRIED_SECONDS if interrupts.count > 1 else CLOSE_SECONDS
            if warning := self.tracker.close(seconds=patience):
                self.progress.note(warning)
        return self._outcome()

    def _admit_all(self, cells: Sequence[Cell], retry_failed: bool) -> list[Cell]:
        """Sort cells, and what the feed has for those that are done; the cells to be run."""
        waiting, to_run = list(cells), []
        while waiting:
            cell = waiting.pop(0)
            if cell.identity in self.open:
                continue
            record = self._admit(cell, retry_failed)
            if record is None:
                to_run.append(cell)
            else:
                waiting += self.feed.ended(cell, record)
        return to_run

    def _admit(self, cell: Cell, retry_failed: bool) -> RunRecord | None:
        """Sort a cell by what its folder holds, its record where it is done. A damaged record is
        kept under another name.
        """
        try:
            record = valid_record(self.study_dir, cell.identity)
        except ValueError as error:
            kept = set_aside(self.study_dir, cell.identity, "damaged")
            self.progress.note(f"{error}; kept as {kept.name}, {cell.label} runs again")
            record = None
        if record is None or (retry_failed and record.status == "failed"):
            self.open[cell.identity] = cell
            return None
        if record.status == "finished":
            self.skipped.append(cell)
        else:
            self.ended[record.status].append(cell)
        return record

    def _submit(self, cells: Sequence[Cell], max_attempts: int) -> None:
        for cell in cells:
            self.queued[cell.identity] = None
            self.executor.submit(self._job(cell, max_attempts))

    def _work(self, interrupts: "_Interrupts", max_attempts: int, retry_failed: bool) -> None:
        """Submit all open cells and see them end; once interrupted, only those that run already."""
        self._submit(list(self.open.values()), max_attempts)
        draining = False
        while self.open:
            if interrupts.count and not draining:
                draining = True
                self.progress.note(STOPPING)
            if draining:
                for key in [key for key in self.queued if self.executor.cancel(key)]:
                    self.left.append(self.open.pop(key))
                    del self.queued[key]
            for event in self.executor.poll(POLL_SECONDS):
                ended = self._handle(event)
                if ended is not None and not draining:
                    more = self.feed.ended(*ended)
                    self._submit(self._admit_all(more, retry_failed), max_attempts)
                    self.progress.catch_up(self.feed.done)

    def _job(self, cell: Cell, max_attempts: int) -> Job:
        run_dir = self.study_dir / cell.identity
        payload = {
            "config": cell.config_text,
            "run_dir": str(run_dir),
            "identity": cell.identity,
            "variant": cell.variant,
            "factors": dict(cell.factors),
            "cache_dir": str(self.place.cache_dir),
            "data_root": str(self.place.data_root) if self.place.data_root else None,
            "device": self.place.device,
        }
        return Job(
            key=cell.identity,
            payload=payload,
            affinity=cell.dataset,
            max_attempts=max_attempts,
            log=run_dir / LOG_NAME,
        )

    def _handle(self, event: Event) -> tuple[Cell, RunRecord] | None:
        """Take in one event; the cell and its record if that was the end of it."""
        cell = self.open[event.key]
        if event.kind in ("started", "progress"):
            self.queued.pop(event.key, None)
            fraction = event.result.get("epoch", 0.0) / event.result.get("epochs", 1.0)
            self.progress.running(event.key, cell.label, fraction)
        elif event.kind == "retry":
            self.queued[event.key] = None
            self.progress.note(f"{cell.label}: try {event.attempt} failed: {event.message}")
        else:
            record = self._record_of(cell, event)
            self._commit(cell, record)
            del self.open[event.key]
            return cell, record
        return None

    def _commit(self, cell: Cell, record: RunRecord) -> None:
        run_dir = self.study_dir / cell.identity
        write_record(run_dir, record)
        self.ended[record.status].append(cell)
        if record.status == "failed":
            self.progress.note(f"{cell.label}: {record.message}, in {run_dir}")
        self.progress.finished(cell.identity, cell.label, record.status)
        self.tracker.finished(run_dir)

    def _record_of(self, cell: Cell, event: Event) -> RunRecord:
        """The record of an ended job. What the plan says stands above what the run says."""
        if event.kind == "failed":
            tries = "1 try" if event.attempt == 1 else f"{event.attempt} tries"
            logged = (self.study_dir / cell.identity / LOG_NAME).exists()
            see = f"; see {LOG_NAME}" if logged else ""
            return _failed_record(cell, f"{event.message} ({tries}{see})")
        try:
            record = from_json(json.dumps(event.result))
        except ValueError as error:
            return _failed_record(cell, f"the run returned no valid record: {error}")
        if record.identity != cell.identity:
            return _failed_record(cell, f"the run returned the record of run {record.identity}")
        return replace(record, variant=cell.variant, factors=cell.factors, seed=cell.seed)

    def _outcome(self) -> StudyOutcome:
        left = (*self.left, *self.open.values())
        return StudyOutcome(
            done=tuple(self.ended["finished"]),
            skipped=tuple(self.skipped),
            failed=tuple(self.ended["failed"]),
            diverged=tuple(self.ended["diverged"]),
            left=left,
        )


def _failed_record(cell: Cell, message: str) -> RunRecord:
    """A record that marks the hole in the table."""
    values = config_from_text(cell.config_text, cell.label).operative(ROOT)
    shots = values.get(f"{ROOT}.shots")
    return RunRecord(
        identity=cell.identity,
        variant=cell.variant,
        factors=cell.factors,
        dataset=cell.dataset,
        protocol=str(values.get(f"{ROOT}.protocol", "")),
        regime="",
        selection=str(values.get(f"{ROOT}.selection", "")),
        seed=cell.seed,
        shots=shots if isinstance(shots, int) else 0,
        status="failed",
        message=message,
    )


class _Interrupts:
    """Counts Ctrl-C and SIGTERM; the second raises KeyboardInterrupt, later ones are ignored."""

    def __init__(self) -> None:
        self.count = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 2:
            raise KeyboardInterrupt
