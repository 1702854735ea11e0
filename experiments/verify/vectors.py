"""A set of reference vectors, and what every replay needs: the recorded backbone, the recorded
initial values, the recorded SGD steps. Sizes, norms, activation, optimizer and number of steps are
those that the set states.

A set is a pair of files ``NAME.json`` (constants) and ``NAME.safetensors`` (tensors).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.clip.backbone import build_open_clip
from core.clip.frozen import FrozenCLIP
from core.clip.tokenizer import AnyTokenizer, Tokenizer
from core.seeding import Seeds
from core.types import Batch, ClassNames
from experiments.verify.constants import Constants, RecordedSGD, recorded_sgd

SEEDS = Seeds(0)  # every value they draw is replaced by a recorded one
POOLED = frozenset({"pooled"})
TOWERS = ("text", "vision")
SIZES = ("embed_dim", *(f"{t}_{size}" for t in TOWERS for size in ("width", "heads", "layers")))
QUICK_GELU = {"x*sigmoid(1.702x)": True, "quick_gelu": True, "gelu": False}

Named = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True)
class Vectors:
    """One set of reference vectors."""

    name: str
    constants: Constants
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        object.__setattr__(self, "constants", Constants.of(self.constants))

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        return tensor.double() if tensor.is_floating_point() else tensor

    def prefixed(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): self[k] for k in self.tensors if k.startswith(prefix)}

    @property
    def optimizer(self) -> RecordedSGD:
        return recorded_sgd(self.constants)

    @property
    def order(self) -> tuple[int, ...]:
        """The training batch of each recorded step."""
        batches = len(self.tensors["in.images"])
        steps = int(self.constants.get("steps", batches))
        order = self.optimizer.order
        if order is not None and len(order) != steps:
            raise self.constants.refuse("steps", f"but its optimizer has the batches {order}")
        if steps < 1 or (order is None and steps > batches):
            raise self.constants.refuse("steps", f"here {batches} batches")
        return tuple(range(steps)) if order is None else order

    @property
    def steps(self) -> range:
        """The numbers of the recorded steps, from 1 on."""
        return range(1, len(self.order) + 1)

    @property
    def after(self) -> str:
        """The recorded name of the state after the last step, such as "after3"."""
        return f"after{len(self.order)}"

    def batch(self, step: int, need: frozenset[str]) -> Batch:
        """Training batch of a step, counted from 1."""
        return self.training_batch(self.order[step - 1], need)

    def training_batch(self, index: int, need: frozenset[str], labels: str = "in.labels") -> Batch:
        """A training batch by its place among the recorded ones, from 0 on."""
        return Batch(labels=self[labels][index], pixels=self["in.images"][index], need=need)

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


def check_common(vectors: Vectors) -> None:
    """Compare what every set states of itself with its tensors and with this project.

    Raises NotReplayableError.
    """
    c, images = vectors.constants, vectors.tensors["in.images"]
    # Names of what was recorded: its values are tensors, the dataset's template is a constant.
    c.without_effect("set", "seed", "dataset")
    c.require("dtype_of_the_run", "float64")
    c.require("batch", images.shape[1])
    c.require("image_size", images.shape[-1])
    c.require("patches", (c["image_size"] // c["patch"]) ** 2)
    c.require("steps", len(vectors.order))


def frozen_clip(vectors: Vectors, sizes: Mapping[str, int] | None = None) -> FrozenCLIP:
    """The recorded backbone in float64; ``sizes`` of its towers where the set has several."""
    c = vectors.constants
    size = {name: c[name] for name in SIZES} if sizes is None else sizes
    for tower in TOWERS:
        width, heads = size[f"{tower}_width"], size[f"{tower}_heads"]
        c.require("head_dim", width / heads)
    model = build_open_clip(
        {
            "embed_dim": size["embed_dim"],
            "quick_gelu": _quick_gelu(c),
            "vision_cfg": {
                "layers": size["vision_layers"],
                "width": size["vision_width"],
                "head_width": size["vision_width"] // size["vision_heads"],
                "patch_size": c["patch"],
                "image_size": c["image_size"],
                "mlp_ratio": c["mlp_ratio"],
            },
            "text_cfg": {
                "layers": size["text_layers"],
                "width": size["text_width"],
                "heads": size["text_heads"],
                "context_length": c["context_length"],
                "mlp_ratio": c["mlp_ratio"],
            },
        }
    ).double()
    _load_recorded(model, vectors)
    set_norms(vectors, model)
    return FrozenCLIP(model, Tokenizer(c["context_length"]), name=vectors.name)


def _quick_gelu(c: Constants) -> bool:
    """Whether the towers have CLIP's own activation, which a set that says nothing has."""
    name = str(c.get("activation", "quick_gelu")).replace(" ", "").lower()
    if name not in QUICK_GELU:
        raise c.refuse("activation", f"here {' or '.join(QUICK_GELU)}")
    return QUICK_GELU[name]


def set_norms(vectors: Vectors, module: nn.Module) -> None:
    """Give every normalization layer the recorded epsilon and momentum."""
    c = vectors.constants
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = float(c.get("layernorm_eps", layer.eps))
        elif isinstance(layer, nn.BatchNorm1d):
            layer.eps = float(c.get("bn_eps", layer.eps))
            layer.momentum = float(c.get("bn_momentum", layer.momentum))


def words_of(vectors: Vectors) -> str:
    """The recorded words that the context starts from; empty for random vectors."""
    words = vectors.constants.get("ctx_init") or ""
    if not isinstance(words, str):
        raise vectors.constants.refuse("ctx_init", "here words")
    return words.replace("_", " ")


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
    vectors: Vectors,
    parameters: list[nn.Parameter],
    step: Callable[[int], Mapping[str, Tensor]],
) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """The recorded SGD steps; yields after each backward pass, before the update."""
    optimizer = vectors.optimizer.build(parameters)
    for number in vectors.steps:
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
        blocks = model.get_submodule(f"{ours}.resblocks")
        for layer in range(len(list(blocks.children()))):
            block, target = f"{tower}.block{layer}", f"{ours}.resblocks.{layer}"
            names |= _block_names(block, target)
        fc1 = vectors.tensors[f"clip.{tower}.block0.mlp.fc1.weight"]
        vectors.constants.require("mlp_ratio", fc1.shape[0] / fc1.shape[1])
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
