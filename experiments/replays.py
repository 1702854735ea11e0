"""How each recorded case is replayed with our methods and refiners: one function a case."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.seeding import Seeds
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.types import Forward, MethodOutput
from experiments.verification import (
    Named,
    Vectors,
    check_tokens,
    frozen_clip,
    replays,
    sgd_steps,
)
from methods.coop import CoOp
from refiners.aggregation import LinearAggregation
from refiners.alignment import MlpAlignment
from refiners.cache import EmaCache
from refiners.losses import L1Regularization, SemanticLoss
from refiners.null_refiner import NullRefiner
from refiners.text_refiner import TextRefiner

SEEDS = Seeds(0)


@torch.no_grad()
def fill(parameter: Tensor, value: Tensor) -> None:
    """Put a recorded value into a parameter or buffer."""
    parameter.copy_(value.reshape(parameter.shape))


def gradients(named: Mapping[str, Tensor]) -> Named:
    """Recorded names of step 1's gradients."""
    for name, parameter in named.items():
        assert parameter.grad is not None, f"{name} got no gradient"
        yield f"grad1.{name}", parameter.grad.clone()


@replays("coop")
def replay_coop(vectors: Vectors) -> Named:
    """Three class positions, shared and class-specific context."""
    clip = frozen_clip(vectors)
    placeholder = " ".join(["X"] * vectors.constants["n_ctx"])
    yield from check_tokens(vectors, placeholder, clip.tokenizer)
    for position in ("end", "middle", "front"):
        for kind in ("generic", "csc"):
            method = CoOp(
                clip,
                vectors.classes,
                SEEDS,
                num_ctx=vectors.constants["n_ctx"],
                ctx_init="",
                class_position=position,
                class_specific=kind == "csc",
            ).double()
            fill(method.ctx, vectors[f"param.ctx.{kind}"])
            for name, value in _coop_steps(vectors, method):
                yield f"{position}.{kind}.{name}", value


def _coop_steps(vectors: Vectors, method: CoOp) -> Named:
    model = RefinedMethod(method, NullRefiner(method.output(), SEEDS))
    objective = Objective(method.loss_terms(), {}, method.criterion)
    assembled = method.prompts.assemble(method.ctx).detach().clone()

    def step(number: int) -> Mapping[str, Tensor]:
        batch = vectors.batch(number, frozenset({"pooled"}))
        out = model(batch)
        hits = (out.logits().argmax(dim=-1) == batch.labels).double().mean()
        text = method.prompts.encode(method.clip, method.ctx)
        pooled = method.image_features(batch).pooled
        loss = objective(out, batch.labels)["ce"]
        logits = out.logits()
        return {"loss": loss, "logits": logits, "hits": hits * 100, "text": text, "image": pooled}

    for number, values in sgd_steps([method.ctx], step):
        yield f"loss{number}.total", values["loss"]
        yield f"out{number}.logits", values["logits"]
        if number == 1:
            yield "out1.accuracy", values["hits"]
            yield "out1.image_feature", values["image"]
            yield "out1.text_feature", values["text"]
            shape = vectors.tensors[_first(vectors, "out1.prompts")].shape
            yield "out1.prompts", assembled[:, : shape[1]]
            yield from gradients({"ctx": method.ctx})
    yield "after3.ctx", method.ctx.detach()
    yield "eval_after3.logits", model.eval()(vectors.eval_batch()).logits()


def _first(vectors: Vectors, ending: str) -> str:
    return next(name for name in vectors.tensors if name.endswith(ending))


@replays("textrefiner")
def replay_textrefiner(vectors: Vectors) -> Named:
    """TextRefiner with all released parts on CoOp."""
    clip = frozen_clip(vectors)
    c = vectors.constants
    placeholder = " ".join(["X"] * c["n_ctx"])
    yield from check_tokens(vectors, placeholder, clip.tokenizer)
    method = CoOp(
        clip,
        vectors.classes,
        SEEDS,
        num_ctx=c["n_ctx"],
        ctx_init="",
        class_position=c["class_position"],
    )
    refiner = _released_refiner(method.output(), c)
    model = RefinedMethod(method, refiner).double()
    named = _refiner_parameters(method, refiner)
    for name, parameter in (named | _refiner_buffers(refiner)).items():
        if f"param.{name}" in vectors.tensors:
            fill(parameter, vectors[f"param.{name}"])
    yield from _textrefiner_steps(vectors, model, named)
    state = named | _refiner_buffers(refiner)
    for name, value in state.items():
        yield f"after3.{name}", value.detach()
    yield "eval_after3.logits", model.eval()(vectors.eval_batch()).logits()


