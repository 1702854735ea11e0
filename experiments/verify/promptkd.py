"""Replays recorded runs of PromptKD, alone and with TextRefiner on it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from core.seeding import Seeds
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.types import ClassNames, Forward, MethodOutput
from experiments.verify.constants import Constants
from experiments.verify.ivlp import RELEASED_INIT_LIMIT, prompts_of
from experiments.verify.vectors import (
    POOLED,
    SEEDS,
    SIZES,
    Named,
    Vectors,
    check_tokens,
    fill,
    frozen_clip,
    gradients,
    set_norms,
    sgd_steps,
)
from methods.ivlp import IVLP
from methods.promptkd import PromptKD
from methods.teachers import Teacher
from refiners.aggregation import LinearAggregation
from refiners.alignment import MlpAlignment
from refiners.cache import EmaCache
from refiners.losses import L1Regularization, SemanticLoss
from refiners.null_refiner import NullRefiner
from refiners.text_refiner import TextRefiner

OLDER_SETS_INIT = "a photo of a"  # sets that do not record the teacher's words have these
STUDENT_PROMPT = "student.prompt"
BASE_TO_NEW = "base2novel"


def replay_promptkd(vectors: Vectors) -> Named:
    """Distillation from a prompted teacher of another width."""
    method = _student(vectors)
    model = RefinedMethod(method, NullRefiner(method.output(), SEEDS)).double()
    set_norms(vectors, model)
    named, state = _student_parameters(method), _running("student.align", method.projector.norm)
    _start(vectors, named | state)
    yield from check_tokens(vectors, _placeholder(method), method.teacher.method.clip.tokenizer)
    yield from _teacher_says(vectors, method)
    yield from _steps(vectors, model, named, {"kd": method.kd_weight})
    yield from _after(vectors, named | state)
    yield from _evaluate(vectors, model)
    if vectors.constants.get("modal", BASE_TO_NEW) == BASE_TO_NEW:
        yield from _halves(vectors, method, model)
    else:
        vectors.constants.require("modal", "cross")


@torch.no_grad()
def _halves(vectors: Vectors, method: PromptKD, model: RefinedMethod) -> Named:
    """Evaluation on the first and on the second half of the classes."""
    classes = vectors.classes.names
    middle = (len(classes) + 1) // 2
    for half, names in (("base", classes[:middle]), ("new", classes[middle:])):
        method.set_classes(ClassNames(names=names))
        yield f"eval_{vectors.after}.logits_{half}", model(vectors.eval_batch()).logits()


def replay_textrefiner_kd(vectors: Vectors) -> Named:
    """TextRefiner with all released parts on PromptKD."""
    vectors.constants.require("modal", "cross")  # the release cannot run the other
    method = _student(vectors)
    refiner = _refiner(method.output(), vectors.constants)
    model = RefinedMethod(method, refiner).double()
    set_norms(vectors, model)
    named = _student_parameters(method) | _refiner_parameters(refiner)
    state = _running("student.align", method.projector.norm) | _refiner_state(refiner)
    _start(vectors, named | state)
    yield from check_tokens(vectors, _placeholder(method), method.teacher.method.clip.tokenizer)
    yield from _teacher_says(vectors, method)
    weights = {
        "kd": method.kd_weight,
        "semantic": refiner.semantic.weight,
        "regularization": refiner.regularization.weight,
    }
    yield from _steps(vectors, model, named, weights)
    yield from _after(vectors, named | state)
    yield from _evaluate(vectors, model)


class _Recorded(Teacher):
    """The recorded teacher: deep prompts in both towers."""

    def __init__(self, student: FrozenCLIP, vectors: Vectors) -> None:
        design: Constants = vectors.constants["teacher"]["design"]
        design.require("trainer", "IVLP")
        words = design.get("ctx_init", OLDER_SETS_INIT) or ""
        method = IVLP(
            _clip(vectors, "teacher"),
            vectors.classes,
            SEEDS,
            num_ctx_text=design["language_ctx"],
            num_ctx_vision=design["vision_ctx"],
            depth_text=design["language_depth"],
            depth_vision=design["vision_depth"],
            ctx_init=words if design["language_ctx"] <= RELEASED_INIT_LIMIT else "",
        ).double()
        for name, prompt in prompts_of(method).items():
            fill(prompt, vectors[f"clip.teacher.{name}"])
        super().__init__(student, method)


def _student(vectors: Vectors) -> PromptKD:
    c = vectors.constants
    design: Constants = c["student"]["design"]
    design.require("trainer", "IVLP")
    # The release gives the teacher's texts as many tokens as the student's design has.
    design.require("language_ctx", len(vectors.tensors["clip.teacher.prompt_text0"]))
    design.without_effect("language_depth")  # the student's text tower is not used

    def teacher(student: FrozenCLIP, classes: ClassNames) -> Teacher:
        return _Recorded(student, vectors)

    return PromptKD(
        _clip(vectors, "student"),
        vectors.classes,
        SEEDS,
        teacher=teacher,
        num_ctx_vision=design["vision_ctx"],
        depth_vision=design["vision_depth"],
        temperature=c["temperature"],
        kd_weight=c["kd_weight"],
    )


def _clip(vectors: Vectors, role: str) -> FrozenCLIP:
    """The recorded backbone of teacher or student; the student's text tower does not matter."""
    text, own = vectors.constants["teacher"], vectors.constants[role]
    tensors = dict(vectors.tensors)
    for name, value in vectors.tensors.items():
        if name.startswith("clip.teacher.text."):
            tensors[name.replace("clip.teacher.", "clip.")] = value
    for name, value in vectors.tensors.items():
        if name.startswith(f"clip.{role}."):
            tensors[name.replace(f"clip.{role}.", "clip.")] = value
    sizes = {name: text[name] for name in SIZES if name.startswith("text_")}
    sizes |= {name: own[name] for name in SIZES if name.startswith("vision_")}
    sizes["embed_dim"] = own["embed"]
    vectors.constants.without_effect(*SIZES)  # of no tower: teacher and student have their own
    tensors["clip.text.proj"] = tensors["clip.text.proj"][:, :1].expand(-1, own["embed"])
    if role == "teacher":
        tensors["clip.text.proj"] = vectors.tensors["clip.teacher.text.proj"]
    return frozen_clip(Vectors(vectors.name, vectors.constants, tensors), sizes)


