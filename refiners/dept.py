"""DePT: decoupled prompt tuning, a plug-in for any base method.

Shapes: B images, C scored classes, T trained classes, D joint width.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.config import PositiveFloat, Probability, Reference, register
from core.interfaces import Criterion, LossTerm, ParameterGroup, Refiner
from core.precision import in_full_precision
from core.seeding import Seeds, seeded_linear
from core.train.optimizers import WARMUP_EPOCHS
from core.types import ClassNames, Forward, MethodOutput

OWN_EXTRA = "extra_logits_of_the_method"
LR_FACTOR = 6.5


@register("refiner")
class DePT(Refiner):
    """A linear classifier of the trained classes on features of its own, beside the class texts.

    It keeps what is specific to the trained classes out of the features that the method compares.
    With v an image, t_y the text of its label y, both unit, r = ``feature_scale``, and a scale and
    a shift for each channel, apart for images and texts::

        a(v) = g_v * r v + h_v,   a(t) = g_t * r t + h_t,   z(x) = W a(x) + b   (T,)
        loss = (1 - weight) CE(method) + weight CE([z(v); z(t_y)], [y; y])

    where CE(method) is the classification term of the method (``Method.classification_terms``), on
    its own logits l; further terms of it keep their weights, as released for KgCoOp. Trained
    classes are scored by

        fusion "logits":         (1 - weight) l + weight z(v)
        fusion "probabilities":  log((1 - weight) softmax(l) + weight softmax(z(v)))

    the former as released, the latter as in the paper. A choice among them, such as the 200 classes
    of ImageNet-R, has their rows of z. As soon as another class is scored, all are scored by the
    method alone. W, b, g, h learn at ``lr_factor`` times the rate of the method, but in a constant
    warm-up, where all have its rate, as released. ``adjust`` False leaves out g and h, and
    ``weight`` 0 is the method alone. On a method that learns from a teacher, CE is its distillation
    with the weight that it has there, which may ask for a lower ``lr_factor``, and y is the class
    that the teacher prefers.

    Differences: the release does not normalize the features that it gives to the classifier; here
    they are unit times r, a length of the order of CLIP's. No checkpoints are released, and none
    could be imported. A run has one refiner: DePT and TextRefiner do not combine.

    Source: Zhang et al., DePT: Decoupled Prompt Tuning, CVPR 2024, arXiv 2309.07439.
    """

    def __init__(
        self,
        source: MethodOutput,
        seeds: Seeds,
        *,
        weight: Probability = 0.7,
        lr_factor: PositiveFloat = LR_FACTOR,
        adjust: bool = True,
        fusion: Literal["logits", "probabilities"] = "logits",
        feature_scale: PositiveFloat = 10.0,
    ) -> None:
        super().__init__()
        if weight and not source.classification:
            raise ValueError(
                "DePT shares the classification terms of the method's loss, and this method names "
                "none; use DePT.weight = 0, or name them in its classification_terms()"
            )
        self.weight, self.lr_factor, self.fusion = weight, lr_factor, fusion
        self.shared = dict(source.classification)
        self.image_adjust, self.text_adjust = (
            ChannelAdjustment(source.text_width, feature_scale, learns=adjust) for _ in range(2)
        )
        self.head = seeded_linear(source.text_width, source.num_classes, seeds.generator("head"))
        self.trained: tuple[str, ...] | None = None
        self.register_buffer("rows_C", None, persistent=False)

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any] | Reference:
        """Of weight 0 it is no refiner; of weight 1 there is nothing to fuse."""
        if not parameters["weight"]:
            return Reference("NullRefiner")
        return {**parameters, "fusion": "logits"} if parameters["weight"] == 1 else parameters

    @classmethod
    def simplify_below(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """In a warm-up of all epochs there is one rate."""
        warmup, epochs = values.get(WARMUP_EPOCHS), values.get("experiment.epochs")
        one_rate = warmup is not None and epochs is not None and warmup >= epochs
        return {"DePT.lr_factor": LR_FACTOR} if one_rate else {}

    def set_classes(self, classes: ClassNames) -> None:
        self.trained = self.trained or classes.names
        rows = rows_of(classes.names, self.trained)
        device = self.head.weight.device
        self.rows_C = None if rows is None else torch.tensor(rows, device=device)

    def forward(self, out: Forward) -> Forward:
        rows_C = self.rows_C
        if rows_C is None or self.weight == 0:
            return out
        assert isinstance(rows_C, Tensor)
        own_BC, head_BC = out.logits(), self._head_logits(self.image_adjust(out.image))[:, rows_C]
        fused_BC = self._fused(own_BC, head_BC)
        extra = {} if out.extra_logits is None else {OWN_EXTRA: out.extra_logits}
        return replace(out, extra_logits=fused_BC - out.text_logits(), aux={**out.aux, **extra})

    def _fused(self, own_BC: Tensor, head_BC: Tensor) -> Tensor:
        if self.fusion == "logits":
            return (1 - self.weight) * own_BC + self.weight * head_BC
        return torch.logaddexp(
            _log(1 - self.weight) + own_BC.log_softmax(dim=-1),
            _log(self.weight) + head_BC.log_softmax(dim=-1),
        )

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        return (ParameterGroup(tuple(self.parameters()), lr_factor=self.lr_factor),)

    def method_terms(self, terms: Mapping[str, LossTerm]) -> Mapping[str, LossTerm]:
        return {name: partial(self._of_method, name, term) for name, term in terms.items()}

    def _of_method(
        self, name: str, term: LossTerm, out: Forward, targets: Tensor, criterion: Criterion
    ) -> Tensor:
        """A term of the method on its own logits, with what the classifier leaves of its weight."""
        value = term(replace(out, extra_logits=out.aux.get(OWN_EXTRA)), targets, criterion)
        return (1 - self.weight) * value if name in self.shared else value

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"dept": self.head_loss} if self.weight else {}

    def head_loss(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        """The classifier on the images and on the texts of their labels."""
        labels_B = targets if targets.dim() == 1 else targets.argmax(dim=-1)
        rows_B = torch.arange(len(labels_B), device=labels_B.device)
        text_BD = out.text[labels_B] if out.text.dim() == 2 else out.text[rows_B, labels_B]
        features = torch.cat([self.text_adjust(text_BD), self.image_adjust(out.image)])
        weight = self.weight * sum(self.shared.values())
        return weight * criterion(self._head_logits(features), torch.cat([targets, targets]))

    def _head_logits(self, features: Tensor) -> Tensor:
        """Logits (..., T) of the classifier."""
        return in_full_precision(self.head, features)


class ChannelAdjustment(nn.Module):
    """``scale * length * x + shift`` with one scale and one shift per channel, from 1 and 0."""

    def __init__(self, width: int, length: float, *, learns: bool) -> None:
        super().__init__()
        self.length = length
        self.scale = nn.Parameter(torch.ones(width)) if learns else None
        self.shift = nn.Parameter(torch.zeros(width)) if learns else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.length * x
        return x if self.scale is None or self.shift is None else self.scale * x + self.shift


def rows_of(names: Sequence[str], trained: Sequence[str]) -> list[int] | None:
    """The place of every name among the trained ones; None unless all are there.

    A name that stands for several classes is at its first place, then at its second.
    """
    places: dict[tuple[str, int], int] = {}
    seen: Counter[str] = Counter()
    for place, name in enumerate(trained):
        places[name, seen[name]] = place
        seen[name] += 1
    seen.clear()
    rows = []
    for name in names:
        rows.append(places.get((name, seen[name])))
        seen[name] += 1
    known = [row for row in rows if row is not None]
    return known if len(known) == len(rows) else None


def _log(x: float) -> float:
    return math.log(x) if x else -math.inf
