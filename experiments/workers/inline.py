"""The executor that needs no other process: for debugging, and for a single run."""

import gc
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

from experiments.workers.jobs import Event, Job, JobQueue, in_lockstep
from experiments.workers.worker import ENTRY, Task, answers

BROKEN = "{}; nothing more can run in this process: repeat the command to go on"


class InlineExecutor:
    """Runs jobs in this process, for debugging; ``poll`` runs one to its end, and those that
    advance beside it as far.
    """

    def __init__(self, entry: str = ENTRY, *, lockstep: int = 1) -> None:
        self.entry = entry
        self.lockstep = lockstep
        self.queue = JobQueue()
        self.running: dict[str, Job] = {}
        self.answers: Iterator[str] = iter(())
        self.events: list[Event] = []
        self.size = 0
        self.broken = ""

    def start_early(self) -> None:
        return

    def submit(self, job: Job) -> None:
        self.queue.add(job)

    def poll(self, timeout: float) -> Sequence[Event]:
        if not self.running:
            self._begin()
        if self.running:
            answer = json.loads(next(self.answers))
            self.events += self._ended(self.running.pop(answer["key"]), answer)
        events, self.events = self.events, []
        return events

    def _ended(self, job: Job, answer: Mapping[str, Any]) -> Iterator[Event]:
        """What becomes of a job. Memory can be released; after another fault of the device nothing
        runs in this process any more.
        """
        fault, message = answer.get("fault", ""), answer.get("message", "")
        if fault == "memory":
            _release_memory()
            if self.size > 1 and not answer["fatal"]:
                yield self.queue.put_apart(job, in_lockstep(message, self.size))
                return
        elif fault:
            self.broken = BROKEN.format(message)
            self.answers = iter(())
            yield self.queue.conclude(job, {**answer, "fatal": True})
            for other in self.running.values():
                yield self.queue.conclude(other, {"kind": "returned", "message": self.broken})
            self.running = {}
            return
        yield self.queue.conclude(job, answer)

    def _begin(self) -> None:
        """Begin the next jobs, if there are any."""
        if not self.queue:
            return
        if self.broken:
            key = next(self.queue.jobs()).key
            returned = Event(key=key, kind="returned", attempt=0, message=self.broken)
            self.events.append(returned)
            return
        if self.queue.for_whole:
            jobs = [self.queue.next_for_whole()]
        else:
            jobs = self.queue.next_jobs(None, (), most=self.lockstep, workers=1)
        self.size = len(jobs)
        self.running = {job.key: job for job in jobs}
        self.events += [self._event(job.key, "started") for job in jobs]
        self.answers = answers([self._task(job, len(jobs)) for job in jobs])

    def _task(self, job: Job, size: int) -> Task:
        def on_progress(values: Mapping[str, float]) -> None:
            self.events.append(replace(self._event(job.key, "progress"), result=values))

        return Task(self.entry, job.key, job.payload, on_progress, size=size, home=job.home)

    def _event(self, key: str, kind: Literal["started", "progress"]) -> Event:
        return Event(key=key, kind=kind, attempt=self.queue.attempts[key])

    def cancel(self, key: str, *, running: bool = False) -> bool:
        return self.queue.remove(key)

    def hurry(self) -> None:
        return

    def close(self) -> None:
        self.queue, self.running, self.answers = JobQueue(), {}, iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _release_memory() -> None:
    """Give back what nothing refers to any more, that of the GPU included."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