def _released_refiner(source: MethodOutput, c: Mapping[str, float]) -> TextRefiner:
    def cache(width: int, seeds: Seeds) -> EmaCache:
        return EmaCache(width, seeds, num_slots=int(c["memory"]), momentum=c["momentum"])

    def aggregation(width: int, seeds: Seeds) -> LinearAggregation:
        return LinearAggregation(width, seeds, alpha=c["alpha"])

    def semantic() -> SemanticLoss:
        return SemanticLoss(weight=1 / c["balance"], topk=int(c["topk"]))

    def regularization() -> L1Regularization:
        return L1Regularization(weight=c["distill"])

    return TextRefiner(
        source,
        SEEDS,
        alignment=MlpAlignment,
        cache=cache,
        aggregation=aggregation,
        semantic=semantic,
        regularization=regularization,
    )


def _refiner_parameters(method: CoOp, refiner: TextRefiner) -> dict[str, nn.Parameter]:
    alignment = refiner.alignment
    layers = {"fc1": alignment.fc1, "fc2": alignment.fc2, "bn": alignment.norm}
    named = {"ctx": method.ctx, "extractor.weight": refiner.aggregation.extractor.weight}
    for name, layer in layers.items():
        named[f"align.{name}.weight"] = layer.weight
        named[f"align.{name}.bias"] = layer.bias
    return named


def _refiner_buffers(refiner: TextRefiner) -> dict[str, Tensor]:
    norm = refiner.alignment.norm
    return {
        "cache": refiner.cache.slots_MD,
        "align.bn.running_mean": norm.running_mean,
        "align.bn.running_var": norm.running_var,
        "align.bn.count": norm.num_batches_tracked,
    }


def _textrefiner_steps(
    vectors: Vectors, model: RefinedMethod, named: Mapping[str, nn.Parameter]
) -> Named:
    method, refiner = model.method, model.refiner
    objective = Objective(method.loss_terms(), refiner.loss_terms(), method.criterion)
    need = frozenset({"pooled"}) | refiner.needs()
    weights = {"semantic": refiner.semantic.weight, "regularization": refiner.regularization.weight}
    recorded = {"ce": "global", "semantic": "semantic", "regularization": "regularisation"}
    kept: dict[str, Forward] = {}
    model.train()

    def step(number: int) -> Mapping[str, Tensor]:
        batch = vectors.batch(number, need)
        kept["out"] = out = model(batch)
        terms = objective(out, batch.labels)
        return {**terms, "loss": torch.stack(list(terms.values())).sum()}

    for number, values in sgd_steps(list(named.values()), step):
        out = kept["out"]
        yield f"loss{number}.total", values["loss"]
        for ours, theirs in recorded.items():
            yield f"loss{number}.{theirs}", values[ours] / weights.get(ours, 1.0)
        yield f"out{number}.logits", out.logits()
        yield f"out{number}.topk_index", refiner.semantic.top_patches(out) + 1
        yield f"out{number}.write_slot", refiner.cache.write_weights(_tokens(out))[0]
        yield f"cache{number}.before", refiner.cache.slots_MD.clone()
        if number == 1:
            yield from gradients(named)
            yield from _first_step(vectors, model, out)
        refiner.observe(out)
        yield f"cache{number}.after", refiner.cache.slots_MD.clone()


def _tokens(out: Forward) -> Tensor:
    return out.aux["aligned"].detach().flatten(0, 1)


def _first_step(vectors: Vectors, model: RefinedMethod, out: Forward) -> Named:
    refiner = model.refiner
    assert out.local is not None and out.attention is not None
    k = refiner.semantic.topk
    ordered = out.attention.sort(dim=-1, descending=True).values
    norm = refiner.alignment.norm
    yield "align1.running_mean", norm.running_mean.clone()
    yield "align1.running_var", norm.running_var.clone()
    yield "out1.aligned_tokens", out.aux["aligned"]
    yield "out1.attention_gap", ordered[:, k - 1] - ordered[:, k]
    yield "out1.attention_row", out.attention
    yield "out1.image_feature", out.image
    yield "out1.local_tokens", out.local
    yield "out1.local_logits", refiner.semantic.local_logits(out).flatten(0, 1)
    yield "out1.selected_tokens", refiner.semantic.rows(out).flatten(0, 1)
    yield "out1.text_feature", out.aux["plain_text"]
    yield "out1.refined_text_feature", out.text
    yield "out1.read_weights", refiner.cache.read_weights(out.aux["plain_text"])
    yield "out1.write_weights", refiner.cache.write_weights(_tokens(out))[1]
