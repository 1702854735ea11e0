"""Our side of the comparison: a method as a real run builds and trains it, on random weights.

This file imports nothing but the stable entry points of ``core``, ``methods`` and ``refiners``, so
that ``experiments/run/published_flow/revisions.py`` can run it on another commit's code.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.clip.backbone import build_open_clip, load_clip
from core.clip.features import FeatureStore
from core.clip.frozen import FrozenCLIP
from core.clip.templates import CLIP_TEMPLATES_60
from core.clip.tokenizer import Tokenizer
from core.data.dataset import Dataset, Item
from core.data.transforms import EvalTransform
from core.interfaces import Method
from core.seeding import Seeds
from core.train import batches as batches_module
from core.train.batches import (
    FeatureSource,
    FreshViewSource,
    ImageSource,
    PixelSource,
    TrainingBatches,
)
from core.train.fit import train_step
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.train.optimizers import SGD, Adam
from core.types import Batch, ClassNames
from methods.cocoop import CoCoOp
from methods.coop import CoOp
from methods.ivlp import IVLP
from methods.promptkd import PromptKD
from methods.promptsrc import PromptSRC
from methods.sep import SEP
from methods.teachers import Teacher
from refiners.aggregation import LinearAggregation
from refiners.alignment import MlpAlignment
from refiners.cache import EmaCache
from refiners.losses import L1Regularization, SemanticLoss
from refiners.null_refiner import NullRefiner
from refiners.text_refiner import TextRefiner

Views = Literal["fixed", "fresh"]
"""Fixed views are encoded by the frozen tower before training; fresh ones in every step."""

VIEWS: tuple[Views, ...] = ("fixed", "fresh")
BACKBONE = "ViT-B-16-quickgelu"
EMBEDDED = "mosaic"
SHAPE = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 512,
        "heads": 8,
        "layers": 12,
    },
}
NUM_EPOCHS = 20

# ImageNet's classes 0, 20, 40, ... and then 10, 30, 50, ..., by the names that CLIP's authors gave.
IMAGENET_NAMES = (
    "tench",
    "American dipper",
    "Carolina anole",
    "night snake",
    "black grouse",
    "black swan",
    "fiddler crab",
    "dunlin",
    "Afghan Hound",
    "American Staffordshire Terrier",
    "Tibetan Terrier",
    "Sussex Spaniel",
    "Appenzeller Sennenhund",
    "Chow Chow",
    "grey fox",
    "tiger beetle",
    "damselfly",
    "zebra",
    "otter",
    "titi monkey",
    "academic gown",
    "banjo",
    "beer bottle",
    "breakwater",
    "automated teller machine",
    "cliff dwelling",
    "infant bed",
    "drilling rig",
    "football helmet",
    "greenhouse",
    "hook",
    "laptop computer",
    "manhole cover",
    "mobile home",
    "baby pacifier",
    "paper towel",
    "pill bottle",
    "power drill",
    "refrigerator",
    "schooner",
    "slot machine",
    "steam locomotive",
    "mop",
    "tobacco shop",
    "unicycle",
    "water tower",
    "traffic light",
    "spaghetti squash",
    "chocolate syrup",
    "volcano",
    "brambling",
    "American bullfrog",
    "American alligator",
    "harvestman",
    "lorikeet",
    "flatworm",
    "flamingo",
    "sea lion",
    "Irish Wolfhound",
    "Sealyham Terrier",
    "German Shorthaired Pointer",
    "Shetland Sheepdog",
    "Siberian Husky",
    "Alaskan tundra wolf",
    "jaguar",
    "ant",
    "cottontail rabbit",
    "Alpine ibex",
    "guenon",
    "eel",
    "apiary",
    "basketball",
    "bobsleigh",
    "candle",
    "chain mail",
    "container ship",
    "digital clock",
    "espresso machine",
    "gas mask or respirator",
    "hand-held computer",
    "T-shirt",
    "slip-on shoe",
    "microphone",
    "vespa",
    "bullock cart",
    "pencil sharpener",
    "farm plow",
    "quilt",
    "sneaker",
    "shopping basket",
    "keyboard space bar",
    "stretcher",
    "teddy bear",
    "tricycle",
    "volleyball",
    "wooden spoon",
    "baguette",
    "orange",
    "mountain",
    "horse chestnut seed",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowCase:
    """A method with the batch size of the comparison and its published optimizer.

    ``build`` makes the method from a CLIP, classes, seeds, the kind of views and a teacher's CLIP;
    ``evaluated`` images make a test batch.
    """

    name: str
    title: str
    batch_size: int
    build: Callable[[FrozenCLIP, ClassNames, Seeds, Views, FrozenCLIP], Method]
    optimizer: SGD | Adam
    refined: bool = False
    evaluated: int = 20


def _coop(words: str, clip: FrozenCLIP, classes: ClassNames, seeds: Seeds, *_: Any) -> Method:
    return CoOp(clip, classes, seeds, num_ctx=4 if words else 16, ctx_init=words)


def _cocoop(clip: FrozenCLIP, classes: ClassNames, seeds: Seeds, *_: Any) -> Method:
    return CoCoOp(clip, classes, seeds)


def _promptsrc(clip: FrozenCLIP, classes: ClassNames, seeds: Seeds, *_: Any) -> Method:
    """With two templates of 60: their texts are made once, before the first step."""
    return PromptSRC(clip, classes, seeds, templates=CLIP_TEMPLATES_60[:2])


def _promptkd(
    clip: FrozenCLIP, classes: ClassNames, seeds: Seeds, views: Views, teacher: FrozenCLIP
) -> Method:
    """With a teacher that has deep prompts in both towers, as released."""
    spec = teacher.spec
    prompts = IVLP(
        teacher,
        classes,
        seeds.at("teacher"),
        num_ctx_text=4,
        num_ctx_vision=4,
        depth_text=min(9, spec.text_depth),
        depth_vision=min(9, spec.vision_depth),
    )
    return PromptKD(
        clip,
        classes,
        seeds,
        teacher=lambda student, _: Teacher(student, prompts),
        teacher_logits="once" if views == "fixed" else "each_step",
    )


def _sep(clip: FrozenCLIP, classes: ClassNames, seeds: Seeds, *_: Any) -> Method:
    return SEP(clip, classes, seeds, selection_scope="batch", fusion_axis="batch")


WORDS = "a photo of a"
CASES = {
    case.name: case
    for case in (
        FlowCase(
            name="coop",
            title="CoOp",
            batch_size=8,
            build=partial(_coop, ""),
            optimizer=SGD(lr=2e-3),
        ),
        FlowCase(
            name="cocoop",
            title="CoCoOp",
            batch_size=1,
            build=_cocoop,
            optimizer=SGD(lr=2e-3),
            evaluated=2,
        ),
        FlowCase(
            name="text_refiner",
            title="TextRefiner on CoOp",
            batch_size=8,
            build=partial(_coop, WORDS),
            optimizer=SGD(lr=2e-3),
            refined=True,
        ),
        FlowCase(
            name="promptsrc",
            title="PromptSRC",
            batch_size=4,
            build=_promptsrc,
            optimizer=SGD(lr=2.5e-3),
        ),
        FlowCase(
            name="promptkd",
            title="PromptKD",
            batch_size=8,
            build=_promptkd,
            optimizer=SGD(lr=5e-3),
        ),
        FlowCase(
            name="sep",
            title="SEP",
            batch_size=8,
            build=_sep,
            optimizer=Adam(lr=2.5e-3, eps=1e-3),
        ),
    )
}


def class_names(number: int) -> ClassNames:
    """So many of ImageNet's class names; beyond those listed, numbered ones."""
    rounds = itertools.count(1)
    names = (name if turn == 1 else f"{name} {turn}" for turn in rounds for name in IMAGENET_NAMES)
    return ClassNames(names=tuple(itertools.islice(names, number)))


