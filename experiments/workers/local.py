"""The local executor: jobs run in worker processes on this machine.

Executors pass a plain mapping to an entry function and its plain result back; they know nothing
about records.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any, Literal, Self

from core.machine import (
    DEVICE_WORKERS_VARIABLE,
    MEASURED_THREADS_VARIABLE,
    WORKERS_VARIABLE,
    available_cores,
    openmp_variables,
)
from core.store.names import WORKER_LOG_NAME
from experiments.workers.fork_server import DEVICES_VARIABLE, ForkedProcess, ForkServer
from experiments.workers.inline import InlineExecutor
from experiments.workers.jobs import Event, Executor, Job, JobQueue, in_lockstep
from experiments.workers.placement import Offer, Seats
from experiments.workers.worker import ENTRY, answers

OPENMP, MKL = "OMP_NUM_THREADS", "MKL_NUM_THREADS"
MAX_THREADS = 2**31 - 1
MAX_FAILED_STARTS = 3
CLOSE_SECONDS = 5.0
CHECK_SECONDS = 0.5
# The silence limit where none is given: this long at least, and this many times the longest silence
# after which a job of this call went on, unless the worker uses its processor.
SILENT_SECONDS = 300.0
SILENT_FACTOR = 5.0
# The same while the study is stopping.
HURRIED_SECONDS = 10.0
HURRIED_FACTOR = 2.0
BUSY_SHARE = 0.02
START_SECONDS = 60.0
SERVER_IS_GONE = (
    "the process that workers are forked from has ended; this worker and those after it are fresh "
    "interpreters"
)

Process = subprocess.Popen[bytes] | ForkedProcess


class _Worker:
    """A worker process, the driver's end of its pipe, and its current jobs.

    ``jobs`` are those of the ``num_given`` that have not ended.

    Its standard input is a pipe that is never written to; its end of file tells the worker that the
    driver is gone. The worker leads its own process group, so that Ctrl-C in a terminal reaches
    only the driver, and a kill reaches the worker's children.
    """

    def __init__(
        self, entry: str, environment: Mapping[str, str], log: Path, server: ForkServer | None
    ) -> None:
        self.server = server
        self.channel, theirs = Pipe()
        log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, log.open("ab") as output:
            forked = server and server.start(environment, theirs.fileno(), output.fileno())
            if server and server.is_gone:
                output.write(f"{SERVER_IS_GONE}\n".encode())
                output.flush()
            self.process: Process = forked or _fresh(entry, environment, theirs.fileno(), output)
        self.jobs: dict[str, Job] = {}
        self.num_given = 0
        self.begun = False
        self.affinity: str | None = None
        self.started = self.heard = 0.0
        self.processor = 0.0

    def give(self, jobs: Sequence[Job], attempts: Mapping[str, int]) -> None:
        """Start jobs. A worker that died meanwhile is noticed by the next poll."""
        self.jobs, self.num_given = {job.key: job for job in jobs}, len(jobs)
        self.affinity, self.begun = jobs[0].affinity, False
        self.started = time.monotonic()
        self.hear()
        messages = [
            {
                "key": job.key,
                "attempt": attempts[job.key],
                "payload": job.payload,
                "log": str(job.log) if job.log else None,
                "home": str(job.home or ""),
            }
            for job in jobs
        ]
        self._send(json.dumps(messages, allow_nan=False))

    def is_awaited(self) -> bool:
        """Whether the process is still to be forked."""
        return self.process.pid is None

    def hear(self) -> float:
        """Note a sign of life; returns the seconds since the last one."""
        before, self.heard = self.heard, time.monotonic()
        self.processor = self._used_seconds()
        return self.heard - before

    def silence(self) -> float:
        """Seconds since the last message."""
        return time.monotonic() - self.heard

    def is_busy(self) -> bool:
        """Whether the process has used its processor since its last message, or nobody can say."""
        if not Path("/proc/self/stat").exists():
            return True
        used = self._used_seconds() - self.processor
        return used >= BUSY_SHARE * self.silence()

    def _used_seconds(self) -> float:
        if isinstance(self.process, ForkedProcess):
            return _processor_seconds(self.process.working_pid)
        return _processor_seconds(self.process.pid)

    def dismiss(self) -> None:
        """Ask an idle worker to exit; kill a busy one, and one that may still be starting."""
        if self.jobs or not self.started:
            self.kill()
        else:
            self._send("null")

    def _send(self, text: str) -> None:
        try:
            self.channel.send_bytes(text.encode())
        except OSError:
            self.kill()

    def kill(self) -> None:
        """Kill the process and its children immediately."""
        if self.process.pid is None:
            self.process.kill()
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def bury(self, seconds: float) -> str:
        """Wait for the process to end, kill it after ``seconds``, and describe how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.kill()
        code = None
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # waiting for a device cannot be killed
            code = self.process.wait(CLOSE_SECONDS)
        self.channel.close()
        if self.process.stdin:
            self.process.stdin.close()
        if code is None:
            return f"worker process {self.process.pid} cannot be killed: it waits for a device"
        if code >= 0:
            return f"worker process exited with code {code}"
        hint = ", possibly out of memory" if code == -signal.SIGKILL else ""
        return f"worker process was killed by {signal.Signals(-code).name}{hint}"


