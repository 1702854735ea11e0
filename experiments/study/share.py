"""Several drivers on one study folder: each runs the cells that it has claimed.

They need a file system that all of them see, and nothing else. Each stays until every run is done,
because it takes over the runs of drivers that die. See ``claims.py`` and ``members.py``.
"""

import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from core.store.documents import digest_of
from core.store.manifest import change_of
from core.store.names import RECORD_NAME, RERUN_SUFFIX, STALE_SUFFIX, WEIGHTS_NAME
from core.store.own_files import FILES
from core.store.record import RunRecord, has_record, read_run, set_aside, write_record
from experiments.run.runtime import Runtime
from experiments.study.claims import MIRROR, Claims, copy_progress, record_bytes
from experiments.study.driver import (
    POLL_SECONDS,
    Driver,
    Scheduler,
    StudyOutcome,
    keep_manifest,
)
from experiments.study.interrupts import Interrupts
from experiments.study.lock import in_use, refuse_holder
from experiments.study.members import SILENT_SECONDS, Member, Watch, listed_now, strike
from experiments.study.mirror import CLOSE_SECONDS, NullTracker, Tracker
from experiments.study.planner import Cell, Plan
from experiments.study.progress import NoProgress, Progress
from experiments.workers.jobs import Event, Executor, NoWorkersError

LOOK_SECONDS = 2.0
LOOK_SHARE = 0.05  # of the time may go into looking at what the others do
MAX_LOST = 5
ALONE = (
    "no driver works on this study: give --nodes with a number of jobs to submit, or watch again "
    "when jobs that wait in the queue have begun"
)


def nothing() -> None:
    """What a driver does first that has nothing to prepare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What of a study one driver takes at a time: a run, or ``lockstep`` runs that advance side by
    side, for each of ``num_workers()``. After ``silent_seconds`` without a sign of life of another
    driver, its runs are taken over.

    Once the study is known to be free and runs are left, ``begin`` is called. A driver that is
    ``idle`` makes no runs itself; one that ``only_watches`` ends where nobody else does.
    """

    num_workers: Callable[[], int]
    lockstep: int = 1
    silent_seconds: float = SILENT_SECONDS
    begin: Callable[[], None] = nothing
    idle: bool = False
    only_watches: bool = False

    def __post_init__(self) -> None:
        check_seconds(self.silent_seconds)


def check_seconds(silent_seconds: float) -> None:
    """Raise ValueError for a time of silence after which nobody could tell anything."""
    if not 1 <= silent_seconds < math.inf:
        raise ValueError(
            f"--share-seconds must be at least 1, got {silent_seconds:g}: for so long may another "
            "driver be silent before its runs are taken over"
        )


def run_shared_study(
    plan: Plan,
    study_dir: Path,
    executor: Executor,
    *,
    share: Sharing,
    runtime: Runtime,
    tracker: Tracker | None = None,
    progress: Progress | None = None,
    max_attempts: int = 3,
    retry_failed: bool = False,
    steal_lock: bool = False,
) -> StudyOutcome:
    """``run_study`` beside other drivers of the same plan on the same folder.

    The outcome is that of the whole study: what others did counts as done before. The first driver
    alone writes to the tracker, for all; where it has gone, whoever ends later does.

    Raises ValueError where a driver works on the study without sharing it, or others share it with
    another plan.
    """
    progress, tracker = progress or NoProgress(), tracker or NullTracker()
    digest = digest_of(plan.manifest.to_dict())
    seconds, idle = share.silent_seconds, share.idle
    with Member(study_dir, seconds, plan=digest, retries=retry_failed, idle=idle) as member:
        try:
            refuse_holder(study_dir, steal=steal_lock)
            _refuse_other_plans(plan, member, steal=steal_lock)
            keep_manifest(study_dir, plan.manifest, progress)
        except BaseException:
            member.withdraw()
            raise
        claims = Claims(study_dir, member.id, Watch(study_dir, share.silent_seconds))
        claims.look()
        once = OneTracker(tracker, claims)
        driver = SharedDriver(study_dir, executor, runtime, once, progress, claims, share)
        outcome = driver.run(plan.runs, max_attempts=max_attempts, retry_failed=retry_failed)
        _leave(member, claims, outcome)
    return outcome


