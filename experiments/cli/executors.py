"""Where ``grid`` runs a study: in workers on this machine, on a Ray cluster, or in Slurm jobs.

``search`` runs here or on a Ray cluster.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from core.suggestions import did_you_mean

LOCAL, RAY, SLURM = "local", "ray", "slurm"
EXECUTORS = (LOCAL, RAY, SLURM)
OF_A_SEARCH = (LOCAL, RAY)
SLURM_FOLDER = "slurm"
GIVEN = (
    *("executor", "share", "share_seconds", "lockstep", "device", "jobs", "jobs_per_gpu"),
    *("address", "node_cache", "nodes", "slurm"),
)
OWN = ("executor", "nodes", "slurm", "share", "dry_run")
"""What the command of a Slurm job is not given as this one was."""

ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        help="Where runs are made: local (worker processes here), ray (a cluster), slurm (jobs)",
    ),
]
SearchExecutor = Annotated[
    str,
    typer.Option(
        "--executor", help="Where runs are made: local (worker processes here) or ray (a cluster)"
    ),
]
Shared = Annotated[
    bool,
    typer.Option(
        "--share",
        help="Work on the study beside other drivers with this option, on a file system that all "
        "of them see: srun python main.py grid ... --share",
    ),
]
ShareSeconds = Annotated[
    float | None,
    typer.Option(
        help="With --share, ray or slurm: take over the runs of a driver that shows no sign of "
        "life so long; default: 60"
    ),
]
Address = Annotated[
    str,
    typer.Option(
        help="With --executor ray: the cluster, such as auto; default: one on this machine"
    ),
]
NodeCache = Annotated[
    Path | None,
    typer.Option(
        help="With --executor ray: a folder on the disk of each node for image features, instead "
        "of runs/cache"
    ),
]
Nodes = Annotated[
    int | None,
    typer.Option(
        help="With --executor slurm: how many jobs to submit, of one node each; 0: watch those "
        "that run already",
        min=0,
        max=1024,
    ),
]
SlurmParameters = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        help="With --executor slurm: NAME=VALUE, a parameter of submitit such as partition=gpu, "
        "time=240 (minutes) or gpus_per_node=4; repeatable",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Where:
    """The options of ``grid``, or those of ``search`` among them, that say where runs are made. One
    of ``executors`` makes them. Raises ValueError for options that mean nothing together.
    """

    executor: str = LOCAL
    executors: Sequence[str] = EXECUTORS
    share: bool = False
    share_seconds: float | None = None
    workers: int
    lockstep: int = 1
    device: str = "cpu"
    jobs: int = -1
    jobs_per_gpu: int | None = None
    address: str = ""
    node_cache: Path | None = None
    nodes: int | None = None
    slurm: Sequence[str] = ()
    limits: Mapping[str, float | None]
    context: Any = None

    @classmethod
    def of(
        cls,
        context: typer.Context,
        *,
        workers: int,
        limits: Mapping[str, float | None],
        executors: Sequence[str] = EXECUTORS,
    ) -> "Where":
        """The options of the command that is being carried out."""
        given = {name: context.params[name] for name in GIVEN if name in context.params}
        given["slurm"] = given.get("slurm") or ()
        return cls(**given, workers=workers, limits=limits, executors=executors, context=context)

    def __post_init__(self) -> None:
        from experiments.study.share import check_seconds
        from experiments.workers.placement import check_jobs_per_gpu

        self._require_executor()
        check_seconds(self.seconds)
        shares = self.share or self.executor != LOCAL
        given = {
            "--address": (RAY, bool(self.address)),
            "--node-cache": (RAY, self.node_cache is not None),
            "--nodes": (SLURM, self.nodes is not None),
            "--slurm": (SLURM, bool(self.slurm)),
        }
        for option, (executor, is_given) in given.items():
            if is_given and self.executor != executor:
                raise ValueError(
                    f"{option} means something with --executor {executor} alone, and it is "
                    f"{self.executor}"
                )
        if self.share_seconds is not None and not shares:
            raise ValueError(
                "--share-seconds means something among drivers that share a study alone: give "
                "--share as well, or leave it out"
            )
        if self.executor != LOCAL:
            if self.device not in ("cpu", "cuda"):
                raise ValueError(
                    f"--executor {self.executor} gives runs their GPUs, so --device must be cpu "
                    f"or cuda, got {self.device!r}"
                )
            on_cpu = self.device == "cpu"
            if self.executor == RAY and self.jobs == 0:
                raise ValueError(
                    "--executor ray runs nothing in this process: --jobs must not be 0"
                )
            check_jobs_per_gpu(self.jobs_per_gpu, on_cpu=on_cpu, jobs=self.jobs)
        self._require()

    @property
    def seconds(self) -> float:
        """How long another driver may show no sign of life."""
        from experiments.study.members import SILENT_SECONDS

        return SILENT_SECONDS if self.share_seconds is None else self.share_seconds

    def _require_executor(self) -> None:
        """Raise ValueError for an executor that the command has not."""
        if self.executor not in self.executors:
            near = did_you_mean(self.executor, self.executors)
            if self.executor in EXECUTORS:
                near = "; 'grid' has that one: jobs share a plan that is known before they begin"
            raise ValueError(
                f"--executor must be one of {', '.join(self.executors)}, got {self.executor!r}"
                f"{near}"
            )

    def _require(self) -> None:
        """Raise ValueError where what the executor needs is not there."""
        if self.executor == RAY:
            importlib.import_module("experiments.workers.ray").check_address(self.address)
        elif self.executor == SLURM:
            parameters = parameters_of(self.slurm)
            if self.nodes != 0:
                importlib.import_module("experiments.workers.slurm").checked(parameters)

    @contextmanager
    def begun(self, *, dry_run: bool = False) -> Iterator[None]:
        """A context with a connection to the cluster that makes the runs, if it is one of Ray. A
        dry run starts none. Raises ValueError where a run would wait there for ever.
        """
        if self.executor != RAY or (dry_run and not self.address):
            yield
            return
        ray = importlib.import_module("experiments.workers.ray")
        with ray.connected(self.address, ray.demand_of(self.device, self.jobs_per_gpu or 1)):
            yield

    def run(self, plan: Any, study_dir: Path, executor: Any, **options: Any) -> Any:
        """The outcome of ``run_study`` of a plan, with the arguments of that function."""
        from experiments.study.driver import run_study
        from experiments.study.share import Sharing, run_shared_study

        if self.executor == RAY:
            cluster = self.cluster(self.limits.get("job_seconds"))
            share = self.sharing(cluster)
            return run_shared_study(plan, study_dir, cluster, share=share, **options)
        if self.executor == SLURM:
            return self._run_on_slurm(plan, study_dir, executor, **options)
        if not self.share:
            return run_study(plan, study_dir, executor, **options)
        workers = max(self.workers, 1)
        share = Sharing(
            num_workers=lambda: workers, lockstep=self.lockstep, silent_seconds=self.seconds
        )
        return run_shared_study(plan, study_dir, executor, share=share, **options)

    def _run_on_slurm(self, plan: Any, study_dir: Path, executor: Any, **options: Any) -> Any:
        """Submit jobs, once the study is known to be free and to have runs left, and watch."""
        from experiments.study.share import Sharing, run_shared_study

        watch: dict[str, Any] = {"silent_seconds": self.seconds, "idle": True}
        if self.nodes == 0:
            share = Sharing(num_workers=lambda: 0, only_watches=True, **watch)
            return run_shared_study(plan, study_dir, executor, share=share, **options)
        jobs = self._slurm(study_dir)

        def submit() -> None:
            jobs.submit()
            print(f"Slurm jobs: {jobs}", file=sys.stderr)

        share = Sharing(num_workers=jobs.num_workers, begin=submit, **watch)
        outcome = run_shared_study(plan, study_dir, executor, share=share, **options)
        if outcome.interrupted and not outcome.paused and jobs.jobs:
            print(f"the jobs go on; to end them: {jobs.ending()}", file=sys.stderr)
        return outcome

    def sharing(self, executor: Any) -> Any:
        """How runs are given to an executor that may lose them: a ``Sharing``; None for workers of
        this machine, which lose none.
        """
        from experiments.study.share import Sharing

        if self.executor != RAY:
            return None
        return Sharing(
            num_workers=executor.num_workers,
            lockstep=self.lockstep,
            silent_seconds=self.seconds,
        )

    def cluster(self, job_seconds: float | None) -> Any:
        """A ``RayExecutor``."""
        from experiments.workers.ray import RayExecutor

        return RayExecutor(
            address=self.address,
            device=self.device,
            jobs=self.jobs,
            jobs_per_gpu=self.jobs_per_gpu or 1,
            lockstep=self.lockstep,
            cache_dir=self.node_cache.absolute() if self.node_cache else None,
            job_seconds=job_seconds,
            silent_seconds=self.limits.get("silent_seconds"),
        )

    def _slurm(self, study_dir: Path) -> Any:
        from experiments.workers.slurm import GPU_COUNTS, SlurmJobs

        command = [sys.executable, str(Path(sys.argv[0]).resolve()), *job_words(self.context)]
        parameters = parameters_of(self.slurm)
        if self.device != "cpu" and not any(name in parameters for name in GPU_COUNTS):
            parameters["gpus_per_node"] = 1
        count = 1 if self.nodes is None else self.nodes
        folder = study_dir / SLURM_FOLDER
        once = ("--retry-failed", "--steal-lock")
        return SlurmJobs(command, count, folder, parameters, once=once)


def job_words(context: Any) -> list[str]:
    """The command of a Slurm job: the one of this ``typer.Context``, as a driver that shares the
    study.
    """
    words: list[str] = [context.info_name]
    for parameter in context.command.params:
        source, value = context.get_parameter_source(parameter.name), context.params
        if parameter.name in OWN or source is None or source.name != "COMMANDLINE":
            continue
        words += _words(parameter, value[parameter.name])
    return [*words, "--share"]


def _words(parameter: Any, value: Any) -> list[str]:
    """The words that give a parameter this value."""
    if parameter.param_type_name == "argument":
        return [str(value)]
    if parameter.is_flag:
        return [parameter.opts[0] if value else parameter.secondary_opts[0]]
    return [f"{parameter.opts[0]}={one}" for one in (value if parameter.multiple else [value])]


def parameters_of(words: Sequence[str]) -> dict[str, Any]:
    """The parameters NAME=VALUE; whole numbers as numbers. Raises ValueError for anything else."""
    found: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier() or not value:
            raise ValueError(f"--slurm must be NAME=VALUE, such as partition=gpu, got {word!r}")
        if name in found:
            raise ValueError(f"--slurm {name} is given twice, {found[name]} and {value}")
        found[name] = int(value) if value.isascii() and value.isdecimal() else value
    return found
