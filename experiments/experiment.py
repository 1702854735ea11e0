"""The root of a run's configuration: every choice of one training and evaluation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from core.interfaces import Method, Refiner
from core.registry import (
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveInt,
    Reference,
    lookup,
    register,
)
from core.train.optim import Optimizer, Schedule

Protocol = Literal["base_to_new", "all_classes"]
Selection = Literal["last", "val", "oracle-test"]
Precision = Literal["float32", "float64", "bfloat16"]

UNTRAINED: dict[str, Any] = {
    "optimizer": None,
    "schedule": None,
    "shots": 1,
    "seed": 0,
    "epochs": 1,
    "batch_size": 1,
    "num_views": 0,
    "selection": "last",
}


@register("experiment", name="experiment")
@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run: a base method with a refiner, on a data set, with a budget and a seed.

    ``backbone`` is "mosaic" or an open_clip name, ``weights`` a pretrained tag or a local file.
    ``protocol`` "base_to_new" trains on the first half of the classes and scores both halves, each
    among its own classes; "all_classes" trains and scores all. ``shots`` 0 means all images.
    ``num_views`` 0 trains on the evaluation view, k on k fixed augmented views an image.
    ``selection`` says which epoch is reported: the last, the best on few-shot validation images, or
    the best on the test images of the training classes, named so that nobody uses it by accident.
    ``template`` replaces the data set's own. ``split_fractions`` (train, val, test) and
    ``split_seed`` split a plain ``class/image`` tree, and matter nowhere else. ``precision`` is
    that of everything trained; "bfloat16" is autocast.
    """

    method: Annotated[Callable[..., Method], Part("method")]
    refiner: Annotated[Callable[..., Refiner], Part("refiner")]
    optimizer: Annotated[Callable[..., Optimizer], Part("optimizer")] | None
    schedule: Annotated[Callable[..., Schedule], Part("schedule")] | None
    dataset: str
    backbone: str = "mosaic"
    weights: str | None = None
    protocol: Protocol = "base_to_new"
    template: str | None = None
    shots: NonNegativeInt = 16
    seed: NonNegativeInt = 1
    epochs: PositiveInt = 30
    batch_size: PositiveInt = 32
    num_views: NonNegativeInt = 0
    selection: Selection = "last"
    split_fractions: tuple[NonNegativeFloat, ...] = (0.5, 0.2, 0.3)
    split_seed: NonNegativeInt = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if len(self.split_fractions) != 3:
            raise ValueError(
                f"experiment.split_fractions must be (train, val, test), got {self.split_fractions}"
            )

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """A run that trains nothing depends neither on the seed nor on the budget."""
        method: Any = lookup(parameters["method"].name).cls
        if not method.trains and parameters["refiner"] == Reference("NullRefiner"):
            return UNTRAINED
        return parameters
