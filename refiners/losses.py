"""Loss terms of refiners. Shapes: B images, P patches, K rows per image, C classes, D text width.

They read ``plain_text`` (the unrefined texts) and ``aligned`` (B, 1+P, D) from ``Forward.aux``.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import Configurable, NonNegativeFloat, PositiveInt, Reference, register
from core.interfaces import Criterion
from core.precision import scaled_products, widened
from core.types import Forward

LocalRow = Literal["cls", "top", "mean"]
LOCAL_ROWS: tuple[LocalRow, ...] = ("cls", "top", "mean")
Pooling = Literal["each", "mean", "max"]


class RefinerLoss(nn.Module, Configurable, ABC):
    """A loss term times its ``weight``.

    ``reads_local``: it needs local tokens and the attention row. ``topk`` is the number of patches
    per image that it selects by that row. ``vanishes_unrefined``: it compares refined with
    unrefined texts, so that it and its gradient are 0 where these are the same; the planner takes
    such a term away where nothing is refined. A subclass that adds something else says False again.
    """

    reads_local: ClassVar[bool] = False
    vanishes_unrefined: ClassVar[bool] = False
    topk: int = 0
    weight: float

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any] | Reference:
        """A term of weight 0 equals no term."""
        return Reference("NoLoss") if parameters.get("weight") == 0 else parameters

    @abstractmethod
    def forward(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor: ...


@register("loss")
class SemanticLoss(RefinerLoss):
    """The method's criterion on local rows against the unrefined texts, times ``weight``.

    ``local_rows`` are the rows of an image: "cls", its token; "top", the ``topk`` patches that CLS
    attends to most; "mean", the mean of all 1 + P tokens. The release uses all three, not
    normalized; ``normalise_rows`` normalizes them. ``pooling`` "each", as released, scores every
    row alone and takes the mean; "mean" scores the mean of an image's row logits; "max" scores each
    class by its best row, so that different rows may support different classes.

    Source: Xie et al., TextRefiner, AAAI 2025, arXiv 2412.08176 (released weight 1/50).
    """

    reads_local = True

    def __init__(
        self,
        *,
        weight: NonNegativeFloat = 0.02,
        topk: PositiveInt = 5,
        local_rows: tuple[LocalRow, ...] = LOCAL_ROWS,
        pooling: Pooling = "each",
        normalise_rows: bool = False,
    ) -> None:
        super().__init__()
        if not local_rows or len(set(local_rows)) < len(local_rows):
            raise ValueError(
                "SemanticLoss.local_rows must name one or more of 'cls', 'top' and 'mean', each "
                f"once, got {local_rows}; @NoLoss switches the term off"
            )
        self.weight = weight
        self.topk = topk if "top" in local_rows else 0
        self.local_rows = local_rows
        self.pooling = pooling
        self.normalise_rows = normalise_rows

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any] | Reference:
        """The order of the rows is fixed; without "top" rows no patch is selected, and one row
        alone is not pooled.
        """
        simple = super().simplify(parameters)
        if isinstance(simple, Reference):
            return simple
        rows = tuple(row for row in LOCAL_ROWS if row in simple["local_rows"])
        topk = simple["topk"] if "top" in rows else 5
        alone = len(rows) == 1 and (topk == 1 or "top" not in rows)
        pooling = "each" if alone else simple["pooling"]
        valid = len(rows) == len(simple["local_rows"])  # the constructor refuses repeated ones
        rows = rows if valid else simple["local_rows"]
        return {**simple, "local_rows": rows, "topk": topk, "pooling": pooling}

    def top_patches(self, out: Forward) -> Tensor:
        """Patches (B, topk) that CLS attends to most, counted from 0, in descending order."""
        assert out.attention is not None
        return out.attention.topk(self.topk, dim=-1).indices

    def rows(self, out: Forward) -> Tensor:
        """(B, K, D): K = topk + 2 with all kinds of rows, always in the order CLS, top, mean."""
        aligned_BND = widened(out.aux["aligned"])
        parts: list[Tensor] = []
        if "cls" in self.local_rows:
            parts.append(aligned_BND[:, :1])
        if "top" in self.local_rows:
            best_BK = self.top_patches(out) + 1  # after CLS
            index_BKD = best_BK[..., None].expand(-1, -1, aligned_BND.shape[-1])
            parts.append(aligned_BND.gather(1, index_BKD))
        if "mean" in self.local_rows:
            parts.append(aligned_BND.mean(dim=1, keepdim=True))
        rows = torch.cat(parts, dim=1)
        return F.normalize(rows, dim=-1) if self.normalise_rows else rows

    def local_logits(self, out: Forward) -> Tensor:
        """(B, K, C)."""
        return scaled_products(out.logit_scale, self.rows(out), out.aux["plain_text"])

    def forward(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        logits_BKC = self.local_logits(out)
        if self.pooling == "mean":
            logits_BKC = logits_BKC.mean(dim=1, keepdim=True)
        elif self.pooling == "max":
            logits_BKC = logits_BKC.amax(dim=1, keepdim=True)
        repeated = targets.repeat_interleave(logits_BKC.shape[1], dim=0)
        return self.weight * criterion(logits_BKC.flatten(0, 1), repeated)


@register("loss")
class L1Regularization(RefinerLoss):
    """``weight`` times the mean of ``|n(r) - t|``: refined texts stay near the unrefined ones.

    Gradients flow through both sides.

    Source: Xie et al., TextRefiner, AAAI 2025, arXiv 2412.08176 (released weight 20).
    """

    vanishes_unrefined = True

    def __init__(self, *, weight: NonNegativeFloat = 20.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        length: Tensor = out.text.norm(dim=-1, keepdim=True)
        return self.weight * (out.text / length - out.aux["plain_text"]).abs().mean()


@register("loss")
class CosineRegularization(RefinerLoss):
    """``weight`` times the mean of ``1 - cos(r, t)`` over classes.

    Source: ours; the consistency term of KgCoOp (Yao et al., CVPR 2023, arXiv 2303.13283), between
    refined and unrefined texts.
    """

    vanishes_unrefined = True

    def __init__(self, *, weight: NonNegativeFloat = 8.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        cosine = F.cosine_similarity(out.text, out.aux["plain_text"], dim=-1)
        return self.weight * (1 - cosine).mean()


@register("loss")
class L1CosineRegularization(RefinerLoss):
    """The sum of the L1 term and the cosine term, each with its weight.

    Source: ours; the sum of L1Regularization (arXiv 2412.08176) and CosineRegularization.
    """

    vanishes_unrefined = True

    def __init__(
        self, *, l1_weight: NonNegativeFloat = 20.0, cosine_weight: NonNegativeFloat = 8.0
    ) -> None:
        super().__init__()
        self.weight = l1_weight + cosine_weight
        self.l1 = L1Regularization(weight=l1_weight)
        self.cosine = CosineRegularization(weight=cosine_weight)

    def forward(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        total: Tensor = self.l1(out, targets, criterion) + self.cosine(out, targets, criterion)
        return total

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any] | Reference:
        weights = (parameters.get("l1_weight"), parameters.get("cosine_weight"))
        return Reference("NoLoss") if weights == (0, 0) else parameters


@register("loss")
class SpreadLoss(RefinerLoss):
    """``weight`` times the mean cosine between the refined texts of different classes.

    0 for a single class.

    Source: ours, after the uniformity of Wang and Isola, Understanding Contrastive Representation
    Learning through Alignment and Uniformity on the Hypersphere, ICML 2020, arXiv 2005.10242.
    """

    def __init__(self, *, weight: NonNegativeFloat = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        text = F.normalize(out.text, dim=-1)
        num_classes = text.shape[-2]
        total = text.sum(dim=-2).square().sum(dim=-1) - num_classes  # pairs of different classes
        return self.weight * (total / max(num_classes * (num_classes - 1), 1)).mean()


@register("loss")
class NoLoss(RefinerLoss):
    """Off: no loss term."""

    weight = 0.0

    def forward(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        return out.text.new_zeros(())
