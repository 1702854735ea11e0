"""The root of a run's configuration: every choice of one training and evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from core.config import (
    Between,
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
from core.data.transforms import CROP_SCALE, Augmentation
from core.interfaces import Method, Refiner
from core.train.optimizers import Optimizer, Schedule
from experiments.run.protocols import ProtocolName, Selection
from experiments.run.runtime import FeaturePrecision, FeatureStorage, Precision

Overlap = Literal["refused", "copies-refused", "allowed"]

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
    "augmentation": None,
    "fresh_views": False,
    "fixed_views": False,
    "drop_last": True,
    "patience": 0,
    "shots_file": None,
}

WITHOUT_STEPS: dict[str, Any] = {
    "optimizer": None,
    "schedule": None,
    "epochs": 1,
    "batch_size": 1,
    "selection": "last",
    "drop_last": True,
    "patience": 0,
}
KEPT_UNTRAINED = {"": (), "stream": ("seed",), "image": ("seed", "crop_scale", "augmentation")}
"""What a method that trains nothing depends on, by what it adapts to at test time."""
PUBLISHED_AUGMENTATION, NO_AUGMENTATION = "RandomResizedCropFlip", "NoAugmentation"


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
    every image in every step. Methods that train on pixels draw new ones anyway, unless
    ``fixed_views`` keeps to the k fixed ones, of which frozen features and a teacher's logits are
    computed once. ``augmentation`` is what an augmented view goes through, by default
    the published crop and flip, and ``crop_scale`` bounds the area of its crop. ``drop_last`` drops
    the last short batch of an epoch unless it is the only one. ``selection`` decides which epoch is
    reported: the last, the best on few-shot validation images, or the best on the test images of
    the training classes, named so that nobody uses it by accident. ``patience`` k, with
    the selection "val", stops training after k epochs that were no better than the best so far
    (0: never); learning rates stay those of all ``epochs``. ``checkpoint_every`` k keeps the state
    of training after every k-th epoch, so that the same command goes on there after a kill (0:
    never); it changes no result. ``crop_cache_gb`` bounds the gigabytes of decoded evaluation
    images that runs on pixels keep below the cache folder for each other (0: none); nor does it.
    ``cuda_graphs`` replays steps on cached features from one recording on a GPU, where that gives
    the same numbers faster; nor does it.
    ``template`` replaces the templates of the datasets. ``split_fractions`` (train, val, test) and
    ``split_seed`` split a plain ``class/image`` tree, and have no effect elsewhere. ``precision``
    applies to everything that is trained; "bfloat16" and "float16" are autocast over frozen
    matrices that are stored so, which rounds neither logits nor losses, prompts, frozen texts and
    cached features; "float16" scales the loss. ``feature_precision`` "bfloat16" runs the frozen
    image tower under autocast, up to twice as fast and with features that differ by about 0.4
    percent; a method that trains on pixels ignores it. ``feature_storage`` "float16" keeps cached
    features rounded to 11 bits, in half the space. ``tf32`` and ``deterministic`` matter on a GPU
    alone: the former lets products in float32 round their inputs to 10 bits, the latter makes the
    same run give the same bits there as well, at some cost in time. ``overlap`` says what happens
    where test images are training images as well: the run is refused, also for equal copies under
    another name (every file is then read), or it is allowed, recorded and marked in the report.
    """

    permissions: ClassVar[frozenset[str]] = frozenset(
        {"overlap", "checkpoint_every", "crop_cache_gb", "cuda_graphs"}
    )
    later: ClassVar[frozenset[str]] = frozenset(
        {"augmentation", "patience", "feature_precision", "feature_storage", "fixed_views"}
        | {"tf32", "deterministic"}
    )

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
    fixed_views: bool = False
    crop_scale: tuple[PositiveFloat, ...] = CROP_SCALE
    augmentation: Annotated[Callable[..., Augmentation], Part("augmentation")] | None = None
    drop_last: bool = True
    selection: Selection = "last"
    patience: NonNegativeInt = 0
    checkpoint_every: NonNegativeInt = 0
    crop_cache_gb: Annotated[float, Between(0, 10**9)] = 20.0
    cuda_graphs: bool = False
    split_fractions: tuple[NonNegativeFloat, ...] = (0.5, 0.2, 0.3)
    split_seed: NonNegativeInt = 0
    precision: Precision = "float32"
    feature_precision: FeaturePrecision = "float32"
    feature_storage: FeatureStorage = "float32"
    tf32: bool = False
    deterministic: bool = True
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
        if self.fixed_views and (self.fresh_views or not self.num_views):
            raise ValueError(
                "experiment.fixed_views keeps to the fixed augmented views that "
                f"experiment.num_views counts, got experiment.num_views = {self.num_views} and "
                f"experiment.fresh_views = {self.fresh_views}; set num_views to 1 or more and "
                "fresh_views to False"
            )
        if self.patience and self.selection != "val":
            raise ValueError(
                "experiment.patience stops training by the accuracy on validation images, got "
                f"{self.patience} with experiment.selection = {self.selection!r}; set "
                "experiment.selection = 'val', or experiment.patience = 0"
            )

    @classmethod
    def idle(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
        """A template has no effect where the method makes its own prompts, and no augmentation has
        one where nothing is augmented.
        """
        name = parameters["method"].name
        entry = lookup(name)
        own = {key: values[f"{name}.{key}"] for key in entry.parameters}
        reasons = {}
        if parameters["template"] is not None and not entry.ask("reads_template", own, values):
            reasons["template"] = (
                f"{name} makes its own prompts and reads no template, got "
                f"{parameters['template']!r}; a template is for methods with hand-made texts"
            )
        if parameters["augmentation"] is not None and not _augments(entry.cls, parameters):
            reasons["augmentation"] = (
                f"nothing is augmented with experiment.num_views = 0, got "
                f"@{parameters['augmentation'].name}; it needs experiment.num_views = 1 or more"
            )
        return reasons

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """A run that trains nothing depends neither on the budget nor, unless it adapts at test
        time, on the seed; one that learns without steps does not depend on the budget; a run
        without augmentation does not depend on the crop. Views that are drawn anew in every epoch,
        as those of a method that trains on pixels always are, are not counted; such a method has no
        cached features.
        """
        method: Any = lookup(parameters["method"].name).cls
        if method.image_input == "pixels":
            cached = {"feature_precision": "float32", "feature_storage": "float32"}
            parameters = {**parameters, **cached}
        if parameters["refiner"] == Reference("NullRefiner"):
            if not method.trains:
                kept = KEPT_UNTRAINED[method.adapts_to]
                plain = UNTRAINED | {name: parameters[name] for name in kept}
                return plain | _crop_of(plain)
            if not method.trains_by_gradient:
                parameters = {**parameters, **WITHOUT_STEPS}
        if parameters["patience"] >= parameters["epochs"] - 1:
            parameters = {**parameters, "patience": 0}  # the last epoch comes first
        if method.image_input == "features":
            parameters = {**parameters, "fixed_views": False}  # they are, unless they are fresh
        if draws_anew(method, parameters):
            parameters = {**parameters, "num_views": min(parameters["num_views"], 1)}
        if not _augments(method, parameters):
            return {**parameters, "crop_scale": CROP_SCALE, "augmentation": None}
        if parameters["augmentation"] != Reference(NO_AUGMENTATION):
            return parameters
        parameters = parameters | _crop_of(parameters)
        if parameters["fresh_views"] or method.adapts_to == "image":
            return parameters
        one = {"augmentation": None, "num_views": 0, "fixed_views": False}
        return {**parameters, **one}  # one view, the same as none

    @classmethod
    def simplify_below(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The published augmentation, plugged in with its own settings, is the default."""
        entry = lookup(PUBLISHED_AUGMENTATION)
        own = {name: values.get(f"{entry.name}.{name}") for name in entry.parameters}
        if values["experiment.augmentation"] == Reference(entry.name) and all(
            own[name] == parameter.default for name, parameter in entry.parameters.items()
        ):
            return {"experiment.augmentation": None}
        return {}


def _crop_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Without augmentation nothing is cropped."""
    none = parameters["augmentation"] == Reference(NO_AUGMENTATION)
    return {"crop_scale": CROP_SCALE} if none else {}


def draws_anew(method: Any, parameters: Mapping[str, Any]) -> bool:
    """Whether a run draws new views of its training images in every epoch, which nobody counts."""
    fixed: bool = parameters["fixed_views"]
    return bool(parameters["fresh_views"] or (method.image_input == "pixels" and not fixed))


def _augments(method: Any, parameters: Mapping[str, Any]) -> bool:
    """Whether a run draws augmented views: of training images, or of test images to adapt to."""
    return bool(parameters["num_views"] or method.adapts_to == "image")
