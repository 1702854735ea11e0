"""The linear probe and CLAP's constraint against values computed by hand."""

import math
from dataclasses import replace

import pytest
import torch

from core.seeding import Seeds
from core.types import Batch, ImageFeatures
from methods.linear_probe import LinearProbe
from tests.helpers.tiny_clip import (
    CLASSES,
    batch,
    make_method,
    make_model,
    objective_of,
    shared_tiny_clip,
    training,
)


def toward(method, *classes):
    """Image features along the zero-shot texts of these classes."""
    texts = method.zero_shot_CD
    return ImageFeatures(pooled=torch.stack([7 * texts[c] for c in classes]))


def test_it_starts_as_zero_shot_with_weights_of_raw_length():
    clip = shared_tiny_clip()
    method = make_method("LinearProbe", clip)
    raw = clip.encode_texts(CLASSES.prompts())
    torch.testing.assert_close(method.weight.detach(), raw)
    zero_shot = make_method("ZeroShot", clip)(batch())
    torch.testing.assert_close(method(batch()).logits(), zero_shot.logits())
    with torch.no_grad():
        method.weight[1] = 5 * raw[3]
    torch.testing.assert_close(method(batch()).text[1], zero_shot.text[3])


def test_a_random_start_has_the_variance_of_two_over_width():
    method = make_method("LinearProbe", shared_tiny_clip(), init="random")
    names = tuple(f"thing {n}" for n in range(400))
    many = LinearProbe(
        shared_tiny_clip(), replace(CLASSES, names=names), Seeds(0), init="random"
    ).weight.detach()
    assert float(many.std()) == pytest.approx(math.sqrt(2 / 32), rel=0.03)
    again = make_method("LinearProbe", shared_tiny_clip(), init="random", seed=1)
    assert not torch.equal(method.weight, again.weight)


def test_multipliers_are_mean_zero_shot_probabilities_of_the_own_class():
    """Three images and a further view of them; classes without an image are not held."""
    method = make_method("LinearProbe", shared_tiny_clip(), constraint="class_adaptive")
    first, second = toward(method, 0, 1, 2), toward(method, 3, 1, 0)
    labels = torch.tensor([0, 0, 2])
    other = Batch(labels=labels, features=second)
    method.begin_training([Batch(labels=labels, features=first, views=(other,))], 1)
    texts = method.zero_shot_CD / method.zero_shot_CD.norm(dim=-1, keepdim=True)
    p = (method.clip.scale * texts @ texts.t()).softmax(dim=-1)
    expected = torch.zeros(5)
    expected[0] = (p[0, 0] + p[1, 0] + p[3, 0] + p[1, 0]) / 4
    expected[2] = (p[2, 2] + p[0, 2]) / 2
    torch.testing.assert_close(method.multipliers_C, expected)
    assert 0.05 < float(expected[0]) < 0.95


def test_a_constant_multiplier_is_the_mean_of_all():
    made = {}
    for constraint in ("class_adaptive", "constant"):
        made[constraint] = make_method("LinearProbe", shared_tiny_clip(), constraint=constraint)
        made[constraint].begin_training([batch(10)], 1)
    mean = made["class_adaptive"].multipliers_C.mean()
    torch.testing.assert_close(made["constant"].multipliers_C, mean.expand(5))


def test_the_constraint_is_the_mean_over_classes_of_weighted_squared_distances():
    method = make_method("LinearProbe", shared_tiny_clip(), constraint="class_adaptive")
    model = make_model(method)
    method.multipliers_C.copy_(torch.tensor([0.5, 1.0, 0.0, 0.0, 0.25]))
    with torch.no_grad():
        method.weight[0] += torch.eye(32)[3] * 2  # 0.5 * 4
        method.weight[2] += 9.0  # not held
        method.weight[4] -= torch.eye(32)[0]  # 0.25 * 1
    terms = objective_of(model)(model(batch()), batch().labels)
    torch.testing.assert_close(terms["constraint"], torch.tensor(2.25 / 5))
    assert set(terms) == {"ce", "constraint"}
    assert set(make_method("LinearProbe", shared_tiny_clip()).loss_terms()) == {"ce"}


def test_the_constraint_keeps_weights_near_their_texts():
    moved = {}
    for constraint in ("none", "class_adaptive"):
        model = make_model(make_method("LinearProbe", shared_tiny_clip(), constraint=constraint))
        training(model, epochs=20)
        method = model.method
        moved[constraint] = float((method.weight - method.zero_shot_CD).detach().norm())
    assert 0 < moved["class_adaptive"] < moved["none"]
