"""CLIP-LoRA: low-rank updates of both towers. Shapes: C classes, D joint width, W tower width."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.clip import blocks
from core.clip.blocks import Update
from core.clip.frozen import FrozenCLIP
from core.clip.low_rank import Dropped, Matrix, low_rank_tower
from core.config import PositiveFloat, PositiveInt, Probability, register
from core.host_number import HostNumber
from core.interfaces import Gradients, LossTerm
from core.seeding import Seeds
from core.train.losses import cross_entropy
from core.types import Batch, ClassNames, ImageFeatures, Tower
from methods.base import TextMethod, unit

Encoder = Literal["both", "image", "text"]
Scaling = Literal["sqrt_rank", "rank"]
MATRICES: tuple[Matrix, ...] = ("q", "k", "v")


@register("method")
class ClipLoRA(TextMethod):
    """Adds a low-rank matrix to the query, key and value matrices of every block; no prompts.

    With W a frozen matrix, A (rank, W) and B (W, rank) learned and x the input of the matrix::

        W x  becomes  W x + g B A drop(x),   loss = ce

    A starts uniform in +-1 / sqrt(W), B at zero: untrained, this is zero-shot CLIP, bit for bit
    where nothing is dropped.
    g is ``alpha`` / sqrt(rank) as released ("sqrt_rank"), or ``alpha`` / rank as in the paper
    ("rank"). ``dropout`` acts in training alone, on the input of every A on its own; the masks are
    drawn from the run's seed, the step, the block and the matrix, for all tokens, so that they do
    not depend on which image fields a refiner reads. Elsewhere the result is that of the merged
    matrix W + g B A up to rounding; the product with x is kept apart, which needs no copy of the
    tower. ``encoder`` and ``matrices`` choose the towers and the matrices. Texts are the dataset's
    template; ``experiment.template`` replaces it.

    Source: Zanella and Ben Ayed, Low-Rank Few-Shot Adaptation of Vision-Language Models, CVPRW
    2024, arXiv 2405.18541. Of the 24 blocks of ViT-L/14's image tower, its release adapts 21 at
    commit 37a196d and all at e6bf706 (2024-09-12), as here. Its scale of logits is 100; here it is
    the backbone's.
    """

    image_input = "pixels"
    eval_batch_size = 256
    step: Tensor

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        rank: PositiveInt = 2,
        alpha: PositiveFloat = 1.0,
        dropout: Probability = 0.25,
        scaling: Scaling = "sqrt_rank",
        encoder: Encoder = "both",
        matrices: tuple[Matrix, ...] = MATRICES,
    ) -> None:
        super().__init__(clip, classes)
        if dropout == 1:
            raise ValueError("ClipLoRA.dropout is 1, which leaves no input; use a value below 1")
        if not matrices or len(set(matrices)) < len(matrices):
            raise ValueError(f"ClipLoRA.matrices must name some once, got {matrices!r}")
        matrices = tuple(matrix for matrix in MATRICES if matrix in matrices)
        scale = alpha / (rank if scaling == "rank" else math.sqrt(rank))
        self.dropout, self._seeds = dropout, seeds
        self.low_rank = nn.ModuleDict()
        for tower in _towers(encoder):
            clip.require_hooks(tower)
            owner = clip.visual if tower == "image" else clip.text
            self.low_rank[tower] = low_rank_tower(owner, matrices, rank, scale, seeds.at(tower))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._step = HostNumber()
        self.set_classes(classes)

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """At rank 1 both scalings are one; the order of the matrices does not matter."""
        simple = {**parameters, "matrices": tuple(sorted(parameters["matrices"], key="qkv".find))}
        return simple | ({"scaling": "sqrt_rank"} if parameters["rank"] == 1 else {})

    @classmethod
    def hooked_towers(cls, parameters: Mapping[str, Any]) -> frozenset[Tower]:
        return frozenset(_towers(parameters["encoder"]))

    def set_classes(self, classes: ClassNames) -> None:
        self.classes = classes
        ids_CL = self.clip.tokenizer(classes.prompts())
        self._packing = self.clip.pack(ids_CL)
        # Tokens that are dropped differ from class to class, so that no two classes share a row
        self._apart = self.clip.pack(ids_CL, shared=False)
        self.register_buffer("_ids_CL", ids_CL.to(self.clip.scale.device), persistent=False)

    def class_texts(self) -> Tensor:
        dropped = self.training and self.dropout and "text" in self.low_rank
        packing = self._apart if dropped else self._packing
        with self._updated("text"):
            text_CD = unit(self.clip.encode_ids(self.get_buffer("_ids_CL"), packing))
        return unit(text_CD)  # again, as ZeroShot makes a mean of templates unit: the same bits

    def image_features(self, batch: Batch) -> ImageFeatures:
        """Features of the adapted image tower."""
        if "image" not in self.low_rank:
            return super().image_features(batch)
        assert batch.pixels is not None, "an adapted image tower needs pixels"
        with self._updated("image"):
            return self.clip.encode_image(batch.pixels, need=batch.need)

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy}

    def after_backward(self, gradients: Mapping[str, Gradients]) -> None:
        """The next step has other masks."""
        self._step.write(self.step, self._step.of(self.step) + 1)

    def _updated(self, tower: Tower) -> AbstractContextManager[None]:
        """A context in which the blocks of a tower have their updates."""
        if tower not in self.low_rank:
            return nullcontext()
        owner = self.clip.visual if tower == "image" else self.clip.text
        updates: list[Update] = list(self.low_rank.get_submodule(tower).children())
        if self.training and self.dropout:
            seeds = self._seeds.at("dropout", tower, self._step.of(self.step))
            updates = [Dropped(u, self.dropout, seeds.at(n)) for n, u in enumerate(updates)]
        return blocks.updated(dict(zip(owner.transformer.resblocks, updates, strict=True)))


def _towers(encoder: Encoder) -> tuple[Tower, ...]:
    return ("image", "text") if encoder == "both" else (encoder,)
