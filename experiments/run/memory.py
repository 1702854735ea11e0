"""What to change about a run that needs more memory than there is."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from core.config import Config, Reference, lookup
from core.device_faults import describe_fault, fault_of
from core.lockstep import Steps
from experiments.run.devices import CPU

ROOT = "experiment"
CHUNK_LIMIT = ".max_text_memory_mb"
FULL_PRECISIONS = ("float32", "float64")

P = ParamSpec("P")
T = TypeVar("T")


class LacksMemoryError(RuntimeError):
    """A run needs more memory than there is; the message says what to change."""


def advising_on_memory(
    steps: Callable[Concatenate[Config, P], Steps[T]],
) -> Callable[Concatenate[Config, P], Steps[T]]:
    """The steps of a run; where memory is exhausted, they raise LacksMemoryError."""

    @functools.wraps(steps)
    def advising(config: Config, /, *given: P.args, **named: P.kwargs) -> Steps[T]:
        try:
            return (yield from steps(config, *given, **named))
        except Exception as error:
            if fault_of(error) != "memory":
                raise
            way_out = memory_advice(config, str(named.get("device", CPU)))
            raise LacksMemoryError(f"{describe_fault(error)}; {way_out}") from error

    return advising


def memory_advice(config: Config, device: str) -> str:
    """What to change about a run on a device, as a clause."""
    jobs = "--jobs" if device == CPU else "--jobs-per-gpu"
    room = f"leave more of the memory to this run (fewer {jobs}, other programs)"
    return f"{', '.join(_smaller(config))}, or {room}"


def _smaller(config: Config) -> Iterator[str]:
    """The settings of a run that make it need less memory, with what they are now."""
    values: Mapping[str, Any] = config.operative(ROOT)
    method: Any = lookup(values[f"{ROOT}.method"].name).cls
    if method.trains or values[f"{ROOT}.refiner"] != Reference("NullRefiner"):
        yield f"lower {ROOT}.batch_size ({values[f'{ROOT}.batch_size']} now)"
    for key, value in values.items():
        if key.endswith(CHUNK_LIMIT):
            yield f"lower {key} ({value} now)"
    if values.get(f"{ROOT}.precision") in FULL_PRECISIONS:
        yield f"set {ROOT}.precision = 'bfloat16'"
    else:
        yield "choose a smaller backbone"
