"""A stand-in for CUDA graphs on the CPU: what a step computes, recorded call by call.

As on a GPU, a recording changes no tensor: what the recorded step did to tensors that it did not
make is taken back. A replay repeats the calls on the same memory, and nothing that the host does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import core.train.graphed_step as graphed_step
import experiments.run.run as run_module
from core.train.graphed_step import Inputs, StepRecording

unnoticed = torch.autograd._unsafe_preserve_version_counter
"""A context in which changes of tensors are not counted: a GPU's replay changes memory alone."""
ONE_HOT = functional.one_hot
READ_BACK = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")


def tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Calls(TorchDispatchMode):
    """Every call of an operator, in order; ``waits`` are those for which a host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.waits: list[str] = []
        self.checked_on_cpu = False  # one_hot reads numbers back on the CPU alone
        self.made: set[int] = set()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in READ_BACK and not self.checked_on_cpu:
            self.waits.append(name)
        for tensor in tensors((args, kwargs)):
            if place(tensor) not in self.made and place(tensor) not in self.before:
                self.before[place(tensor)] = (tensor, tensor.detach().clone())
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, out))
        self.made |= {place(t) for t in tensors(out)} - self.before.keys()
        return out

    def __enter__(self) -> Any:
        self.patched = mock.patch.object(functional, "one_hot", self.one_hot)
        self.patched.start()
        return super().__enter__()

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)
        self.patched.stop()

    def one_hot(self, *given: Any) -> Tensor:
        self.checked_on_cpu = True
        try:
            return ONE_HOT(*given)
        finally:
            self.checked_on_cpu = False


class RecordedOnCpu:
    """A recorder of steps on the CPU. ``speed`` is how many times as fast a replay claims to be."""

    def __init__(self, clock: Clock, speed: float = 10.0) -> None:
        self.clock, self.speed = clock, speed
        self.rehearsed = self.recorded = self.replayed = 0

    def settle(self) -> None:
        return

    def rehearse(self, step: Callable[[], Any]) -> tuple[Any, str]:
        self.rehearsed += 1
        with _Calls() as seen:
            terms = step()
        self.clock.now += 1.0
        return terms, ", ".join(seen.waits)

    def record(self, step: Callable[[], Any]) -> StepRecording:
        self.recorded += 1
        with Inputs() as inputs, _Calls() as seen:
            terms = step()
        if seen.waits:
            raise RuntimeError(f"operation not permitted when stream is capturing: {seen.waits}")
        assert seen.before.keys() <= inputs.held.keys()
        read = tuple(tensor for tensor, _ in seen.before.values())
        with torch.no_grad(), unnoticed(read):
            for tensor, value in seen.before.values():
                tensor.detach().copy_(value)

        def replay() -> None:
            self.replayed += 1
            self.clock.now += 1.0 / self.speed
            with torch.no_grad(), unnoticed(read):
                for func, args, kwargs, out in seen.calls:
                    given = {place(t) for t in tensors((args, kwargs))}
                    again = tensors(func(*args, **kwargs))
                    for ours, new in zip(tensors(out), again, strict=True):
                        if place(ours) not in given:
                            ours.detach().copy_(new)

        return StepRecording(replay, terms, inputs.held)


class Clock:
    """Seconds that pass when a step is made; takes the place of ``perf_counter``."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def record_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs that ask for CUDA graphs use this stand-in."""
    clock = Clock()
    monkeypatch.setattr(run_module, "CudaRecorder", lambda _: RecordedOnCpu(clock))
    monkeypatch.setattr(graphed_step, "perf_counter", clock)
