"""Replays recorded runs of CoOp."""

from collections.abc import Mapping

from torch import Tensor

from core.clip.prompts import placeholder_of
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
from methods.coop import CoOp
from refiners.null_refiner import NullRefiner


def replay_coop(vectors: Vectors) -> Named:
    """Three class positions, shared and class-specific context."""
    clip = frozen_clip(vectors)
    placeholder = placeholder_of(words_of(vectors), vectors.constants["n_ctx"])
    yield from check_tokens(vectors, placeholder, clip.tokenizer)
    for position in ("end", "middle", "front"):
        for kind in ("generic", "csc"):
            method = CoOp(
                clip,
                vectors.classes,
                SEEDS,
                num_ctx=vectors.constants["n_ctx"],
                ctx_init=words_of(vectors),
                class_position=position,
                class_specific=kind == "csc",
            ).double()
            vectors.constants.require("n_ctx", method.ctx.shape[-2])
            fill(method.ctx, vectors[f"param.ctx.{kind}"])
            for name, value in _coop_steps(vectors, method):
                yield f"{position}.{kind}.{name}", value


def _coop_steps(vectors: Vectors, method: CoOp) -> Named:
    model = RefinedMethod(method, NullRefiner(method.output(), SEEDS))
    objective = Objective(method.loss_terms(), {}, method.criterion)
    assembled = method.prompts.assemble(method.ctx).detach().clone()

    def step(number: int) -> Mapping[str, Tensor]:
        batch = vectors.batch(number, POOLED)
        out = model(batch)
        hits = (out.logits().argmax(dim=-1) == batch.labels).double().mean()
        text = method.prompts.encode(method.clip, method.ctx)
        pooled = method.image_features(batch).pooled
        loss = objective(out, batch.labels)["ce"]
        logits = out.logits()
        return {"loss": loss, "logits": logits, "hits": hits * 100, "text": text, "image": pooled}

    for number, values in sgd_steps(vectors, [method.ctx], step):
        yield f"loss{number}.total", values["loss"]
        yield f"out{number}.logits", values["logits"]
        if number == 1:
            yield "out1.accuracy", values["hits"]
            yield "out1.image_feature", values["image"]
            yield "out1.text_feature", values["text"]
            shape = vectors.tensors[_first(vectors, "out1.prompts")].shape
            yield "out1.prompts", assembled[:, : shape[1]]
            yield from gradients({"ctx": method.ctx})
    yield f"{vectors.after}.ctx", method.ctx.detach()
    yield f"eval_{vectors.after}.logits", model.eval()(vectors.eval_batch()).logits()


def _first(vectors: Vectors, ending: str) -> str:
    return next(name for name in vectors.tensors if name.endswith(ending))
