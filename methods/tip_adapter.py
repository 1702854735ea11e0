"""Tip-Adapter and Tip-Adapter-F: a cache of few-shot image features beside zero-shot CLIP.

Shapes: B images, C classes, N training images, D joint width.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.clip.frozen import FrozenCLIP
from core.clip.templates import Templates
from core.config import PositiveFloat, register
from core.interfaces import LossTerm
from core.precision import in_full_precision
from core.seeding import Seeds
from core.train.losses import cross_entropy
from core.types import Batch, ClassNames, Forward
from methods.base import ClosedSetMethod, HandMadeTextMethod, all_views, unit


@register("method")
class TipAdapter(HandMadeTextMethod, ClosedSetMethod):
    """Adds to zero-shot logits those of the training images that an image is close to.

    With f the unit image feature, t the zero-shot texts of ``templates``, K (N, D) the unit
    features of the training images and L (N, C) their labels, one-hot::

        logits = s f t' + alpha * exp(-beta * (1 - f K')) L

    Nothing is trained by gradient. A key is the unit mean of the features of all fixed views of an
    image: ``experiment.num_views = 10`` are the ten augmentations of the release.

    Published scores use an alpha and a beta that are searched on a grid for every dataset, on
    validation images of full size, and on test images for ImageNet. Here both are fixed, at the
    values of the paper's ablation by default, and `search` tunes them on few-shot validation
    images. The release scales zero-shot logits by 100, here by CLIP's own scale s.

    Source: Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification,
    ECCV 2022, arXiv 2207.09519.
    """

    trains_by_gradient = False
    data_shaped = frozenset({"keys", "labels_N"})
    why_closed = "its cache holds images of these alone"
    eval_batch_size = 1024
    keys: Tensor
    labels_N: Tensor

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        alpha: PositiveFloat = 1.0,
        beta: PositiveFloat = 5.5,
        templates: Templates = (),
    ) -> None:
        super().__init__(clip, classes, templates)
        self.alpha, self.beta = alpha, beta
        self._fill(torch.zeros(0, clip.spec.joint_width))
        self.register_buffer("labels_N", torch.zeros(0, dtype=torch.int64))
        self.set_classes(classes)

    def _fill(self, keys_ND: Tensor) -> None:
        """Keep these keys."""
        self.register_buffer("keys", keys_ND)

    def set_classes(self, classes: ClassNames) -> None:
        super().set_classes(classes)
        self.register_buffer("texts_CD", self.zero_shot_texts(classes), persistent=False)

    def class_texts(self) -> Tensor:
        return self.get_buffer("texts_CD")

    @torch.no_grad()
    def begin_training(self, batches: Iterable[Batch], num_epochs: int) -> None:
        keys, labels = [], []
        for batch in batches:
            views = [self.image_features(view).pooled for view in all_views(batch)]
            keys.append(unit(torch.stack(views).mean(dim=0)))
            labels.append(batch.labels)
        self._fill(torch.cat(keys))
        self.labels_N = torch.cat(labels)

    def forward(self, batch: Batch) -> Forward:
        out = super().forward(batch)
        return replace(
            out, extra_logits=in_full_precision(self._cache_logits, out.image, self.keys)
        )

    def _cache_logits(self, image_BD: Tensor, keys_ND: Tensor) -> Tensor:
        affinity_BN = torch.exp(-self.beta * (1 - image_BD @ keys_ND.t()))
        values_NC = F.one_hot(self.labels_N, len(self.trained))[:, self.rows_C]
        return self.alpha * affinity_BN @ values_NC.to(affinity_BN)

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy}


@register("method")
class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys are learned, from the features of the training images on.

    The logits are those of TipAdapter; its K (N, D) is the only parameter, and is not normalized
    again. The release reports the best of its epochs on test images, and then searches alpha and
    beta again; here the last epoch counts, as in every other run. It draws new augmentations in
    every epoch, which `experiment.num_views` fixed views replace where keys average over several.

    Source: Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification,
    ECCV 2022, arXiv 2207.09519.
    """

    trains_by_gradient = True

    def _fill(self, keys_ND: Tensor) -> None:
        self.keys = nn.Parameter(keys_ND)
