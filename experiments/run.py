"""One run: build everything from a configuration, train, evaluate, and say what came out.

Device and precision are decided here and nowhere else.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import experiments.registered  # noqa: F401  (fills the registry)
from core.clip.backbone import shared_clip
from core.clip.features import FeatureStore
from core.clip.frozen import FrozenCLIP
from core.config import Config, config_from_text, session
from core.data.catalog import load_dataset
from core.data.dataset import ClassSubset, Dataset
from core.data.fewshot import few_shot
from core.data.splits import Fractions, class_subset
from core.records import Cost, Evaluation, RunRecord, write_atomic
from core.seeding import Seeds
from core.train.batches import FeatureSource, ImageSource, PixelSource
from core.train.checkpoint import load_checkpoint, save_checkpoint
from core.train.evaluate import accuracy, count_correct
from core.train.fit import Budget, DivergedError, FitResult, fit
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.types import ClassNames
from experiments.environment import describe_environment, peak_memory_mb
from experiments.experiment import Experiment

CONFIG_NAME = "config.gin"
WEIGHTS_NAME = "weights.safetensors"
LOG_NAME = "log.jsonl"

Progress = Callable[[Mapping[str, float]], None]

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run reads and computes: cache folder, data root, device."""

    cache_dir: Path
    data_root: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        kind, _, index = self.device.partition(":")
        if kind not in ("cpu", "cuda") or not (index or "0").isdecimal():
            raise ValueError(f"device must be cpu, cuda or cuda:N, got {self.device!r}")
        if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"device {self.device!r} is not there: torch sees {torch.cuda.device_count()} "
                "CUDA devices; use --device cpu"
            )


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """Everything of a run, built. ``dataset`` holds all classes after the few-shot draw."""

    settings: Experiment
    full: Dataset
    dataset: Dataset
    model: RefinedMethod
    budget: Budget | None
    source: ImageSource
    seeds: Seeds
    autocast: AbstractContextManager[Any]

    @property
    def trained_subset(self) -> ClassSubset:
        """Whose images training sees; without labels it sees those of the new classes as well."""
        return self.selected_subset if self.model.method.regime == "inductive" else "all"

    @property
    def selected_subset(self) -> ClassSubset:
        """Whose labels are known before the test."""
        return "base" if self.settings.protocol == "base_to_new" else "all"

    def targets(self) -> tuple[ClassSubset, ...]:
        """The class subsets that the protocol scores."""
        return ("base", "new") if self.settings.protocol == "base_to_new" else ("all",)


def run(
    config_text: str,
    run_dir: Path,
    *,
    identity: str,
    variant: str,
    factors: Mapping[str, str],
    cache_dir: Path,
    data_root: Path | None,
    device: str,
    on_progress: Progress,
) -> RunRecord:
    """Train and evaluate one configuration; the record is returned, not written.

    Writes ``config.gin``, ``log.jsonl`` and ``weights.safetensors`` into ``run_dir``. A loss that
    is not finite gives a record with the status "diverged". Raises ValueError for bad input.
    """
    started = time.perf_counter()
    config = config_from_text(config_text)
    write_atomic(run_dir / CONFIG_NAME, config.text())
    place = Place(cache_dir=cache_dir, data_root=data_root, device=device)
    with assembled(config, place) as built, _log(run_dir / LOG_NAME, on_progress) as log:
        record = _describe(built, identity, variant, factors, place)
        try:
            result = train(built, log)
        except DivergedError as error:
            return replace(record, status="diverged", message=str(error))
        save_checkpoint(run_dir / WEIGHTS_NAME, built.model)
        trained = time.perf_counter()
        evaluations = tuple(evaluate(built, built.dataset, subset) for subset in built.targets())
        ended = time.perf_counter()
        cost = Cost(
            train_seconds=result.seconds,
            evaluate_seconds=ended - trained,
            total_seconds=ended - started,
            images_per_second=result.images / result.seconds if result.seconds else 0.0,
            peak_memory_mb=peak_memory_mb(device),
            trainable_parameters=sum(p.numel() for p in built.model.trainable()),
        )
        epoch = result.selected_epoch
        return replace(record, evaluations=evaluations, cost=cost, selected_epoch=epoch)


