"""A causal text tower on packed prompts: every row once, and at the end only what is read.

Letters: G prompt groups, C prompts, N = G C, P prefix rows, R rows of all groups, B sequences, L
rows of a sequence, W tower width, H heads, E = W / H.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from core.clip import products
from core.clip.blocks import add_to_residual, any_updated, with_updates
from core.clip.hooks import NoHook, TokenHook
from core.clip.packing import Masks, Packing, grouped
from core.precision import product_dtype


def run_packed(blocks: Any, rows_GRW: Tensor, packing: Packing, hook: TokenHook) -> Tensor:
    """The row of each prompt that is read, after the last block: (G, C, W)."""
    layout = PackedLayout(packing, len(rows_GRW), rows_GRW)
    x_RW = layout.hooked(hook, hook.enter, grouped(rows_GRW, packing))
    *body, last = blocks
    for layer, block in enumerate(body):
        x_RW = layout.hooked(hook, partial(hook.before_block, layer), x_RW)
        x_RW = add_to_residual(block, x_RW, layout.attended(block, x_RW))
    x_RW = layout.hooked(hook, partial(hook.before_block, len(body)), x_RW)
    attended_NW = layout.read(last, x_RW)
    out_NW = add_to_residual(last, x_RW.index_select(0, layout.read_N), attended_NW)
    return out_NW.reshape(layout.groups, packing.prompts, -1)


class PackedLayout:
    """Where the rows of some groups of packed prompts are, and which of them see each other."""

    def __init__(self, packing: Packing, groups: int, like: Tensor) -> None:
        placement = packing.on(like.device)
        self.packing, self.groups = packing, groups
        self.placement, self.dtype = placement, product_dtype(like)
        self.masks = placement.masks(self.dtype, groups)
        self.lead_N, self.read_N = placement.lead_N, placement.read_GC(groups).flatten()
        self.all_rows = placement.all_rows
        self.sizes = [groups * size for size in packing.sizes]

    def hooked(self, hook: TokenHook, change: Callable[[Tensor], Tensor], x_RW: Tensor) -> Tensor:
        """The rows after a step of the hook, which sees the prefix of each group, or the first
        tokens of each prompt.
        """
        if isinstance(hook, NoHook):
            return x_RW
        if self.packing.lead:
            lead_CLW = x_RW.index_select(0, self.lead_N).unflatten(0, (-1, self.packing.lead))
            changed = change(lead_CLW)
            if changed is lead_CLW:
                return x_RW
            return x_RW.index_copy(0, self.lead_N, changed.flatten(0, 1))
        head_GLW = x_RW[: self.sizes[0]].unflatten(0, (self.groups, -1))
        prefix_GPW = head_GLW[:, : self.packing.prefix]
        changed = change(prefix_GPW)
        if changed is prefix_GPW:
            return x_RW
        head_GLW = torch.cat([changed, head_GLW[:, self.packing.prefix :]], dim=1)
        return torch.cat([head_GLW.flatten(0, 1), x_RW[self.sizes[0] :]])

    def attended(self, block: Any, x_RW: Tensor) -> Tensor:
        """What every row gathers from the rows that it sees, heads joined: (R, W)."""
        attention = block.attn
        normed = block.ln_1(x_RW)
        packed = products.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
        packed = with_updates(block, normed, packed, "qkv", self.all_rows)
        width = attention.embed_dim
        query, pairs = packed.split([width, 2 * width], dim=-1)
        return self._gathered(block, query, pairs, self.sizes, self.masks)

    def read(self, block: Any, x_RW: Tensor) -> Tensor:
        """``attended`` for the rows that are read alone: (N, W)."""
        if any_updated():  # what is added may be drawn at random, and for all rows
            return self.attended(block, x_RW).index_select(0, self.read_N)
        attention, reads = block.attn, self.placement.reads(self.groups)
        width = attention.embed_dim
        multiply = partial(
            products.linear, weight=attention.in_proj_weight, bias=attention.in_proj_bias
        )
        normed = block.ln_1(x_RW)
        query = multiply(normed.index_select(0, reads.rows), rows=slice(width))
        pairs = multiply(normed, rows=slice(width, 3 * width))
        masks = self.placement.masks(self.dtype, self.groups, read=True)
        found = self._gathered(block, query, pairs, reads.sizes, masks)
        return found.index_select(0, reads.places)

    def _gathered(
        self, block: Any, query: Tensor, pairs: Tensor, sizes: list[int], masks: Masks
    ) -> Tensor:
        """Attention of queries (..., W) to pairs of keys and values (R, 2 W) within every head and
        chunk. ``sizes`` are the numbers of queries in the heads and in the chunks.
        """
        attend = partial(_attend, num_heads=block.attn.num_heads)
        if masks.chunks is None:
            return attend(query, pairs, self.groups, masks.head)
        (query, asked), (pairs, own) = query.split(sizes), pairs.split(self.sizes)
        number = self.packing.chunks.number
        found = attend(asked, self._seen(pairs, own, number), self.groups * number, masks.chunks)
        return torch.cat([attend(query, pairs, self.groups, masks.head), found])

    def _seen(self, head_RX: Tensor, own_RX: Tensor, count: int) -> Tensor:
        """The rows that chunks see: the prefix of their group, and their own."""
        if not self.packing.prefix:
            return own_RX
        prefix_GPX = head_RX.unflatten(0, (self.groups, -1))[:, None, : self.packing.prefix]
        own_GKTX = own_RX.unflatten(0, (self.groups, count, -1))
        return torch.cat([prefix_GPX.expand(-1, count, -1, -1), own_GKTX], dim=2).flatten(0, 2)


def _attend(
    query_RW: Tensor, pairs_RX: Tensor, sequences: int, mask: Tensor, *, num_heads: int
) -> Tensor:
    """Attention within each of the sequences, one after the other in the rows: (R, W)."""
    width = query_RW.shape[-1]
    heads = (num_heads, width // num_heads)
    query = query_RW.view(sequences, -1, *heads).transpose(1, 2)
    key, value = pairs_RX.view(sequences, -1, 2, *heads).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attended.transpose(1, 2).reshape(-1, width)