def _refiner(source: MethodOutput, c: Mapping[str, Any]) -> TextRefiner:
    def cache(width: int, seeds: Seeds, num_classes: int) -> EmaCache:
        return EmaCache(width, seeds, num_classes, num_slots=c["memory"], momentum=c["momentum"])

    def aggregation(width: int, seeds: Seeds) -> LinearAggregation:
        return LinearAggregation(width, seeds, alpha=c["alpha"])

    def semantic() -> SemanticLoss:
        return SemanticLoss(weight=c["kd_weight"] / 100, topk=c["topk"])

    def regularization() -> L1Regularization:
        return L1Regularization(weight=c["kd_weight"] / 50)

    return TextRefiner(
        source,
        SEEDS,
        alignment=MlpAlignment,
        cache=cache,
        aggregation=aggregation,
        semantic=semantic,
        regularization=regularization,
    )


def _placeholder(method: PromptKD) -> str:
    teacher: Any = method.teacher.method
    placeholder: str = teacher.text_prompts.placeholder
    return placeholder


def _head(prefix: str, head: Any) -> dict[str, nn.Parameter]:
    layers = {"fc1": head.fc1, "fc2": head.fc2, "bn": head.norm}
    return {
        f"{prefix}.{name}.{kind}": getattr(layer, kind)
        for name, layer in layers.items()
        for kind in ("weight", "bias")
    }


def _student_parameters(method: PromptKD) -> dict[str, nn.Parameter]:
    prompts = {f"{STUDENT_PROMPT}{i}": p for i, p in enumerate(method.vision_prompts.prompts)}
    return prompts | _head("student.align", method.projector)


def _refiner_parameters(refiner: Any) -> dict[str, nn.Parameter]:
    extractor: dict[str, nn.Parameter] = {"extractor.weight": refiner.aggregation.extractor.weight}
    return extractor | _head("local.align", refiner.alignment)


