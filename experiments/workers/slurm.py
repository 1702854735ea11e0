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
import os
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
from experiments.workers.jobs import NoWorkersError

if importlib.util.find_spec("submitit") is None:
    raise ValueError(
        "--executor slurm needs the package submitit, which is not installed; run "
        "'pip install -c constraints.txt -e .[slurm]', or use --executor local"
    )

import submitit
from submitit.core.utils import FailedSubmissionError
from submitit.helpers import DelayedSubmission

DELAYS = {"slurm": 180, "local": 30}
"""How many seconds before the end of its time a job is told; a parameter changes that of Slurm."""
LAST_SECONDS = 45
"""Of that time, what is left for runs that are stopped in the middle."""
MAX_REQUEUES = 1000
CHECK_SECONDS = 10.0
CLUSTER, DELAY = "cluster", "signal_delay_s"
SHARED = (
    *("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node"),
    *("tasks_per_node", "stderr_to_stdout"),
)
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)  # of Slurm and submitit, to the job


@dataclass
class DriverJob:
    """What a job runs: a command, in the folder in which it was given.

    ``warning_seconds`` is the time from the signal to the end. Of the words in ``once``, none is
    repeated when the job is queued again.
    """

    command: Sequence[str]
    folder: str
    warning_seconds: float
    once: Sequence[str] = ()
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def __call__(self) -> int:
        """Run the command to its end; returns its exit code."""
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, process_group=0, preexec_fn=_ignore_signals
        )
        return self.process.wait()

    def checkpoint(self) -> DelayedSubmission:
        """Stop the command in time; what submitit runs when it has queued the job again."""
        if self.process is not None:
            self._stop(self.process)
        command = [word for word in self.command if word not in self.once]
        return DelayedSubmission(
            DriverJob(command, self.folder, self.warning_seconds, tuple(self.once))
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
    """The jobs of one call; submits them. Raises ValueError for parameters that submitit refuses,
    and where there is no Slurm.

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
        cluster = require_cluster(parameters)
        values = {DELAY: DELAYS[cluster], **parameters}
        values.pop(CLUSTER, None)
        job = DriverJob(command, os.getcwd(), float(values[DELAY]), once)
        os.environ["PYTHONPATH"] = os.pathsep.join(p or os.getcwd() for p in sys.path)
        try:
            limit = {f"{cluster}_max_num_timeout": MAX_REQUEUES}
            executor = submitit.AutoExecutor(log_dir, cluster=cluster, **limit)
            executor.update_parameters(**_prefixed(values, cluster))
            with executor.batch():
                jobs = [executor.submit(job) for _ in range(count)]
        except (NameError, AssertionError, ValueError, TypeError) as error:
            raise ValueError(f"--slurm: {one_line(str(error).splitlines()[0])}") from None
        except FailedSubmissionError as error:
            raise ValueError(f"Slurm refused the jobs: {one_line(str(error))}") from None
        self.jobs = jobs
        self.log_dir = log_dir
        self.checked = time.monotonic()

    def __str__(self) -> str:
        return ", ".join(str(job.job_id) for job in self.jobs)

    def num_workers(self) -> int:
        """None here; raises NoWorkersError when all jobs have ended."""
        if time.monotonic() - self.checked >= CHECK_SECONDS:
            self.checked = time.monotonic()
            if self.jobs and all(job.done() for job in self.jobs):
                raise NoWorkersError(f"the Slurm jobs have ended; see {self.log_dir}")
        return 0


def require_cluster(parameters: Mapping[str, Any]) -> str:
    """What runs the jobs. Raises ValueError where it is not there."""
    cluster = str(parameters.get(CLUSTER, "slurm"))
    if cluster not in DELAYS:
        raise ValueError(f"--slurm cluster must be slurm or local, got {cluster!r}")
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise ValueError(
            "--executor slurm needs Slurm, but there is no 'sbatch' here: run the command on a "
            "login node, or try it on this machine with --slurm cluster=local"
        )
    return cluster


def _prefixed(values: Mapping[str, Any], cluster: str) -> dict[str, Any]:
    """Parameters as submitit names them; those of Slurm alone mean nothing elsewhere."""
    named = {
        name if name in SHARED else f"{cluster}_{name}": value for name, value in values.items()
    }
    if cluster == "slurm":
        return named
    return {name: value for name, value in named.items() if name in SHARED}
