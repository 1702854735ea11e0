"""Sets of reference vectors of other settings, from a plain implementation of the equations.

Nothing of the suite's towers, prompts or methods is used, only its tokenizer: the towers run on all
tokens, in float64, as the equations in the published sets state. Shapes: B images, C classes, L
tokens, N context tokens, W tower width, D joint width.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tests.helpers.tiny_clip import tokenizer

Named = dict[str, Tensor]
Change = Callable[[int, Tensor], Tensor]
Activation = Callable[[Tensor], Tensor]
BATCH, EVAL, LENGTH = 4, 3, 77
SIZES: dict[str, Any] = {
    "image_size": 16, "patch": 8, "patches": 4, "text_width": 32, "text_heads": 2,
    "text_layers": 3, "vision_width": 48, "vision_heads": 3, "vision_layers": 4,
    "embed_dim": 24, "context_length": LENGTH, "layernorm_eps": 1e-5, "mlp_ratio": 4,
}  # fmt: skip
ACTIVATIONS: Mapping[str, Activation] = {
    "x*sigmoid(1.702x)": lambda z: z * (1.702 * z).sigmoid(),
    "gelu": lambda z: z * (1 + (z / 2**0.5).erf()) / 2,
}
NAMES = ("cat", "golden_retriever", "hot air balloon", "sea_anemone")


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


class Recorder:
    """A random CLIP, inputs, and the steps of a training on them, kept by their recorded names."""

    def __init__(
        self, seed: int = 0, names: tuple[str, ...] = NAMES, *, lr: float = 0.01,
        num_steps: int = 3, momentum: float = 0.0, weight_decay: float = 0.0,
        activation: str = "x*sigmoid(1.702x)", **sizes: float,
    ) -> None:  # fmt: skip
        self.sizes = {**SIZES, **sizes}
        self.names = names
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.num_steps, self.activation = num_steps, activation
        self.random = torch.Generator().manual_seed(seed)
        self.tensors: Named = {}
        self.rows: dict[int, int] = {}
        self._clip()
        side = self.sizes["image_size"]
        self.tensors["in.images"] = self._draw(num_steps, BATCH, 3, side, side)
        self.tensors["in.eval_images"] = self._draw(EVAL, 3, side, side)
        self.tensors["in.labels"] = torch.randint(
            len(names), (num_steps, BATCH), generator=self.random
        )

    def _draw(self, *shape: int, std: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=self.random) * std

    def _clip(self) -> None:
        s = self.sizes
        given: Named = {"logit_scale_log": torch.tensor(2.5)}
        for tower in ("text", "vision"):
            width = s[f"{tower}_width"]
            for i in range(s[f"{tower}_layers"]):
                shapes = {
                    "attn.qkv": (3 * width, width), "attn.out": (width, width),
                    "mlp.fc1": (s["mlp_ratio"] * width, width),
                    "mlp.fc2": (width, s["mlp_ratio"] * width),
                }  # fmt: skip
                for name, shape in shapes.items():
                    given[f"{tower}.block{i}.{name}.weight"] = self._draw(*shape, std=0.15)
                    given[f"{tower}.block{i}.{name}.bias"] = self._draw(shape[0], std=0.1)
                for name in ("ln1", "ln2"):
                    self._norm(given, f"{tower}.block{i}.{name}", width)
            given[f"{tower}.proj"] = self._draw(width, s["embed_dim"], std=0.2)
        self._norm(given, "text.ln_final", s["text_width"])
        self._norm(given, "vision.ln_pre", s["vision_width"])
        self._norm(given, "vision.ln_post", s["vision_width"])
        given["text.pos"] = self._draw(LENGTH, s["text_width"], std=0.1)
        given["vision.pos"] = self._draw(1 + s["patches"], s["vision_width"], std=0.2)
        given["vision.cls"] = self._draw(s["vision_width"], std=0.2)
        given["vision.patch.weight"] = self._draw(
            s["vision_width"], 3, s["patch"], s["patch"], std=0.1
        )
        self.tensors |= {f"clip.{name}": value for name, value in given.items()}

    def _norm(self, given: Named, name: str, width: int) -> None:
        given[f"{name}.weight"] = 1 + self._draw(width, std=0.1)
        given[f"{name}.bias"] = self._draw(width, std=0.1)

    def __getitem__(self, name: str) -> Tensor:
        value = self.tensors[name]
        return value.double() if value.is_floating_point() else value

    def _layer_norm(self, x: Tensor, name: str) -> Tensor:
        mean, spread = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        normed = (x - mean) / (spread + self.sizes["layernorm_eps"]).sqrt()
        return normed * self[f"clip.{name}.weight"] + self[f"clip.{name}.bias"]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self[f"clip.{name}.weight"].t() + self[f"clip.{name}.bias"]

    def _blocks(self, x: Tensor, tower: str, change: Change) -> Tensor:
        heads = self.sizes[f"{tower}_heads"]
        length, width = x.shape[1:]
        for i in range(self.sizes[f"{tower}_layers"]):
            x, at = change(i, x), f"{tower}.block{i}"
            qkv = self._linear(self._layer_norm(x, f"{at}.ln1"), f"{at}.attn.qkv")
            q, k, v = (
                part.reshape(len(x), length, heads, -1).transpose(1, 2) for part in qkv.chunk(3, -1)
            )
            scores = q @ k.transpose(-1, -2) / (width // heads) ** 0.5
            if tower == "text":
                hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(hidden, float("-inf"))
            attended = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
            x = x + self._linear(attended, f"{at}.attn.out")
            z = self._linear(self._layer_norm(x, f"{at}.ln2"), f"{at}.mlp.fc1")
            x = x + self._linear(ACTIVATIONS[self.activation](z), f"{at}.mlp.fc2")
        return x

    def text(self, prompts_CLW: Tensor, eot_C: Tensor, change: Change = lambda i, x: x) -> Tensor:
        """Class texts (C, D), not normalized, of whole token rows."""
        x = self._blocks(prompts_CLW + self["clip.text.pos"], "text", change)
        row = x[torch.arange(len(x)), eot_C]
        return self._layer_norm(row, "text.ln_final") @ self["clip.text.proj"]

    def image(
        self, images: Tensor, appended: Tensor | None = None, change: Change = lambda i, x: x
    ) -> Tensor:
        """Image features (B, D), not normalized; ``appended`` enters before ``ln_pre``."""
        patches = F.conv2d(
            images.double(), self["clip.vision.patch.weight"], stride=self.sizes["patch"]
        )
        cls = self["clip.vision.cls"].expand(len(images), 1, -1)
        x = torch.cat([cls, patches.flatten(2).transpose(1, 2)], 1) + self["clip.vision.pos"]
        if appended is not None:
            x = torch.cat([x, appended.expand(len(x), -1, -1)], 1)
        x = self._blocks(self._layer_norm(x, "vision.ln_pre"), "vision", change)
        return self._layer_norm(x[:, 0], "vision.ln_post") @ self["clip.vision.proj"]

    @property
    def scale(self) -> Tensor:
        return self["clip.logit_scale_log"].exp()

    def embed(self, prompts: list[str], kind: str = "") -> tuple[Tensor, Tensor]:
        """Embeddings (C, L, W) and end positions of prompts, with their ids recorded."""
        ids = tokenizer(LENGTH)(prompts)
        for token in sorted({int(i) for i in ids.flatten()} - self.rows.keys()):
            self.rows[token] = len(self.rows)
        width = self.sizes["text_width"]
        known = self.tensors.get("clip.text.token_rows", torch.empty(0, width))
        drawn = self._draw(len(self.rows) - len(known), width, std=0.3)
        self.tensors["clip.text.token_rows"] = torch.cat([known, drawn])
        index = torch.tensor([[self.rows[int(i)] for i in row] for row in ids])
        self.tensors[f"in.{kind}token_ids"] = ids
        self.tensors[f"in.{kind}token_rows_index"] = index
        if not kind:
            self.tensors["in.eot"] = ids.argmax(-1)
        return self["clip.text.token_rows"][index], ids.argmax(-1)

    def hand_made(self, template: str) -> Tensor:
        """K (C, D), unit norm."""
        prompts = [template.replace("{}", name.replace("_", " ")) for name in self.names]
        return unit(self.text(*self.embed(prompts, "handmade_"))).detach()

    def parameters(self, values: Mapping[str, Tensor]) -> Named:
        """Trainable float64 copies of initial values, which are recorded in float32."""
        self.tensors |= {f"param.{name}": value.clone() for name, value in values.items()}
        return {k: v.double().clone().requires_grad_(True) for k, v in values.items()}

    def _optimizer(self) -> str:
        momentum = f"momentum {self.momentum}" if self.momentum else "no momentum"
        decay = f"weight decay {self.weight_decay}" if self.weight_decay else "no weight decay"
        order = ",".join(str(index) for index in range(self.num_steps))
        return (
            f"SGD, lr {self.lr}, {momentum}, {decay}, one step per training batch, batches {order} "
            "in order"
        )

    def save(self, folder: Path, case: str, **constants: Any) -> Path:
        """The set as ``other_CASE.json`` with its tensors; returns the path of the JSON."""
        self.tensors["in.token_row_ids"] = torch.tensor(list(self.rows))
        stored = {k: v.detach().clone().contiguous() for k, v in self.tensors.items()}
        listed = {
            k: {"shape": list(v.shape), "dtype": str(v.dtype).removeprefix("torch.")}
            for k, v in stored.items()
        }
        about = {"classes": list(self.names), "batch": BATCH, "steps": self.num_steps}
        about |= {"optimiser": self._optimizer(), "activation": self.activation, **self.sizes}
        path = folder / f"other_{case}.json"
        path.write_text(json.dumps({"constants": {**about, **constants}, "tensors": listed}))
        save_file(stored, path.with_suffix(".safetensors"))
        return path


def steps(
    recorder: Recorder,
    named: Named,
    forward: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
) -> None:
    """The steps of SGD; ``forward`` gives logits, ``loss`` the terms with their "total"."""
    moving = {name: torch.zeros_like(value) for name, value in named.items()}
    for number in range(1, recorder.num_steps + 1):
        logits = forward(recorder["in.images"][number - 1])
        terms = loss(logits, recorder["in.labels"][number - 1])
        gradients = torch.autograd.grad(terms["total"], list(named.values()))
        recorder.tensors[f"out{number}.logits"] = logits
        recorder.tensors |= {f"loss{number}.{name}": value for name, value in terms.items()}
        if number == 1:
            found = zip(named, gradients, strict=True)
            recorder.tensors |= {f"grad1.{name}": value for name, value in found}
        with torch.no_grad():
            for (name, value), gradient in zip(named.items(), gradients, strict=True):
                pull = gradient + recorder.weight_decay * value
                moving[name] = recorder.momentum * moving[name] + pull
                value -= recorder.lr * moving[name]
    after = f"after{recorder.num_steps}"
    recorder.tensors |= {f"{after}.{name}": value for name, value in named.items()}
    recorder.tensors[f"eval_{after}.logits"] = forward(recorder["in.eval_images"])


def with_context(prompts_CLW: Tensor, ctx: Tensor) -> Tensor:
    """Token rows whose positions 1..N are the context (N, W) or (C, N, W)."""
    each = ctx.expand(len(prompts_CLW), *ctx.shape[-2:])
    return torch.cat([prompts_CLW[:, :1], each, prompts_CLW[:, 1 + ctx.shape[-2] :]], 1)
