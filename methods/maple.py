"""MaPLe: multi-modal prompt learning. Shapes: N prompt tokens, W tower width, J prompted blocks."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from core.clip.deep_prompts import (
    PromptDtype,
    TextPrompts,
    TrailingPrompts,
    as_used,
    checked_depth,
)
from core.clip.frozen import FrozenCLIP
from core.config import PositiveInt, register
from core.interfaces import LossTerm
from core.seeding import Seeds, seeded_linear
from core.train.losses import cross_entropy
from core.types import Batch, ClassNames, ImageFeatures, Tower
from methods.base import TextMethod, unit

Coupling = Literal["per_depth", "shared"]
CouplingInit = Literal["clones", "independent"]
DEPTH = 9


@register("method")
class MaPLe(TextMethod):
    """Learns deep text prompts, and affine maps that make the image tower's prompts of them.

    With T_i (N, W_text) the text prompt of block i, i = 0..J-1, in both towers the same J and N::

        V_i = T_i A_i' + b_i,   A_i (W_vision, W_text);   loss = ce

    Text prompts stand in front of the class names, vision prompts behind the patches, as in IVLP;
    nothing of the image tower is free. ``depth`` is J; None is 9 as released, or every block of the
    shallower tower; 1 is the input alone. ``coupling`` "shared" has one map for all blocks;
    ``coupling_bias`` False drops b. ``coupling_init`` "clones": as released the maps of blocks 1..J
    -1 start from one draw and that of the input from its own; "independent" draws each.

    ``ctx_init`` gives the first ``num_ctx`` tokens of the context: with 2 the prompt is "[T_0] of a
    name." as released. Beyond 4 tokens the release silently falls back to a random context, and it
    overwrites class names if there are fewer words than tokens; here the former requires an empty
    ``ctx_init`` and the latter is an error. ``prompt_dtype`` "float16" rounds the later text
    prompts and all vision prompts where they are used, as the release does in every precision.
    Its widths 512 and 768 are literals; here they are the backbone's.

    Source: Khattak et al., MaPLe: Multi-modal Prompt Learning, CVPR 2023, arXiv 2210.03117.
    """

    image_input = "pixels"
    eval_batch_size = 256

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        num_ctx: PositiveInt = 2,
        depth: PositiveInt | None = None,
        ctx_init: str = "a photo of a",
        coupling: Coupling = "per_depth",
        coupling_bias: bool = True,
        coupling_init: CouplingInit = "clones",
        prompt_dtype: PromptDtype = "parameter",
    ) -> None:
        super().__init__(clip, classes)
        spec = clip.spec
        shallower = min(spec.text_depth, spec.vision_depth)
        depth = checked_depth(
            type(self).__name__, "depth", depth, tower_depth=shallower, default=DEPTH
        )
        self.prompt_dtype: PromptDtype = prompt_dtype
        self.text_prompts = TextPrompts(
            clip,
            classes,
            seeds,
            owner=type(self).__name__,
            setting="num_ctx",
            num_ctx=num_ctx,
            depth=depth,
            ctx_init=ctx_init,
            prompt_dtype=prompt_dtype,
        )
        self.couplings = nn.ModuleList(
            seeded_linear(
                spec.text_width,
                spec.vision_width,
                seeds.generator("coupling", min(i, 1) if coupling_init == "clones" else i),
                bias=coupling_bias,
            )
            for i in range(depth if coupling == "per_depth" else 1)
        )

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """Words in one spelling; one map, or two of different draws, has no clones; the input's
        text prompt is never rounded, but its vision prompt is.
        """
        words = " ".join(parameters["ctx_init"].replace("_", " ").split())
        simple = {**parameters, "ctx_init": words}
        if parameters["depth"] == 1:
            simple["coupling"] = "per_depth"
        if simple["coupling"] == "shared" or parameters["depth"] in (1, 2):
            simple["coupling_init"] = "clones"
        return simple

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        return False

    @classmethod
    def hooked_towers(cls, parameters: Mapping[str, Any]) -> frozenset[Tower]:
        both: tuple[Tower, Tower] = ("image", "text")
        return frozenset(both[:1] if parameters["depth"] == 1 else both)

    def set_classes(self, classes: ClassNames) -> None:
        self.classes = classes
        self.text_prompts.set_classes(self.clip, classes)

    def class_texts(self) -> Tensor:
        return unit(self.text_prompts.encode(self.clip))

    def vision_prompts(self) -> list[Tensor]:
        """The prompts V_i (N, W_vision), from the input on."""
        last = len(self.couplings) - 1
        return [
            self.couplings[min(i, last)](prompt)
            for i, prompt in enumerate(self.text_prompts.prompts)
        ]

    def image_features(self, batch: Batch) -> ImageFeatures:
        """Features of the prompted image tower."""
        assert batch.pixels is not None, "vision prompts need pixels"
        prompts = [as_used(prompt, self.prompt_dtype) for prompt in self.vision_prompts()]
        return self.clip.encode_image(batch.pixels, TrailingPrompts(prompts), need=batch.need)

    def context_vectors(self) -> Mapping[str, Tensor]:
        return {"prompt at the input": self.text_prompts.prompts[0]}

    def released_names(self) -> Mapping[str, str | None]:
        names: dict[str, str | None] = {"text_prompts.prompts.0": "ctx"}
        for i in range(1, len(self.text_prompts.prompts)):
            names[f"text_prompts.prompts.{i}"] = f"compound_prompts_text.{i - 1}"
        for i, layer in enumerate(self.couplings):
            released = f"compound_prompt_projections.{i - 1}" if i else "proj"
            names |= {f"couplings.{i}.{k}": f"{released}.{k}" for k, _ in layer.named_parameters()}
        return names

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"ce": cross_entropy}
