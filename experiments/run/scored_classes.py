"""Every class list that a run will score, bound once before it trains.

What cannot be bound (the context of other classes, a prompt that does not fit) would otherwise be
found after the last epoch. Prompts are assembled as for training; the towers do not run.
"""

from collections.abc import Iterator
from typing import Any

from core.clip.frozen import FrozenCLIP, TowerlessCLIP
from core.clip.tokenizer import LongTextError
from core.config import Config, build, format_value
from core.data.dataset import ClassSubset, Dataset
from core.data.splits import class_subset
from core.seeding import Seeds
from core.types import ClassNames
from experiments.run.data_inputs import DataInputs
from experiments.run.experiment import Experiment
from experiments.run.protocols import LABELED, Protocol, UnscorableError, protocol_of
from methods.base import TextMethod

NAMING_CLASSES = (
    *("backbone", "weights", "protocol", "dataset", "targets", "template", "selection"),
    *("shots", "shots_file", "split_fractions", "split_seed"),
)
"""The settings of a run, beside its method and refiner, on which the check depends."""

_PASSED: set[tuple[object, ...]] = set()


def class_names(dataset: Dataset, template: str | None) -> ClassNames:
    """The class names that a method scores, with the dataset's template or another one."""
    return ClassNames(names=dataset.class_names, template=template or dataset.template)


def scored_parts(protocol: Protocol, inputs: DataInputs) -> Iterator[tuple[Dataset, ClassSubset]]:
    """Everything that a protocol scores: its own subsets, then the other datasets."""
    yield from ((inputs.dataset, subset) for subset in protocol.scored)
    yield from ((dataset, "all") for dataset in inputs.targets)


def check_scored_classes(config: Config, inputs: DataInputs, clip: FrozenCLIP) -> None:
    """Bind every class list that a run scores, in a method and a refiner without towers.

    Raises UnscorableError, naming dataset and classes. Once per process for the same method and
    refiner on the same classes, whatever seed and budget.
    """
    key = _what_is_bound(config, inputs)
    if key in _PASSED:
        return
    settings: Experiment = build(config, "experiment")
    protocol, seeds = protocol_of(settings.protocol), Seeds(settings.seed)
    labeled = class_subset(inputs.dataset, protocol.labeled)
    try:
        method = settings.method(
            TowerlessCLIP(clip), class_names(labeled, settings.template), seeds.at("method")
        ).to(clip.scale.device, clip.scale.dtype)
        if method.regime != LABELED:
            method.set_classes(class_names(inputs.dataset, settings.template))
        settings.refiner(method.output(), seeds.at("refiner"))
    except LongTextError as error:
        raise UnscorableError(f"{labeled.name}{_template(labeled, settings)}: {error}") from error
    except ValueError as error:
        raise UnscorableError(str(error)) from error
    for dataset, subset in scored_parts(protocol, inputs):
        try:
            method.set_classes(class_names(class_subset(dataset, subset), settings.template))
            if isinstance(method, TextMethod):
                method.class_texts()
        except ValueError as error:
            asked = _template(dataset, settings) if isinstance(error, LongTextError) else ""
            which = f"the classes {subset!r} of {dataset.name}{asked}"
            raise UnscorableError(f"{which}, which are scored after training: {error}") from error
    _PASSED.add(key)


def _what_is_bound(config: Config, inputs: DataInputs) -> tuple[object, ...]:
    """What the check depends on: the method and the refiner with all their settings, how the
    classes are named and split, and the data.
    """
    values: dict[str, Any] = config.operative("experiment")
    parts = [values["experiment.method"].name, values["experiment.refiner"].name]
    own = {key: value for part in parts for key, value in config.operative(part).items()}
    own |= {f"experiment.{name}": values[f"experiment.{name}"] for name in NAMING_CLASSES}
    text = "\n".join(f"{key} = {format_value(own[key])}" for key in sorted(own))
    return (*parts, text, *inputs.fingerprints.items())


def _template(dataset: Dataset, settings: Experiment) -> str:
    """The template whose texts are too long."""
    if settings.template is None:
        return f" (template {dataset.template!r})"
    return f" with experiment.template = {settings.template!r}"
