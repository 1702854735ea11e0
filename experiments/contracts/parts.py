"""The contract of refiners and of their parts, on top of CoOp. Shapes: B images, C classes."""

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from core.clip.frozen import FrozenCLIP, fingerprint
from core.config import REQUIRED, Part, RegisteredClass, lookup, registered_classes
from core.seeding import Seeds
from core.store.names import WEIGHTS_NAME
from core.train.checkpoints import learned_state, load_checkpoint, save_checkpoint
from core.train.model import RefinedMethod
from core.types import Batch
from experiments.contracts.contract import Check, require, require_close
from experiments.contracts.methods import MethodCase, check_log_can_be_read
from experiments.contracts.tiny_model import (
    CLASSES,
    PARTS_OFF,
    PARTS_ON,
    batch,
    logits,
    make_method,
    make_model,
    one_step,
    part,
    shared_tiny_clip,
    small_step,
    tiny_clip,
    training,
)

HOST, REFINER, NONE = "CoOp", "TextRefiner", "NullRefiner"
SLOTS = {
    "alignment": "alignment",
    "cache": "cache",
    "aggregation": "aggregation",
    "semantic": "loss",
    "regularization": "loss",
}
"""The parts of TextRefiner and their kinds."""
OFF = frozenset({*PARTS_OFF.values(), NONE})


@dataclass(frozen=True, slots=True)
class PartCase:
    """A part in its slot of TextRefiner, beside the usual other parts."""

    slot: str
    name: str

    @property
    def entry(self) -> RegisteredClass:
        return lookup(self.name, SLOTS[self.slot])

    def model(self, clip: FrozenCLIP | None = None, *, seed: int = 0) -> RefinedMethod:
        """CoOp with TextRefiner and the part."""
        method = make_method(HOST, clip or shared_tiny_clip(), seed=seed)
        plugged: dict[str, Any] = {self.slot: self.name}
        return make_model(method, seed=seed, **plugged)


@dataclass(frozen=True, slots=True)
class RefinerCase:
    """A refiner with its default parts; where it has no default, the usual part of the kind."""

    name: str

    @property
    def entry(self) -> RegisteredClass:
        return lookup(self.name, "refiner")

    def model(self, clip: FrozenCLIP | None = None, *, seed: int = 0) -> RefinedMethod:
        """CoOp with the refiner."""
        method = make_method(HOST, clip or shared_tiny_clip(), seed=seed)
        made = part(self.name, **self._parts())(method.output(), Seeds(seed).at("refiner"))
        return RefinedMethod(method, made)

    def _parts(self) -> Mapping[str, Any]:
        usual = {SLOTS[slot]: name for slot, name in reversed(PARTS_ON.items())}
        found: dict[str, Any] = {}
        for name, parameter in self.entry.parameters.items():
            kinds = [mark.kind for mark in get_args(parameter.annotation) if isinstance(mark, Part)]
            if kinds and parameter.default is REQUIRED:
                first = next(iter(entry.name for entry in registered_classes(kinds[0])), "")
                found[name] = part(usual.get(kinds[0], first))
        return found


RefinedCase = PartCase | RefinerCase


def check_names_the_source_of_a_part(case: RefinedCase) -> None:
    """A summary, and ``Source:`` with an arXiv id, a year, or "ours"."""
    entry = case.entry
    require(bool(entry.summary), "the docstring must begin with a line of summary")
    known = "arXiv" in entry.reference or entry.reference.startswith("ours")
    require(
        entry.name in OFF or known,
        f"the docstring must name 'Source:' with an arXiv id, or 'ours': {entry.reference!r}",
    )


def check_shapes_and_types(case: RefinedCase) -> None:
    """Refined texts have the shape and the type of the method's."""
    model = case.model(tiny_clip().double()).double()
    out = model.eval()(batch(dtype=torch.float64))
    shape, count = tuple(out.text.shape), len(CLASSES)
    require(shape in {(count, 32), (6, count, 32)}, f"text must stay (C, D), got {shape}")
    require(out.text.dtype == torch.float64, f"text is {out.text.dtype}, the model float64")
    found = out.logits()
    fits = found.shape == (6, count) and bool(torch.isfinite(found).all())
    require(fits, f"logits must be (B, C) and finite, got {tuple(found.shape)}")


def check_a_small_step_lowers_the_loss_and_not_the_backbone(case: RefinedCase) -> None:
    """The gradient of the loss is that of the loss, and the CLIP stays frozen."""
    clip = tiny_clip().double()
    before = fingerprint(clip.state_dict())
    first, second = small_step(case.model(clip).double(), batch(dtype=torch.float64))
    require(second < first, f"a small step against the gradient takes the loss from {first} up")
    require(fingerprint(clip.state_dict()) == before, "training changed the frozen CLIP")


