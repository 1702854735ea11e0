"""Models of open_clip with random weights: a tiny one by its configuration, large ones by name."""

import torch

import core.clip  # noqa: F401  (declares operators before open_clip imports torchvision)

# isort: split
import open_clip


def tiny_config(quick_gelu: bool = False) -> dict:
    return {
        "embed_dim": 32,
        "quick_gelu": quick_gelu,
        "vision_cfg": {
            "layers": 3,
            "width": 64,
            "head_width": 16,
            "patch_size": 8,
            "image_size": 32,
        },
        "text_cfg": {"width": 48, "heads": 3, "layers": 3},
    }


def random_model(name: str) -> torch.nn.Module:
    """A model of open_clip with random weights, filled here: its own draws take much longer."""
    with torch.device("meta"):
        model = open_clip.create_model(name, pretrained=None, device="meta")
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in model.named_parameters():
            is_norm = ".ln_" in f".{key}" and key.endswith("weight")
            scale = 1.0 if key == "logit_scale" else 0.04
            value.uniform_(-scale, scale, generator=generator).add_(1.0 if is_norm else 0.0)
    model.attn_mask.fill_(float("-inf")).triu_(1)
    return model
