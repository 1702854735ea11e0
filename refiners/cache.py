"""Local caches of fine-grained visual concepts.

Shapes: B images, P patches, M slots, T tokens, C classes, D text width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import (
    Configurable,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    register,
)
from core.host_number import HostNumber
from core.precision import in_full_precision
from core.seeding import Seeds

SlotInit = Literal["positive", "normal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The input of a cache in one training step, without gradient.

    ``aligned`` (B, 1+P, D), CLS first; ``attention`` (B, P) of CLS over patches and ``labels`` (B,)
    int64 only for caches that request them.
    """

    aligned: Tensor
    attention: Tensor | None = None
    labels: Tensor | None = None


class Cache(nn.Module, Configurable, ABC):
    """A memory that is read by class texts and written by local tokens.

    Built as ``Cache(width, seeds, num_classes)``. ``writes``: training steps change it;
    ``reads_attention``: writing needs the attention row of an image.
    """

    writes: ClassVar[bool] = True
    reads_attention: ClassVar[bool] = False

    @abstractmethod
    def slots(self) -> Tensor:
        """The memory (M, D); M may be 0."""

    def filled(self) -> Tensor | None:
        """Which slots take part in a read (M,) bool; None for all of them. A mask, since a size
        that depends on what was written would make the host wait for the device.
        """
        return None

    def slot_labels(self) -> Tensor | None:
        """The training class of each slot (M,) int64; None where slots have no class."""
        return None

    @abstractmethod
    def read(self, text: Tensor) -> Tensor:
        """What each text reads from the memory: (..., D) for texts (..., D)."""

    def observe(self, seen: Observation) -> None:
        """Update the memory after one training step."""


class SoftCache(Cache):
    """A cache read with a softmax over its slots: ``softmax(n(t) M' / temperature) M``.

    Slots that are not filled are zero, so that a read where none is gives zeros.
    """

    read_temperature: float = 1.0

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """A softmax over one slot does not depend on its temperature."""
        alone = parameters.get("num_slots") == 1
        return {**parameters, "read_temperature": 1.0} if alone else parameters

    def read_weights(self, text: Tensor) -> Tensor:
        """Softmax over slots (..., M): 0 for a slot that is not filled, unless none is."""
        similarity = in_full_precision(torch.matmul, F.normalize(text, dim=-1), self.slots().t())
        return softmax_of(similarity / self.read_temperature, self.filled())

    def read(self, text: Tensor) -> Tensor:
        if not len(self.slots()):
            return torch.zeros_like(text)
        return in_full_precision(torch.matmul, self.read_weights(text), self.slots())


def softmax_of(logits: Tensor, taken_M: Tensor | None) -> Tensor:
    """Softmax over the last dimension (..., M) of the places that are taken, or of all if None.

    Where no place is taken the weights are uniform.
    """
    if taken_M is not None:
        logits = logits.masked_fill(~taken_M, torch.finfo(logits.dtype).min)
    return logits.softmax(dim=-1)


def initial_slots(num_slots: int, width: int, seeds: Seeds, initial: SlotInit) -> Tensor:
    """Unit slots (M, D): "positive" from the positive orthant, as released, "normal" spread out."""
    draw = torch.rand if initial == "positive" else torch.randn
    return F.normalize(draw(num_slots, width, generator=seeds.generator("slots")), dim=-1)