def train(built: Assembly, log: Progress) -> FitResult:
    """Train an assembled run on its few-shot images. Raises DivergedError."""
    method, refiner, settings = built.model.method, built.model.refiner, built.settings
    objective = Objective(method.loss_terms(), refiner.loss_terms(), method.criterion)
    if not built.model.trainable():
        built.model.eval()
        return FitResult()
    assert built.budget is not None
    batches = built.source.training(
        class_subset(built.dataset, built.trained_subset),
        need=frozenset({"pooled"}) | refiner.needs(),
        num_views=settings.num_views,
        batch_size=settings.batch_size,
    )
    return fit(
        built.model,
        objective,
        batches,
        built.budget,
        built.seeds.at("batches"),
        log=log,
        select=_selector(built),
        autocast=built.autocast,
    )


def evaluate(built: Assembly, dataset: Dataset, subset: ClassSubset) -> Evaluation:
    """Score the test images of a data set's classes, with the method re-bound to their names."""
    part = class_subset(dataset, subset)
    method = built.model.method
    trained = method.classes
    method.set_classes(class_names(part, built.settings.template))
    built.model.eval()
    batches = built.source.evaluation(part, part.test, method.eval_batch_size)
    with built.autocast:
        correct, total = count_correct(built.model, batches, len(part.class_names))
    method.set_classes(trained)
    own = dataset.name == built.dataset.name
    return Evaluation(
        target=subset if own else f"{dataset.name}:{subset}",
        dataset=dataset.name,
        classes=subset,
        class_names=part.class_names,
        correct=correct,
        total=total,
    )


@contextmanager
def assembled(config: Config, place: Place) -> Iterator[Assembly]:
    """Everything of a run, built inside one configuration session."""
    with session(config) as make:
        settings: Experiment = make("experiment")
        seeds = Seeds(settings.seed)
        dtype, device = DTYPES[settings.precision], torch.device(place.device)
        clip = shared_clip(settings.backbone, settings.weights, place.device, dtype)
        full = read_dataset(settings, settings.dataset, place)
        dataset = few_shot(full, shots=settings.shots, seed=settings.seed)
        trained = class_subset(dataset, "base" if settings.protocol == "base_to_new" else "all")
        classes = class_names(trained, settings.template)
        method = settings.method(clip, classes, seeds.at("method"))
        _check_regime(method.regime, settings)
        if method.regime != "inductive":
            method.set_classes(class_names(dataset, settings.template))
        refiner = settings.refiner(method.output(), seeds.at("refiner"))
        model = RefinedMethod(method, refiner).to(device, dtype)
        yield Assembly(
            settings=settings,
            full=full,
            dataset=dataset,
            model=model,
            budget=_budget(settings, model),
            source=_source(method.image_input, clip, settings, place),
            seeds=seeds,
            autocast=_autocast(settings, device),
        )


def reload(run_dir: Path, place: Place) -> AbstractContextManager[Assembly]:
    """A finished run, built again with what it learned. Raises ValueError for missing files."""
    path = run_dir / CONFIG_NAME
    if not path.is_file():
        raise ValueError(f"{run_dir} is not a run folder: it has no {CONFIG_NAME}")
    config = config_from_text(path.read_text(), str(path))
    return _reloaded(config, run_dir / WEIGHTS_NAME, place)


@contextmanager
def _reloaded(config: Config, weights: Path, place: Place) -> Iterator[Assembly]:
    with assembled(config, place) as built:
        load_checkpoint(weights, built.model)
        built.model.eval()
        yield built


def fingerprints(config: Config, *, cache_dir: Path, data_root: Path | None) -> dict[str, str]:
    """What a run depends on besides its configuration: the data set and the backbone's weights."""
    values: dict[str, Any] = config.operative("experiment")
    train, val, test = values["experiment.split_fractions"]
    dataset = _dataset(
        values["experiment.dataset"],
        data_root,
        cache_dir,
        Fractions(train=train, val=val, test=test),
        values["experiment.split_seed"],
    )
    clip = shared_clip(
        values["experiment.backbone"], values["experiment.weights"], "cpu", torch.float32
    )
    return {"dataset": dataset.fingerprint, "backbone": clip.spec.fingerprint}


def read_dataset(settings: Experiment, name: str, place: Place) -> Dataset:
    """A data set by name, split as the experiment says where the tree has no split of its own."""
    train, val, test = settings.split_fractions
    fractions = Fractions(train=train, val=val, test=test)
    return _dataset(name, place.data_root, place.cache_dir, fractions, settings.split_seed)


