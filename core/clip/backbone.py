"""Loading a backbone: the only door to open_clip's models.

A backbone is an open_clip name with a pretrained tag, an open_clip name with a local weights file,
or "mosaic", the embedded model that needs no download.
"""

import difflib
import functools
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from core.clip.tokenizer import Tokenizer
from core.mosaic import model as mosaic

MOSAIC = "mosaic"


def build_open_clip(config: dict[str, Any]) -> nn.Module:
    """A random open_clip ``CLIP`` of ``{embed_dim, vision_cfg, text_cfg, quick_gelu}``."""
    model: nn.Module = open_clip.CLIP(**config)
    return model


def load_clip(name: str, weights: str | None = None) -> FrozenCLIP:
    """A frozen backbone, float32 on the CPU.

    ``weights`` is a pretrained tag of open_clip (fetched by open_clip on first use) or the path of
    a local file: ``.safetensors``, or ``.pt`` / ``.bin`` read with ``weights_only``. For "mosaic"
    it may be None (the shipped file). Raises ValueError for an unknown name or tag, a missing file,
    weights that do not fit, a tower that is not a native ViT, and for quick-GELU weights in a model
    with another activation, which would only lower accuracy silently.
    """
    if name == MOSAIC:
        return _load_mosaic(Path(weights) if weights else mosaic.WEIGHTS_PATH)
    config = _native_config(name)
    if weights is None:
        raise ValueError(
            f"backbone {name!r} needs weights: a pretrained tag ({_some_tags(name)}) "
            "or the path of a file"
        )
    tokenizer = Tokenizer(config["text_cfg"].get("context_length", 77))
    if _is_path(weights):
        model = open_clip.create_model(name, pretrained=None)
        _load_weights(model, read_state_dict(Path(weights)), weights)
    else:
        _check_tag(name, weights, config)
        model = open_clip.create_model(name, pretrained=weights)
    return FrozenCLIP(model, tokenizer, name=f"{name}/{weights}")


@functools.lru_cache(maxsize=2)
def shared_clip(name: str, weights: str | None, device: str, dtype: torch.dtype) -> FrozenCLIP:
    """``load_clip`` once a process, on its device: runs share the frozen weights."""
    return load_clip(name, weights).to(device, dtype)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Named tensors of a local file. Raises ValueError for a missing, torn or unsafe file."""
    if not path.is_file():
        raise ValueError(f"weights file {path} does not exist; give a file or a pretrained tag")
    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"weights file {path} cannot be read: {str(error).splitlines()[0]}"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    return {key.removeprefix("module."): value for key, value in state.items()}


def _load_mosaic(path: Path) -> FrozenCLIP:
    model: Any = build_open_clip(mosaic.MODEL_CONFIG)
    _load_weights(model, read_state_dict(path), str(path))
    model.visual.preprocess_cfg = {"mean": mosaic.IMAGE_MEAN, "std": mosaic.IMAGE_STD}
    tokenizer = Tokenizer(
        mosaic.MODEL_CONFIG["text_cfg"]["context_length"], num_merges=mosaic.NUM_MERGES
    )
    return FrozenCLIP(model, tokenizer, name=MOSAIC)


def _load_weights(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy a state dict into a model; every tensor must be there and fit."""
    own = model.state_dict()
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    for problem, keys in (
        ("lacks", missing),
        ("has unknown", unknown),
        ("has other shapes for", wrong),
    ):
        if keys:
            raise ValueError(
                f"weights {source} do not fit the model: the file {problem} {len(keys)} tensors, "
                f"first {keys[0]!r}; check the model name"
            )
    model.load_state_dict({key: value.float() for key, value in state.items()})


def _native_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a model with native ViT towers."""
    config: dict[str, Any] | None = open_clip.get_model_config(name)
    if config is None:
        close = difflib.get_close_matches(name, [*open_clip.list_models(), MOSAIC], n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see open_clip.list_models()"
        raise ValueError(f"unknown backbone {name!r}; {hint}")
    vision, text = config["vision_cfg"], config["text_cfg"]
    reasons = {
        "its image tower comes from timm": "timm_model_name" in vision,
        "its image tower is a ResNet": isinstance(vision.get("layers"), list),
        "its text tower comes from Hugging Face": "hf_model_name" in text,
        "its tokenizer comes from Hugging Face": "hf_tokenizer_name" in text,
        "it has a caption decoder": "multimodal_cfg" in config,
    }
    for reason, applies in reasons.items():
        if applies:
            raise ValueError(
                f"backbone {name!r} is not supported: {reason}; "
                "use a CLIP with native ViT towers such as ViT-B-16-quickgelu"
            )
    return config


def _check_tag(name: str, tag: str, config: dict[str, Any]) -> None:
    """Raise ValueError for an unknown tag or one whose weights want another activation."""
    plain = name.removesuffix("-quickgelu")
    sibling = plain if name != plain else f"{name}-quickgelu"
    if tag not in open_clip.list_pretrained_tags_by_model(name):
        if tag in open_clip.list_pretrained_tags_by_model(sibling):
            raise ValueError(f"weights {tag!r} belong to another activation; use {sibling!r}")
        raise ValueError(
            f"backbone {name!r} has no pretrained tag {tag!r}; known tags: {_some_tags(name)}; "
            "a local file is given by its path, with a suffix"
        )
    wants = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False))
    has = bool(config.get("quick_gelu", False))
    if wants != has:
        raise ValueError(
            f"weights {tag!r} were trained {'with' if wants else 'without'} quick-GELU, the model "
            f"{name!r} is built {'with' if has else 'without'} it; use {sibling!r}"
        )


def _some_tags(name: str) -> str:
    tags = open_clip.list_pretrained_tags_by_model(name)
    shown = ", ".join(tags[:8]) + (", ..." if len(tags) > 8 else "")
    return shown or "none for this model"


def _is_path(weights: str) -> bool:
    return Path(weights).suffix in (".safetensors", ".pt", ".pth", ".bin") or "/" in weights
