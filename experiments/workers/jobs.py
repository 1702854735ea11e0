"""Jobs, their events, and the interface of the executors that run them.

A job is retried when its worker died or its function raised, up to ``max_attempts``; a ValueError
is a user error and final at once. Where the job is not to blame (a full disk, a folder that cannot
be written), the attempt does not count and the job is "returned": it waits until it is cancelled or
run again. A job that runs out of memory is run once more, with the whole device for itself, and
that attempt is its last. Every submitted job ends in exactly one "done", "failed" or "lost" event,
unless it is cancelled; only executors on other machines lose jobs.

Jobs that advanced side by side end one by one, each with its own answer. Where their worker died,
nobody knows which one is to blame: the attempt counts for none, and each runs alone from then on.
So does a job after an attempt that failed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from core.device_faults import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call of the entry function. Jobs of one ``affinity`` stay on one worker where possible.

    Jobs of one ``bundle``, which are of one affinity, may advance side by side on one worker; ""
    for a job that gains nothing from it. ``attempts`` count already when it is submitted. ``log``
    receives what the job prints. ``home`` is the folder that the job needs; where it cannot be
    written, the job is not to blame.
    """

    key: str
    payload: Mapping[str, Any]
    affinity: str = ""
    bundle: str = ""
    max_attempts: int = 3
    attempts: int = 0
    log: Path | None = None
    home: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of a job: "done" carries its result, "failed", "retry" and "returned" the reason.
    After "lost" the executor knows nothing more of the job, which may still be running somewhere.

    ``attempt`` counts from 1; 0 is one that does not count, and of a lost job it is how many have
    counted. ``fault`` is what the reason says of the device.
    """

    key: str
    kind: Literal["started", "progress", "done", "retry", "returned", "lost", "failed"]
    attempt: int
    result: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    fault: Fault = ""


class NoWorkersError(RuntimeError):
    """All that ran jobs of a study elsewhere has ended, and runs are left."""


class Executor(Protocol):
    """The interface between a study and whatever runs its jobs."""

    def start_early(self) -> None:
        """Start the workers before there are jobs: they import meanwhile what these will need."""
        ...

    def submit(self, job: Job) -> None:
        """Queue a job; its key must not be in use by an unfinished job."""
        ...

    def poll(self, timeout: float) -> Sequence[Event]:
        """Events since the last call; waits up to ``timeout`` seconds if there are none."""
        ...

    def cancel(self, key: str, *, running: bool = False) -> bool:
        """Withdraw a job that is queued or, with ``running``, running. True if it was withdrawn."""
        ...

    def hurry(self) -> None:
        """The study is stopping: jobs that show no sign of life are not waited for any longer."""
        ...

    def close(self) -> None:
        """Stop everything, running jobs included."""
        ...


class JobQueue:
    """Queued jobs in order, grouped by affinity, with the number of attempts of each. Those that
    need a whole device wait apart.
    """

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Job]] = {}
        self.bundles: dict[str, dict[str, Job]] = {}
        self.attempts: dict[str, int] = {}
        self.alone: set[str] = set()
        self.whole: set[str] = set()
        self.for_whole: dict[str, Job] = {}

    def __bool__(self) -> bool:
        return bool(self.groups or self.for_whole)

    def add(self, job: Job) -> None:
        if job.key in self.attempts:
            raise ValueError(f"job keys must be unique, but {job.key!r} is already submitted")
        self.attempts[job.key] = job.attempts
        self._put(job)

    def __len__(self) -> int:
        return sum(map(len, self.groups.values())) + len(self.for_whole)

    def jobs(self) -> Iterator[Job]:
        """All queued jobs."""
        yield from self.for_whole.values()
        for group in self.groups.values():
            yield from group.values()

    def _put(self, job: Job) -> None:
        if job.key in self.whole:
            self.for_whole[job.key] = job
            return
        self.groups.setdefault(job.affinity, {})[job.key] = job
        if job.bundle and job.key not in self.alone and not self.attempts[job.key]:
            self.bundles.setdefault(job.bundle, {})[job.key] = job

    def remove(self, key: str) -> bool:
        if self.for_whole.pop(key, None):
            self.forget(key)
            return True
        for affinity, group in self.groups.items():
            if key in group:
                self._take(affinity, key)
                self.forget(key)
                return True
        return False

    def forget(self, key: str) -> None:
        """The job has ended; its key may be used again."""
        del self.attempts[key]
        self.alone.discard(key)
        self.whole.discard(key)

    def _take(self, affinity: str, key: str) -> Job:
        job = self.groups[affinity].pop(key)
        if not self.groups[affinity]:
            del self.groups[affinity]
        if (bundle := self.bundles.get(job.bundle)) is not None:
            bundle.pop(key, None)
            if not bundle:
                del self.bundles[job.bundle]
        return job

    def next(self, own: str | None, others: Sequence[str]) -> Job:
        """The next job for a worker whose last affinity was ``own``; ``others`` are in use."""
        affinity = own if own in self.groups else min(self.groups, key=others.count)
        job = self._take(affinity, next(iter(self.groups[affinity])))
        self.attempts[job.key] += 1
        return job

    def next_for_whole(self) -> Job:
        """The next job that needs a whole device."""
        job = self.for_whole.pop(next(iter(self.for_whole)))
        self.attempts[job.key] += 1
        return job

    def next_jobs(
        self, own: str | None, others: Sequence[str], *, most: int, workers: int
    ) -> list[Job]:
        """The next job, and up to ``most - 1`` others of its bundle.

        None takes more than its share of all that is queued, so that no worker has to wait for what
        another could have left: bundles become smaller at the end.
        """
        most = min(most, -(-len(self) // workers))
        first = self.next(own, others)
        jobs = [first]
        apart = first.key in self.alone or self.attempts[first.key] > 1
        while len(jobs) < most and not apart and (waiting := self.bundles.get(first.bundle)):
            job = self._take(first.affinity, next(iter(waiting)))
            self.attempts[job.key] += 1
            jobs.append(job)
        return jobs

    def put_back(self, job: Job) -> None:
        """Queue a job again that is not to blame for its end; the attempt does not count."""
        self.attempts[job.key] -= 1
        self._put(job)

    def put_apart(self, job: Job, message: str) -> Event:
        """Queue a job again whose worker died while it ran others too, to run alone; the attempt
        does not count.
        """
        self.alone.add(job.key)
        self.put_back(job)
        return Event(key=job.key, kind="retry", attempt=0, message=message)

    def put_for_whole(self, job: Job, message: str) -> Event:
        """Queue a job again that ran out of memory, to have a whole device for itself."""
        self.whole.add(job.key)
        self._put(job)
        attempt, why = self.attempts[job.key], f"{message}; it has the device for itself next"
        return Event(key=job.key, kind="retry", attempt=attempt, message=why, fault="memory")

    def conclude(self, job: Job, answer: Mapping[str, Any]) -> Event:
        """The event of a finished attempt; a job that may be retried is queued again."""
        attempt, fault = self.attempts[job.key], answer.get("fault", "")
        if answer["kind"] == "returned":
            self.put_back(job)
            return Event(key=job.key, kind="returned", attempt=attempt, message=answer["message"])
        if answer["kind"] == "done":
            self.forget(job.key)
            return Event(key=job.key, kind="done", attempt=attempt, result=answer["result"])
        message, fatal = answer["message"], answer.get("fatal", False)
        if fault == "memory" and not fatal:
            if job.key not in self.whole:
                return self.put_for_whole(job, message)
            fatal = True
        if fatal or attempt >= job.max_attempts:
            self.forget(job.key)
            return Event(key=job.key, kind="failed", attempt=attempt, message=message, fault=fault)
        self._put(job)
        return Event(key=job.key, kind="retry", attempt=attempt, message=message, fault=fault)


def in_lockstep(message: str, size: int) -> str:
    """Why a job runs again that was not alone."""
    return f"{message}, as {size} runs advanced in lockstep; it runs alone next"
