"""Local caches of fine visual concepts. Shapes: M slots, T tokens, C classes, D text width."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.registry import PositiveFloat, PositiveInt, Probability, register
from core.seeding import Seeds


class Cache(nn.Module, ABC):
    """A memory that class texts read and local tokens write. Built as ``Cache(width, seeds)``."""

    writes: ClassVar[bool] = True

    @abstractmethod
    def read(self, text: Tensor) -> Tensor:
        """What the memory says to each text: (..., D) for texts (..., D)."""

    def write(self, tokens_TD: Tensor) -> None:
        """Take in the tokens of one step, without gradient."""


@register("cache")
class EmaCache(Cache):
    """A soft read over all slots; every token moves its most similar slot by an EMA.

    Read: ``softmax(n(t) M' / read_temperature) M``. Write: ``x = n(tokens)``, ``S = x M'``; each
    token goes to its best slot j with the weight ``exp(S_ij - max_i S_ij)``; a slot with tokens
    becomes ``momentum * M_j + (1 - momentum) * reduce(weight * x)``; all slots are made unit again.

    Released values are the defaults. ``read_temperature = 1`` leaves the read weights almost
    uniform, since cosines lie in [-1, 1]; ``write_reduce = "sum"`` lets a busy slot forget far more
    than ``momentum`` says. ``initial = "positive"`` draws slots from the positive orthant, as
    released (cosine about 0.75 among them); "normal" spreads them.

    The cache is a buffer, saved with the run; the released code loses it on resume.

    Source: Xie et al., TextRefiner, AAAI 2025, arXiv 2412.08176.
    """

    slots_MD: Tensor

    def __init__(
        self,
        width: int,
        seeds: Seeds,
        *,
        num_slots: PositiveInt = 25,
        momentum: Probability = 0.8,
        read_temperature: PositiveFloat = 1.0,
        write_reduce: Literal["sum", "mean"] = "sum",
        initial: Literal["positive", "normal"] = "positive",
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.read_temperature = read_temperature
        self.write_reduce = write_reduce
        draw = torch.rand if initial == "positive" else torch.randn
        start = draw(num_slots, width, generator=seeds.generator("slots"))
        self.register_buffer("slots_MD", F.normalize(start, dim=-1))

    def read_weights(self, text: Tensor) -> Tensor:
        """Softmax over slots (..., M)."""
        similarity = F.normalize(text, dim=-1) @ self.slots_MD.t()
        return (similarity / self.read_temperature).softmax(dim=-1)

    def read(self, text: Tensor) -> Tensor:
        return self.read_weights(text) @ self.slots_MD

    def write_weights(self, tokens_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Best slot of each token (T,) and the weight of each token for each slot (T, M)."""
        similarity_TM = F.normalize(tokens_TD, dim=-1) @ self.slots_MD.t()
        weight_TM = (similarity_TM - similarity_TM.amax(dim=0)).exp()
        return similarity_TM.argmax(dim=-1), weight_TM

    @torch.no_grad()
    def write(self, tokens_TD: Tensor) -> None:
        tokens_TD = tokens_TD.to(self.slots_MD.dtype)  # autocast hands over half precision
        slot_T, weight_TM = self.write_weights(tokens_TD)
        chosen_TM = F.one_hot(slot_T, len(self.slots_MD)).to(tokens_TD.dtype)
        taken_M1 = chosen_TM.sum(dim=0)[:, None]
        added_MD = (chosen_TM * weight_TM).t() @ F.normalize(tokens_TD, dim=-1)
        if self.write_reduce == "mean":
            added_MD = added_MD / taken_M1.clamp(min=1)
        moved_MD = self.momentum * self.slots_MD + (1 - self.momentum) * added_MD
        kept_MD = torch.where(taken_M1 > 0, moved_MD, self.slots_MD)
        self.slots_MD.copy_(F.normalize(kept_MD, dim=-1))


@register("cache")
class NoCache(Cache):
    """Off: reads zeros, writes nothing.

    With a linear aggregation this is an adapter without memory.
    """

    writes = False

    def __init__(self, width: int, seeds: Seeds) -> None:
        super().__init__()

    def read(self, text: Tensor) -> Tensor:
        return torch.zeros_like(text)
