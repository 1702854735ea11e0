"""Replays recorded runs of SEP."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.types import Batch, Forward
from experiments.verify.constants import Constants
from experiments.verify.kgcoop import released_words
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
    set_norms,
    sgd_steps,
)
from methods.sep import COSINE_EPS, SEP
from methods.token_fusion import TextFusion, VisionFusion
from refiners.null_refiner import NullRefiner

SHIFT = 0.5
FIRST_PRESET = list(range(1, 12))  # of the released lists of blocks, preset 0
RECORDED = {
    "attention.in_proj_": "attn.qkv.",
    "attention.out_proj.": "attn.out.",
    "norm": "ln",
    "scale": "s",
}


class Recorder:
    """Passes tokens through a fusion hook and keeps what enters and leaves each fused block."""

    def __init__(self, hook: TextFusion | VisionFusion) -> None:
        self.hook = hook
        self.before: dict[int, Tensor] = {}
        self.kept: dict[str, Tensor] = {}

    def enter(self, x_BLW: Tensor) -> Tensor:
        return self.hook.enter(x_BLW)

    def before_block(self, layer: int, x_BLW: Tensor) -> Tensor:
        after = self.hook.before_block(layer, x_BLW)
        if str(layer) in self.hook.fusions:
            tokens, prompts = self.hook.parts(x_BLW)
            _, fused = self.hook.parts(after)
            self.before[layer] = x_BLW
            self.kept |= {
                f"layer{layer}.tokens": tokens,
                f"layer{layer}.prompt": prompts,
                f"layer{layer}.out": fused,
            }
        return after


def replay_sep(vectors: Vectors) -> Named:
    """The released pair of scopes: prototypes, three steps, four batchings of the same images."""
    clip = frozen_clip(vectors)
    yield from check_hand_made(vectors, vectors.classes, clip.tokenizer)
    method = _released(vectors, clip)
    yield from check_tokens(vectors, method.placeholder, clip.tokenizer)
    _check_fusions(vectors.constants, clip)
    set_norms(vectors, method)
    named = _parameters(method)
    for name, parameter in named.items():
        if name != "proto":
            fill(parameter, vectors[f"param.{name}"])
    batches = range(len(vectors.tensors["in.images"]))
    method.begin_training([vectors.training_batch(index, POOLED) for index in batches], 1)
    yield "proto.init", method.prototypes.detach().clone()
    yield from _steps(vectors, method, named)
    for name, parameter in named.items():
        yield f"{vectors.after}.{name}", parameter.detach()
    yield from _evaluations(vectors, method)


def _released(vectors: Vectors, clip: FrozenCLIP) -> SEP:
    c = vectors.constants
    method = SEP(
        clip,
        vectors.classes,
        SEEDS,
        num_ctx=c["n_ctx"],
        ctx_init=released_words(vectors),
        num_ctx_vision=c["n_ctx_visual"],
        text_layers=tuple(c["active_text_layers"]),
        vision_layers=tuple(c["active_vision_layers"]),
        selection_scope="batch",
        fusion_axis="batch",
        fusion_hidden=c["fusion_hidden"],
        text_weight=c["W"],
        vision_weight=c["W_V"],
        prototype_scale=c["proto_scale"],
    )
    c.require("n_ctx", len(method.ctx))
    return method.double()


def _check_fusions(c: Constants, clip: FrozenCLIP) -> None:
    """The fused blocks are those of the recorded preset, their heads those of the tower."""
    c.require("cosine_eps", COSINE_EPS)
    if "layers" in c and (c.get("layers_option", 0) == 0) != (c["layers"] == FIRST_PRESET):
        raise c.refuse("layers", f"which preset {c.get('layers_option', 0)} of the release is not")
    for tower, depth in (("text", clip.spec.text_depth), ("vision", clip.spec.vision_depth)):
        if "layers" in c:
            c.require(f"active_{tower}_layers", [layer for layer in c["layers"] if layer < depth])
        c.require(f"fusion_{tower}_heads", c[f"{tower}_heads"])


def _parameters(method: SEP) -> dict[str, nn.Parameter]:
    """Parameters by their recorded names."""
    named = {"ctx": method.ctx, "ctx_visual": method.vision.ctx, "proto": method.prototypes}
    for tower, hook in (("text", method.text), ("vision", method.vision)):
        for name, parameter in hook.fusions.named_parameters():
            layer, _, rest = name.partition(".")
            for ours, theirs in RECORDED.items():
                rest = rest.replace(ours, theirs)
            named[f"fuse.{tower}.layer{layer}.{rest}"] = parameter
    return named


def _steps(vectors: Vectors, method: SEP, named: Mapping[str, nn.Parameter]) -> Named:
    model = RefinedMethod(method, NullRefiner(method.output(), SEEDS)).train()
    objective = Objective(method.loss_terms(), {}, method.criterion)
    kept: dict[str, Forward] = {}

    def step(number: int) -> Mapping[str, Tensor]:
        batch = vectors.batch(number, POOLED)
        kept["out"] = out = model(batch)
        terms = objective(out, batch.labels)
        return {**terms, "loss": torch.stack(list(terms.values())).sum()}

    for number, values in sgd_steps(vectors, list(named.values()), step):
        out, batch = kept["out"], vectors.batch(number, POOLED)
        yield f"loss{number}.total", values["loss"]
        yield f"loss{number}.ce", values["ce"]
        yield f"loss{number}.text_consistency", values["text_consistency"] / method.text_weight
        yield (
            f"loss{number}.visual_consistency",
            values["vision_consistency"] / method.vision_weight,
        )
        for theirs, image in (("prompted", out.image), ("frozen", out.aux["sep_frozen"])):
            logits = method.prototype_logits(image)
            yield f"loss{number}.prototype_{theirs}", method.criterion(logits, batch.labels)
            if number == 1:
                yield f"out1.proto_logits_{theirs}", logits
        yield f"out{number}.logits", out.logits()
        if number == 1:
            yield from gradients(named)
            yield from _first_step(method, batch, out)
        yield from _selected(method, batch, number)


@torch.no_grad()
def _selected(method: SEP, batch: Batch, number: int) -> Named:
    """The tokens selected by each fused block of the image tower; the same for every image."""
    recorder = Recorder(method.vision)
    assert batch.pixels is not None
    method.clip.encode_image(batch.pixels, recorder)
    for layer, before in recorder.before.items():
        yield f"out{number}.vision.layer{layer}.selected", method.vision.select(before)[0]


@torch.no_grad()
def _first_step(method: SEP, batch: Batch, out: Forward) -> Named:
    text, vision = Recorder(method.text), Recorder(method.vision)
    prompts = method.prompts
    assert batch.pixels is not None
    yield "out1.image_feature", out.image
    yield "out1.image_frozen", out.aux["sep_frozen"]
    yield "out1.image_prompted_raw", method.clip.encode_image(batch.pixels, vision).pooled
    yield "out1.text_feature", out.text
    yield "out1.text_fixed", method.handmade_CD
    embedding = prompts.assemble(method.ctx)
    yield "out1.text_prompted_raw", method.clip.encode_text(embedding, prompts.eot_C, text)
    for tower, recorder in (("text", text), ("vision", vision)):
        for name, value in recorder.kept.items():
            yield f"out1.fuse.{tower}.{name}", value
    for layer, before in vision.before.items():
        yield f"out1.vision.layer{layer}.power", method.vision.power(before)[0]


@torch.no_grad()
def _evaluations(vectors: Vectors, method: SEP) -> Named:
    """Released predictions depend on the batch: the same images together and separately."""
    method.eval()
    pixels = vectors.eval_batch().pixels
    assert pixels is not None

    def logits(some_BCHW: Tensor) -> Tensor:
        labels = torch.zeros(len(some_BCHW), dtype=torch.int64)
        out: Forward = method(Batch(labels=labels, pixels=some_BCHW))
        return out.logits()

    shifted = pixels.clone()
    shifted[0] += SHIFT
    yield f"eval_{vectors.after}.logits", logits(pixels)
    yield f"eval_{vectors.after}.logits_first_half", logits(pixels[: len(pixels) // 2])
    yield (
        f"eval_{vectors.after}.logits_one_by_one",
        torch.cat([logits(image[None]) for image in pixels]),
    )
    yield f"eval_{vectors.after}.logits_first_image_shifted", logits(shifted)
