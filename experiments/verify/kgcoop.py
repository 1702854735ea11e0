"""Replays recorded runs of KgCoOp, and what TCP's replay shares with it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.train.model import RefinedMethod
from core.train.objective import Objective
from experiments.verify.vectors import (
    POOLED,
    SEEDS,
    Named,
    Vectors,
    check_hand_made,
    check_tokens,
    fill,
    frozen_clip,
    gradients,
    sgd_steps,
)
from methods.kgcoop import KgCoOp
from methods.tcp import TCP
from refiners.null_refiner import NullRefiner

RELEASED_WORDS = "a photo of a"
COSINE_EPS = 1e-7  # the release's; both texts have unit length, so that it has no effect


def released_words(vectors: Vectors) -> str:
    """The words of the context: the release takes any true CTX_INIT for these."""
    return RELEASED_WORDS if vectors.constants.get("ctx_init") else ""


def replay_kgcoop(vectors: Vectors) -> Named:
    """Cross-entropy and consistency with the hand-made texts."""
    c, clip = vectors.constants, frozen_clip(vectors)
    ctx = vectors["param.ctx"]
    c.require("n_ctx", ctx.shape[-2])
    method = KgCoOp(
        clip,
        vectors.classes,
        SEEDS,
        num_ctx=ctx.shape[-2],
        ctx_init=released_words(vectors),
        class_specific=ctx.dim() == 3,
        weight=c["consistency_weight"],
    ).double()
    fill(method.ctx, ctx)
    yield from check_tokens(vectors, method.placeholder, clip.tokenizer)
    text = method.prompts.encode(clip, method.ctx).detach()
    yield from replay_consistency(vectors, method, text, {"ctx": method.ctx})


def replay_consistency(
    vectors: Vectors, method: KgCoOp | TCP, text_CD: Tensor, named: Mapping[str, nn.Parameter]
) -> Named:
    """The start, three steps, and the logits after them."""
    vectors.constants.require("cosine_eps", COSINE_EPS)
    fixed_CD = method.get_buffer("fixed_CD")
    yield from check_hand_made(vectors, vectors.classes, method.clip.tokenizer)
    yield "out1.text_feature", text_CD
    yield "out1.text_fixed", fixed_CD
    yield "out1.cosine", torch.cosine_similarity(text_CD, fixed_CD, dim=-1, eps=COSINE_EPS)
    yield "out1.image_feature", method.image_features(vectors.batch(1, POOLED)).pooled
    model = RefinedMethod(method, NullRefiner(method.output(), SEEDS))
    objective = Objective(method.loss_terms(), {}, method.criterion)

    def step(number: int) -> Mapping[str, Tensor]:
        batch = vectors.batch(number, POOLED)
        out = model(batch)
        terms = objective(out, batch.labels)
        apart = 1 - torch.cosine_similarity(out.text, fixed_CD, dim=-1, eps=COSINE_EPS).mean()
        total = torch.stack(list(terms.values())).sum()
        return {**terms, "apart": apart, "loss": total, "logits": out.logits()}

    for number, values in sgd_steps(vectors, list(named.values()), step):
        yield f"loss{number}.total", values["loss"]
        yield f"loss{number}.ce", values["ce"]
        yield f"loss{number}.text_consistency", values["apart"]
        yield f"out{number}.logits", values["logits"]
        if number == 1:
            yield from gradients(named)
    for name, parameter in named.items():
        yield f"{vectors.after}.{name}", parameter.detach()
    yield f"eval_{vectors.after}.logits", model.eval()(vectors.eval_batch()).logits()
