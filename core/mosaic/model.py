"""The embedded model's tokenizer, its weights on disk, and its input."""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from core.clip.tokenizer import Tokenizer
from core.mosaic.architecture import CONTEXT_LENGTH, IMAGE_MEAN, IMAGE_STD, NUM_MERGES

ClipModel = Any  # open_clip's ``CLIP``; the library ships no types


def tokenizer() -> Tokenizer:
    """The model's tokenizer: the first 2500 merges of CLIP's own, 3014 ids, texts of up to 32
    tokens.
    """
    return Tokenizer(CONTEXT_LENGTH, num_merges=NUM_MERGES)


def save_weights(model: ClipModel, path: Path) -> None:
    """Write the parameters as half precision safetensors, atomically."""
    tensors = {
        name: value.detach().half().contiguous() for name, value in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, part)
    os.replace(part, path)


def normalize(images_BHWC: torch.Tensor) -> torch.Tensor:
    """uint8 images ``(B, 48, 48, 3)`` to the model's input ``(B, 3, 48, 48)`` float32."""
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    return ((images_BHWC.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
