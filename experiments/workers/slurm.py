"""Slurm jobs, each of which is one more driver of a shared study.

A job runs the command that is given, which claims runs until none is left. Shortly before its time
is over, or when Slurm preempts it, the driver is asked to stop: runs that end soon are kept, the
others leave their training checkpoints and are free for the other jobs at once; then the job is
queued again. A job that is killed without a warning loses nothing either: its runs are taken over
when its driver gives no sign of life.

There is no queue of runs here and no server: Slurm gives machines, the study folder does the rest.
The module needs the package submitit; importing it raises ValueError where that is not installed.
"""

import contextlib
import importlib.util
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.streams import one_line
from core.suggestions import did_you_mean
from experiments.workers.jobs import NoWorkersError

if importlib.util.find_spec("submitit") is None:
    raise ValueError(
        "--executor slurm needs the package submitit, which is not installed; run "
        "'pip install -c constraints.txt -e .[slurm]', or use --executor local"
    )

import submitit
from submitit.core.utils import FailedSubmissionError
from submitit.helpers import DelayedSubmission

SLURM, LOCAL = "slurm", "local"
DELAYS = {SLURM: 180, LOCAL: 30}
"""How many seconds before the end of its time a job is told; a parameter changes that of Slurm."""
MINUTES = 5
"""The time of a job, which submitit limits in any case."""
LAST_SECONDS = 45
"""Of that time, what is left for runs that are stopped in the middle."""
MAX_REQUEUES = 1000
CHECK_SECONDS = 10.0
CLUSTER, DELAY, TIMEOUT, TIME = "cluster", "signal_delay_s", "timeout_min", "time"
SHARED = (
    *("name", TIMEOUT, "mem_gb", "nodes", "cpus_per_task", "gpus_per_node"),
    *("tasks_per_node", "stderr_to_stdout"),
)
COUNTS = {
    **dict.fromkeys(("cpus_per_task", "cpus_per_gpu", "array_parallelism", DELAY, TIMEOUT), 1),
    **dict.fromkeys(("gpus_per_node", "gpus_per_task", "num_gpus"), 0),
}
"""Parameters that are whole numbers, with the least one."""
FLAGS = ("stderr_to_stdout", "use_srun")
GPU_COUNTS = ("gpus_per_node", "gpus_per_task", "num_gpus", "gres")
ONE_DRIVER = {
    "nodes": "a job is one node, and --nodes says how many jobs there are",
    "tasks_per_node": "one driver uses all GPUs and cores of its node",
    "ntasks_per_node": "one driver uses all GPUs and cores of its node",
}
"""Parameters that must be 1, and why."""
CLOCK = re.compile(r"(?:(\d+)-)?(\d+)(?::([0-5]?\d))?(?::([0-5]?\d))?")
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)  # of Slurm and submitit, to the job


