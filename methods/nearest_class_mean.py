"""Nearest class mean in CLIP's image space. Shapes: B images, C classes, D joint width."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from core.clip.frozen import FrozenCLIP
from core.config import register
from core.interfaces import LossTerm
from core.seeding import Seeds
from core.train.losses import cross_entropy
from core.types import Batch, ClassNames
from methods.base import ClosedSetMethod, all_views, hand_made_texts, unit


@register("method")
class NearestClassMean(ClosedSetMethod):
    """Compares an image with the mean training image of every class; no texts, no steps.

    With f_i the unit feature of training image i, and f that of the image to score::

        m_c = unit(mean of f_i over the images of class c),   logits = s f m'

    The mean is over all fixed views of the images. Cosines with CLIP's own scale s stand in for the
    Euclidean distances of the sources: for unit vectors both have the same order, and confidences
    compare with those of other methods. Before training, the means are the zero-shot texts of the
    dataset's template.

    Source: Mensink et al., Distance-Based Image Classification: Generalizing to New Classes at
    Near-Zero Cost, TPAMI 2013; Snell et al., Prototypical Networks for Few-shot Learning,
    NeurIPS 2017, arXiv 1703.05175.
    """

    trains_by_gradient = False
    why_closed = "other classes have no images to take the mean of"
    means_CD: Tensor

    def __init__(self, clip: FrozenCLIP, classes: ClassNames, seeds: Seeds) -> None:
        super().__init__(clip, classes)
        self.register_buffer("means_CD", hand_made_texts(clip, classes))

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        return False

    def class_texts(self) -> Tensor:
        return self.means_CD[self.rows_C]

    @torch.no_grad()
    def begin_training(self, batches: Iterable[Batch], num_epochs: int) -> None:
        sums, counts = torch.zeros_like(self.means_CD), torch.zeros_like(self.means_CD[:, 0])
        for view in (view for batch in batches for view in all_views(batch)):
            features_BD = unit(self.image_features(view).pooled).to(sums)
            sums.index_add_(0, view.labels, features_BD)
            counts.index_add_(0, view.labels, torch.ones_like(features_BD[:, 0]))
        if missing := [n for n, count in zip(self.classes.names, counts, strict=True) if not count]:
            raise ValueError(
                f"NearestClassMean has no training image of {missing[0]!r}"
                f"{f' and {len(missing) - 1} other classes' if missing[1:] else ''}, whose mean it "
                "needs; add images, or leave these classes out"
            )
        self.means_CD.copy_(unit(sums))

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy}
