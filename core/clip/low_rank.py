"""Low-rank updates of the query, key and value matrices of a frozen tower's blocks.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv 2106.09685. Letters:
M matrices of a block, R rank, W tower width.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.clip.blocks import Rows, Update
from core.devices import sent
from core.seeding import Seeds

Matrix = Literal["q", "k", "v"]


class LowRank(nn.Module):
    """``scale * B A x`` for some of the matrices of one block.

    ``down`` (M, R, W) is A, uniform in +-1 / sqrt(W); ``up`` (M, W, R) is B and starts at zero, so
    that nothing is changed at first.
    """

    def __init__(
        self, width: int, matrices: Sequence[Matrix], rank: int, scale: float, seeds: Seeds
    ) -> None:
        super().__init__()
        self.matrices, self.scale = tuple(matrices), scale
        bound = 1 / math.sqrt(width)
        drawn = [
            torch.empty(rank, width).uniform_(-bound, bound, generator=seeds.generator(matrix))
            for matrix in self.matrices
        ]
        self.down = nn.Parameter(torch.stack(drawn))
        self.up = nn.Parameter(torch.zeros(len(self.matrices), width, rank))

    def forward(self, x: Tensor, matrix: str, rows: Rows | None = None) -> Tensor | None:
        """What is added to the product of a matrix and x (..., W); None where nothing is."""
        if matrix not in self.matrices:
            return None
        place = [str(name) for name in self.matrices].index(matrix)
        low = F.linear(x, self.down[place])
        added: Tensor = F.linear(low, self.up[place]) * self.scale
        return added

    def merged(self, matrix: Matrix) -> Tensor:
        """The update of a matrix as a whole (W, W)."""
        place = self.matrices.index(matrix)
        return self.scale * self.up[place] @ self.down[place]


class Dropped:
    """An update that sees its input with a share of the entries at zero, the rest scaled up.

    Every matrix draws its own entries, for all rows, from ``seeds``: those of one block in one
    step. So the entries of a row are the same whichever rows and matrices are read beside it.
    """

    def __init__(self, update: Update, dropout: float, seeds: Seeds) -> None:
        self.update, self.dropout, self.seeds = update, dropout, seeds

    def __call__(self, normed: Tensor, matrix: str, rows: Rows | None = None) -> Tensor | None:
        shape = normed.shape if rows is None else (*rows.shape, normed.shape[-1])
        drawn = torch.rand(shape, generator=self.seeds.generator(matrix), dtype=torch.float32)
        kept = sent(drawn.ge_(self.dropout), normed.device)  # on any device the same
        kept = (kept if rows is None else rows.of(kept)).to(normed.dtype)
        return self.update(normed * kept / (1 - self.dropout), matrix, rows)


def low_rank_tower(
    tower: Any, matrices: Sequence[Matrix], rank: int, scale: float, seeds: Seeds
) -> nn.ModuleList:
    """One update for every block of a tower."""
    blocks = tower.transformer.resblocks
    return nn.ModuleList(
        LowRank(block.attn.embed_dim, matrices, rank, scale, seeds.at(layer))
        for layer, block in enumerate(blocks)
    )
