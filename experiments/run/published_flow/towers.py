"""The two towers as released: every row of 77 tokens, or of all patches, through every block.

Tokens come first, as in the released towers. The weights are those of the frozen model; nothing is
cached, cut or packed. Letters: L tokens, B sequences, W tower width, C classes, D joint width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core.clip.frozen import FrozenCLIP

BeforeBlock = Callable[[int, Tensor], Tensor]
"""Changes the tokens (L, B, W) that enter a block, given its number."""


def unchanged(layer: int, x_LBW: Tensor) -> Tensor:
    """The tokens as they are."""
    return x_LBW


class Tokens(NamedTuple):
    """The output of an image tower: projected tokens (B, L, D), CLS first, of the last block, and
    the attention weights (B, L, L) of that block, mean over heads, where they were asked for.
    """

    projected: Tensor
    weights: Tensor | None


class Towers:
    """The frozen towers of a CLIP, run in full."""

    def __init__(self, clip: FrozenCLIP) -> None:
        self.text: Any = clip.text
        self.visual: Any = clip.visual
        self.tokenizer = clip.tokenizer
        self.activation = _quick_gelu if clip.spec.quick_gelu else F.gelu
        length = clip.spec.context_length
        self.causal_LL = torch.full((length, length), float("-inf")).triu(1)

    def text_features(
        self, embedding_CLW: Tensor, eot_C: Tensor, before_block: BeforeBlock = unchanged
    ) -> Tensor:
        """Text features (C, D) of token embeddings without positions, at full length."""
        x = (embedding_CLW + self.text.positional_embedding).transpose(0, 1)
        for layer, block in enumerate(self.text.transformer.resblocks):
            x, _ = self._block(block, before_block(layer, x), mask=self.causal_LL)
        x_CLW = self.text.ln_final(x.transpose(0, 1))
        read: Tensor = x_CLW[torch.arange(len(x_CLW)), eot_C] @ self.text.text_projection
        return read

    def image_features(
        self,
        pixels_BCHW: Tensor,
        appended_nW: Tensor | None = None,
        before_block: BeforeBlock = unchanged,
    ) -> Tensor:
        """Image features (B, D); ``appended_nW`` are prompts behind the patches."""
        x = self._embed(pixels_BCHW, appended_nW)
        for layer, block in enumerate(self.visual.transformer.resblocks):
            x, _ = self._block(block, before_block(layer, x))
        features: Tensor = self.visual.ln_post(x[0]) @ self.visual.proj
        return features

    def image_tokens(self, pixels_BCHW: Tensor) -> Tokens:
        """All tokens and attention weights, projected and kept for every block; the last's."""
        x = self._embed(pixels_BCHW, None)
        kept: list[Tokens] = []
        for block in self.visual.transformer.resblocks:
            x, weights = self._block(block, x, need_weights=True)
            projected = self.visual.ln_post(x.transpose(0, 1)) @ self.visual.proj
            kept.append(Tokens(projected, weights))
        return kept[-1]

    def _embed(self, pixels_BCHW: Tensor, appended_nW: Tensor | None) -> Tensor:
        visual = self.visual
        patches_BPW = visual.conv1(pixels_BCHW).flatten(2).transpose(1, 2)
        cls_B1W = visual.class_embedding.expand(len(patches_BPW), 1, -1)
        x = torch.cat([cls_B1W, patches_BPW], dim=1) + visual.positional_embedding
        if appended_nW is not None:
            x = torch.cat([x, appended_nW.expand(len(x), -1, -1)], dim=1)
        normed: Tensor = visual.ln_pre(x)
        return normed.transpose(0, 1)

    def _block(
        self, block: Any, x_LBW: Tensor, *, mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """One block on every row, and its attention weights where they are asked for."""
        normed = block.ln_1(x_LBW)
        attn = block.attn
        attended, weights = F.multi_head_attention_forward(
            normed,
            normed,
            normed,
            attn.embed_dim,
            attn.num_heads,
            attn.in_proj_weight,
            attn.in_proj_bias,
            None,
            None,
            False,
            0.0,
            attn.out_proj.weight,
            attn.out_proj.bias,
            training=False,
            need_weights=need_weights,
            attn_mask=mask,
        )
        x = x_LBW + attended
        enter, leave = block.mlp[0], block.mlp[2]
        hidden = self.activation(F.linear(block.ln_2(x), enter.weight, enter.bias))
        return x + F.linear(hidden, leave.weight, leave.bias), weights


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)
