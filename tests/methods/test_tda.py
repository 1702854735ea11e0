"""TDA against values computed by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from core.seeding import Seeds
from core.train.model import RefinedMethod
from core.types import Batch, ImageFeatures
from refiners.dept import DePT
from tests.helpers.tiny_clip import CLASSES, make_method, make_model, shared_tiny_clip, tiny_clip

ALONE = {"positive": {"negative": False}, "negative": {"positive": False}}
SCALE, WIDTH = 10.0, 32
TEXTS = torch.eye(WIDTH)[: len(CLASSES)]


def model_of(**settings):
    """A TDA whose class texts are the first axes and whose scale is 10."""
    clip = tiny_clip()
    clip.logit_scale.data.fill_(math.log(SCALE))
    model = make_model(make_method("TDA", clip, **settings)).eval()
    model.method.register_buffer("texts_CD", TEXTS, persistent=False)
    return model


def image(*parts):
    """A batch of one unit image with these first coordinates."""
    pooled = torch.zeros(1, WIDTH)
    pooled[0, : len(parts)] = torch.tensor(parts)
    pooled[0, -1] = max(1 - float(pooled.norm()) ** 2, 0) ** 0.5
    return Batch(labels=torch.tensor([0]), features=ImageFeatures(pooled=F.normalize(pooled)))


def stream(model, *batches):
    """The extra logits of each image as the stream goes by."""
    found = []
    model.method.reset_adaptation()
    for one in batches:
        model.method.adapt(one, model)
        found.append(model(one).extra_logits[0])
    return found


def entropy_of(batch):
    p = (SCALE * batch.features.pooled @ TEXTS.t()).softmax(dim=-1)
    return float(-(p * p.log()).sum())


def test_the_positive_cache_adds_affinities_of_its_classes():
    first, second = image(0.9, 0.1), image(0.1, 0.8)
    model = model_of(**ALONE["positive"], positive_alpha=3.0, positive_beta=4.0)
    one, two = stream(model, first, second)
    expected = torch.zeros(len(CLASSES))
    expected[0] = 3.0  # the image itself, at distance 0
    torch.testing.assert_close(one, expected)
    cosine = float(first.features.pooled[0] @ second.features.pooled[0])
    expected[0], expected[1] = 3.0 * math.exp(-4.0 * (1 - cosine)), 3.0
    torch.testing.assert_close(two, expected)


def test_a_full_class_keeps_its_most_certain_images():
    certain, less, least = image(0.9), image(0.6), image(0.4)
    assert entropy_of(certain) < entropy_of(less) < entropy_of(least)
    model = model_of(**ALONE["positive"], positive_capacity=2, positive_alpha=1.0)
    stream(model, least, less, certain)
    cache = model.method.positive_cache
    torch.testing.assert_close(
        cache.entropy_CK[0], torch.tensor([entropy_of(certain), entropy_of(less)])
    )
    torch.testing.assert_close(cache.keys_CKD[0, 0], certain.features.pooled[0])
    torch.testing.assert_close(cache.keys_CKD[0, 1], less.features.pooled[0])
    stream(model, certain, less, least)  # the last one is less certain than both
    torch.testing.assert_close(model.method.positive_cache.keys_CKD[0], cache.keys_CKD[0])
    assert not cache.entropy_CK[1:].isfinite().any()


def test_the_negative_cache_takes_off_where_an_uncertain_image_had_probability():
    uncertain, other = image(0.5, 0.4), image(0.3, 0.2, 0.9)
    share = entropy_of(uncertain) / math.log2(len(CLASSES))
    p = (SCALE * uncertain.features.pooled @ TEXTS.t()).softmax(dim=-1)[0]
    assert 0.2 < share < 0.5 and p[0] > p[1] > 0.1 > p[2]
    settings = {"negative_alpha": 0.5, "negative_beta": 2.0, "mask_lower": 0.1}
    model = model_of(**ALONE["negative"], **settings)
    one, two = stream(model, uncertain, other)
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(one, -0.5 * mask)
    cosine = float(uncertain.features.pooled[0] @ other.features.pooled[0])
    torch.testing.assert_close(two, -0.5 * math.exp(-2.0 * (1 - cosine)) * mask)
    narrow = model_of(**ALONE["negative"], mask_lower=0.1, mask_upper=float(p[0]) - 1e-3)
    assert stream(narrow, uncertain)[0].nonzero().tolist() == [[1]]


@pytest.mark.parametrize("outside", ["certain", "too uncertain"])
def test_the_negative_cache_takes_images_between_the_entropies_alone(outside):
    uncertain = image(0.5, 0.4)
    share = entropy_of(uncertain) / math.log2(len(CLASSES))
    limits = (share + 0.01, 0.7) if outside == "certain" else (0.01, share - 0.01)
    model = model_of(
        **ALONE["negative"], entropy_lower=limits[0], entropy_upper=limits[1], mask_lower=0.01
    )
    assert torch.equal(stream(model, uncertain)[0], torch.zeros(len(CLASSES)))
    inside = model_of(**ALONE["negative"], entropy_lower=share - 0.01, entropy_upper=share + 0.01)
    assert stream(inside, uncertain)[0].any()


def test_the_released_share_of_entropy_mixes_nats_and_bits():
    uncertain = image(0.5, 0.4)
    share = entropy_of(uncertain) / math.log(len(CLASSES))
    limits = {"entropy_lower": share - 0.01, "entropy_upper": share + 0.01}
    nats = model_of(**ALONE["negative"], **limits, entropy_unit="nats")
    released = model_of(**ALONE["negative"], **limits)
    assert stream(nats, uncertain)[0].any() and not stream(released, uncertain)[0].any()


def test_both_caches_add_up_and_off_is_zero_shot():
    batches = [image(0.5, 0.4), image(0.9), image(0.3, 0.35)]
    both = stream(model_of(), *batches)
    parts = [stream(model_of(**off), *batches) for off in ALONE.values()]
    for sum_of, one, other in zip(both, *parts, strict=True):
        torch.testing.assert_close(sum_of, one + other)
    off = stream(model_of(positive=False, negative=False), *batches)
    assert not torch.cat(off).any()


def test_pseudo_labels_and_entropies_are_those_of_all_refined_logits():
    method = model_of(**ALONE["positive"]).method
    refiner = DePT(method.output(), Seeds(0), weight=0.5)
    model = RefinedMethod(method, refiner).eval()
    with torch.no_grad():
        refiner.head.weight.zero_()
        refiner.head.bias.copy_(torch.tensor([0.0, 0, 60, 0, 0]))
    one = image(0.9)
    assert int(method(one).logits().argmax()) == 0
    refined = model(one).logits()
    assert int(refined.argmax()) == 2
    method.adapt(one, model)
    cache = method.positive_cache
    assert cache.entropy_CK.isfinite().nonzero().tolist() == [[2, 0]]
    p = refined.softmax(dim=-1)
    torch.testing.assert_close(cache.entropy_CK[2, 0], -(p * refined.log_softmax(-1)).sum())
    second = image(0.8, 0.1)
    method.reset_adaptation()
    alone = model(second).logits()
    method.adapt(one, model)
    method.adapt(second, model)  # the cache itself has no say in what it takes
    found = method.positive_cache.entropy_CK[2]
    expected = -(alone.softmax(dim=-1) * alone.log_softmax(dim=-1)).sum()
    assert any(torch.isclose(entropy, expected) for entropy in found)


@pytest.mark.parametrize("what", ["entropy", "mask"])
def test_limits_that_nothing_lies_between_are_refused(what):
    limits = {f"{what}_lower": 0.5, f"{what}_upper": 0.5}
    with pytest.raises(ValueError, match=rf"TDA.{what}_lower must be below TDA.{what}_upper"):
        make_method("TDA", shared_tiny_clip(), **limits)
