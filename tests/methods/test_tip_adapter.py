"""Tip-Adapter and Tip-Adapter-F against values computed by hand."""

from dataclasses import replace

import pytest
import torch

from core.seeding import Seeds
from core.train.batches import FeatureBatches
from core.types import Batch, ImageFeatures
from tests.helpers.tiny_clip import (
    CLASSES,
    batch,
    make_method,
    make_model,
    shared_tiny_clip,
    training,
)

BOTH = pytest.mark.parametrize("name", ["TipAdapter", "TipAdapterF"])


def features(*rows, labels=None, views=()):
    """A batch of image features whose first two entries are given."""
    pooled = torch.zeros(len(rows), 32)
    pooled[:, :2] = torch.tensor(rows)
    labels = torch.zeros(len(rows), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Batch(labels=labels, features=ImageFeatures(pooled=pooled), views=views)


@BOTH
def test_cache_logits_are_the_sharpened_affinities_of_a_class(name):
    """Keys (1, 0) of class 2, and (0, 1) and (0.6, 0.8) of class 4; image (1, 0): cosines 1, 0 and
    0.6, affinities 1, exp(-3) and exp(-1.2).
    """
    method = make_method(name, shared_tiny_clip(), alpha=2.0, beta=3.0)
    method.begin_training([features((2.0, 0.0), (0.0, 5.0), (3.0, 4.0), labels=[2, 4, 4])], 1)
    out = method(features((7.0, 0.0)))
    e = torch.tensor([-3.0, -1.2]).exp()
    expected = torch.tensor([[0.0, 0.0, 2.0, 0.0, 2 * float(e.sum())]])
    torch.testing.assert_close(out.extra_logits, expected)
    zero_shot = make_method("ZeroShot", shared_tiny_clip())(features((7.0, 0.0)))
    torch.testing.assert_close(out.logits(), zero_shot.logits() + expected)


def test_a_key_is_the_unit_mean_of_raw_views():
    """Views (3, 0) and (1, 3) of one image: mean (2, 1.5), unit (0.8, 0.6)."""
    method = make_method("TipAdapter", shared_tiny_clip())
    method.begin_training([features((3.0, 0.0), views=(features((1.0, 3.0)),))], 1)
    torch.testing.assert_close(method.keys[0, :2], torch.tensor([0.8, 0.6]))


def test_every_image_comes_with_all_fixed_views_once():
    pooled = torch.arange(21.0).reshape(3, 7, 1)
    batches = FeatureBatches(
        ImageFeatures(pooled=pooled.flatten(0, 1)),
        torch.arange(7),
        3,
        torch.device("cpu"),
        frozenset(),
        num_views=3,
    )
    seen = [
        torch.stack([view.features.pooled[:, 0] for view in (b, *b.views)], dim=1)
        for b in batches.every_image(Seeds(1))
    ]
    assert sorted(torch.cat(seen).flatten().tolist()) == list(range(21))
    assert torch.equal(torch.cat(seen) % 7, (torch.cat(seen) % 7)[:, :1].expand(-1, 3))
    assert all(not b.views for b in batches.epoch(1, Seeds(1)))


@BOTH
def test_untrained_it_is_zero_shot(name):
    clip = shared_tiny_clip()
    method = make_method(name, clip, templates="imagenet7")
    expected = make_method("ZeroShot", clip, templates="imagenet7")(batch()).logits()
    assert torch.equal(method(batch()).logits(), expected) and len(method.keys) == 0


@BOTH
def test_only_the_keys_of_f_move(name):
    model = make_model(make_method(name, shared_tiny_clip()))
    result, log = training(model)
    count = sum(p.numel() for p in model.trainable())
    assert model.method.keys.shape == (12, 32)
    assert (count, len(log)) == ((12 * 32, 2) if name == "TipAdapterF" else (0, 0))
    start = make_method(name, shared_tiny_clip())
    start.begin_training([batch(seed=3), batch(seed=4)], 1)
    assert torch.equal(start.keys, model.method.keys) == (name == "TipAdapter")
    assert torch.equal(start.labels_N, model.method.labels_N)
    assert result.images == (24 if name == "TipAdapterF" else 12)


def test_the_cache_follows_other_texts_and_the_order_of_classes():
    """Classes in another order under another template: their texts, and the cache of each."""
    clip = shared_tiny_clip()
    method = make_method("TipAdapter", clip)
    method.begin_training([features((1.0, 0.0), (0.0, 1.0), labels=[0, 3])], 1)
    names = (CLASSES.names[3], CLASSES.names[1], CLASSES.names[0])
    given = replace(CLASSES, names=names, template="one {}.")
    method.set_classes(given)
    out = method(features((1.0, 0.0)))
    torch.testing.assert_close(
        out.extra_logits, torch.tensor([[float(torch.tensor(-5.5).exp()), 0.0, 1.0]])
    )
    assert torch.equal(out.text, make_method("ZeroShot", clip, classes=given)(batch()).text)
