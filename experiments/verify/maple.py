"""Replays recorded runs of MaPLe."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from core.train.model import RefinedMethod
from core.train.objective import Objective
from experiments.verify.ivlp import RELEASED_INIT_LIMIT, padded
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
)
from methods.maple import MaPLe
from refiners.null_refiner import NullRefiner


def replay_maple(vectors: Vectors) -> Named:
    """Deep text prompts, and the maps that make vision prompts of them."""
    clip = frozen_clip(vectors)
    method = _build(vectors, clip).double()
    named = parameters_of(method)
    for name, parameter in named.items():
        fill(parameter, vectors[f"param.{name}"])
    yield from check_tokens(vectors, method.text_prompts.placeholder, clip.tokenizer)
    yield from _start(vectors, method)
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
            yield from gradients(named)
    for name, parameter in named.items():
        yield f"{vectors.after}.{name}", parameter.detach()
    yield f"eval_{vectors.after}.logits", model.eval()(vectors.eval_batch()).logits()


def parameters_of(method: MaPLe) -> dict[str, nn.Parameter]:
    """Trainable parameters by their recorded names."""
    named = {f"prompt_text{i}": p for i, p in enumerate(method.text_prompts.prompts)}
    for i, layer in enumerate(method.couplings):
        named |= {f"couple{i}.{kind}": value for kind, value in layer.named_parameters()}
    return named


def _build(vectors: Vectors, clip: FrozenCLIP) -> MaPLe:
    c = vectors.constants
    words = c.get("ctx_init") or ""
    depth = c["depth"]
    return MaPLe(
        clip,
        vectors.classes,
        SEEDS,
        num_ctx=c["n_ctx"],
        depth=depth,
        ctx_init=words if c["n_ctx"] <= RELEASED_INIT_LIMIT else "",
        coupling="per_depth" if f"param.couple{depth - 1}.weight" in vectors.tensors else "shared",
        coupling_bias="param.couple0.bias" in vectors.tensors,
    )


@torch.no_grad()
def _start(vectors: Vectors, method: MaPLe) -> Named:
    """The outputs of the towers before the first step."""
    length = vectors.tensors["out1.prompts"].shape[1]
    yield "out1.prompts", padded(method.clip, method.text_prompts.assemble(), length)
    yield "out1.text_feature", method.text_prompts.encode(method.clip)
    yield "out1.image_feature", method.image_features(vectors.batch(1, POOLED)).pooled
    for i, prompt in enumerate(method.vision_prompts()):
        yield f"out1.prompt_vision{i}", prompt
