"""Replays recorded runs of IVLP, and what PromptSRC's replay shares with it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
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
)
from methods.ivlp import IVLP
from refiners.null_refiner import NullRefiner

RELEASED_INIT_LIMIT = 4  # beyond it the release ignores the words and starts at random


def settings(vectors: Vectors) -> dict[str, object]:
    """The recorded hyper-parameters of the prompts under the names used here."""
    c = vectors.constants
    words = c.get("ctx_init") or ""
    return {
        "num_ctx_text": c["n_ctx_text"],
        "num_ctx_vision": c["n_ctx_vision"],
        "depth_text": c["depth_text"],
        "depth_vision": c["depth_vision"],
        "ctx_init": words if c["n_ctx_text"] <= RELEASED_INIT_LIMIT else "",
    }


def prompts_of(method: IVLP) -> dict[str, nn.Parameter]:
    """Trainable parameters by their recorded names."""
    named = {f"prompt_text{i}": p for i, p in enumerate(method.text_prompts.prompts)}
    return named | {f"prompt_vision{i}": p for i, p in enumerate(method.vision_prompts.prompts)}


def fill_prompts(vectors: Vectors, method: IVLP) -> dict[str, nn.Parameter]:
    """Load the recorded initial values into the prompts; returns the prompts by name."""
    named = prompts_of(method)
    for name, parameter in named.items():
        fill(parameter, vectors[f"param.{name}"])
    return named


def replay_ivlp(vectors: Vectors) -> Named:
    """Deep prompts in both towers under cross-entropy."""
    clip = frozen_clip(vectors)
    method = IVLP(clip, vectors.classes, SEEDS, **settings(vectors)).double()  # type: ignore[arg-type]
    named = fill_prompts(vectors, method)
    yield from check_tokens(vectors, method.text_prompts.placeholder, clip.tokenizer)
    yield from check_start(vectors, method)
    yield from replay_steps(vectors, method, {})
    for name, parameter in named.items():
        yield f"{vectors.after}.{name}", parameter.detach()
    yield f"eval_{vectors.after}.logits", method.eval()(vectors.eval_batch()).logits()


def check_start(vectors: Vectors, method: IVLP) -> Named:
    """The outputs of the towers before the first step."""
    length = vectors.tensors["out1.prompts"].shape[1]
    with torch.no_grad():
        yield "out1.prompts", padded(method.clip, method.text_prompts.assemble(), length)
        yield "out1.text_feature", method.text_prompts.encode(method.clip)
        yield "out1.image_feature", method.image_features(vectors.batch(1, POOLED)).pooled


def padded(clip: FrozenCLIP, prompts_CLW: Tensor, length: int) -> Tensor:
    """Prompts cut, or filled with the padding token, to a length."""
    missing = max(length - prompts_CLW.shape[1], 0)
    ids = torch.zeros(len(prompts_CLW), missing, dtype=torch.int64)
    return torch.cat([prompts_CLW, clip.embed_tokens(ids)], dim=1)[:, :length]


def replay_steps(vectors: Vectors, method: IVLP, terms: Mapping[str, float]) -> Named:
    """Three steps; ``terms`` are the separately recorded loss terms with their weights."""
    model = RefinedMethod(method, NullRefiner(method.output(), SEEDS))
    objective = Objective(method.loss_terms(), {}, method.criterion)
    named = prompts_of(method)
    model.train()

    def step(number: int) -> Mapping[str, Tensor]:
        batch = vectors.batch(number, POOLED)
        out = model(batch)
        values = objective(out, batch.labels)
        total = torch.stack(list(values.values())).sum()
        return {**values, "loss": total, "logits": out.logits()}

    for number, values in sgd_steps(vectors, list(named.values()), step):
        yield f"loss{number}.total", values["loss"]
        yield f"out{number}.logits", values["logits"]
        for name, weight in terms.items():
            yield f"loss{number}.{name}", values[name] / weight
        if number == 1:
            yield from gradients(named)
