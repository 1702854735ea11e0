"""Hooks of methods and refiners: guides, groups, metrics, views, additive logits, adaptation."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from core.interfaces import ParameterGroup
from core.seeding import Seeds
from core.train.batches import FeatureBatches
from core.train.checkpoints import load_checkpoint, save_checkpoint
from core.train.evaluate import predict
from core.train.feeding import stacked
from core.train.fit import Budget, fit
from core.train.losses import cross_entropy
from core.train.model import RefinedMethod
from core.train.objective import Objective
from core.train.optimizers import SGD, Constant
from core.types import Forward, ImageFeatures
from methods.base import TextMethod, unit
from methods.coop import CoOp
from refiners.null_refiner import NullRefiner
from tests.helpers.tiny_clip import CLASSES, ListBatches, batch, shared_tiny_clip


def model_of(cls, **settings):
    method = cls(shared_tiny_clip(), CLASSES, Seeds(1), **settings)
    return RefinedMethod(method, NullRefiner(method.output(), Seeds(1)))


def fitted(model, *, epochs=1, lr=0.1, optimizer=None):
    method, log = model.method, []
    objective = Objective(method.loss_terms(), {}, method.criterion, method.guide_terms())
    budget = Budget(epochs=epochs, optimizer=optimizer or SGD(lr=lr), schedule=Constant())
    batches = ListBatches([batch(seed=3), batch(seed=4)])
    result = fit(model, objective, batches, budget, Seeds(0), log=lambda e: log.append(dict(e)))
    return result, log


class Guided(CoOp):
    """CoOp that follows a guide and not its loss."""

    seen = ()

    def guide_terms(self):
        return {"double": lambda out, targets, criterion: 2 * criterion(out.logits(), targets)}

    def after_backward(self, gradients):
        self.seen = (*self.seen, {**gradients["double"], "own": self.ctx.grad.clone()})
        self.ctx.grad.zero_()

    def metrics(self):
        return {"steps": float(len(self.seen))}


def test_a_guide_steers_and_is_no_part_of_the_loss():
    plain, guided = model_of(CoOp), model_of(Guided)
    start = guided.method.ctx.detach().clone()
    _, log = fitted(guided, optimizer=SGD(lr=0.1, weight_decay=0.0))
    assert torch.equal(guided.method.ctx, start)  # after_backward took the gradient away
    for seen in guided.method.seen:
        torch.testing.assert_close(seen["ctx"], 2 * seen["own"])
    assert log[0]["double"] == pytest.approx(2 * log[0]["ce"])
    assert log[0]["loss"] == log[0]["ce"] and log[0]["metrics"] == {"steps": 2.0}
    assert "metrics" not in fitted(plain)[1][0]


RESERVED = ("loss", "epoch", "epochs", "lr", "metrics", "crc32", "two words", "", "a.b")


@pytest.mark.parametrize("name", RESERVED)
def test_a_term_or_metric_cannot_take_a_name_of_the_log(monkeypatch, name):
    method = model_of(CoOp).method
    term = method.loss_terms()["ce"]
    for terms in [({name: term}, {}), ({}, {name: term}), ({}, {}, {name: term})]:
        own, refiner, *guides = terms
        with pytest.raises(ValueError, match="a loss term must be named by an identifier") as info:
            Objective(own, refiner, method.criterion, *guides)
        assert "\n" not in str(info.value) and repr(name) in str(info.value)
    for owner in (CoOp, NullRefiner):
        with monkeypatch.context() as patch:
            patch.setattr(owner, "metrics", lambda self: {name: 1.0})
            with pytest.raises(ValueError, match="a metric must be named by an identifier"):
                fitted(model_of(CoOp))


@pytest.mark.parametrize("value", ["much", None, torch.ones(2)])
def test_a_metric_that_is_no_number_is_refused_by_name(monkeypatch, value):
    monkeypatch.setattr(CoOp, "metrics", lambda self: {"gap": value})
    with pytest.raises(ValueError, match="the metric 'gap' must be a number"):
        fitted(model_of(CoOp))


class Grouped(TextMethod):
    """Two learned offsets on the frozen texts, one with a rate of its own."""

    def __init__(self, clip, classes, seeds):
        super().__init__(clip, classes)
        self.slow = nn.Parameter(torch.zeros(clip.spec.joint_width))
        self.fast = nn.Parameter(torch.zeros(clip.spec.joint_width))
        self.set_classes(classes)

    def set_classes(self, classes):
        self.classes = classes
        self.frozen = unit(self.clip.encode_texts(classes.prompts()))

    def class_texts(self):
        return unit(self.frozen * (1 + self.slow + self.fast))

    def parameter_groups(self):
        return (ParameterGroup((self.fast,), lr_factor=3.0, weight_decay=0.0),)

    def loss_terms(self):
        return {"ce": cross_entropy}


def test_a_group_has_its_own_rate_and_decay():
    model = model_of(Grouped)
    groups = model.parameter_groups()
    assert [group.lr_factor for group in groups] == [1.0, 3.0]
    fitted(model, optimizer=SGD(lr=0.1, momentum=0.0, weight_decay=0.0))
    torch.testing.assert_close(model.method.fast, 3 * model.method.slow)
    decayed = model_of(Grouped)
    with torch.no_grad():
        decayed.method.slow.fill_(1.0), decayed.method.fast.fill_(1.0)
    fitted(decayed, lr=1e-4, optimizer=SGD(lr=1e-9, momentum=0.0, weight_decay=1e8))
    assert (
        float(decayed.method.slow.detach().max()) < 0.9 < float(decayed.method.fast.detach().min())
    )


class Remembers(Grouped):
    """Additive logits from the training images, which it keeps; nothing has a gradient."""

    trains_by_gradient = False
    data_shaped = frozenset({"keys"})

    def __init__(self, clip, classes, seeds):
        super().__init__(clip, classes, seeds)
        self.slow.requires_grad_(False), self.fast.requires_grad_(False)
        self.register_buffer("keys", torch.zeros(0, clip.spec.joint_width))

    def begin_training(self, batches, num_epochs):
        self.keys = torch.cat([unit(self.image_features(b).pooled) for b in batches])

    def forward(self, batch):
        out = super().forward(batch)
        extra = (out.image @ self.keys.t()).sum(dim=-1, keepdim=True)
        return replace(out, extra_logits=extra * torch.eye(len(CLASSES))[1])


def test_what_training_images_shape_survives_a_file(tmp_path):
    model = model_of(Remembers)
    assert model.learns and not model.trainable()
    result, log = fitted(model)
    assert len(model.method.keys) == 12 and not log and result.images == 12
    save_checkpoint(tmp_path / "weights.safetensors", model)
    fresh = model_of(Remembers)
    load_checkpoint(tmp_path / "weights.safetensors", fresh)
    assert torch.equal(fresh.eval()(batch()).logits(), model(batch()).logits())


def test_additive_logits_count_in_the_loss_and_in_predictions():
    model = model_of(Remembers)
    fitted(model)
    out = model(batch())
    torch.testing.assert_close(out.logits(), out.text_logits() + out.extra_logits)
    loss = cross_entropy(out, batch().labels, model.method.criterion)
    assert float(loss) != pytest.approx(
        float(
            cross_entropy(replace(out, extra_logits=None), batch().labels, model.method.criterion)
        )
    )
    huge = replace(out, extra_logits=1e4 * torch.eye(len(CLASSES))[None, 1])
    model.forward = lambda batch: huge
    assert predict(model, [batch()]).predicted_N.tolist() == [1] * 6


class ParameterTexts(Grouped):
    """Class texts that are a Parameter themselves."""

    def __init__(self, clip, classes, seeds):
        super().__init__(clip, classes, seeds)
        self.text = nn.Parameter(self.frozen.clone())

    def class_texts(self):
        return self.text


def test_class_texts_may_be_a_parameter():
    model = model_of(ParameterTexts)
    fitted(model)
    names = set(model.state_dict())
    first, second = predict(model, [batch()]), predict(model, [batch()])
    assert torch.equal(first.predicted_N, second.predicted_N)
    assert set(model.state_dict()) == names and model.method._texts is None


class Drifting(Grouped):
    """Adds a count of the images that it was adapted to, to the first class."""

    trains = False
    count = 0.0

    def adapt(self, batch, score):
        assert torch.is_grad_enabled() and isinstance(score(batch), Forward)
        self.count += len(batch)

    def reset_adaptation(self):
        self.count = 0.0

    def forward(self, batch):
        extra = 1e3 * self.count * torch.eye(len(CLASSES))[None, 0]
        return replace(super().forward(batch), extra_logits=extra - 2.5e3 * extra.sign())


@pytest.mark.parametrize(("adapts_to", "expected"), [("image", 2), ("stream", 0)])
def test_adaptation_starts_anew_per_image_or_per_stream(adapts_to, expected, monkeypatch):
    monkeypatch.setattr(Drifting, "adapts_to", adapts_to)
    model = model_of(Drifting).eval()
    parts = [batch(2, seed=n) for n in range(3)]
    first, again = predict(model, parts), predict(model, parts)
    assert torch.equal(first.confidence_N, again.confidence_N)
    assert model.method.count == 0.0
    zero = first.predicted_N.reshape(3, 2) == 0
    assert zero[1:].all() == (adapts_to == "stream")


def test_predictions_are_in_the_order_of_the_images():
    model = model_of(CoOp).eval()
    whole = batch(6, seed=9)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    shuffled = [
        replace(
            whole,
            labels=whole.labels[i : i + 1],
            pixels=whole.pixels[i : i + 1],
            index=order[k : k + 1],
        )
        for k, i in enumerate(order.tolist())
    ]
    assert torch.equal(predict(model, shuffled).predicted_N, predict(model, [whole]).predicted_N)


def test_views_of_cached_features_are_others_of_the_same_images():
    features = [
        ImageFeatures(pooled=torch.full((5, 2), float(v)) + torch.arange(5.0)[:, None] * 10)
        for v in range(3)
    ]
    labels = torch.arange(5)
    given = (stacked(features, 3), labels, 2, torch.device("cpu"), frozenset())
    alone = FeatureBatches(*given, num_views=3)
    paired = FeatureBatches(*given, num_views=3, views_per_image=2)
    for one, two in zip(alone.epoch(1, Seeds(3)), paired.epoch(1, Seeds(3)), strict=True):
        assert not one.views and len(two.views) == 1
        assert torch.equal(one.features.pooled, two.features.pooled)
        (other,) = two.views
        assert torch.equal(other.index, two.index)
        difference = (other.features.pooled - two.features.pooled)[:, 0]
        assert set(difference.tolist()) <= {1.0, -2.0}
