"""DePT: values computed by hand, and what it leaves of the method."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from core.config import Reference
from core.seeding import Seeds
from core.train.fit import Budget, fit
from core.train.losses import cross_entropy
from core.train.model import RefinedMethod
from core.train.optimizers import SGD, Constant, ConstantThenCosine
from core.types import ClassNames, Forward, MethodOutput
from experiments.configs import config_path, read_config_file
from methods.coop import CoOp
from refiners.dept import DePT, rows_of
from refiners.null_refiner import NullRefiner
from tests.helpers.tiny_clip import (
    CLASSES,
    OTHER_CLASSES,
    ListBatches,
    batch,
    logits,
    make_method,
    objective_of,
    shared_tiny_clip,
    training,
)

SOURCE = MethodOutput(
    text_width=2, local_width=2, num_patches=4, num_classes=3, provides=frozenset({"pooled"})
)
NAMES = ClassNames(names=("one", "two", "three"))


def by_hand(source=SOURCE, **settings):
    """A DePT with known numbers: W, b, scales and shifts."""
    refiner = DePT(source, Seeds(0), feature_scale=2.0, **settings)
    refiner.set_classes(NAMES)
    with torch.no_grad():
        refiner.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]))
        refiner.head.bias.copy_(torch.tensor([0.0, 0.5, -0.5]))
        for adjust, scale, shift in (
            (refiner.image_adjust, [2.0, 1.0], [0.0, 1.0]),
            (refiner.text_adjust, [1.0, 3.0], [1.0, 0.0]),
        ):
            adjust.scale.copy_(torch.tensor(scale))
            adjust.shift.copy_(torch.tensor(shift))
    return refiner


def output(extra=None):
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    image = torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    return Forward(image=image, text=text, logit_scale=torch.tensor(5.0), extra_logits=extra)


# images [0.8, 0.6] and [0, 1], times 2 and adjusted: [3.2, 2.2] and [0, 3]
HEAD_IMAGE = torch.tensor([[3.2, 2.7, 0.5], [0.0, 3.5, -3.5]])
# texts of labels 2 and 1, [0.6, 0.8] and [0, 1]: [2.2, 4.8] and [1, 6]
HEAD_TEXT = torch.tensor([[2.2, 5.3, -3.1], [1.0, 6.5, -5.5]])
OWN = torch.tensor([[4.0, 3.0, 4.8], [0.0, 5.0, 4.0]])
LABELS = torch.tensor([2, 1])


def test_trained_classes_are_scored_by_both_as_released():
    torch.testing.assert_close(output().logits(), OWN)
    out = by_hand(weight=0.7)(output())
    torch.testing.assert_close(out.logits(), 0.3 * OWN + 0.7 * HEAD_IMAGE)
    torch.testing.assert_close(out.text, output().text)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_probabilities_are_fused_as_in_the_paper(weight):
    out = by_hand(weight=weight, fusion="probabilities")(output())
    expected = (1 - weight) * OWN.softmax(dim=-1) + weight * HEAD_IMAGE.softmax(dim=-1)
    torch.testing.assert_close(out.logits().softmax(dim=-1), expected)


def test_the_loss_is_shared_between_the_classifier_and_the_method():
    refiner = by_hand(weight=0.7)
    out = refiner(output())
    (head,) = (term(out, LABELS, F.cross_entropy) for term in refiner.loss_terms().values())
    both = torch.cat([HEAD_TEXT, HEAD_IMAGE])
    torch.testing.assert_close(head, 0.7 * F.cross_entropy(both, torch.cat([LABELS, LABELS])))
    terms = {"ce": cross_entropy, "other": lambda out, targets, criterion: out.logits().sum()}
    terms = refiner.method_terms(terms)
    own = terms["ce"](out, LABELS, F.cross_entropy)
    torch.testing.assert_close(own, 0.3 * F.cross_entropy(OWN, LABELS))  # not of fused logits
    torch.testing.assert_close(terms["other"](out, LABELS, F.cross_entropy), OWN.sum())


def test_additive_logits_of_the_method_are_its_own():
    extra = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    refiner = by_hand(weight=0.7)
    out = refiner(output(extra))
    torch.testing.assert_close(out.logits(), 0.3 * (OWN + extra) + 0.7 * HEAD_IMAGE)
    own = refiner.method_terms({"ce": cross_entropy})["ce"](out, LABELS, F.cross_entropy)
    torch.testing.assert_close(own, 0.3 * F.cross_entropy(OWN + extra, LABELS))


def test_texts_of_each_image_are_those_of_its_label():
    refiner = by_hand(weight=0.7)
    texts = torch.stack([output().text, output().text.flip(0)])
    out = refiner(Forward(image=output().image, text=texts, logit_scale=torch.tensor(5.0)))
    found = refiner.head_loss(out, torch.tensor([2, 1]), F.cross_entropy)
    torch.testing.assert_close(found, refiner.head_loss(refiner(output()), LABELS, F.cross_entropy))
    soft = F.one_hot(LABELS, 3).float()
    torch.testing.assert_close(refiner.head_loss(out, soft, F.cross_entropy), found)


def test_without_adjustment_the_classifier_sees_the_features():
    refiner = DePT(SOURCE, Seeds(0), adjust=False, feature_scale=2.0, weight=1.0)
    refiner.set_classes(NAMES)
    assert {name for name, _ in refiner.named_parameters()} == {"head.weight", "head.bias"}
    torch.testing.assert_close(refiner(output()).logits(), refiner.head(2 * output().image))


def test_a_choice_of_trained_classes_has_their_rows_and_others_the_method_alone():
    refiner = by_hand(weight=0.7)
    whole = refiner(output()).logits()
    refiner.set_classes(ClassNames(names=("three", "one")))
    some = Forward(image=output().image, text=output().text[[2, 0]], logit_scale=torch.tensor(5.0))
    torch.testing.assert_close(refiner(some).logits(), whole[:, [2, 0]])
    refiner.set_classes(ClassNames(names=("three", "four")))
    assert refiner(some) is some
    refiner.set_classes(NAMES)
    assert torch.equal(refiner(output()).logits(), whole)


def test_names_that_stand_for_two_classes_keep_their_places():
    trained = ("crane", "cat", "crane")
    assert rows_of(trained, trained) == [0, 1, 2]
    assert rows_of(("cat", "crane"), trained) == [1, 0]
    assert rows_of(("crane", "crane", "crane"), trained) is None
    assert rows_of((), trained) == []


# in training


def model_of(name="CoOp", seed=0, **settings):
    method = make_method(name, shared_tiny_clip(), seed=seed)
    return RefinedMethod(method, DePT(method.output(), Seeds(seed), **settings))


def plain(name="CoOp"):
    method = make_method(name, shared_tiny_clip())
    return RefinedMethod(method, NullRefiner(method.output(), Seeds(0)))


def test_weight_zero_is_the_method_bit_for_bit_and_the_cell_without_a_refiner():
    off, alone = model_of(weight=0.0), plain()
    _, log = training(off)
    _, expected = training(alone)
    assert log == expected
    assert torch.equal(off.method.ctx, alone.method.ctx)
    assert torch.equal(logits(off, batch()), logits(alone, batch()))
    assert DePT.simplify({"weight": 0.0}) == Reference("NullRefiner")

    def identity(*overrides):
        given = ["experiment.dataset=mosaic/vehicles", *overrides]
        return read_config_file(config_path("dept"), given).identity("experiment")

    assert identity("DePT.weight=0.0") == identity("experiment.refiner=@NullRefiner")
    assert identity("DePT.weight=0.5") != identity()


@pytest.mark.parametrize("name", ["CoOp", "CoCoOp", "IVLP", "PromptSRC", "PromptKD", "ZeroShot"])
def test_it_learns_on_any_method_and_new_classes_are_the_methods(name):
    # the distillation of PromptKD has the weight 1000, in the classifier as well
    model = model_of(name, **({"lr_factor": 1e-3} if name == "PromptKD" else {}))
    _, log = training(model, epochs=3)
    assert log[-1]["dept"] < log[0]["dept"]
    trained = logits(model, batch())
    model.set_classes(OTHER_CLASSES)
    with torch.no_grad():
        alone = model.method(batch()).logits()
    assert torch.equal(logits(model, batch()), alone)
    model.set_classes(CLASSES)
    assert torch.equal(logits(model, batch()), trained)


def test_the_terms_that_are_shared_are_those_that_the_method_names():
    source = replace(SOURCE, classification={"kd": 100.0})
    refiner = by_hand(source, weight=0.7)
    terms = {"kd": lambda out, targets, criterion: 100 * criterion(out.logits(), targets)}
    out = refiner(output())
    terms = {**refiner.method_terms({**terms, "ce": cross_entropy}), **refiner.loss_terms()}
    found = {name: term(out, LABELS, F.cross_entropy) for name, term in terms.items()}
    own, both = F.cross_entropy(OWN, LABELS), torch.cat([HEAD_TEXT, HEAD_IMAGE])
    head = F.cross_entropy(both, torch.cat([LABELS, LABELS]))
    expected = {"kd": 30 * own, "ce": own, "dept": 70 * head}
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected)


def test_distillation_is_shared_with_its_weight():
    model = model_of("PromptKD", weight=0.25).train()
    data = batch()
    targets = model.method.targets(data)
    own = model.method.distillation(model.method(data), targets, model.method.criterion)
    found = objective_of(model)(model(data), targets)
    torch.testing.assert_close(found["kd"], 0.75 * own)
    doubled = model_of("PromptKD", weight=0.25)
    doubled.method.kd_weight *= 2
    doubled = RefinedMethod(doubled.method, DePT(doubled.method.output(), Seeds(0), weight=0.25))
    twice = objective_of(doubled.train())(doubled(data), targets)
    torch.testing.assert_close(twice["dept"], 2 * found["dept"])


class OwnCrossEntropy(CoOp):
    """CoOp with a term of its own in place of the shared function."""

    name = "ce"

    def loss_terms(self):
        return {self.name: lambda out, targets, _: F.cross_entropy(out.logits(), targets)}


def test_a_cross_entropy_of_the_methods_own_is_shared_and_one_that_is_not_named_is_refused():
    values = []
    for cls in (OwnCrossEntropy, CoOp):
        method = cls(shared_tiny_clip(), CLASSES, Seeds(0))
        model = RefinedMethod(method, DePT(method.output(), Seeds(0)))
        values.append(objective_of(model)(model(batch()), batch().labels))
    torch.testing.assert_close(values[0], values[1])
    method = OwnCrossEntropy(shared_tiny_clip(), CLASSES, Seeds(0))
    method.name = "xent"
    with pytest.raises(ValueError, match="names none") as caught:
        DePT(method.output(), Seeds(0))
    assert "\n" not in str(caught.value)
    DePT(method.output(), Seeds(0), weight=0.0)


def test_its_parameters_have_their_own_rate():
    model = model_of(lr_factor=3.0)
    start = model.refiner.head.weight.detach().clone()
    groups = model.parameter_groups()
    assert [group.lr_factor for group in groups] == [1.0, 3.0]
    assert sum(p.numel() for g in groups for p in g.parameters) == sum(
        p.numel() for p in model.trainable()
    )
    data = ListBatches([batch(seed=3)])
    optimizer = SGD(lr=0.1, momentum=0.0, weight_decay=0.0)
    budget = Budget(epochs=1, optimizer=optimizer, schedule=Constant())
    out = model.train()(batch(seed=3))
    terms = objective_of(model)(out, batch(seed=3).labels)
    (gradient,) = torch.autograd.grad(sum(terms.values()), model.refiner.head.weight)
    fit(model, objective_of(model), data, budget, Seeds(0), log=lambda values: None)
    torch.testing.assert_close(model.refiner.head.weight.detach(), start - 0.3 * gradient)


def test_a_constant_warm_up_has_one_rate_for_all_as_released():
    model = model_of(lr_factor=3.0)
    weight = model.refiner.head.weight
    data, steps = ListBatches([batch(seed=3)]), []

    def note(values):
        steps.append(weight.detach().clone())

    optimizer = SGD(lr=0.1, momentum=0.0, weight_decay=0.0)
    schedule = ConstantThenCosine(warmup_epochs=1, warmup_lr=0.02)
    start = weight.detach().clone()
    out = model.train()(batch(seed=3))
    terms = objective_of(model)(out, batch(seed=3).labels)
    (gradient,) = torch.autograd.grad(sum(terms.values()), weight)
    budget = Budget(epochs=2, optimizer=optimizer, schedule=schedule)
    fit(model, objective_of(model), data, budget, Seeds(0), log=note)
    torch.testing.assert_close(steps[0], start - 0.02 * gradient)
    assert (steps[1] - steps[0]).norm() > 10 * (steps[0] - start).norm()  # 0.1 times 3
    assert [schedule.has_one_rate(epoch) for epoch in (1, 2)] == [True, False]
    assert not Constant().has_one_rate(1)
