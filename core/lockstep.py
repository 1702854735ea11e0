"""Lockstep: runs of one process that advance side by side, and what they compute alike.

Variants of one dataset and seed see the same images in the same views and order. A run is a
generator that stops before every training step and says which one it is; the one that is furthest
behind advances. So all runs reach a step one after the other, and the first makes what the others
need as well.
"""

import time
from collections.abc import Callable, Generator, Hashable
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class Position(NamedTuple):
    """The training step before which a run stands: epochs from 1, steps from 0."""

    epoch: int
    step: int


BEFORE = Position(-1, -1)
"""Where a run stands that has not begun."""

Steps = Generator[Position, None, T]
"""A computation that stops before every training step, and what it returns."""


def stop() -> Steps[None]:
    """A stop between other parts of a computation, which goes on before anything else does: whoever
    carries it out can pass on what it has told so far.
    """
    yield BEFORE


def finish(steps: Steps[T]) -> T:
    """Run to the end without a stop."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


class Stopwatch:
    """Seconds since it was made, without those in which other runs advanced."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def seconds(self) -> float:
        """The seconds so far."""
        return time.perf_counter() - self.started

    def around(self, steps: Steps[T]) -> Steps[T]:
        """The same steps; the watch stands still while they are stopped."""
        while True:
            try:
                position = next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            stopped = time.perf_counter()
            try:
                yield position
            finally:
                self.started += time.perf_counter() - stopped


class Alone:
    """What a run shares that has no companions: nothing."""

    size = 1
    spared_seconds = 0.0
    balance_seconds = 0.0

    def at(self, step: Hashable) -> None:
        """What follows are parts of this training step."""

    def once(self, part: Hashable, make: Callable[[], T]) -> T:
        """A part of the training step, which ``make`` returns."""
        return make()

    def ahead(self, step: Hashable, begin: Callable[[], T]) -> T:
        """What ``begin`` starts for a later training step, while it is in use."""
        return begin()

    def settle(self) -> None:
        """Wait for the device, where times of several runs must be told apart."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        return


ALONE = Alone()


class Same:
    """An object as a key that equals only itself, and that keeps it alive."""

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


class SharedParts:
    """The parts of one training step that several runs need, each with the seconds it took."""

    def __init__(self) -> None:
        self.num_members = 0
        self.step: Hashable = None
        self.made: dict[Hashable, tuple[Any, float]] = {}
        self.begun: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()

    def begin(self, step: Hashable) -> None:
        """Drop the parts of another step."""
        if step != self.step:
            self.step, self.made = step, {}


class Companion(Alone):
    """The share of one of ``size`` runs that advance side by side.

    ``spared_seconds`` are what it would have taken to make what others have made;
    ``balance_seconds`` are to be added to the time of the run, so that all pay the same for what
    they share. ``wait`` blocks until the device is done. The context is the life of the run: when
    the last one has ended, nothing is kept.
    """

    def __init__(self, shared: SharedParts, size: int, wait: Callable[[], None]) -> None:
        self.shared, self.size, self.wait = shared, size, wait
        self.spared_seconds = self.balance_seconds = 0.0

    def at(self, step: Hashable) -> None:
        self.shared.begin(step)

    def once(self, part: Hashable, make: Callable[[], T]) -> T:
        """A part of the training step, made by the first run that asks for it."""
        made = self.shared.made
        if part in made:
            value, seconds = made[part]
            self.spared_seconds += seconds
            self.balance_seconds += seconds / self.num_paying
            kept: T = value
            return kept
        started = time.perf_counter()
        new = make()
        self.settle()
        seconds = time.perf_counter() - started
        self.balance_seconds -= seconds - seconds / self.num_paying
        made[part] = new, seconds
        return new

    def ahead(self, step: Hashable, begin: Callable[[], T]) -> T:
        begun: T | None = self.shared.begun.get(step)
        if begun is None:
            begun = self.shared.begun[step] = begin()
        return begun

    @property
    def num_paying(self) -> int:
        """How many runs there are at the moment."""
        return max(1, self.shared.num_members)

    def settle(self) -> None:
        self.wait()

    def __enter__(self) -> Self:
        self.shared.num_members += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.shared.num_members -= 1
        if not self.shared.num_members:
            self.shared.begin(None)
