"""TextRefiner: class texts refined by a local cache of fine-grained visual concepts."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, cast

from torch import Tensor, nn

from core.config import Part, Reference, lookup, register
from core.interfaces import LossTerm, Refiner
from core.seeding import Seeds
from core.store.epochs import check_logged_names
from core.train.published_checkpoints import MEMORY, two_layer_names
from core.types import Forward, Memory, MethodOutput
from refiners.aggregation import Aggregation, LinearAggregation
from refiners.alignment import Alignment, MlpAlignment
from refiners.cache import Cache, EmaCache, Observation
from refiners.losses import NoLoss, RefinerLoss

OFF = {
    "alignment": Reference("NoAlignment"),
    "cache": Reference("NoCache"),
    "aggregation": Reference("NoAggregation"),
    "semantic": Reference("NoLoss"),
    "regularization": Reference("NoLoss"),
}

Factory = Callable[..., RefinerLoss]
LossPart = Annotated[Factory, Part("loss")]
NO_LOSSES: Mapping[str, LossPart] = MappingProxyType({})

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
    ``losses`` are any number of further terms, by the names under which they are logged.

    Source: Xie et al., TextRefiner: Internal Visual Feature as Efficient Refiner for
    Vision-Language Models Prompt Tuning, AAAI 2025, arXiv 2412.08176.
    """

    released_file = "Memory"
    later = frozenset({"losses"})

    def __init__(
        self,
        source: MethodOutput,
        seeds: Seeds,
        *,
        alignment: Annotated[Callable[..., Alignment], Part("alignment")],
        cache: Annotated[Callable[..., Cache], Part("cache")],
        aggregation: Annotated[Callable[..., Aggregation], Part("aggregation")],
        semantic: LossPart,
        regularization: LossPart,
        losses: Mapping[str, LossPart] = NO_LOSSES,
    ) -> None:
        super().__init__()
        _check_further({"semantic": semantic, "regularization": regularization}, losses)
        self.alignment = alignment(source.local_width, source.text_width, seeds.at("alignment"))
        self.cache = cache(source.text_width, seeds.at("cache"), source.num_classes)
        self.aggregation = aggregation(source.text_width, seeds.at("aggregation"))
        self.semantic = semantic()
        self.regularization = regularization()
        self.losses = nn.ModuleDict({name: loss() for name, loss in losses.items()})
        if missing := sorted(self.needs() - source.provides):
            raise ValueError(
                f"TextRefiner needs the image fields {missing}, which this base method on this "
                "backbone does not provide; use @NoCache and @NoLoss, or another of the two"
            )
        for loss in self._terms().values():
            if loss.topk > source.num_patches:
                raise ValueError(
                    f"{type(loss).__name__}.topk is {loss.topk}, but the backbone has "
                    f"{source.num_patches} patches; use a smaller topk"
                )

    def needs(self) -> frozenset[str]:
        losses = self._terms().values()
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
        slots_MD, labels_M = self.cache.slots().detach(), self.cache.slot_labels()
        if (filled_M := self.cache.filled()) is not None:
            slots_MD = slots_MD[filled_M]
            labels_M = None if labels_M is None else labels_M[filled_M]
        return Memory(slots=slots_MD, labels=labels_M) if len(slots_MD) else None

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
        return {name: part for name, part in self._terms().items() if part.weight > 0}

    def _terms(self) -> dict[str, RefinerLoss]:
        """All loss parts by name, those that are off among them."""
        further = {name: cast(RefinerLoss, loss) for name, loss in self.losses.items()}
        return {"semantic": self.semantic, "regularization": self.regularization, **further}

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any] | Reference:
        """An equivalent computation with fewer parts; the planner runs equal cells once."""
        simple = dict(parameters)
        further = dict(simple.get("losses", NO_LOSSES))
        if simple["aggregation"] == Reference("NoAggregation"):
            simple |= {name: Reference("NoLoss") for name in _vanishing(simple)}
            further |= {name: Reference("NoLoss") for name in _vanishing(further)}
        further = {name: loss for name, loss in further.items() if loss != Reference("NoLoss")}
        aggregation: Any = lookup(simple["aggregation"].name).cls
        if not aggregation.reads_cache:
            simple["cache"] = Reference("NoCache")
        parts: dict[str, Any] = {name: lookup(simple[name].name).cls for name in OFF}
        plugged = (simple["semantic"], simple["regularization"], *further.values())
        losses: list[Any] = [lookup(loss.name).cls for loss in plugged]
        if not parts["cache"].writes and not any(loss.reads_local for loss in losses):
            simple["alignment"] = Reference("NoAlignment")
        if not further and all(simple[name] == off for name, off in OFF.items()):
            return Reference("NullRefiner")
        return {**simple, "losses": further} if "losses" in simple else simple

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


def _vanishing(terms: Mapping[str, Any]) -> list[str]:
    """The names under which a loss stands that is 0 where nothing is refined."""
    classes: dict[str, Any] = {
        name: lookup(term.name).cls for name, term in terms.items() if isinstance(term, Reference)
    }
    return [n for n, cls in classes.items() if getattr(cls, "vanishes_unrefined", False)]


def _check_further(fixed: Mapping[str, Factory], losses: Mapping[str, Factory]) -> None:
    """Raise ValueError for a name that cannot be logged beside the two terms that are always there,
    and for one class under two names: both would have the same settings.
    """
    check_logged_names(losses, "a term of TextRefiner.losses")
    for name in losses:
        if name in fixed:
            raise ValueError(
                f"TextRefiner.losses must name terms by identifiers other than "
                f"{' and '.join(map(repr, fixed))}, got {name!r}; rename it"
            )
    classes = [getattr(loss, "func", loss) for loss in (*fixed.values(), *losses.values())]
    for cls in classes[len(fixed) :]:
        if classes.count(cls) > 1 and cls is not NoLoss:
            raise ValueError(
                f"TextRefiner has {cls.__name__} twice, with the same settings; name it once, with "
                "the sum of the weights"
            )