def check_evaluation_is_batch_invariant_and_stateless(case: RefinedCase) -> None:
    """A prediction depends on its own image, and evaluation writes nothing."""
    model = case.model()
    training(model, epochs=1)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    data = batch(8)
    assert data.pixels is not None
    together = logits(model, data)
    alone = [
        logits(model, Batch(labels=data.labels[i : i + 1], pixels=data.pixels[i : i + 1]))
        for i in range(8)
    ]
    why = "a prediction depends on the other images of its batch"
    require_close(together, torch.cat(alone), why, atol=1e-4, rtol=1e-5)
    require(_same(dict(model.state_dict()), state), "evaluation changes what is saved")


def check_what_a_part_learned_survives_a_file(case: RefinedCase) -> None:
    """Parameters and memory: a model of another seed gives the same logits with them."""
    model, fresh = case.model(), case.model(seed=99)
    training(model, epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / WEIGHTS_NAME, model)
        load_checkpoint(Path(folder) / WEIGHTS_NAME, fresh)
    require(_same(learned_state(fresh), learned_state(model)), "saved tensors come back changed")
    same = torch.equal(logits(fresh, batch()), logits(model, batch()))
    require(same, "the saved tensors do not give the logits back: save what was learned")


def check_what_a_part_logs_can_be_read(case: RefinedCase) -> None:
    """Terms and metrics stand in the training log; a memory has slots as wide as the texts."""
    model = case.model()
    check_log_can_be_read(model)
    memory = model.refiner.memory()
    if memory is not None:
        shape, wide = tuple(memory.slots.shape), model.method.output().text_width
        require(len(shape) == 2 and shape[1] == wide, f"slots must be (M, {wide}), got {shape}")


def check_a_copy_of_a_part_is_independent(case: RefinedCase) -> None:
    """Nothing is shared between a model and its copy."""
    model = case.model()
    state = {key: value.clone() for key, value in learned_state(model).items()}
    training(copy.deepcopy(model), epochs=1)
    require(_same(learned_state(model), state), "training a copy changed the original")


def check_a_part_moves_no_others_initial_values(case: PartCase) -> None:
    """Parts draw from seeds of their own."""
    full = make_model(make_method(HOST, shared_tiny_clip()), **PARTS_ON)
    usual, changed = learned_state(full), learned_state(case.model())
    kept = [key for key in usual if not key.startswith(f"refiner.{case.slot}.")]
    assert "method.ctx" in kept
    moved = [key for key in kept if key not in changed or not torch.equal(usual[key], changed[key])]
    require(not moved, f"the part changes the initial values of {moved}")


def check_a_loss_vanishes_where_nothing_is_refined_if_it_says_so(case: PartCase) -> None:
    """The planner takes such a term away beside @NoAggregation."""
    if not getattr(case.entry.cls, "vanishes_unrefined", False):
        return
    method = make_method(HOST, tiny_clip().double())
    plugged: dict[str, Any] = {case.slot: case.name, "aggregation": "NoAggregation"}
    model = make_model(method, **plugged).double()
    data = batch(dtype=torch.float64)
    term = model.refiner.loss_terms()[case.slot]
    value = term(model(data), data.labels, model.method.criterion)
    gradients = torch.autograd.grad(value, model.trainable(), allow_unused=True)
    largest = max(float(x.detach().abs().max()) for x in (value, *gradients) if x is not None)
    require(
        largest < 1e-9,
        f"vanishes_unrefined is True, but the term or its gradient is {largest} where texts are "
        "not refined: say False",
    )


def check_the_refiner_works_on_top(case: MethodCase) -> None:
    """TextRefiner trains on a method that provides what it needs, and refuses another in words."""
    method = case.method(shared_tiny_clip())
    missing = sorted({"local", "attention"} - method.provides)
    if missing:
        try:
            make_model(method, **PARTS_ON)
        except ValueError as error:
            require(missing[0] in str(error), f"the message must name {missing[0]}, got {error}")
            return
        require(False, f"the method does not provide {missing}, but the refiner accepts it")
    refined = make_model(method, **PARTS_ON)
    terms = one_step(refined, batch())
    require({"semantic", "regularization"} <= terms.keys(), f"the terms are {sorted(terms)}")
    finite = all(value.dim() == 0 and bool(torch.isfinite(value)) for value in terms.values())
    require(finite, "a term is not 0-d and finite")
    shape = tuple(logits(refined, batch()).shape)
    require(shape == (6, len(CLASSES)), f"logits are {shape}")


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


REFINER_CHECKS: tuple[Check[RefinedCase], ...] = (
    check_names_the_source_of_a_part,
    check_shapes_and_types,
    check_a_small_step_lowers_the_loss_and_not_the_backbone,
    check_evaluation_is_batch_invariant_and_stateless,
    check_what_a_part_learned_survives_a_file,
    check_what_a_part_logs_can_be_read,
    check_a_copy_of_a_part_is_independent,
)
PART_CHECKS: tuple[Check[PartCase], ...] = (
    *REFINER_CHECKS,
    check_a_part_moves_no_others_initial_values,
    check_a_loss_vanishes_where_nothing_is_refined_if_it_says_so,
)
