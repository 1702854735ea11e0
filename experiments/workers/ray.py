"""Jobs as tasks of a Ray cluster: one for each, or for those that advance in lockstep.

The driver keeps the queue and repeats what is to be repeated; Ray itself repeats nothing. A task
tells its progress and its answers as it goes on, by yielding them. Where its worker process or its
node is lost, the job is "lost" for this executor: the task may still be running where nobody sees
it, so whoever submits the job again gives it another folder to write in.

All nodes must see the folder of the study. The module needs the package ray; importing it raises
ValueError where that is not installed.
"""

import contextlib
import importlib.util
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from core.machine import (
    DEVICE_WORKERS_VARIABLE,
    MEASURED_THREADS_VARIABLE,
    WORKERS_VARIABLE,
    openmp_variables,
)
from core.streams import one_line
from experiments.workers.jobs import Event, Job, JobQueue, NoWorkersError
from experiments.workers.local import (
    CHECK_SECONDS,
    CLOSE_SECONDS,
    OPENMP,
    over_silence,
    over_time,
    thread_variables,
)
from experiments.workers.placement import MAX_LOSSES
from experiments.workers.worker import ENTRY, REMEMBERED, LoggedTask

if importlib.util.find_spec("ray") is None:
    raise ValueError(
        "--executor ray needs the package ray, which is not installed; run "
        "'pip install -c constraints.txt -e .[ray]', or use --executor local"
    )
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import, which reads it

import ray
from ray import exceptions

from experiments.workers.ray_cluster import (
    Demand,
    avoiding,
    check_address,
    connect,
    connected,
    may_grow,
)

__all__ = ["RayExecutor", "carry_out", "check_address", "connected", "demand_of", "task_variables"]

ROOM_SECONDS = 60.0
"""For so long may a cluster have no node for a run before it is given up."""
ENDING_SECONDS = 30.0
"""For so long is a process waited for that was told to end, before others are submitted."""


