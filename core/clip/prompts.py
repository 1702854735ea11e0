"""Prompts made of learnable context and class names, assembled as token embeddings.

Letters: G prompt groups, C classes, N context tokens, L tokens of the longest prompt, W text width,
D joint width, R rows of a packing, X context vectors of a group.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.clip.frozen import FrozenCLIP
from core.clip.hooks import NO_HOOK, TokenHook
from core.clip.packing import Packing
from core.seeding import seeded_normal
from core.types import ClassNames

ClassPosition = Literal["end", "middle", "front"]
Shared = Literal["context", "tokens", "nothing"]
DEFAULT_NUM_CTX = 4


def words_of(text: str) -> list[str]:
    """The words of an initial context; underscores count as spaces."""
    return text.replace("_", " ").split(" ")


def settled_context(num_ctx: int, words: str, default: int = DEFAULT_NUM_CTX) -> dict[str, Any]:
    """``num_ctx`` and ``ctx_init`` as a run's identity sees them: words in one spelling, and with
    words no number of its own.
    """
    given = words.replace("_", " ").split()
    return {"ctx_init": " ".join(given), "num_ctx": default if given else num_ctx}


def idle_number(owner: str, num_ctx: int, words: str) -> dict[str, str]:
    """The reason why ``num_ctx`` has no effect, if it is not the number of the given words."""
    given = words.replace("_", " ").split()
    if not given or num_ctx == len(given):
        return {}
    return {
        "num_ctx": f"the context starts from the {len(given)} words of {owner}.ctx_init = "
        f"{words!r}, got {owner}.num_ctx = {num_ctx}; set {owner}.num_ctx = {len(given)}, or "
        f"{owner}.ctx_init = '' for {num_ctx} random vectors"
    }


@torch.no_grad()
def initial_context(
    clip: FrozenCLIP, words: str, num_ctx: int, generator: torch.Generator
) -> Tensor:
    """An initial context (N, W): token embeddings of ``words``, or N(0, 0.02 squared) without
    words.

    As in the released code, N is the number of words, and only the first N BPE tokens are used.
    """
    if not words.replace("_", " ").strip():
        return seeded_normal(num_ctx, clip.spec.text_width, std=0.02, generator=generator).detach()
    text = placeholder_of(words, num_ctx)
    ids = torch.tensor(clip.tokenizer.encode(text))[: len(words_of(text))]
    return clip.embed_tokens(ids.to(clip.scale.device))


def placeholder_of(words: str, num_ctx: int) -> str:
    """The text that stands in for a context: its first words, or as many "X" as it has vectors."""
    return " ".join(words.replace("_", " ").split() or ["X"] * num_ctx)


class ContextPrompts(nn.Module):
    """Class prompts with N slots for learnable context, cut after the end token where the text
    tower is causal.

    Layouts (Zhou et al., IJCV 2022, arXiv 2109.01134), with h = N // 2::

        end    : [SOT, ctx, name, ".", EOT]
        middle : [SOT, ctx[:h], name, ctx[h:], ".", EOT]
        front  : [SOT, name, ctx, ".", EOT]

    SigLIP's tokenizer has no start token and drops the full stop.
    ``placeholder`` is the text that fills the slots when the prompt is tokenized. As in the
    released code, the number of slots is its number of words: further BPE tokens of a placeholder
    word stay as fixed tokens before the name. ``num_ctx`` sets another number of slots, and
    ``min_length`` keeps at least that many tokens, which hooks see of every prompt in
    ``encode_each``. ``template``, with one ``{}`` for the name, is the whole prompt where it is not
    "placeholder name."; its first tokens are the slots. There are no parameters; the buffers are
    derived from the class names and are not saved.
    """

    ids_CL: Tensor
    layout_C: Tensor
    eot_C: Tensor

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        *,
        placeholder: str,
        position: ClassPosition = "end",
        num_ctx: int | None = None,
        min_length: int = 0,
        template: str | None = None,
    ) -> None:
        super().__init__()
        self.num_ctx = len(words_of(placeholder)) if num_ctx is None else num_ctx
        self.min_length = min_length
        names = [name.replace("_", " ") for name in classes.names]
        before, after = _around(placeholder.replace("_", " "), template)
        ids = clip.tokenizer([f"{before}{name}{after}" for name in names])
        eot_C = clip.read_positions(ids)
        ids = ids[:, : max(clip.length_read(eot_C), min_length)]
        lengths = [len(clip.tokenizer.encode(name)) for name in names]
        start = clip.tokenizer.num_start
        order, slots = _arrange(ids.shape[1], self.num_ctx, lengths, position, start)
        ids = ids.gather(1, order)
        self._on_host = ids, slots, eot_C
        self._packings: dict[Shared, Packing] = {}
        self._slots_of: dict[tuple[object, ...], PackedSlots] = {}
        self._embed = clip.embed_tokens
        device = clip.scale.device
        layouts, layout_C = slots.unique(dim=0, return_inverse=True)
        self._layouts = [_segments(slots_L.tolist()) for slots_L in layouts]
        self.register_buffer("ids_CL", ids.to(device), persistent=False)
        self.register_buffer("layout_C", layout_C.to(device), persistent=False)
        self.register_buffer("eot_C", eot_C.to(device), persistent=False)

    def assemble(self, ctx: Tensor) -> Tensor:
        """Prompt embeddings with the context in its slots, padded to one length.

        ``ctx`` (N, W) gives (C, L, W), class-specific (C, N, W) gives (C, L, W). Prompts are
        concatenated, as if all names had the length of each in turn where lengths matter: an index
        of slots would add the gradients of all classes one by one.
        """
        tokens_CLW = self._embed(self.ids_CL)
        ctx_CNW = ctx.expand(len(tokens_CLW), -1, -1)
        of_layout = [
            torch.cat([(ctx_CNW if slots else tokens_CLW)[:, some] for slots, some in segments], 1)
            for segments in self._layouts
        ]
        whole_CLW = of_layout[0]
        for number, other_CLW in enumerate(of_layout[1:], 1):
            its_C11 = (self.layout_C == number)[:, None, None]
            whole_CLW = torch.where(its_C11, other_CLW, whole_CLW)
        return whole_CLW

    def encode(self, clip: FrozenCLIP, ctx: Tensor, hook: TokenHook = NO_HOOK) -> Tensor:
        """Class texts (C, D), not normalized, of a context (N, W) or class-specific (C, N, W).

        A hook sees what all prompts begin with.
        """
        if not clip.causal:
            return clip.encode_text(self.assemble(ctx), self.eot_C, hook)
        if ctx.dim() == 2:
            slots = self._slots(clip, "context")
            return clip.encode_packed(slots.filled(ctx[None]), slots.packing, hook)[0]
        slots = self._slots(clip, "tokens")
        return clip.encode_packed(slots.filled_each(ctx), slots.packing, hook)[0]

    def encode_each(self, clip: FrozenCLIP, ctx: Tensor, hook: TokenHook) -> Tensor:
        """Class texts (C, D), not normalized, of a context (N, W), where the hook changes the first
        ``min_length`` tokens of every class: it sees them as (C, min_length, W).
        """
        slots = self._slots(clip, "nothing")
        return clip.encode_packed(slots.filled(ctx[None]), slots.packing, hook)[0]

    def encode_groups(self, clip: FrozenCLIP, ctx_GNW: Tensor) -> Tensor:
        """Class texts (G, C, D), not normalized, of one context per group."""
        if clip.causal:
            slots = self._slots(clip, "context")
            return clip.encode_packed(slots.filled(ctx_GNW), slots.packing)
        whole_GCLW = torch.stack([self.assemble(ctx) for ctx in ctx_GNW])
        text = clip.encode_text(whole_GCLW.flatten(0, 1), self.eot_C.repeat(len(ctx_GNW)))
        return text.reshape(*whole_GCLW.shape[:2], -1)

    @property
    def rows_per_group(self) -> int:
        """How many rows the tower computes for the prompts of one context."""
        return self.packing("context").rows

    def packing(self, shared: Shared) -> Packing:
        """The rows of the prompts, where the prompts of a group share their first tokens and
        context, their first tokens alone, or nothing.
        """
        if shared not in self._packings:
            ids, slots, eot_C = self._on_host
            lengths = (eot_C + 1).clamp(min=self.min_length).tolist()
            names_CL = torch.where(slots < 0, ids, self._slot_names(slots, shared))
            self._packings[shared] = Packing(
                [row[:length] for row, length in zip(names_CL.tolist(), lengths, strict=True)],
                eot_C.tolist(),
                shared=shared != "nothing",
                lead=self.min_length if shared == "nothing" else 0,
            )
        return self._packings[shared]

    def _slot_names(self, slots_CL: Tensor, shared: Shared) -> Tensor:
        """What tells context vectors apart, below all token ids: its place in the context, and the
        prompt unless the context is ``shared``.
        """
        if shared == "context":
            return -1 - slots_CL
        first_C1 = torch.arange(len(slots_CL))[:, None] * self.num_ctx
        return -1 - slots_CL - first_C1

    def _slots(self, clip: FrozenCLIP, shared: Shared) -> "PackedSlots":
        """The rows of the prompts, made once for a device and a dtype."""
        key = (shared, clip.scale.device, clip.scale.dtype)
        if key not in self._slots_of:
            with torch.inference_mode(False), torch.no_grad():
                self._slots_of[key] = self._made(clip, shared)
        return self._slots_of[key]

    def _made(self, clip: FrozenCLIP, shared: Shared) -> "PackedSlots":
        packing, (_, slots_CL, _) = self.packing(shared), self._on_host
        slot_R = packing.tokens.of(slots_CL[:, : packing.length])
        filled_R = slot_R >= 0
        num_shared = int(filled_R[: packing.prefix].sum())
        num_own = self.num_ctx - num_shared
        # the order of context vectors: those that are shared, then the others prompt by prompt
        places_R = packing.prompt_R.clamp(min=0) * num_own + slot_R
        rows = filled_R.nonzero()[:, 0]
        row_X = torch.full((num_shared + packing.prompts * num_own,), -1)
        row_X[places_R[rows]] = rows
        unused_X = row_X < 0
        row_X = torch.where(unused_X, packing.rows - 1 + unused_X.cumsum(0), row_X)
        device = clip.scale.device
        constant_RW = clip.embed_packed(self.ids_CL, packing, blank_R=filled_R.to(device))
        return PackedSlots(
            packing,
            F.pad(constant_RW, (0, 0, 0, int(unused_X.sum()))),
            row_X.to(device),
            num_shared,
        )


@dataclass(frozen=True, slots=True)
class PackedSlots:
    """Rows of packed prompts with slots for contexts.

    ``constant_RW`` has tokens and positions, in the slots positions alone. The first ``num_shared``
    vectors of a context enter the rows before the first prompt's own ones, the others a row of
    every prompt. ``slot_rows`` are the rows of both, no two of them the same: vectors that no row
    is computed of have rows behind all others, which are cut off.
    """

    packing: Packing
    constant_RW: Tensor
    slot_rows: Tensor
    num_shared: int

    def filled(self, ctx_GNW: Tensor) -> Tensor:
        """The rows (G, R, W) with a context in each group."""
        ctx_G1NW = ctx_GNW[:, None, self.num_shared :]
        own_GCNW = ctx_G1NW.expand(-1, self.packing.prompts, -1, -1)
        return self._entered([ctx_GNW[:, : self.num_shared], own_GCNW.flatten(1, 2)])

    def filled_each(self, ctx_CNW: Tensor) -> Tensor:
        """The rows (1, R, W) with a context in each prompt."""
        return self._entered([ctx_CNW.flatten(0, 1)[None]])

    def _entered(self, contexts_GXW: Sequence[Tensor]) -> Tensor:
        vectors = torch.cat([some for some in contexts_GXW if some.shape[1]], dim=1)
        constant_GRW = self.constant_RW.expand(len(vectors), -1, -1)
        entered_GRW = constant_GRW.index_add(1, self.slot_rows, vectors)
        whole = entered_GRW.shape[1] == self.packing.rows
        return entered_GRW if whole else entered_GRW[:, : self.packing.rows]


def _before_name(num_ctx: int, position: ClassPosition) -> int:
    """How many context tokens stand in front of the name."""
    return {"end": num_ctx, "middle": num_ctx // 2, "front": 0}[position]


def _around(placeholder: str, template: str | None) -> tuple[str, str]:
    """The text before and after the class name."""
    if template is None:
        return f"{placeholder} ", "."
    before, _, after = template.partition("{}")
    return before, after


def _segments(slots_L: Sequence[int]) -> list[tuple[bool, slice]]:
    """The runs of a prompt: whether it is one of slots, and which of them, or which tokens."""
    found: list[tuple[bool, slice]] = []
    for filled, run in itertools.groupby(enumerate(slots_L), lambda place: place[1] >= 0):
        numbers = [slot if filled else position for position, slot in run]
        found.append((filled, slice(numbers[0], numbers[-1] + 1)))
    return found


def _arrange(
    length: int, num_ctx: int, name_lengths: list[int], position: ClassPosition, num_start: int
) -> tuple[Tensor, Tensor]:
    """For each position of each prompt: its position in the 'end' layout, and its slot or -1.

    Both (C, L) int64. ``num_start`` tokens stand before everything. Slots may cover names, or what
    is behind them.
    """
    before = _before_name(num_ctx, position)
    name_start = num_start + num_ctx
    order, slots = [], []
    for name_length in name_lengths:
        first = list(range(num_start))
        ctx = list(range(num_start, name_start))
        name = list(range(name_start, min(name_start + name_length, length)))
        rest = list(range(name_start + name_length, length))
        row = [*first, *ctx[:before], *name, *ctx[before:], *rest]
        order.append(row)
        slots.append(
            [place - num_start if num_start <= place < name_start else -1 for place in row]
        )
    return torch.tensor(order), torch.tensor(slots)
