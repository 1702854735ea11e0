"""Which runs are worth training in lockstep: those that see the same pixels in every step."""

import hashlib
from typing import Any

from core.config import Config, format_value, lookup
from experiments.run.protocols import LABELED

ROOT = "experiment"
SEEN = (
    "dataset",
    "split_fractions",
    "split_seed",
    "protocol",
    "shots",
    "shots_file",
    "seed",
    "batch_size",
    "drop_last",
    "crop_scale",
    "augmentation",
    "backbone",
    "weights",
    "precision",
)
"""What decides which pixels a step sees, and what the frozen tower makes of them."""


def bundle_of(config: Config) -> str:
    """A key of the runs that see the same batches and gain from making each once: those that decode
    images in every step. "" for a run that trains on cached features, or takes no steps.

    Everything that it depends on is in the configuration: runs of one key differ in their method,
    their refiner and their budget at most. It decides what is tried, not what is shared: that is
    looked up by the images themselves.
    """
    method = lookup(config.bindings[f"{ROOT}.method"].name)  # type: ignore[union-attr]
    cls: Any = method.cls
    fresh = bool(config.bindings.get(f"{ROOT}.fresh_views"))
    if not cls.trains_by_gradient or not (fresh or cls.image_input == "pixels"):
        return ""
    values = config.operative(ROOT)
    augmentation: Any = values[f"{ROOT}.augmentation"]
    owner = f"{augmentation.name}." if augmentation is not None else None
    parts = [values[f"{ROOT}.{name}"] for name in SEEN]
    parts += [bool(values[f"{ROOT}.num_views"]), cls.views_per_image]
    parts += [values.get(f"{method.name}.regime", cls.regime) == LABELED]
    parts += [value for key, value in values.items() if owner and key.startswith(owner)]
    return hashlib.sha256(format_value(tuple(parts)).encode()).hexdigest()[:16]
