"""Nearest class mean against values computed by hand."""

from dataclasses import replace

import pytest
import torch

from core.types import Batch, ImageFeatures
from tests.helpers.tiny_clip import (
    CLASSES,
    batch,
    make_method,
    make_model,
    shared_tiny_clip,
    training,
)


def features(*rows, labels, views=()):
    pooled = torch.zeros(len(rows), 32)
    pooled[:, :2] = torch.tensor(rows)
    return Batch(labels=torch.tensor(labels), features=ImageFeatures(pooled=pooled), views=views)


def test_a_mean_is_of_unit_features_of_all_images_and_views():
    """Class 0: (1, 0) and (0, 1) give (1, 1) / sqrt 2. Class 1: (0.6, 0.8), and (1, 0) as a view,
    give (1.6, 0.8) / sqrt 3.2. The lengths of features have no effect.
    """
    method = make_method("NearestClassMean", shared_tiny_clip())
    view = features((5.0, 0.0), labels=[1])
    rest = features(*[(0.0, 1.0)] * 3, labels=[2, 3, 4])
    method.begin_training(
        [
            features((9.0, 0.0), (0.0, 0.1), labels=[0, 0]),
            features((3.0, 4.0), labels=[1], views=(view,)),
            rest,
        ],
        1,
    )
    expected = torch.tensor([[1 / 2**0.5, 1 / 2**0.5], [1.6 / 3.2**0.5, 0.8 / 3.2**0.5]])
    torch.testing.assert_close(method.class_texts()[:2, :2], expected)
    logits = method(features((0.0, 3.0), labels=[0])).logits()
    s = method.clip.scale
    torch.testing.assert_close(logits[0, :3], s * torch.tensor([0.5**0.5, 0.2**0.5, 1.0]))


def test_a_class_without_images_is_refused():
    method = make_method("NearestClassMean", shared_tiny_clip())
    before = method.class_texts().clone()
    with pytest.raises(ValueError, match=r"no training image of 'sea anemone' and 1 other") as told:
        method.begin_training([features(*[(1.0, 0.0)] * 3, labels=[0, 1, 3])], 1)
    assert "\n" not in str(told.value) and torch.equal(method.class_texts(), before)


def test_nothing_takes_steps_and_texts_leave_no_trace():
    trained = []
    for template in ("a photo of a {}.", "one {}."):
        classes = replace(CLASSES, template=template)
        model = make_model(make_method("NearestClassMean", shared_tiny_clip(), classes=classes))
        result, log = training(model)
        assert model.trainable() == [] and log == [] and result.images == 12
        trained.append(model(batch()).logits())
    assert torch.equal(*trained)
