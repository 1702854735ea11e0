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
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from core.signals import ignore_hangup
from core.store.storage import storage_problem
from core.streams import one_line

ENTRY = f"{__name__}:run_job"
PROGRESS_SECONDS = 0.2

Progress = Callable[[Mapping[str, float]], None]
Entry = Callable[[Mapping[str, Any], Progress], Mapping[str, Any]]


def main(channel: int, entry: str) -> None:
    """Serve jobs from the pipe at this file descriptor until the driver closes it or sends null."""
    faulthandler.enable()
    _vanish_with_driver()
    ignore_hangup()  # the driver decides when a worker ends
    _prepare(entry)
    serve(Connection(channel), entry)


def _prepare(entry: str) -> None:
    """Import what the runs of studies need, before the first one comes. What fails here fails again
    in the job that needs it, which tells.
    """
    if entry == ENTRY:
        with contextlib.suppress(Exception):
            import experiments.run.registered
            import experiments.run.run  # noqa: F401
            from core.clip.open_clip_library import load_open_clip

            load_open_clip()


def serve(channel: Connection, entry: str) -> None:
    """Answer every job with a "begun" message, progress, and one result or failure message."""
    while True:
        try:
            job = json.loads(channel.recv_bytes())
        except EOFError:
            return
        if job is None:
            return
        channel.send_bytes(b'{"kind": "begun"}')
        home = Path(job["home"]) if job["home"] else None
        answer = _with_output(entry, job, home, _Reporter(channel))
        channel.send_bytes(answer.encode())


def _with_output(
    entry: str, job: Mapping[str, Any], home: Path | None, on_progress: Progress
) -> str:
    """Run one job with its output in its log; returns its answer as JSON."""
    try:
        if job["log"]:
            _redirect_output(Path(job["log"]), home)
        print(f"--- {job['key']}, attempt {job['attempt']}", flush=True)
    except OSError as error:
        return _failure(error, home)
    answer = execute(entry, job["payload"], on_progress, home=home)
    with contextlib.suppress(OSError):  # a full disk: the output is cut, the result is not lost
        _flush()
    return answer


def execute(
    entry: str, payload: Mapping[str, Any], on_progress: Progress, *, home: Path | None = None
) -> str:
    """Run one job; returns its answer as JSON."""
    try:
        result = load_entry(entry)(payload, on_progress)
        return json.dumps({"kind": "done", "result": result}, allow_nan=False)
    except (Exception, SystemExit) as error:
        return _failure(error, home)


def _failure(error: BaseException, home: Path | None) -> str:
    """The answer of a job that raised: "returned" where the storage is to blame, or else "failed",
    with the message in full and the traceback on standard error.
    """
    if problem := storage_problem(error, home):
        return json.dumps({"kind": "returned", "message": problem})
    with contextlib.suppress(OSError):
        traceback.print_exception(error)
    message = one_line(traceback.format_exception_only(error)[-1])
    return json.dumps(
        {"kind": "failed", "message": message, "fatal": isinstance(error, ValueError)}
    )


def load_entry(entry: str) -> Entry:
    """The function named by "package.module:function". Raises ValueError where there is none."""
    module_name, _, function_name = entry.partition(":")
    try:
        function: Entry = getattr(importlib.import_module(module_name), function_name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"entry must be 'module:function', got {entry!r}: {error}") from error
    return function


def run_job(payload: Mapping[str, Any], on_progress: Progress) -> Mapping[str, Any]:
    """The entry function of studies: train and evaluate one cell; its record as a plain mapping."""
    import experiments.run.registered  # noqa: F401  (fills the registry)
    from core.config import config_from_text
    from core.plugins import load_unchanged
    from core.store.record import to_json
    from experiments.run.run import run

    load_unchanged(payload.get("plugins", {}))
    record = run(
        config_from_text(payload["config"], payload["identity"]),
        Path(payload["run_dir"]),
        identity=payload["identity"],
        variant=payload["variant"],
        factors=payload["factors"],
        cache_dir=Path(payload["cache_dir"]),
        data_root=Path(payload["data_root"]) if payload["data_root"] else None,
        device=payload["device"],
        on_progress=on_progress,
    )
    result: Mapping[str, Any] = json.loads(to_json(record))
    return result


class _Reporter:
    """Sends progress to the driver, at most a few times a second."""

    def __init__(self, channel: Connection) -> None:
        self.channel = channel
        self.last = 0.0

    def __call__(self, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now - self.last >= PROGRESS_SECONDS:
            self.last = now
            numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
            self.channel.send_bytes(json.dumps({"kind": "progress", "values": numbers}).encode())


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
