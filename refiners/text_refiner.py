"""TextRefiner: class texts refined by a local cache of fine-grained visual concepts."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

from torch import Tensor, nn

from core.config import Part, Reference, lookup, register
from core.interfaces import LossTerm, Refiner
from core.seeding import Seeds
from core.train.published_checkpoints import MEMORY, two_layer_names
from core.types import Forward, Memory, MethodOutput
from refiners.aggregation import Aggregation, LinearAggregation
from refiners.alignment import Alignment, MlpAlignment
from refiners.cache import Cache, EmaCache, Observation
from refiners.losses import RefinerLoss

OFF = {
    "alignment": Reference("NoAlignment"),
    "cache": Reference("NoCache"),
    "aggregation": Reference("NoAggregation"),
    "semantic": Reference("NoLoss"),
    "regularization": Reference("NoLoss"),
}

# Tensors of the released parts by their names in released checkpoints; other parts have none.
RELEASED_NAMES: dict[type[nn.Module], dict[str, str]] = {
    MlpAlignment: two_layer_names("mid_image_trans"),
    EmaCache: {"slots_MD": MEMORY},
    LinearAggregation: {"extractor.weight": "extractor.weight"},
}


@register("refiner")
class TextRefiner(Refiner):
    """Reads a cache of local visual concepts with the class texts and adds the result to them.

    ``text -> aggregation(text, cache)``. In training the aligned local tokens feed the
    semantic loss and are then written into the cache. Each of the five parts is plugged in, and
    each has an object that is off; with all of them off this is the base method, bit for bit.

    Source: Xie et al., TextRefiner: Internal Visual Feature as Efficient Refiner for
    Vision-Language Models Prompt Tuning, AAAI 2025, arXiv 2412.08176.
    """

    released_file = "Memory"

    def __init__(
        self,
        source: MethodOutput,
        seeds: Seeds,
        *,
        alignment: Annotated[Callable[..., Alignment], Part("alignment")],
        cache: Annotated[Callable[..., Cache], Part("cache")],
        aggregation: Annotated[Callable[..., Aggregation], Part("aggregation")],
        semantic: Annotated[Callable[..., RefinerLoss], Part("loss")],
        regularization: Annotated[Callable[..., RefinerLoss], Part("loss")],
    ) -> None:
        super().__init__()
        self.alignment = alignment(source.local_width, source.text_width, seeds.at("alignment"))
        self.cache = cache(source.text_width, seeds.at("cache"), source.num_classes)
        self.aggregation = aggregation(source.text_width, seeds.at("aggregation"))
        self.semantic = semantic()
        self.regularization = regularization()
        if missing := sorted(self.needs() - source.provides):
            raise ValueError(
                f"TextRefiner needs the image fields {missing}, which this base method on this "
                "backbone does not provide; use @NoCache and @NoLoss, or another of the two"
            )
        if self.semantic.topk > source.num_patches:
            raise ValueError(
                f"SemanticLoss.topk is {self.semantic.topk}, but the backbone has "
                f"{source.num_patches} patches; use a smaller topk"
            )

    def needs(self) -> frozenset[str]:
        losses = (self.semantic, self.regularization)
        fields = {"local", "attention"} if any(x.reads_local for x in losses) else set()
        fields |= {"local"} if self.cache.writes else set()
        return frozenset(fields | ({"attention"} if self.cache.reads_attention else set()))

    def forward(self, out: Forward) -> Forward:
        refined = self.aggregation(out.text, self.cache)
        aux = {**out.aux, "plain_text": out.text}
        if out.local is not None:
            aux["aligned"] = self.alignment(out.local)
        return replace(out, text=refined, aux=aux)

    def observe(self, out: Forward, targets: Tensor | None = None) -> None:
        if self.cache.writes:
            aligned = out.aux["aligned"].detach()
            labels = targets if targets is None or targets.dim() == 1 else targets.argmax(dim=-1)
            self.cache.observe(Observation(aligned=aligned, attention=out.attention, labels=labels))

    def memory(self) -> Memory | None:
        slots_MD = self.cache.slots().detach()
        if not len(slots_MD):
            return None
        return Memory(slots=slots_MD, labels=self.cache.slot_labels())

    def memory_tokens(self, out: Forward) -> Tensor | None:
        return None if out.local is None else self.alignment(out.local)

    def released_names(self) -> Mapping[str, str | None]:
        parts = {
            "alignment": self.alignment,
            "cache": self.cache,
            "aggregation": self.aggregation,
        }
        return {
            f"{name}.{ours}": its
            for name, part in parts.items()
            for ours, its in RELEASED_NAMES.get(type(part), {}).items()
        }

    def loss_terms(self) -> Mapping[str, LossTerm]:
        """Terms of positive weight: with weight 0, weight decay would still change their parts."""
        parts = {"semantic": self.semantic, "regularization": self.regularization}
        return {name: part for name, part in parts.items() if part.weight > 0}

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any] | Reference:
        """An equivalent computation with fewer parts; the planner runs equal cells once."""
        simple = dict(parameters)
        if simple["aggregation"] == Reference("NoAggregation"):
            simple["cache"] = Reference("NoCache")
            simple["regularization"] = Reference("NoLoss")
        parts: dict[str, Any] = {name: lookup(part.name).cls for name, part in simple.items()}
        losses = (parts["semantic"], parts["regularization"])
        if not parts["cache"].writes and not any(loss.reads_local for loss in losses):
            simple["alignment"] = Reference("NoAlignment")
        if all(part == OFF[name] for name, part in simple.items()):
            return Reference("NullRefiner")
        return simple

    @classmethod
    def simplify_below(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """An aggregation with ``alpha`` 0 reads no cache; one that attends to the slots does not
        read them softly, at a temperature.
        """
        aggregation, cache = values["TextRefiner.aggregation"], values["TextRefiner.cache"]
        if aggregation == Reference("LinearAggregation") and not values["LinearAggregation.alpha"]:
            return {"TextRefiner.cache": Reference("NoCache")}
        key = f"{cache.name}.read_temperature"
        if aggregation == Reference("FusionAggregation") and key in values:
            return {key: lookup(cache.name).parameters["read_temperature"].default}
        return {}
