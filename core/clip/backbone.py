"""Loading a backbone; the only module that uses open_clip's models.

A backbone is an open_clip name with a pretrained tag, an open_clip name with a local weights file,
or "mosaic", the embedded model that needs no download. open_clip is slow to import, so functions
import it when they need it: naming a method or checking a configuration does not.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core import mosaic
from core.clip.frozen import FrozenCLIP
from core.clip.tokenizer import Tokenizer
from core.clip.weights import (
    OPENAI_SIZES,
    cache_folder,
    cached_file,
    first_line,
    is_openai,
    read_state_dict,
)
from core.program import command_line
from core.suggestions import did_you_mean

MOSAIC = "mosaic"
QUICK = "-quickgelu"

# What a different size of these tensors implies about the file.
SIZED_BY = {
    "visual.positional_embedding": "a different image size or patch size",
    "positional_embedding": "a different context length",
}


def build_open_clip(config: Mapping[str, Any]) -> nn.Module:
    """A randomly initialized open_clip ``CLIP`` of ``{embed_dim, vision_cfg, text_cfg,
    quick_gelu}``.
    """
    import open_clip

    settings = dict(config)
    custom_text = settings.pop("custom_text", False)
    kind: Any = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    model: nn.Module = kind(**settings)
    return model


def load_clip(name: str, weights: str | None = None) -> FrozenCLIP:
    """A frozen backbone, float32 on the CPU. Never downloads; only ``fetch`` does.

    ``weights`` is a pretrained tag of open_clip that was fetched before, or the path of a local
    file in one of the formats of ``core/clip/weights.py``. For "mosaic" it may be None (the shipped
    file). OpenAI's files, and tags that open_clip lists as trained with quick-GELU, select the
    quick-GELU model, as the clip's ``name`` shows. For other files the activation is unknown:
    ``name`` is used as given.

    Raises ValueError for an unknown name or tag, a file that is missing or does not fit, a tower
    that is not a native ViT, and a tag without quick-GELU for a model with it, which would silently
    lower accuracy.
    """
    if name == MOSAIC:
        return _load_mosaic(Path(weights) if weights else mosaic.WEIGHTS_PATH)
    config = _native_config(name)
    if weights is None:
        raise ValueError(
            f"backbone {name!r} needs weights: a pretrained tag ({_some_tags(name)}) "
            "or the path to a file"
        )
    source: Mapping[str, Any] = {}
    path: Path | None = Path(weights)
    if not _is_path(weights):
        source = pretrained_source(name, weights)
        path = cached_file(source)
    if path is None:
        raise ValueError(
            f"weights {weights!r} of {name!r} are not on this machine; fetch {about(name, weights)}"
            f" with: {command_line('weights', name, weights)}"
        )
    state = read_state_dict(path)
    if is_openai(state) or source.get("quick_gelu"):
        name, config["quick_gelu"] = name.removesuffix(QUICK) + QUICK, True
    model: Any = build_open_clip(config)
    _load_weights(model, {k: v for k, v in state.items() if k not in OPENAI_SIZES}, str(path))
    model.visual.preprocess_cfg = {k: source[k] for k in ("mean", "std") if k in source}
    tokenizer = Tokenizer(config["text_cfg"].get("context_length", 77))
    return FrozenCLIP(model, tokenizer, name=f"{name}/{weights}")


@functools.lru_cache(maxsize=2)
def shared_clip(name: str, weights: str | None, device: str, dtype: torch.dtype) -> FrozenCLIP:
    """``load_clip`` once per process, on its device: runs share the frozen weights."""
    return load_clip(name, weights).to(device, dtype)


def pretrained_source(name: str, tag: str) -> dict[str, Any]:
    """open_clip's metadata of a tag: ``hf_hub`` or ``url``, ``mean``, ``std``, ``quick_gelu``.

    Raises ValueError for an unknown tag, and for weights without quick-GELU in a model whose name
    requests it.
    """
    import open_clip

    quick = bool(_native_config(name).get("quick_gelu", False))
    for model in (name, name.removesuffix(QUICK), name + QUICK):
        if not open_clip.pretrained.is_pretrained_cfg(model, tag):
            continue
        source: dict[str, Any] = dict(open_clip.get_pretrained_cfg(model, tag))
        source["quick_gelu"] = bool(source.get("quick_gelu", False))
        if quick and not source["quick_gelu"]:
            raise ValueError(
                f"weights {tag!r} were trained without quick-GELU, but the model {name!r} is built "
                f"with it; use {name.removesuffix(QUICK)!r}"
            )
        return source
    raise ValueError(
        f"backbone {name!r} has no pretrained tag {tag!r}; known tags: {_some_tags(name)}; "
        "to use a local file, give its path including the suffix"
    )


def about(name: str, tag: str) -> str:
    """The size of a tag's weights, their origin and their destination, for a message."""
    source = pretrained_source(name, tag)
    with torch.device("meta"):
        model = build_open_clip(_native_config(name))
    megabytes = 4e-6 * sum(tensor.numel() for tensor in model.state_dict().values())
    origin = source.get("hf_hub") or source.get("url", "")
    return f"about {megabytes:.0f} MB from {origin.rstrip('/')} into {cache_folder(source)}"