class RayExecutor:
    """Tasks on the cluster at ``address``, or on one started on this machine for "".

    On a GPU, ``jobs_per_gpu`` tasks share each; on the CPU a task has as many cores as the user
    gives it threads (``OMP_NUM_THREADS``), by default one. At most ``jobs`` tasks are submitted at
    a time; -1 for as many as the cluster has room for. ``cache_dir`` is a folder on the disk of
    each node for features and indexes of datasets, instead of the one that a job names.

    A task is ended after ``job_seconds``, or when it tells no progress for ``silent_seconds``, and
    that attempt counts; jobs that advance side by side have the limits of all of them together, and
    no attempt counts. Where ``silent_seconds`` is None, silence has no limit: whether the processor
    of another machine works cannot be seen from here.

    Raises ValueError for a device or number that has no meaning, and where there is no cluster.
    """

    def __init__(
        self,
        *,
        address: str = "",
        device: str = "cpu",
        jobs: int = -1,
        jobs_per_gpu: int = 1,
        lockstep: int = 1,
        cache_dir: Path | None = None,
        job_seconds: float | None = None,
        silent_seconds: float | None = None,
        entry: str = ENTRY,
    ) -> None:
        threads = thread_variables(None, 1)
        self.device, self.jobs, self.lockstep, self.entry = device, jobs, lockstep, entry
        self.cache_dir = cache_dir
        self.job_seconds, self.silent_seconds = job_seconds, silent_seconds
        self.demand = demand_of(device, jobs_per_gpu)
        self.queue = JobQueue()
        self.flights: dict[Any, _Flight] = {}
        self.ending: dict[Any, float] = {}
        self.events: list[Event] = []
        self.losses: Counter[tuple[str, ...]] = Counter()
        self.broken: set[str] = set()
        self.had_room = time.monotonic()
        self.hurried = False
        if not ray.is_initialized():
            check_address(address)
        self.started_cluster = connect(address)
        try:
            self.demand.lack()
        except ValueError:
            self.close()
            raise
        self._prepare_tasks(threads, jobs_per_gpu)

    def _prepare_tasks(self, threads: Mapping[str, str], jobs_per_gpu: int) -> None:
        """The remote function, with the options of tasks that share a GPU and of those that have it
        for themselves.
        """
        workers, nodes = self._room(), sum(bool(node["Alive"]) for node in ray.nodes())
        on_a_gpu = min(jobs_per_gpu, workers) if self.device == "cuda" else None
        self.task = ray.remote(
            num_returns="streaming",
            max_retries=0,
            max_calls=0,  # a process stays, also on a GPU, and with it the frozen model
        )(carry_out)
        self.shared = {
            "num_cpus": self.demand.cores,
            "num_gpus": self.demand.gpu_share,
            "runtime_env": {"env_vars": task_variables(threads, workers, nodes, on_a_gpu)},
        }
        self.whole = self.shared
        if on_a_gpu is not None:
            alone = {"env_vars": task_variables(threads, workers, nodes, 1)}
            gpus = math.ceil(self.demand.gpu_share)
            self.whole = {**self.shared, "num_gpus": gpus, "runtime_env": alone}

    def num_workers(self) -> int:
        """How many tasks the cluster can run now; it may grow. Raises NoWorkersError where it has
        had no node for a run for a while, and is not known to get one.
        """
        now = time.monotonic()
        if self.demand.room(self.broken) or may_grow():
            self.had_room = now
        elif now - self.had_room > ROOM_SECONDS:
            raise NoWorkersError(
                f"the cluster has had no node for a run, which asks for {self.demand}, for "
                f"{ROOM_SECONDS:g} seconds"
            )
        return self._room()

    def _room(self) -> int:
        room = self.demand.room(self.broken)
        return max(1, room if self.jobs < 0 else min(room, self.jobs))

    def start_early(self) -> None:
        return

    def submit(self, job: Job) -> None:
        self.queue.add(job)

    def poll(self, timeout: float) -> Sequence[Event]:
        """See Executor.poll."""
        deadline = time.monotonic() + timeout
        while True:
            self._dispatch()
            events = self._listen(max(0.0, min(deadline - time.monotonic(), CHECK_SECONDS)))
            if events or time.monotonic() >= deadline or not (self.flights or self.ending):
                return events

    def _dispatch(self) -> None:
        """Submit tasks, as many as there is room for, but none while a process ends, which would
        take it along.
        """
        self._forget_ended()
        workers = self._room() if self.queue and not self.ending else 0
        while self.queue and len(self.flights) < workers:
            own = [flight.affinity for flight in self.flights.values()]
            if self.queue.for_whole:
                jobs, options = [self.queue.next_for_whole()], self.whole
            else:
                jobs = self.queue.next_jobs(None, own, most=self.lockstep, workers=workers)
                options = self.shared
            messages = [self._message(job) for job in jobs]
            flight = _Flight({job.key: job for job in jobs}, jobs[0].affinity, len(jobs))
            task = self.task.options(**options, **avoiding(self.broken))
            self.flights[task.remote(self.entry, messages)] = flight

    def _drop(self, task: Any, *, kill: bool = False) -> "_Flight":
        """Listen to a task no more, whose process ends or is killed."""
        if kill:
            ray.cancel(task, force=True)
        self.ending[task] = time.monotonic() + ENDING_SECONDS
        return self.flights.pop(task)

    def _forget_ended(self, seconds: float = 0.0) -> None:
        """Wait for a process that ends, and forget those that have ended."""
        if not self.ending:
            return
        by_end = {task.completed(): task for task in self.ending}
        ended, _ = ray.wait(list(by_end), num_returns=1, timeout=seconds)
        for end in ended:
            with contextlib.suppress(exceptions.RayError):
                ray.get(end)  # or else Ray says that nobody has looked at it
            del self.ending[by_end[end]]
        now = time.monotonic()
        self.ending = {task: last for task, last in self.ending.items() if now < last}

    def _message(self, job: Job) -> dict[str, Any]:
        payload = {**job.payload, "device": self.device}
        if self.cache_dir is not None:
            payload["cache_dir"] = str(self.cache_dir)
            payload[REMEMBERED] = job.payload.get("cache_dir")
        return {
            "key": job.key,
            "attempt": self.queue.attempts[job.key],
            "payload": payload,
            "log": str(job.log) if job.log else None,
            "home": str(job.home or ""),
        }

    def _listen(self, seconds: float) -> list[Event]:
        """What tasks have told, and those that take too long."""
        events, self.events = self.events, []
        if not self.flights or events:
            self._forget_ended(0.0 if events else seconds)
            return events
        loud, _ = ray.wait(list(self.flights), num_returns=1, timeout=seconds)
        if loud:
            loud, _ = ray.wait(list(self.flights), num_returns=len(self.flights), timeout=0)
        events = [event for task in loud for event in self._hear(task)]
        for task, flight in list(self.flights.items()):
            if reason := self._late(flight):
                self._drop(task, kill=True)
                events += self._lose(flight, reason, is_blamed=not self.hurried)
        return events

    def _hear(self, task: Any) -> list[Event]:
        """One message of a task, or its end."""
        flight = self.flights[task]
        try:
            message = json.loads(ray.get(next(task)))
        except StopIteration:
            del self.flights[task]
            return self._lose(flight, "its task ended without an answer")
        except exceptions.RayTaskError as error:  # our own code did not even begin
            del self.flights[task]
            answer = {"kind": "failed", "message": one_line(f"{error.cause}"), "fatal": True}
            return [self.queue.conclude(job, answer) for job in flight.jobs.values()]
        except exceptions.RayError as error:
            return self._lose(self._drop(task), _reason(error))
        flight.heard = time.monotonic()
        if message["kind"] == "begun":
            flight.started, flight.place = flight.heard, message
            return [self._event(key, "started", {}) for key in flight.jobs]
        if message["kind"] == "progress":
            return [self._event(message["key"], "progress", message["values"])]
        if message["kind"] == "unusable" or message.get("fault") == "lost":
            return self._avoid(self._drop(task), message)
        events = [self.queue.conclude(flight.jobs.pop(message["key"]), message)]
        if message["kind"] == "done":
            for place in flight.places():
                self.losses[place] = 0
        if message.get("fault"):
            self._drop(task)
            reason = "a run beside it met a fault of the device"
            return events + (self._lose(flight, reason) if flight.jobs else [])
        if not flight.jobs:
            del self.flights[task]
        return events

    def _avoid(self, flight: "_Flight", answer: Mapping[str, Any]) -> list[Event]:
        """A node or a GPU of it does not work: its jobs run elsewhere or, where nothing is left,
        are returned.
        """
        node, host, gpus = (flight.place[name] for name in ("node", "host", "gpus"))
        where = f"GPU {gpus} of node {host}: " if answer.get("fault") else ""
        reason = f"{where}{answer['message']}"
        for place in flight.places():
            self.losses[place] += 1
        is_often = max(self.losses[place] for place in flight.places()) >= MAX_LOSSES
        if node and (is_often or answer["kind"] == "unusable"):
            self.broken.add(node)
            reason = f"{reason}; node {host} is used no more"
        if self.demand.room(self.broken) or may_grow():
            return self._lose(flight, reason)
        for job in flight.jobs.values():
            self.queue.put_back(job)
        return [Event(key=key, kind="returned", attempt=0, message=reason) for key in flight.jobs]

    def _event(self, key: str, kind: Any, values: Mapping[str, float]) -> Event:
        return Event(key=key, kind=kind, attempt=self.queue.attempts[key], result=values)

    def _late(self, flight: "_Flight") -> str:
        """Why a task must be ended, or nothing."""
        if not flight.started:
            return ""
        now = time.monotonic()
        if self.job_seconds is not None:
            most = self.job_seconds * flight.num_given
            if now - flight.started > most:
                return over_time(most, flight.num_given)
        if self.silent_seconds is not None:
            most = self.silent_seconds * len(flight.jobs)
            if now - flight.heard > most:
                return over_silence(most)
        return ""

    def _lose(self, flight: "_Flight", reason: str, *, is_blamed: bool = False) -> list[Event]:
        """Give up the jobs of a task, which are no longer those of this executor. With
        ``is_blamed`` the attempt counts, unless there were several jobs.
        """
        alone = len(flight.jobs) == 1
        if not alone:
            reason = f"{reason}, as {len(flight.jobs)} runs advanced in lockstep"
        events = []
        for key in flight.jobs:
            counted = self.queue.attempts[key] - (not (is_blamed and alone))
            self.queue.forget(key)
            events.append(Event(key=key, kind="lost", attempt=counted, message=reason))
        return events

    def cancel(self, key: str, *, running: bool = False) -> bool:
        """See Executor.cancel. A task that waits for room in the cluster counts as queued. What ran
        beside the job is lost: its process may still write for a moment.
        """
        if self.queue.remove(key):
            return True
        for task, flight in list(self.flights.items()):
            if key in flight.jobs and (running or not flight.started):
                self._drop(task, kill=True)
                del flight.jobs[key]
                self.queue.forget(key)
                self.events += self._lose(flight, "a run beside it was withdrawn")
                return True
        return False

    def hurry(self) -> None:
        """See Executor.hurry. Only a task over its limits is not waited for, and nobody blamed."""
        self.hurried = True

    def close(self) -> None:
        """See Executor.close. A cluster that was started here ends."""
        for task in list(self.flights):
            with contextlib.suppress(exceptions.RayError, ValueError):
                ray.cancel(task, force=True)
            self._drop(task)
        last = time.monotonic() + CLOSE_SECONDS
        while self.ending and time.monotonic() < last:
            self._forget_ended(last - time.monotonic())
        self.queue, self.ending = JobQueue(), {}
        if self.started_cluster:
            ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class _Flight:
    """The jobs of a task, of ``num_given``, that have not ended, when it began and where, and when
    it was last heard.
    """

    jobs: dict[str, Job]
    affinity: str
    num_given: int
    started: float = 0.0
    heard: float = field(default_factory=time.monotonic)
    place: Mapping[str, str] = field(default_factory=dict)

    def places(self) -> list[tuple[str, ...]]:
        """The node, and the GPUs of it: each of them may be what does not work."""
        node = self.place.get("node", "")
        return [(node,), (node, self.place.get("gpus", ""))]


