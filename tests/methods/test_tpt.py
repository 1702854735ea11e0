"""TPT against values computed by hand."""

import pytest
import torch
from torch.nn import functional as F

from core.seeding import Seeds
from core.train.model import RefinedMethod
from methods.base import unit
from methods.tpt import confident_views, entropy_of_the_mean
from refiners.dept import DePT
from tests.helpers.tiny_clip import (
    PARTS_ON,
    make_method,
    make_model,
    shared_tiny_clip,
    tiny_clip,
    with_views,
)


def entropy(p):
    return -(p * p.log()).sum(dim=-1)


def test_the_confident_share_of_views_is_selected():
    logits_BVC = torch.tensor(
        [[[1.0, 0], [9, 0], [3, 0], [0, 5]], [[7.0, 0], [0, 0], [2, 0], [1, 0]]]
    )
    assert confident_views(logits_BVC, 0.5).tolist() == [[1, 3], [0, 2]]
    assert confident_views(logits_BVC, 0.74).shape == (2, 2)  # rounded down
    assert confident_views(logits_BVC, 0.1).tolist() == [[1], [0]]  # at least one


def test_the_objective_is_the_entropy_of_the_mean_prediction():
    logits_BVC = torch.tensor([[[2.0, 0, 1], [0, 3, 1]]])
    mean = logits_BVC[0].softmax(dim=-1).mean(dim=0)
    torch.testing.assert_close(entropy_of_the_mean(logits_BVC)[0], entropy(mean))
    assert float(entropy(mean)) > float(entropy(logits_BVC.softmax(dim=-1)).mean())


@pytest.mark.parametrize("steps", [1, 3])
def test_an_image_takes_steps_of_adamw_down_the_entropy_of_its_confident_views(steps):
    """The same by hand, image by image, in double precision."""
    clip = tiny_clip().double()
    settings = {"lr": 0.02, "eps": 1e-6, "weight_decay": 0.1}
    method = make_method("TPT", clip, test_views=7, selection=0.4, steps=steps, **settings)
    method = method.double()
    data = with_views(3, 7, dtype=torch.float64)
    method.adapt(data, method)
    tuned = method(data).text
    for row in range(3):
        views = [data.pixels[row], *(view.pixels[row] for view in data.views)]
        images = unit(clip.encode_image(torch.stack(views)).pooled)
        ctx = method.ctx.clone().requires_grad_()
        optimizer = torch.optim.AdamW([ctx], **settings)
        for step in range(steps):
            text = unit(method.prompts.encode(clip, ctx))
            p = (clip.scale * images @ text.t()).softmax(dim=-1)
            if step == 0:
                chosen = entropy(p).argsort()[:3]  # 0.4 of 8
            optimizer.zero_grad()
            entropy(p[chosen].mean(dim=0)).backward()
            optimizer.step()
        with torch.no_grad():
            expected = unit(method.prompts.encode(clip, ctx))
        torch.testing.assert_close(tuned[row], expected)
        torch.testing.assert_close(method(data).image[row], images[0])
    assert not torch.allclose(tuned[0], method.class_texts())
    method.reset_adaptation()
    torch.testing.assert_close(method(data).text, method.class_texts())


def test_refined_texts_are_tuned_through_the_refiner_which_stays_as_it_is():
    model = make_model(make_method("TPT", shared_tiny_clip(), test_views=3), **PARTS_ON).eval()
    data = with_views(4, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.method.adapt(data, model)
    through = model.method(data).text
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.method.adapt(data, model.method)
    assert not torch.allclose(through, model.method(data).text)


def test_views_are_scored_with_the_logits_that_a_refiner_adds():
    data = with_views(2, 5, dtype=torch.float64)

    def tuned(weight):
        method = make_method("TPT", tiny_clip().double(), test_views=5, selection=0.5).double()
        refiner = DePT(method.output(), Seeds(1), weight=weight)
        model = RefinedMethod(method, refiner).double().eval()
        with torch.no_grad():
            refiner.head.weight.mul_(30)
        scored = []
        method.adapt(data, lambda one: scored.append(model(one)) or scored[-1])
        return model(data).text, scored

    (alone, few), (shared, scored) = tuned(0.0), tuned(0.9)
    assert len(few) == 1 and len(scored) == 6  # the image and its views
    assert not torch.equal(alone, shared)
    assert all(one.extra_logits is not None for one in scored)


def test_many_images_are_tuned_in_pieces(monkeypatch):
    method = make_method("TPT", shared_tiny_clip(), test_views=2)
    data = with_views(5, 2)
    method.adapt(data, method)
    whole = method(data).text
    monkeypatch.setattr("methods.tpt.PROMPTS_AT_ONCE", 10)  # two images of five classes
    method.adapt(data, method)
    torch.testing.assert_close(method(data).text, whole)


def test_the_context_of_words_starts_at_zero_shot_and_one_of_a_checkpoint_is_kept():
    clip = shared_tiny_clip()
    method = make_method("TPT", clip)
    coop = make_method("CoOp", clip, ctx_init="a photo of a")
    torch.testing.assert_close(method.class_texts(), coop.class_texts())
    assert "ctx" in method.state_dict() and method.released_names() == coop.released_names()
    assert F.mse_loss(method.ctx, make_method("TPT", clip, ctx_init="").ctx) > 0
