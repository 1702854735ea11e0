"""The embedded model: a CLIP of about 1.6 million parameters with open_clip's own architecture."""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from core.clip.tokenizer import Tokenizer
from core.mosaic.canvas import IMAGE_SIZE

NUM_MERGES = 2500
CONTEXT_LENGTH = 32
WEIGHTS_PATH = Path(__file__).parent / "weights" / "mosaic_clip.safetensors"

# The published CLIP's image statistics (Radford et al., ICML 2021, arXiv 2103.00020).
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

ClipModel = Any  # open_clip's ``CLIP``; the library ships no types

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "layers": 4,
        "width": 128,
        "head_width": 32,
        "patch_size": 8,
        "image_size": IMAGE_SIZE,
        "mlp_ratio": 3.0,
    },
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 512 + NUM_MERGES + 2,
        "width": 128,
        "heads": 4,
        "layers": 3,
        "mlp_ratio": 3.0,
    },
}


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


def load_model(path: Path = WEIGHTS_PATH) -> ClipModel:
    """The model with weights from ``path`` as float32, in evaluation mode on the CPU."""
    if not path.is_file():
        raise ValueError(
            f"Mosaic's weights must be a file, nothing is at {path}; "
            "restore it or run `python main.py pretrain`"
        )
    from core.clip.backbone import build_open_clip  # that module reads this one's constants

    model: ClipModel = build_open_clip(MODEL_CONFIG)
    model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def normalise(images_BHWC: torch.Tensor) -> torch.Tensor:
    """uint8 pictures ``(B, 48, 48, 3)`` to the model's input ``(B, 3, 48, 48)`` float32."""
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    return ((images_BHWC.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