@register("cache")
class EmaCache(SoftCache):
    """A soft read over all slots; every token moves its most similar slot by an EMA.

    Read: ``softmax(n(t) M' / read_temperature) M``. Write: ``x = n(tokens)``, ``S = x M'``; each
    token goes to its best slot j with the weight ``exp(S_ij - max_i S_ij)``; a slot with tokens
    becomes ``momentum * M_j + (1 - momentum) * reduce(weight * x)``; all slots are normalized
    again.

    Released values are the defaults. ``read_temperature = 1`` leaves the read weights almost
    uniform, since cosines lie in [-1, 1]; with ``write_reduce = "sum"`` a busy slot forgets far
    more than ``momentum`` suggests. ``initial = "positive"`` draws slots from the positive orthant
    (cosine about 0.75 among them); "normal" spreads them. After ``reset_after`` steps without a
    token, a slot takes the token that is least similar to its own best slot; 0, as released,
    disables this.

    The cache is a buffer, saved with the run; the released code loses it on resume.

    Source: Xie et al., TextRefiner, AAAI 2025, arXiv 2412.08176.
    """

    slots_MD: Tensor
    idle_M: Tensor

    def __init__(
        self,
        width: int,
        seeds: Seeds,
        num_classes: int = 0,
        *,
        num_slots: PositiveInt = 25,
        momentum: Probability = 0.8,
        read_temperature: PositiveFloat = 1.0,
        write_reduce: Literal["sum", "mean"] = "sum",
        initial: SlotInit = "positive",
        reset_after: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.read_temperature = read_temperature
        self.write_reduce = write_reduce
        self.reset_after = reset_after
        self.register_buffer("slots_MD", initial_slots(num_slots, width, seeds, initial))
        self.register_buffer("idle_M", torch.zeros(num_slots, dtype=torch.int64))

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """Slots that never move do not depend on how tokens are joined."""
        simple = super().simplify(parameters)
        return {**simple, "write_reduce": "sum"} if simple["momentum"] == 1 else simple

    def slots(self) -> Tensor:
        return self.slots_MD

    def write_weights(self, tokens_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Best slot of each token (T,) and the weight of each token for each slot (T, M)."""
        return self._write_weights(F.normalize(tokens_TD, dim=-1))

    def _write_weights(self, unit_TD: Tensor) -> tuple[Tensor, Tensor]:
        similarity_TM = unit_TD @ self.slots_MD.t()
        weight_TM = (similarity_TM - similarity_TM.amax(dim=0)).exp()
        return similarity_TM.argmax(dim=-1), weight_TM

    def observe(self, seen: Observation) -> None:
        self.write(seen.aligned.flatten(0, 1))

    @torch.no_grad()
    def write(self, tokens_TD: Tensor) -> None:
        """Move the slots towards the tokens of one step."""
        tokens_TD = tokens_TD.to(self.slots_MD.dtype)  # autocast passes half precision
        unit_TD = F.normalize(tokens_TD, dim=-1)
        slot_T, weight_TM = self._write_weights(unit_TD)
        chosen_TM = F.one_hot(slot_T, len(self.slots_MD)).to(unit_TD.dtype)
        taken_M1 = chosen_TM.sum(dim=0)[:, None]
        added_MD = (chosen_TM * weight_TM).t() @ unit_TD
        if self.write_reduce == "mean":
            added_MD = added_MD / taken_M1.clamp(min=1)
        moved_MD = self.momentum * self.slots_MD + (1 - self.momentum) * added_MD
        kept_MD = torch.where(taken_M1 > 0, moved_MD, self.slots_MD)
        self.slots_MD.copy_(F.normalize(kept_MD, dim=-1))
        self.idle_M.copy_(torch.where(taken_M1[:, 0] > 0, 0, self.idle_M + 1))
        if self.reset_after:
            self._reset_idle(unit_TD)

    def _reset_idle(self, tokens_TD: Tensor) -> None:
        """Reset slots that were idle too long to the tokens least similar to any slot: the first of
        them to the least similar one, as many as there are tokens.
        """
        idle_M = self.idle_M >= self.reset_after
        rank_M = idle_M.cumsum(dim=0) - 1
        takes_M = idle_M & (rank_M < len(tokens_TD))
        explained_T = (tokens_TD @ self.slots_MD.t()).amax(dim=-1)
        worst_T = explained_T.argsort(stable=True)
        taken_MD = tokens_TD[worst_T[rank_M.clamp(0, len(tokens_TD) - 1)]]
        self.slots_MD.copy_(torch.where(takes_M[:, None], taken_MD, self.slots_MD))
        self.idle_M.masked_fill_(takes_M, 0)


@register("cache")
class QueueCache(SoftCache):
    """First in, first out: the tokens of the ``topk`` patches that CLS attends to most.

    Read softly like EmaCache; only filled slots take part. Nothing is averaged: a slot is one
    token.

    Source: ours; a queue as in He et al., MoCo, CVPR 2020, arXiv 1911.05722.
    """

    reads_attention = True

    slots_MD: Tensor
    num_written: Tensor

    def __init__(
        self,
        width: int,
        seeds: Seeds,
        num_classes: int = 0,
        *,
        num_slots: PositiveInt = 256,
        topk: PositiveInt = 5,
        read_temperature: PositiveFloat = 1.0,
    ) -> None:
        super().__init__()
        self.topk = topk
        self.read_temperature = read_temperature
        self.register_buffer("slots_MD", torch.zeros(num_slots, width))
        self.register_buffer("num_written", torch.zeros((), dtype=torch.int64))
        self._written = HostNumber()

    def slots(self) -> Tensor:
        return self.slots_MD[: self._written.of(self.num_written)]

    @torch.no_grad()
    def observe(self, seen: Observation) -> None:
        assert seen.attention is not None
        count = min(self.topk, seen.attention.shape[1])
        best_BK = seen.attention.topk(count, dim=-1).indices + 1  # after CLS
        chosen = seen.aligned.gather(1, best_BK[..., None].expand(-1, -1, seen.aligned.shape[-1]))
        newest = F.normalize(chosen.flatten(0, 1).to(self.slots_MD.dtype), dim=-1)
        kept = torch.cat([newest, self.slots()])[: len(self.slots_MD)]
        self.slots_MD[: len(kept)] = kept
        self._written.write(self.num_written, len(kept))


@register("cache")
class LearnedCache(SoftCache):
    """Slots are parameters, learned by gradient; nothing is written.

    A control that shows whether the content of a cache must come from image tokens.

    Source: ours; slots as in Sukhbaatar et al., End-To-End Memory Networks, NeurIPS 2015,
    arXiv 1503.08895.
    """

    writes = False

    def __init__(
        self,
        width: int,
        seeds: Seeds,
        num_classes: int = 0,
        *,
        num_slots: PositiveInt = 25,
        read_temperature: PositiveFloat = 1.0,
        initial: SlotInit = "normal",
    ) -> None:
        super().__init__()
        self.read_temperature = read_temperature
        self.slots_MD = nn.Parameter(initial_slots(num_slots, width, seeds, initial))

    def slots(self) -> Tensor:
        return self.slots_MD


@register("cache")
class RandomCache(SoftCache):
    """Random slots that nothing ever changes; read as EmaCache is.

    A control of equal size for a cache that is written: the same slots at the start, the same
    weights to learn, and no visual concept in them.

    Source: ours, as a control for Xie et al., TextRefiner, AAAI 2025, arXiv 2412.08176.
    """

    writes = False

    def __init__(
        self,
        width: int,
        seeds: Seeds,
        num_classes: int = 0,
        *,
        num_slots: PositiveInt = 25,
        read_temperature: PositiveFloat = 1.0,
        initial: SlotInit = "positive",
    ) -> None:
        super().__init__()
        self.read_temperature = read_temperature
        self.register_buffer("slots_MD", initial_slots(num_slots, width, seeds, initial))

    def slots(self) -> Tensor:
        return self.get_buffer("slots_MD")


@register("cache")
class ClassCache(SoftCache):
    """One slot per training class: an EMA of the mean local token of that class's images.

    A class without any image so far takes no part in the read. Texts of other classes read
    the slots of the training classes softly, as in EmaCache. Where a method learns from soft
    targets, the most probable class counts as the label.

    Source: ours; one slot per class as in Karmanov et al., TDA, CVPR 2024, arXiv 2403.18293.
    """

    slots_CD: Tensor
    seen_C: Tensor

    def __init__(
        self,
        width: int,
        seeds: Seeds,
        num_classes: int,
        *,
        momentum: Probability = 0.8,
        read_temperature: PositiveFloat = 1.0,
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.read_temperature = read_temperature
        self.register_buffer("slots_CD", torch.zeros(num_classes, width))
        self.register_buffer("seen_C", torch.zeros(num_classes, dtype=torch.bool))

    def slots(self) -> Tensor:
        return self.slots_CD

    def filled(self) -> Tensor:
        return self.seen_C

    def slot_labels(self) -> Tensor:
        return torch.arange(len(self.slots_CD), device=self.slots_CD.device)

    @torch.no_grad()
    def observe(self, seen: Observation) -> None:
        assert seen.labels is not None
        tokens_BD = F.normalize(seen.aligned.to(self.slots_CD.dtype), dim=-1).mean(dim=1)
        mean_CD, hit_C1 = means_by_label(tokens_BD, seen.labels, len(self.slots_CD))
        seen_C1 = self.seen_C[:, None]
        moved_CD = self.momentum * self.slots_CD + (1 - self.momentum) * mean_CD
        new_CD = F.normalize(torch.where(seen_C1, moved_CD, mean_CD), dim=-1)
        self.slots_CD.copy_(torch.where(hit_C1, new_CD, self.slots_CD))
        self.seen_C |= hit_C1[:, 0]


def means_by_label(rows_BD: Tensor, labels_B: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The mean row (C, D) of each of so many labels, 0 without a row, and whether it has any
    (C, 1).

    Rows of a label are summed in their order, one block of rows a label: no sum depends on the
    order in which a GPU gets to it, and no size on numbers that the host would wait for.
    """
    sorted_B, order_B = labels_B.sort(stable=True)
    count_C = F.one_hot(labels_B, number).sum(dim=0)
    first_C = count_C.cumsum(dim=0) - count_C
    every_B = torch.arange(len(labels_B), device=labels_B.device)
    place_B = sorted_B * len(labels_B) + every_B - first_C[sorted_B]
    blocks = rows_BD.new_zeros(number * len(labels_B), rows_BD.shape[-1])
    blocks.index_copy_(0, place_B, rows_BD[order_B])
    sum_CD = blocks.unflatten(0, (number, -1)).sum(dim=1)
    return sum_CD / count_C.clamp(min=1)[:, None], (count_C > 0)[:, None]


@register("cache")
class NoCache(Cache):
    """Off: reads zeros, writes nothing.

    With a linear aggregation this is an adapter without memory.
    """

    writes = False

    def __init__(self, width: int, seeds: Seeds, num_classes: int = 0) -> None:
        super().__init__()
        self.register_buffer("empty_0D", torch.zeros(0, width), persistent=False)

    def slots(self) -> Tensor:
        return self.get_buffer("empty_0D")

    def read(self, text: Tensor) -> Tensor:
        return torch.zeros_like(text)
