"""The root of a run's configuration: every choice of one training and evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from core.config import (
    Configurable,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
    PromptTemplate,
    Reference,
    lookup,
    register,
)
from core.interfaces import Method, Refiner
from core.train.optimizers import Optimizer, Schedule
from experiments.run.protocols import ProtocolName, Selection
from experiments.run.runtime import Precision

Overlap = Literal["refused", "copies-refused", "allowed"]

CROP_SCALE = (0.08, 1.0)
UNTRAINED: dict[str, Any] = {
    "optimizer": None,
    "schedule": None,
    "shots": 1,
    "seed": 0,
    "epochs": 1,
    "batch_size": 1,
    "num_views": 0,
    "selection": "last",
    "crop_scale": CROP_SCALE,
    "fresh_views": False,
    "drop_last": True,
    "shots_file": None,
}

WITHOUT_STEPS: dict[str, Any] = {
    "optimizer": None,
    "schedule": None,
    "epochs": 1,
    "batch_size": 1,
    "selection": "last",
    "drop_last": True,
}


@register("experiment", name="experiment")
@dataclass(frozen=True, kw_only=True)
class Experiment(Configurable):
    """One run: a base method with a refiner, on a dataset, with a budget and a seed.

    ``backbone`` is "mosaic" or an open_clip name, ``weights`` a pretrained tag or a local file.
    ``protocol`` decides what is trained on and what is scored (``experiments/run/protocols.py``);
    ``targets`` are the other datasets that "cross_dataset" and "domain_generalization" score.
    ``shots`` 0 means all images; ``shots_file`` replaces the draw by a list of images drawn
    elsewhere. ``num_views`` 0 trains on the evaluation view, k on k fixed augmented views of each
    image; ``fresh_views`` draws new augmentations in every epoch instead, as published, and encodes
    every image in every step. ``crop_scale`` bounds the area of an augmented crop. ``drop_last``
    drops the last short batch of an epoch unless it is the only one. ``selection`` decides which
    epoch is reported: the last, the best on few-shot validation images, or the best on the test
    images of the training classes, named so that nobody uses it by accident. ``template`` replaces
    the templates of the datasets. ``split_fractions`` (train, val, test) and ``split_seed`` split a
    plain ``class/image`` tree, and have no effect elsewhere. ``precision`` applies to everything
    that is trained; "bfloat16" is autocast. ``overlap`` says what happens where test images are
    training images as well: the run is refused, also for equal copies under another name (every
    file is then read), or it is allowed, recorded and marked in the report.
    """

    permissions: ClassVar[frozenset[str]] = frozenset({"overlap"})

    method: Annotated[Callable[..., Method], Part("method")]
    refiner: Annotated[Callable[..., Refiner], Part("refiner")]
    optimizer: Annotated[Callable[..., Optimizer], Part("optimizer")] | None
    schedule: Annotated[Callable[..., Schedule], Part("schedule")] | None
    dataset: str
    backbone: str = "mosaic"
    weights: str | None = None
    protocol: ProtocolName = "base_to_new"
    targets: tuple[str, ...] = ()
    template: PromptTemplate | None = None
    shots: NonNegativeInt = 16
    shots_file: str | None = None
    seed: NonNegativeInt = 1
    epochs: PositiveInt = 30
    batch_size: PositiveInt = 32
    num_views: NonNegativeInt = 0
    fresh_views: bool = False
    crop_scale: tuple[PositiveFloat, ...] = CROP_SCALE
    drop_last: bool = True
    selection: Selection = "last"
    split_fractions: tuple[NonNegativeFloat, ...] = (0.5, 0.2, 0.3)
    split_seed: NonNegativeInt = 0
    precision: Precision = "float32"
    overlap: Overlap = "refused"

    def __post_init__(self) -> None:
        if len(self.split_fractions) != 3:
            raise ValueError(
                f"experiment.split_fractions must be (train, val, test), got {self.split_fractions}"
            )
        if len(self.crop_scale) != 2 or not self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(
                "experiment.crop_scale must be (low, high) with 0 < low <= high <= 1, fractions of "
                f"the area, got {self.crop_scale}"
            )
        if self.fresh_views and not self.num_views:
            raise ValueError(
                "experiment.fresh_views augments in every epoch, got experiment.num_views = "
                "0, which disables augmentation; set it to 1"
            )

    @classmethod
    def idle(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
        """A template has no effect where the method makes its own prompts."""
        name = parameters["method"].name
        entry = lookup(name)
        own = {key: values[f"{name}.{key}"] for key in entry.parameters}
        if parameters["template"] is None or entry.ask("reads_template", own, values):
            return {}
        return {
            "template": f"{name} makes its own prompts and reads no template, got "
            f"{parameters['template']!r}; remove it, or use a method with hand-made texts"
        }

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """A run that trains nothing depends neither on the budget nor, unless it adapts at test
        time, on the seed; one that learns without steps does not depend on the budget; a run
        without augmentation does not depend on the crop.
        """
        method: Any = lookup(parameters["method"].name).cls
        if parameters["refiner"] == Reference("NullRefiner"):
            if not method.trains:
                return UNTRAINED | ({"seed": parameters["seed"]} if method.adapts_to else {})
            if not method.trains_by_gradient:
                parameters = {**parameters, **WITHOUT_STEPS}
        if not parameters["num_views"]:
            return {**parameters, "crop_scale": CROP_SCALE}
        return parameters
