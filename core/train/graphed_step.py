"""Training steps as one recording of what the device computes: a CUDA graph.

A step on cached features starts some thousand small kernels, and the host takes longer to start
them than the device to compute. A graph starts all of them at once. It repeats what the device did,
with the same memory, and none of what the host does; so it takes the place of a step only where

* the host waits for nothing in a step, and the step puts nothing in the place of anything that the
  method, the refiner or their parts hold, but changes tensors in place;
* on another batch than the recorded one it leaves bit for bit what the plain step leaves, which is
  looked at again at the beginning of every epoch: hooks between epochs may change what a step does;
* it is faster, as measured on the first steps.

Otherwise steps are plain, and the log says why. All steps are steps of the training: none is made
for the measurement alone, and the numbers are those of plain steps.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.clip.frozen import FrozenCLIP
from core.streams import one_line
from core.types import Batch

WARM_UP, TIMED = 3, 3  # steps
FASTER = 1.05
"""How many times as fast as a plain step a replayed one must be."""
USED, TOO_FEW_STEPS = "used", "not used: too few steps"

WAITED = "called a synchronizing CUDA operation"  # torch's words

log = logging.getLogger(__name__)

Terms = dict[str, Tensor]
Step = Callable[[Batch], Terms]


class StepRecording(NamedTuple):
    """A step that can be repeated, and the terms that it leaves each time. ``held`` is everything
    that it reads: the memory must not be given away.
    """

    replay: Callable[[], None]
    terms: Terms
    held: object


class StepRecorder(Protocol):
    """What records the steps of a device."""

    def settle(self) -> None:
        """Wait until the device has done what it was given."""

    def rehearse(self, step: Callable[[], Terms]) -> tuple[Terms, str]:
        """Make a step where a recording would be made; also says what the host waited for."""

    def record(self, step: Callable[[], Terms]) -> StepRecording:
        """Record a step, which changes no tensor. Raises what torch or the step itself raises where
        that is impossible: its batch has nothing that the host alone knows.
        """


class GraphedSteps:
    """The steps of a training, from plain ones to replayed ones where that is right and faster.

    The terms of a step are good until the next one. ``outcome`` says which steps are made now.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, recorder: StepRecorder
    ) -> None:
        self.model, self.optimizer, self.recorder = model, optimizer, recorder
        self.outcome = TOO_FEW_STEPS
        self._plain_seconds: list[float] = []
        self._replay_seconds: list[float] = []
        self._slots: Slots | None = None
        self._recording: StepRecording | None = None
        self._checked = False
        self._given_up = False

    def begin_epoch(self) -> None:
        """The next replayed step is compared with a plain one."""
        self._checked = False

    def give_up(self, reason: str) -> None:
        """Make plain steps from now on."""
        self._given_up, self._recording, self._slots = True, None, None
        self.outcome = f"not used: {reason}"
        log.warning("training steps are not replayed from a CUDA graph: %s", reason)

    def __call__(self, step: Step, batch: Batch) -> Terms:
        """Make a step, which ``step`` makes plainly: always the same function."""
        if self._given_up:
            return step(batch)
        if len(self._plain_seconds) < WARM_UP:
            return self._warm_up(step, batch)
        if self._recording is None or self._slots is None:
            self._record(step, batch)
            return step(batch)
        if not self._slots.fit(batch):
            return step(batch)
        if not self._checked:
            return self._check(step, batch, self._slots, self._recording)
        return self._replay(batch, self._slots, self._recording)

    def _warm_up(self, step: Step, batch: Batch) -> Terms:
        """Whatever is made once, momentum and kept tensors among it, is made in the first steps."""
        self.recorder.settle()
        started = perf_counter()
        terms, waited = self.recorder.rehearse(lambda: step(batch))
        self.recorder.settle()
        self._plain_seconds.append(perf_counter() - started)
        if waited and len(self._plain_seconds) == WARM_UP:
            self.give_up(f"the host waits for the device in a step ({one_line(waited)})")
        return terms

    def _record(self, step: Step, batch: Batch) -> None:
        slots, before = Slots(batch), Held(self.model)
        try:
            self._recording = self.recorder.record(lambda: step(slots.batch))
        except Exception as error:  # whatever a step asks of its batch: the plain one goes on
            before.restore()
            return self.give_up(f"a step cannot be recorded ({one_line(str(error))})")
        if replaced := before.replaced():
            before.restore()
            return self.give_up(f"a step replaces {replaced}")
        self._slots = slots

    @torch.no_grad()
    def _check(self, step: Step, batch: Batch, slots: "Slots", recording: StepRecording) -> Terms:
        """Make the step in both ways, from the same state; the plain one counts."""
        state = [*Held(self.model).tensors(), *_optimizer_tensors(self.optimizer)]
        before = [tensor.clone() for tensor in state]
        slots.fill(batch)
        recording.replay()
        replayed = [tensor.clone() for tensor in (*state, *recording.terms.values())]
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        with torch.enable_grad():
            terms = step(batch)
        plain = [*state, *terms.values()]
        same = [(a == b).all().cpu() for a, b in zip(replayed, plain, strict=True)]
        if terms.keys() != recording.terms.keys() or not all(same):
            self.give_up("a replayed step gives other numbers than a plain one")
        self._checked = True
        return terms

    def _replay(self, batch: Batch, slots: "Slots", recording: StepRecording) -> Terms:
        timed = len(self._replay_seconds) < TIMED
        if timed:
            self.recorder.settle()
        started = perf_counter()
        slots.fill(batch)
        recording.replay()
        if timed:
            self.recorder.settle()
            self._replay_seconds.append(perf_counter() - started)
        if timed and len(self._replay_seconds) == TIMED:
            ratio = min(self._plain_seconds) / min(self._replay_seconds)
            if ratio < FASTER:
                self.give_up(f"a replayed step is {ratio:.2f} times as fast as a plain one")
            else:
                self.outcome = USED
        return dict(recording.terms)