class LocalExecutor:
    """At most ``jobs`` long-lived worker processes on this machine, started when first needed.

    A worker that dies is replaced, and costs its job one attempt if the job had begun. ``threads``
    is the number of torch threads a worker gets, by default what the user's environment says
    (``OMP_NUM_THREADS``, ``MKL_NUM_THREADS``), or else at most its share of the cores: as many as
    make a backbone faster (``core/clip/thread_choice.py``). With ``gpus`` (numbers, UUIDs or MIG
    instances) each worker sees one of them. Up to ``lockstep`` jobs of a bundle advance side by
    side on one worker.

    A worker that meets a fault of its device, or runs out of memory, ends and is replaced. A job
    that ran out of memory is run again alone: first without the others of its bundle, then on a
    device without any other worker. A GPU that is lost repeatedly is used no more.

    A job is stopped after ``job_seconds``, or if it reports no progress for ``silent_seconds``.
    Where that is None, a job is stopped that has reported nothing for ``SILENT_SECONDS`` and for
    ``SILENT_FACTOR`` times the longest silence of a job of this executor, and whose process has
    used less than ``BUSY_SHARE`` of a processor meanwhile: a stopped process or a deadlock. Jobs
    that advance side by side have the limits of all of them together.

    Raises:
        ValueError: ``jobs`` or ``threads`` below one, a limit that is not above zero, or an
            environment variable that is no number of threads.
        RuntimeError: from ``poll``, when processes cannot be started at all.
    """

    def __init__(
        self,
        jobs: int,
        *,
        log_dir: Path,
        entry: str = ENTRY,
        threads: int | None = None,
        gpus: Sequence[str] = (),
        job_seconds: float | None = None,
        silent_seconds: float | None = None,
        lockstep: int = 1,
    ) -> None:
        if jobs < 1:
            raise ValueError(
                f"jobs must be at least 1, got {jobs}; use 0 to run without worker processes"
            )
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        _check_times(jobs, job_seconds, silent_seconds)
        self.entry = entry
        self.lockstep = lockstep
        self.log_dir = log_dir
        self.threads = thread_variables(threads, max(1, available_cores() // jobs))
        self.threads[MEASURED_THREADS_VARIABLE] = "" if threads or _given_threads() else "1"
        self.gpus = tuple(gpus)
        self.job_seconds = job_seconds
        self.silent_seconds = silent_seconds
        self.queue = JobQueue()
        self.workers: list[_Worker | None] = [None] * jobs
        self.seats = Seats(jobs, self.gpus)
        self.forks = jobs > 1 and ForkServer.is_possible()
        self.server: ForkServer | None = None
        self.failed_starts = 0
        self.longest_silence = 0.0
        self.hurried = False

    def start_early(self) -> None:
        """See Executor.start_early. A worker that dies is replaced when there is a job for it."""
        for slot, worker in enumerate(self.workers):
            if worker is None:
                self._start(slot, Path(os.devnull))

    def submit(self, job: Job) -> None:
        self.queue.add(job)

    def poll(self, timeout: float) -> Sequence[Event]:
        """See Executor.poll."""
        deadline = time.monotonic() + timeout
        while True:
            events = [*self._dispatch(), *self._listen(deadline)]
            if events or time.monotonic() >= deadline or not any(self._busy()):
                return events

    def _dispatch(self) -> Iterator[Event]:
        """Give every free worker a job, or a bundle of them."""
        for slot in range(len(self.workers)):
            if not self.queue:
                return
            worker = self.workers[slot]
            if worker is not None and worker.jobs:
                continue
            offer = self._offer(slot)
            if offer == "nothing" or (offer == "shared" and not self.queue.groups):
                continue
            if offer == "whole":
                self._clear_device(slot)
            worker = self.workers[slot]
            if worker is None or worker.process.poll() is not None:
                worker = self._start(slot)
            jobs = [self.queue.next_for_whole()] if offer == "whole" else self._next_jobs(worker)
            worker.give(jobs, self.queue.attempts)
            for job in jobs:
                attempt = self.queue.attempts[job.key]
                yield Event(key=job.key, kind="started", attempt=attempt)

    def _offer(self, slot: int) -> Offer:
        """What a free worker may be given, in view of what runs and waits."""
        jobs = {other: worker.jobs for other, worker in self._busy()}
        whole = {other for other, given in jobs.items() if not self.queue.whole.isdisjoint(given)}
        wanted = bool(self.queue.for_whole)
        return self.seats.offer(slot, busy=jobs.keys(), whole=whole, wanted=wanted)

    def _next_jobs(self, worker: _Worker) -> list[Job]:
        others = [w.affinity for _, w in self._busy() if w.affinity is not None]
        return self.queue.next_jobs(
            worker.affinity, others, most=self.lockstep, workers=len(self.workers)
        )

    def _clear_device(self, slot: int) -> None:
        """End the workers of a device, all of them idle, with the memory that they keep."""
        for other in (slot, *self.seats.beside(slot)):
            worker = self.workers[other]
            if worker is not None and (other != slot or worker.affinity is not None):
                worker.dismiss()
                worker.bury(CLOSE_SECONDS)
                self.workers[other] = None

    def _start(self, slot: int, log: Path | None = None) -> _Worker:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
            **openmp_variables(),
            **self.threads,
            WORKERS_VARIABLE: str(len(self.workers)),
            DEVICE_WORKERS_VARIABLE: str(self.seats.most_on_a_device),  # as ForkServer needs
        }
        if self.gpus:
            environment[DEVICES_VARIABLE] = self.seats.devices[slot]
        log = log or self.log_dir / WORKER_LOG_NAME.format(slot=slot)
        if self.forks and self.server is None:
            self.server = ForkServer(self.entry, environment)
        worker = _Worker(self.entry, environment, log, self.server)
        self.workers[slot] = worker
        if self.server and self.server.is_gone:
            self.forks, self.server = False, None
        return worker

    def _busy(self) -> Iterator[tuple[int, _Worker]]:
        for slot, worker in enumerate(self.workers):
            if worker is not None and worker.jobs:
                yield slot, worker

    def _listen(self, deadline: float) -> list[Event]:
        """Wait briefly for messages; detect workers that are dead or over time."""
        busy = list(self._busy())
        patience = max(0.0, min(deadline - time.monotonic(), CHECK_SECONDS))
        loud = wait([worker.channel for _, worker in busy], patience) if busy else []
        events: list[Event] = []
        for slot, worker in busy:
            if worker.channel in loud:
                events += self._receive(slot, worker)
            elif worker.process.poll() is not None and not worker.channel.poll():
                events += self._lost(slot, worker, "")
            elif reason := self._late(worker):
                worker.kill()
                events += self._lost(slot, worker, reason)
        return events

    def _receive(self, slot: int, worker: _Worker) -> list[Event]:
        """One message of a worker, or the end of its pipe."""
        try:
            message = json.loads(worker.channel.recv_bytes())
        except (EOFError, OSError):
            return self._lost(slot, worker, "")
        silent = worker.hear()
        if message["kind"] == "begun":
            worker.begun = True
            worker.started = worker.heard
            self.failed_starts = 0
            return []
        self.longest_silence = max(self.longest_silence, silent)
        key = message["key"]
        if message["kind"] == "progress":
            attempt = self.queue.attempts[key]
            return [Event(key=key, kind="progress", attempt=attempt, result=message["values"])]
        job = worker.jobs.pop(key)
        if message.get("fault"):
            return self._faulty(slot, worker, job, message)
        if message["kind"] == "done":
            self.seats.worked(slot)
        return [self.queue.conclude(job, message)]

    def _faulty(
        self, slot: int, worker: _Worker, job: Job, answer: Mapping[str, Any]
    ) -> list[Event]:
        """A worker met a fault of its device and ended, with all that it had begun."""
        worker.bury(CLOSE_SECONDS)
        self.workers[slot] = None
        others = list(worker.jobs.values())
        device = self.seats.devices[slot]
        message = f"GPU {device}: {answer['message']}" if device else answer["message"]
        if answer["fault"] == "lost":
            return self._lost_device(slot, [job, *others], message)
        why = in_lockstep(message, worker.num_given)
        events = [self.queue.put_apart(other, why) for other in others]
        if worker.num_given > 1 and not answer["fatal"]:
            return [self.queue.put_apart(job, why), *events]
        return [self.queue.conclude(job, {**answer, "message": message}), *events]

    def _lost_device(self, slot: int, jobs: Sequence[Job], message: str) -> list[Event]:
        """A device does not answer: its jobs run elsewhere or, where none is left, are returned."""
        if self.seats.lost(slot):
            message = f"{message}; it is used no more"
        kind: Literal["returned", "retry"] = "returned" if self.seats.none_left else "retry"
        for job in jobs:
            self.queue.put_back(job)
        return [Event(key=job.key, kind=kind, attempt=0, message=message) for job in jobs]

    def _late(self, worker: _Worker) -> str:
        """Why a busy worker must be stopped, or nothing."""
        running = time.monotonic() - worker.started
        if self.job_seconds is not None and worker.begun:
            most = self.job_seconds * worker.num_given
            if running > most:
                return over_time(most, worker.num_given)
        limit = self._silence_limit(worker)
        if worker.silence() <= limit:
            return ""
        given = self.silent_seconds is not None and not self.hurried
        if not (given and worker.begun) and worker.is_busy():
            return ""
        return over_silence(limit)

    def _silence_limit(self, worker: _Worker) -> float:
        """Seconds that a worker may say nothing; it may be slow to start."""
        limit = max(SILENT_SECONDS, SILENT_FACTOR * self.longest_silence)
        if self.silent_seconds is not None:
            limit = self.silent_seconds * max(1, len(worker.jobs))
            limit = limit if worker.begun else max(START_SECONDS, limit)
        if self.hurried:
            limit = min(limit, max(HURRIED_SECONDS, HURRIED_FACTOR * self.longest_silence))
        return limit

    def _lost(self, slot: int, worker: _Worker, reason: str) -> list[Event]:
        """A busy worker is gone: its jobs are retried or fail, and its slot is free."""
        awaited = worker.is_awaited()
        ending = worker.bury(CLOSE_SECONDS)
        self.workers[slot] = None
        jobs = list(worker.jobs.values())
        if self.hurried and reason:  # they may run again when the study goes on
            answer = {"kind": "returned", "message": reason}
            return [self.queue.conclude(job, answer) for job in jobs]
        if (worker.begun or reason) and not awaited:
            return self._blame(jobs, reason or ending)
        for job in jobs:
            self.queue.put_back(job)
        if awaited and worker.server:  # which has ended, or hangs
            worker.server.close()
            return []
        self.failed_starts += 1
        if self.failed_starts >= MAX_FAILED_STARTS:
            log = self.log_dir / WORKER_LOG_NAME.format(slot=slot)
            raise RuntimeError(f"worker processes cannot start ({ending}); see {log}")
        return []

    def _blame(self, jobs: Sequence[Job], message: str) -> list[Event]:
        """What becomes of the jobs of a worker that is gone; one of several may be to blame."""
        if len(jobs) == 1:
            return [self.queue.conclude(jobs[0], {"kind": "failed", "message": message})]
        why = in_lockstep(message, len(jobs))
        return [self.queue.put_apart(job, why) for job in jobs]

    def cancel(self, key: str, *, running: bool = False) -> bool:
        """See Executor.cancel."""
        if self.queue.remove(key):
            return True
        for slot, worker in self._busy():
            if running and key in worker.jobs:
                worker.kill()
                worker.bury(CLOSE_SECONDS)
                self.workers[slot] = None
                self.queue.forget(key)
                for other in (job for job in worker.jobs.values() if job.key != key):
                    self.queue.put_back(other)
                return True
        return False

    def hurry(self) -> None:
        """See Executor.hurry."""
        self.hurried = True

    def close(self) -> None:
        """See Executor.close."""
        workers = [worker for worker in self.workers if worker is not None]
        for worker in workers:
            worker.dismiss()
        for worker in workers:
            worker.bury(CLOSE_SECONDS)
        if self.server:
            self.server.close()
            self.server = None
        self.workers = [None] * len(self.workers)
        self.queue = JobQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_executor(
    jobs: int,
    log_dir: Path,
    *,
    gpus: Sequence[str] = (),
    job_seconds: float | None = None,
    silent_seconds: float | None = None,
    lockstep: int = 1,
) -> Executor:
    """An executor on this machine with ``jobs`` workers: one per core for -1, none for 0. Each sees
    one of the ``gpus`` (see ``experiments.workers.placement``). Up to ``lockstep`` jobs of a bundle
    advance side by side.

    Raises ValueError as ``check_limits`` does.
    """
    check_limits(jobs, job_seconds, silent_seconds)
    if jobs == 0:
        return InlineExecutor(lockstep=lockstep)
    count = available_cores() if jobs < 0 else jobs
    return LocalExecutor(
        count,
        log_dir=log_dir,
        gpus=gpus,
        job_seconds=job_seconds,
        silent_seconds=silent_seconds,
        lockstep=lockstep,
    )


def check_limits(jobs: int, job_seconds: float | None, silent_seconds: float | None) -> None:
    """Raise ValueError for a time limit that is not above zero, or without a worker to stop, and
    for a number of threads in the environment that no worker could have.
    """
    if jobs:
        thread_variables(None, 1)
    _check_times(jobs, job_seconds, silent_seconds)


def _check_times(jobs: int, job_seconds: float | None, silent_seconds: float | None) -> None:
    for name, value in (("job seconds", job_seconds), ("silent seconds", silent_seconds)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be a number above 0, got {value:g}")
        if value is not None and jobs == 0:
            raise ValueError(
                f"{name} = {value:g} stops a worker process, and there is none with --jobs 0; use "
                "at least one worker"
            )


def over_time(seconds: float, num_given: int) -> str:
    """Why jobs were stopped that took too long."""
    jobs = "a job" if num_given == 1 else f"{num_given} jobs in lockstep"
    return f"stopped after {seconds:g} seconds, the time limit of {jobs}"


def over_silence(seconds: float) -> str:
    """Why jobs were stopped that said nothing for too long."""
    return f"stopped after {seconds:.4g} seconds without progress"


def thread_variables(threads: int | None, share: int) -> dict[str, str]:
    """The environment variables that set the number of threads of a worker.

    ``threads`` counts where it is given, then what the user has set, then ``share``. Both libraries
    follow a user who has set the variable of OpenMP alone. Raises ValueError for a setting of the
    user that is no number of threads.
    """
    if threads is not None:
        return dict.fromkeys((OPENMP, MKL), str(threads))
    given = _given_threads()
    for name, text in given.items():
        # OpenMP also takes a list, one number for each level of nesting.
        levels = [level.strip() for level in text.split(",")] if name == OPENMP else [text]
        if not all(t.isascii() and t.isdecimal() and 0 < int(t) <= MAX_THREADS for t in levels):
            raise ValueError(
                f"{name} must be a whole number of threads of at least 1, got {text!r}; set it to "
                "one, or unset it for an equal share of the cores"
            )
    openmp = given.get(OPENMP, str(share))
    return {OPENMP: openmp, MKL: given.get(MKL, openmp.split(",")[0].strip())}


def _given_threads() -> dict[str, str]:
    """The numbers of threads that the user has set."""
    return {name: text for name in (OPENMP, MKL) if (text := os.environ.get(name, "").strip())}


def _fresh(
    entry: str, environment: Mapping[str, str], channel: int, output: IO[bytes]
) -> "subprocess.Popen[bytes]":
    """A worker that is an interpreter of its own."""
    call = f"from {answers.__module__} import main; main({channel}, {entry!r})"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", call],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env=dict(environment),
        pass_fds=[channel],
        process_group=0,
    )


def _processor_seconds(pid: int) -> float:
    """Processor time that a process has used, 0 where the system does not say."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
