"""torch's optimizers for training that is not compiled.

torch wraps their methods for the sake of its compiler, and the first call of a wrapper imports the
compiler: seconds in every process that trains, for nothing. These are the same methods without.
"""

import inspect
from typing import TypeVar

import torch

AnyOptimizer = TypeVar("AnyOptimizer", bound=torch.optim.Optimizer)

WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def eager(kind: type[AnyOptimizer]) -> type[AnyOptimizer]:
    """The same optimizer, bit for bit; its step runs without gradient, as the wrapper of torch sees
    to where an optimizer is not ``differentiable``.
    """
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in WRAPPED}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    made: type[AnyOptimizer] = type(f"Eager{kind.__name__}", (kind,), {**plain, "step": step})
    return made


EagerSGD = eager(torch.optim.SGD)
EagerAdam = eager(torch.optim.Adam)
EagerAdamW = eager(torch.optim.AdamW)
