"""Files as the field's trainers save them: one folder a registered model, objects and all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler


class Warmup(LRScheduler):
    """A constant rate before another scheduler, which it holds, and saves, as an object."""

    def __init__(self, optimizer: torch.optim.Optimizer, successor: LRScheduler) -> None:
        self.successor = successor
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [1e-5 for _ in self.base_lrs]


def save(
    folder: Path,
    registered: str,
    state: Mapping[str, torch.Tensor],
    *,
    epoch: int = 50,
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
    **beside: Any,
) -> Path:
    """``FOLDER/REGISTERED/model.pth.tar-EPOCH`` with the state of an optimizer that has stepped."""
    parameter = nn.Parameter(torch.ones(2, 3))
    parameter.sum().backward()
    chosen = optimizer([parameter], lr=0.002)  # type: ignore[call-arg]
    chosen.step()
    scheduler = Warmup(chosen, CosineAnnealingLR(chosen, float(epoch)))
    path = folder / registered / f"model.pth.tar-{epoch}"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "state_dict": dict(state),
        "epoch": epoch,
        "optimizer": chosen.state_dict(),
        "scheduler": scheduler.state_dict(),
        "val_result": np.float64(81.25),
        **beside,
    }
    torch.save(content, path)
    return path


def class_buffers(classes: int, width: int, prefix: str = "") -> dict[str, torch.Tensor]:
    """What depends on the class names of the trainer, of classes that nobody asks for."""
    return {
        f"{prefix}token_prefix": torch.randn(classes + 3, 1, width),
        f"{prefix}token_suffix": torch.randn(classes + 3, 72, width),
    }


def whole_clip(width: int = 8) -> dict[str, torch.Tensor]:
    """A few of the CLIP tensors that files of whole models hold, with values of their own."""
    return {
        "image_encoder.conv1.weight": torch.randn(width, 3, 2, 2),
        "image_encoder.transformer.resblocks.1.attn.in_proj_weight": torch.randn(3 * width, width),
        "text_encoder.positional_embedding": torch.randn(77, width),
        "text_encoder.transformer.resblocks.0.ln_1.weight": torch.randn(width),
        "prompt_learner.ZS_image_encoder.proj": torch.randn(width, width),
        "logit_scale": torch.tensor(4.6),
    }


def head(prefix: str, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A two-layer head as 1x1 convolutions; ``values`` by fc1.weight, bn.running_mean and so on."""
    places = {"fc1": "0", "bn": "1", "fc2": "3"}
    state = {}
    for name, value in values.items():
        layer, kind = name.split(".")
        shaped = value[..., None, None] if value.dim() == 2 else value
        state[f"{prefix}.conv1.{places[layer]}.{kind}"] = shaped
    state.setdefault(f"{prefix}.conv1.1.num_batches_tracked", torch.tensor(3))
    return state
