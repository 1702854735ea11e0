"""Which runs are worth training in lockstep: those that see the same pixels in every step."""

import hashlib
from collections.abc import Mapping
from typing import Any

from core.config import Config, Reference, format_value, lookup
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
    "feature_precision",
    "tf32",
    "deterministic",
    "feature_storage",
)
"""What decides which pixels a step sees, what the frozen tower makes of them, and what is set for a
whole process.
"""


def bundle_of(config: Config) -> str:
    """A key of the runs that see the same batches and gain from making each once: those that decode
    images in every step. "" for a run that trains on cached features, or takes no steps.

    Everything that it depends on is in the configuration: runs of one key differ in their method,
    their refiner and their budget at most. It decides what is tried, not what is shared: that is
    looked up by the images themselves.
    """
    bindings: Mapping[str, Any] = config.bindings
    method = lookup(bindings[f"{ROOT}.method"].name)
    cls: Any = method.cls
    if not bindings.get(f"{ROOT}.fresh_views") and cls.image_input != "pixels":
        return ""
    refined = bindings[f"{ROOT}.refiner"] != Reference("NullRefiner")
    takes_steps = refined or (cls.trains and cls.trains_by_gradient)
    if not takes_steps or bindings[f"{ROOT}.optimizer"] is None:
        return ""
    values = config.operative(ROOT)
    augmentation: Any = values[f"{ROOT}.augmentation"]
    owner = f"{augmentation.name}." if augmentation is not None else None
    parts = [values[f"{ROOT}.{name}"] for name in SEEN]
    fixed, num_views = values[f"{ROOT}.fixed_views"], values[f"{ROOT}.num_views"]
    parts += [fixed, num_views if fixed else bool(num_views), cls.views_per_image]
    parts += [values.get(f"{method.name}.regime", cls.regime) == LABELED]
    parts += [value for key, value in values.items() if owner and key.startswith(owner)]
    return hashlib.sha256(format_value(tuple(parts)).encode()).hexdigest()[:16]
