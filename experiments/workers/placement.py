"""Where the workers of a study compute: how many there are, which GPU each of them sees, and which
of them may be given what. Nothing here starts a process.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from core.machine import available_cores
from experiments.run.devices import CPU, CUDA, WorkPlace, devices_of, gpus_of, one_device

MAX_LOSSES = 2
"""So often in a row a GPU may be lost before it is used no more."""

Offer = Literal["shared", "whole", "nothing"]
"""What a free worker may be given: a job beside others, one that needs the whole device, none."""


@dataclass(frozen=True, kw_only=True)
class WorkerPlacement:
    """The workers of a study.

    ``device`` is the name of its device in every worker. ``gpus`` has the name in
    ``CUDA_VISIBLE_DEVICES`` of each GPU: worker i sees the one at i modulo their number. There are
    none on the CPU. Without workers everything runs in this process. ``note`` is a line for the
    user, or "".
    """

    device: str
    workers: int
    gpus: tuple[str, ...] = ()
    note: str = ""

    @property
    def work(self) -> WorkPlace:
        """The same for what is checked before any work."""
        return WorkPlace(workers=self.workers, gpus=self.gpus)


def place(device: str, *, jobs: int, jobs_per_gpu: int | None = None) -> WorkerPlacement:
    """The workers for ``--device``, ``--jobs`` and ``--jobs-per-gpu``.

    On the CPU ``jobs`` counts them (-1: one per core; 0: none). On GPUs there are ``jobs_per_gpu``
    for each, 1 by default; ``jobs`` says at most that there are none.

    Raises ValueError as ``devices_of`` does, and for a number that has no meaning there.
    """
    devices = devices_of(device)
    check_jobs_per_gpu(jobs_per_gpu, on_cpu=devices == (CPU,), jobs=jobs)
    if devices == (CPU,):
        return WorkerPlacement(device=CPU, workers=available_cores() if jobs < 0 else jobs)
    gpus = gpus_of(devices)
    if jobs == 0:
        first = devices[0] if len(devices) > 1 else f"{CUDA}:0"
        note = f"--jobs 0 runs in this process, on {first} alone" if len(gpus) > 1 else ""
        return WorkerPlacement(device=devices[0], workers=0, note=note)
    workers = len(gpus) * (jobs_per_gpu or 1)
    note = ""
    if jobs not in (-1, workers):
        each = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)} x {jobs_per_gpu or 1}"
        note = (
            f"--jobs {jobs} counts workers on the CPU; on GPUs --jobs-per-gpu wins: {each} = "
            f"{workers} worker{'s' * (workers > 1)}"
        )
    return WorkerPlacement(device=CUDA, workers=workers, gpus=gpus, note=note)


def check_jobs_per_gpu(jobs_per_gpu: int | None, *, on_cpu: bool, jobs: int) -> None:
    """Raise ValueError for a number that has no meaning, on this machine or on others."""
    if jobs_per_gpu is None:
        return
    if jobs_per_gpu < 1:
        raise ValueError(f"jobs-per-gpu must be at least 1, got {jobs_per_gpu}")
    if on_cpu:
        raise ValueError(
            f"jobs-per-gpu = {jobs_per_gpu} counts the workers of a GPU, and the device is cpu: "
            "use --jobs"
        )
    if jobs == 0:
        raise ValueError(
            f"jobs-per-gpu = {jobs_per_gpu} counts workers, and with --jobs 0 there are none: "
            "leave out one of them"
        )


def place_one(device: str, *, apart: bool) -> WorkerPlacement:
    """A single run: in this process or, with ``apart``, in a worker of its own."""
    named = one_device(device)
    if not apart:
        return WorkerPlacement(device=named, workers=0)
    gpus = () if named == CPU else gpus_of((named,))[:1]
    return WorkerPlacement(device=CUDA if gpus else CPU, workers=1, gpus=gpus)


class Seats:
    """The device of every worker, and who may use it now.

    Workers without a GPU share the machine, which counts as one device. A job that needs a whole
    device gets the next one that is idle; meanwhile one device at a time is being emptied for it. A
    GPU that is lost several times in a row, without a job that was done in between, is used no
    more.
    """

    def __init__(self, workers: int, gpus: Sequence[str] = ()) -> None:
        self.devices = [gpus[i % len(gpus)] if gpus else "" for i in range(workers)]
        self.emptied: str | None = None
        self.losses: Counter[str] = Counter()

    @property
    def most_on_a_device(self) -> int:
        """How many workers share a device, at most."""
        return max(Counter(self.devices).values())

    def beside(self, worker: int) -> list[int]:
        """The other workers on its device."""
        device = self.devices[worker]
        return [i for i, other in enumerate(self.devices) if other == device and i != worker]

    def offer(
        self, worker: int, *, busy: Collection[int], whole: Collection[int], wanted: bool
    ) -> Offer:
        """What a free worker may be given. ``busy`` are the workers with a job, ``whole`` those of
        them whose job has the whole device; ``wanted``: a job waits for a whole device.
        """
        device = self.devices[worker]
        others = [other for other in self.beside(worker) if other in busy]
        if not wanted:
            self.emptied = None
        if self.is_lost(worker) or any(other in whole for other in others):
            return "nothing"
        if not wanted:
            return "shared"
        if not others:
            self.emptied = None
            return "whole"
        if self.emptied in (None, device):
            self.emptied = device
            return "nothing"
        return "shared"

    def lost(self, worker: int) -> bool:
        """Note that a worker lost its device; whether it is used no more."""
        self.losses[self.devices[worker]] += 1
        return self.is_lost(worker)

    def worked(self, worker: int) -> None:
        """Note that a job was done."""
        self.losses[self.devices[worker]] = 0

    def is_lost(self, worker: int) -> bool:
        """Whether the device of a worker is used no more."""
        return self.losses[self.devices[worker]] >= MAX_LOSSES

    @property
    def none_left(self) -> bool:
        """Whether no device is left."""
        return all(map(self.is_lost, range(len(self.devices))))
