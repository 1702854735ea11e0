"""The contract of a base method. Shapes: B images, C classes, P patches, D joint width."""

import copy
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch

from core.clip.frozen import FrozenCLIP, fingerprint
from core.config import REQUIRED, RegisteredClass, lookup
from core.interfaces import Method
from core.store.epochs import METRICS, epoch_log, read_epochs, terms_of
from core.store.names import WEIGHTS_NAME
from core.train.checkpoints import learned_state, load_checkpoint, save_checkpoint
from core.train.evaluate import predict
from core.train.model import RefinedMethod
from core.types import Batch, FrozenUse
from experiments.contracts.contract import Check, require, require_close
from experiments.contracts.tiny_model import (
    CLASSES,
    EVERYTHING,
    OTHER_CLASSES,
    batch,
    logits,
    make_method,
    make_model,
    objective_of,
    shared_tiny_clip,
    small_step,
    tiny_clip,
    training,
)

REGIMES = ("inductive", "transductive", "limited")
NUM_IMAGES = 6


@dataclass(frozen=True, slots=True)
class MethodCase:
    """A registered method with its defaults and these settings."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def entry(self) -> RegisteredClass:
        return lookup(self.name, "method")

    def method(self, clip: FrozenCLIP, *, seed: int = 0) -> Method:
        """The method on a tiny CLIP."""
        return make_method(self.name, clip, seed=seed, **self.settings)

    def model(self, clip: FrozenCLIP | None = None, *, seed: int = 0) -> RefinedMethod:
        """The method without a refiner, for training and evaluation."""
        return make_model(self.method(clip or shared_tiny_clip(), seed=seed), seed=seed)

    @property
    def closed(self) -> str:
        """Why it scores only the classes that it was trained on; "" for any other method."""
        entry = self.entry
        values = {n: p.default for n, p in entry.parameters.items() if p.default is not REQUIRED}
        reason: str = entry.ask("closed_set", {**values, **self.settings})
        return reason

    @property
    def adapts(self) -> bool:
        """Whether it changes while it scores: such a method has a contract of its own."""
        cls: Any = self.entry.cls
        return bool(cls.adapts_to)


def check_output(case: MethodCase, dtype: torch.dtype = torch.float32) -> None:
    """Shapes, unit norms and the type of what ``forward`` returns."""
    method = case.method(tiny_clip().to(dtype)).to(dtype)
    method.eval()
    out = method(batch(dtype=dtype))
    width, count = method.output().text_width, len(CLASSES)
    shapes = {(count, width), (NUM_IMAGES, count, width)}
    require(out.image.shape == (NUM_IMAGES, width), f"image must be (B, D), got {out.image.shape}")
    require(tuple(out.text.shape) in shapes, f"text must be (C, D) or (B, C, D): {out.text.shape}")
    require(out.logit_scale.shape == (), f"logit_scale must be 0-d, got {out.logit_scale.shape}")
    require(out.logits().shape == (NUM_IMAGES, count), f"logits are {tuple(out.logits().shape)}")
    for name, unit in (("image", out.image), ("text", out.text)):
        require(unit.dtype == dtype, f"{name} is {unit.dtype} where the model is {dtype}")
        require(bool(torch.isfinite(unit).all()), f"{name} is not finite")
        ones = torch.ones(unit.shape[:-1], dtype=dtype)
        require_close(unit.norm(dim=-1), ones, f"{name} must have unit rows")
    _check_fields(method, out)


def _check_fields(method: Method, out: Any) -> None:
    patches, width = method.output().num_patches, method.output().local_width
    if "local" in method.provides:
        shape = None if out.local is None else tuple(out.local.shape)
        require(shape == (NUM_IMAGES, 1 + patches, width), f"local must be (B, 1+P, D), is {shape}")
    if "attention" in method.provides:
        shape = None if out.attention is None else tuple(out.attention.shape)
        require(shape == (NUM_IMAGES, patches), f"attention must be (B, P), is {shape}")
        shares = bool((out.attention >= 0).all()) and bool((out.attention.sum(dim=1) < 1).all())
        require(shares, "attention must be shares: at least 0, less than 1 in sum")


def check_same_seed_same_start(case: MethodCase) -> None:
    """Initial values come from the seeds that the method is given, and from nothing else."""
    clip = shared_tiny_clip()
    first, again = (learned_state(case.method(clip)) for _ in range(2))
    require(first.keys() == again.keys(), "two methods of one seed learn other tensors")
    changed = [key for key in first if not torch.equal(first[key], again[key])]
    require(not changed, f"{changed} differ between two methods of one seed: draw from seeds")


def check_training_leaves_the_backbone_alone(case: MethodCase) -> None:
    """The CLIP is frozen, and something is learned where the class says that it trains."""
    clip = tiny_clip()
    before = fingerprint(clip.state_dict())
    model = case.model(clip)
    start = {key: value.clone() for key, value in learned_state(model).items()}
    training(model)
    require(fingerprint(clip.state_dict()) == before, "training changed the frozen CLIP")
    thawed = any(p.requires_grad or p.grad is not None for p in clip.parameters())
    require(not thawed, "a parameter of the frozen CLIP has a gradient")
    by_steps = model.method.trains and model.method.trains_by_gradient
    number = len(model.trainable())
    require(bool(number) == by_steps, f"trains is {by_steps}, with {number} trainable tensors")
    if model.method.trains:
        now = learned_state(model)
        moved = any(key not in start or not torch.equal(now[key], start[key]) for key in now)
        require(moved, "training changed nothing that is saved")


def check_one_small_step_lowers_the_loss(case: MethodCase) -> None:
    """The gradient of the loss is that of the loss."""
    model = make_model(case.method(tiny_clip().double()), dtype=torch.float64)
    if not (model.method.trains and model.method.trains_by_gradient):
        require(model.trainable() == [], "there are trainable tensors, but nothing trains them")
        return
    before, after = small_step(model, batch(dtype=torch.float64))
    lower = math.isfinite(before) and after < before
    require(lower, f"a small step against the gradient takes the loss from {before} to {after}")


def check_a_prediction_depends_on_its_own_image_alone(case: MethodCase) -> None:
    """Or the class says ``batch_coupled``."""
    if case.adapts:
        return
    model = case.model()
    training(model, epochs=1)
    data = batch(8)
    together = logits(model, data)
    assert data.pixels is not None
    alone = [
        logits(model, Batch(labels=data.labels[i : i + 1], pixels=data.pixels[i : i + 1]))
        for i in range(8)
    ]
    if model.method.batch_coupled:
        difference = float((together - torch.cat(alone)).abs().max())
        require(difference > 1e-6, "batch_coupled is True, but predictions do not depend on it")
        return
    why = "a prediction depends on the other images of its batch; say batch_coupled = True"
    require_close(together, torch.cat(alone), why, atol=1e-4, rtol=1e-5)


def check_evaluation_changes_no_state_and_repeats(case: MethodCase) -> None:
    """The same images twice give the same logits, and what is saved stays as it is."""
    model = case.model()
    training(model, epochs=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = logits(model, batch()), logits(model, batch())
    require(torch.equal(first, second), "the same images get other logits the second time")
    state = model.state_dict()
    changed = [key for key in state if not torch.equal(state[key], before[key])]
    require(not changed, f"evaluation changed {changed}")


def check_other_classes_and_back(case: MethodCase) -> None:
    """``set_classes`` keeps what was learned; a closed set refuses other classes in words."""
    model = case.model()
    training(model, epochs=1)
    before = logits(model, batch())
    if case.closed:
        _refuses_other_classes(model)
    else:
        model.set_classes(OTHER_CLASSES)
        other = logits(model, batch())
        fits = other.shape == (NUM_IMAGES, 3) and bool(torch.isfinite(other).all())
        require(fits, f"logits of three other classes are {tuple(other.shape)}, or not finite")
        counts = (len(model.method.classes), model.method.output().num_classes)
        require(counts == (3, 3), f"classes and output() count {counts} classes instead of 3")
        model.set_classes(CLASSES)
    require(torch.equal(logits(model, batch()), before), "the way back gives other logits")


def _refuses_other_classes(model: RefinedMethod) -> None:
    try:
        model.set_classes(OTHER_CLASSES)
    except ValueError as error:
        named = "other classes" in str(error)
        require(named, f"the message must speak of other classes, got {error}")
        return
    require(False, "closed_set gives a reason, but set_classes accepts other classes")


def check_a_closed_set_scores_some_of_its_classes_in_any_order(case: MethodCase) -> None:
    """They have the logits that they have among all, unless the method refuses them in words."""
    if not case.closed:
        return
    model = case.model()
    training(model, epochs=1)
    whole = logits(model, batch())
    order = [3, 1]
    some = replace(CLASSES, names=tuple(CLASSES.names[label] for label in order))
    try:
        model.set_classes(some)
    except ValueError as error:
        require("other classes" in str(error), f"the message must speak of other classes: {error}")
        return
    why = "two of the classes, in another order, have other logits than among all"
    require_close(logits(model, batch()), whole[:, order], why)


def check_what_was_learned_survives_a_file(case: MethodCase) -> None:
    """A method of another seed gives the same logits with the saved tensors."""
    clip = shared_tiny_clip()
    model = case.model(clip)
    training(model, epochs=1)
    fresh = case.model(clip, seed=99)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / WEIGHTS_NAME, model)
        load_checkpoint(Path(folder) / WEIGHTS_NAME, fresh)
    same = torch.equal(logits(fresh, batch()), logits(model, batch()))
    require(same, "the saved tensors do not give the logits back: save what was learned")
    backbone = sum(value.numel() for value in clip.state_dict().values())
    size = sum(value.numel() for value in learned_state(model).values())
    require(size < backbone / 2, f"{size} numbers are saved: is the frozen CLIP among them?")


def check_a_copy_learns_on_its_own(case: MethodCase) -> None:
    """Nothing is shared between a method and its copy."""
    model = case.model()
    before = logits(model, batch())
    twin = copy.deepcopy(model)
    training(twin)
    require(torch.equal(logits(model, batch()), before), "training a copy changed the original")
    if model.method.trains:
        moved = not torch.equal(logits(twin, batch()), before)
        require(moved, "training changed no logit")


def check_cached_features_say_what_pixels_say(case: MethodCase) -> None:
    """A method that trains on cached features gives the same logits from pixels."""
    model = case.model()
    if model.method.image_input == "pixels":
        return
    data = batch()
    assert data.pixels is not None
    cached = model.method.clip.encode_image(data.pixels, need=EVERYTHING)
    found = logits(model, Batch(labels=data.labels, features=cached, index=data.index))
    require_close(found, logits(model, data), "cached features and pixels give other logits")


def check_frozen_features_beside_pixels_change_nothing(case: MethodCase) -> None:
    """What a source may give a method that sees pixels says what the pixels say."""
    uses = get_args(FrozenUse)
    method = case.method(shared_tiny_clip())
    declared = method.reads_frozen
    known = isinstance(declared, frozenset) and declared <= set(uses)
    require(known, f"reads_frozen must be a frozenset of some of {uses}, got {declared!r}")
    if method.image_input != "pixels":
        return
    data = batch()
    assert data.pixels is not None
    pooled = shared_tiny_clip().encode_image(data.pixels)
    for beside in (pooled, shared_tiny_clip().encode_image(data.pixels, need=EVERYTHING)):
        both, alone = case.model(), case.model()
        found = _loss_terms(both, replace(data, features=beside))
        why = "frozen features beside pixels give another loss"
        require_close(found, _loss_terms(alone, data), why)
        given = logits(both, replace(data, features=beside))
        require_close(given, logits(alone, data), "frozen features beside pixels give other logits")


def _loss_terms(model: RefinedMethod, data: Batch) -> torch.Tensor:
    """The terms of the loss of a batch, without a step."""
    model.train()
    model.method.begin_training([data], 1)
    if not model.learns:
        return torch.zeros(1)
    terms = objective_of(model)(model(data), model.method.targets(data))
    return torch.stack([term.detach() for term in terms.values()])


def check_counts_equal_the_argmax_of_every_image(case: MethodCase) -> None:
    """Evaluation counts what the logits say."""
    if case.adapts:
        return
    model = case.model()
    model.eval()
    parts = [batch(5, seed=8), batch(4, seed=9)]
    correct, total = predict(model, parts).counts(len(CLASSES))
    guesses = torch.cat([logits(model, b).argmax(dim=-1) for b in parts])
    labels = torch.cat([b.labels for b in parts])
    classes = range(len(CLASSES))
    asked = tuple(int((labels == c).sum()) for c in classes)
    hit = tuple(int(((labels == c) & (guesses == c)).sum()) for c in classes)
    require((correct, total) == (hit, asked), f"evaluation counts {correct}, the logits say {hit}")


def check_can_be_inspected(case: MethodCase) -> None:
    """The training log can be read back, and the context vectors are as wide as a token."""
    model = case.model()
    check_log_can_be_read(model)
    wide = model.method.clip.spec.text_width
    for name, vectors in model.method.context_vectors().items():
        shape = tuple(vectors.shape)
        fits = len(shape) in (2, 3) and shape[-1] == wide
        require(fits, f"context_vectors {name!r} must be (N, {wide}) or (C, N, {wide}): {shape}")


def check_log_can_be_read(model: RefinedMethod) -> None:
    """Train an epoch, write its line as a run does, and read it."""
    _, log = training(model, epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        with epoch_log(Path(folder), lambda epoch: None) as write:
            for epoch in log:
                write(epoch)
        read = read_epochs(Path(folder))
    for epoch in read:
        require("loss" in terms_of(epoch), f"the loss is missing in the training log: {epoch}")
        told = epoch.get(METRICS)
        lost = sorted(model.metrics().keys() - (told if isinstance(told, dict) else {}).keys())
        require(not lost, f"the metrics {lost} are missing in the training log")


def check_names_its_source(case: MethodCase) -> None:
    """A summary, ``Source:`` with a year, and a known regime."""
    entry = case.entry
    summary = bool(entry.summary) and not entry.summary.startswith(f"{entry.name}(")
    require(summary, "the docstring must begin with a line of summary")
    year = re.search(r"\b(19|20)\d\d\b", entry.reference)
    require(year is not None, f"the docstring must name 'Source:' with a year: {entry.reference!r}")
    cls: Any = entry.cls
    require(cls.regime in REGIMES, f"regime must be one of {REGIMES}, got {cls.regime!r}")


METHOD_CHECKS: tuple[Check[MethodCase], ...] = (
    check_names_its_source,
    check_output,
    check_same_seed_same_start,
    check_training_leaves_the_backbone_alone,
    check_one_small_step_lowers_the_loss,
    check_a_prediction_depends_on_its_own_image_alone,
    check_evaluation_changes_no_state_and_repeats,
    check_other_classes_and_back,
    check_a_closed_set_scores_some_of_its_classes_in_any_order,
    check_what_was_learned_survives_a_file,
    check_a_copy_learns_on_its_own,
    check_cached_features_say_what_pixels_say,
    check_frozen_features_beside_pixels_change_nothing,
    check_can_be_inspected,
    check_counts_equal_the_argmax_of_every_image,
)