class Slots:
    """The memory from which a recorded step reads its batch. ``batch`` has nothing that the host
    alone knows of the images.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = _copied(batch)

    def fit(self, batch: Batch) -> bool:
        """Whether a batch has these shapes, and nothing else."""
        ours, theirs = _tensors_of(self.batch), _tensors_of(batch)
        return batch.need == self.batch.need and [_form(t) for t in ours] == [
            _form(t) for t in theirs
        ]

    def fill(self, batch: Batch) -> None:
        """Put a batch there that fits."""
        for own, given in zip(_tensors_of(self.batch), _tensors_of(batch), strict=True):
            if own is not None and given is not None:
                own.copy_(given)


def _copied(batch: Batch) -> Batch:
    return replace(
        batch,
        labels=batch.labels.clone(),
        pixels=None if batch.pixels is None else batch.pixels.clone(),
        features=None if batch.features is None else batch.features.each(torch.clone),
        index=None if batch.index is None else batch.index.clone(),
        views=tuple(map(_copied, batch.views)),
        positions=None,
    )


def _tensors_of(batch: Batch) -> list[Tensor | None]:
    features = batch.features
    known: list[Tensor | None] = [None, None, None]
    if features is not None:
        known = [features.pooled, features.local, features.attention]
    further = [tensor for view in batch.views for tensor in _tensors_of(view)]
    return [batch.labels, batch.pixels, batch.index, *known, *further]


def _form(tensor: Tensor | None) -> object:
    return None if tensor is None else (tensor.shape, tensor.dtype, tensor.device)


class Held:
    """What a model and all its parts hold at a moment, but for the frozen backbone."""

    def __init__(self, model: nn.Module) -> None:
        self._owners = list(_owners(model))
        self._values = [dict(values) for values in self._owners]
        self._contents = [
            (value, _content(value))
            for values in self._values
            for value in values.values()
            if isinstance(value, list | dict | set)
        ]

    def tensors(self) -> list[Tensor]:
        """All tensors among it, each once."""
        found = {
            id(value): value
            for values in self._values
            for held in values.values()
            for value in (held, *(_content(held) if isinstance(held, list | dict | set) else ()))
            if isinstance(value, Tensor)
        }
        return list(found.values())

    def replaced(self) -> str:
        """The name of something that is another one now; "" for nothing."""
        for owner, values in zip(self._owners, self._values, strict=True):
            for name in sorted(owner.keys() | values.keys()):
                if not _is_same(owner.get(name), values.get(name)):
                    return repr(name)
        if any(not _is_same(_content(value), content) for value, content in self._contents):
            return "the content of a list"
        return ""

    def restore(self) -> None:
        """Put everything back in its place."""
        for owner, values in zip(self._owners, self._values, strict=True):
            owner.clear()
            owner.update(values)
        for value, content in self._contents:
            value.clear()
            if isinstance(value, list):
                value.extend(content)
            elif isinstance(value, set):
                value.update(content)
            else:
                value.update(content)


def _own_parts(model: nn.Module) -> Iterator[nn.Module]:
    yield model
    for child in model.children():
        if not isinstance(child, FrozenCLIP):
            yield from _own_parts(child)


def _owners(model: nn.Module) -> Iterator[dict[str, Any]]:
    """What holds values by name: each part, and plain objects of ours that parts hold."""
    seen: dict[int, object] = {}
    waiting: list[Any] = list(_own_parts(model))
    while waiting:
        owner = waiting.pop()
        if id(owner) in seen:
            continue
        seen[id(owner)] = owner
        yield vars(owner)
        if isinstance(owner, nn.Module):
            yield vars(owner)["_parameters"]
            yield vars(owner)["_buffers"]
        waiting += [value for value in vars(owner).values() if _is_plain_object(value)]


def _is_plain_object(value: object) -> bool:
    library = type(value).__module__.partition(".")[0] in ("builtins", "torch")
    return hasattr(value, "__dict__") and not library and not isinstance(value, nn.Module)


def _content(value: Any) -> Any:
    """The elements of a container, whatever happens to it later."""
    return tuple(value.items()) if isinstance(value, dict) else tuple(value)


def _is_same(one: object, other: object) -> bool:
    """Whether a value is still there: the same object, or an equal plain one."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    plain = (int, float, str, bool)
    return one is other or (isinstance(one, plain) and type(one) is type(other) and one == other)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Sequence[Tensor]:
    states: Mapping[Any, Mapping[str, Any]] = optimizer.state
    found = (value for state in states.values() for value in state.values())
    return [value for value in found if isinstance(value, Tensor)]


