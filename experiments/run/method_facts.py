"""What a table says of every registered method, from its class, its file and an instance of it.

Sizes are those of ViT-B/16 and 100 classes; no weights are needed.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.clip.backbone import sized_clip
from core.clip.frozen import FrozenCLIP
from core.clip.image_towers import POOLED
from core.config import Config, RegisteredClass, build, config_from_text, registered_classes
from core.interfaces import Method
from core.seeding import Seeds
from core.types import Batch, ClassNames
from experiments.configs import SHIPPED, read_config_file
from experiments.run.experiment import Experiment
from experiments.run.protocols import PROTOCOLS, UnscorableError

BACKBONE = "ViT-B-16-quickgelu"
NUM_CLASSES, SHOTS = 100, 16
PRESET_FOLDER = "methods"
AT_TEST_TIME = {
    "image": "from each test image",
    "stream": "from the stream of test images",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFacts:
    """One method with its defaults.

    ``presets`` are shipped configurations of it, ``learns`` how it learns, ``makes_steps`` that a
    budget has an effect, ``closed_set`` why only
    classes that were trained on can be scored, "" if others can be, ``protocols`` those that admit
    it, ``parameters`` what is trained at the sizes of ``BACKBONE``.
    """

    name: str
    file: str
    source: str
    presets: tuple[str, ...]
    regime: str
    learns: str
    makes_steps: bool
    closed_set: str
    protocols: tuple[str, ...]
    parameters: int


def method_facts() -> list[MethodFacts]:
    """The facts of every registered method, by name."""
    clip = sized_clip(BACKBONE)
    presets = _presets()
    return [_facts(entry, clip, presets) for entry in registered_classes("method")]


def default_config(method: str, *lines: str) -> Config:
    """A method with its defaults and no refiner; further lines replace bindings."""
    text = [
        "experiment.refiner = @NullRefiner",
        "experiment.optimizer = None",
        "experiment.schedule = None",
        "experiment.dataset = 'mosaic/critters'",
    ]
    named = {line.partition(" = ")[0]: line for line in (*text, *lines)}
    return config_from_text("\n".join([f"experiment.method = @{method}", *named.values()]))


def default_method(method: str, clip: FrozenCLIP, classes: ClassNames) -> Method:
    """A method with its defaults, which has seen nothing."""
    settings: Experiment = build(default_config(method), "experiment")
    built: Method = settings.method(clip, classes, Seeds(0).at("method"))
    return built


def ready_to_train(
    name: str,
    clip: FrozenCLIP,
    *,
    num_classes: int,
    batch_size: int,
    need: frozenset[str] = POOLED,
) -> tuple[Method, Batch]:
    """A method that has seen an image of every class and waits for the first step, and a batch of
    pixels for it.
    """
    method = default_method(name, clip, numbered_classes(num_classes))
    if method.trains:
        method.begin_training([_noise(method, num_classes, num_classes, need)], 1)
    method.train()
    return method, _noise(method, batch_size, num_classes, need)


def _noise(method: Method, size: int, num_classes: int, need: frozenset[str]) -> Batch:
    """As many views of random images as a method asks for."""
    shape = (size, 3, *method.clip.spec.image_size)

    def view(number: int) -> Batch:
        random = Seeds(0).generator("images", number)
        images = torch.randn(*shape, generator=random)
        return Batch(labels=torch.arange(size) % num_classes, pixels=images, need=need)

    first, *others = map(view, range(method.views_per_image))
    return replace(first, views=tuple(others))


def numbered_classes(number: int) -> ClassNames:
    """Class names of equal length."""
    return ClassNames(names=tuple(f"kind {100 + i}" for i in range(number)))


def _facts(
    entry: RegisteredClass, clip: FrozenCLIP, presets: Mapping[str, tuple[str, ...]]
) -> MethodFacts:
    method = default_method(entry.name, clip, numbered_classes(NUM_CLASSES))
    own = {name: parameter.default for name, parameter in entry.parameters.items()}
    closed_set = method.closed_set(own)
    return MethodFacts(
        name=entry.name,
        file=_file(entry.cls),
        source=entry.reference,
        presets=presets.get(entry.name, ()),
        regime=method.regime,
        learns=_learns(method),
        makes_steps=method.trains and method.trains_by_gradient,
        closed_set=closed_set,
        protocols=_protocols(entry.name, method.regime, closed_set),
        parameters=_trained(method),
    )


def _file(cls: type) -> str:
    """The file of a class: from the top of this project, or its name for one from elsewhere."""
    path, top = Path(inspect.getfile(cls)), Path(__file__).resolve().parents[2]
    return str(path.relative_to(top)) if path.is_relative_to(top) else path.name


def _learns(method: Method) -> str:
    ways = []
    if method.trains:
        ways.append("in steps" if method.trains_by_gradient else "in one pass")
    if method.adapts_to:
        ways.append(AT_TEST_TIME[method.adapts_to])
    return " and ".join(ways) or "nothing"


def _protocols(name: str, regime: str, closed_set: str) -> tuple[str, ...]:
    """The protocols that admit a method of a regime."""
    found = []
    for protocol in PROTOCOLS.values():
        try:
            protocol.check_closed_set(name, closed_set)
        except UnscorableError:
            continue
        if regime in protocol.regimes:
            found.append(protocol.name)
    return tuple(found)


def _trained(method: Method) -> int:
    """The number of trained parameters, of which some may depend on the training images."""
    if method.data_shaped:
        labels = torch.arange(NUM_CLASSES).repeat(SHOTS)
        images = Batch(labels=labels, pixels=torch.zeros(len(labels), 3, 1, 1))
        method.begin_training([images], 1)
    return sum(value.numel() for value in method.parameters() if value.requires_grad)


def _presets() -> dict[str, tuple[str, ...]]:
    """The shipped presets of methods alone, by the method that they bind."""
    found: dict[str, tuple[str, ...]] = {}
    for name, path in SHIPPED.files().items():
        if path.parent.name == PRESET_FOLDER:
            bound: Any = read_config_file(path).bindings.get("experiment.method")
            found[bound.name] = (*found.get(bound.name, ()), name)
    return found
