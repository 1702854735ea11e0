"""The signals that stop a study: the first lets the current runs finish, the second ends them."""

import signal
from types import FrameType
from typing import Any, Self

from core.signals import HANGUP, handle


class Interrupts:
    """Counts Ctrl-C, SIGTERM and SIGHUP; the second raises KeyboardInterrupt, later ones are
    ignored, and so is a SIGHUP after the first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.before = handle(self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if number == HANGUP and self.count:
            return
        self.count += 1
        if self.count == 2:
            raise KeyboardInterrupt