def fetch(name: str, tag: str) -> Path:
    """Download a tag's weights unless they are present: the only function that uses the network.

    Returns the file. Raises ValueError for an unknown tag and where the download fails.
    """
    import open_clip

    source = pretrained_source(name, tag)
    found = cached_file(source)
    if found is None:
        try:
            found = Path(open_clip.download_pretrained(source))
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"weights {tag!r} of {name!r} cannot be downloaded: {first_line(error)}; "
                "download the file elsewhere and give its path"
            ) from error
    return found


def _load_mosaic(path: Path) -> FrozenCLIP:
    if not path.is_file() and path == mosaic.WEIGHTS_PATH:
        raise ValueError(
            f"the embedded model's weights {path} are missing; restore the file or retrain it: "
            f"{command_line('pretrain')}"
        )
    model: Any = build_open_clip(mosaic.MODEL_CONFIG)
    _load_weights(model, read_state_dict(path), str(path))
    model.visual.preprocess_cfg = {"mean": mosaic.IMAGE_MEAN, "std": mosaic.IMAGE_STD}
    tokenizer = Tokenizer(
        mosaic.MODEL_CONFIG["text_cfg"]["context_length"], num_merges=mosaic.NUM_MERGES
    )
    return FrozenCLIP(model, tokenizer, name=MOSAIC)


def _load_weights(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy a state dict into a float32 model; every tensor must be present and fit."""
    own = model.state_dict()
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    for key in sorted(wrong, key=lambda key: key not in SIZED_BY):
        reason = SIZED_BY.get(key, "a different model")
        raise ValueError(
            f"weights {source} do not fit the model: {key!r} is {tuple(state[key].shape)} in the "
            f"file and {tuple(own[key].shape)} in the model ({reason}); check the model name"
        )
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    for problem, keys in (("lacks", missing), ("has unknown", unknown)):
        if keys:
            raise ValueError(
                f"weights {source} do not fit the model: the file {problem} {len(keys)} tensors, "
                f"first {keys[0]!r}; check the model name"
            )
    model.load_state_dict(state)


def _native_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a model with native ViT towers."""
    import open_clip

    config: dict[str, Any] | None = open_clip.get_model_config(name)
    if config is None:
        near = did_you_mean(name, [*open_clip.list_models(), MOSAIC])
        raise ValueError(f"unknown backbone {name!r}{near or '; see open_clip.list_models()'}")
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


def _some_tags(name: str) -> str:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    shown = ", ".join(tags[:8]) + (", ..." if len(tags) > 8 else "")
    return shown or "none for this model"


def _is_path(weights: str) -> bool:
    return Path(weights).suffix in (".safetensors", ".pt", ".pth", ".bin") or "/" in weights