def random_clip(name: str = BACKBONE) -> FrozenCLIP:
    """A CLIP of an open_clip name with random weights, always the same; or the embedded one."""
    if name == EMBEDDED:
        return load_clip(EMBEDDED)
    config: dict[str, Any] = SHAPE
    if name != BACKBONE:
        from core.clip.catalog import model_config

        config = model_config(name)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model: Any = build_open_clip(config)
    return FrozenCLIP(model, Tokenizer(model.context_length), name=name)


def measure_products(clip: FrozenCLIP, folder: Path) -> str:
    """Let a backbone have the matrix product that a run would choose here; returns its name."""
    try:
        from core.clip.measured import measured_in
        from core.clip.product_choice import choose, product_of
    except ImportError:  # older commits have one product
        return "default"
    with measured_in(folder):
        choose(clip)
    return product_of(clip)


class NoiseImages:
    """A reader of noise: the file name of an image is its number, and so is its first pixel."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def read(self, path: str) -> Image.Image:
        """The image of a number."""
        noise = np.random.default_rng(int(path)).integers(0, 256, (*self.size, 3), dtype=np.uint8)
        noise[0, 0, 0] = int(path)
        return Image.fromarray(noise)


class ReadyPixels:
    """A transform that looks an image's pixels up, so that no step decodes or augments."""

    id = "ready"

    def __init__(self, pixels_NCHW: Tensor) -> None:
        self.pixels_NCHW = pixels_NCHW

    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Tensor:
        return self.pixels_NCHW[np.asarray(image)[0, 0, 0]]


