"""Errors that put the state of a process or a device in doubt. Standard library only.

After an error of CUDA every later call of the process fails as well, whatever run it belongs to,
and where memory is exhausted, what fills it may be what earlier runs have left. Both are recognized
by the type of an error and, because much of torch raises nothing but RuntimeError, by its words.
"""

import errno
from typing import Literal

from core.store.storage import causes
from core.streams import one_line

Fault = Literal["", "memory", "device", "lost"]
"""No fault, exhausted memory, a device error that the process does not survive, and a device that
does not answer any more: not even to a new process.
"""

MEMORY_TYPES = frozenset({"OutOfMemoryError", "LacksMemoryError"})  # of torch, and of our runs
DEVICE_TYPE = "AcceleratorError"
MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "_status_alloc_failed",
)
LOST_WORDS = (
    "device lost",
    "gpu is lost",
    "fallen off the bus",
    "no cuda-capable device is detected",
    "no cuda gpus are available",
    "uncorrectable ecc error",
    "busy or unavailable",
    "cuda unknown error",
    "unable to determine the device handle",
)
DEVICE_WORDS = (
    "cuda error",
    "cuda driver error",
    "hip error",
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    "cublas_status_",
    "cudnn_status_",
    "cudnn error",
    "cusolver error",
    "nccl error",
)


def fault_of(error: BaseException) -> Fault:
    """What an error, or one of those that caused it, says of the process that met it."""
    return next(filter(None, map(_fault, causes(error))), "")


def describe_fault(error: BaseException) -> str:
    """The first line of an error, without what torch says of its allocator, and a way out."""
    found = next((cause for cause in causes(error) if _fault(cause)), error)
    text = (str(found).strip() or type(found).__name__).splitlines()[0]
    first = one_line(text.split(" Of the allocated memory")[0]).rstrip(".")
    hint = "CUDA_LAUNCH_BLOCKING=1 in the environment shows the line"
    return f"{first}; {hint}" if _fault(found) == "device" else first


def _fault(error: BaseException) -> Fault:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError):
        return "memory" if error.errno == errno.ENOMEM else ""
    if not isinstance(error, RuntimeError):
        return ""
    types = {cls.__name__ for cls in type(error).__mro__}
    text = str(error).casefold()
    if types & MEMORY_TYPES or any(words in text for words in MEMORY_WORDS):
        return "memory"
    if any(words in text for words in LOST_WORDS):
        return "lost"
    if DEVICE_TYPE in types or any(words in text for words in DEVICE_WORDS):
        return "device"
    return ""
