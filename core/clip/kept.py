"""What frozen weights make of texts alone: computed once while the weights stay as they are."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor

from core.clip.products import uses_onednn

MEMORY_BYTES = 64 * 2**20


class KeptTensors:
    """Tensors by key, the least recently used ones dropped beyond ``memory_bytes``.

    A tensor is made without gradient and outside inference mode, so that any later use can have it,
    and every caller gets a copy of its own. All are dropped when one of the weights was written to,
    moved or replaced. What a GPU rounds to TF32 is kept apart from what it does not. A copy of this
    object starts empty: its weights are other ones.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self.memory_bytes = memory_bytes
        self._made: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._weights: tuple[Any, ...] = ()

    def __deepcopy__(self, memo: Any) -> "KeptTensors":
        return KeptTensors(self.memory_bytes)

    def get(self, key: Hashable, weights: Iterable[Tensor], make: Callable[[], Tensor]) -> Tensor:
        """What was made for ``key`` with these weights, or else ``make()``."""
        key = key, uses_tf32()
        now = tuple(_state(weight) for weight in weights)
        if now != self._weights:
            self._made.clear()
            self._weights = now
        if key in self._made:
            self._made.move_to_end(key)
        else:
            with torch.inference_mode(False), torch.no_grad():
                made = make()
            if made.nbytes > self.memory_bytes:
                return made
            self._made[key] = made
            self._evict()
        return self._made[key].clone()

    def _evict(self) -> None:
        total = sum(made.nbytes for made in self._made.values())
        while total > self.memory_bytes:
            _, dropped = self._made.popitem(last=False)
            total -= dropped.nbytes


def uses_tf32() -> tuple[bool, bool]:
    """Whether a GPU now rounds to TF32 what goes into matrix products and into convolutions."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def _state(weight: Tensor) -> tuple[Any, ...]:
    """What changes when a tensor is written to, moved or replaced, or multiplied in another way."""
    written = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), written, weight.dtype, weight.device, uses_onednn(weight)
