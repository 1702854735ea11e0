"""CoOp: context optimization."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from core.clip.prompts import (
    DEFAULT_NUM_CTX,
    ClassPosition,
    ContextPrompts,
    idle_number,
    initial_context,
    placeholder_of,
    settled_context,
)
from core.config import PositiveInt, register
from core.interfaces import LossTerm
from core.seeding import Seeds
from core.train.losses import cross_entropy
from core.types import ClassNames
from methods.base import TextMethod, trained_rows, unit


@register("method")
class CoOp(TextMethod):
    """Learns N context vectors in front of, around or behind every class name.

    ``ctx`` is (N, W), shared by all classes, or (C, N, W) when ``class_specific``. It starts from
    the words of ``ctx_init``, or from N(0, 0.02 squared) if that is empty. With words, N is their
    number, and a configuration that binds another ``num_ctx`` is refused. The released code
    silently ignores class-specific context if words are given; here every class starts from the
    same words.

    Source: Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022, arXiv 2109.01134.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        num_ctx: PositiveInt = DEFAULT_NUM_CTX,
        ctx_init: str = "a photo of a",
        class_position: ClassPosition = "end",
        class_specific: bool = False,
    ) -> None:
        super().__init__(clip, classes)
        self.class_position: ClassPosition = class_position
        self.class_specific = class_specific
        self.trained = classes
        self.rows: list[int] | None = None
        self.placeholder = placeholder_of(ctx_init, num_ctx)
        self.prompts = self._prompts(classes)
        start = initial_context(clip, ctx_init, num_ctx, seeds.generator("context"))
        if class_specific:
            start = start.expand(len(classes), *start.shape)
        self.ctx = nn.Parameter(start.detach().clone())

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """With words their number is the context's; half of one vector is none, in the middle."""
        context = settled_context(parameters["num_ctx"], parameters["ctx_init"])
        number = len(context["ctx_init"].split()) or context["num_ctx"]
        position = parameters["class_position"]
        if number == 1 and position == "middle":
            position = "front"
        return {**parameters, **context, "class_position": position}

    @classmethod
    def idle(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
        return idle_number(cls.__name__, parameters["num_ctx"], parameters["ctx_init"])

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        return False

    @classmethod
    def closed_set(cls, parameters: Mapping[str, Any]) -> str:
        if not parameters["class_specific"]:
            return ""
        setting = f"{cls.__name__}.class_specific"
        return f"every class has its own context; use {setting} = False for others"

    def set_classes(self, classes: ClassNames) -> None:
        """A class-specific context scores the classes it was trained on, some or all of them, in
        any order.
        """
        if self.class_specific:
            why = self.closed_set({"class_specific": True})
            self.rows = trained_rows(self.trained, classes, type(self).__name__, why)
        self.classes = classes
        self.prompts = self._prompts(classes)

    def class_texts(self) -> Tensor:
        in_place = self.rows is None or self.classes.names == self.trained.names
        ctx = self.ctx if in_place else self.ctx[self.rows]
        return unit(self.prompts.encode(self.clip, ctx))

    def context_vectors(self) -> Mapping[str, Tensor]:
        return {"ctx": self.ctx}

    def released_names(self) -> Mapping[str, str | None]:
        return {"ctx": "ctx"}

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy}

    def _prompts(self, classes: ClassNames) -> ContextPrompts:
        return ContextPrompts(
            self.clip, classes, placeholder=self.placeholder, position=self.class_position
        )