class NoiseData:
    """As many noise images as a batch has, and the sources of a run for them."""

    def __init__(self, clip: FrozenCLIP, classes: ClassNames, number: int, folder: Path) -> None:
        self.clip, self.folder = clip, folder
        reader = NoiseImages(clip.spec.image_size)
        labels = torch.randint(
            len(classes), (number,), generator=torch.Generator().manual_seed(0)
        ).tolist()
        items = tuple(Item(str(i), label) for i, label in enumerate(labels))
        self.dataset = Dataset(
            name="noise",
            class_names=classes.names,
            template=classes.template,
            train=items,
            val=(),
            test=items,
            reader=reader,
        )
        plain = EvalTransform(clip.spec)
        self.pixels_NCHW = torch.stack([plain(reader.read(item.path)) for item in items])
        self.labels_N = torch.tensor(labels)

    def source(self, image_input: str, views: Views) -> ImageSource:
        """The source that a run has for methods of this input."""
        device = torch.device("cpu")
        store = FeatureStore(self.folder, self.clip)
        given: dict[str, Any] = {"augmentation": ReadyPixels(self.pixels_NCHW)}
        passes = getattr(batches_module, "FrozenPasses", None)  # older commits have none
        if passes is not None:
            given["frozen"] = passes(self.clip, store=store)
        pixels = PixelSource(self.clip, device, torch.float32, **given)
        if image_input == "pixels":
            return pixels
        if views == "fresh":
            return FreshViewSource(store, pixels)
        return FeatureSource(store, device, torch.float32)


class PlainBatches(TrainingBatches):
    """One batch made by hand, for commits whose sources take no ready pixels."""

    def __init__(self, data: NoiseData, method: Method, need: frozenset[str], views: Views) -> None:
        super().__init__(data.labels_N, len(data.labels_N), torch.device("cpu"))
        self.pixels_NCHW, self.need = data.pixels_NCHW, need
        known = method.image_input == "features" and views == "fixed"
        self.features = data.clip.encode_image(self.pixels_NCHW, need=need) if known else None

    def take(self, index: Tensor, epoch: int, seeds: Seeds) -> Batch:
        """The images of these numbers."""
        about: dict[str, Any] = {"need": self.need, "index": index}
        if self.features is None:
            about["pixels"] = self.pixels_NCHW[index]
        else:
            about["features"] = self.features[index]
        return Batch(labels=self.labels[index], **about)


class OwnSide:
    """A method of ours with everything that a step takes.

    On fixed views the batch is at hand before a step; on fresh ones the source gives it within the
    step, with ready pixels, and encodes it where a run would.
    """

    def __init__(
        self,
        case: FlowCase,
        clip: FrozenCLIP,
        classes: ClassNames,
        views: Views,
        folder: Path,
        teacher: FrozenCLIP | None = None,
    ) -> None:
        self.case, self.views = case, views
        seeds = Seeds(0)
        method = case.build(clip, classes, seeds.at("method"), views, teacher or clip)
        self.model = _refined(method, seeds.at("refiner"), textual=case.refined)
        self.model.train()
        self.objective = objective_of(self.model)
        self.data = NoiseData(clip, classes, case.batch_size, folder)
        self._batches = self._training()
        method.begin_training(self._batches.every_image(seeds), NUM_EPOCHS)
        learned = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = case.optimizer.build(learned)
        self._seeds = seeds
        self.kept = next(self._batches.epoch(1, seeds)) if views == "fixed" else None

    def batch(self) -> Batch:
        """The batch of a step, always with the same images."""
        return next(self._batches.epoch(1, self._seeds)) if self.kept is None else self.kept

    def step(self) -> dict[str, Tensor]:
        """A training step; returns the loss and its terms."""
        return train_step(self.model, self.objective, self.optimizer, self.batch(), nullcontext())

    def _training(self) -> TrainingBatches:
        method = self.model.method
        need = frozenset({"pooled"}) | self.model.refiner.needs()
        if "augmentation" not in inspect.signature(PixelSource).parameters:
            return PlainBatches(self.data, method, need, self.views)
        source: Any = self.data.source(method.image_input, self.views)
        given: dict[str, Any] = {}
        if hasattr(method, "reads_frozen"):  # older commits have none
            given["reads_frozen"] = method.reads_frozen
        batches: TrainingBatches = source.training(
            self.data.dataset,
            need=need,
            num_views=0 if self.views == "fixed" else 1,
            batch_size=self.case.batch_size,
            **given,
        )
        return batches


def objective_of(model: RefinedMethod) -> Objective:
    """The objective of a run."""
    method, refiner = model.method, model.refiner
    return Objective(method.loss_terms(), refiner.loss_terms(), method.criterion)


def _refined(method: Method, seeds: Seeds, *, textual: bool) -> RefinedMethod:
    if not textual:
        return RefinedMethod(method, NullRefiner(method.output(), seeds))
    refiner = TextRefiner(
        method.output(),
        seeds,
        alignment=MlpAlignment,
        cache=EmaCache,
        aggregation=LinearAggregation,
        semantic=SemanticLoss,
        regularization=L1Regularization,
    )
    return RefinedMethod(method, refiner)


def pixel_batches(data: NoiseData, size: int) -> Iterator[Batch]:
    """Test batches of pixels, which no cache knows."""
    rows: Sequence[Tensor] = torch.arange(len(data.labels_N)).split(size)
    for index in rows:
        yield Batch(labels=data.labels_N[index], pixels=data.pixels_NCHW[index], index=index)