def _running(prefix: str, norm: nn.BatchNorm1d) -> dict[str, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    means = {f"{prefix}.bn.running_mean": norm.running_mean}
    return means | {f"{prefix}.bn.running_var": norm.running_var}


def _refiner_state(refiner: Any) -> dict[str, Tensor]:
    cache: dict[str, Tensor] = {"cache": refiner.cache.slots_MD}
    return cache | _running("local.align", refiner.alignment.norm)


def _start(vectors: Vectors, state: Mapping[str, Tensor]) -> None:
    """Load the recorded initial values into parameters and buffers."""
    for name, value in state.items():
        fill(value, vectors[f"param.{name}"])


@torch.no_grad()
def _teacher_says(vectors: Vectors, method: PromptKD) -> Named:
    """Teacher outputs on the first batch and on the evaluation images."""
    teacher, classes = method.teacher, vectors.classes
    logits = teacher.logits(vectors.batch(1, POOLED), classes)
    features = teacher.method(vectors.batch(1, POOLED))
    yield "out1.teacher_text_feature", teacher.texts(classes)
    yield "out1.teacher_image_feature", features.image
    yield "out1.teacher_logits", logits
    yield f"eval_{vectors.after}.teacher_logits", teacher.logits(vectors.eval_batch(), classes)


def _steps(
    vectors: Vectors,
    model: RefinedMethod,
    named: Mapping[str, nn.Parameter],
    weights: Mapping[str, float],
) -> Named:
    """Three steps; ``weights`` of the loss terms, by name."""
    method: Any = model.method
    refiner = model.refiner
    objective = Objective(method.loss_terms(), refiner.loss_terms(), method.criterion)
    need = POOLED | refiner.needs()
    recorded = {"regularization": "regularisation"}  # as recorded
    kept: dict[str, Any] = {}
    model.train()

    def step(number: int) -> Mapping[str, Tensor]:
        batch = vectors.batch(number, need)
        kept["out"], kept["targets"] = out, targets = model(batch), method.targets(batch)
        terms = objective(out, targets)
        return {**terms, "loss": torch.stack(list(terms.values())).sum()}

    for number, values in sgd_steps(vectors, list(named.values()), step):
        out, temperature = kept["out"], method.temperature
        yield f"loss{number}.total", values["loss"]
        for name, weight in weights.items():
            yield f"loss{number}.{recorded.get(name, name)}", values[name] / weight
        log_prob = (out.logits() / temperature).log_softmax(dim=-1)
        yield f"out{number}.student_log_prob", log_prob
        yield f"out{number}.teacher_prob", (kept["targets"] / temperature).softmax(dim=-1)
        if number == 1:
            yield "out1.student_image_feature", out.image
            yield "out1.student_image_raw", method.image_features(vectors.batch(1, POOLED)).pooled
            yield from gradients(named)
        if isinstance(refiner, TextRefiner):
            yield from _refined(number, out, refiner, temperature)


def _refined(number: int, out: Forward, refiner: Any, temperature: float) -> Named:
    """What the refiner read and wrote in one step."""
    yield f"out{number}.topk_index", refiner.semantic.top_patches(out) + 1
    if number == 1:
        local_logits = refiner.semantic.local_logits(out).flatten(0, 1)
        assert out.local is not None and out.attention is not None
        yield "out1.local_tokens", out.local
        yield "out1.attention_row", out.attention
        yield "out1.aligned_tokens", out.aux["aligned"]
        yield "out1.selected_tokens", refiner.semantic.rows(out).flatten(0, 1)
        yield "out1.local_student_log_prob", (local_logits / temperature).log_softmax(dim=-1)
        yield "out1.refined_text_feature", out.text
    yield f"cache{number}.before", refiner.cache.slots_MD.clone()
    refiner.observe(out)
    yield f"cache{number}.after", refiner.cache.slots_MD.clone()


def _after(vectors: Vectors, named: Mapping[str, Tensor]) -> Named:
    for name, value in named.items():
        yield f"{vectors.after}.{name}", value.detach().clone()


@torch.no_grad()
def _evaluate(vectors: Vectors, model: RefinedMethod) -> Named:
    yield f"eval_{vectors.after}.logits", model.eval()(vectors.eval_batch()).logits()
