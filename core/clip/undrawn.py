"""Weights that are not drawn, because they will be read."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode


class LeftUndrawn(TorchFunctionMode):
    """A context in which new weights are not drawn, because all of them come from a file: drawing
    takes as long as reading.
    """

    draws = frozenset(
        {
            *(Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.trunc_normal_),
            *(init.kaiming_uniform_, init.kaiming_normal_, init.xavier_uniform_),
            init.xavier_normal_,
        }
    )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The tensor as it is in place of a drawn one."""
        given = kwargs or {}
        if func in self.draws:
            return args[0] if args else given["tensor"]
        return func(*args, **given)
