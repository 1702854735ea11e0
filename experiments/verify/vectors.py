"""A set of reference vectors, and what every replay needs: the recorded backbone, the recorded
initial values, three SGD steps.

A set is a pair of files ``NAME.json`` (constants) and ``NAME.safetensors`` (tensors).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.clip.backbone import build_open_clip
from core.clip.frozen import FrozenCLIP
from core.clip.tokenizer import AnyTokenizer, Tokenizer
from core.seeding import Seeds
from core.types import Batch, ClassNames

LEARNING_RATE = 0.01
SEEDS = Seeds(0)  # every value they draw is replaced by a recorded one
POOLED = frozenset({"pooled"})

Named = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True)
class Vectors:
    """One set of reference vectors."""

    name: str
    constants: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        return tensor.double() if tensor.is_floating_point() else tensor

    def prefixed(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): self[k] for k in self.tensors if k.startswith(prefix)}

    def batch(self, step: int, need: frozenset[str]) -> Batch:
        """Training batch of step 1, 2 or 3."""
        return Batch(
            labels=self["in.labels"][step - 1], pixels=self["in.images"][step - 1], need=need
        )

    def eval_batch(self) -> Batch:
        pixels = self["in.eval_images"]
        return Batch(labels=torch.zeros(len(pixels), dtype=torch.int64), pixels=pixels)

    @property
    def classes(self) -> ClassNames:
        """The recorded classes, with the recorded hand-made template where there is one."""
        names = tuple(self.constants["classes"])
        template = self.constants.get("template")
        return (
            ClassNames(names=names)
            if template is None
            else ClassNames(names=names, template=template)
        )


def frozen_clip(vectors: Vectors) -> FrozenCLIP:
    """The recorded backbone in float64."""
    c = vectors.constants
    model = build_open_clip(
        {
            "embed_dim": c["embed_dim"],
            "quick_gelu": True,
            "vision_cfg": {
                "layers": c["vision_layers"],
                "width": c["vision_width"],
                "head_width": c["vision_width"] // c["vision_heads"],
                "patch_size": c["patch"],
                "image_size": c["image_size"],
                "mlp_ratio": c["mlp_ratio"],
            },
            "text_cfg": {
                "layers": c["text_layers"],
                "width": c["text_width"],
                "heads": c["text_heads"],
                "context_length": c["context_length"],
                "mlp_ratio": c["mlp_ratio"],
            },
        }
    ).double()
    _load_recorded(model, vectors)
    return FrozenCLIP(model, Tokenizer(c["context_length"]), name=vectors.name)


def check_tokens(vectors: Vectors, placeholder: str, tokenizer: AnyTokenizer) -> Named:
    """Computed token ids, end positions and name lengths of the recorded class names."""
    names = [name.replace("_", " ") for name in vectors.constants["classes"]]
    yield from check_prompts(vectors, [f"{placeholder} {name}." for name in names], tokenizer)
    if "in.name_lens" in vectors.tensors:
        yield "in.name_lens", torch.tensor([len(tokenizer.encode(name)) for name in names])


def check_prompts(vectors: Vectors, prompts: Sequence[str], tokenizer: AnyTokenizer) -> Named:
    """Computed token ids and end positions of the learned prompts."""
    yield "in.eot", tokenizer(prompts).argmax(dim=-1)
    yield from _ids(vectors, "", prompts, tokenizer)


def check_hand_made(vectors: Vectors, classes: ClassNames, tokenizer: AnyTokenizer) -> Named:
    """Computed token ids of the hand-made prompts."""
    yield from _ids(vectors, "handmade_", classes.prompts(), tokenizer)


def _ids(vectors: Vectors, kind: str, prompts: Sequence[str], tokenizer: AnyTokenizer) -> Named:
    """Token ids, and their rows among the recorded embeddings."""
    ids = tokenizer(prompts)
    rows = {int(token): row for row, token in enumerate(vectors["in.token_row_ids"])}
    yield f"in.{kind}token_ids", ids
    index = torch.tensor([[rows.get(int(i), -1) for i in r] for r in ids])
    yield f"in.{kind}token_rows_index", index


@torch.no_grad()
def fill(parameter: Tensor, value: Tensor) -> None:
    """Load a recorded value into a parameter or buffer."""
    parameter.copy_(value.reshape(parameter.shape))


def gradients(named: Mapping[str, Tensor]) -> Named:
    """Recorded names of step 1's gradients."""
    for name, parameter in named.items():
        assert parameter.grad is not None, f"{name} got no gradient"
        yield f"grad1.{name}", parameter.grad.clone()


def sgd_steps(
    parameters: list[nn.Parameter], step: Callable[[int], Mapping[str, Tensor]]
) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """Three plain SGD steps; yields after each backward pass, before the update."""
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE)
    for number in (1, 2, 3):
        optimizer.zero_grad()
        values = step(number)
        torch.autograd.backward(values["loss"])
        yield number, values
        optimizer.step()


def _load_recorded(model: nn.Module, vectors: Vectors) -> None:
    """Copy ``clip.*`` into an open_clip model; tokens that no prompt uses stay zero."""
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    rows = vectors["clip.text.token_rows"]
    state["token_embedding.weight"][vectors["in.token_row_ids"]] = rows
    names = {
        "logit_scale": "logit_scale_log",
        "positional_embedding": "text.pos",
        "text_projection": "text.proj",
        "ln_final.weight": "text.ln_final.weight",
        "ln_final.bias": "text.ln_final.bias",
        "visual.class_embedding": "vision.cls",
        "visual.positional_embedding": "vision.pos",
        "visual.proj": "vision.proj",
        "visual.conv1.weight": "vision.patch.weight",
    }
    for layer_norm in ("ln_pre", "ln_post"):
        for kind in ("weight", "bias"):
            names[f"visual.{layer_norm}.{kind}"] = f"vision.{layer_norm}.{kind}"
    for tower, ours in (("text", "transformer"), ("vision", "visual.transformer")):
        for layer in range(vectors.constants[f"{tower}_layers"]):
            block, target = f"{tower}.block{layer}", f"{ours}.resblocks.{layer}"
            names |= _block_names(block, target)
    for ours, theirs in names.items():
        state[ours] = vectors[f"clip.{theirs}"].reshape(state[ours].shape)
    model.load_state_dict(state)


def _block_names(block: str, target: str) -> dict[str, str]:
    pairs = {
        "attn.in_proj_weight": "attn.qkv.weight",
        "attn.in_proj_bias": "attn.qkv.bias",
    }
    modules = {
        "attn.out_proj": "attn.out",
        "ln_1": "ln1",
        "ln_2": "ln2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    for ours, theirs in modules.items():
        pairs |= {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}
    return {f"{target}.{ours}": f"{block}.{theirs}" for ours, theirs in pairs.items()}