class Inputs(TorchDispatchMode):
    """Holds every tensor that a step reads and did not make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: dict[int, Tensor] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            place = tensor.untyped_storage()._cdata
            if place not in self._made:
                self.held.setdefault(place, tensor.detach())
        made = func(*args, **kwargs)
        self._made |= {
            place
            for tensor in _tensors(made)
            if (place := tensor.untyped_storage()._cdata) not in self.held
        }
        return made


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


class CudaRecorder:
    """Records CUDA graphs of a device, on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    def settle(self) -> None:
        torch.cuda.synchronize(self.device)

    def rehearse(self, step: Callable[[], Terms]) -> tuple[Terms, str]:
        current, before = torch.cuda.current_stream(self.device), torch.cuda.get_sync_debug_mode()
        self.stream.wait_stream(current)
        with warnings.catch_warnings(record=True) as told, torch.cuda.stream(self.stream):
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                terms = step()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        current.wait_stream(self.stream)
        waits = [str(one.message) for one in told if WAITED in str(one.message)]
        return terms, waits[0] if waits else ""

    def record(self, step: Callable[[], Terms]) -> StepRecording:
        graph, inputs = torch.cuda.CUDAGraph(), Inputs()
        current = torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.graph(graph, stream=self.stream), inputs:
                terms = step()
        finally:  # a recording that fails leaves its own stream as the current one
            torch.cuda.set_stream(current)
        return StepRecording(graph.replay, terms, (graph, inputs.held))
