"""Runs the cells of a study: submits unfinished cells, commits records, stops on request.

The driver alone writes records, so a run is done exactly when its result has arrived here. It can
be killed at any moment; the same call continues. A scheduler may add cells as others end.
"""

import errno
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from core.config import config_from_text
from core.device_faults import Fault
from core.plugins import loaded_plugins
from core.store.atomic import keep_copy
from core.store.code import read_code
from core.store.documents import NewerSchemaError
from core.store.manifest import Manifest, change_of, read_manifest, write_manifest
from core.store.names import (
    CONFIG_NAME,
    DAMAGED_SUFFIX,
    DEFINITION_NAME,
    INSPECTION_NAME,
    MANIFEST_NAME,
    OUTPUT_NAME,
    PREVIOUS_SUFFIX,
    RECORD_NAME,
    RERUN_SUFFIX,
    STALE_SUFFIX,
    TRAINING_NAME,
    WEIGHTS_NAME,
)
from core.store.own_files import FILES
from core.store.record import (
    STATUSES,
    RunRecord,
    from_json,
    has_record,
    read_run,
    rename_record,
    set_aside,
    write_record,
)
from core.store.run_facts import lacked_memory
from core.store.settings import has_config, read_config
from core.store.storage import storage_problem, vanished
from experiments.run.device_check import require_device
from experiments.run.devices import THIS_PROCESS, WorkPlace
from experiments.run.runtime import Runtime
from experiments.run.stale import CodeCheck, counted, runs_of
from experiments.study.claims import take_back
from experiments.study.failed_runs import failed_record
from experiments.study.interrupts import Interrupts
from experiments.study.lock import StudyLock
from experiments.study.mirror import CLOSE_SECONDS, NullTracker, Tracker
from experiments.study.planner import Cell, Plan
from experiments.study.progress import NoProgress, Progress
from experiments.study.status import read_valid_records
from experiments.workers.jobs import Event, Executor, Job

