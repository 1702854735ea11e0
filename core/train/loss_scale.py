"""Loss scaling: what keeps small gradients from becoming 0 in float16.

Source: Micikevicius et al., Mixed Precision Training, ICLR 2018, arXiv 1710.03740. As in PyTorch's
``GradScaler``: the loss is multiplied by a power of two before the backward pass and the gradient
divided by it afterwards, which is exact. A step whose gradient is not finite is skipped and the
scale halved; after many steps without one it is doubled. PyTorch's own knows one gradient, that of
the optimizer; here the gradients of guide terms are scaled with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.finite import not_finite
from core.interfaces import Gradients
from core.precision import LOSS_SCALE

SMALLEST_SCALE = 2.0**-10
GROWS_AFTER = 2000


class LossScale:
    """The factor of the loss; ``made`` and ``skipped`` count steps with and without an update.

    Few-shot training has few steps, of which none is to be lost in search of the largest scale: it
    starts at 2^10, where PyTorch's starts at 2^16.
    """

    def __init__(self, value: float = LOSS_SCALE) -> None:
        self.value = value
        self.clean_steps = 0
        self.made = self.skipped = 0

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss times the scale."""
        return loss * self.value

    def unscaled(self, guide: Gradients) -> Gradients:
        """The gradients of a guide divided by the scale: new tensors, since those of several
        parameters may be one.
        """
        return {name: gradient / self.value for name, gradient in guide.items()}

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter], guides: Mapping[str, Gradients]) -> bool:
        """Divide the gradients of the parameters by the scale, in place, and adapt the scale;
        whether they and those of the guides are finite, and the step is to be made. The host waits
        for the device once.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, 1.0 / self.value)
        finite = all_finite([*gradients, *(g for guide in guides.values() for g in guide.values())])
        self._adapt(finite)
        return finite

    def _adapt(self, finite: bool) -> None:
        if not finite:
            self.value, self.clean_steps, self.skipped = self.value / 2, 0, self.skipped + 1
            return
        self.made += 1
        self.clean_steps += 1
        if self.clean_steps == GROWS_AFTER:
            self.value, self.clean_steps = self.value * 2, 0

    def is_exhausted(self, *, last: bool) -> bool:
        """Whether gradients were not finite at any sensible scale, so that it is not to blame, or
        in no step at all by the ``last`` epoch.
        """
        return self.value < SMALLEST_SCALE or (last and not self.made)

    def state(self) -> dict[str, Any]:
        """What later steps depend on, as plain numbers."""
        return dict(vars(self))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        vars(self).update(state)


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether there is neither a NaN nor an infinity."""
    return not_finite({str(number): tensor for number, tensor in enumerate(tensors)}) is None
