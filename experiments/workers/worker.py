"""The main loop of a worker process: receive a job, run it, reply; exit when the driver does.

Messages are JSON texts over one pipe. This module imports nothing heavy: the environment of the
process is set up before the entry function's module, and torch with it, is imported.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Protocol

from core.device_faults import Fault, describe_fault, fault_of
from core.lockstep import BEFORE, Steps
from core.signals import ignore_hangup
from core.store.storage import storage_problem
from core.streams import one_line

ENTRY = f"{__name__}:run_job"
PROGRESS_SECONDS = 0.2
LOCKSTEP = "lockstep"  # in the payload of a job: how many run side by side
REMEMBERED = "remembered_in"  # in that of a job with a cache of its node: that of the study

Progress = Callable[[Mapping[str, float]], None]
Result = Mapping[str, Any]
Entry = Callable[[Mapping[str, Any], Progress], Result | Steps[Result]]


def main(channel: int, entry: str) -> None:
    """Serve jobs from the pipe at this file descriptor until the driver closes it or sends null."""
    faulthandler.enable()
    _vanish_with_driver()
    ignore_hangup()  # the driver decides when a worker ends
    prepare(entry)
    if serve(Connection(channel), entry):
        os._exit(1)  # what a library does at the end may need the device


def prepare(entry: str) -> None:
    """Import what the runs of studies need, before the first one comes, and note which code that
    is. What fails here fails again in the job that needs it, which tells.

    It is also what workers have in common that are forked: it starts no thread, uses no device,
    opens no file that stays open, and loads no plug-in.
    """
    if entry == ENTRY:
        with contextlib.suppress(Exception):
            import experiments.run.registered
            import experiments.run.run  # noqa: F401
            from core.clip.open_clip_library import load_open_clip
            from experiments.run.code import loaded_sources
            from experiments.run.environment import commit

            loaded_sources()
            commit()
            load_open_clip()


def serve(channel: Connection, entry: str) -> Fault:
    """Answer every message, a list of jobs that run side by side, with a "begun" message, their
    progress, and one result or failure message for each as it ends.

    After a fault of the device, or of memory, the state of this process is in doubt: the job is
    answered, and the fault returned, whatever else has begun.
    """
    while True:
        try:
            jobs = json.loads(channel.recv_bytes())
        except EOFError:
            return ""
        if jobs is None:
            return ""
        channel.send_bytes(b'{"kind": "begun"}')
        for answer in answers([LoggedTask(entry, job, channel, len(jobs)) for job in jobs]):
            with contextlib.suppress(OSError):  # a full disk: the output is cut, not the result
                _flush()
            channel.send_bytes(answer.encode())
            fault: Fault = json.loads(answer).get("fault", "")
            if fault:
                return fault


class Task:
    """One job as a worker carries it out; one of ``size`` that run side by side.

    The entry function returns the result of a job, or a generator that stops on its way to it (see
    ``core.lockstep``); ``position`` is where it stands.
    """

    def __init__(
        self,
        entry: str,
        key: str,
        payload: Mapping[str, Any],
        on_progress: Progress,
        *,
        size: int = 1,
        home: Path | None = None,
    ) -> None:
        self.entry, self.key, self.on_progress, self.home = entry, key, on_progress, home
        self.payload = {**payload, LOCKSTEP: size} if size > 1 else payload
        self.position: tuple[int, ...] = BEFORE
        self.steps: Generator[Any, None, Mapping[str, Any]] | None = None

    def advance(self) -> str | None:
        """Go on to the next stop; at the end, the answer as JSON."""
        try:
            if self.steps is None:
                result = load_entry(self.entry)(self.payload, self.on_progress)
                if not isinstance(result, Generator):
                    return self._answer(kind="done", result=result)
                self.steps = result
            try:
                self.position = next(self.steps)
                return None
            except StopIteration as end:
                return self._answer(kind="done", result=end.value)
        except (Exception, SystemExit) as error:
            return self.failed(error)

    def failed(self, error: BaseException) -> str:
        """The answer of a job that raised."""
        return self._answer(**_failure(error, self.home))

    def _answer(self, **values: Any) -> str:
        return json.dumps({"key": self.key, **values}, allow_nan=False)


def answers(tasks: Iterable[Task]) -> Iterator[str]:
    """Carry out tasks side by side: the one that is furthest behind advances. Yields the answer of
    each as it ends.
    """
    waiting = list(tasks)
    while waiting:
        task = min(waiting, key=lambda one: one.position)
        answer = task.advance()
        if answer is not None:
            waiting.remove(task)
            del task  # and all that it holds
            yield answer


class Channel(Protocol):
    """The way of messages to the driver."""

    def send_bytes(self, message: bytes, /) -> None: ...


class LoggedTask(Task):
    """A task whose output goes to its own log, also where another one has printed meanwhile."""

    writing: "ClassVar[LoggedTask | None]" = None

    def __init__(self, entry: str, job: Mapping[str, Any], channel: Channel, size: int) -> None:
        super().__init__(
            entry,
            job["key"],
            job["payload"],
            _Reporter(channel, job["key"]),
            size=size,
            home=Path(job["home"]) if job["home"] else None,
        )
        self.log = Path(job["log"]) if job["log"] else None
        self.title = f"--- {self.key}, attempt {job['attempt']}"

    def advance(self) -> str | None:
        try:
            self._take_output()
        except OSError as error:
            return self.failed(error)
        return super().advance()

    def _take_output(self) -> None:
        """Let all output go to this task's log; the first time, print its title."""
        if LoggedTask.writing is self:
            return
        LoggedTask.writing = self
        if self.log is not None:
            _redirect_output(self.log, self.home)
        if self.title:
            print(self.title, flush=True)
            self.title = ""


