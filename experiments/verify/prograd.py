"""Replays recorded runs of ProGrad: labels that agree with the zero-shot model, and conflict."""

from collections.abc import Mapping

import torch
from torch import Tensor

from core.clip.frozen import FrozenCLIP
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.types import Batch
from experiments.verify.vectors import (
    POOLED,
    SEEDS,
    Named,
    Vectors,
    check_hand_made,
    check_tokens,
    fill,
    frozen_clip,
)
from methods.prograd import ProGrad
from refiners.null_refiner import NullRefiner

LABELS = "in.labels."


def replay_prograd(vectors: Vectors) -> Named:
    """The gradient that reaches the optimizer, with and without a conflict."""
    clip = frozen_clip(vectors)
    method = _build(vectors, clip)
    yield from check_tokens(vectors, method.placeholder, clip.tokenizer)
    yield from check_hand_made(vectors, vectors.classes, clip.tokenizer)
    yield "out1.text_feature", method.prompts.encode(clip, method.ctx).detach()
    yield "out1.text_fixed", method.get_buffer("fixed_CD")
    for case in (k.removeprefix(LABELS) for k in vectors.tensors if k.startswith(LABELS)):
        batch = _batch(vectors, case, 1)
        yield "out1.image_feature", method.image_features(batch).pooled
        for name, value in _steps(vectors, _build(vectors, clip), case):
            yield f"{case}.{name}", value


def _build(vectors: Vectors, clip: FrozenCLIP) -> ProGrad:
    """The recorded start. A true CTX_INIT takes the template's words, as None does here."""
    c, ctx = vectors.constants, vectors["param.ctx"]
    c.require("n_ctx", ctx.shape[-2])
    scope = c.get("projection_scope", "tensor")
    if scope not in ("tensor", "vector"):
        raise c.refuse("projection_scope", "here 'tensor' or 'vector'")
    method = ProGrad(
        clip,
        vectors.classes,
        SEEDS,
        num_ctx=ctx.shape[-2],
        ctx_init=None if c.get("ctx_init") else "",
        class_position=c.get("class_position", "end"),
        class_specific=ctx.dim() == 3,
        strength=c["lambda_"],
        temperature=c["temperature"],
        projection_scope=scope,
    ).double()
    fill(method.ctx, ctx)
    return method


def _batch(vectors: Vectors, case: str, number: int) -> Batch:
    return vectors.training_batch(vectors.order[number - 1], POOLED, f"{LABELS}{case}")


def _steps(vectors: Vectors, method: ProGrad, case: str) -> Named:
    """The recorded steps with the projected gradient."""
    model = RefinedMethod(method, NullRefiner(method.output(), SEEDS))
    objective = Objective(method.loss_terms(), {}, method.criterion, method.guide_terms())
    optimizer = vectors.optimizer.build([method.ctx])
    for number in vectors.steps:
        optimizer.zero_grad()
        batch = _batch(vectors, case, number)
        out = model(batch)
        ce = objective(out, batch.labels)["ce"]
        kl = objective.guides(out, batch.labels)["zero_shot"]
        yield f"out{number}.logits", out.logits()
        yield f"out{number}.zero_shot_logits", method.zero_shot_logits(out)
        yield f"loss{number}.ce", ce
        yield f"loss{number}.kl", kl
        found = _gradients(method, ce, kl)
        for name, gradient in found.items():
            yield f"grad{number}.{name}", gradient
        a, b = found["ce.ctx"], found["kl.ctx"]
        yield f"out{number}.gradient_cosine", (a * b).sum() / a.norm() / b.norm()
        optimizer.step()
    yield f"{vectors.after}.ctx", method.ctx.detach()
    yield f"eval_{vectors.after}.logits", model.eval()(vectors.eval_batch()).logits()


def _gradients(method: ProGrad, ce: Tensor, kl: Tensor) -> Mapping[str, Tensor]:
    """The gradients of both terms, and what the method makes of them for the optimizer."""
    (guide,) = torch.autograd.grad(kl, [method.ctx], retain_graph=True)
    torch.autograd.backward(ce)
    assert method.ctx.grad is not None
    own = method.ctx.grad.clone()
    method.after_backward({"zero_shot": {"ctx": guide}})
    return {"ce.ctx": own, "kl.ctx": guide, "ctx": method.ctx.grad.clone()}
