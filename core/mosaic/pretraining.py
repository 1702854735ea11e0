"""Pre-trains the embedded model: plain contrastive image-text training from random weights.

Source of the objective: Radford et al., ICML 2021 (arXiv 2103.00020). Batches are chosen so that
the easy attributes do not suffice: see :class:`core.mosaic.batches.BatchSampler`. The batch of a
step depends on the seed and the step only, so that an interrupted run continues as if it had not
been interrupted.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from core.derived_seeds import derive_seed
from core.mosaic.architecture import MODEL_CONFIG
from core.mosaic.batches import BatchSampler
from core.mosaic.corpus import CAPTIONS, Corpus, draw_corpus
from core.mosaic.model import ClipModel, normalize, save_weights
from core.mosaic.renderer import RENDERER_VERSION
from core.mosaic.zeroshot import zero_shot_table

BuildModel = Callable[[Mapping[str, Any]], nn.Module]
Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that determines the weights. A training state can only be continued with the same
    recipe.
    """

    steps: int
    seed: int
    num_images: int
    num_validation: int
    batch_size: int
    lr: float
    warmup: int
    weight_decay: float
    model: Mapping[str, Any]
    renderer: int = RENDERER_VERSION


def pretrain(
    out: Path,
    build_model: BuildModel,
    *,
    steps: int = 5800,
    seed: int = 0,
    num_images: int = 160_000,
    batch_size: int = 128,
    lr: float = 2e-3,
    warmup: int = 200,
    weight_decay: float = 0.05,
    num_validation: int = 2048,
    save_every: int = 500,
    processes: int = 1,
    model_config: Mapping[str, Any] = MODEL_CONFIG,
    zero_shot: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the embedded model in the folder ``out``; the same call continues an interrupted run.

    ``build_model`` makes a randomly initialized model of a ``MODEL_CONFIG``. ``out`` receives
    ``corpus/`` (1 GB for 160,000 images, drawn by ``processes``), ``state.pt`` every ``save_every``
    steps, ``mosaic_clip.safetensors`` and ``report.json``, which is also returned. Deterministic on
    one machine with one thread. ``progress(step, steps, values)`` gets ``loss`` and ``seconds``
    after each step, and the fraction of ``images`` while they are drawn.
    """
    recipe = Recipe(
        steps=steps, seed=seed, num_images=num_images, num_validation=num_validation,
        batch_size=batch_size, lr=lr, warmup=warmup, weight_decay=weight_decay, model=model_config,
    )  # fmt: skip
    _check(recipe)
    corpus = _corpus(out / "corpus", recipe, processes, progress)
    training = Training(recipe, corpus, build_model)
    _train(training, out, save_every, progress)
    report = training.report()
    if zero_shot:
        report["zero_shot"] = zero_shot_table(training.model, out / "pictures")
    _write_atomically(out / "report.json", json.dumps(report, indent=2).encode())
    return report


def _corpus(folder: Path, recipe: Recipe, processes: int, progress: Progress | None) -> Corpus:
    def show(done: int, total: int) -> None:
        _announce(progress, 0, recipe.steps, {"images": done / total})

    return draw_corpus(
        folder,
        num_images=recipe.num_images,
        seed=recipe.seed,
        processes=processes,
        progress=show,
    )


def _train(training: "Training", out: Path, save_every: int, progress: Progress | None) -> None:
    """From the last saved state to the last step."""
    training.restore(out / "state.pt")
    steps = training.recipe.steps
    while training.step < steps:
        loss = training.train_step()
        if training.step % save_every == 0 or training.step == steps:
            training.log(loss)
            training.save(out / "state.pt")
            save_weights(training.model, out / "mosaic_clip.safetensors")
        _announce(progress, training.step, steps, {"loss": loss, "seconds": training.seconds})


def _announce(progress: Progress | None, step: int, steps: int, values: dict[str, float]) -> None:
    if progress is not None:
        progress(step, steps, values)


def _check(recipe: Recipe) -> None:
    if recipe.steps < 1 or recipe.batch_size < 2:
        raise ValueError(
            "steps must be at least 1 and batch_size at least 2, "
            f"got {recipe.steps} and {recipe.batch_size}"
        )
    least = recipe.num_validation + 400
    if recipe.num_images < least:
        raise ValueError(
            f"num_images must be at least num_validation + 400 = {least}, got {recipe.num_images}"
        )


class Training:
    """Model, optimizer and position of one pre-training run."""

    def __init__(self, recipe: Recipe, corpus: Corpus, build_model: BuildModel) -> None:
        self.recipe, self.corpus = recipe, corpus
        self.sampler = BatchSampler(
            corpus, seed=recipe.seed, batch_size=recipe.batch_size, first=recipe.num_validation
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(recipe.seed, "mosaic model"))
            self.model: ClipModel = build_model(dict(recipe.model)).train()
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
        self.step, self.seconds, self.running_loss = 0, 0.0, 0.0
        self.curve: list[dict[str, float]] = []

    def train_step(self) -> float:
        """One update; returns the running mean of the contrastive loss."""
        start = time.perf_counter()
        images, ids = self._batch(*self.sampler(self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.recipe)
        self.optimizer.zero_grad(set_to_none=True)
        loss = contrastive_loss(self.model, images, ids)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0.0, math.log(100.0))
        self.step += 1
        keep = 1 - 1 / min(self.step, 50)
        self.running_loss = keep * self.running_loss + (1 - keep) * float(loss.detach())
        self.seconds += time.perf_counter() - start
        return self.running_loss

    def _batch(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Normalized images and caption ids."""
        ids = self.corpus.captions[rows, columns].astype(np.int64)
        return normalize(torch.from_numpy(self.corpus.images[rows])), torch.from_numpy(ids)

    def log(self, loss: float) -> None:
        """Add a point to the loss curve; ``validation`` is the loss on held-out mixed batches."""
        scale = float(self.model.logit_scale.detach().exp())
        point = {"step": self.step, "seconds": round(self.seconds, 1), "loss": loss, "scale": scale}
        self.curve.append({**point, "validation": self._validation_loss()})

    @torch.no_grad()
    def _validation_loss(self) -> float:
        size = min(self.recipe.batch_size, self.recipe.num_validation)
        losses = []
        for start in range(0, min(8 * size, self.recipe.num_validation) - size + 1, size):
            rows = np.arange(start, start + size)
            batch = self._batch(rows, rows % CAPTIONS)
            losses.append(float(contrastive_loss(self.model, *batch)))
        return sum(losses) / len(losses)

    def save(self, path: Path) -> None:
        """Write the whole state atomically."""
        state = {
            "recipe": _recipe_text(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "position": [self.step, self.seconds, self.running_loss],
            "curve": self.curve,
        }
        part = path.with_name(f".{path.name}.{os.getpid()}")
        torch.save(state, part)
        os.replace(part, path)

    def restore(self, path: Path) -> None:
        """Continue from a saved state; does nothing if there is none."""
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        if state["recipe"] != _recipe_text(self.recipe):
            raise ValueError(
                f"{path} was started with another recipe ({state['recipe']}); "
                "use that recipe or choose an empty folder"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.running_loss = state["position"]
        self.curve = state["curve"]

    def report(self) -> dict[str, Any]:
        """Recipe, loss curve, time and the sha256 of the tensors as written."""
        return {
            "recipe": json.loads(_recipe_text(self.recipe)),
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "loss": self.running_loss,
            "curve": self.curve,
            "sha256": fingerprint(self.model),
        }


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def contrastive_loss(model: ClipModel, images: Tensor, ids: Tensor) -> Tensor:
    """The symmetric cross-entropy over a batch; ``images`` (B, 3, H, W), ``ids`` (B, L)."""
    image_BD = F.normalize(model.encode_image(images), dim=-1)
    text_BD = F.normalize(encode_cut_text(model, ids), dim=-1)
    logits_BB = model.logit_scale.exp() * image_BD @ text_BD.T
    targets = torch.arange(len(ids))
    return (F.cross_entropy(logits_BB, targets) + F.cross_entropy(logits_BB.T, targets)) / 2


def encode_cut_text(model: ClipModel, ids: Tensor) -> Tensor:
    """Text features ``(B, D)`` of ids ``(B, L)``, each half of the batch cut to its own longest
    text.

    Attention is causal, so dropping the padding after the longest text affects only the time.
    """
    lengths = (ids > 0).sum(dim=1)
    order = lengths.argsort(stable=True)
    halves = [half for half in order.chunk(2) if len(half)]
    features = [_encode_text(model, ids[half, : int(lengths[half].max())]) for half in halves]
    return torch.cat(features)[order.argsort()]


def _encode_text(model: ClipModel, ids: Tensor) -> Tensor:
    length = ids.shape[1]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    pooled: Tensor = x[torch.arange(len(ids)), ids.argmax(dim=-1)] @ model.text_projection
    return pooled


def fingerprint(model: ClipModel) -> str:
    """sha256 over names and half-precision bytes of a model's tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().half().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _recipe_text(recipe: Recipe) -> str:
    return json.dumps({**asdict(recipe), "model": dict(recipe.model)}, sort_keys=True)


def _write_atomically(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    os.replace(part, path)
