"""The frozen two-tower model: a CLIP of open_clip whose text tower is run by a block loop of our
own, and whose image tower is one of ``core/clip/image_towers.py``.

Letters: B images, G prompt groups, C classes, P prefix rows, R packed rows, L tokens, W tower
width, D joint width. Nothing here is trained; gradients flow to the tokens only.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from core.clip import blocks
from core.clip.half_precision import HalfPrecision
from core.clip.hooks import NO_HOOK, NoHook, TokenHook
from core.clip.image_towers import POOLED, ImageTower, image_tower
from core.clip.kept import KeptTensors
from core.clip.packed_tower import run_packed
from core.clip.packing import Packing
from core.clip.prompt_families import CHUNK_ROWS
from core.clip.tokenizer import AnyTokenizer
from core.lockstep import Alone, Same
from core.precision import without_autocast
from core.program import command_line
from core.types import FeatureSpec, ImageFeatures, Tower, TowerSupport

# Positions of the text tower whose output is the feature: of the largest id, or a fixed one.
READ_POSITIONS = ("argmax", "eos", "last", "first")
EXAMPLE = "ViT-B-16-quickgelu"
BATCH_COUNTERS = "num_batches_tracked"  # of batch norms; no part of what they compute


class FrozenCLIP(nn.Module):
    """A CLIP model that is always in eval mode and never requires grad.

    Wraps ``open_clip.CLIP`` and ``CustomTextCLIP`` with a native text transformer (Radford et al.,
    ICML 2021, arXiv 2103.00020; Ilharco et al., OpenCLIP, 2021). Raises ValueError, naming the
    model, for anything else.

    In a causal text tower nothing after a prompt's end token can change it, and what all prompts
    begin with is computed once. In one that is not (SigLIP), a text is computed alone and at full
    length. SigLIP's logit bias is left out of all logits: it is the same for every class, so that
    no softmax, no prediction and no cross-entropy depends on it, and its sigmoid is not used here.

    ``reduced`` has the matrices where these are stored in half precision, for use under autocast
    (``core/clip/half_precision.py``).
    """

    reduced: HalfPrecision | None = None

    def __init__(self, model: Any, tokenizer: AnyTokenizer, *, name: str = "model") -> None:
        super().__init__()
        self.name = name
        self.tokenizer = tokenizer
        self._kept = KeptTensors()
        self.visual: Any = model.visual
        self.text: Any = getattr(model, "text", model)
        self.logit_scale: Tensor = model.logit_scale
        self.image_tower = _checked_tower(model, name)
        self.spec = _spec(model, self.text, self.image_tower)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenCLIP":
        """Stays in eval mode, whatever the module around it does."""
        return super().train(False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "FrozenCLIP":
        """Weights in half precision stay as they are, whatever the module around them becomes."""
        if self.reduced is None:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def stored_as(self) -> torch.dtype:
        """The dtype in which the matrices are stored."""
        return self.logit_scale.dtype if self.reduced is None else self.reduced.dtype

    @contextmanager
    def in_full_precision(self) -> Iterator[None]:
        """A context in which the towers round nothing: without autocast, and with the weights as
        they were read.
        """
        with without_autocast(self.logit_scale.device), self.weights_as_read():
            yield

    @contextmanager
    def weights_as_read(self) -> Iterator[None]:
        """A context in which the towers run with nothing stored in half precision. It may enter
        itself; what the first pass reads from a file stays until the outermost one is left.
        """
        if self.reduced is None:
            yield
            return
        with self.reduced.as_read():
            yield

    @contextmanager
    def _fitting_weights(self) -> Iterator[None]:
        """The context of a pass through a tower: weights in half precision are for autocast."""
        reduced = self.reduced
        mixed = torch.is_autocast_enabled(self.logit_scale.device.type)
        if reduced is None or (mixed and not reduced.wanted_as_read):
            yield
            return
        with reduced.as_read():
            reduced.read()
            yield

    @property
    def scale(self) -> Tensor:
        """The similarity scale exp(logit_scale), shape ()."""
        return self.logit_scale.exp().reshape(())

    @property
    def causal(self) -> bool:
        """Whether a token of a text sees only those before it."""
        return self.spec.support.causal_text

    def require_hooks(self, tower: Tower) -> None:
        """Raise ValueError, naming the model, where no hook can enter the blocks of a tower."""
        if tower not in self.spec.support.hooked:
            raise ValueError(no_hooks(self.name, self.spec.support, tower))

    def encode_image(
        self, image_BCHW: Tensor, hook: TokenHook = NO_HOOK, *, need: frozenset[str] = POOLED
    ) -> ImageFeatures:
        """Features of normalized images; ``need`` names the fields beyond ``pooled``.

        Raises ValueError for a hook where the tower has no blocks that it could enter.
        """
        if not isinstance(hook, NoHook):
            self.require_hooks("image")
        with self._fitting_weights():
            return self.image_tower.encode(image_BCHW, hook, need)

    def encode_shared(
        self, image_BCHW: Tensor, share: Alone, *, need: frozenset[str] = POOLED
    ) -> ImageFeatures:
        """``encode_image`` without a hook, by the first of the runs that share these images; the
        others get its tensors.
        """
        if share.size == 1:
            return self.encode_image(image_BCHW, need=need)
        device = image_BCHW.device.type
        mixed = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        key = Same(self), Same(image_BCHW), mixed
        with self._fitting_weights():
            return self.image_tower.encode_shared(image_BCHW, need, share, key)

    def read_positions(self, ids_CL: Tensor) -> Tensor:
        """The position (C,) of each tokenized text whose output is the text's feature."""
        pooling = _text_pooling(self.text)
        if pooling in ("argmax", "eos"):
            return ids_CL.argmax(dim=-1)
        last = ids_CL.shape[1] - 1
        return torch.full_like(ids_CL[:, 0], last if pooling == "last" else 0)

    def length_read(self, positions_C: Tensor) -> int:
        """How many tokens of each text can matter to the feature at these positions."""
        context_length: int = self.spec.context_length
        return int(positions_C.max()) + 1 if self.causal else context_length

    def encode_text(
        self, embedding_CLW: Tensor, eot_C: Tensor, hook: TokenHook = NO_HOOK
    ) -> Tensor:
        """Text features from token embeddings without positions: (C, D), read at ``eot_C``.

        In a causal tower, L may be any length > max(eot): everything after it may be cut off.
        """
        if not isinstance(hook, NoHook):
            self.require_hooks("text")
        x = hook.enter(embedding_CLW + self.text.positional_embedding[: embedding_CLW.shape[1]])
        *body, last = self.text.transformer.resblocks
        with self._fitting_weights():
            for layer, block in enumerate(body):
                x = blocks.full_block(block, hook.before_block(layer, x), causal=self.causal)
            x = hook.before_block(len(body), x)
            return self._project_text(blocks.row_block(last, x, eot_C, causal=self.causal))

    def encode_packed(
        self, rows_GRW: Tensor, packing: Packing, hook: TokenHook = NO_HOOK
    ) -> Tensor:
        """Text features (G, C, D) of groups of packed prompts, in a causal tower.

        ``rows_GRW`` are token embeddings with positions, as ``embed_packed`` makes them. The hook
        sees the prefix of each group (G, P, W), or the first tokens of each prompt (C, lead, W).
        """
        if not isinstance(hook, NoHook):
            self.require_hooks("text")
        assert self.causal
        with self._fitting_weights():
            rows_GCW = run_packed(self.text.transformer.resblocks, rows_GRW, packing, hook)
            return self._project_text(rows_GCW)

    def embed_packed(
        self, ids_CL: Tensor, packing: Packing, *, blank_R: Tensor | None = None
    ) -> Tensor:
        """Token embeddings (R, W) of packed prompts, with positions; ``blank_R`` are positions
        alone.
        """
        placement = packing.on(ids_CL.device)
        token_RW = self.embed_tokens(placement.tokens.of(ids_CL[:, : packing.length]))
        if blank_R is not None:
            token_RW = token_RW.masked_fill(blank_R[:, None], 0.0)
        position_RW: Tensor = self.text.positional_embedding[placement.position_R]
        return token_RW + position_RW

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Token embeddings (..., W) without positions."""
        embedding: Tensor = self.text.token_embedding(ids)
        return embedding

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Features (len(texts), D) of plain texts, not normalized; without gradient.

        They are made once and kept, and so in full precision wherever that happens.
        """
        key = ("texts", tuple(texts), batch_size)
        return self.kept(key, lambda: self.compute_texts(texts, batch_size=batch_size))

    def kept(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """``make()``, computed once for each key while the weights of the text tower stay as they
        are: what depends on the frozen weights, and beyond them on nothing that is not in the key.

        Without gradient and in full precision. Inside a context that changes the blocks, nothing is
        kept or taken from what was.
        """

        def exactly() -> Tensor:
            with self.in_full_precision():
                return make()

        with torch.no_grad():
            if blocks.any_updated():
                return exactly()
            whole: Iterable[Tensor] = self.text.parameters()
            weights = whole if self.reduced is None else self.reduced.weights()
            return self._kept.get(key, weights, exactly)

    @torch.no_grad()
    def compute_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """``encode_texts``, computed in every call."""
        device = self.logit_scale.device
        with self.in_full_precision():
            chunks = [
                self.encode_ids(ids_CL.to(device), self.pack(ids_CL))
                for ids_CL in self.tokenizer(texts).split(batch_size)
            ]
        return torch.cat(chunks)

    def pack(self, ids_CL: Tensor, *, shared: bool = True) -> Packing:
        """The rows of tokenized texts. What texts begin with alike is one unless not ``shared``, or
        where all rows fit into a chunk or two, so that little is gained.
        """
        read = self.read_positions(ids_CL).tolist()
        shared = shared and sum(read) + len(read) > 2 * CHUNK_ROWS
        tokens = [ids[: at + 1] for ids, at in zip(ids_CL.tolist(), read, strict=True)]
        return Packing(tokens, read, shared=shared)

    def encode_ids(self, ids_CL: Tensor, packing: Packing) -> Tensor:
        """Features (C, D) of tokenized texts, not normalized."""
        if not self.causal:
            return self.encode_text(self.embed_tokens(ids_CL), self.read_positions(ids_CL))
        return self.encode_packed(self.embed_packed(ids_CL, packing)[None], packing)[0]

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
        self._kept = KeptTensors()

    def encode_image(
        self, image_BCHW: Tensor, hook: TokenHook = NO_HOOK, *, need: frozenset[str] = POOLED
    ) -> ImageFeatures:
        """Constant features."""
        return ImageFeatures(pooled=self._constant(len(image_BCHW)))

    def encode_text(
        self, embedding_CLW: Tensor, eot_C: Tensor, hook: TokenHook = NO_HOOK
    ) -> Tensor:
        """Constant features (C, D)."""
        if not isinstance(hook, NoHook):
            self.require_hooks("text")
        return self._constant(len(embedding_CLW))

    def encode_packed(
        self, rows_GRW: Tensor, packing: Packing, hook: TokenHook = NO_HOOK
    ) -> Tensor:
        """Constant features (G, C, D)."""
        if not isinstance(hook, NoHook):
            self.require_hooks("text")
        return self._constant(len(rows_GRW), packing.prompts)

    def _constant(self, *shape: int) -> Tensor:
        width = self.spec.joint_width
        return self.logit_scale.new_full((*shape, width), width**-0.5)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (16 hex digits) of named tensors: names, types, shapes and bytes.

    Counters of batches are no part of it: they change nothing, and not every file has them.
    """
    digest = hashlib.sha256()
    for name in sorted(name for name in tensors if not name.endswith(BATCH_COUNTERS)):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _spec(model: Any, text: Any, tower: ImageTower) -> FeatureSpec:
    preprocess: Mapping[str, Any] = getattr(model.visual, "preprocess_cfg", None) or {}
    mean = preprocess.get("mean") or (0.48145466, 0.4578275, 0.40821073)
    std = preprocess.get("std") or (0.26862954, 0.26130258, 0.27577711)
    return FeatureSpec(
        joint_width=_joint_width(text),
        vision_width=tower.width,
        vision_depth=tower.depth,
        text_width=text.token_embedding.embedding_dim,
        text_depth=len(text.transformer.resblocks),
        context_length=text.context_length,
        image_size=tower.image_size,
        grid=tower.grid,
        image_mean=tuple(mean),
        image_std=tuple(std),
        fingerprint=fingerprint(model.state_dict()),
        quick_gelu=_has_quick_gelu(text),
        squash=bool(preprocess.get("squash", False)),
        support=support_of_towers(type(tower), causal=text.attn_mask is not None),
    )


def tower_support(model: Any, name: str) -> TowerSupport:
    """What the towers of one of open_clip's models can do, whatever its weights.

    Raises ValueError, naming the model, where nothing here runs them.
    """
    tower = _checked_tower(model, name)
    return support_of_towers(
        type(tower), causal=getattr(model, "text", model).attn_mask is not None
    )


def feature_sizes(model: Any, name: str) -> tuple[int, int]:
    """Patches and joint width of one of open_clip's models, whatever its weights. Raises ValueError
    as ``tower_support`` does.
    """
    rows, columns = _checked_tower(model, name).grid
    return rows * columns, _joint_width(getattr(model, "text", model))


def support_of_towers(tower: type[ImageTower], *, causal: bool) -> TowerSupport:
    """What a kind of image tower and a text tower can do."""
    ways: dict[Tower, bool] = {"image": tower.hookable, "text": causal}
    return TowerSupport(
        image=tower.words,
        text="causal transformer" if causal else "transformer that is not causal",
        image_fields=tower.fields,
        hooked=frozenset(tower for tower, way in ways.items() if way),
        causal_text=causal,
    )


def way_out() -> str:
    """What to do about a backbone that cannot be used."""
    listing = command_line("list", "backbones")
    return f"use another one, such as {EXAMPLE}; '{listing}' names all"


def no_hooks(name: str, support: TowerSupport, tower: Tower) -> str:
    """Why no deep prompt can enter a tower of a backbone, and the way out."""
    what = f"a {support.image}" if tower == "image" else f"a {support.text}"
    return (
        f"backbone {name!r} has no place for prompts inside its {tower} tower, which is {what}; "
        f"use a backbone with a native ViT and a causal text tower, such as {EXAMPLE}"
    )


def _has_quick_gelu(text: Any) -> bool:
    """Checked by class name, because only ``backbone.py`` imports open_clip's models. Of the text
    tower: a ViT has the same activation, a ResNet and timm's towers have their own.
    """
    block = text.transformer.resblocks[0]
    return any(type(layer).__name__ == "QuickGELU" for layer in block.mlp)


def _joint_width(text: Any) -> int:
    projection = text.text_projection
    if projection is None:
        return int(text.token_embedding.embedding_dim)
    linear = isinstance(projection, nn.Linear)
    return int(projection.out_features if linear else projection.shape[1])


def _text_pooling(text: Any) -> str:
    return str(getattr(text, "pool_type", getattr(text, "text_pool_type", "")))


def _checked_tower(model: Any, name: str) -> ImageTower:
    """The image tower. Raises ValueError unless both towers can be run here."""
    visual: Any = getattr(model, "visual", None)
    text: Any = getattr(model, "text", model)
    tower = image_tower(visual)
    if tower is None:
        problem = "its image tower is none of a ViT that pools its CLS token, a ResNet and timm's"
    elif not hasattr(text, "token_embedding"):
        problem = "its text tower is not a native transformer"
    elif getattr(text, "cls_emb", None) is not None:
        problem = "its text tower has a CLS token"
    elif _text_pooling(text) not in READ_POSITIONS:
        problem = f"its text tower pools in the way {_text_pooling(text)!r}"
    elif not all(_is_standard(block) for block in text.transformer.resblocks) or (
        tower.hookable and not all(_is_standard(b) for b in visual.transformer.resblocks)
    ):
        problem = "its blocks are not the standard ones"
    else:
        return tower
    raise ValueError(f"backbone {name!r} is not supported: {problem}; {way_out()}")


def _is_standard(block: Any) -> bool:
    return isinstance(getattr(block, "attn", None), nn.MultiheadAttention)
