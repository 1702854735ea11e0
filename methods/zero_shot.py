"""Zero-shot CLIP: hand-made prompts, nothing learned."""

from collections.abc import Mapping

from torch import Tensor

from core.clip.frozen import FrozenCLIP
from core.clip.templates import Templates
from core.config import register
from core.interfaces import LossTerm
from core.seeding import Seeds
from core.train.losses import cross_entropy
from core.types import ClassNames
from methods.base import HandMadeTextMethod


@register("method")
class ZeroShot(HandMadeTextMethod):
    """Class texts from hand-made prompts: one template, or the mean over several.

    ``templates`` are strings with one ``{}``, or the name of a published ensemble
    (``core/clip/templates.py``); empty means the dataset's own template. The unit features of the
    templates are averaged and normalized again. No parameters.

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
        templates: Templates = (),
    ) -> None:
        super().__init__(clip, classes, templates)
        self.set_classes(classes)

    def set_classes(self, classes: ClassNames) -> None:
        self.classes = classes
        self.register_buffer("texts_CD", self.zero_shot_texts(classes), persistent=False)

    def class_texts(self) -> Tensor:
        return self.get_buffer("texts_CD")

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy}
