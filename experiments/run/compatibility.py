"""Which refiner, and which of its parts, works on which method: found by building every pair on the
embedded backbone and running both on a batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.clip.backbone import load_clip
from core.clip.catalog import MOSAIC
from core.config import (
    REQUIRED,
    Config,
    Part,
    Reference,
    RegisteredClass,
    build,
    registered_classes,
)
from core.interfaces import Method
from core.seeding import Seeds
from core.train.objective import Objective
from core.types import Batch, Forward
from experiments.configs import SHIPPED, read_config_file
from experiments.run.experiment import Experiment
from experiments.run.method_facts import default_config, ready_to_train

BATCH, CLASSES = 6, 3
OFF = "No"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compatibility:
    """A method with a refiner: with its usual parts, where ``slot`` and ``part`` are "", or with
    this one part alone and all others off. ``reason`` says why not, "" that it works.
    """

    method: str
    refiner: str
    slot: str
    part: str
    reason: str


def compatibility() -> Iterator[Compatibility]:
    """Every registered method with every registered refiner and part."""
    clip = load_clip(MOSAIC)
    choices = [choice for entry in registered_classes("refiner") for choice in _choices(entry)]
    for entry in registered_classes("method"):
        cls: Any = entry.cls
        method, batch = ready_to_train(
            entry.name, clip, num_classes=CLASSES, batch_size=BATCH, need=cls.provides
        )
        out = method(batch)
        for refiner, slot, part, parts in choices:
            lines = [f"{refiner}.{slot} = @{part}" for slot, part in parts.items()]
            config = default_config(entry.name, f"experiment.refiner = @{refiner}", *lines)
            yield Compatibility(
                method=entry.name,
                refiner=refiner,
                slot=slot,
                part=part,
                reason=_why_not(method, batch, out, config),
            )


def _why_not(method: Method, batch: Batch, out: Forward, config: Config) -> str:
    """The refusal of a configuration's refiner on a method's output, "" if it runs."""
    try:
        settings: Experiment = build(config, "experiment")
        built = settings.refiner(method.output(), Seeds(0).at("refiner"))
        built.set_classes(method.classes)
        objective = Objective(
            method.loss_terms(), built.loss_terms(), method.criterion, method.guide_terms()
        )
        objective(built(out), method.targets(batch))
    except ValueError as refusal:
        return str(refusal)
    return ""


def _choices(entry: RegisteredClass) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Refiner, slot, part and all parts by slot: the usual ones, then every part alone."""
    slots = _slots(entry)
    yield entry.name, "", "", _usual(entry, slots)
    off = {slot: _off(kind) for slot, kind in slots.items()}
    for slot, kind in slots.items():
        for part in registered_classes(kind):
            if part.name != off[slot]:
                yield entry.name, slot, part.name, {**off, slot: part.name}


def _slots(entry: RegisteredClass) -> dict[str, str]:
    """The kind of every part that a refiner has, by parameter."""
    marks = {
        name: [mark for mark in get_args(parameter.annotation)[1:] if isinstance(mark, Part)]
        for name, parameter in entry.parameters.items()
    }
    return {name: found[0].kind for name, found in marks.items() if found}


def _off(kind: str) -> str:
    """The part of a kind that does nothing."""
    names = [part.name for part in registered_classes(kind)]
    return next(name for name in names if name.startswith(OFF) and name[len(OFF)].isupper())


def _usual(entry: RegisteredClass, slots: Mapping[str, str]) -> dict[str, str]:
    """The part in every slot: the class's own, or that of a shipped configuration, or one that is
    on.
    """
    bound = _preset_of(entry.name)
    found = {}
    for slot, kind in slots.items():
        default: Any = entry.parameters[slot].default
        chosen = bound.get(f"{entry.name}.{slot}", default)
        on = next(part.name for part in registered_classes(kind) if part.name != _off(kind))
        found[slot] = on if chosen is REQUIRED else chosen.name
    return found


def _preset_of(refiner: str) -> Mapping[str, Any]:
    """The bindings of the first shipped configuration with a refiner."""
    for path in SHIPPED.files().values():
        if path.parent.name == "refiners":
            bound = read_config_file(path).bindings
            if bound.get("experiment.refiner") == Reference(refiner):
                return bound
    return {}