def run_scheduled(
    cells: Sequence[Cell],
    study_dir: Path,
    executor: Executor,
    *,
    scheduler: Scheduler,
    share: Sharing,
    runtime: Runtime,
    tracker: Tracker,
    progress: Progress,
    max_attempts: int,
) -> StudyOutcome:
    """Run cells and those that a scheduler adds, on an executor that may lose jobs: each attempt
    has a claim and a folder of its own. The caller holds the study's lock, so that there is no
    other driver; what earlier ones have left was taken back.
    """
    with Member(study_dir, share.silent_seconds) as member:
        claims = Claims(study_dir, member.id, Watch(study_dir, share.silent_seconds))
        claims.look()
        driver = SharedDriver(
            study_dir, executor, runtime, tracker, progress, claims, share, scheduler
        )
        outcome = driver.run(cells, max_attempts=max_attempts, retry_failed=False)
        _leave(member, claims, outcome)
    return outcome


def _leave(member: Member, claims: Claims, outcome: StudyOutcome) -> None:
    """End as one of the drivers; the last one removes what they shared, where no run is left."""
    member.end(complete=not outcome.left)
    claims.look()
    if not outcome.left and not claims.watch.num_living():
        claims.remove()


def _refuse_other_plans(plan: Plan, member: Member, *, steal: bool) -> None:
    """Raise ValueError where others share the study with another plan; ``steal`` as for
    ``StudyLock``: it strikes them off the list. Each is listed before it looks for others, so that
    of two that come at the same moment at least one sees the other.
    """
    study_dir, change = member.study_dir, None
    with suppress(ValueError):  # a damaged manifest is written again
        change = change_of(study_dir, plan.manifest)
    plans = {"": member.plan} if change is None else {}  # an earlier version did not list its plan
    others = [
        other
        for other in listed_now(study_dir)
        if other.id != member.id and plans.get(other.plan, other.plan) != member.plan
    ]
    here = [other for other in others if other.holder.is_here()]
    if here or (others and not steal):
        holders = [other.holder for other in here or others]
        raise ValueError(
            f"{in_use(study_dir, holders)}; here {change or 'the grid is another one'}, and all "
            "drivers that share a study must have the same configuration"
        )
    for other in others:
        strike(study_dir, other.id)


class OneTracker:
    """A tracker that one of the drivers writes to: the first, or, at the end, one in its place.

    What it writes to reads all records of the study, so that those of others are there as well.
    """

    def __init__(self, tracker: Tracker, claims: Claims) -> None:
        self.tracker = tracker
        self.claims = claims
        self.wanted = not isinstance(tracker, NullTracker)
        self.leads = self.wanted and self._take()

    def _take(self) -> bool:
        return self.claims.is_free(MIRROR) and self.claims.take(MIRROR) is not None

    def finished(self, run_dir: Path) -> None:
        if self.leads:
            self.tracker.finished(run_dir)

    def close(self, *, seconds: float = CLOSE_SECONDS) -> str:
        if self.wanted and not self.leads:
            self.claims.look()
            first = self.claims.owner(MIRROR, self.claims.latest.get(MIRROR, 0))
            if not self.claims.watch.is_complete(first) and self._take():
                self.tracker.finished(self.claims.home.parent)
        return self.tracker.close(seconds=seconds)


