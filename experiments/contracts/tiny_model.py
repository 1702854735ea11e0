"""A random CLIP with towers of width 32, batches for it, and methods and refiners on it: everything
that a contract needs, in a moment and without data.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.clip.backbone import build_open_clip
from core.clip.frozen import FrozenCLIP
from core.clip.tokenizer import Tokenizer
from core.config import lookup
from core.interfaces import Method
from core.seeding import Seeds
from core.train.batches import TrainingBatches
from core.train.fit import Budget, FitResult, fit, train_step
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.train.optimizers import SGD, Constant
from core.types import Batch, ClassNames
from refiners.null_refiner import NullRefiner
from refiners.text_refiner import TextRefiner

CLASSES = ClassNames(names=("cat", "hot_air_balloon", "sea anemone", "lynx", "oak"))
OTHER_CLASSES = ClassNames(names=("tram", "very large red kite", "gravel"))
EVERYTHING = frozenset({"pooled", "local", "attention"})

# Settings without which a registered class cannot be built here.
SETTINGS: dict[str, dict[str, Any]] = {}

PARTS_ON: dict[str, Any] = {
    "alignment": "MlpAlignment",
    "cache": "EmaCache",
    "aggregation": "LinearAggregation",
    "semantic": "SemanticLoss",
    "regularization": "L1Regularization",
}
PARTS_OFF: dict[str, Any] = {
    "alignment": "NoAlignment",
    "cache": "NoCache",
    "aggregation": "NoAggregation",
    "semantic": "NoLoss",
    "regularization": "NoLoss",
}


@functools.cache
def tokenizer(context_length: int) -> Tokenizer:
    """Reading the vocabulary takes longer than most tests."""
    return Tokenizer(context_length)


def tiny_clip(**changes: Any) -> FrozenCLIP:
    """A frozen random CLIP: 16 patches, 32 wide, float32. Always the same."""
    config = {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {
            "layers": 3,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
            "image_size": 32,
        },
        "text_cfg": {"width": 32, "heads": 2, "layers": 3},
    } | changes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = build_open_clip(config)
    with torch.no_grad():
        model.token_embedding.weight *= 30  # class names shall matter in a random tower
    return FrozenCLIP(model, tokenizer(model.context_length), name="tiny")


@functools.cache
def shared_tiny_clip() -> FrozenCLIP:
    """The same object at every call, for what does not change it."""
    return tiny_clip()


def make_method(
    name: str, clip: FrozenCLIP, *, classes: ClassNames = CLASSES, seed: int = 0, **settings: Any
) -> Method:
    """A registered method with its defaults and these settings."""
    cls: Any = lookup(name).cls
    made: Method = cls(
        clip, classes, Seeds(seed).at("method"), **SETTINGS.get(name, {}), **settings
    )
    return made


def part(name: str, **settings: Any) -> Callable[..., Any]:
    """A registered part, to be plugged in."""
    return functools.partial(lookup(name).cls, **SETTINGS.get(name, {}), **settings)


def make_model(
    method: Method, *, seed: int = 0, dtype: torch.dtype = torch.float32, **parts: Any
) -> RefinedMethod:
    """The method with a TextRefiner of these parts: names of parts or factories; none at all is
    NullRefiner.
    """
    seeds = Seeds(seed).at("refiner")
    if not parts:
        return RefinedMethod(method, NullRefiner(method.output(), seeds)).to(dtype=dtype)
    chosen = {**PARTS_ON, **parts}
    factories: dict[str, Any] = {
        slot: part(value) if isinstance(value, str) else value for slot, value in chosen.items()
    }
    refiner = TextRefiner(method.output(), seeds, **factories)
    return RefinedMethod(method, refiner).to(dtype=dtype)


def images(count: int = 6, *, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random pixels (count, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 32, 32, generator=generator).to(dtype)


def batch(
    count: int = 6,
    *,
    seed: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Random images with labels that walk through the classes."""
    return Batch(
        labels=torch.arange(count) % len(CLASSES),
        pixels=images(count, seed=seed, dtype=dtype),
        need=EVERYTHING,
        index=torch.arange(count),
    )


class ListBatches(TrainingBatches):
    """Fixed batches, in order, every epoch."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        super().__init__(
            torch.cat([b.labels for b in batches]), len(batches[0]), torch.device("cpu")
        )
        self.batches = batches

    def epoch(self, epoch: int, seeds: Seeds) -> Iterator[Batch]:
        """The batches."""
        yield from self.batches

    def take(self, index: torch.Tensor, epoch: int, seeds: Seeds) -> Batch:
        """Never called: the batches are there."""
        raise NotImplementedError


def objective_of(model: RefinedMethod) -> Objective:
    """The objective of a model, as a run builds it."""
    method, refiner = model.method, model.refiner
    terms, guides = map(refiner.method_terms, (method.loss_terms(), method.guide_terms()))
    return Objective(terms, refiner.loss_terms(), method.criterion, guides)


def training(
    model: RefinedMethod,
    *,
    epochs: int = 2,
    lr: float = 0.05,
    dtype: torch.dtype = torch.float32,
    data: Sequence[Batch] = (),
) -> tuple[FitResult, list[dict[str, float]]]:
    """Two batches an epoch, or those given, through the ordinary loop; the result and the log."""
    log: list[dict[str, float]] = []
    budget = Budget(epochs=epochs, optimizer=SGD(lr=lr), schedule=Constant())
    batches = ListBatches(data or [batch(seed=3, dtype=dtype), batch(seed=4, dtype=dtype)])
    result = fit(
        model, objective_of(model), batches, budget, Seeds(0), log=lambda e: log.append(dict(e))
    )
    return result, log


def small_step(model: RefinedMethod, data: Batch, *, size: float = 1e-3) -> tuple[float, float]:
    """The loss before and after one SGD step of length ``size`` against the gradient."""
    model.train()
    model.method.begin_training([data], 1)
    objective = objective_of(model)

    def loss() -> torch.Tensor:
        terms = objective(model(data), model.method.targets(data))
        return torch.stack(list(terms.values())).sum()

    before = loss()
    parameters = model.trainable()
    gradients = torch.autograd.grad(before, parameters, allow_unused=True)
    found = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    length = torch.stack([(g**2).sum() for _, g in found]).sum().sqrt()
    with torch.no_grad():
        for parameter, gradient in found:
            parameter.sub_(size * gradient / length)
    return float(before.detach()), float(loss().detach())


def one_step(model: RefinedMethod, data: Batch, *, lr: float = 0.05) -> dict[str, torch.Tensor]:
    """One ordinary training step."""
    model.train()
    optimizer = torch.optim.SGD(model.trainable(), lr=lr)
    return train_step(model, objective_of(model), optimizer, data, nullcontext())


def logits(model: RefinedMethod, data: Batch) -> torch.Tensor:
    """What the model says in evaluation."""
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(data).logits()
    return found