def _failure(error: BaseException, home: Path | None) -> dict[str, Any]:
    """What to answer for a job that raised: "returned" where the storage is to blame, or else
    "failed", with the message in full, the fault of the device if it is one, and the traceback on
    standard error.
    """
    if problem := storage_problem(error, home):
        return {"kind": "returned", "message": problem}
    with contextlib.suppress(OSError):
        traceback.print_exception(error)
    fatal = isinstance(error, ValueError)
    if fault := fault_of(error):
        told = describe_fault(error)
        return {"kind": "failed", "message": told, "fatal": fatal, "fault": fault}
    message = one_line(traceback.format_exception_only(error)[-1])
    return {"kind": "failed", "message": message, "fatal": fatal}


def load_entry(entry: str) -> Entry:
    """The function named by "package.module:function". Raises ValueError where there is none."""
    module_name, _, function_name = entry.partition(":")
    try:
        function: Entry = getattr(importlib.import_module(module_name), function_name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"entry must be 'module:function', got {entry!r}: {error}") from error
    return function


def run_job(payload: Mapping[str, Any], on_progress: Progress) -> Steps[Mapping[str, Any]]:
    """The entry function of studies: train and evaluate one cell; its record as a plain mapping."""
    import experiments.run.registered  # noqa: F401  (fills the registry)
    from core.config import config_from_text
    from core.plugins import load_unchanged
    from core.store.record import to_json
    from experiments.run.companions import share_of
    from experiments.run.run import run_steps
    from experiments.run.stored_plugins import remember

    load_unchanged(payload.get("plugins", {}))
    config = config_from_text(payload["config"], payload["identity"])
    if elsewhere := payload.get(REMEMBERED):
        remember(config, Path(elsewhere))
    record = yield from run_steps(
        config,
        Path(payload["run_dir"]),
        identity=payload["identity"],
        variant=payload["variant"],
        factors=payload["factors"],
        cache_dir=Path(payload["cache_dir"]),
        data_root=Path(payload["data_root"]) if payload["data_root"] else None,
        device=payload["device"],
        on_progress=on_progress,
        share=share_of(payload.get(LOCKSTEP, 1), payload["device"]),
    )
    result: Mapping[str, Any] = json.loads(to_json(record))
    return result


class _Reporter:
    """Sends the progress of a job to the driver, at most a few times a second."""

    def __init__(self, channel: Channel, key: str) -> None:
        self.channel, self.key = channel, key
        self.last = 0.0

    def __call__(self, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now - self.last >= PROGRESS_SECONDS:
            self.last = now
            numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
            message = {"key": self.key, "kind": "progress", "values": numbers}
            self.channel.send_bytes(json.dumps(message).encode())


def _vanish_with_driver() -> None:
    """Kill this process and its children when standard input, held open by the driver, ends."""
    lifeline = os.dup(0)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)

    def watch() -> None:
        os.read(lifeline, 1)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _redirect_output(log: Path, home: Path | None) -> None:
    """Append everything this process prints from now on, native code included, to ``log``.

    A ``home`` that has vanished is not made again: the study in it is gone.
    """
    with contextlib.suppress(OSError):  # an earlier job may have closed its output
        _flush()
    log.parent.mkdir(parents=home is None, exist_ok=True)
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        for descriptor in (1, 2):
            if descriptor != opened:
                os.dup2(opened, descriptor)
    finally:
        if opened > 2:
            os.close(opened)
    _reopen_streams()


def _reopen_streams() -> None:
    """Replace standard streams that an earlier job has closed."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name).closed:
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
