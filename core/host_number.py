"""Numbers of a device that the host reads: at once, or not at all where it knows them."""

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


class HostNumber:
    """What the host knows of one tensor, for as long as nobody else writes to it.

    A tensor that was written to, moved or replaced in another way, as by a checkpoint, is read
    anew.
    """

    def __init__(self) -> None:
        self._tensor: Tensor | None = None
        self._version = -1
        self._value = 0

    def of(self, tensor: Tensor, number: Callable[[Tensor], Tensor] = _itself) -> int:
        """The tensor as an integer, or a ``number`` that is made of it; waits for the device unless
        it is known.
        """
        if self._tensor is not tensor or self._version != tensor._version:
            self._know(tensor, int(number(tensor)))
        return self._value

    def write(self, tensor: Tensor, value: int) -> None:
        """Set the tensor to a value."""
        tensor.fill_(value)
        self._know(tensor, value)

    def _know(self, tensor: Tensor, value: int) -> None:
        self._tensor, self._version, self._value = tensor, tensor._version, value


def read_back(values: Mapping[Key, Tensor | float]) -> dict[Key, float]:
    """All values as numbers; the host waits for the device once, whatever their number."""
    tensors = [value for value in values.values() if isinstance(value, Tensor)]
    found = iter(torch.stack([t.double() for t in tensors]).tolist() if tensors else ())
    return {k: next(found) if isinstance(v, Tensor) else v for k, v in values.items()}
