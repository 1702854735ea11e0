"""The frozen two-tower model: any native-ViT CLIP of open_clip, run by a block loop of our own.

Letters: B images, G prompt groups, C classes, P prefix tokens (P patches in the image tower), S
suffix tokens, L tokens, W tower width, D joint width. Nothing here is trained; gradients flow to
the tokens only.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.clip import blocks, shared_prefix
from core.clip.hooks import NO_HOOK, TokenHook
from core.clip.tokenizer import Tokenizer
from core.types import FeatureSpec, ImageFeatures

POOLED = frozenset({"pooled"})


class FrozenCLIP(nn.Module):
    """A CLIP model that is always in eval mode and never requires grad.

    Wraps ``open_clip.CLIP`` and ``CustomTextCLIP`` with native ViT towers and a causal text tower
    (Radford et al., ICML 2021, arXiv 2103.00020; Ilharco et al., OpenCLIP, 2021). Raises
    ValueError, naming the model, for anything else.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, *, name: str = "model") -> None:
        super().__init__()
        _check_supported(model, name)
        self.name = name
        self.tokenizer = tokenizer
        self.visual: Any = model.visual
        self.text: Any = getattr(model, "text", model)
        self.logit_scale: Tensor = model.logit_scale
        self.spec = _spec(model, self.text)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenCLIP":
        """Stays in eval mode, whatever the module around it does."""
        return super().train(False)

    @property
    def scale(self) -> Tensor:
        """The similarity scale exp(logit_scale), shape ()."""
        return self.logit_scale.exp().reshape(())

    def encode_image(
        self, image_BCHW: Tensor, hook: TokenHook = NO_HOOK, *, need: frozenset[str] = POOLED
    ) -> ImageFeatures:
        """Features of normalized images; ``need`` names the fields beyond ``pooled``.

        If only ``pooled`` is needed, the last block runs on the CLS row alone, which is exact.
        """
        x = self._embed_image(image_BCHW, hook)
        *body, last = self.visual.transformer.resblocks
        for layer, block in enumerate(body):
            x = blocks.full_block(block, hook.before_block(layer, x), causal=False)
        x = hook.before_block(len(body), x)
        attention = None
        if "attention" in need:
            attention = blocks.first_row_attention(last, x)[:, 1 : 1 + self.spec.num_patches]
        if "local" not in need:
            pooled = self._project_image(blocks.first_row_block(last, x))
            return ImageFeatures(pooled=pooled, attention=attention)
        x = blocks.full_block(last, x, causal=False)
        local = self._project_image(x[:, : 1 + self.spec.num_patches])
        return ImageFeatures(pooled=local[:, 0], local=local, attention=attention)

    def encode_text(
        self, embedding_CLW: Tensor, eot_C: Tensor, hook: TokenHook = NO_HOOK
    ) -> Tensor:
        """Text features from token embeddings without positions: (C, D). L may be any length >
        max(eot).

        Attention is causal, so everything after the last EOT may be cut off beforehand.
        """
        x = hook.enter(embedding_CLW + self.text.positional_embedding[: embedding_CLW.shape[1]])
        *body, last = self.text.transformer.resblocks
        for layer, block in enumerate(body):
            x = blocks.full_block(block, hook.before_block(layer, x), causal=True)
        x = hook.before_block(len(body), x)
        return self._project_text(blocks.row_block(last, x, eot_C))

    def encode_prompts(
        self,
        prefix_GPW: Tensor,
        suffix_CSW: Tensor,
        eot_C: Tensor,
        hook: TokenHook = NO_HOOK,
    ) -> Tensor:
        """Text features of every prefix with every suffix: (G, C, D), each prefix computed once.

        Exact, since under causal attention nothing after the prefix can change it. ``eot_C`` counts
        from the start of the whole prompt. The hook sees the prefix, where deep prompts stand.
        ``suffix_CSW`` may also be (G, C, S, W).
        """
        position = self.text.positional_embedding
        num_prefix, num_suffix = prefix_GPW.shape[1], suffix_CSW.shape[-2]
        prefix = hook.enter(prefix_GPW + position[:num_prefix])
        suffix = suffix_CSW + position[num_prefix : num_prefix + num_suffix]
        groups, classes = len(prefix), suffix.shape[-3]
        suffix = suffix.expand(groups, classes, num_suffix, suffix.shape[-1]).flatten(0, 1)
        row = (eot_C - num_prefix).repeat(groups)
        rows = shared_prefix.run_tower(self.text.transformer.resblocks, prefix, suffix, row, hook)
        text = self._project_text(rows)
        return text.reshape(groups, classes, -1)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Token embeddings (..., W) without positions."""
        embedding: Tensor = self.text.token_embedding(ids)
        return embedding

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Features (len(texts), D) of plain texts, not normalized."""
        ids = self.tokenizer(texts).to(self.logit_scale.device)
        eot = ids.argmax(dim=-1)
        chunks = [
            self.encode_text(self.embed_tokens(i[:, : int(e.max()) + 1]), e)
            for i, e in zip(ids.split(batch_size), eot.split(batch_size), strict=True)
        ]
        return torch.cat(chunks)

    def _embed_image(self, image_BCHW: Tensor, hook: TokenHook) -> Tensor:
        patches_BPW = self.visual.conv1(image_BCHW).flatten(2).transpose(1, 2)
        cls_B1W = self.visual.class_embedding.expand(len(patches_BPW), 1, -1)
        x = torch.cat([cls_B1W, patches_BPW], dim=1) + self.visual.positional_embedding
        normed: Tensor = self.visual.ln_pre(hook.enter(x))
        return normed

    def _project_image(self, x: Tensor) -> Tensor:
        normed: Tensor = self.visual.ln_post(x)
        return normed if self.visual.proj is None else normed @ self.visual.proj

    def _project_text(self, x: Tensor) -> Tensor:
        normed: Tensor = self.text.ln_final(x)
        projection = self.text.text_projection
        if projection is None:
            return normed
        projected: Tensor = (
            projection(normed) if isinstance(projection, nn.Linear) else normed @ projection
        )
        return projected


