"""Devices as a person names them, and the GPUs that this machine lets us use.

A GPU has a number among those that torch sees, and a name in ``CUDA_VISIBLE_DEVICES``: a number, a
UUID, or an instance of a divided GPU (MIG). A process that is to see one GPU gets its name. torch
is imported only where a GPU is asked for.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

CPU, CUDA = "cpu", "cuda"
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
MIG_PREFIX = "mig-"  # of the name of an instance; CUDA shows a process only the first that is named
RULE = "device must be cpu, cuda or cuda:N, got {!r}; several GPUs are given as cuda:0,cuda:3"


@dataclass(frozen=True, kw_only=True)
class WorkPlace:
    """Where runs are made: by how many workers of this machine (0: by this process), and on which
    GPUs, as ``CUDA_VISIBLE_DEVICES`` names them. Without ``here``, on other machines.
    """

    workers: int = 0
    gpus: tuple[str, ...] = ()
    here: bool = True


THIS_PROCESS = WorkPlace()


def devices_of(text: str) -> tuple[str, ...]:
    """The devices of ``--device``: ("cpu",), ("cuda",) for all GPUs, or some, each as "cuda:N".

    After the first GPU its number is enough: "cuda:0,3". Raises ValueError for anything else, for a
    GPU that is named twice, and for a device that is not there.
    """
    found = tuple(_parsed(text))
    for name in found:
        if found.count(name) > 1:
            raise ValueError(
                f"device {text!r} names {name} twice; for several workers on a GPU use "
                "--jobs-per-gpu"
            )
    if len(found) > 1 and not all(name.startswith(f"{CUDA}:") for name in found):
        raise ValueError(RULE.format(text))
    if found != (CPU,):
        _check_there(found, len(visible_gpus(os.environ, _count())))
    return found


def one_device(text: str) -> str:
    """The device of a single run. Raises ValueError as ``devices_of``, and for several."""
    found = devices_of(text)
    if len(found) > 1:
        raise ValueError(
            f"device {text!r} names {len(found)} GPUs, and this command computes on one: name one "
            "of them"
        )
    if found != (CPU,):
        _check_there(found, _count())  # the instance of a divided GPU may be there for others only
    return found[0]


def gpus_of(devices: Sequence[str]) -> tuple[str, ...]:
    """The names, as ``CUDA_VISIBLE_DEVICES`` has them, of devices that are GPUs."""
    names = visible_gpus(os.environ, _count())
    if tuple(devices) == (CUDA,):
        return names
    return tuple(names[int(device.partition(":")[2])] for device in devices)


def visible_gpus(environment: Mapping[str, str], count: int) -> tuple[str, ...]:
    """The names of the ``count`` GPUs that torch sees, in the order of their numbers.

    Of several instances of divided GPUs torch counts one, the only one that a process can use: each
    worker can use another. CUDA ignores what follows a name that it does not know.
    """
    given = environment.get(VISIBLE_VARIABLE)
    if given is None:
        return tuple(map(str, range(count)))
    names = tuple(name.strip() for name in given.split(","))
    if count and names[0].casefold().startswith(MIG_PREFIX):
        return tuple(name for name in names if name.casefold().startswith(MIG_PREFIX))
    return names[:count]


def _parsed(text: str) -> Iterator[str]:
    """The devices of a text, normalised. Raises ValueError for what is none."""
    gpu_before = False
    for part in text.split(","):
        kind, colon, number = (word.strip() for word in part.strip().casefold().partition(":"))
        if gpu_before and not colon:
            kind, colon, number = CUDA, ":", kind
        if colon and kind == CUDA and number.isascii() and number.isdecimal():
            gpu_before = True
            yield f"{CUDA}:{int(number)}"
        elif not colon and kind in (CPU, CUDA):
            yield kind
        else:
            raise ValueError(RULE.format(text))


def _check_there(devices: Sequence[str], count: int) -> None:
    """Raise ValueError for the first GPU that is none of the first ``count``."""
    import torch

    if not count and torch.version.cuda is None and torch.version.hip is None:
        raise ValueError(
            f"device {devices[0]} is not available: this torch has no CUDA ({torch.__version__}); "
            "install a build that has it, or use --device cpu"
        )
    if not count:
        raise ValueError(
            f"device {devices[0]} is not available: torch sees no GPU{_hidden()}; 'doctor' shows "
            "what there is, and --device cpu works"
        )
    for device in devices:
        if int(device.partition(":")[2] or 0) >= count:
            are = (
                f"is 1 GPU, and {device} is not it"
                if count == 1
                else (f"are {count} GPUs, cuda:0 to cuda:{count - 1}, and {device} is none of them")
            )
            raise ValueError(f"device {device} is not available: there {are}{_hidden()}")


def _hidden() -> str:
    """What the user's own choice of GPUs is, where there is one."""
    given = os.environ.get(VISIBLE_VARIABLE)
    return "" if given is None else f" ({VISIBLE_VARIABLE} is {given!r})"


def _count() -> int:
    """How many GPUs torch sees, without using one."""
    import torch

    return torch.cuda.device_count()
