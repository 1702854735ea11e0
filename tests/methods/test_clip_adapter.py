"""CLIP-Adapter against values computed by hand."""

import pytest
import torch

from core.types import Batch, ImageFeatures
from tests.helpers.tiny_clip import OTHER_CLASSES, batch, make_method, shared_tiny_clip


def in_plane(*pair):
    """An image feature (1, D) whose first two entries are given."""
    feature = torch.zeros(1, 32)
    feature[0, :2] = torch.tensor(pair)
    return Batch(labels=torch.zeros(1, dtype=torch.int64), features=ImageFeatures(pooled=feature))


@pytest.fixture
def method():
    """A hidden width of one: the hidden unit reads entry 0 and writes -2 to entry 0, 3 to 1."""
    made = make_method("ClipAdapter", shared_tiny_clip(), reduction=32, ratio=0.25)
    with torch.no_grad():
        made.down.weight.zero_()[0, 0] = 1.0
        made.up.weight.zero_()[:2, 0] = torch.tensor([-2.0, 3.0])
    return made


def test_the_blend_is_of_both_relus_and_unit(method):
    """f = (0.6, 0.8): hidden 0.6, adapted relu(-1.2, 1.8) = (0, 1.8); the blend is
    0.25 (0, 1.8) + 0.75 (0.6, 0.8) = (0.45, 1.05).
    """
    found = method(in_plane(3.0, 4.0)).image[0, :2]
    blend = torch.tensor([0.45, 1.05])
    torch.testing.assert_close(found, blend / blend.norm())


def test_a_negative_hidden_unit_adds_nothing(method):
    found = method(in_plane(-3.0, 4.0)).image[0, :2]
    torch.testing.assert_close(found, torch.tensor([-0.6, 0.8]))


def test_the_length_of_a_feature_has_no_effect(method):
    torch.testing.assert_close(method(in_plane(0.3, 0.4)).image, method(in_plane(9, 12)).image)


def test_texts_are_the_zero_shot_ones_of_any_classes(method):
    clip = shared_tiny_clip()
    assert torch.equal(method(batch()).text, make_method("ZeroShot", clip)(batch()).text)
    method.set_classes(OTHER_CLASSES)
    other = make_method("ZeroShot", clip, classes=OTHER_CLASSES)
    assert torch.equal(method(batch()).text, other(batch()).text)
    assert method.down.weight.shape == (1, 32) and method.closed_set({}) == ""
