"""Jobs, their events, and the interface of the executors that run them.

A job is retried when its worker died or its function raised, up to ``max_attempts``; a ValueError
is a user error and final at once. Where the job is not to blame (a full disk, a folder that cannot
be written), the attempt does not count and the job is "returned": it waits until it is cancelled or
run again. Every submitted job ends in exactly one "done" or "failed" event, unless it is cancelled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call of the entry function. Jobs of one ``affinity`` stay on one worker where possible.

    ``log`` receives what the job prints. ``home`` is the folder that the job needs; where it cannot
    be written, the job is not to blame.
    """

    key: str
    payload: Mapping[str, Any]
    affinity: str = ""
    max_attempts: int = 3
    log: Path | None = None
    home: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of a job: "done" carries its result, "failed", "retry" and "returned" the reason."""

    key: str
    kind: Literal["started", "progress", "done", "retry", "returned", "failed"]
    attempt: int
    result: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""


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
    """Queued jobs in order, grouped by affinity, with the number of attempts of each."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Job]] = {}
        self.attempts: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self.groups)

    def add(self, job: Job) -> None:
        if job.key in self.attempts:
            raise ValueError(f"job keys must be unique, but {job.key!r} is already submitted")
        self.attempts[job.key] = 0
        self._put(job)

    def _put(self, job: Job) -> None:
        self.groups.setdefault(job.affinity, {})[job.key] = job

    def remove(self, key: str) -> bool:
        for affinity, group in self.groups.items():
            if key in group:
                self._take(affinity, key)
                del self.attempts[key]
                return True
        return False

    def _take(self, affinity: str, key: str) -> Job:
        job = self.groups[affinity].pop(key)
        if not self.groups[affinity]:
            del self.groups[affinity]
        return job

    def next(self, own: str | None, others: Sequence[str]) -> Job:
        """The next job for a worker whose last affinity was ``own``; ``others`` are in use."""
        affinity = own if own in self.groups else min(self.groups, key=others.count)
        job = self._take(affinity, next(iter(self.groups[affinity])))
        self.attempts[job.key] += 1
        return job

    def put_back(self, job: Job) -> None:
        """Queue a job again that is not to blame for its end; the attempt does not count."""
        self.attempts[job.key] -= 1
        self._put(job)

    def conclude(self, job: Job, answer: Mapping[str, Any]) -> Event:
        """The event of a finished attempt; a job that may be retried is queued again."""
        attempt = self.attempts[job.key]
        if answer["kind"] == "returned":
            self.put_back(job)
            return Event(key=job.key, kind="returned", attempt=attempt, message=answer["message"])
        if answer["kind"] == "done":
            del self.attempts[job.key]
            return Event(key=job.key, kind="done", attempt=attempt, result=answer["result"])
        if answer.get("fatal") or attempt >= job.max_attempts:
            del self.attempts[job.key]
            return Event(key=job.key, kind="failed", attempt=attempt, message=answer["message"])
        self._put(job)
        return Event(key=job.key, kind="retry", attempt=attempt, message=answer["message"])
