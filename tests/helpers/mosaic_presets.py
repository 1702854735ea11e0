"""Every preset of one run, rewritten for the embedded benchmark: a smaller tower, other datasets,
the student's own model as the teacher, and a small budget.
"""

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.clip.backbone import load_clip
from core.config import Reference
from experiments.configs import SHIPPED, config_path, read_config_file
from experiments.run.protocols import LABELED, PROTOCOLS, protocol_of

ROOT = "experiment"
SOURCE = "mosaic/vehicles"
SHIFT_SOURCE = "mosaic/shapes"
TARGETS = {
    "cross_dataset": (SOURCE, ("mosaic/land",)),  # short names: contexts may be long
    "domain_generalization": (SHIFT_SOURCE, ("mosaic/shapes-sketch",)),
}
# What every configuration of the folder includes: no runs by themselves.
INCLUDED = ("common", *PROTOCOLS)


def preset_names():
    """The shipped configurations of one run, by folder and name; no grids and no searches."""
    return sorted(
        f"{folder}/{path.stem}"
        for folder in ("methods", "refiners", "published")
        for path in (SHIPPED.folder / folder).glob("*.gin")
        if path.stem not in INCLUDED and not path.stem.startswith("grid_")
    )


def on_mosaic(preset, *, shots=2, epochs=1, batch_size=12):
    """The configuration of a preset on Mosaic, with a budget of this size."""
    config = read_config_file(config_path(preset), [])
    needed = {"experiment.dataset": SOURCE, "PublishedTeacher.path": "teacher.pth.tar"}
    released = Reference("PublishedTeacher") in config.bindings.values()
    wanted = [key for key in needed if released or key.startswith(ROOT)]
    missing = {key: needed[key] for key in wanted if key not in config.bindings}
    config = config.with_bindings(missing, "test")
    values = config.operative(ROOT)
    method = values["experiment.method"].name
    regime = values.get(f"{method}.regime", LABELED)
    protocol = protocol_of(values["experiment.protocol"])
    dataset, targets = TARGETS.get(protocol.name, (SOURCE, ()))
    changed = {
        "experiment.backbone": "mosaic",
        "experiment.weights": None,
        "experiment.dataset": dataset,
        "experiment.targets": targets if regime == LABELED else (),
        "experiment.shots": 0 if regime == "transductive" else shots,
        "experiment.epochs": epochs,
        "experiment.batch_size": batch_size,
        **_smaller(config.bindings),
    }
    changed |= _own_teachers(config.bindings)
    changed |= {"PromptSRC.average_mean": 1.0} if method == "PromptSRC" else {}
    config = config.with_bindings(changed, "test")
    return config.without(config.unused((ROOT,)))


def _smaller(bindings):
    """Depths that the towers of Mosaic do not have, as deep as they are."""
    spec = load_clip("mosaic").spec
    deepest = min(spec.vision_depth, spec.text_depth)
    return {
        key: None
        for key, value in bindings.items()
        if key.partition(".")[2].startswith("depth") and type(value) is int and value > deepest
    }


def _own_teachers(bindings):
    """Teachers whose weights only its user has, replaced by the frozen model."""
    other = Reference("ZeroShotTeacher")
    released = (Reference("PublishedTeacher"), Reference("RunTeacher"))
    return {key: other for key, value in bindings.items() if value in released}
