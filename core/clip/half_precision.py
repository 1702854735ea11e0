"""A frozen model whose matrices are stored in half precision, for runs in mixed precision.

Autocast casts a weight to half precision before every product, and keeps the cast of none that is
frozen. Here it is made once, which changes no bit of any result. Stored so is what autocast casts:
the weights of linear layers, of convolutions and of attention, and the projections to the joint
space. Norms, embeddings and positions stay in float32, as in the released models.

What must not be rounded is computed with the weights as they were read, which come back from their
file, or from another user on the same GPU, for as long as it takes: texts and features that are
kept, what is learned before the first step. They are read no sooner than a tower runs, which may be
never: most of it is known already.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

MULTIPLIED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention)
PROJECTIONS = ("visual.proj", "text.text_projection")


Module = TypeVar("Module", bound=nn.Module)
_IN_SIGHT: "WeakValueDictionary[tuple[str, torch.device], nn.Module]" = WeakValueDictionary()


def keep_in_sight(clip: Module) -> Module:
    """The same backbone, in full precision: as long as it is in use, one in half precision on the
    same GPU need not be read again. On the CPU its weights may have a product of their own.
    """
    found: Any = clip
    if found.scale.device.type != "cpu" and found.scale.dtype == torch.float32:
        _IN_SIGHT[found.spec.fingerprint, found.scale.device] = clip
    return clip


class HalfPrecision:
    """The matrices of a module, stored in half precision from now on.

    ``reread`` gives the module anew, with all its weights as they were read.
    """

    def __init__(
        self, module: nn.Module, dtype: torch.dtype, reread: Callable[[Any], nn.Module]
    ) -> None:
        self.dtype, self.reread = dtype, reread
        self._module = module
        self._names = list(_multiplied(module))
        self._stored = [_rounded(module.get_parameter(name), dtype) for name in self._names]
        self._users = 0
        self._is_read = False
        self._put(self._stored)

    def weights(self) -> list[nn.Parameter]:
        """The weights in half precision, whatever is computed with at the moment."""
        return list(self._stored)

    @property
    def wanted_as_read(self) -> bool:
        """Whether somebody is in the context of ``as_read``."""
        return self._users > 0

    @contextmanager
    def as_read(self) -> Iterator[None]:
        """A context in which the module may have its weights as they were read: from the first call
        of ``read`` on.
        """
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users and self._is_read:
                self._put(self._stored)
                self._is_read = False

    def read(self) -> None:
        """Put the weights in place as they were read, for the context that is entered."""
        assert self._users
        if not self._is_read:
            clip: Any = self._module
            kept = _IN_SIGHT.get((clip.spec.fingerprint, clip.scale.device))
            with torch.inference_mode(False):  # a later pass may need gradients
                whole = self.reread(clip) if kept is None else kept
            self._put([whole.get_parameter(name) for name in self._names])
            self._is_read = True

    def _put(self, weights: list[nn.Parameter]) -> None:
        for name, weight in zip(self._names, weights, strict=True):
            owner, _, own = name.rpartition(".")
            self._module.get_submodule(owner).register_parameter(own, weight)


def _multiplied(module: nn.Module) -> Iterator[str]:
    """The names of all parameters that autocast casts."""
    for name, layer in module.named_modules():
        if isinstance(layer, MULTIPLIED):
            yield from (f"{name}.{own}" for own, _ in layer.named_parameters(recurse=False))
    for name in PROJECTIONS:
        owner, _, own = name.rpartition(".")
        value: Any = getattr(module.get_submodule(owner), own, None)
        if isinstance(value, nn.Parameter):
            yield name


def _rounded(weight: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(dtype), requires_grad=False)
