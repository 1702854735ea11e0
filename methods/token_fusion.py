"""Token fusion: hooks that update the prompt tokens of a tower from its other tokens.

Shapes: B sequences (images, or classes), L tokens, T frozen tokens (1 + patches), n prompt tokens,
W tower width.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from core.seeding import Seeds, seeded_attention, seeded_linear, seeded_normal
from core.types import FeatureSpec

SelectionScope = Literal["batch", "image"]
FusionAxis = Literal["batch", "token"]
FusionInit = Literal["shared", "independent"]

FIRST_SCALE = 0.75


class TokenFusion(nn.Module):
    """New prompt tokens (B, n, W) from as many other tokens and the current prompt tokens.

    With tokens u and prompts p::

        m   = s1 u + (1 - s1) attention(query = LN1 p, key = value = LN1 u)
        out = s2 m + (1 - s2) W2 q(W1 LN2 m),   q(z) = z sigmoid(1.702 z)

    ``axis`` "token" lets the n tokens of one sequence attend to each other; "batch" lets each of
    the n slots attend over the B sequences of the batch, as released.

    Source: Yao et al., SEP: Self-Enhanced Prompt Tuning for Visual-Language Model, 2024,
    arXiv 2405.15549.
    """

    def __init__(
        self, width: int, num_heads: int, seeds: Seeds, *, hidden: int, axis: FusionAxis
    ) -> None:
        super().__init__()
        self.axis = axis
        self.attention = seeded_attention(width, num_heads, seeds.generator("attention"))
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = seeded_linear(width, hidden, seeds.generator("fc1"), bias=False)
        self.fc2 = seeded_linear(hidden, width, seeds.generator("fc2"), bias=False)
        self.scale1 = nn.Parameter(torch.full((1,), FIRST_SCALE))
        self.scale2 = nn.Parameter(torch.full((1,), FIRST_SCALE))

    def forward(self, tokens_BnW: Tensor, prompts_BnW: Tensor) -> Tensor:
        attended_BnW = self._attend(self.norm1(prompts_BnW), self.norm1(tokens_BnW))
        mixed = self.scale1 * tokens_BnW + (1 - self.scale1) * attended_BnW
        hidden = self.fc1(self.norm2(mixed))
        fused: Tensor = self.scale2 * mixed + (1 - self.scale2) * self.fc2(
            hidden * torch.sigmoid(1.702 * hidden)
        )
        return fused

    def _attend(self, query: Tensor, key: Tensor) -> Tensor:
        """Attention over the first axis of the input: sequences, or tokens."""
        attended: Tensor
        if self.axis == "batch":
            attended, _ = self.attention(query, key, key, need_weights=False)
            return attended
        query, key = query.transpose(0, 1), key.transpose(0, 1)
        attended, _ = self.attention(query, key, key, need_weights=False)
        return attended.transpose(0, 1)


def fusions_of(
    layers: Sequence[int], build: Callable[[Seeds], TokenFusion], seeds: Seeds, init: FusionInit
) -> nn.ModuleDict:
    """A fusion for each layer; "shared" starts all of them from the same values, as released."""
    purposes = [("shared",) if init == "shared" else ("layer", layer) for layer in layers]
    return nn.ModuleDict(
        {
            str(layer): build(seeds.at(*purpose))
            for layer, purpose in zip(layers, purposes, strict=True)
        }
    )


class TextFusion(nn.Module):
    """Text hook: before each fused block tokens 1..n become the fusion of 1..n and n+1..2n.

    Positions 1..n then depend on positions up to 2n, which breaks causality: a prompt must keep at
    least 1 + 2n tokens, and the classes share no prefix.
    """

    def __init__(self, fusions: nn.ModuleDict, num_ctx: int) -> None:
        super().__init__()
        self.fusions = fusions
        self.num_ctx = num_ctx

    def parts(self, x_BLW: Tensor) -> tuple[Tensor, Tensor]:
        """The n tokens after the context and the context itself: (B, n, W) each."""
        start, stop = 1 + self.num_ctx, 1 + 2 * self.num_ctx
        return x_BLW[:, start:stop], x_BLW[:, 1:start]

    def enter(self, x_BLW: Tensor) -> Tensor:
        return x_BLW

    def before_block(self, layer: int, x_BLW: Tensor) -> Tensor:
        if str(layer) not in self.fusions:
            return x_BLW
        fused_BnW = self.fusions[str(layer)](*self.parts(x_BLW))
        return torch.cat([x_BLW[:, :1], fused_BnW, x_BLW[:, 1 + self.num_ctx :]], dim=1)


class VisionFusion(nn.Module):
    """Vision hook: prompts ``ctx`` (n, W) after the patches, updated from the strongest tokens.

    Before each fused block the n of the T frozen tokens with the largest mean square, in descending
    order, are fused with the trailing prompts. ``scope`` "image" takes the mean over the channels
    of one image, "batch" over the whole batch too, as released.
    """

    def __init__(
        self,
        fusions: nn.ModuleDict,
        spec: FeatureSpec,
        seeds: Seeds,
        *,
        num_ctx: int,
        scope: SelectionScope,
    ) -> None:
        super().__init__()
        self.fusions = fusions
        self.num_tokens = 1 + spec.num_patches
        self.scope = scope
        self.ctx = seeded_normal(
            num_ctx, spec.vision_width, std=0.02, generator=seeds.generator("context")
        )

    def power(self, x_BLW: Tensor) -> Tensor:
        """Mean square of each frozen token: (B, T), or (1, T) of the batch."""
        power_BT = x_BLW[:, : self.num_tokens].square().mean(dim=-1)
        return power_BT if self.scope == "image" else power_BT.mean(dim=0, keepdim=True)

    def select(self, x_BLW: Tensor) -> Tensor:
        """Indices of the strongest tokens (0 is CLS): (B, n) in descending order."""
        chosen = self.power(x_BLW).topk(len(self.ctx), dim=-1).indices
        return chosen.expand(len(x_BLW), -1)

    def parts(self, x_BLW: Tensor) -> tuple[Tensor, Tensor]:
        """The strongest tokens and the trailing prompts: (B, n, W) each."""
        index_BnW = self.select(x_BLW)[..., None].expand(-1, -1, x_BLW.shape[-1])
        return x_BLW.gather(1, index_BnW), x_BLW[:, self.num_tokens :]

    def enter(self, x_BLW: Tensor) -> Tensor:
        return torch.cat([x_BLW, self.ctx.expand(len(x_BLW), -1, -1)], dim=1)

    def before_block(self, layer: int, x_BLW: Tensor) -> Tensor:
        if str(layer) not in self.fusions:
            return x_BLW
        fused_BnW = self.fusions[str(layer)](*self.parts(x_BLW))
        return torch.cat([x_BLW[:, : self.num_tokens], fused_BnW], dim=1)
