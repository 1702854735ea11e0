"""SEP: self-enhanced prompts.

Shapes: B images, C classes, N context tokens, D joint width.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.clip.frozen import FrozenCLIP
from core.clip.prompts import (
    ContextPrompts,
    idle_number,
    initial_context,
    placeholder_of,
    settled_context,
)
from core.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, register
from core.interfaces import Criterion, LossTerm
from core.precision import in_full_precision
from core.seeding import Seeds
from core.train.losses import cross_entropy
from core.types import Batch, ClassNames, Forward, Tower
from methods.base import TextMethod, unit
from methods.token_fusion import (
    FusionAxis,
    FusionInit,
    SelectionScope,
    TextFusion,
    TokenFusion,
    VisionFusion,
    fusions_of,
)

COSINE_EPS = 1e-7
DEFAULT_NUM_CTX = 6
# The modules of a fusion by their names in released checkpoints.
RELEASED_MODULES = {
    "attention": "promt_attention_visual",
    "norm1": "ln_pa_1_visual",
    "norm2": "ln_pa_2_visual",
    "fc1": "mlp_pa_visual.c_fc1",
    "fc2": "mlp_pa_visual.c_proj",
    "scale1": "scale1",
    "scale2": "scale2",
}


@register("method")
class SEP(TextMethod):
    """Deep prompts in both towers that are updated, layer by layer, from the tower's own tokens.

    Trainable: context ``ctx`` (N, W), visual prompts, one ``TokenFusion`` per fused layer and
    tower, and class prototypes (C, D). With f the frozen and g the prompted unit image feature, and
    t_h the unit text of the hand-made prompt::

        v = n(g + f),  t = n(n(prompted text) + t_h)
        ce               = CE(s v t')
        text_consistency = text_weight (1 - mean cos(t, t_h))
        vision_consistency = vision_weight (1 - mean cos(f, v))
        prototypes       = prototype_weight / 2 (CE(z v n(V)') + CE(z f n(V)')), z = prototype_scale

    ``text_layers`` and ``vision_layers`` count blocks from 0; None means every block but the first,
    as released. ``selection_scope`` sets whether the power of an image token is averaged over one
    image or the whole batch; ``fusion_axis`` whether the fusion attends over the tokens of a
    sequence or over the batch (images in the vision tower, class names in the text tower). The
    defaults "image" and "token" make a prediction independent of its batch; the released pair is
    "batch" and "batch", and declares ``batch_coupled``. ``fusion_init`` "shared" starts the fusions
    of a tower from the same values, as released. ``ctx_init`` gives the words of the context; empty
    means ``num_ctx`` vectors from N(0, 0.02 squared), and words beside another number are refused.
    A refiner receives v, t and the prompted tower's local tokens.

    Before the first step each prototype is the unit mean of its class's frozen features over one
    pass of the training views; a class without images starts from its hand-made text, where the
    released code would shift all later rows. Prototypes are saved with the run.

    Source: Yao et al., SEP: Self-Enhanced Prompt Tuning for Visual-Language Model, 2024,
    arXiv 2405.15549. The released attention runs over the batch because a sequence-first module is
    fed batch first, which contradicts the paper's fusion of tokens; its code crashes on towers of
    exactly 5 tokens, and its "amp" precision cannot run.
    """

    image_input = "pixels"
    reads_frozen = frozenset({"training", "evaluation"})
    eval_batch_size = 500
    released_unused = (
        r"(visual_)?meta_net_\..*",  # what the modules of each tower were copied from
        r"(prompt_projections|visual_prompts)\..*",  # one per block, even if fewer are fused
        r"VPT_fc\.weight",  # the prototypes
    )

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        num_ctx: PositiveInt = DEFAULT_NUM_CTX,
        ctx_init: str = "",
        num_ctx_vision: PositiveInt = 4,
        text_layers: tuple[NonNegativeInt, ...] | None = None,
        vision_layers: tuple[NonNegativeInt, ...] | None = None,
        selection_scope: SelectionScope = "image",
        fusion_axis: FusionAxis = "token",
        fusion_hidden: PositiveInt = 256,
        fusion_init: FusionInit = "shared",
        text_weight: NonNegativeFloat = 8.0,
        vision_weight: NonNegativeFloat = 6.0,
        prototype_weight: NonNegativeFloat = 1.0,
        prototype_scale: PositiveFloat = 10.0,
    ) -> None:
        super().__init__(clip, classes)
        for tower in sorted(self.hooked_towers({})):
            clip.require_hooks(tower)
        text = _fused_layers("text", text_layers, clip.spec.text_depth)
        vision = _fused_layers("vision", vision_layers, clip.spec.vision_depth)
        self.batch_coupled = bool(vision) and "batch" in (selection_scope, fusion_axis)
        self.text_weight, self.vision_weight = text_weight, vision_weight
        self.prototype_weight, self.prototype_scale = prototype_weight, prototype_scale
        self.placeholder = placeholder_of(ctx_init, num_ctx)
        start = initial_context(clip, ctx_init, num_ctx, seeds.generator("context"))
        _check_counts(clip, len(start), num_ctx_vision)
        self.ctx = nn.Parameter(start.clone())
        build = partial(_fusions, hidden=fusion_hidden, axis=fusion_axis, init=fusion_init)
        self.text = TextFusion(build(clip.text, text, seeds.at("text")), len(start))
        fusions = build(clip.visual, vision, seeds.at("vision"))
        self.vision = VisionFusion(
            fusions, clip.spec, seeds.at("vision"), num_ctx=num_ctx_vision, scope=selection_scope
        )
        self.set_classes(classes)
        self.prototypes = nn.Parameter(self.handmade_CD.clone())

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """With words their number is the context's; without fusions their settings do not matter,
        nor a scale of weight 0.
        """
        simple = dict(parameters)
        simple |= settled_context(simple["num_ctx"], simple["ctx_init"], DEFAULT_NUM_CTX)
        if simple["vision_layers"] == ():
            simple["selection_scope"] = "image"
            if simple["text_layers"] == ():
                simple |= {"fusion_axis": "token", "fusion_hidden": 256, "fusion_init": "shared"}
        if simple["prototype_weight"] == 0:
            simple["prototype_scale"] = 10.0
        return simple

    @classmethod
    def idle(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
        return idle_number("SEP", parameters["num_ctx"], parameters["ctx_init"])

    @classmethod
    def hooked_towers(cls, parameters: Mapping[str, Any]) -> frozenset[Tower]:
        return frozenset(("image", "text"))

    @property
    def handmade_CD(self) -> Tensor:
        """Unit texts of the hand-made prompts, without gradient."""
        return self.get_buffer("_handmade_CD")

    def set_classes(self, classes: ClassNames) -> None:
        self.classes = classes
        self.prompts = ContextPrompts(
            self.clip,
            classes,
            placeholder=self.placeholder,
            min_length=1 + 2 * self.text.num_ctx,
        )
        texts = unit(self.clip.encode_texts(classes.prompts()))
        self.register_buffer("_handmade_CD", texts, persistent=False)

    @torch.no_grad()
    def begin_training(self, batches: Iterable[Batch], num_epochs: int) -> None:
        sums_CD = torch.zeros_like(self.prototypes)
        counts_C1 = sums_CD.new_zeros(len(sums_CD), 1)
        for batch in batches:
            sums_CD.index_add_(0, batch.labels, self.frozen_image(batch))
            counts_C1 += batch.labels.bincount(minlength=len(sums_CD))[:, None]
        means_CD = unit(sums_CD / counts_C1)
        self.prototypes.copy_(torch.where(counts_C1 > 0, means_CD, self.handmade_CD))

    def forward(self, batch: Batch) -> Forward:
        assert batch.pixels is not None
        prompted = self.clip.encode_image(batch.pixels, self.vision, need=batch.need)
        frozen = self.frozen_image(batch)
        image = unit(unit(prompted.pooled) + frozen)
        text = self.class_texts() if self._texts is None else self._texts
        return Forward(
            image=image,
            text=text,
            logit_scale=self.clip.scale,
            local=prompted.local,
            attention=prompted.attention,
            aux={"sep_frozen": frozen, "sep_text": text},
        )

    @torch.no_grad()
    def frozen_image(self, batch: Batch) -> Tensor:
        """Unit features (B, D) of the tower without prompts."""
        return unit(self.frozen_features(batch).pooled)

    def class_texts(self) -> Tensor:
        return unit(unit(self.encode_text()) + self.handmade_CD)

    def encode_text(self) -> Tensor:
        """Class texts (C, D) of the learned prompts alone, not normalized."""
        return self.prompts.encode_each(self.clip, self.ctx, self.text)

    def context_vectors(self) -> Mapping[str, Tensor]:
        return {"ctx": self.ctx}

    def released_names(self) -> Mapping[str, str | None]:
        """Module k of a released list belongs to the k-th fused layer. Prototypes are used only in
        training; the released code drops them too.
        """
        names: dict[str, str | None] = {"ctx": "ctx", "vision.ctx": "ctx_visual"}
        for tower, released in (("text", "prompt_projections"), ("vision", "visual_prompts")):
            fusions = self.get_submodule(f"{tower}.fusions")
            for place, (layer, fusion) in enumerate(fusions.named_children()):
                for name, _ in fusion.named_parameters():
                    owner, _, kind = name.partition(".")
                    its = f"{RELEASED_MODULES[owner]}.{kind}".rstrip(".")
                    names[f"{tower}.fusions.{layer}.{name}"] = f"{released}.{place}.{its}"
        return names | {"prototypes": None}

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {
            "ce": cross_entropy,
            "text_consistency": self._text_consistency,
            "vision_consistency": self._vision_consistency,
            "prototypes": self._prototype_loss,
        }

    def prototype_logits(self, image_BD: Tensor) -> Tensor:
        """Scaled cosines (B, C) with the prototypes."""
        prototypes_CD = F.normalize(self.prototypes, dim=-1)
        cosine = in_full_precision(torch.matmul, F.normalize(image_BD, dim=-1), prototypes_CD.t())
        return self.prototype_scale * cosine

    def _text_consistency(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        return self.text_weight * _distance(out.aux["sep_text"], self.handmade_CD)

    def _vision_consistency(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        return self.vision_weight * _distance(out.aux["sep_frozen"], out.image)

    def _prototype_loss(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        both = (out.image, out.aux["sep_frozen"])
        losses = [criterion(self.prototype_logits(image), targets) for image in both]
        return self.prototype_weight * torch.stack(losses).mean()


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - mean cosine of the rows."""
    return 1 - F.cosine_similarity(a, b, dim=-1, eps=COSINE_EPS).mean()


def _fusions(
    tower: Any,
    layers: Sequence[int],
    seeds: Seeds,
    *,
    hidden: int,
    axis: FusionAxis,
    init: FusionInit,
) -> nn.ModuleDict:
    """Fusions of a tower's layers, with as many heads as its own attention."""
    attention = tower.transformer.resblocks[0].attn

    def build(own: Seeds) -> TokenFusion:
        return TokenFusion(attention.embed_dim, attention.num_heads, own, hidden=hidden, axis=axis)

    return fusions_of(layers, build, seeds, init)


def _fused_layers(tower: str, layers: tuple[int, ...] | None, depth: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(1, depth))
    if layers != tuple(sorted(set(layers))) or any(layer >= depth for layer in layers):
        raise ValueError(
            f"SEP.{tower}_layers is {layers}, but the {tower} tower has {depth} blocks, 0 to "
            f"{depth - 1}; list each fused block once, in ascending order"
        )
    return layers


def _check_counts(clip: FrozenCLIP, num_ctx: int, num_ctx_vision: int) -> None:
    """Raise ValueError if a tower has too few tokens to fuse with the prompts."""
    length, num_tokens = clip.spec.context_length, 1 + clip.spec.num_patches
    if 1 + 2 * num_ctx > length:
        raise ValueError(
            f"SEP fuses its {num_ctx} context tokens with as many after them, but the text tower "
            f"takes {length} tokens; use SEP.num_ctx of at most {(length - 1) // 2}"
        )
    if num_ctx_vision > num_tokens:
        raise ValueError(
            f"SEP.num_ctx_vision is {num_ctx_vision}, but the image tower has {num_tokens} tokens "
            "to choose from; use a smaller number"
        )
