"""TaskRes: task residuals on class texts. Shapes: C classes, D joint width."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from core.clip.templates import Templates
from core.config import PositiveFloat, register
from core.interfaces import LossTerm
from core.seeding import Seeds
from core.train.losses import cross_entropy
from core.types import ClassNames
from methods.base import ClosedSetMethod, HandMadeTextMethod, unit


@register("method")
class TaskRes(HandMadeTextMethod, ClosedSetMethod):
    """Adds a free residual to the text of every class.

    With b (C, D) the mean of the texts of ``templates``, and x (C, D) learned from zero::

        t = unit(b + alpha * x),   logits = s f t'

    As released, b is not normalized, neither before nor after the mean: against a text of length 1
    the same steps would weigh more. The base is that of the trained classes wherever they are
    scored.

    This is TaskRes on its regular base. The enhanced base of the paper is a text projection that
    was tuned on the target task beforehand and is distributed apart; it is not trained here, but a
    released checkpoint holds its texts, which an import takes as b.

    Source: Yu et al., Task Residual for Tuning Vision-Language Models, CVPR 2023,
    arXiv 2211.10277.
    """

    why_closed = "every class has a residual of its own"
    base_CD: Tensor

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        alpha: PositiveFloat = 0.5,
        templates: Templates = (),
    ) -> None:
        super().__init__(clip, classes, templates)
        self.alpha = alpha
        self.register_buffer("base_CD", self.template_features(classes).mean(dim=0))
        self.residual = nn.Parameter(torch.zeros_like(self.base_CD))

    def class_texts(self) -> Tensor:
        return unit(self.base_CD + self.alpha * self.residual)[self.rows_C]

    def released_names(self) -> Mapping[str, str | None]:
        return {"residual": "text_feature_residuals", "base_CD": "base_text_features"}

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy}