class SharedDriver(Driver):
    """Claims cells as workers become free, and runs them.

    ``waiting`` are the cells that are neither done nor in progress here, ``free`` those of them
    that nobody had claimed at the last look; ``taken`` counts the others by dataset. ``before`` has
    the records that are to be replaced, ``settled`` the claims by which others had made them, and
    ``news`` those that the scheduler has not heard of.
    """

    def __init__(
        self,
        study_dir: Path,
        executor: Executor,
        runtime: Runtime,
        tracker: Tracker,
        progress: Progress,
        claims: Claims,
        share: Sharing,
        scheduler: Scheduler | None = None,
    ) -> None:
        super().__init__(study_dir, executor, runtime, tracker, progress, scheduler)
        self.claims = claims
        self.share = share
        self.waiting: dict[str, Cell] = {}
        self.free: dict[str, Cell] = {}
        self.taken: Counter[str] = Counter()
        self.num_groups = 0
        self.before: dict[str, bytes | None] = {}
        self.settled: dict[str, int] = {}
        self.news: list[tuple[Cell, RunRecord]] = []
        self.numbers: dict[str, int] = {}
        self.group_of: dict[str, int] = {}
        self.times_lost: Counter[str] = Counter()
        self.dataset = ""
        self.next_look = 0.0
        self.last_company = -math.inf

    def _run_dir(self, identity: str) -> Path:
        if identity in self.numbers:
            return self.claims.run_dir(identity, self.numbers[identity])
        return super()._run_dir(identity)

    def _admit(self, cell: Cell, retry_failed: bool) -> RunRecord | None:
        """See Driver."""
        number = self.claims.latest.get(cell.identity, 0)
        if self.claims.is_settled(cell.identity, number):
            self.settled[cell.identity] = number
        before = record_bytes(self.study_dir / cell.identity)
        try:
            record = super()._admit(cell, retry_failed)
        except FileNotFoundError:  # another driver has set a damaged record aside
            record = super()._admit(cell, retry_failed)
        if record is None:
            damaged = not has_record(self.study_dir, cell.identity)
            self.before[cell.identity] = None if damaged else before
        return record

    def _is_tried_again(self, record: RunRecord, retry_failed: bool) -> bool:
        """See Driver. What a living driver has tried again is not tried by all that join it."""
        again = super()._is_tried_again(record, retry_failed)
        if not again or record.identity not in self.settled:
            return again
        watch = self.claims.watch
        other = self.claims.owner(record.identity, self.settled[record.identity])
        lives = other in watch.listed and not watch.is_gone(other)
        return not (lives and (watch.retries(other) or not retry_failed))

    def _work(self, interrupts: Interrupts, max_attempts: int, retry_failed: bool) -> None:
        """Claim, run and commit until all cells of the study have a record, whoever made it."""
        self.waiting, self.open = self.open, {}
        if self.waiting:
            self.share.begin()
        while self.open or (self.waiting and not self.draining):
            self._stop_if_asked(interrupts)
            if not self.draining:
                try:
                    self._look()
                    self._claim(max_attempts)
                except FileNotFoundError as error:
                    if self._loss():  # else what the drivers share was removed at this moment
                        self._pause(error)
                except OSError as error:
                    self._pause(error)
            for event in self._events():
                if event.kind == "lost":
                    self._send_again(event, max_attempts)
                else:
                    self._handle(event)
            while self.news and not self.draining and not self.paused:
                self._follow(*self.news.pop(0), max_attempts, retry_failed)

    def _handle(self, event: Event) -> tuple[Cell, RunRecord] | None:
        """See Driver; a run that was left to another driver has not ended."""
        ended = super()._handle(event)
        if ended is not None and ended[0].identity not in self.waiting:
            self.news.append(ended)
        return ended

    def _go_on_with(self, cells: Sequence[Cell], max_attempts: int) -> None:
        """See Driver; they are claimed as workers become free."""
        for cell in cells:
            self.waiting[cell.identity] = self.open.pop(cell.identity)
        self.next_look = 0.0

    def _events(self) -> Sequence[Event]:
        if self.open:
            return self.executor.poll(POLL_SECONDS)
        if self.waiting and not self.draining:
            time.sleep(POLL_SECONDS)
        return ()

    def _outcome(self) -> StudyOutcome:
        outcome = super()._outcome()
        return replace(outcome, left=(*outcome.left, *self.waiting.values()))

    def _look(self) -> None:
        """See, every now and then, what others have done, and whether they have taken runs over."""
        started = time.monotonic()
        if started < self.next_look:
            return
        self._require_folder()
        self.claims.look()
        there = set(os.listdir(self.study_dir))
        for cell in [cell for cell in self.waiting.values() if cell.identity in there]:
            self._take_note(cell)
        for cell in list(self.open.values()):
            held = self.claims.holds(cell.identity, self.numbers[cell.identity])
            if held and not (cell.identity in there and self._record_of_others(cell.identity)):
                continue
            if self.executor.cancel(cell.identity, running=True):
                del self.open[cell.identity]
                self.queued.pop(cell.identity, None)
                self._lose(cell)
        self.free, self.taken = {}, Counter()
        for identity, cell in self.waiting.items():
            if self.claims.is_free(identity):
                self.free[identity] = cell
            else:
                self.taken[cell.dataset] += 1
        now = time.monotonic()
        self.next_look = now + max(LOOK_SECONDS, (now - started) / LOOK_SHARE)

    def _take_note(self, cell: Cell, number: int | None = None) -> bool:
        """Whether another driver has made the record of a cell; it is done then."""
        if not self._record_of_others(cell.identity, number):
            return False
        try:
            record = read_run(self.study_dir, cell.identity)
        except ValueError:  # half visible, or damaged: what is true of it shows later
            return False
        if record is None:
            return False
        del self.waiting[cell.identity]
        others = self.skipped if record.status == "finished" else self.ended[record.status]
        others.append(cell)
        self.progress.finished(cell.identity, cell.label, record.status)
        self.tracker.finished(self.study_dir / cell.identity)
        self.news.append((cell, record))
        return True

    def _record_of_others(self, identity: str, number: int | None = None) -> bool:
        """Whether a cell that is not done here has a record that was not there before, or one that
        others have made again byte for byte; ``number`` is the last claim that counts.
        """
        found = record_bytes(self.study_dir / identity)
        if found is None or found != self.before[identity]:
            return found is not None
        last = self.claims.latest.get(identity, 0) if number is None else number
        return last != self.settled.get(identity) and self.claims.is_settled(identity, last)

    def _lose(self, cell: Cell) -> None:
        """Leave a run to the driver that has taken it over, or to whoever claims it next."""
        if self.claims.give_up(cell.identity, self.numbers.pop(cell.identity)):
            why = (
                "another driver has taken this run over, because this one gave no sign of life for "
                f"{self.share.silent_seconds:g} seconds"
            )
        else:
            why = f"{self.claims.home} was removed while this run was in progress"
        self.progress.note(f"{cell.label}: {why}")
        self.waiting[cell.identity] = cell

    def _claim(self, max_attempts: int) -> None:
        """Claim cells for the workers that are free, and submit them."""
        try:
            self._require_company()
            workers = self.share.num_workers()
        except NoWorkersError as error:
            self.next_look = 0.0
            self._look()  # the last of them may just have finished the last run
            self.paused = str(error) if self.waiting else ""
            return
        busy = {self.group_of[identity] for identity in self.open}
        while len(busy) < workers and (group := self._free_group(workers)):
            self.num_groups += 1
            for cell in group:
                if self._take(cell):
                    self.group_of[cell.identity] = self.num_groups
                    self._submit([cell], max_attempts)
                    busy.add(self.num_groups)

    def _require_company(self) -> None:
        """Raise NoWorkersError where this driver only watches and no other one works; a while later
        where one has worked, which a queue may have set back.
        """
        now = time.monotonic()
        if not self.share.only_watches or self.claims.watch.some_work():
            self.last_company = now
        elif now - self.last_company > self.share.silent_seconds:
            raise NoWorkersError(ALONE)

    def _free_group(self, workers: int) -> list[Cell]:
        """The cells to claim next: of the dataset that was last worked on here, or else of that on
        which fewest runs are in progress. No more than a fair share of all that are free.
        """
        if not self.free:
            return []
        datasets = list(dict.fromkeys(cell.dataset for cell in self.free.values()))
        if self.dataset not in datasets:
            turn = int(self.claims.member_id, 16) % len(datasets)  # not all begin with the same
            turned = datasets[turn:] + datasets[:turn]
            self.dataset = min(turned, key=lambda name: self.taken[name])
        first = next(cell for cell in self.free.values() if cell.dataset == self.dataset)
        if not first.bundle:
            return [first]
        drivers = max(1, self.claims.watch.num_living()) * workers
        most = min(self.share.lockstep, -(-len(self.free) // drivers))
        return [cell for cell in self.free.values() if cell.bundle == first.bundle][:most]

    def _take(self, cell: Cell) -> bool:
        """Claim a cell and prepare its run; False where another driver was faster."""
        del self.free[cell.identity]
        number = self.claims.take(cell.identity)
        if number is None or self._take_note(cell, number - 1):
            return False
        if number > 1 and self.settled.get(cell.identity) != number - 1:
            former = self.claims.owner(cell.identity, number - 1)
            if self.claims.watch.is_gone(former) and former not in self.claims.watch.ended:
                name = self.claims.watch.name(former)
                self.progress.note(f"{cell.label}: taken over from {name}, which is gone")
        self._prepare(cell.identity, number)
        self.open[cell.identity] = self.waiting.pop(cell.identity)
        if (lost := self.claims.num_lost(cell.identity)) >= MAX_LOST:
            message = f"{lost} drivers were lost during this run; see their output"
            self._handle(Event(key=cell.identity, kind="failed", attempt=lost, message=message))
            return False
        return True

    def _prepare(self, identity: str, number: int) -> None:
        """Make the run folder of a claim, with what earlier ones have kept."""
        begun = [*self.claims.run_dirs(identity), super()._run_dir(identity)]
        run_dir = self.claims.run_dir(identity, number)
        run_dir.mkdir(parents=True, exist_ok=True)
        if begun[0] != run_dir:  # which a run has made whose claim was removed
            copy_progress(begun[0], run_dir)
        self.numbers[identity] = number

    def _send_again(self, event: Event, max_attempts: int) -> None:
        """Submit a job again that the executor has lost, alone and with a claim and a folder of its
        own: where it was lost, it may still be running.
        """
        cell = replace(self.open[event.key], bundle="")
        self.times_lost[event.key] += 1
        if event.attempt >= max_attempts:
            self._handle(replace(event, kind="failed"))
            return
        if self.times_lost[event.key] >= MAX_LOST:
            message = f"lost {MAX_LOST} times, the last time because {event.message}"
            self._handle(replace(event, kind="failed", attempt=MAX_LOST, message=message))
            return
        self.progress.note(f"{cell.label}: {event.message}; it is run again")
        number = self.claims.take(event.key)
        if number is None:
            self._lose(self.open.pop(event.key))
            return
        self._prepare(event.key, number)
        self._submit([cell], max_attempts, attempts=event.attempt)

    def _commit(self, cell: Cell, record: RunRecord) -> None:
        """See Driver; nothing is written where another driver has claimed the cell."""
        self._require_folder()
        if self._publish(cell.identity, record):
            self._committed(cell, record)
        else:
            self._lose(cell)

    def _publish(self, identity: str, record: RunRecord) -> bool:
        """Write the record of a run and let its folder appear in the study; False where another
        driver has done so, even if all has been removed meanwhile that they shared.
        """
        number = self.numbers[identity]
        if not self.claims.confirm(identity, number):
            return False
        run_dir = self.claims.run_dir(identity, number)
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._keep_old(identity, record, run_dir)
            write_record(run_dir, record)
            target = self.study_dir / identity
            published = self.claims.publish(identity, number, target, self.before[identity])
        except FileNotFoundError:
            if self._loss() or self.claims.holds(identity, number):
                raise
            return False
        if published:
            shutil.rmtree(self.study_dir / f"{identity}{RERUN_SUFFIX}", ignore_errors=True)
        return published

    def _keep_old(self, identity: str, record: RunRecord, run_dir: Path) -> None:
        """Copy what stays of the folder that a run replaces: the records that were set aside, and
        the old weights where the new run failed.
        """
        old = self.study_dir / identity
        (run_dir / RECORD_NAME).unlink(missing_ok=True)  # of an attempt to commit that failed
        names = [path.name for path in old.glob(f"{RECORD_NAME}?*")]
        if identity in self.stale and record.status == "failed":
            names += [*FILES, WEIGHTS_NAME]
        for name in names:
            if not (run_dir / name).exists():
                with suppress(FileNotFoundError):
                    shutil.copyfile(old / name, run_dir / name)
        before = self.before[identity] if identity in self.stale else None
        kept = [path.read_bytes() for path in run_dir.glob(f"{RECORD_NAME}{STALE_SUFFIX}*")]
        if before is not None and before not in kept:
            (run_dir / RECORD_NAME).write_bytes(before)
            set_aside(run_dir.parent, run_dir.name, STALE_SUFFIX)
