"""One run: build everything from a configuration, train, evaluate, and record the outcome."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.clip.backbone import shared_clip
from core.clip.measured import measured_in
from core.clip.product_choice import product_of
from core.config import Config, build, config_from_text
from core.data.dataset import ClassSubset, Dataset, Item
from core.data.dataset_names import data_root
from core.data.overlap import ImageList, shared_images
from core.data.shots import write_shots
from core.data.splits import class_subset
from core.finite import NotFiniteError
from core.lockstep import ALONE, Alone, Steps, Stopwatch, finish, stop
from core.plugins import Plugin
from core.seeding import Seeds
from core.store.code import RunCode, write_code
from core.store.correct import CorrectImages, write_correct_images
from core.store.epochs import epoch_log
from core.store.names import CONFIG_NAME, SHOTS_NAME, WEIGHTS_NAME
from core.store.own_files import file_checksums
from core.store.predictions import PredictedClasses, write_predictions
from core.store.record import Cost, Evaluation, RunRecord, read_record
from core.store.settings import read_config, write_config, write_operative
from core.train.batches import ImageSource, TestViews
from core.train.checkpoints import learned_state, load_checkpoint, save_checkpoint
from core.train.evaluate import accuracy, predict
from core.train.fit import Budget, DivergedError, FitResult, fit_steps
from core.train.graphed_step import CudaRecorder, StepRecorder
from core.train.loss_scale import LossScale
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.train.resume import TrainingCheckpoints
from core.types import Batch
from experiments.run.code import code_of
from experiments.run.data_inputs import DataInputs, planned, read_data_inputs, read_dataset
from experiments.run.dataset_names import with_canonical_names
from experiments.run.environment import describe_environment, peak_memory_mb, reset_peak_memory
from experiments.run.experiment import Experiment
from experiments.run.image_source import image_source
from experiments.run.kept_training import checkpoints_of
from experiments.run.memory import advising_on_memory
from experiments.run.numerics import Numerics, order_required
from experiments.run.operative import operative_of
from experiments.run.preflight import require_decodable
from experiments.run.protocols import LABELED, Protocol, protocol_of
from experiments.run.runtime import STORED_AS, Runtime
from experiments.run.scored_classes import check_scored_classes, class_names, scored_parts
from experiments.run.stale import CodeCheck
from experiments.run.stored_plugins import remember, used_plugins_of
from experiments.run.unchanged import changed_class_names, changed_inputs, check_unchanged

Progress = Callable[[Mapping[str, float]], None]
Plugins = tuple[Plugin, ...]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """A run with all its objects built."""

    settings: Experiment
    inputs: DataInputs
    model: RefinedMethod
    budget: Budget | None
    source: ImageSource
    seeds: Seeds
    autocast: AbstractContextManager[Any]
    changes: tuple[str, ...] = ()  # of what a stored run depended on

    @property
    def dataset(self) -> Dataset:
        """The dataset with all classes after the few-shot draw."""
        return self.inputs.dataset

    @property
    def protocol(self) -> Protocol:
        """The rules that decide what is trained on and what is scored."""
        return protocol_of(self.settings.protocol)

    @property
    def trained_subset(self) -> ClassSubset:
        """The classes whose images training sees; without labels these include the new classes."""
        return self.protocol.labeled if self.model.method.regime == LABELED else "all"

    @property
    def selected_subset(self) -> ClassSubset:
        """The classes whose labels are known before the test."""
        return self.protocol.labeled

    def scored_subsets(self) -> tuple[ClassSubset, ...]:
        """The class subsets of the run's own dataset that the protocol scores."""
        return self.protocol.scored

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the data and of the frozen model, as a record holds them."""
        trains, spec = self.model.learns, self.model.method.clip.spec
        return {
            **self.inputs.fingerprints,
            "few_shot": self.dataset.fingerprint if trains else "",
            "backbone": spec.fingerprint,
            "activation": "quick-GELU" if spec.quick_gelu else "GELU",
        }

    def scored(self) -> list[tuple[Dataset, ClassSubset]]:
        """Everything that the protocol scores: its own subsets, then the other datasets."""
        return list(scored_parts(self.protocol, self.inputs))


def run(
    config: Config,
    run_dir: Path,
    *,
    identity: str,
    variant: str,
    factors: Mapping[str, str],
    cache_dir: Path,
    data_root: Path | None,
    device: str,
    on_progress: Progress,
    learn: "Callable[[Assembly, Progress], FitResult] | None" = None,
) -> RunRecord:
    """A run without a stop, see ``run_steps``."""
    return finish(
        run_steps(
            config,
            run_dir,
            identity=identity,
            variant=variant,
            factors=factors,
            cache_dir=cache_dir,
            data_root=data_root,
            device=device,
            on_progress=on_progress,
            learn=learn,
        )
    )


@advising_on_memory
def run_steps(
    config: Config,
    run_dir: Path,
    *,
    identity: str,
    variant: str,
    factors: Mapping[str, str],
    cache_dir: Path,
    data_root: Path | None,
    device: str,
    on_progress: Progress,
    learn: "Callable[[Assembly, Progress], FitResult] | None" = None,
    share: Alone = ALONE,
) -> Steps[RunRecord]:
    """Train (or call ``learn`` instead) and evaluate; returns the record without writing it. Stops
    before every training step, and shares with its companions what they make alike.

    Where an earlier process was killed, training goes on from the state that it kept
    (``experiment.checkpoint_every``). Writes ``config.gin``, ``operative.json``, ``code.json`` (the
    code that runs), ``shots.json`` (the few-shot images), ``log.jsonl``, ``weights.safetensors``,
    ``correct.json`` (which test images were predicted correctly) and ``predictions.json`` (what was
    predicted) into ``run_dir``. A loss, a learned tensor or a logit that is not finite gives a
    record with the status "diverged". Raises ValueError for bad input, weights that are not finite
    among it, and LacksMemoryError.
    """
    watch = Stopwatch()
    config_sha256, code = _begin(config, run_dir, cache_dir)
    runtime = Runtime(cache_dir=cache_dir, data_root=data_root, device=device)
    reset_peak_memory(runtime.device)
    built = assemble(config, runtime, share)
    built.inputs.check()
    check_scored_classes(config, built.inputs, built.model.method.clip)
    require_decodable(config, built.inputs, runtime, training=learn is None)
    checkpoints = checkpoints_of(built.settings, run_dir, identity, runtime.device, code)
    with share, order_required(), epoch_log(run_dir, on_progress) as epochs:
        record = _describe(config, built, identity, variant, factors, runtime, config_sha256, share)
        record = replace(record, code=code.classes)
        if record.shots:
            write_shots(run_dir / SHOTS_NAME, built.dataset)
        try:
            if learn is None:
                result = yield from watch.around(train_steps(built, epochs, checkpoints))
            else:
                result = learn(built, epochs)
            sha256 = save_checkpoint(run_dir / WEIGHTS_NAME, built.model)
            trained = watch.seconds()
            scores = [score_images(built, *scored) for scored in built.scored()]
        except (DivergedError, NotFiniteError) as error:
            if learn is not None or not built.model.learns:
                raise  # nothing was trained that could have diverged
            return _diverged(record, run_dir, str(error), checkpoints)
        ended = watch.seconds()
        total = ended + result.earlier_seconds + share.balance_seconds
        checkpoints.remove()
        return replace(
            record,
            environment={**record.environment, **_how_trained(built, result, checkpoints)},
            evaluations=tuple(score.evaluation for score in scores),
            cost=_cost(built, result, evaluation=ended - trained, total=total, device=device),
            selected_epoch=result.selected_epoch,
            stopped_epoch=result.stopped_epoch,
            files_sha256=_write_scores(run_dir, scores),
            weights_sha256=sha256 if learned_state(built.model) else "",
        )


def _begin(config: Config, run_dir: Path, cache_dir: Path) -> tuple[str, RunCode]:
    """Write down what is going to run; returns the hash of its configuration, and its code."""
    config_sha256 = write_config(run_dir, config.text())
    write_operative(run_dir, operative_of(config))
    code = code_of(config)
    write_code(run_dir, code)
    remember(config, cache_dir)
    return config_sha256, code


def _cost(
    built: Assembly, result: FitResult, *, evaluation: float, total: float, device: str
) -> Cost:
    return Cost(
        train_seconds=result.seconds,
        evaluate_seconds=evaluation,
        total_seconds=total,
        images_per_second=result.images / result.seconds if result.seconds else 0.0,
        peak_memory_mb=peak_memory_mb(device),
        trainable_parameters=sum(p.numel() for p in built.model.trainable()),
    )


def _how_trained(
    built: Assembly, result: FitResult, checkpoints: TrainingCheckpoints
) -> dict[str, Any]:
    """What a record tells of the way in which steps were made, how many were left out for the sake
    of float16, and on which devices, where they are several.
    """
    scaled = built.settings.precision == "float16" and bool(built.model.trainable())
    return {
        **({"cuda_graph": result.graph} if result.graph else {}),
        **({"skipped_steps": result.skipped_steps} if scaled else {}),
        **checkpoints.moved(),
    }


def _diverged(
    record: RunRecord, run_dir: Path, message: str, checkpoints: TrainingCheckpoints
) -> RunRecord:
    checkpoints.remove()
    record = replace(record, environment={**record.environment, **checkpoints.moved()})
    files = file_checksums(run_dir)
    return replace(record, status="diverged", message=message, files_sha256=files)


def _write_scores(run_dir: Path, scores: Sequence["Score"]) -> dict[str, str]:
    """Write the scores of a run image by image; returns the checksums of all its files."""
    write_correct_images(run_dir, [score.correct for score in scores])
    write_predictions(run_dir, [score.predicted for score in scores])
    return file_checksums(run_dir)


def train(
    built: Assembly, log: Progress, checkpoints: TrainingCheckpoints | None = None
) -> FitResult:
    """Train an assembled run on its few-shot images. Raises DivergedError."""
    return finish(train_steps(built, log, checkpoints))


def train_steps(
    built: Assembly, log: Progress, checkpoints: TrainingCheckpoints | None = None
) -> Steps[FitResult]:
    """The same, with a stop before every step."""
    method, refiner, settings = built.model.method, built.model.refiner, built.settings
    objective = Objective(
        refiner.method_terms(method.loss_terms()),
        refiner.loss_terms(),
        method.criterion,
        refiner.method_terms(method.guide_terms()),
    )
    if not built.model.learns:
        built.model.eval()
        return FitResult()
    batches = built.source.training(
        _trained_part(built),
        need=frozenset({"pooled"}) | refiner.needs(),
        num_views=settings.num_views,
        batch_size=settings.batch_size,
        drop_last=settings.drop_last,
        views_per_image=method.views_per_image,
        reads_frozen=method.reads_frozen,
        fixed_views=settings.fixed_views,
    )
    result = yield from fit_steps(
        built.model,
        objective,
        batches,
        built.budget,
        built.seeds.at("batches"),
        log=log,
        select=_selector(built),
        autocast=built.autocast,
        scale=LossScale() if settings.precision == "float16" else None,
        patience=built.settings.patience,
        checkpoints=checkpoints,
        recorder=_recorder(built),
    )
    yield from stop()
    return result


def _recorder(built: Assembly) -> StepRecorder | None:
    """What records the steps of a run that asks for it on a GPU."""
    device = built.model.method.clip.scale.device
    asked = built.settings.cuda_graphs and device.type == "cuda"
    return CudaRecorder(device) if asked else None


class Score(NamedTuple):
    """The counts of one evaluation, the images that they are sums of, and what was predicted."""

    evaluation: Evaluation
    correct: CorrectImages
    predicted: PredictedClasses


def evaluate(built: Assembly, dataset: Dataset, subset: ClassSubset) -> Evaluation:
    """Score the test images of a dataset's classes, with the method re-bound to their names."""
    return score_images(built, dataset, subset).evaluation


