"""CoPrompt against values computed by hand, and its pairs of views."""

from dataclasses import replace

import pytest
import torch

from core.interfaces import Method
from core.seeding import Seeds
from core.train.published_checkpoints import load_published, read_published
from methods.base import unit
from methods.coprompt import Bottleneck
from tests.helpers.dassl_checkpoints import class_buffers, save, whole_clip
from tests.helpers.tiny_clip import (
    CLASSES,
    batch,
    logits,
    make_method,
    make_model,
    shared_tiny_clip,
    tiny_clip,
    training,
    with_views,
)
from tests.helpers.two_step_runs import built, two_steps


def coprompt(clip=None, **settings):
    return make_method("CoPrompt", clip or shared_tiny_clip(), **settings)


def test_an_adapter_mixes_in_its_rectified_output():
    adapter = Bottleneck(2, 1, 0.25, Seeds(0))
    with torch.no_grad():
        adapter.down.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 2.0]]))
        adapter.up.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, 0.0]]))
    # down (1, 4) -> up (5, -1) -> (5, 0)
    found = adapter(torch.tensor([[3.0, 2.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.25 * 5 + 0.75 * 3, 0.75 * 2.0]]))
    assert Bottleneck(32, 4, 0.1, Seeds(0)).down.weight.shape == (8, 32)


def test_without_adapters_it_is_maple():
    method, maple = coprompt(image_mix=0.0, text_mix=0.0), make_method("MaPLe", shared_tiny_clip())
    maple.load_state_dict(method.state_dict(), strict=False)
    torch.testing.assert_close(method(batch()).logits(), maple(batch()).logits())
    assert not torch.allclose(coprompt()(batch()).logits(), maple(batch()).logits())


def test_both_towers_are_adapted_before_they_are_normalized():
    method, maple = coprompt(), make_method("MaPLe", shared_tiny_clip())
    maple.load_state_dict(method.state_dict(), strict=False)
    image = method.image_adapter(maple.image_features(batch()).pooled)
    text = method.text_adapter(maple.text_prompts.encode(maple.clip))
    out = method(batch())
    torch.testing.assert_close(out.image, unit(image))
    torch.testing.assert_close(out.text, unit(text))


def test_images_are_compared_with_the_frozen_features_of_their_other_view():
    method, data = coprompt(weight=3.0), with_views(4, 1)
    out = method(data)
    other = unit(method.clip.encode_image(data.views[0].pixels).pooled)
    cosine = torch.nn.functional.cosine_similarity(out.image, other)
    found = method.image_consistency(out, data.labels, method.criterion)
    torch.testing.assert_close(found, 3 * (1 - cosine).mean())
    same = method(replace(data, views=()))
    torch.testing.assert_close(
        same.aux["other_image"], unit(method.clip.encode_image(data.pixels).pooled)
    )
    assert not torch.allclose(same.aux["other_image"], out.aux["other_image"])
    assert not out.aux["other_image"].requires_grad and not out.aux["other_text"].requires_grad


def test_texts_are_compared_with_the_mean_over_sentences():
    """The expectation of the released loss, which draws one of them."""
    sentences = ("a photo of a {}.", "one {}", "many {}s")
    method, clip = coprompt(weight=2.0, templates=sentences), shared_tiny_clip()
    out = method(batch())
    names = [name.replace("_", " ") for name in CLASSES.names]
    distances = [
        1 - (out.text * unit(clip.encode_texts([s.format(n) for n in names]))).sum(dim=-1).mean()
        for s in sentences
    ]
    found = method.text_consistency(out, batch().labels, method.criterion)
    torch.testing.assert_close(found, 2 * torch.stack(distances).mean())
    with method.texts_once():
        assert not method(batch()).aux  # scoring needs none of it


def test_the_method_compares_its_own_texts_not_refined_ones():
    model = make_model(coprompt(), semantic="NoLoss")
    out = model(with_views(4, 1))
    assert not torch.allclose(out.text, out.aux["own_text"])
    torch.testing.assert_close(out.aux["own_text"], model.method.class_texts())


def test_it_learns_and_weight_zero_leaves_its_terms_out():
    _, log = training(make_model(coprompt()), epochs=3)
    assert log[-1]["loss"] < log[0]["loss"]
    assert {"ce", "image_consistency", "text_consistency"} <= set(log[0])
    assert set(coprompt(weight=0.0).loss_terms()) == {"ce"}


def test_released_names_are_those_of_the_trainer():
    names = coprompt(tiny_clip()).released_names()
    assert names["image_adapter.down.weight"] == "adapter_image.fc.0.weight"
    assert names["text_adapter.up.weight"] == "adapter_text.fc.2.weight"
    assert names["couplings.0.weight"] == "proj.weight"
    learned = {name for name, p in coprompt().named_parameters() if p.requires_grad}
    assert learned == set(names)


@pytest.mark.parametrize("fresh", [1, 2])
def test_the_other_view_is_of_the_same_image_and_fresh_in_every_epoch(fresh, small_mosaic):
    """What a training step sees, in the run's own batches."""
    text = two_steps("CoPrompt", "experiment.num_views = 1")
    assembly = built(text, small_mosaic)
    method: Method = assembly.model.method
    batches = assembly.source.training(
        assembly.dataset,
        need=frozenset({"pooled"}),
        num_views=1,
        batch_size=5,
        views_per_image=method.views_per_image,
    )
    first, again = (next(iter(batches.epoch(fresh, Seeds(1)))) for _ in range(2))
    (other,), (repeated,) = first.views, again.views
    assert torch.equal(other.index, first.index) and torch.equal(other.labels, first.labels)
    assert torch.equal(other.pixels, repeated.pixels)
    assert not any(torch.equal(a, b) for a, b in zip(first.pixels, other.pixels, strict=True))
    seen = {}
    for epoch in (1, 2):
        for one in batches.epoch(epoch, Seeds(1)):
            for place, pixels in zip(one.index.tolist(), one.views[0].pixels, strict=True):
                seen.setdefault(place, []).append(pixels)
    pairs = [views for views in seen.values() if len(views) == 2]
    assert pairs and not any(torch.equal(*views) for views in pairs)


def test_a_file_of_the_trainer_is_read(tmp_path):
    """It holds the whole model, with the frozen one that it is compared with."""
    trained = make_model(coprompt())
    training(trained, epochs=1)
    names, values = trained.released_names(), trained.state_dict()
    state = {
        f"prompt_learner.{theirs}" if "adapter" not in theirs else theirs: values[ours]
        for ours, theirs in names.items()
    }
    state |= {**whole_clip(), **class_buffers(5, 32, "prompt_learner.")}
    state |= {f"model_distill.{name}": value for name, value in whole_clip().items()}
    path = save(tmp_path, "MultiModalPromptLearner", state, epoch=8)
    fresh = make_model(coprompt(), seed=7)
    assert not torch.equal(logits(fresh, batch()), logits(trained, batch()))
    load_published(
        fresh,
        fresh.released_names(),
        read_published(path),
        unused=fresh.method.released_unused,
    )
    assert torch.equal(logits(fresh, batch()), logits(trained, batch()))
