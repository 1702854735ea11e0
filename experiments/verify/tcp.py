"""Replays recorded runs of TCP."""

from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from experiments.verify.kgcoop import released_words, replay_consistency
from experiments.verify.vectors import (
    SEEDS,
    Named,
    Vectors,
    check_prompts,
    fill,
    frozen_clip,
)
from methods.tcp import TCP


def replay_tcp(vectors: Vectors) -> Named:
    """Class-aware tokens that enter a block, and consistency with the hand-made texts."""
    clip = frozen_clip(vectors)
    method = _build(vectors, clip).double()
    named = parameters_of(method)
    for name, parameter in named.items():
        fill(parameter, vectors[f"param.{name}"])
    names = [name.replace("_", " ") for name in method.classes.names]
    prompts = [method.template.replace("{}", name) for name in names]
    yield from check_prompts(vectors, prompts, clip.tokenizer)
    yield "out1.class_prompt", method.class_prompts().detach().clone()
    yield "out1.block_input_prompt", _entering(method).detach()
    yield from replay_consistency(vectors, method, method.encode().detach(), named)


def parameters_of(method: TCP) -> dict[str, nn.Parameter]:
    """Trainable parameters by their recorded names."""
    named = {"ctx": method.ctx}
    for layer, module in (("fc1", method.fc1), ("fc2", method.fc2)):
        named |= {f"meta.{layer}.{kind}": value for kind, value in module.named_parameters()}
    return named


def _build(vectors: Vectors, clip: FrozenCLIP) -> TCP:
    c = vectors.constants
    c.require("n_ctx", len(vectors["param.ctx"]))
    return TCP(
        clip,
        vectors.classes,
        SEEDS,
        num_ctx=len(vectors["param.ctx"]),
        ctx_init=released_words(vectors),
        prompt_template=c["prompt_template"],
        class_prompt_length=c["class_prompt_length"],
        injection_block=c["injection_block"],
        injection_weight=c["injection_weight"],
        meta_hidden=c["meta_hidden"],
        weight=c["consistency_weight"],
        long_context="overwrite",
    )


class _Watch:
    """Keeps the tokens that enter each block, without the method's own."""

    def __init__(self) -> None:
        self.seen: dict[int, Tensor] = {}

    def enter(self, x_BLW: Tensor) -> Tensor:
        return x_BLW

    def before_block(self, layer: int, x_BLW: Tensor) -> Tensor:
        self.seen[layer] = x_BLW
        return x_BLW


def _entering(method: TCP) -> Tensor:
    """The tokens (C, N, W) that the class-aware ones replace or are mixed with."""
    watch, prompts = _Watch(), method.prompts
    method.clip.encode_text(prompts.assemble(method.ctx), prompts.eot_C, watch)
    return watch.seen[method.injection_block][:, 1 : 1 + method.class_prompt_length]
