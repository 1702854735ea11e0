"""IVLP: independent vision-language prompting."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from core.clip.deep_prompts import (
    ContextTokens,
    PromptDtype,
    TextPrompts,
    VisionPrompts,
    checked_depth,
    hooked_by_vision_prompts,
)
from core.clip.frozen import FrozenCLIP
from core.config import NonNegativeInt, PositiveInt, register
from core.interfaces import LossTerm
from core.seeding import Seeds
from core.train.losses import cross_entropy
from core.types import Batch, ClassNames, ImageFeatures, Tower
from methods.base import TextMethod, unit


@register("method")
class IVLP(TextMethod):
    """Learns deep prompts in both towers, each on its own, with cross-entropy alone.

    ``text_prompts`` hold ``depth_text`` prompts (``num_ctx_text``, W_text), the first one in front
    of the class names; ``vision_prompts`` hold ``depth_vision`` prompts (``num_ctx_vision``,
    W_vision) behind the patches. Depth counts blocks: 1 is the input alone, a vision depth of 0
    means no vision prompts, None means every block. Two settings were published under this name: 2
    + 2 tokens in all 12 blocks (the defaults here) and 4 + 4 tokens in 9 blocks.

    ``ctx_init`` gives the first ``num_ctx_text`` tokens of the context ("all" of them with
    ``ctx_init_tokens``); further ones stay fixed before the name. Beyond 4 tokens the release
    silently falls back to a random context, and it overwrites class names if there are fewer words
    than tokens; here the former requires an empty ``ctx_init`` and the latter is an error.
    ``prompt_dtype`` "float16" rounds the deep prompts at every use, as the release does even in an
    fp32 run; the default does not.

    Source: Khattak et al., MaPLe: Multi-modal Prompt Learning, CVPR 2023, arXiv 2210.03117 (its
    independent vision-language baseline).
    """

    image_input = "pixels"
    eval_batch_size = 256
    default_depth: ClassVar[int | None] = None
    default_num_ctx_text: ClassVar[int] = 2

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        num_ctx_text: PositiveInt = 2,
        num_ctx_vision: NonNegativeInt = 2,
        depth_text: PositiveInt | None = None,
        depth_vision: NonNegativeInt | None = None,
        ctx_init: str = "a photo of a",
        ctx_init_tokens: ContextTokens = "first_n",
        prompt_dtype: PromptDtype = "parameter",
    ) -> None:
        super().__init__(clip, classes)
        owner = type(self).__name__
        spec, default = clip.spec, self.default_depth
        self.text_prompts = TextPrompts(
            clip,
            classes,
            seeds,
            owner=owner,
            num_ctx=num_ctx_text,
            depth=checked_depth(
                owner, "depth_text", depth_text, tower_depth=spec.text_depth, default=default
            ),
            ctx_init=ctx_init,
            ctx_init_tokens=ctx_init_tokens,
            prompt_dtype=prompt_dtype,
        )
        self.vision_prompts = VisionPrompts(
            clip,
            seeds,
            num_ctx=num_ctx_vision,
            depth=checked_depth(
                owner, "depth_vision", depth_vision, tower_depth=spec.vision_depth, default=default
            ),
            prompt_dtype=prompt_dtype,
        )

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """Without vision prompts their number and depth are 0; the rest see ``settled_text``."""
        simple = {**parameters, **settled_text(parameters, cls.default_num_ctx_text)}
        if 0 in (simple["num_ctx_vision"], simple["depth_vision"]):
            simple |= {"num_ctx_vision": 0, "depth_vision": 0}
            if simple["depth_text"] == 1:
                simple["prompt_dtype"] = "parameter"
        return simple

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        return False

    @classmethod
    def hooked_towers(cls, parameters: Mapping[str, Any]) -> frozenset[Tower]:
        text: set[Tower] = set() if parameters["depth_text"] == 1 else {"text"}
        return frozenset(text) | hooked_by_vision_prompts(parameters)

    def set_classes(self, classes: ClassNames) -> None:
        self.classes = classes
        self.text_prompts.set_classes(self.clip, classes)

    def class_texts(self) -> Tensor:
        return unit(self.text_prompts.encode(self.clip))

    def image_features(self, batch: Batch) -> ImageFeatures:
        """Features of the prompted image tower; frozen ones if there are no vision prompts."""
        if not len(self.vision_prompts.prompts):
            return super().image_features(batch)
        assert batch.pixels is not None, "vision prompts need pixels"
        return self.clip.encode_image(batch.pixels, self.vision_prompts.hook(), need=batch.need)

    def context_vectors(self) -> Mapping[str, Tensor]:
        return {"prompt at the input": self.text_prompts.prompts[0]}

    def released_names(self) -> Mapping[str, str | None]:
        text, vision = len(self.text_prompts.prompts), len(self.vision_prompts.prompts)
        return released_text_prompts(text) | released_vision_prompts(vision)

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy}


def settled_text(parameters: Mapping[str, Any], default_num_ctx: int) -> dict[str, Any]:
    """The text context as a run's identity sees it: words in one spelling; "all" tokens of the
    words leave no number, and without words there are no tokens to count.
    """
    words = " ".join(parameters["ctx_init"].replace("_", " ").split())
    settled: dict[str, Any] = {"ctx_init": words}
    if not words:
        settled["ctx_init_tokens"] = "first_n"
    elif parameters["ctx_init_tokens"] == "all":
        settled["num_ctx_text"] = default_num_ctx
    return settled


def released_text_prompts(depth: int) -> dict[str, str | None]:
    """Published names of the text prompts of ``depth`` blocks, by name here."""
    later = {i: f"text_encoder.transformer.resblocks.{i}.VPT_shallow" for i in range(1, depth)}
    return {f"text_prompts.prompts.{i}": name for i, name in ({0: "ctx"} | later).items()}


def released_vision_prompts(depth: int) -> dict[str, str | None]:
    """Published names of the vision prompts of ``depth`` blocks, by name here; none for depth 0."""
    later = {i: f"image_encoder.transformer.resblocks.{i}.VPT_shallow" for i in range(1, depth)}
    first = {0: "image_encoder.VPT"} if depth else {}
    return {f"vision_prompts.prompts.{i}": name for i, name in (first | later).items()}
