"""CLIP-Adapter: a bottleneck on image features. Shapes: B images, C classes, D joint width."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from torch import Tensor

from core.clip.frozen import FrozenCLIP
from core.clip.templates import Templates
from core.config import Above, Between, PositiveInt, register
from core.interfaces import LossTerm
from core.seeding import Seeds, seeded_linear
from core.train.losses import cross_entropy
from core.types import Batch, ClassNames, Forward
from methods.base import HandMadeTextMethod, unit


@register("method")
class ClipAdapter(HandMadeTextMethod):
    """Blends image features with a two-layer adapter of them; class texts stay hand-made.

    With f the image feature (D), W1 (D / reduction, D) and W2 (D, D / reduction), without biases::

        v = unit(ratio * relu(W2 relu(W1 f)) + (1 - ratio) * f),   logits = s v t'

    t are the zero-shot texts of ``templates``, as in ZeroShot. Only W1 and W2 are learned, on
    images alone, so that any classes can be scored.

    This is the visual adapter, which is all that the authors released; the paper also tries one on
    class texts. It chooses the ratio for every dataset on what it reports (0.2 on ImageNet, 0.6 on
    DTD); here it is fixed, and a search on validation images may tune it. The release does not
    normalize f; without biases, its length has no effect.

    Source: Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters,
    IJCV 2024, arXiv 2110.04544.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        reduction: PositiveInt = 4,
        ratio: Annotated[float, Above(0), Between(0, 1)] = 0.2,
        templates: Templates = (),
    ) -> None:
        super().__init__(clip, classes, templates)
        width = clip.spec.joint_width
        hidden = max(width // reduction, 1)
        self.ratio = ratio
        self.down = seeded_linear(width, hidden, seeds.generator("down"), bias=False)
        self.up = seeded_linear(hidden, width, seeds.generator("up"), bias=False)
        self.set_classes(classes)

    def set_classes(self, classes: ClassNames) -> None:
        self.classes = classes
        self.register_buffer("texts_CD", self.zero_shot_texts(classes), persistent=False)

    def class_texts(self) -> Tensor:
        return self.get_buffer("texts_CD")

    def forward(self, batch: Batch) -> Forward:
        out = super().forward(batch)
        adapted_BD = self.up(self.down(out.image).relu()).relu()
        return replace(out, image=unit(self.ratio * adapted_BD + (1 - self.ratio) * out.image))

    def released_names(self) -> Mapping[str, str | None]:
        return {"down.weight": "fc.0.weight", "up.weight": "fc.2.weight"}

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy}