def demand_of(device: str, jobs_per_gpu: int) -> Demand:
    """What a task asks for. Raises ValueError for a number of threads that has no meaning."""
    cores = int(thread_variables(None, 1)[OPENMP].split(",")[0])
    return Demand(cores, 1 / jobs_per_gpu if device == "cuda" else 0.0)


def task_variables(
    threads: Mapping[str, str], workers: int, nodes: int, on_a_gpu: int | None
) -> dict[str, str]:
    """The environment of tasks, of which ``on_a_gpu`` share a GPU, or none is on a GPU. Where the
    code lies is the same on all nodes.
    """
    on_a_node = -(-workers // max(1, nodes))
    return {
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        **openmp_variables(),
        **threads,
        MEASURED_THREADS_VARIABLE: "",
        WORKERS_VARIABLE: str(on_a_node),
        DEVICE_WORKERS_VARIABLE: str(on_a_gpu or on_a_node),
    }


def _reason(error: Exception) -> str:
    """Why a task was lost, in a line."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return "Ray ended its worker process, because its node ran out of memory"
    if isinstance(error, exceptions.NodeDiedError):
        return "its node was lost"
    if isinstance(error, exceptions.WorkerCrashedError):
        return "its worker process or its node was lost"
    return one_line(f"{type(error).__name__}: {error}".splitlines()[0])


class _Mail(list[bytes]):
    """The messages of tasks that were not passed on yet."""

    def send_bytes(self, message: bytes) -> None:
        self.append(message)

    def take(self) -> Iterator[str]:
        while self:
            yield self.pop(0).decode()


def carry_out(entry: str, messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The task: runs jobs side by side, and yields what a worker process of this machine would
    send: "begun", progress, and one answer for each job.
    """
    yield json.dumps({"kind": "begun", **_place()})
    homes = {home for message in messages if (home := message["home"])}
    if unseen := [home for home in homes if not Path(home).is_dir()]:
        reason = (
            f"node {os.uname().nodename} does not see the folder {unseen[0]}: give --runs on a "
            "file system that all nodes share"
        )
        yield json.dumps({"kind": "unusable", "message": reason})
        return
    mail = _Mail()
    waiting = [LoggedTask(entry, message, mail, len(messages)) for message in messages]
    with _own_output():
        while waiting:
            task = min(waiting, key=lambda one: one.position)
            answer = task.advance()
            yield from mail.take()
            if answer is not None:
                waiting.remove(task)
                del task
                yield answer
                if json.loads(answer).get("fault"):
                    sys.exit(1)  # the state of the process is in doubt; the cluster has others


def _place() -> dict[str, str]:
    """Where this process runs."""
    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return {"node": node, "host": os.uname().nodename, "gpus": gpus}


@contextlib.contextmanager
def _own_output() -> Iterator[None]:
    """A context in which the output of this process goes elsewhere; afterwards as before."""
    kept = [os.dup(1), os.dup(2)]
    try:
        yield
    finally:
        LoggedTask.writing = None
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
