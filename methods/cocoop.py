"""CoCoOp: context optimization conditioned on the image.

Shapes: B images, G images of one chunk, C classes, N context tokens, W text width, D joint width.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.clip.frozen import FrozenCLIP
from core.clip.prompts import (
    DEFAULT_NUM_CTX,
    ContextPrompts,
    idle_number,
    initial_context,
    placeholder_of,
    settled_context,
)
from core.config import Above, Between, PositiveInt, register
from core.interfaces import LossTerm, Method
from core.seeding import Seeds, seeded_linear
from core.train.losses import cross_entropy
from core.types import Batch, ClassNames, Forward
from methods.base import unit

# Memory per row of the text tower, in text widths: what each block keeps for the backward pass
# (10 to 15), and what one block needs while it is computed (12 to 18).
KEPT_PER_BLOCK = 15
AT_ONCE = 18
# Without a gradient larger chunks of images win nothing on a CPU, whose caches they leave: a test
# image took 395 ms alone and 459 ms in a chunk of 16 (ViT-B/16, 100 classes).
CPU_EVALUATION_MB = 32.0
KINDS = ("weight", "bias")


class MetaNet(nn.Module):
    """``W2 relu(W1 u + b1) + b2``: unit image features (B, D) to a shift of the context (B, W)."""

    def __init__(self, joint_width: int, hidden: int, text_width: int, seeds: Seeds) -> None:
        super().__init__()
        self.fc1 = seeded_linear(joint_width, hidden, seeds.generator("fc1"))
        self.fc2 = seeded_linear(hidden, text_width, seeds.generator("fc2"))

    def forward(self, image_BD: Tensor) -> Tensor:
        shift_BW: Tensor = self.fc2(self.fc1(image_BD).relu())
        return shift_BW


@register("method")
class CoCoOp(Method):
    """Learns N context vectors and a network that shifts all of them by one vector per image.

    Class texts are (B, C, D): every image has class prompts of its own. ``ctx`` (N, W) starts from
    the words of ``ctx_init``, or from N(0, 0.02 squared) with ``num_ctx`` vectors if that is empty;
    a configuration with words and another number is refused.
    The network's hidden width is the joint width over ``meta_reduction``.

    All prompts of a batch are encoded together, in chunks of images: ``max_text_memory_mb`` bounds
    what one chunk needs, in training with all that it keeps for the backward pass (the prompts of
    one image are never split). With several chunks, each is recomputed in the backward pass, so
    that the bound holds for the step. Without a gradient many more images fit into a chunk.
    The released code loops over images, which limits it to batches of one.

    Source: Zhou et al., Conditional Prompt Learning for Vision-Language Models, CVPR 2022,
    arXiv 2203.05557.
    """

    eval_batch_size = 128

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        num_ctx: PositiveInt = DEFAULT_NUM_CTX,
        ctx_init: str = "a photo of a",
        meta_reduction: PositiveInt = 16,
        max_text_memory_mb: Annotated[float, Above(0), Between(0, 10**9)] = 2048.0,
    ) -> None:
        super().__init__(clip, classes)
        spec = clip.spec
        if meta_reduction > spec.joint_width:
            raise ValueError(
                f"CoCoOp.meta_reduction is {meta_reduction}, but the backbone's joint width is "
                f"{spec.joint_width}, which leaves no hidden units; use a smaller meta_reduction"
            )
        self.max_text_memory_mb = max_text_memory_mb
        self.placeholder = placeholder_of(ctx_init, num_ctx)
        self.prompts = ContextPrompts(clip, classes, placeholder=self.placeholder)
        start = initial_context(clip, ctx_init, num_ctx, seeds.generator("context"))
        self.ctx = nn.Parameter(start.clone())
        self.meta_net = MetaNet(
            spec.joint_width,
            spec.joint_width // meta_reduction,
            spec.text_width,
            seeds.at("meta_net"),
        )

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """With words their number is the context's."""
        return {**parameters, **settled_context(parameters["num_ctx"], parameters["ctx_init"])}

    @classmethod
    def idle(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
        return idle_number("CoCoOp", parameters["num_ctx"], parameters["ctx_init"])

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        return False

    def set_classes(self, classes: ClassNames) -> None:
        self.classes = classes
        self.prompts = ContextPrompts(self.clip, classes, placeholder=self.placeholder)

    def forward(self, batch: Batch) -> Forward:
        features = self.image_features(batch)
        image = unit(features.pooled)
        return Forward(
            image=image,
            text=unit(self.encode(image)),
            logit_scale=self.clip.scale,
            local=features.local,
            attention=features.attention,
        )

    def encode(self, image_BD: Tensor) -> Tensor:
        """Class texts (B, C, D), not normalized, for unit image features."""
        ctx_BNW = self.ctx + self.meta_net(image_BD)[:, None]
        chunks = ctx_BNW.split(self.images_per_chunk())
        if len(chunks) == 1 or not torch.is_grad_enabled():
            return torch.cat([self._encode_chunk(chunk) for chunk in chunks])
        again = [checkpoint(self._encode_chunk, chunk, use_reentrant=False) for chunk in chunks]
        return torch.cat(again)

    def images_per_chunk(self) -> int:
        """How many images' prompts fit into ``max_text_memory_mb``, at least one: those of all
        blocks with a gradient, those of one block without.
        """
        spec, limit = self.clip.spec, self.max_text_memory_mb
        per_row = AT_ONCE
        if torch.is_grad_enabled():
            per_row += KEPT_PER_BLOCK * spec.text_depth
        elif self.ctx.device.type == "cpu":
            limit = min(limit, CPU_EVALUATION_MB)
        values = self.prompts.rows_per_group * spec.text_width * per_row
        return max(1, int(limit * 2**20 / (values * self.ctx.element_size())))

    def context_vectors(self) -> Mapping[str, Tensor]:
        return {"ctx": self.ctx}

    def released_names(self) -> Mapping[str, str | None]:
        layers = [(f"fc{n}.{kind}", f"linear{n}.{kind}") for n in (1, 2) for kind in KINDS]
        return {"ctx": "ctx"} | {f"meta_net.{ours}": f"meta_net.{its}" for ours, its in layers}

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy}

    def _encode_chunk(self, ctx_GNW: Tensor) -> Tensor:
        return self.prompts.encode_groups(self.clip, ctx_GNW)