def score_images(built: Assembly, dataset: Dataset, subset: ClassSubset) -> Score:
    """The same, image by image."""
    part = class_subset(dataset, subset)
    with scoring(built, part):
        given = predict(built.model, evaluation_batches(built, part, part.test))
    correct, total = given.counts(len(part.class_names))
    about = {"target": _target(built, dataset, subset)}
    evaluation = Evaluation(
        **about,
        dataset=dataset.name,
        classes=subset,
        class_names=part.class_names,
        correct=correct,
        total=total,
    )
    about |= {"test_list": part.test_fingerprint}
    images = CorrectImages(**about, num_images=len(part.test), bits=given.bits())
    predicted = PredictedClasses(
        **about,
        class_names=part.class_names,
        labels=given.labels_N.tolist(),
        predicted=given.predicted_N.tolist(),
        confidences=given.confidence_steps(),
    )
    return Score(evaluation, images, predicted)


def evaluation_batches(built: Assembly, part: Dataset, items: Sequence[Item]) -> Iterator[Batch]:
    """Batches to score; a stream of single images has an order that the run's seed draws."""
    method = built.model.method
    seeds = built.seeds.at("test", part.name)
    evaluation = partial(built.source.evaluation, part, items, reads_frozen=method.reads_frozen)
    if method.adapts_to == "stream":
        order = torch.randperm(len(items), generator=seeds.generator("order")).tolist()
        return evaluation(1, order=order)
    if not method.test_views:
        return evaluation(method.eval_batch_size)
    views = TestViews(method.test_views, seeds)
    return evaluation(method.eval_batch_size, test_views=views)


