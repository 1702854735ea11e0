"""Prompts with a shared prefix in a causal tower: the prefix is computed once.

Letters: G prompt groups, C classes, N = G * C prompts, P prefix tokens, S suffix tokens, R rows, W
width, H heads, E = W / H. The prefix rows of all groups and the suffix rows of all prompts are kept
in one matrix (R, W), so that each linear layer runs once per block; only attention splits them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from core.clip import products
from core.clip.blocks import add_to_residual, split_heads, with_updates
from core.clip.hooks import TokenHook


@dataclass(frozen=True, slots=True)
class PrefixLayout:
    """Counts of groups, prompts, prefix tokens and suffix tokens in the rows, in this order."""

    groups: int
    prompts: int
    prefix: int
    suffix: int

    @property
    def prefix_rows(self) -> int:
        return self.groups * self.prefix

    def take_apart(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(R, X) -> prefix (G, P, X) and suffix (N, S, X)."""
        prefix, suffix = rows[: self.prefix_rows], rows[self.prefix_rows :]
        return (
            prefix.reshape(self.groups, self.prefix, -1),
            suffix.reshape(self.prompts, self.suffix, -1),
        )

    def mask(self, like: Tensor) -> Tensor:
        """(S, P + S) to add to scores: a suffix token attends to the prefix and the suffix up to
        itself.

        Additive, since attention would convert a boolean mask to numbers in every call.
        """
        hidden = like.new_full((self.suffix, self.prefix + self.suffix), float("-inf"))
        return hidden.triu(self.prefix + 1)

    def repeat(self, prefix: Tensor) -> Tensor:
        """One copy of a group's (G, ...) for each of its prompts: (N, ...)."""
        classes = self.prompts // self.groups
        return prefix[:, None].expand(-1, classes, *prefix.shape[1:]).flatten(0, 1)


def put_together(prefix: Tensor, suffix: Tensor) -> Tensor:
    """Prefix (G, P, X) and suffix (N, S, X) -> (R, X)."""
    width = prefix.shape[-1]
    return torch.cat([prefix.reshape(-1, width), suffix.reshape(-1, width)])


def run_tower(
    blocks: Any, prefix_GPW: Tensor, suffix_NSW: Tensor, row_N: Tensor, hook: TokenHook
) -> Tensor:
    """The row ``row_N`` of each suffix after the last block: (N, W). The hook sees the prefix."""
    layout = PrefixLayout(
        len(prefix_GPW), len(suffix_NSW), prefix_GPW.shape[1], suffix_NSW.shape[1]
    )
    rows_RW = put_together(prefix_GPW, suffix_NSW)
    *body, last = blocks
    for layer, block in enumerate(body):
        rows_RW = _block(block, _hooked(hook, layer, rows_RW, layout), layout)
    return _last_block(last, _hooked(hook, len(body), rows_RW, layout), layout, row_N)


def _hooked(hook: TokenHook, layer: int, rows_RW: Tensor, layout: PrefixLayout) -> Tensor:
    prefix, suffix = layout.take_apart(rows_RW)
    changed = hook.before_block(layer, prefix)
    return rows_RW if changed is prefix else put_together(changed, suffix)


def _block(block: Any, rows_RW: Tensor, layout: PrefixLayout) -> Tensor:
    """One block on every row: the prefix attends to itself, a suffix to its prefix and itself."""
    prefix, suffix = _project(block, rows_RW, layout)
    own = F.scaled_dot_product_attention(prefix[0], prefix[1], prefix[2], is_causal=True)
    query, key, value = suffix
    attended = F.scaled_dot_product_attention(
        query,
        torch.cat([layout.repeat(prefix[1]), key], dim=2),
        torch.cat([layout.repeat(prefix[2]), value], dim=2),
        attn_mask=layout.mask(rows_RW),
    )
    merged_RW = put_together(own.transpose(1, 2).flatten(2), attended.transpose(1, 2).flatten(2))
    return add_to_residual(block, rows_RW, merged_RW)


def _last_block(block: Any, rows_RW: Tensor, layout: PrefixLayout, row_N: Tensor) -> Tensor:
    """The last block on one row of each suffix, which is all that is read: (N, W)."""
    prefix, suffix = _project(block, rows_RW, layout)
    every = torch.arange(layout.prompts, device=row_N.device)
    query = suffix[0][every, :, row_N][:, :, None]
    position = torch.arange(layout.prefix + layout.suffix, device=row_N.device)
    visible_N11K = (position <= layout.prefix + row_N[:, None])[:, None, None]
    attended = F.scaled_dot_product_attention(
        query,
        torch.cat([layout.repeat(prefix[1]), suffix[1]], dim=2),
        torch.cat([layout.repeat(prefix[2]), suffix[2]], dim=2),
        attn_mask=visible_N11K,
    )
    x_NW = layout.take_apart(rows_RW)[1][every, row_N]
    return add_to_residual(block, x_NW, attended.flatten(1))


def _project(
    block: Any, rows_RW: Tensor, layout: PrefixLayout
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Queries, keys and values (., H, ., E) of the prefix and of the suffix."""
    attention = block.attn
    normed = block.ln_1(rows_RW)
    packed = products.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
    packed = with_updates(block, normed, packed, "qkv")
    prefix, suffix = (
        tuple(split_heads(third, attention.num_heads) for third in part.chunk(3, dim=-1))
        for part in layout.take_apart(packed)
    )
    return prefix, suffix
