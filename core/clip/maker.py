"""What the maker of a file of weights says about it in the files beside it.

open_clip writes ``open_clip_config.json`` (``model_cfg``, ``preprocess_cfg``), transformers writes
``config.json`` and ``preprocessor_config.json``. They state what no tensor shows: the activation,
the numbers of attention heads, the normalization of images.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.clip.transformers_clip import model_config, unsupported

OPEN_CLIP_CONFIG = "open_clip_config.json"
TRANSFORMERS_CONFIG = "config.json"
TRANSFORMERS_IMAGES = "preprocessor_config.json"
# What the transforms here do, beside the size of the model's images.
PREPARATION: Mapping[str, Any] = {
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "size": None,
    "crop_size": None,
    "mode": "RGB",
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
}
RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers


class OtherModelError(ValueError):
    """The configuration beside a file describes a model that cannot be built here."""


@dataclass(frozen=True, kw_only=True)
class MakersWord:
    """What is known about a file: from where, the activation, the model, the images.

    ``quick_gelu`` None is unknown. ``model`` is as open_clip describes a model, empty if unknown;
    ``images`` may have ``mean``, ``std`` and the keys of ``PREPARATION``.
    """

    source: str
    quick_gelu: bool | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, Any] = field(default_factory=dict)

    @property
    def normalization(self) -> dict[str, tuple[float, ...]]:
        """``mean`` and ``std``, where they are known."""
        found = {
            key: self.images[key] for key in ("mean", "std") if self.images.get(key) is not None
        }
        return {k: tuple(v) if isinstance(v, list | tuple) else (v,) for k, v in found.items()}

    def other_preparation(self, size: Any, *, squash: bool = False) -> str:
        """How the maker prepares images of a model's size, where that is not what is done here."""
        ours = {**PREPARATION, "size": _side(size), "crop_size": _side(size)}
        if squash:
            ours["resize_mode"] = "squash"
        theirs = {k: _side(v) for k in ours if (v := self.images.get(k)) is not None}
        return ", ".join(f"{k} {v!r}" for k, v in theirs.items() if not _same(v, ours[k]))


def _side(size: Any) -> Any:
    """The side of a square that is given by both."""
    if isinstance(size, list | tuple):
        return size[0] if len(size) == 2 and size[0] == size[1] else list(size)
    return size


def _same(one: Any, other: Any) -> bool:
    rounded = isinstance(one, float) and isinstance(other, float)
    return math.isclose(one, other, rel_tol=1e-6) if rounded else bool(one == other)


def words_beside(path: Path, *, transformers: bool) -> MakersWord | None:
    """What the configuration beside a file says; None where there is none of the file's format.

    A folder may hold both formats; ``transformers`` says which one the file has. Raises ValueError
    for a configuration that cannot be read.
    """
    for folder in dict.fromkeys((path.parent, path.resolve().parent)):
        ours, theirs = folder / OPEN_CLIP_CONFIG, folder / TRANSFORMERS_CONFIG
        if transformers and theirs.is_file():
            return _from_transformers(theirs)
        if ours.is_file():
            return _from_open_clip(ours)
    return None


def _from_open_clip(path: Path) -> MakersWord | None:
    raw = _read(path)
    model = raw.get("model_cfg", raw)  # the configurations of the library have no level above
    if not isinstance(model, dict) or "vision_cfg" not in model:
        raise ValueError(f"{path} has no 'model_cfg' with a 'vision_cfg'; {_REMEDY}")
    images, quick_gelu = raw.get("preprocess_cfg") or {}, model.get("quick_gelu", False)
    parts = {
        "preprocess_cfg": images,
        "vision_cfg": model["vision_cfg"],
        "text_cfg": model.get("text_cfg") or {},
    }
    for key, part in parts.items():
        if not isinstance(part, dict):
            raise ValueError(f"{path} has {key} {part!r}, an object is needed; {_REMEDY}")
    if not isinstance(quick_gelu, bool):
        shown = json.dumps(quick_gelu)
        raise ValueError(f"{path} has quick_gelu {shown}, true or false is needed; {_REMEDY}")
    return _word(path, quick_gelu, model, images)


def _from_transformers(path: Path) -> MakersWord | None:
    raw = _read(path)
    if raw.get("model_type", "clip") != "clip":
        raise ValueError(
            f"{path} describes a model of type {raw['model_type']!r}, only 'clip' is supported"
        )
    try:
        if other := unsupported(raw):
            raise OtherModelError(f"weights beside {path} are of another model: it has {other}")
        model = model_config(raw)
    except OtherModelError:
        raise
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"{path} cannot be used: {error}; {_REMEDY}") from error
    beside = path.with_name(TRANSFORMERS_IMAGES)
    found = _read(beside) if beside.is_file() else {}
    return _word(path, bool(model["quick_gelu"]), model, _images(found))


def _images(found: Mapping[str, Any]) -> dict[str, Any]:
    """``preprocessor_config.json`` of a CLIPImageProcessor with open_clip's names."""
    images = {key: found[key] for key in PREPARATION if key in found}
    images |= {key: found[f"image_{key}"] for key in ("mean", "std") if f"image_{key}" in found}
    for key in ("size", "crop_size"):
        if isinstance(sizes := found.get(key), dict):
            both = [sizes.get("height"), sizes.get("width")]
            images[key] = sizes.get("shortest_edge", both)
            if key == "size" and "shortest_edge" not in sizes:
                images["resize_mode"] = "squash"
    number = found.get("resample")
    if number is not None:
        known = isinstance(number, int) and 0 <= number < len(RESAMPLING)
        images["interpolation"] = RESAMPLING[number] if known else number
    return images


_REMEDY = "mend it, or move it away and name the activation by the backbone"


def _word(
    path: Path, quick_gelu: bool, model: Mapping[str, Any], images: Mapping[str, Any]
) -> MakersWord:
    word = MakersWord(source=str(path), quick_gelu=quick_gelu, model=model, images=images)
    for key, values in word.normalization.items():
        least = "above 0 " if key == "std" else ""
        if len(values) != 3 or not all(_is_number(v) and (v > 0 or not least) for v in values):
            raise ValueError(
                f"{path} has {key} {values!r}, three numbers {least}are needed; {_REMEDY}"
            )
    return word


def _is_number(value: object) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(float(str(value)))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}; {_REMEDY}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object; {_REMEDY}")
    return found