@contextmanager
def scoring(built: Assembly, part: Dataset) -> Iterator[None]:
    """A context in which the model scores the classes of ``part``, in eval mode and in the run's
    precision.
    """
    model, scored = built.model, class_names(part, built.settings.template)
    trained = model.method.classes
    with order_required():
        if scored != trained:
            model.set_classes(scored)
        model.eval()
        with built.autocast:
            yield
    if scored != trained:
        model.set_classes(trained)


def _target(built: Assembly, dataset: Dataset, subset: ClassSubset) -> str:
    """The name of an evaluation in a record: a subset of its own classes, or another dataset."""
    if dataset.name == built.dataset.name:
        return subset
    return dataset.name if subset == "all" else f"{dataset.name}:{subset}"


def assemble(config: Config, runtime: Runtime, share: Alone = ALONE) -> Assembly:
    """Build everything of a run. Raises ValueError for a run that breaks its protocol."""
    with measured_in(runtime.cache_dir), order_required():
        return _assemble(config, runtime, share)


def _assemble(config: Config, runtime: Runtime, share: Alone) -> Assembly:
    settings: Experiment = build(config, "experiment")
    seeds = Seeds(settings.seed)
    _numerics(settings).apply(runtime.device)
    runtime.require(settings.precision)
    device = torch.device(runtime.device)
    dtype, stored = (getattr(torch, n) for n in (STORED_AS[settings.precision], settings.precision))
    clip = shared_clip(settings.backbone, settings.weights, runtime.device, stored)
    protocol = protocol_of(settings.protocol)
    inputs = read_data_inputs(config, runtime)
    trained = class_subset(inputs.dataset, protocol.labeled)
    method = settings.method(clip, class_names(trained, settings.template), seeds.at("method"))
    if method.regime != LABELED:
        method.set_classes(class_names(inputs.dataset, settings.template))
    refiner = settings.refiner(method.output(), seeds.at("refiner"))
    model = RefinedMethod(method, refiner).to(device, dtype)
    return Assembly(
        settings=settings,
        inputs=inputs,
        model=model,
        budget=_budget(settings, model),
        source=image_source(method.image_input, clip, settings, runtime, dtype, share),
        seeds=seeds,
        autocast=runtime.autocast(settings.precision),
    )


