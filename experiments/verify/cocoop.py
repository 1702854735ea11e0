"""Replays recorded runs of CoCoOp."""

from collections.abc import Mapping

from torch import Tensor

from core.train.model import RefinedMethod
from core.train.objective import Objective
from experiments.verify.vectors import (
    POOLED,
    SEEDS,
    Named,
    Vectors,
    check_tokens,
    fill,
    frozen_clip,
    gradients,
    sgd_steps,
    words_of,
)
from methods.base import unit
from methods.cocoop import CoCoOp
from refiners.null_refiner import NullRefiner


def replay_cocoop(vectors: Vectors) -> Named:
    """Three steps on batches; every image has a context of its own."""
    clip = frozen_clip(vectors)
    c = vectors.constants
    c.require("meta_hidden", len(vectors["param.meta.fc1.weight"]))
    method = CoCoOp(
        clip,
        vectors.classes,
        SEEDS,
        num_ctx=c["n_ctx"],
        ctx_init=words_of(vectors),
        meta_reduction=c["embed_dim"] // c["meta_hidden"],
    ).double()
    yield from check_tokens(vectors, method.placeholder, clip.tokenizer)
    c.require("n_ctx", len(method.ctx))
    named = {"ctx": method.ctx}
    named |= {f"meta.{name}": value for name, value in method.meta_net.named_parameters()}
    for name, parameter in named.items():
        fill(parameter, vectors[f"param.{name}"])
    model = RefinedMethod(method, NullRefiner(method.output(), SEEDS))
    objective = Objective(method.loss_terms(), {}, method.criterion)

    def step(number: int) -> Mapping[str, Tensor]:
        batch = vectors.batch(number, POOLED)
        out = model(batch)
        return {"loss": objective(out, batch.labels)["ce"], "logits": out.logits()}

    for number, values in sgd_steps(vectors, list(named.values()), step):
        yield f"loss{number}.total", values["loss"]
        yield f"out{number}.logits", values["logits"]
        if number == 1:
            yield from _first_step(vectors, method)
            yield from gradients(named)
    for name, parameter in named.items():
        yield f"{vectors.after}.{name}", parameter.detach()
    yield f"eval_{vectors.after}.logits", model.eval()(vectors.eval_batch()).logits()


def _first_step(vectors: Vectors, method: CoCoOp) -> Named:
    pooled = method.image_features(vectors.batch(1, POOLED)).pooled
    yield "out1.image_feature", pooled
    yield "out1.meta_bias", method.meta_net(unit(pooled))
    yield "out1.text_feature", method.encode(unit(pooled))