class TowerlessCLIP(FrozenCLIP):
    """A frozen CLIP whose towers do not run: every feature is the same unit vector.

    It shares tokenizer, token embeddings and sizes with a whole one, so that prompts are assembled
    and checked as ever, at the cost of their tokens. For planning; nothing is learned or scored.
    """

    def __init__(self, clip: FrozenCLIP) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(clip.__dict__)

    def encode_image(
        self, image_BCHW: Tensor, hook: TokenHook = NO_HOOK, *, need: frozenset[str] = POOLED
    ) -> ImageFeatures:
        """Constant features."""
        return ImageFeatures(pooled=self._constant(len(image_BCHW)))

    def encode_text(
        self, embedding_CLW: Tensor, eot_C: Tensor, hook: TokenHook = NO_HOOK
    ) -> Tensor:
        """Constant features (C, D)."""
        return self._constant(len(embedding_CLW))

    def encode_prompts(
        self,
        prefix_GPW: Tensor,
        suffix_CSW: Tensor,
        eot_C: Tensor,
        hook: TokenHook = NO_HOOK,
    ) -> Tensor:
        """Constant features (G, C, D)."""
        return self._constant(len(prefix_GPW), suffix_CSW.shape[-3])

    def _constant(self, *shape: int) -> Tensor:
        width = self.spec.joint_width
        return self.logit_scale.new_full((*shape, width), width**-0.5)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (16 hex digits) of named tensors: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _spec(model: Any, text: Any) -> FeatureSpec:
    visual = model.visual
    preprocess: Mapping[str, Any] = getattr(visual, "preprocess_cfg", None) or {}
    mean = preprocess.get("mean") or (0.48145466, 0.4578275, 0.40821073)
    std = preprocess.get("std") or (0.26862954, 0.26130258, 0.27577711)
    vision_width = visual.transformer.width
    return FeatureSpec(
        joint_width=vision_width if visual.proj is None else visual.proj.shape[1],
        vision_width=vision_width,
        vision_depth=len(visual.transformer.resblocks),
        text_width=text.token_embedding.embedding_dim,
        text_depth=len(text.transformer.resblocks),
        context_length=text.context_length,
        image_size=tuple(visual.image_size),
        grid=tuple(visual.grid_size),
        image_mean=tuple(mean),
        image_std=tuple(std),
        fingerprint=fingerprint(model.state_dict()),
        quick_gelu=_has_quick_gelu(visual),
    )


def _has_quick_gelu(visual: Any) -> bool:
    """Checked by class name, because only ``backbone.py`` imports open_clip's models."""
    block = visual.transformer.resblocks[0]
    return any(type(layer).__name__ == "QuickGELU" for layer in block.mlp)


def _check_supported(model: Any, name: str) -> None:
    """Raise ValueError unless both towers are native, CLS-pooled and causal."""
    visual: Any = getattr(model, "visual", None)
    text: Any = getattr(model, "text", model)
    problems = {
        "its image tower is not a native ViT": not hasattr(visual, "positional_embedding")
        or not hasattr(visual, "conv1")
        or hasattr(visual, "layer1"),
        "its text tower is not a native transformer": not hasattr(text, "token_embedding"),
    }
    if not any(problems.values()):
        problems |= {
            "its image tower pools by attention or average": getattr(visual, "attn_pool", None)
            is not None
            or visual.pool_type != "tok"
            or visual.final_ln_after_pool,
            "its text tower is not causal": text.attn_mask is None,
            "its text tower has a CLS token": getattr(text, "cls_emb", None) is not None,
            "its text tower does not pool at the end token": getattr(
                text, "pool_type", getattr(text, "text_pool_type", "")
            )
            not in ("argmax", "eos"),
            "its blocks are not the standard ones": not all(
                isinstance(getattr(block, "attn", None), nn.MultiheadAttention)
                for tower in (visual, text)
                for block in tower.transformer.resblocks
            ),
            "it adds a logit bias": getattr(model, "logit_bias", None) is not None,
        }
    for problem, found in problems.items():
        if found:
            raise ValueError(
                f"backbone {name!r} is not supported: {problem}; "
                "use a CLIP with native ViT towers such as ViT-B-16-quickgelu"
            )