@dataclass
class DriverJob:
    """What a job runs: a command, in the folder in which it was given.

    ``warning_seconds`` is the time from the signal to the end. Of the words in ``once``, none is
    repeated when the job is queued again. With ``ends_on_term`` SIGTERM ends the job: Slurm sends
    that signal before a job is queued again as well.
    """

    command: Sequence[str]
    folder: str
    warning_seconds: float
    once: Sequence[str] = ()
    ends_on_term: bool = False
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def __call__(self) -> int:
        """Run the command to its end; returns its exit code."""
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, process_group=0, preexec_fn=_ignore_signals
        )
        if self.ends_on_term:
            driver = self.process
            signal.signal(signal.SIGTERM, lambda *_: driver.terminate())
        return self.process.wait()

    def checkpoint(self) -> DelayedSubmission:
        """Stop the command in time; what submitit runs when it has queued the job again."""
        if self.process is not None:
            self._stop(self.process)
        command = [word for word in self.command if word not in self.once]
        return DelayedSubmission(
            DriverJob(
                command, self.folder, self.warning_seconds, tuple(self.once), self.ends_on_term
            )
        )

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        """First let the current runs end, then stop them where they are."""
        last = min(LAST_SECONDS, self.warning_seconds / 2)
        for patience in (self.warning_seconds - last, last / 2):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _ignore_signals() -> None:
    """The signals to the job are not for its driver, which has one of its own."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class SlurmJobs:
    """The jobs of one call. Raises ValueError for parameters that mean nothing, and where there is
    no Slurm; ``submit`` raises it where Slurm refuses the jobs.

    ``parameters`` are those of submitit, without the prefix "slurm_"; ``cluster`` is "local" for
    processes on this machine instead of Slurm.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        log_dir: Path,
        parameters: Mapping[str, Any],
        *,
        once: Sequence[str] = (),
    ) -> None:
        self.cluster, self.values = checked(parameters)
        delay = float(self.values[DELAY])
        self.job = DriverJob(command, os.getcwd(), delay, once, self.cluster == LOCAL)
        self.count, self.log_dir = count, log_dir
        unused = {*parameters} - {*SHARED, CLUSTER, TIME}
        self.unused = sorted(unused) if self.cluster == LOCAL else []
        self.jobs: list[Any] = []
        self.checked = time.monotonic()

    def submit(self) -> None:
        """Submit the jobs, which an interruption from the keyboard does not reach."""
        os.environ["PYTHONPATH"] = os.pathsep.join(p or os.getcwd() for p in sys.path)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            limit = {f"{self.cluster}_max_num_timeout": MAX_REQUEUES}
            executor = submitit.AutoExecutor(self.log_dir, cluster=self.cluster, **limit)
            executor.update_parameters(**_prefixed(self.values, self.cluster))
            with executor.batch():
                jobs = [executor.submit(self.job) for _ in range(self.count)]
        except (NameError, AssertionError, ValueError, TypeError) as error:
            raise ValueError(f"--slurm: {one_line(str(error).splitlines()[0])}") from None
        except FailedSubmissionError as error:
            raise ValueError(f"Slurm refused the jobs: {one_line(str(error))}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self.jobs = jobs
        self.checked = time.monotonic()

    def __str__(self) -> str:
        minutes = self.values[TIMEOUT]
        names = ", ".join(str(job.job_id) for job in self.jobs)
        text = f"{names}, of {minutes} minute{'s' * (minutes != 1)} each"
        if not self.unused:
            return text
        return f"{text}; with cluster=local these have no effect: {', '.join(self.unused)}"

    def ending(self) -> str:
        """The command that ends the jobs."""
        program = "scancel" if self.cluster == SLURM else "kill"
        return shlex.join([program, *(str(job.job_id) for job in self.jobs)])

    def num_workers(self) -> int:
        """None here; raises NoWorkersError when all jobs have ended."""
        if time.monotonic() - self.checked >= CHECK_SECONDS:
            self.checked = time.monotonic()
            if self.jobs and all(job.done() for job in self.jobs):
                raise NoWorkersError(f"the Slurm jobs have ended; see {self.log_dir}")
        return 0


def require_cluster(parameters: Mapping[str, Any]) -> str:
    """What runs the jobs. Raises ValueError where it is not there."""
    cluster = str(parameters.get(CLUSTER, SLURM))
    if cluster not in DELAYS:
        raise ValueError(f"--slurm cluster must be slurm or local, got {cluster!r}")
    if cluster == SLURM and shutil.which("sbatch") is None:
        raise ValueError(
            "--executor slurm needs Slurm, but there is no 'sbatch' here: run the command on a "
            "login node, or try it on this machine with --slurm cluster=local"
        )
    return cluster


def checked(parameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The cluster, and the parameters of its jobs as submitit takes them, with the time of a job in
    minutes and that of its warning in seconds.

    Raises ValueError for names and values that mean nothing, and where there is no Slurm.
    """
    known = {*SHARED, *submitit.SlurmExecutor._valid_parameters()} - {"additional_parameters"}
    for name in parameters:
        if name not in {*known, CLUSTER}:
            near = did_you_mean(name, known)
            raise ValueError(
                f"--slurm {name} is not a parameter of submitit{near}; other options of sbatch go "
                "into variables such as SBATCH_RESERVATION"
            )
    if TIME in parameters and TIMEOUT in parameters:
        raise ValueError("--slurm time and --slurm timeout_min are the same: give one of them")
    values = {
        TIMEOUT if name == TIME else name: _value(name, value)
        for name, value in parameters.items()
        if name != CLUSTER
    }
    cluster = require_cluster(parameters)
    seconds = 60 * values.setdefault(TIMEOUT, MINUTES)
    if values.setdefault(DELAY, min(DELAYS[cluster], seconds // 2)) >= seconds:
        raise ValueError(
            f"--slurm {DELAY} must be below the time of a job, {seconds} seconds, got "
            f"{values[DELAY]}: it is how long before its end a job is told"
        )
    if cluster == LOCAL:  # which has one of its own
        values[DELAY] = DELAYS[LOCAL]
    return cluster, values


def _value(name: str, value: int | str) -> Any:
    """A parameter of the type that submitit expects. Raises ValueError for what is not one."""

    def refusal(rule: str) -> ValueError:
        return ValueError(f"--slurm {name} must be {rule}, got {str(value)!r}")

    if name in ONE_DRIVER and value != 1:
        raise refusal(f"1, or left out: {ONE_DRIVER[name]}")
    if name == TIME:
        if (minutes := _minutes(str(value))) is None or minutes < 1:
            raise refusal("minutes, or a time such as 4:00:00 or 1-12 (days-hours), of at least 1")
        return minutes
    if name in COUNTS and (not isinstance(value, int) or value < COUNTS[name]):
        raise refusal(f"a whole number of at least {COUNTS[name]}")
    if name == "mem_gb":
        with contextlib.suppress(ValueError):
            if 0 < float(value) < math.inf:
                return float(value)
        raise refusal("a number above 0")
    if name in FLAGS:
        if value not in ("true", "false"):
            raise refusal("true or false")
        return value == "true"
    if name in ("setup", "teardown"):
        return [str(value)]
    if name == "srun_args":
        return shlex.split(str(value))
    if name == "exclusive" and value == "true":
        return True
    return value if isinstance(value, int) and name in {*COUNTS, *ONE_DRIVER} else str(value)


def _minutes(text: str) -> int | None:
    """The minutes of a time as sbatch takes it: MINUTES, MM:SS, HH:MM:SS, D-HH, D-HH:MM or
    D-HH:MM:SS; seconds count as a minute. None for anything else.
    """
    found = CLOCK.fullmatch(text) if text.isascii() else None
    if found is None:
        return None
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    return (int(days or 0) * 24 + hours) * 60 + minutes + (seconds > 0)


def _prefixed(values: Mapping[str, Any], cluster: str) -> dict[str, Any]:
    """Parameters as submitit names them; those of Slurm alone mean nothing elsewhere."""
    named = {
        name if name in SHARED else f"{cluster}_{name}": value for name, value in values.items()
    }
    if cluster == SLURM:
        return named
    return {name: value for name, value in named.items() if name in SHARED}
