"""Prompts made of learnable context and class names, assembled as token embeddings.

Letters: G prompt groups, C classes, N context tokens, L tokens of the longest prompt, W text width,
D joint width.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from core.clip.hooks import NO_HOOK, TokenHook
from core.seeding import seeded_normal
from core.types import ClassNames

ClassPosition = Literal["end", "middle", "front"]
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
    """Class prompts with N slots for learnable context, cut after the longest end token where the
    text tower is causal.

    Layouts (Zhou et al., IJCV 2022, arXiv 2109.01134), with h = N // 2::

        end    : [SOT, ctx, name, ".", EOT]
        middle : [SOT, ctx[:h], name, ctx[h:], ".", EOT]
        front  : [SOT, name, ctx, ".", EOT]

    SigLIP's tokenizer has no start token and drops the full stop.
    ``placeholder`` is the text that fills the slots when the prompt is tokenized. As in the
    released code, the number of slots is its number of words: further BPE tokens of a placeholder
    word stay as fixed tokens before the name. ``num_ctx`` sets another number of slots, and
    ``min_length`` keeps at least that many tokens. ``template``, with one ``{}`` for the name, is
    the whole prompt where it is not "placeholder name."; its first tokens are the slots. There are
    no parameters; the buffers are derived from the class names and are not saved.
    """

    fixed_CLW: Tensor
    slots_CL: Tensor
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
        names = [name.replace("_", " ") for name in classes.names]
        before, after = _around(placeholder.replace("_", " "), template)
        ids = clip.tokenizer([f"{before}{name}{after}" for name in names]).to(clip.scale.device)
        eot_C = clip.read_positions(ids)
        ids = ids[:, : max(clip.length_read(eot_C), min_length)]
        lengths = [len(clip.tokenizer.encode(name)) for name in names]
        start = clip.tokenizer.num_start
        order, slots = _arrange(ids.shape[1], self.num_ctx, lengths, position, start)
        ids, slots = ids.gather(1, order.to(ids.device)), slots.to(ids.device)
        self.num_shared = start + _before_name(self.num_ctx, position)
        self.register_buffer("fixed_CLW", clip.embed_tokens(ids), persistent=False)
        self.register_buffer("slots_CL", slots, persistent=False)
        self.register_buffer("eot_C", eot_C, persistent=False)

    def assemble(self, ctx: Tensor) -> Tensor:
        """Prompt embeddings with the context in its slots.

        ``ctx`` (N, W) gives (C, L, W); class-specific (C, N, W) gives (C, L, W).
        """
        index_CL = self.slots_CL.clamp(min=0)
        if ctx.dim() == 2:
            filled = ctx[index_CL]
        else:
            filled = ctx.gather(1, index_CL[..., None].expand(-1, -1, ctx.shape[-1]))
        return torch.where(self.slots_CL[..., None] >= 0, filled, self.fixed_CLW)

    def encode(self, clip: FrozenCLIP, ctx: Tensor, hook: TokenHook = NO_HOOK) -> Tensor:
        """Class texts (C, D), not normalized, of a context (N, W) or class-specific (C, N, W)."""
        embedding = self.assemble(ctx)
        if ctx.dim() == 3:
            return clip.encode_text(embedding, self.eot_C, hook)
        prefix, suffix = embedding[:1, : self.num_shared], embedding[:, self.num_shared :]
        return clip.encode_prompts(prefix, suffix, self.eot_C, hook)[0]

    def encode_groups(self, clip: FrozenCLIP, ctx_GNW: Tensor) -> Tensor:
        """Class texts (G, C, D), not normalized, of one context per group."""
        filled_GCLW = ctx_GNW[:, self.slots_CL.clamp(min=0)]
        embedding = torch.where(self.slots_CL[..., None] >= 0, filled_GCLW, self.fixed_CLW)
        prefix, suffix = embedding[:, 0, : self.num_shared], embedding[:, :, self.num_shared :]
        return clip.encode_prompts(prefix, suffix, self.eot_C)


def _before_name(num_ctx: int, position: ClassPosition) -> int:
    """How many context tokens stand in front of the name."""
    return {"end": num_ctx, "middle": num_ctx // 2, "front": 0}[position]


def _around(placeholder: str, template: str | None) -> tuple[str, str]:
    """The text before and after the class name."""
    if template is None:
        return f"{placeholder} ", "."
    before, _, after = template.partition("{}")
    return before, after


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