def _numerics(settings: Experiment) -> Numerics:
    return Numerics(tf32=settings.tf32, deterministic=settings.deterministic)


def reload(run_dir: Path, runtime: Runtime, *, allow_changed: bool = False) -> Assembly:
    """A finished run, rebuilt with its learned weights.

    Raises ValueError for missing files, for learned weights that are not those of its record, and,
    unless ``allow_changed``, for data, class names or frozen weights that are not. Code that has
    changed is one of ``changes`` and no reason to refuse: it may have been mended.
    """
    config = config_from_text(read_config(run_dir), str(run_dir / CONFIG_NAME))
    _require_data(run_dir, config, runtime)
    record = read_record(run_dir)
    built = assemble(_allowing(config) if allow_changed else config, runtime)
    if record is not None:
        names = {
            _target(built, *scored): class_subset(*scored).class_names for scored in built.scored()
        }
        what_of = partial(built.inputs.what_changed, cache_dir=runtime.cache_dir)
        changes = (
            *changed_inputs(record.fingerprints, built.fingerprints, what_of),
            *changed_class_names(record, names),
        )
        check_unchanged(run_dir, changes, allow_changed=allow_changed)
        code = CodeCheck().changes(record, run_dir)
        built = replace(built, changes=(*changes, *([f"the code ({code})"] if code else [])))
    sha256 = "" if record is None else record.weights_sha256
    if not sha256 and learned_state(built.model):
        log.warning("%s holds no checksum of its learned weights: not checked", run_dir)
    load_checkpoint(run_dir / WEIGHTS_NAME, built.model, sha256=sha256)
    built.model.eval()
    return built


