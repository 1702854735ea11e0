"""CLIP files of Hugging Face's transformers: names and layouts as open_clip has them.

Radford et al., ICML 2021, arXiv 2103.00020, as ``transformers.CLIPModel`` stores it: queries, keys
and values apart, projections transposed, positions as embeddings.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MARKS = frozenset(
    {
        "text_model.embeddings.token_embedding.weight",
        "vision_model.embeddings.patch_embedding.weight",
    }
)
TOWERS = {"text_model": "", "vision_model": "visual."}
LAYER = re.compile(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
MODULES = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
NAMES = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # the library's own spelling
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
TRANSPOSED = {
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}
QUICK_GELU = "quick_gelu"
ACTIVATIONS = frozenset({QUICK_GELU, "gelu", "gelu_python"})  # the last two are the exact GELU
EPSILON = 1e-5  # of every layer norm of open_clip
LEGACY_EOS = 2  # with this one the library takes the largest token, as open_clip does
COUNTERS = frozenset(f"{tower}.embeddings.position_ids" for tower in TOWERS)


def is_transformers(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of ``transformers.CLIPModel``, or of one of its towers."""
    return bool(MARKS & set(state))


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with the names and layouts of ``open_clip.CLIP``.

    A name that CLIPModel does not have stays as it is. Raises ValueError where a block lacks its
    queries, keys or values.
    """
    found: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if name in COUNTERS:
            continue
        if name in TRANSPOSED:
            found[TRANSPOSED[name]] = tensor.t().contiguous()
        elif layer := LAYER.fullmatch(name):
            tower, index, module, kind = layer.groups()
            block = f"{TOWERS[tower]}transformer.resblocks.{index}"
            if module in MODULES:
                found[f"{block}.{MODULES[module]}.{kind}"] = tensor
            elif module.startswith("self_attn.") and module[10:] in ("q_proj", "k_proj", "v_proj"):
                packed.setdefault(f"{block}.attn.in_proj_{kind}", {})[module[10]] = tensor
            else:
                found[name] = tensor
        else:
            found[NAMES.get(name, name)] = tensor
    for twice in sorted(set(TRANSPOSED.values()) | set(NAMES.values())):
        theirs = next(k for k, v in (TRANSPOSED | NAMES).items() if v == twice)
        if twice != theirs and {twice, theirs} <= state.keys():
            raise ValueError(f"the file holds both {twice!r} and {theirs!r}; keep one of them")
    return found | {name: _packed(name, parts) for name, parts in packed.items()}


def _packed(name: str, parts: Mapping[str, Tensor]) -> Tensor:
    if lost := [part for part in "qkv" if part not in parts]:
        raise ValueError(f"the file lacks {lost[0]}_proj of {name!r}; check the model name")
    return torch.cat([parts["q"], parts["k"], parts["v"]])


def model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` of a CLIPModel as open_clip describes a model.

    What the file leaves out has the library's default; for the activation that is quick-GELU.
    Raises ValueError where the towers have different activations.
    """
    vision, text = (_tower(config, tower) for tower in ("vision", "text"))
    activations = {tower.get("hidden_act", QUICK_GELU) for tower in (vision, text)}
    if len(activations) > 1:
        raise ValueError(f"its towers have different activations, {sorted(activations)}")
    width, heads = vision.get("hidden_size", 768), vision.get("num_attention_heads", 12)
    return {
        "embed_dim": config.get("projection_dim", 512),
        "quick_gelu": activations == {QUICK_GELU},
        "vision_cfg": {
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 32),
            "layers": vision.get("num_hidden_layers", 12),
            "width": width,
            "head_width": width // heads,
        },
        "text_cfg": {
            "context_length": text.get("max_position_embeddings", 77),
            "vocab_size": text.get("vocab_size", 49408),
            "layers": text.get("num_hidden_layers", 12),
            "width": text.get("hidden_size", 512),
            "heads": text.get("num_attention_heads", 8),
        },
    }


def unsupported(config: Mapping[str, Any]) -> str:
    """What ``config.json`` has that open_clip's CLIP does not do and no tensor shows, or empty."""
    for name in ("vision", "text"):
        tower = _tower(config, name)
        activation = tower.get("hidden_act", QUICK_GELU)
        if activation not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            return f"{name}_config.hidden_act {activation!r}, supported are {known}"
        epsilon = tower.get("layer_norm_eps", EPSILON)
        if epsilon != EPSILON:
            return f"{name}_config.layer_norm_eps {epsilon!r}, supported is {EPSILON}"
    text = _tower(config, "text")
    last = text.get("vocab_size", 49408) - 1
    if (end := text.get("eos_token_id", last)) not in (last, LEGACY_EOS, None):
        return f"text_config.eos_token_id {end!r}, supported are {last} and {LEGACY_EOS}"
    return ""


def _tower(config: Mapping[str, Any], tower: str) -> dict[str, Any]:
    """The settings of one tower; ``..._config_dict`` wins, as in the library."""
    return {**(config.get(f"{tower}_config") or {}), **(config.get(f"{tower}_config_dict") or {})}
