"""Code shared by base methods. Shapes: B images, C classes, T templates, D joint width."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.clip.frozen import FrozenCLIP
from core.clip.templates import Templates, templates_of
from core.interfaces import Method
from core.precision import widened
from core.types import Batch, ClassNames, Forward


def unit(x: Tensor) -> Tensor:
    """X / ||x|| over the last axis, without an epsilon, as the released code divides.

    Not in half precision, in which no vector has length 1.
    """
    x = widened(x)
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length


def hand_made_texts(clip: FrozenCLIP, classes: ClassNames) -> Tensor:
    """Frozen class texts (C, D) of the dataset's template, unit norm."""
    return unit(clip.encode_texts(classes.prompts()))


class TextMethod(Method):
    """A method whose class texts do not depend on the image; subclasses write ``class_texts``."""

    _texts: Tensor | None = None

    @abstractmethod
    def class_texts(self) -> Tensor:
        """Class texts (C, D), unit norm."""

    def forward(self, batch: Batch) -> Forward:
        features = self.image_features(batch)
        return Forward(
            image=unit(features.pooled),
            text=self.class_texts() if self._texts is None else self._texts,
            logit_scale=self.clip.scale,
            local=features.local,
            attention=features.attention,
        )

    @contextmanager
    def texts_once(self) -> Iterator[None]:
        """A context in which class texts are encoded once and kept, for evaluation."""
        with torch.no_grad():
            texts = self.class_texts()
        with self.given_texts(texts):
            yield

    @contextmanager
    def given_texts(self, texts_CD: Tensor) -> Iterator[None]:
        """A context in which these tensors replace the class texts."""
        self._texts = texts_CD.view_as(texts_CD)  # a Parameter would be registered as one of ours
        try:
            yield
        finally:
            self._texts = None


class HandMadeTextMethod(TextMethod):
    """A method with texts of hand-made prompts: those of its parameter ``templates``, or of the
    dataset's own template if that is empty.
    """

    def __init__(self, clip: FrozenCLIP, classes: ClassNames, templates: Templates) -> None:
        super().__init__(clip, classes)
        self.templates = templates_of(templates)

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """A named ensemble is the templates in it."""
        return {**parameters, "templates": templates_of(parameters["templates"])}

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        return not parameters["templates"]

    def template_features(self, classes: ClassNames) -> Tensor:
        """Text features (T, C, D) of every template, not normalized."""
        templates = self.templates or (classes.template,)
        views = [ClassNames(names=classes.names, template=t).prompts() for t in templates]
        return torch.stack([self.clip.encode_texts(prompts) for prompts in views])

    def zero_shot_texts(self, classes: ClassNames) -> Tensor:
        """Zero-shot texts (C, D): the unit mean of the unit features of the templates.

        They are kept for all methods, unless a subclass makes its features in another way.
        """
        if type(self).template_features is not HandMadeTextMethod.template_features:
            return unit(unit(self.template_features(classes)).mean(dim=0))
        templates = self.templates or (classes.template,)
        return self.clip.kept(
            ("zero-shot texts", templates, classes.names),
            lambda: unit(unit(self.template_features(classes)).mean(dim=0)),
        )


class ClosedSetMethod(TextMethod):
    """A method that learns something for every class on its own, and so scores the classes that it
    was trained on, all or some of them and in any order.

    ``why_closed`` says what it learns. ``rows_C`` (C,) int64 holds, for each class to score, its
    position among the trained classes. Classes are known by their names. Where several trained
    classes have one name, the first of that name to score is the first of them that was trained,
    and so on.
    """

    why_closed: ClassVar[str]
    rows_C: Tensor

    def __init__(self, clip: FrozenCLIP, classes: ClassNames) -> None:
        super().__init__(clip, classes)
        self.trained = classes
        rows = torch.arange(len(classes), device=clip.scale.device)
        self.register_buffer("rows_C", rows, persistent=False)

    @classmethod
    def closed_set(cls, parameters: Mapping[str, Any]) -> str:
        return cls.why_closed

    def set_classes(self, classes: ClassNames) -> None:
        rows = trained_rows(self.trained, classes, type(self).__name__, self.why_closed)
        self.classes = classes
        self.rows_C = torch.tensor(rows, device=self.rows_C.device)


def trained_rows(trained: ClassNames, classes: ClassNames, owner: str, why: str) -> list[int]:
    """The position of each class to score among the trained ones, as in ``ClosedSetMethod``.

    Raises ValueError, which names the ``owner`` and ``why`` it scores no others.
    """
    places: dict[str, list[int]] = {}
    for row, name in enumerate(trained.names):
        places.setdefault(name, []).append(row)
    if others := sorted(Counter(classes.names) - Counter(trained.names)):
        raise ValueError(
            f"{owner} cannot score other classes than it was trained on ({why}): "
            f"{', '.join(map(repr, others[:3]))}{', ...' if len(others) > 3 else ''} are not among "
            f"its {len(trained)} classes; use a protocol that scores trained classes alone, such "
            "as 'few_shot'"
        )
    return [places[name].pop(0) for name in classes.names]


def all_views(batch: Batch) -> tuple[Batch, ...]:
    """The batch and its further views of the same images."""
    return (batch, *batch.views)
