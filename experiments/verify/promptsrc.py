"""Replays recorded runs of PromptSRC: self-regularization and the average over epochs."""

import re

import torch

from core.clip.frozen import FrozenCLIP
from core.train.averaging import gaussian_weights
from core.train.objective import Objective
from experiments.verify.constants import Constants
from experiments.verify.ivlp import (
    check_start,
    fill_prompts,
    prompts_of,
    replay_steps,
    settings,
)
from experiments.verify.vectors import (
    POOLED,
    SEEDS,
    Named,
    Vectors,
    check_tokens,
    frozen_clip,
)
from methods.base import unit
from methods.promptsrc import PromptSRC


def replay_promptsrc(vectors: Vectors) -> Named:
    """Three steps, then three averaged epochs from the same initial values."""
    c = vectors.constants
    c.without_effect("templates_in_released_list")  # the release's; the set has its own templates
    clip = frozen_clip(vectors)
    method = _build(vectors, clip)
    named = fill_prompts(vectors, method)
    yield from check_tokens(vectors, method.text_prompts.placeholder, clip.tokenizer)
    yield from _check_templates(vectors, clip)
    yield "out.fixed_text", method.template_mean()
    method.frozen_text_CD = unit(vectors["in.fixed_text"])
    yield from check_start(vectors, method)
    with torch.no_grad():
        out = method(vectors.batch(1, POOLED))
        yield "out1.image_frozen", method.frozen_pooled(vectors.batch(1, POOLED))
        yield "out1.zero_shot_logits", method.frozen_logits(out)
    terms = {"ce": 1.0, "text_l1": c["text_weight"], "image_l1": c["image_weight"], "logit_kl": 1.0}
    yield from replay_steps(vectors, method, terms)
    for name, parameter in named.items():
        yield f"{vectors.after}.{name}", parameter.detach()
    yield f"eval_{vectors.after}.logits", method.eval()(vectors.eval_batch()).logits()
    yield from _replay_average(vectors, clip)


def _build(vectors: Vectors, clip: FrozenCLIP) -> PromptSRC:
    c = vectors.constants
    method = PromptSRC(
        clip,
        vectors.classes,
        SEEDS,
        **settings(vectors),  # type: ignore[arg-type]
        text_weight=c["text_weight"],
        image_weight=c["image_weight"],
        templates=tuple(c["templates"]),
        average_mean=c["gpa"]["mean"],
        average_std=c["gpa"]["std"],
    )
    return method.double()


def _check_templates(vectors: Vectors, clip: FrozenCLIP) -> Named:
    """Token ids of the recorded templates."""
    names = [name.replace("_", " ") for name in vectors.constants["classes"]]
    templates = vectors.constants["templates"]
    ids = torch.stack([clip.tokenizer([t.format(name) for name in names]) for t in templates])
    yield "in.template_token_ids", ids


def _replay_average(vectors: Vectors, clip: FrozenCLIP) -> Named:
    """Epochs of SGD, and the average that replaces the last state."""
    gpa = vectors.constants["gpa"]
    _check_average(gpa)
    method = _build(vectors, clip)
    named = fill_prompts(vectors, method)
    method.frozen_text_CD = unit(vectors["in.fixed_text"])
    objective = Objective(method.loss_terms(), {}, method.criterion)
    optimizer = vectors.optimizer.build(list(named.values()))
    method.begin_training([], gpa["epochs"])
    for epoch, order in enumerate(gpa["batch_order"], start=1):
        for index in order:
            batch = vectors.training_batch(index, POOLED)
            optimizer.zero_grad()
            terms = objective(method(batch), batch.labels)
            torch.autograd.backward(torch.stack(list(terms.values())).sum())
            optimizer.step()
        method.end_epoch(epoch)
        for name, parameter in named.items():
            yield f"gpa.epoch{epoch}.{name}", parameter.detach().clone()
    method.end_training()
    for name, parameter in prompts_of(method).items():
        yield f"gpa.final.{name}", parameter.detach()
    yield "gpa.eval.logits", method.eval()(vectors.eval_batch()).logits()
    yield from _weights(vectors)


def _check_average(gpa: Constants) -> None:
    """The stated numbers of epochs and batches are those of the recorded order."""
    gpa.require("epochs", len(gpa["batch_order"]))
    for order in gpa["batch_order"]:
        gpa.require("batches_per_epoch", len(order))


def _weights(vectors: Vectors) -> Named:
    """Weights of the recorded epochs and of the released configurations."""
    gpa = vectors.constants["gpa"]
    weights = gaussian_weights(gpa["epochs"], mean=gpa["mean"], std=gpa["std"])
    yield "gpa.weights", torch.tensor(weights, dtype=torch.float64)
    for name in vectors.tensors:
        if found := re.fullmatch(r"gpa\.released_weights\.epochs(\d+)_mean(\d+)_std(\d+)", name):
            epochs, mean, std = map(int, found.groups())
            weights = gaussian_weights(epochs, mean=mean, std=std)
            yield name, torch.tensor(weights, dtype=torch.float64)
