"""One transformer block of open_clip, row by row: only the rows that are read are computed.

Letters: B sequences, Q query rows, K key rows, W tower width, H heads. The weights stay in
open_clip's modules; these functions only decide which rows go through them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from core.clip import products


def split_heads(x_BLW: Tensor, num_heads: int) -> Tensor:
    """(B, L, W) -> (B, H, L, W / H)."""
    return x_BLW.reshape(*x_BLW.shape[:2], num_heads, -1).transpose(1, 2)


def project(
    block: Any, x_BLW: Tensor, matrices: str, row_B: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Normed rows through the in-projection: ``matrices`` is "q", "kv" or "qkv"; heads split.

    With ``row_B`` this row of each sequence alone.
    """
    attention = block.attn
    width = attention.embed_dim
    start, stop = {"q": (0, width), "kv": (width, 3 * width), "qkv": (0, 3 * width)}[matrices]
    row = None if row_B is None else OneRow(row_B, x_BLW.shape[1])
    normed = block.ln_1(x_BLW if row is None else row.of(x_BLW))
    packed = products.linear(
        normed, attention.in_proj_weight, attention.in_proj_bias, slice(start, stop)
    )
    packed = with_updates(block, normed, packed, matrices, row)
    return tuple(split_heads(part, attention.num_heads) for part in packed.split(width, dim=-1))


class OneRow(NamedTuple):
    """One row (B,) of each of B sequences of a length."""

    index_B: Tensor
    length: int

    @property
    def shape(self) -> tuple[int, int]:
        """(B, L) of all rows."""
        return len(self.index_B), self.length

    def of(self, x_BLW: Tensor) -> Tensor:
        """The row (B, 1, W) of each sequence."""
        every = torch.arange(len(x_BLW), device=x_BLW.device)
        return x_BLW[every, self.index_B][:, None]


class Rows(Protocol):
    """Some rows of B sequences of L rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """(B, L) of all rows."""
        ...

    def of(self, x_BLW: Tensor) -> Tensor:
        """These rows."""
        ...


class Update(Protocol):
    """Something that is added to the queries, keys and values of one block."""

    def __call__(self, normed: Tensor, matrix: str, rows: Rows | None = None) -> Tensor | None:
        """What is added to "q", "k" or "v" of normed rows (..., W); None for nothing. ``rows`` says
        which rows these are where they are not all rows: what is drawn at random must not depend on
        which rows are read.
        """
        ...


_UPDATES: ContextVar[Mapping[Any, Update]] = ContextVar("updates", default=MappingProxyType({}))


@contextmanager
def updated(updates: Mapping[Any, Update]) -> Iterator[None]:
    """A context in which these blocks have an update; the blocks themselves are not changed."""
    token = _UPDATES.set(updates)
    try:
        yield
    finally:
        _UPDATES.reset(token)


def any_updated() -> bool:
    """Whether some block has an update now."""
    return bool(_UPDATES.get())


def with_updates(
    block: Any, normed: Tensor, packed: Tensor, matrices: str, rows: Rows | None = None
) -> Tensor:
    """Queries, keys and values, packed as ``matrices`` says, with the block's update if any."""
    update = _UPDATES.get().get(block)
    if update is None:
        return packed
    parts = packed.chunk(len(matrices), dim=-1)
    added = [update(normed, matrix, rows) for matrix in matrices]
    whole = [x if more is None else x + more for x, more in zip(parts, added, strict=True)]
    return torch.cat(whole, dim=-1)


def finish(block: Any, x_BQW: Tensor, attended_BHQE: Tensor) -> Tensor:
    """Out-projection, residual, MLP, residual for the rows in ``x_BQW``."""
    return add_to_residual(block, x_BQW, attended_BHQE.transpose(1, 2).flatten(-2))


def add_to_residual(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a block, given rows ``x`` (..., W) and their attention output, heads joined."""
    out_proj = block.attn.out_proj
    x = x + block.ls_1(products.linear(attended, out_proj.weight, out_proj.bias))
    out: Tensor = x + block.ls_2(products.feed_forward(block.mlp, block.ln_2(x)))
    return out


def full_block(block: Any, x_BLW: Tensor, *, causal: bool) -> Tensor:
    """The whole block on every row."""
    query, key, value = project(block, x_BLW, "qkv")
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return finish(block, x_BLW, attended)


def row_block(block: Any, x_BLW: Tensor, row_B: Tensor, *, causal: bool = True) -> Tensor:
    """The block on one row per sequence: (B, W). Exact if only that row is read later."""
    x_B1W = OneRow(row_B, x_BLW.shape[1]).of(x_BLW)
    (query,) = project(block, x_BLW, "q", row_B)
    key, value = project(block, x_BLW, "kv")
    visible_B11L = None
    if causal:
        position = torch.arange(x_BLW.shape[1], device=x_BLW.device)
        visible_B11L = (position <= row_B[:, None])[:, None, None]
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible_B11L)
    return finish(block, x_B1W, attended)[:, 0]


def first_rows(x_BLW: Tensor) -> Tensor:
    """The number of the first row for each sequence: zeros (B,)."""
    return torch.zeros(len(x_BLW), dtype=torch.int64, device=x_BLW.device)


def first_row_block(block: Any, x_BLW: Tensor) -> Tensor:
    """The non-causal block on row 0 (CLS) alone: (B, W)."""
    (query,) = project(block, x_BLW, "q", first_rows(x_BLW))
    key, value = project(block, x_BLW, "kv")
    attended = F.scaled_dot_product_attention(query, key, value)
    return finish(block, x_BLW[:, :1], attended)[:, 0]


def first_row_attention(block: Any, x_BLW: Tensor) -> Tensor:
    """Attention weights of row 0 in this block, mean over heads: (B, L); each row sums to 1."""
    (query,) = project(block, x_BLW, "q", first_rows(x_BLW))
    key, _ = project(block, x_BLW, "kv")
    return first_row_weights(query, key)


def first_row_weights(query_BHQE: Tensor, key_BHLE: Tensor) -> Tensor:
    """Attention weights of the first query, mean over heads: (B, L)."""
    scores = query_BHQE @ key_BHLE.transpose(-1, -2) / query_BHQE.shape[-1] ** 0.5
    weights: Tensor = scores.softmax(dim=-1)
    return weights.mean(dim=1)[:, 0]