@functools.lru_cache(maxsize=64)
def _dataset(
    name: str, data_root: Path | None, cache_dir: Path, fractions: Fractions, split_seed: int
) -> Dataset:
    """A data set, listed once a process."""
    return load_dataset(
        name, root=data_root, cache_dir=cache_dir, fractions=fractions, split_seed=split_seed
    )


def class_names(dataset: Dataset, template: str | None) -> ClassNames:
    """The names a method scores, with the data set's template or another."""
    return ClassNames(names=dataset.class_names, template=template or dataset.template)


def _describe(
    built: Assembly,
    identity: str,
    variant: str,
    factors: Mapping[str, str],
    place: Place,
) -> RunRecord:
    settings, method = built.settings, built.model.method
    trains = bool(built.model.trainable())
    return RunRecord(
        identity=identity,
        variant=variant,
        factors=dict(factors),
        dataset=settings.dataset,
        protocol=settings.protocol,
        regime=method.regime,
        selection=settings.selection,
        seed=settings.seed if trains else None,
        shots=settings.shots if trains else 0,
        status="finished",
        batch_coupled=method.batch_coupled,
        fingerprints={
            "dataset": built.full.fingerprint,
            "few_shot": built.dataset.fingerprint if trains else "",
            "backbone": method.clip.spec.fingerprint,
        },
        environment=describe_environment(place.device),
    )


def _check_regime(regime: str, settings: Experiment) -> None:
    if regime == "transductive" and settings.shots:
        raise ValueError(
            f"the regime 'transductive' trains on all unlabeled images, got experiment.shots = "
            f"{settings.shots}; use 0, or the regime 'limited'"
        )


def _budget(settings: Experiment, model: RefinedMethod) -> Budget | None:
    if settings.optimizer is None or settings.schedule is None:
        if model.trainable():
            raise ValueError(
                "experiment.optimizer and experiment.schedule must be set for what trains; "
                "use @SGD and @ConstantThenCosine"
            )
        return None
    return Budget(
        epochs=settings.epochs, optimizer=settings.optimizer(), schedule=settings.schedule()
    )


def _source(image_input: str, clip: FrozenCLIP, settings: Experiment, place: Place) -> ImageSource:
    device, dtype = torch.device(place.device), DTYPES[settings.precision]
    if image_input == "pixels":
        return PixelSource(clip, device, dtype)
    store = _store(settings.backbone, settings.weights, place.device, place.cache_dir)
    return FeatureSource(store, device, dtype)


@functools.lru_cache(maxsize=4)
def _store(backbone: str, weights: str | None, device: str, cache_dir: Path) -> FeatureStore:
    """One store of frozen features a process and backbone; features are computed in float32."""
    clip = shared_clip(backbone, weights, device, torch.float32)
    return FeatureStore(cache_dir / "features", clip, device=torch.device(device))


def _autocast(settings: Experiment, device: torch.device) -> AbstractContextManager[Any]:
    if settings.precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _selector(built: Assembly) -> Callable[[RefinedMethod], float] | None:
    """How an epoch is scored for the selection rule, or None for the last epoch."""
    rule = built.settings.selection
    if rule == "last":
        return None
    part = class_subset(built.dataset, built.selected_subset)
    classes = class_names(part, built.settings.template)
    items = part.val if rule == "val" else part.test
    if not items:
        raise ValueError(
            f"experiment.selection = 'val' needs validation images, {built.dataset.name} has none; "
            "use 'last'"
        )

    def score(model: RefinedMethod) -> float:
        method = model.method
        trained = method.classes
        if trained != classes:
            method.set_classes(classes)
        batches = built.source.evaluation(part, items, method.eval_batch_size)
        fraction = accuracy(model, batches, len(part.class_names))
        if trained != classes:
            method.set_classes(trained)
        return fraction

    return score


@contextmanager
def _log(path: Path, on_progress: Progress) -> Iterator[Progress]:
    """Append each epoch to a fresh log file, a JSON object a line, and pass it on."""
    with path.open("w") as file:

        def write(epoch: Mapping[str, float]) -> None:
            file.write(json.dumps(dict(epoch)) + "\n")
            file.flush()
            on_progress(epoch)

        yield write
