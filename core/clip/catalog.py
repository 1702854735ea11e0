"""The models that open_clip names: which of them run here, and what their towers can do.

A configuration alone decides this, before any weights are looked for; open_clip is imported when a
name is looked up. ``core/clip/frozen.py`` derives the same from a model that was built, and a test
compares the two.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from core.clip.frozen import no_hooks, support_of_towers, way_out
from core.clip.image_towers import EvaViT, ImageTower, NativeViT, ResNet, SigLIPViT, TimmTower
from core.clip.model_names import usual_name
from core.clip.open_clip_library import load_open_clip
from core.mosaic.canvas import IMAGE_SIZE
from core.suggestions import did_you_mean
from core.types import NATIVE, Tower, TowerSupport

MOSAIC = "mosaic"
QUICK = "-quickgelu"
DEFAULT_IMAGE_SIZE = 224  # open_clip's


class UnknownBackboneError(ValueError):
    """A name that open_clip does not know."""


class UnsupportedBackboneError(ValueError):
    """A model whose towers or tokenizer do not run here; ``reason`` says what."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"backbone {name!r} is not supported: {reason}; {way_out()}")
        self.reason = reason


class BackboneRow(NamedTuple):
    """A model with what its towers can do, or the reason why it does not run here."""

    name: str
    support: TowerSupport | None
    reason: str = ""


def model_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a model that runs here.

    Raises ValueError for a name that is unknown, and for a model that does not.
    """
    config = _config(name)
    if reason := _unsupported(config):
        raise UnsupportedBackboneError(name, reason)
    return config


@functools.cache
def support_of(name: str) -> TowerSupport:
    """What the towers of a backbone can do. Raises ValueError as ``model_config`` does."""
    return NATIVE if name == MOSAIC else _support(model_config(name))


@functools.cache
def image_size_of(name: str) -> tuple[int, int]:
    """Height and width of a backbone's images. Raises ValueError as ``model_config`` does."""
    if name == MOSAIC:
        return IMAGE_SIZE, IMAGE_SIZE
    size: Any = model_config(name)["vision_cfg"].get("image_size", DEFAULT_IMAGE_SIZE)
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def backbones() -> Iterator[BackboneRow]:
    """Every model that has a name, in order; those that do not run here with the reason."""
    open_clip = load_open_clip()

    yield BackboneRow(MOSAIC, NATIVE)
    for name in sorted(open_clip.list_models(), key=str.lower):
        config = _config(name)
        reason = _unsupported(config)
        yield BackboneRow(name, None if reason else _support(config), reason)


def families() -> Iterator[tuple[TowerSupport, tuple[str, ...]]]:
    """The kinds of towers that run here, each with the models that have them."""
    found: dict[TowerSupport, list[str]] = {}
    for row in backbones():
        if row.support is not None:
            found.setdefault(row.support, []).append(row.name)
    for support in sorted(found, key=lambda kind: (-len(kind.hooked), -len(kind.image_fields))):
        yield support, tuple(found[support])


def check_towers(method: str, hooked: frozenset[Tower], name: str) -> None:
    """Raise ValueError where a method puts something inside a tower of a backbone that has no way
    in. Needs no weights; nothing is looked up for a method that leaves the towers alone.
    """
    for tower in sorted(hooked):
        if tower not in (support := support_of(name)).hooked:
            raise ValueError(
                f"{method} works inside the {tower} tower: {no_hooks(name, support, tower)}"
            )


def some_tags(name: str) -> str:
    """The first pretrained tags of a model, for a message."""
    open_clip = load_open_clip()

    tags = open_clip.list_pretrained_tags_by_model(name)
    shown = ", ".join(tags[:8]) + (", ..." if len(tags) > 8 else "")
    return shown or "none for this model"


def agreed_images(name: str) -> dict[str, Any]:
    """How images are prepared for a model, where its pretrained tags agree; otherwise empty."""
    open_clip = load_open_clip()

    keys = ("mean", "std", "interpolation", "resize_mode")
    known = [
        {key: source[key] for key in keys if source.get(key) is not None}
        for tag in open_clip.list_pretrained_tags_by_model(name)
        if (source := open_clip.get_pretrained_cfg(name, tag))
    ]
    return known[0] if known and all(images == known[0] for images in known) else {}


def is_timm(config: Mapping[str, Any]) -> bool:
    """Whether the image tower of a model comes from timm."""
    return bool(config["vision_cfg"].get("timm_model_name"))


def _config(name: str) -> dict[str, Any]:
    open_clip = load_open_clip()

    listed = open_clip.list_models()  # open_clip would ask the network for other names
    if name in listed:
        return dict(open_clip.get_model_config(name))
    if (base := name.removesuffix(QUICK)) != name and base in listed:
        config = dict(open_clip.get_model_config(base))
        if not is_timm(config):  # such a tower has an activation of its own
            return {**config, "quick_gelu": True}
    known = [*listed, MOSAIC]
    usual = usual_name(name, known)
    near = f"; did you mean {usual!r}?" if usual else did_you_mean(name, known)
    raise UnknownBackboneError(f"unknown backbone {name!r}{near or f'; {way_out()}'}")


def _unsupported(config: Mapping[str, Any]) -> str:
    """Why a model does not run here; empty for one that does."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    reasons = {
        "it has a caption decoder": "multimodal_cfg" in config,
        "its text tower comes from Hugging Face": "hf_model_name" in text,
        "its image tower pools by average or attention": not is_timm(config)
        and (vision.get("pool_type", "tok") != "tok" or vision.get("attentional_pool", False)),
        "its tokenizer comes from Hugging Face, and only SigLIP's are known here": (
            "hf_tokenizer_name" in text and _tower(config) is not SigLIPViT
        ),
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def _tower(config: Mapping[str, Any]) -> type[ImageTower]:
    vision = config["vision_cfg"]
    name, pool = vision.get("timm_model_name") or "", vision.get("timm_pool", "avg")
    if not name:
        return ResNet if isinstance(vision["layers"], list | tuple) else NativeViT
    if "siglip" in name and pool == "map":
        return SigLIPViT
    return EvaViT if name.startswith("eva") and pool == "token" else TimmTower


def _support(config: Mapping[str, Any]) -> TowerSupport:
    causal = not config["text_cfg"].get("no_causal_mask", False)
    return support_of_towers(_tower(config), causal=causal)
