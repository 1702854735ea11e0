"""Workers by fork: one process imports what runs need, and every worker is a copy of it.

The server is a fresh interpreter with the environment of the workers, from which libraries read
their numbers of threads when they are loaded. It runs nothing: it imports, forks on request, and
tells the driver how its children end. So it has no thread, no file and no device that a copy could
not use, and plug-ins are loaded by each worker. It ends with the driver. Where it ends before that,
its workers go on, and new ones are fresh interpreters.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import wait

from core.signals import ignore_hangup
from experiments.workers import worker

DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"  # read when a process first uses CUDA
UNKNOWN_CODE = 255  # of a worker that outlived its server
MESSAGE_BYTES = 65536


class ForkServer:
    """A fork server, as the driver sees it. ``is_gone`` when it has ended."""

    def __init__(self, entry: str, environment: Mapping[str, str]) -> None:
        self.environment = _shared(environment)
        self.workers: list[ForkedProcess] = []
        self.is_gone = False
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            call = f"from {__name__} import main; main({theirs.fileno()}, {entry!r})"
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", call],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self.environment,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )

    @staticmethod
    def is_possible() -> bool:
        """Whether this system can fork, and wait for processes that are not its own: only Linux."""
        try:
            os.close(os.pidfd_open(os.getpid()))
        except (AttributeError, OSError):
            return False
        return True

    def start(
        self, environment: Mapping[str, str], channel: int, output: int
    ) -> "ForkedProcess | None":
        """Ask for a worker with this end of its pipe and this output; None where there is no
        server, and where it has another environment, ``DEVICES_VARIABLE`` aside.
        """
        if _shared(environment) != self.environment:
            return None
        request = {"number": len(self.workers), "devices": environment.get(DEVICES_VARIABLE)}
        lifeline, ours = os.pipe()
        process = ForkedProcess(self, ours)
        try:
            self.listen()
            descriptors = [lifeline, channel, output]
            socket.send_fds(self.socket, [json.dumps(request).encode()], descriptors)
        except OSError:
            process.stdin.close()
            return None
        finally:
            os.close(lifeline)
        self.workers.append(process)
        return process

    def listen(self) -> None:
        """Note what the server has said."""
        while not self.is_gone and wait([self.socket], 0):
            message = b""
            with contextlib.suppress(OSError):
                message = self.socket.recv(MESSAGE_BYTES)
            if message:
                said = json.loads(message)
                self.workers[said.pop("number")].note(**said)
            else:
                self.close()

    def close(self) -> None:
        """End the server, and no worker."""
        if self.is_gone:
            return
        self.is_gone = True
        self.socket.close()
        self.process.kill()
        self.process.wait()
        for process in self.workers:
            process.orphan()


class ForkedProcess:
    """A worker that the server has forked or will fork; used like a ``subprocess.Popen``.

    ``pid`` is None until the server has told it.
    """

    def __init__(self, server: ForkServer, lifeline: int) -> None:
        self.server = server
        self.stdin = os.fdopen(lifeline, "wb")
        self.pid: int | None = None
        self.returncode: int | None = None
        self.handle: int | None = None  # of a worker that outlived its server

    @property
    def working_pid(self) -> int:
        """The process that works for this one: before it is forked, the server."""
        return self.pid or self.server.process.pid

    def note(self, *, pid: int, code: int | None) -> None:
        """What the server has told: the process has begun, or ended."""
        self.pid = pid
        if self.returncode is None:
            self.returncode = code

    def orphan(self) -> None:
        """The server is gone: from now on the system tells whether the process lives."""
        if self.returncode is not None:
            return
        if self.pid is None:
            self.returncode = self.server.process.returncode
        else:
            with contextlib.suppress(ProcessLookupError):
                self.handle = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """The code with which the process has ended, or None."""
        self.server.listen()
        if self.returncode is None and self.server.is_gone and self._has_ended():
            self.returncode = UNKNOWN_CODE
        if self.returncode is not None and self.handle is not None:
            os.close(self.handle)
            self.handle = None
        return self.returncode

    def _has_ended(self) -> bool:
        return self.handle is None or bool(wait([self.handle], 0))

    def wait(self, timeout: float) -> int:
        """As ``poll``, up to so many seconds later. Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired("worker", timeout)
            wait([self.server.socket if self.handle is None else self.handle], left)
        return code

    def kill(self) -> None:
        """Kill the process. One that is still to be forked ends when its standard input does."""
        if self.pid is None:
            self.returncode = -signal.SIGKILL
        elif self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _shared(environment: Mapping[str, str]) -> dict[str, str]:
    """What all workers have in common."""
    return {name: text for name, text in environment.items() if name != DEVICES_VARIABLE}


def main(control: int, entry: str) -> None:
    """Be a fork server until the driver closes this socket; be a worker in every child."""
    ignore_hangup()
    worker.prepare(entry)
    gc.freeze()  # a collection would touch, and so copy, all that the workers share
    if (channel := _serve(socket.socket(fileno=control))) is not None:
        worker.main(channel, entry)


def _serve(control: socket.socket) -> int | None:
    """Fork on request. Returns the worker's end of its pipe in a child, None at the end."""
    children: dict[int, tuple[int, int]] = {}  # by handle: the number of a worker, its process
    while True:
        for ready in wait([control, *children]):
            if isinstance(ready, int):
                number, pid = children.pop(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.close(ready)
                _tell(control, number, pid, code)
                continue
            message, descriptors, _, _ = socket.recv_fds(
                control, MESSAGE_BYTES, 3, socket.MSG_CMSG_CLOEXEC
            )
            if not message:
                return None
            request = json.loads(message)
            pid = os.fork()
            if pid == 0:
                for handle in (control.detach(), *children):
                    os.close(handle)
                return _become_worker(request["devices"], *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            with contextlib.suppress(OSError):  # the child has done it, and may have ended
                os.setpgid(pid, pid)
            children[os.pidfd_open(pid)] = (request["number"], pid)
            _tell(control, request["number"], pid, None)


def _tell(control: socket.socket, number: int, pid: int, code: int | None) -> None:
    control.send(json.dumps({"number": number, "pid": pid, "code": code}).encode())


def _become_worker(devices: str | None, lifeline: int, channel: int, output: int) -> int:
    """Take what makes a process a worker of its own; returns its end of the pipe."""
    os.setpgid(0, 0)
    for descriptor, standard in ((lifeline, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, standard)
    os.close(lifeline)
    os.close(output)
    if devices is not None:
        os.environ[DEVICES_VARIABLE] = devices
    return channel
