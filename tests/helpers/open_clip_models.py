"""Models of open_clip with random weights: tiny ones by their configuration, large ones by name."""

import copy
import functools
import json
from pathlib import Path
from typing import Any

import torch

import core.clip  # noqa: F401  (declares operators before open_clip and timm import torchvision)

# isort: split
import open_clip
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from core.clip.backbone import build_open_clip

TIMM_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
TEXT = {"width": 48, "heads": 3, "layers": 3}
SIGLIP_TEXT = {
    **TEXT,
    "context_length": 24,
    "vocab_size": 400,
    "hf_tokenizer_name": "nobody/tiny-siglip",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}


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


def timm_config(model: str, pool: str, proj: str | None, **top: Any) -> dict:
    """A model with a tower of timm and a causal text tower."""
    vision = {"timm_model_name": model, "timm_pool": pool, "timm_proj": proj, "image_size": 32}
    return {"embed_dim": 48, "custom_text": True, "vision_cfg": vision, "text_cfg": TEXT} | top


def resnet_config(*, quick_gelu: bool = False) -> dict:
    """CLIP's ResNet with one block a stage: 9 cells, 256 wide."""
    vision = {"layers": [1, 2, 1, 1], "width": 8, "image_size": 96, "patch_size": None}
    return {"embed_dim": 32, "quick_gelu": quick_gelu, "vision_cfg": vision, "text_cfg": TEXT}


# One of each family that open_clip has, small enough to be built in a test.
FAMILIES: dict[str, dict] = {
    "tiny-vit": tiny_config(),
    "tiny-resnet": resnet_config(),
    "tiny-resnet-quickgelu": resnet_config(quick_gelu=True),
    "tiny-siglip": timm_config(
        "tiny_siglip", "map", "none", init_logit_bias=-10, text_cfg=SIGLIP_TEXT
    ),
    "tiny-eva02": timm_config("eva_tiny_02", "token", None, embed_dim=32),
    "tiny-eva01": timm_config("eva_tiny_01", "token", None, embed_dim=32),
    "tiny-eva-post": timm_config("eva_tiny_post", "token", None, embed_dim=32),
    "tiny-convnext": timm_config("test_convnext", "", "linear", custom_text=False),
    "tiny-convnext-mlp": timm_config("test_convnext", "", "mlp", custom_text=False),
    "tiny-mobile": timm_config(
        "test_vit", "token", None, embed_dim=32, text_cfg={**TEXT, "no_causal_mask": True}
    ),
}


@register_model
def tiny_siglip(pretrained: bool = False, **settings: Any) -> VisionTransformer:
    """SigLIP's ViT: no CLS token, pooled by a query."""
    known = {k: v for k, v in settings.items() if k in ("num_classes", "global_pool")}
    return VisionTransformer(**TIMM_VIT, class_token=False, **known)


def _eva(settings: dict[str, Any], **own: Any) -> Eva:
    known = {k: v for k, v in settings.items() if k in ("num_classes", "global_pool")}
    return Eva(**TIMM_VIT, **own, **known)


@register_model
def eva_tiny_02(pretrained: bool = False, **settings: Any) -> Eva:
    """EVA-02: apart queries and keys, rotary positions, norms inside."""
    own = {"swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "qkv_fused": False}
    return _eva(settings, **own, use_rot_pos_emb=True, ref_feat_shape=(4, 4))


@register_model
def eva_tiny_01(pretrained: bool = False, **settings: Any) -> Eva:
    """EVA-01: one projection, no rotary positions."""
    return _eva(settings)


@register_model
def eva_tiny_post(pretrained: bool = False, **settings: Any) -> Eva:
    """EVA-02-E: the norm behind the attention."""
    return _eva(settings, use_post_norm=True)


def family(name: str) -> torch.nn.Module:
    """A model of FAMILIES with random weights in which nothing is zero, in eval mode; a new one."""
    return copy.deepcopy(_built(name))


@functools.cache
def _built(name: str) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_open_clip(FAMILIES[name])
        with torch.no_grad():
            for key, value in model.named_parameters():
                if not key.startswith("logit_"):
                    value += 0.05 * torch.randn_like(value)
                if key.startswith("visual.") and value.dim() == 4:
                    value *= 2.5  # images shall matter behind many untrained norms of batches
            for key, value in model.named_buffers():
                if key.endswith(("running_mean", "running_var")):
                    value += 0.3 * torch.rand_like(value)
    return model.eval()


def register_families(folder: Path, monkeypatch: Any) -> None:
    """Let open_clip know the models of FAMILIES by name for the length of a test."""
    from open_clip import factory

    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    folder.mkdir(exist_ok=True)
    for name, config in FAMILIES.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


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
