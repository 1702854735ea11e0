"""Zero-shot CLIP: hand-made prompts, nothing learned."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.clip.frozen import FrozenCLIP
from core.clip.templates import checked_templates
from core.config import PromptTemplate, register
from core.interfaces import LossTerm
from core.seeding import Seeds
from core.train.losses import cross_entropy
from core.types import ClassNames
from methods.base import TextMethod, unit


@register("method")
class ZeroShot(TextMethod):
    """Class texts from hand-made prompts: one template, or the mean over several.

    ``templates`` are strings with one ``{}``; empty means the dataset's own template. The unit
    features of the templates are averaged and normalized again. No parameters.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision,
    ICML 2021, arXiv 2103.00020.
    """

    trains = False

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        templates: tuple[PromptTemplate, ...] = (),
    ) -> None:
        super().__init__(clip, classes)
        self.templates = checked_templates(templates)
        self.set_classes(classes)

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        return not parameters["templates"]

    def set_classes(self, classes: ClassNames) -> None:
        self.classes = classes
        templates = self.templates or (classes.template,)
        views = [
            ClassNames(names=classes.names, template=template).prompts() for template in templates
        ]
        texts = torch.stack([unit(self.clip.encode_texts(prompts)) for prompts in views])
        self.register_buffer("texts_CD", unit(texts.mean(dim=0)), persistent=False)

    def class_texts(self) -> Tensor:
        return self.get_buffer("texts_CD")

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy}