PAUSING = "pausing after the current runs, and no attempt is counted"
STOPPING = "stopping after the current runs; press Ctrl-C again to stop immediately"
POLL_SECONDS = 0.5
MARKS = (MANIFEST_NAME, DEFINITION_NAME)  # of these, a study or a search has one from the beginning
HURRIED_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOutcome:
    """The outcome of the cells.

    ``skipped`` were finished before; ``failed`` and ``diverged`` include those of earlier calls;
    ``left`` are still to be run because the study was interrupted or, with the reason ``paused``,
    because its files could not be written.
    """

    done: tuple[Cell, ...]
    skipped: tuple[Cell, ...]
    failed: tuple[Cell, ...]
    diverged: tuple[Cell, ...]
    left: tuple[Cell, ...]
    paused: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether runs are left; the same call continues with them."""
        return bool(self.left)

    @property
    def exit_code(self) -> int:
        """0: all finished, 1: some failed or diverged, 3: interrupted and resumable."""
        if self.interrupted:
            return 3
        return 1 if self.failed or self.diverged else 0


def run_study(
    plan: Plan,
    study_dir: Path,
    executor: Executor,
    *,
    runtime: Runtime,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
    max_attempts: int = 3,
    retry_failed: bool = False,
    steal_lock: bool = False,
) -> StudyOutcome:
    """Run the unfinished cells of a plan; closes the executor and the tracker.

    A cell that failed ``max_attempts`` times gets a record of the failure, and later calls skip it
    unless ``retry_failed``; one that lacked memory is tried again by every call. A cell whose
    record was made by code that has changed since is run again; once the new record is there, the
    old one is kept as ``record.json.stale``. After the first Ctrl-C, SIGTERM or SIGHUP the current
    runs finish, unless they show no sign of life; the second stops immediately. Where the disk is
    full or the folder cannot be written, the study pauses: no attempt counts, and the same call
    goes on.

    Raises ValueError where another driver works on the study, or a newer version of RefineLab did.
    """
    progress = progress or NoProgress()
    with StudyLock(study_dir, steal=steal_lock):
        take_back(study_dir)
        keep_manifest(study_dir, plan.manifest, progress)
        driver = Driver(study_dir, executor, runtime, tracker or NullTracker(), progress)
        return driver.run(plan.runs, max_attempts=max_attempts, retry_failed=retry_failed)


def keep_manifest(study_dir: Path, manifest: Manifest, progress: Progress) -> None:
    """Write the manifest of a study; tells how it has changed. A damaged one is kept as a copy.

    Raises NewerSchemaError for one of a newer version.
    """
    try:
        if change := change_of(study_dir, manifest):
            progress.note(str(change))
    except NewerSchemaError:
        raise
    except ValueError as error:
        kept = keep_copy(study_dir / MANIFEST_NAME)
        progress.note(f"{error}; it is written again from the configuration, kept as {kept.name}")
    write_manifest(study_dir, manifest)


def rerun(
    study_dir: Path,
    identity: str,
    executor: Executor,
    *,
    runtime: Runtime,
    place: WorkPlace = THIS_PROCESS,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
    steal_lock: bool = False,
) -> StudyOutcome:
    """Repeat the run of one cell of a study, whatever its state.

    The run is made in a folder of its own, and takes the place of the old one when it has ended.
    A run that fails or is interrupted leaves the old one as it was. The old record is kept beside
    the new one as ``record.json.previous``; what was shown of its weights is removed, because it
    would stand for the new ones.
    """
    with StudyLock(study_dir, steal=steal_lock):
        cell = _stored_cell(study_dir, identity)
        config = config_from_text(cell.config_text, str(study_dir / identity / CONFIG_NAME))
        require_device((config,), runtime, place)
        aside = study_dir / f"{identity}{RERUN_SUFFIX}"
        shutil.rmtree(aside, ignore_errors=True)
        driver = Repetition(
            study_dir, executor, runtime, tracker or NullTracker(), progress or NoProgress()
        )
        try:
            return driver.run((cell,), max_attempts=1, retry_failed=True)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _stored_cell(study_dir: Path, identity: str) -> Cell:
    """A cell, reconstructed from the study folder.

    Raises ValueError for a run that never began and therefore has no configuration.
    """
    manifest = read_manifest(study_dir)
    stored = next(cell for cell in manifest.cells if cell.identity == identity)
    run_dir = study_dir / identity
    if not has_config(run_dir):
        raise ValueError(f"the run {run_dir} has not begun: rerun the grid instead")
    factors = {variant.name: variant.factors for variant in manifest.variants}
    return Cell(
        variant=stored.variant,
        dataset=stored.dataset,
        seed=stored.seed,
        identity=identity,
        config_text=read_config(run_dir),
        factors=factors[stored.variant],
        note=stored.note,
        shots=stored.shots,
    )


class Scheduler(Protocol):
    """Adds cells to the initial ones of a driver. ``total`` is the maximum number of cells,
    ``done`` the number that have ended or are no longer needed.
    """

    @property
    def total(self) -> int: ...

    @property
    def done(self) -> int: ...

    def ended(self, cell: Cell, record: RunRecord) -> Sequence[Cell]:
        """The cells that can run after this one has ended, in this call or an earlier one."""
        ...


class NullScheduler:
    """Adds no cells."""

    total = 0
    done = 0

    def ended(self, cell: Cell, record: RunRecord) -> Sequence[Cell]:
        return ()


class Driver:
    """Runs cells, once each, and those that a scheduler adds as they end.

    The caller holds the study's lock.
    """

    def __init__(
        self,
        study_dir: Path,
        executor: Executor,
        runtime: Runtime,
        tracker: Tracker,
        progress: Progress,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.study_dir = study_dir
        self.executor = executor
        self.runtime = runtime
        self.tracker = tracker
        self.progress = progress
        self.scheduler: Scheduler = scheduler or NullScheduler()
        self.open: dict[str, Cell] = {}
        self.queued: dict[str, None] = {}
        self.left: list[Cell] = []
        self.skipped: list[Cell] = []
        self.ended: dict[str, list[Cell]] = {status: [] for status in STATUSES}
        self.unwritten: list[tuple[Cell, RunRecord]] = []
        self.code = CodeCheck()
        self.stale: dict[str, str] = {}
        self.lacked: list[Cell] = []
        self.told: set[str] = set()
        self.paused = ""
        self.draining = False
        self.mark = ""

    def run(self, cells: Sequence[Cell], *, max_attempts: int, retry_failed: bool) -> StudyOutcome:
        """Run the cells that are not done and return the outcome."""
        marks = (name for name in MARKS if (self.study_dir / name).exists())
        self.mark = next(marks, "")
        self._admit_all(cells, retry_failed)
        self._remove_leftovers()
        total = max(len(cells), self.scheduler.total)
        ended = sum(map(len, self.ended.values()))
        done = max(len(self.skipped) + ended, self.scheduler.done)
        self.progress.begin(total=total, done=done)
        with Interrupts() as interrupts, suppress(KeyboardInterrupt):
            try:
                with suppress(KeyboardInterrupt):
                    self._work(interrupts, max_attempts, retry_failed)
                    self._write_late()
            finally:
                self.executor.close()
                self._remove_leftovers()
                self.progress.end()
            patience = HURRIED_SECONDS if interrupts.count > 1 else CLOSE_SECONDS
            if warning := self.tracker.close(seconds=patience):
                self.progress.note(warning)
        return self._outcome()

    def _admit_all(self, cells: Sequence[Cell], retry_failed: bool) -> list[Cell]:
        """Sort cells and those that the scheduler adds for done ones; returns those to run."""
        waiting, to_run = list(cells), []
        while waiting:
            cell = waiting.pop(0)
            if cell.identity in self.open:
                continue
            record = self._admit(cell, retry_failed)
            if record is None:
                to_run.append(cell)
            else:
                waiting += self.scheduler.ended(cell, record)
        if self.lacked:
            self.progress.note(
                f"{runs_of(len(self.lacked))} that lacked memory will be tried again"
            )
            self.lacked.clear()
        changes = [self.stale[cell.identity] for cell in to_run if cell.identity in self.stale]
        for number, change in counted(changes):
            self.progress.note(
                f"{runs_of(number)} will be made again, and the old records kept as "
                f"{RECORD_NAME}{STALE_SUFFIX}, because the code changed: {change}"
            )
        return to_run

    def _run_dir(self, identity: str) -> Path:
        """Where a run writes its files: beside those of a stale run, until it has ended."""
        return self.study_dir / f"{identity}{RERUN_SUFFIX if identity in self.stale else ''}"

    def _remove_leftovers(self) -> None:
        """Remove the files of repeated runs that did not end, but where training can go on."""
        for folder in self.study_dir.glob(f"*{RERUN_SUFFIX}"):
            wanted = folder.name.removesuffix(RERUN_SUFFIX) in self.stale
            if not wanted or not (folder / TRAINING_NAME).exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _admit(self, cell: Cell, retry_failed: bool) -> RunRecord | None:
        """Sort a cell by the content of its folder; returns the record of a done cell. A damaged
        record is kept under another name.
        """
        try:
            record = read_run(self.study_dir, cell.identity)
        except NewerSchemaError:
            raise
        except ValueError as error:
            kept = rename_record(self.study_dir, cell.identity, DAMAGED_SUFFIX)
            self.progress.note(f"{error}; kept as {kept.name}; {cell.label} is rerun")
            record = None
        if record and (change := self.code.changes(record, self.study_dir / cell.identity)):
            self.stale[cell.identity] = change
            record = None
        if record is None or self._is_tried_again(record, retry_failed):
            if record is not None and not retry_failed:
                self.lacked.append(cell)
            self.open[cell.identity] = cell
            return None
        if record.status == "finished":
            if record.config_sha256 and not has_config(self.study_dir / cell.identity):
                self.progress.note(
                    f"{cell.label}: {CONFIG_NAME} is missing in {self.study_dir / cell.identity}; "
                    "its scores are kept, but its model cannot be built again: restore the file, "
                    "or delete the folder and repeat the command"
                )
            self.skipped.append(cell)
        else:
            self.ended[record.status].append(cell)
        return record

    def _is_tried_again(self, record: RunRecord, retry_failed: bool) -> bool:
        return lacked_memory(record) or (retry_failed and record.status == "failed")

    def _submit(self, cells: Sequence[Cell], max_attempts: int, *, attempts: int = 0) -> None:
        for cell in cells:
            self.queued[cell.identity] = None
            self.executor.submit(replace(self._job(cell, max_attempts), attempts=attempts))

    def _work(self, interrupts: Interrupts, max_attempts: int, retry_failed: bool) -> None:
        """Submit all open cells and wait for them; once interrupted or paused, only for the running
        ones.
        """
        self._submit(list(self.open.values()), max_attempts)
        while self.open:
            self._stop_if_asked(interrupts)
            for event in self.executor.poll(POLL_SECONDS):
                ended = self._handle(event)
                if ended is not None and not self.draining and not self.paused:
                    self._follow(*ended, max_attempts, retry_failed)

    def _stop_if_asked(self, interrupts: Interrupts) -> None:
        """Withdraw what is queued once the study is interrupted or paused."""
        if (interrupts.count or self.paused) and not self.draining:
            self.draining = True
            self.executor.hurry()
            self.progress.note(STOPPING if interrupts.count else f"{self.paused}; {PAUSING}")
        if self.draining:
            for key in [key for key in self.queued if self.executor.cancel(key)]:
                self.left.append(self.open.pop(key))
                del self.queued[key]

    def _follow(self, cell: Cell, record: RunRecord, max_attempts: int, retry_failed: bool) -> None:
        """Submit what the scheduler adds after a run."""
        try:
            more = self.scheduler.ended(cell, record)
        except OSError as error:
            self._pause(error)
            return
        self._go_on_with(self._admit_all(more, retry_failed), max_attempts)
        self.progress.catch_up(self.scheduler.done)

    def _go_on_with(self, cells: Sequence[Cell], max_attempts: int) -> None:
        """Run what the scheduler has added."""
        self._submit(cells, max_attempts)

    def _pause(self, error: OSError) -> None:
        """Stop because a file cannot be written; anything else is an error."""
        problem = self._loss() or storage_problem(error, self.study_dir)
        if not problem:
            raise error
        self.paused = self.paused or problem

    def _loss(self) -> str:
        """One line where the study folder was removed, also if a run has made part of it again."""
        return vanished(self.study_dir, self.mark)

    def _require_folder(self) -> None:
        if self._loss():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.study_dir))

    def _write_late(self) -> None:
        """Write the records that could not be written when their runs ended, if there is room."""
        for cell, record in self.unwritten:
            with suppress(OSError):
                self._commit(cell, record)
                continue
            self.left.append(cell)
        self.unwritten = []

    def _job(self, cell: Cell, max_attempts: int) -> Job:
        run_dir = self._run_dir(cell.identity)
        payload = {
            "config": cell.config_text,
            "run_dir": str(run_dir),
            "identity": cell.identity,
            "variant": cell.variant,
            "factors": dict(cell.factors),
            "cache_dir": str(self.runtime.cache_dir),
            "data_root": str(self.runtime.data_root) if self.runtime.data_root else None,
            "device": self.runtime.device,
            "plugins": {plugin.name: plugin.sha256 for plugin in loaded_plugins()},
        }
        return Job(
            key=cell.identity,
            payload=payload,
            affinity=cell.dataset,
            bundle=cell.bundle,
            max_attempts=max_attempts,
            log=run_dir / OUTPUT_NAME,
            home=self.study_dir,
        )

    def _handle(self, event: Event) -> tuple[Cell, RunRecord] | None:
        """Process one event; returns the cell and its record if the event ended it."""
        cell = self.open[event.key]
        if event.kind in ("started", "progress"):
            self.queued.pop(event.key, None)
            fraction = event.result.get("epoch", 0.0) / event.result.get("epochs", 1.0)
            self.progress.running(event.key, cell.label, fraction)
        elif event.kind == "retry":
            self.queued[event.key] = None
            which = f"attempt {event.attempt} failed: " if event.attempt else ""  # it counts
            self.progress.note(f"{cell.label}: {which}{event.message}")
        elif event.kind == "returned":
            self.queued[event.key] = None
            self.progress.note(f"{cell.label}: {event.message}")
            if not self.draining:
                self.paused = self.paused or event.message
        else:
            record = self._record_of(cell, event)
            written = self._try_to_commit(cell, record)
            del self.open[event.key]
            return (cell, record) if written else None
        return None

    def _try_to_commit(self, cell: Cell, record: RunRecord) -> bool:
        """Write a record; where that is impossible, pause and keep it for a last try."""
        try:
            self._commit(cell, record)
        except OSError as error:
            self._pause(error)
            self.unwritten.append((cell, record))
            return False
        return True

    def _commit(self, cell: Cell, record: RunRecord) -> None:
        """Write a record; raises OSError where that is impossible."""
        self._require_folder()
        if cell.identity in self.stale:
            self._replace(cell, record)
        write_record(self.study_dir / cell.identity, record)
        self._committed(cell, record)

    def _committed(self, cell: Cell, record: RunRecord) -> None:
        """Tell of a run whose record is written."""
        run_dir = self.study_dir / cell.identity
        self._tell_of_other_code(record, run_dir)
        self.ended[record.status].append(cell)
        if record.status == "failed":
            self.progress.note(f"{cell.label}: {record.message}, in {run_dir}")
        self.progress.finished(cell.identity, cell.label, record.status)
        self.tracker.finished(run_dir)

    def _replace(self, cell: Cell, record: RunRecord) -> None:
        """Let a run take the place of the stale one. Where it failed, the old weights are kept."""
        run_dir = self.study_dir / cell.identity
        if has_record(self.study_dir, cell.identity):
            set_aside(self.study_dir, cell.identity, STALE_SUFFIX)
        for name in (WEIGHTS_NAME, *FILES) if record.status != "failed" else ():
            (run_dir / name).unlink(missing_ok=True)
        _move_files(self._run_dir(cell.identity), run_dir)

    def _tell_of_other_code(self, record: RunRecord, run_dir: Path) -> None:
        """Say so where a run was made by other code than there was when the study began."""
        change = self.code.changes(record, run_dir)
        if change and change not in self.told:
            self.told.add(change)
            self.progress.note(
                f"the code changed while the study ran: {change}; repeat the command afterwards, "
                "so that all runs are of the same code"
            )

    def _record_of(self, cell: Cell, event: Event) -> RunRecord:
        """The record of an ended job; the plan takes precedence over what the run reports."""
        if event.kind == "failed":
            attempts = "1 attempt" if event.attempt == 1 else f"{event.attempt} attempts"
            logged = (self._run_dir(cell.identity) / OUTPUT_NAME).exists()
            see = f"; see {OUTPUT_NAME}" if logged else ""
            return self._failed(cell, f"{event.message} ({attempts}{see})", event.fault)
        try:
            record = from_json(json.dumps(event.result))
        except ValueError as error:
            return self._failed(cell, f"the run returned no valid record: {error}")
        if record.identity != cell.identity:
            return self._failed(cell, f"the run returned the record of run {record.identity}")
        return replace(record, variant=cell.variant, factors=cell.factors, seed=cell.seed)

    def _failed(self, cell: Cell, message: str, fault: Fault = "") -> RunRecord:
        """A failed record with the code that failed, as far as the run came to write it down."""
        code = None
        with suppress(ValueError):
            code = read_code(self._run_dir(cell.identity))
        return failed_record(cell, message, code=code.classes if code else {}, fault=fault)

    def _outcome(self) -> StudyOutcome:
        return StudyOutcome(
            done=tuple(self.ended["finished"]),
            skipped=tuple(self.skipped),
            failed=tuple(self.ended["failed"]),
            diverged=tuple(self.ended["diverged"]),
            left=(*self.left, *self.open.values(), *(cell for cell, _ in self.unwritten)),
            paused=self.paused,
        )


class Repetition(Driver):
    """Runs a cell again in a folder of its own, which takes the place of the old one at its end.

    A run that fails leaves the old record and weights as they were.
    """

    def _run_dir(self, identity: str) -> Path:
        return self.study_dir / f"{identity}{RERUN_SUFFIX}"

    def _admit(self, cell: Cell, retry_failed: bool) -> RunRecord | None:
        self.open[cell.identity] = cell
        found = read_valid_records(self.study_dir, [cell.identity])
        for change in self.code.stale(self.study_dir, found).values():
            self.progress.note(
                f"the code changed since {cell.label} was run: {change}; other runs of the study "
                "may be stale as well, and the grid command runs them again"
            )
        return None

    def _commit(self, cell: Cell, record: RunRecord) -> None:
        run_dir, new = self.study_dir / cell.identity, self._run_dir(cell.identity)
        if record.status == "failed" and has_record(self.study_dir, cell.identity):
            with suppress(FileNotFoundError):
                os.replace(new / OUTPUT_NAME, run_dir / OUTPUT_NAME)
            self.ended["failed"].append(cell)
            self.progress.note(f"{cell.label}: {record.message}")
            self.progress.note(f"{run_dir} keeps its earlier record and weights")
            self.progress.finished(cell.identity, cell.label, record.status)
            return
        if has_record(self.study_dir, cell.identity):
            rename_record(self.study_dir, cell.identity, PREVIOUS_SUFFIX)
        _move_files(new, run_dir)
        super()._commit(cell, record)


def _move_files(new: Path, run_dir: Path) -> None:
    """Move the files of a repeated run to those of the old one, of whose weights nothing is shown
    any more.
    """
    shutil.rmtree(run_dir / INSPECTION_NAME, ignore_errors=True)
    for file in new.iterdir() if new.is_dir() else ():
        os.replace(file, run_dir / file.name)
