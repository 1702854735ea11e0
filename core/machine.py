"""Resources of this machine, and what its user says of them. Needs the standard library only."""

import math
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ONEDNN_VARIABLE = "REFINELAB_ONEDNN"
ONEDNN_SETTINGS = ("auto", "on", "off")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
ORDERED_CUBLAS = (":4096:8", ":16:8")
"""Workspaces with which cuBLAS gives the same bits in every call; the first takes 32 MiB."""
MEASURED_THREADS_VARIABLE = "REFINELAB_MEASURED_THREADS"
"""Not empty in the environment of a process whose threads are ours to set."""


def available_cores() -> int:
    """The number of processor cores that this process may use: those that it may run on, and no
    more than its share of their time amounts to (a quota of its control groups).
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    quotas = [math.ceil(quota) for quota in _cpu_quotas()]
    return max(1, min([cores, *quotas]))


def _cpu_quotas(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Iterator[float]:
    """How many processors' time this process may use, as each of its control groups says."""
    for folder in _control_groups("cpu", root, own):
        yield from _quota(folder)


def _control_groups(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """The folders of this process's control groups that limit something, of either version."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / controller if controllers else root  # version 1, version 2
        inner = mount / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(mount):
                yield folder


def available_memory(
    root: Path = Path("/sys/fs/cgroup"),
    own: Path = Path("/proc/self/cgroup"),
    system: Path = Path("/proc/meminfo"),
) -> int | None:
    """How many bytes of memory are free for this process: of the machine's, and within the limits
    of its control groups. None where nothing says so.
    """
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = system.read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 2**10)
    for folder in _control_groups("memory", root, own):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            with suppress(OSError, ValueError):
                whole = int((folder / limit).read_text())
                taken = int((folder / used).read_text()) - _file_cache(folder / "memory.stat")
                found.append(max(whole - taken, 0))
    return min(found, default=None)


def _file_cache(file: Path) -> int:
    """The bytes of files that a control group keeps in memory and gives back when asked."""
    lines = (line.split() for line in file.read_text().splitlines())
    known = {name: int(value) for name, value in lines}
    kinds = ("inactive_file", "active_file")
    return sum(known.get(f"total_{kind}", known.get(kind, 0)) for kind in kinds)


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one control group, in processors; nothing where there is none."""
    with suppress(OSError, ValueError):
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text()
        if quota != "max" and int(quota) > 0:
            yield int(quota) / int(period)


def openmp_variables() -> dict[str, str]:
    """What makes a process's waiting threads sleep, unless the user has said how they wait.

    Otherwise they spin, and where other processes compute as well, a step takes many times as long.
    Read by OpenMP when it is loaded, which is with torch.
    """
    said = any(os.environ.get(name, "").strip() for name in WAITING_VARIABLES)
    return {} if said else {"OMP_WAIT_POLICY": "PASSIVE"}


def prepare_openmp() -> None:
    """Set up this process's environment before torch is loaded: ``openmp_variables``, and the
    number of threads is ours to measure unless the user has given it.
    """
    os.environ.update(openmp_variables())
    given = any(os.environ.get(name, "").strip() for name in THREAD_VARIABLES)
    os.environ[MEASURED_THREADS_VARIABLE] = "" if given else "1"


def prepare_cublas() -> None:
    """Set up this process's environment before cuBLAS is used, unless its user has done so."""
    os.environ.setdefault(CUBLAS_VARIABLE, ORDERED_CUBLAS[0])


def processor() -> str:
    """The model of this machine's processor, as far as the system says."""
    known = ("vendor_id", "cpu family", "model", "model name", "stepping")
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    facts = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    found = [facts[name] for name in known if facts.get(name)]
    return ", ".join(found) or platform.processor() or platform.machine()


def onednn_setting() -> str:
    """Whether frozen weights are multiplied by oneDNN, as the environment says: "auto" (measured
    once a machine), "on" or "off". Raises ValueError for another word.
    """
    given = os.environ.get(ONEDNN_VARIABLE, "").strip().lower() or "auto"
    if given not in ONEDNN_SETTINGS:
        raise ValueError(
            f"{ONEDNN_VARIABLE} must be auto, on or off, got {given!r}; unset it to use whichever "
            "matrix product is faster on this machine"
        )
    return given


WORKERS_VARIABLE = "REFINELAB_WORKERS"
"""How many worker processes share this machine, in the environment of each of them."""


def share_of_cores() -> int:
    """The cores that this process may use, divided among the workers that it is one of."""
    return max(available_cores() // max(_number(WORKERS_VARIABLE), 1), 1)


DEVICE_WORKERS_VARIABLE = "REFINELAB_WORKERS_PER_DEVICE"
"""How many worker processes share a GPU, in the environment of each of them."""


def workers_of_device() -> int:
    """How many workers share the GPU of this process: as it was told, or all of this machine's."""
    return _number(DEVICE_WORKERS_VARIABLE) or _number(WORKERS_VARIABLE) or 1


def _number(variable: str) -> int:
    """A whole number in the environment; 0 without one."""
    given = os.environ.get(variable, "")
    return int(given) if given.isascii() and given.isdecimal() else 0
