"""Replays recorded runs of TextRefiner with all released parts on CoOp."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from core.clip.prompts import placeholder_of
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.types import Forward
from experiments.verify.vectors import (
    POOLED,
    SEEDS,
    Named,
    Vectors,
    check_tokens,
    fill,
    frozen_clip,
    gradients,
    set_norms,
    sgd_steps,
    words_of,
)
from methods.coop import CoOp
from refiners.aggregation import LinearAggregation
from refiners.alignment import MlpAlignment
from refiners.cache import EmaCache
from refiners.losses import L1Regularization, SemanticLoss
from refiners.text_refiner import TextRefiner


@dataclass(frozen=True, kw_only=True)
class Released:
    """TextRefiner with all released parts on CoOp, each part under its own type."""

    model: RefinedMethod
    method: CoOp
    alignment: MlpAlignment
    cache: EmaCache
    aggregation: LinearAggregation
    semantic: SemanticLoss
    regularization: L1Regularization

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trained parameters by their recorded names."""
        alignment = {
            f"align.{name.replace('norm', 'bn')}": parameter
            for name, parameter in self.alignment.named_parameters()
        }
        return {"ctx": self.method.ctx, **dict(self.aggregation.named_parameters()), **alignment}

    def state(self) -> dict[str, Tensor]:
        """Trained parameters and written buffers by their recorded names."""
        norm = self.alignment.norm
        assert norm.running_mean is not None and norm.running_var is not None
        assert norm.num_batches_tracked is not None
        return {
            **self.parameters(),
            "cache": self.cache.slots_MD,
            "align.bn.running_mean": norm.running_mean,
            "align.bn.running_var": norm.running_var,
            "align.bn.count": norm.num_batches_tracked,
        }


def replay_textrefiner(vectors: Vectors) -> Named:
    """TextRefiner with all released parts on CoOp."""
    clip = frozen_clip(vectors)
    placeholder = placeholder_of(words_of(vectors), vectors.constants["n_ctx"])
    yield from check_tokens(vectors, placeholder, clip.tokenizer)
    released = _released(clip, vectors)
    set_norms(vectors, released.model)
    for name, parameter in released.state().items():
        if f"param.{name}" in vectors.tensors:
            fill(parameter, vectors[f"param.{name}"])
    yield from _textrefiner_steps(vectors, released)
    for name, value in released.state().items():
        yield f"{vectors.after}.{name}", value.detach()
    yield f"eval_{vectors.after}.logits", released.model.eval()(vectors.eval_batch()).logits()


def _released(clip: FrozenCLIP, vectors: Vectors) -> Released:
    """The recorded experiment, built with its constants, in float64."""
    c = vectors.constants
    method = CoOp(
        clip,
        vectors.classes,
        SEEDS,
        num_ctx=c["n_ctx"],
        ctx_init=words_of(vectors),
        class_position=c["class_position"],
    )
    c.require("n_ctx", len(method.ctx))
    source = method.output()
    alignment = MlpAlignment(source.local_width, source.text_width, SEEDS)
    cache = EmaCache(source.text_width, SEEDS, num_slots=int(c["memory"]), momentum=c["momentum"])
    aggregation = LinearAggregation(source.text_width, SEEDS, alpha=c["alpha"])
    semantic = SemanticLoss(weight=1 / c["balance"], topk=int(c["topk"]))
    regularization = L1Regularization(weight=c["distill"])
    refiner = TextRefiner(
        source,
        SEEDS,
        alignment=lambda *_: alignment,
        cache=lambda *_: cache,
        aggregation=lambda *_: aggregation,
        semantic=lambda: semantic,
        regularization=lambda: regularization,
    )
    return Released(
        model=RefinedMethod(method, refiner).double(),
        method=method,
        alignment=alignment,
        cache=cache,
        aggregation=aggregation,
        semantic=semantic,
        regularization=regularization,
    )


def _textrefiner_steps(vectors: Vectors, released: Released) -> Named:
    model, cache, semantic = released.model, released.cache, released.semantic
    method, refiner = model.method, model.refiner
    objective = Objective(method.loss_terms(), refiner.loss_terms(), method.criterion)
    need = POOLED | refiner.needs()
    weights = {"semantic": semantic.weight, "regularization": released.regularization.weight}
    recorded = {
        "ce": "global",
        "semantic": "semantic",
        "regularization": "regularisation",
    }  # as recorded
    kept: dict[str, Forward] = {}
    named = released.parameters()
    model.train()

    def step(number: int) -> Mapping[str, Tensor]:
        batch = vectors.batch(number, need)
        kept["out"] = out = model(batch)
        terms = objective(out, batch.labels)
        return {**terms, "loss": torch.stack(list(terms.values())).sum()}

    for number, values in sgd_steps(vectors, list(named.values()), step):
        out = kept["out"]
        yield f"loss{number}.total", values["loss"]
        for ours, theirs in recorded.items():
            yield f"loss{number}.{theirs}", values[ours] / weights.get(ours, 1.0)
        yield f"out{number}.logits", out.logits()
        yield f"out{number}.topk_index", semantic.top_patches(out) + 1
        yield f"out{number}.write_slot", cache.write_weights(_tokens(out))[0]
        yield f"cache{number}.before", cache.slots_MD.clone()
        if number == 1:
            yield from gradients(named)
            yield from _first_step(released, out)
        refiner.observe(out)
        yield f"cache{number}.after", cache.slots_MD.clone()


def _tokens(out: Forward) -> Tensor:
    return out.aux["aligned"].detach().flatten(0, 1)


def _first_step(released: Released, out: Forward) -> Named:
    cache, semantic = released.cache, released.semantic
    assert out.local is not None and out.attention is not None
    ordered = out.attention.sort(dim=-1, descending=True).values
    state = released.state()
    yield "align1.running_mean", state["align.bn.running_mean"].clone()
    yield "align1.running_var", state["align.bn.running_var"].clone()
    yield "out1.aligned_tokens", out.aux["aligned"]
    yield "out1.attention_gap", ordered[:, semantic.topk - 1] - ordered[:, semantic.topk]
    yield "out1.attention_row", out.attention
    yield "out1.image_feature", out.image
    yield "out1.local_tokens", out.local
    yield "out1.local_logits", semantic.local_logits(out).flatten(0, 1)
    yield "out1.selected_tokens", semantic.rows(out).flatten(0, 1)
    yield "out1.text_feature", out.aux["plain_text"]
    yield "out1.refined_text_feature", out.text
    yield "out1.read_weights", cache.read_weights(out.aux["plain_text"])
    yield "out1.write_weights", cache.write_weights(_tokens(out))[1]