def _require_data(run_dir: Path, config: Config, runtime: Runtime) -> None:
    """Raise ValueError, naming the run, for a dataset of a stored run that cannot be read here."""
    settings = planned(with_canonical_names(config, runtime.data_root))[0]
    for name in (settings.dataset, *settings.targets):
        try:
            read_dataset(settings, name, runtime)
        except ValueError as error:
            raise ValueError(
                f"{run_dir} is a run on {name}, which cannot be read below the data root "
                f"{data_root(runtime.data_root)}: {error}; give --data-root as for the run"
            ) from error


def _allowing(config: Config) -> Config:
    """The configuration with the changes of its parts allowed as well."""
    asked = [key for key in config.operative("experiment") if key.endswith(".allow_changed")]
    return config.with_bindings(dict.fromkeys(asked, True), "--allow-changed")


def fingerprints(config: Config, *, cache_dir: Path, data_root: Path | None) -> dict[str, str]:
    """Fingerprints of what a run depends on besides its configuration: datasets and weights.

    Raises ValueError for a configuration that breaks its protocol, for test images that are
    training images too, and for a method that cannot score all classes that the protocol scores.
    """
    inputs = read_data_inputs(config, Runtime(cache_dir=cache_dir, data_root=data_root))
    inputs.check()
    values: dict[str, Any] = config.operative("experiment")
    clip = shared_clip(
        values["experiment.backbone"], values["experiment.weights"], "cpu", torch.float32
    )
    check_scored_classes(config, inputs, clip)
    return {**inputs.fingerprints, "backbone": clip.spec.fingerprint}


def _describe(
    config: Config,
    built: Assembly,
    identity: str,
    variant: str,
    factors: Mapping[str, str],
    runtime: Runtime,
    config_sha256: str,
    share: Alone,
) -> RunRecord:
    settings, method = built.settings, built.model.method
    trains = built.model.learns
    together = {"lockstep": share.size} if share.size > 1 else {}
    return RunRecord(
        identity=identity,
        variant=variant,
        factors=dict(factors),
        dataset=settings.dataset,
        protocol=settings.protocol,
        regime=method.regime,
        selection=settings.selection,
        seed=settings.seed if trains or method.adapts_to else None,
        shots=settings.shots if trains else 0,
        status="finished",
        batch_coupled=method.batch_coupled,
        fingerprints=built.fingerprints,
        environment={
            **describe_environment(runtime.device),
            **asdict(_numerics(settings)),
            "matrix_product": product_of(method.clip),
            **used_plugins_of(config),
            **together,
        },
        config_sha256=config_sha256,
        drawn_per_class=_drawn_per_class(built) if trains else (),
        shared_images=_num_seen(built) if trains else 0,
    )


def _trained_part(built: Assembly) -> Dataset:
    """The images that training sees, after the few-shot draw."""
    return class_subset(built.dataset, built.trained_subset)


def _drawn_per_class(built: Assembly) -> tuple[int, ...]:
    """The training images of each trained class."""
    part = _trained_part(built)
    counts = Counter(item.label for item in part.train)
    return tuple(counts[label] for label in range(len(part.class_names)))


def _num_seen(built: Assembly) -> int:
    """How many of the test images training sees as well; without an overlap of lists, none."""
    if not built.inputs.overlaps and not built.dataset.test_only:
        return 0
    part = _trained_part(built)
    tests = [class_subset(*scored) for scored in built.scored()]
    trained = ImageList(part, part.train)
    return sum(shared_images(ImageList(test, test.test), trained).number for test in tests)


def _budget(settings: Experiment, model: RefinedMethod) -> Budget | None:
    if settings.optimizer is None or settings.schedule is None:
        if model.trainable():
            raise ValueError(
                "experiment.optimizer and experiment.schedule must be set for a method that "
                "trains; use @SGD and @ConstantThenCosine"
            )
        return None
    return Budget(
        epochs=settings.epochs, optimizer=settings.optimizer(), schedule=settings.schedule()
    )


def _selector(built: Assembly) -> Callable[[RefinedMethod], float] | None:
    """The function that scores an epoch for the selection rule; None for the last epoch."""
    rule = built.settings.selection
    if rule == "last":
        return None
    part = class_subset(built.dataset, built.selected_subset)
    items = part.val if rule == "val" else part.test

    def score(model: RefinedMethod) -> float:
        with scoring(built, part):
            return accuracy(model, evaluation_batches(built, part, items))

    return score
