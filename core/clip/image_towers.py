"""The image towers of open_clip: from normalized pixels to ``ImageFeatures``.

``pooled`` is always what the tower itself returns. A tower whose pooling weighs tokens by attention
has local tokens too: the local token i is what the pooling makes of the token i alone, the global
feature if all attention were on it. For a ViT that pools its CLS token, those are the tokens of the
last block projected like CLS. Row 0 is the global feature itself, also where there is no CLS token.

Letters: B images, P patches, L tokens, W tower width, H heads, D joint width. Nothing is trained.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.clip import blocks
from core.clip.hooks import NO_HOOK, TokenHook
from core.lockstep import Alone
from core.types import ImageFeatures

POOLED = frozenset({"pooled"})
EVERYTHING = frozenset({"pooled", "local", "attention"})


class ImageTower(ABC):
    """Runs one of open_clip's image towers; the weights stay in its module ``visual``.

    ``words`` says what the tower is, ``fields`` which fields of ImageFeatures it gives, and
    ``hookable`` whether a hook can enter its blocks.
    """

    words: ClassVar[str]
    hookable: ClassVar[bool] = False
    fields: ClassVar[frozenset[str]] = EVERYTHING

    def __init__(self, visual: Any) -> None:
        self.visual = visual

    @abstractmethod
    def encode(self, image_BCHW: Tensor, hook: TokenHook, need: frozenset[str]) -> ImageFeatures:
        """Features of normalized images; ``need`` names the fields beyond ``pooled``."""

    def encode_shared(
        self, image_BCHW: Tensor, need: frozenset[str], share: Alone, key: Hashable
    ) -> ImageFeatures:
        """The same, bit for bit, without a hook; runs that share the images, which ``key`` names,
        compute once what does not depend on their ``need``.
        """
        return share.once((key, need), lambda: self.encode(image_BCHW, NO_HOOK, need))

    @property
    @abstractmethod
    def width(self) -> int:
        """The width of the tokens before they are projected."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """The number of blocks; a tower that is not made of blocks is one."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; (0, 0) for a tower without local tokens."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image."""
        size: Any = self.visual.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])


class NativeViT(ImageTower):
    """A ViT of open_clip that pools its CLS token, block by block, so that hooks can enter."""

    words = "ViT"
    hookable = True

    def encode(self, image_BCHW: Tensor, hook: TokenHook, need: frozenset[str]) -> ImageFeatures:
        return self._read(self._before_last(image_BCHW, hook), need)

    def encode_shared(
        self, image_BCHW: Tensor, need: frozenset[str], share: Alone, key: Hashable
    ) -> ImageFeatures:
        """All blocks but the last one are the same whatever is needed."""
        x = share.once((key, "tokens"), lambda: self._before_last(image_BCHW, NO_HOOK))
        return share.once((key, need), lambda: self._read(x, need))

    def _before_last(self, image_BCHW: Tensor, hook: TokenHook) -> Tensor:
        """The tokens that enter the last block."""
        x = self._embed(image_BCHW, hook)
        *body, _ = self.visual.transformer.resblocks
        for layer, block in enumerate(body):
            x = blocks.full_block(block, hook.before_block(layer, x), causal=False)
        return hook.before_block(len(body), x)

    def _read(self, x: Tensor, need: frozenset[str]) -> ImageFeatures:
        """If ``pooled`` is enough, the last block runs on the CLS row alone, which is exact."""
        last = self.visual.transformer.resblocks[-1]
        num_patches = self.grid[0] * self.grid[1]
        attention = None
        if "attention" in need:
            attention = blocks.first_row_attention(last, x)[:, 1 : 1 + num_patches]
        if "local" not in need:
            pooled = self._project(blocks.first_row_block(last, x))
            return ImageFeatures(pooled=pooled, attention=attention)
        x = blocks.full_block(last, x, causal=False)
        local = self._project(x[:, : 1 + num_patches])
        return ImageFeatures(pooled=local[:, 0], local=local, attention=attention)

    @property
    def width(self) -> int:
        return int(self.visual.transformer.width)

    @property
    def depth(self) -> int:
        return len(self.visual.transformer.resblocks)

    @property
    def grid(self) -> tuple[int, int]:
        rows, columns = self.visual.grid_size
        return rows, columns

    def _embed(self, image_BCHW: Tensor, hook: TokenHook) -> Tensor:
        patches_BPW = self.visual.conv1(image_BCHW).flatten(2).transpose(1, 2)
        cls_B1W = self.visual.class_embedding.expand(len(patches_BPW), 1, -1)
        x = torch.cat([cls_B1W, patches_BPW], dim=1) + self.visual.positional_embedding
        normed: Tensor = self.visual.ln_pre(hook.enter(x))
        return normed

    def _project(self, x: Tensor) -> Tensor:
        normed: Tensor = self.visual.ln_post(x)
        return normed if self.visual.proj is None else normed @ self.visual.proj


class ResNet(ImageTower):
    """CLIP's ResNet with attention pooling (Radford et al., ICML 2021, arXiv 2103.00020).

    With x_1 .. x_P the cells of the last feature map, x_0 their mean, y_i = x_i + p_i with the
    position p_i, and per head a = softmax(q(y_0) k(y)' / sqrt(E)) over i = 0 .. P::

        pooled      = c( concat over heads sum_i a_i v(y_i) )
        local_i     = c( v(y_i) ),  i = 1 .. P;   local_0 = pooled
        attention_i = mean over heads of a_i,  i = 1 .. P

    The local tokens are the dense features of MaskCLIP (Zhou et al., ECCV 2022, arXiv 2112.01071),
    here with the positions, so that they are exactly what the pooling averages.
    """

    words = "ResNet"

    def encode(self, image_BCHW: Tensor, hook: TokenHook, need: frozenset[str]) -> ImageFeatures:
        pool = self.visual.attnpool
        x_BWhw = self.visual.stem(image_BCHW)
        for layer in self._layers():
            x_BWhw = layer(x_BWhw)
        pooled: Tensor = pool(x_BWhw)
        if need <= POOLED:
            return ImageFeatures(pooled=pooled)
        cells_BPW = x_BWhw.flatten(2).transpose(1, 2)
        y_BLW = torch.cat([cells_BPW.mean(dim=1, keepdim=True), cells_BPW], dim=1)
        y_BLW = y_BLW + pool.positional_embedding
        local = attention = None
        if "local" in need:
            local = torch.cat([pooled[:, None], pool.c_proj(pool.v_proj(y_BLW[:, 1:]))], dim=1)
        if "attention" in need:
            query, key = pool.q_proj(y_BLW[:, :1]), pool.k_proj(y_BLW)
            query, key = (blocks.split_heads(x, pool.num_heads) for x in (query, key))
            attention = blocks.first_row_weights(query, key)[:, 1:]
        return ImageFeatures(pooled=pooled, local=local, attention=attention)

    @property
    def width(self) -> int:
        return int(self.visual.attnpool.v_proj.in_features)

    @property
    def depth(self) -> int:
        return sum(len(layer) for layer in self._layers())

    @property
    def grid(self) -> tuple[int, int]:
        side = round((len(self.visual.attnpool.positional_embedding) - 1) ** 0.5)
        return side, side

    def _layers(self) -> Iterator[Any]:
        visual = self.visual
        yield from (visual.layer1, visual.layer2, visual.layer3, visual.layer4)


class TimmTower(ImageTower):
    """A tower that open_clip takes from timm: the global feature, as the tower returns it."""

    words = "timm"
    fields = POOLED

    def encode(self, image_BCHW: Tensor, hook: TokenHook, need: frozenset[str]) -> ImageFeatures:
        pooled: Tensor = self.visual(image_BCHW)
        return ImageFeatures(pooled=pooled)

    @property
    def width(self) -> int:
        return int(self.visual.trunk.num_features)

    @property
    def depth(self) -> int:
        return len(getattr(self.visual.trunk, "blocks", ())) or 1

    @property
    def grid(self) -> tuple[int, int]:
        return (0, 0)


class TimmTokens(TimmTower):
    """A transformer of timm whose pooling can be applied to one token alone."""

    fields = EVERYTHING

    def encode(self, image_BCHW: Tensor, hook: TokenHook, need: frozenset[str]) -> ImageFeatures:
        tokens_BLW, attention = self._tokens(image_BCHW, need)
        pooled = self._pool(tokens_BLW)
        if "local" not in need:
            return ImageFeatures(pooled=pooled, attention=attention)
        patches_BPW = tokens_BLW[:, self.visual.trunk.num_prefix_tokens :]
        alone = self._pool(patches_BPW.reshape(-1, 1, patches_BPW.shape[-1]))
        local = torch.cat([pooled[:, None], alone.reshape(*patches_BPW.shape[:2], -1)], dim=1)
        return ImageFeatures(pooled=pooled, local=local, attention=attention)

    @property
    def grid(self) -> tuple[int, int]:
        rows, columns = self.visual.trunk.patch_embed.grid_size
        return rows, columns

    def _pool(self, tokens_BLW: Tensor) -> Tensor:
        pooled: Tensor = self.visual.head(self.visual.trunk.forward_head(tokens_BLW))
        return pooled

    @abstractmethod
    def _tokens(self, image_BCHW: Tensor, need: frozenset[str]) -> tuple[Tensor, Tensor | None]:
        """The tokens (B, L, W) that are pooled, and the attention (B, P) if it is needed."""


class SigLIPViT(TimmTokens):
    """SigLIP's ViT, which a learned query pools by attention (Zhai et al., ICCV 2023, arXiv
    2303.15343; Tschannen et al., SigLIP 2, 2025, arXiv 2502.14786).

    With the tokens x_i after the last norm and, per head, a = softmax(q k(x)' / sqrt(E))::

        f(z)        = z + MLP(LN z)
        pooled      = f( o( concat over heads sum_i a_i v(x_i) ) )
        local_i     = f( o( v(x_i) ) ),  i = 1 .. P;   local_0 = pooled
        attention_i = mean over heads of a_i
    """

    words = "ViT of timm, pooled by a query"

    def _tokens(self, image_BCHW: Tensor, need: frozenset[str]) -> tuple[Tensor, Tensor | None]:
        tokens_BPW: Tensor = self.visual.trunk.forward_features(image_BCHW)
        if "attention" not in need:
            return tokens_BPW, None
        pool = self.visual.trunk.attn_pool
        query, key = pool.q(pool.latent), pool.kv(tokens_BPW).chunk(2, dim=-1)[0]
        query, key = (blocks.split_heads(x, pool.num_heads) for x in (query, key))
        return tokens_BPW, blocks.first_row_weights(pool.q_norm(query), pool.k_norm(key))


class EvaViT(TimmTokens):
    """EVA-CLIP's ViT, which pools its CLS token (Sun et al., 2023, arXiv 2303.15389).

    The fields are those of a native ViT; the rotary positions are part of the attention.
    """

    words = "EVA of timm"

    def _tokens(self, image_BCHW: Tensor, need: frozenset[str]) -> tuple[Tensor, Tensor | None]:
        trunk = self.visual.trunk
        x, rope = trunk._pos_embed(trunk.patch_embed(image_BCHW))
        x = trunk.norm_pre(x)
        *body, last = trunk.blocks
        for block in body:
            x = block(x, rope=rope)
        attention = None
        if "attention" in need:
            attention = _eva_attention(last, x, rope)[:, trunk.num_prefix_tokens :]
        tokens_BLW: Tensor = trunk.norm(last(x, rope=rope))
        return tokens_BLW, attention


def _eva_attention(block: Any, x_BLW: Tensor, rope: Any) -> Tensor:
    """The CLS row of a block's attention, mean over heads: (B, L)."""
    from timm.layers.pos_embed_sincos import apply_rot_embed_cat

    attention, before = block.attn, type(block).__name__ == "EvaBlock"  # others have a norm behind
    normed = block.norm1(x_BLW) if before else x_BLW
    if attention.qkv is None:
        query, key = attention.q_proj(normed), attention.k_proj(normed)
    else:
        width = attention.qkv.out_features // 3
        query, key = attention.qkv(normed)[..., : 2 * width].split(width, dim=-1)
        if attention.q_bias is not None:
            query = query + attention.q_bias
    query, key = (blocks.split_heads(part, attention.num_heads) for part in (query, key))
    query, key = attention.q_norm(query), attention.k_norm(key)
    if rope is not None:  # the CLS token, whose row is read, has no position
        count = attention.num_prefix_tokens
        turned = apply_rot_embed_cat(key[:, :, count:], rope, half=attention.rotate_half)
        key = torch.cat([key[:, :, :count], turned.type_as(key)], dim=2)
    return blocks.first_row_weights(query[:, :, :1], key)


def image_tower(visual: Any) -> ImageTower | None:
    """What runs one of open_clip's image towers; None where nothing here does.

    Classes are recognized by name and by what they have, because only ``backbone.py`` imports
    open_clip's models.
    """
    name = type(visual).__name__
    if name == "VisionTransformer" and _pools_cls(visual):
        return NativeViT(visual)
    if name == "ModifiedResNet" and visual.attnpool is not None:
        return ResNet(visual)
    if name == "TimmModel":
        return _timm_tower(visual)
    return None


def _pools_cls(visual: Any) -> bool:
    return (
        getattr(visual, "attn_pool", None) is None
        and visual.pool_type == "tok"
        and not visual.final_ln_after_pool
    )


def _timm_tower(visual: Any) -> ImageTower:
    trunk = visual.trunk
    pool: Any = getattr(trunk, "attn_pool", None)
    if (
        type(trunk).__name__ == "VisionTransformer"
        and type(pool).__name__ == "AttentionPoolLatent"
        and (pool.latent_len, pool.pool, trunk.num_prefix_tokens) == (1, "token", 0)
        and pool.pos_embed is None
    ):
        return SigLIPViT(visual)
    if (
        type(trunk).__name__ == "Eva"
        and pool is None
        and (trunk.global_pool, trunk.num_prefix_tokens) == ("token", 1)
        and not getattr(trunk, "rope_mixed", False)
    ):
        return EvaViT(visual)
    return TimmTower(visual)
