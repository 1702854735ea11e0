"""KgCoOp: recorded runs of other settings, values computed by hand, and what it refuses."""

import pytest
import torch
from torch.nn import functional as F

from core.types import ClassNames
from experiments.verify.verify import verify_set
from tests.helpers.recorded_sets import Recorder, steps, unit, with_context
from tests.helpers.tiny_clip import CLASSES, make_method, shared_tiny_clip
from tests.helpers.two_step_runs import check_recorded


def test_matches_the_recorded_run():
    check_recorded("public_kgcoop")


def record(folder, *, num_ctx=4, words=False, specific=False, template, weight=8.0, **sizes):
    """A set in which the context starts from the released words or at random."""
    it = Recorder(**sizes)
    num_ctx = 4 if words else num_ctx
    text = "a photo of a" if words else " ".join("X" * num_ctx)
    rows, eot = it.embed([f"{text} {name.replace('_', ' ')}." for name in it.names])
    fixed = it.hand_made(template)
    shape = (len(it.names), num_ctx) if specific else (num_ctx,)
    start = torch.randn(*shape, it.sizes["text_width"], generator=it.random)
    named = it.parameters({"ctx": 0.3 * start})
    texts = lambda: it.text(with_context(rows, named["ctx"]), eot)  # noqa: E731
    it.tensors |= {"out1.text_feature": texts(), "out1.text_fixed": fixed}
    it.tensors["out1.cosine"] = (unit(texts()) * fixed).sum(-1)
    it.tensors["out1.image_feature"] = it.image(it["in.images"][0])

    def loss(logits, labels):
        ce, apart = F.cross_entropy(logits, labels), 1 - (unit(texts()) * fixed).sum(-1).mean()
        return {"ce": ce, "text_consistency": apart, "total": ce + weight * apart}

    steps(it, named, lambda images: it.scale * unit(it.image(images)) @ unit(texts()).t(), loss)
    return it.save(
        folder, "kgcoop", n_ctx=num_ctx, ctx_init=words, consistency_weight=weight,
        template=template, cosine_eps=1e-7,
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"num_ctx": 3, "template": "{} texture."},
        {"num_ctx": 16, "template": "a centered satellite photo of {}.", "weight": 1.0},
        {"words": True, "template": "a photo of a {}."},
        {"num_ctx": 2, "specific": True, "template": "a photo of {}, a type of food."},
        {"num_ctx": 1, "template": "itap of a {}", "text_width": 48, "text_heads": 3, "seed": 5},
        {"num_ctx": 5, "template": "one {}.", "text_layers": 2, "vision_layers": 2, "patch": 4,
         "patches": 16},
        {"num_ctx": 3, "template": "{} texture.", "lr": 0.05, "num_steps": 2},
        {"num_ctx": 3, "template": "{} texture.", "lr": 0.02, "num_steps": 4, "momentum": 0.9,
         "weight_decay": 0.1},
        {"num_ctx": 3, "template": "{} texture.", "layernorm_eps": 0.01, "activation": "gelu"},
        {"num_ctx": 3, "template": "{} texture.", "text_heads": 4, "vision_heads": 6},
    ],
)  # fmt: skip
def test_matches_a_recorded_run_of_other_settings(tmp_path, settings):
    outcome = verify_set(record(tmp_path, **settings))
    wrong = [d for d in outcome.differences if not d.ok]
    assert outcome.status == "matched", (outcome.problem, wrong)


def test_a_set_of_another_weight_differs(tmp_path):
    path = record(tmp_path, num_ctx=3, template="{} texture.")
    path.write_text(
        path.read_text().replace('"consistency_weight": 8.0', '"consistency_weight": 7')
    )
    outcome = verify_set(path)
    assert {d.name for d in outcome.differences if not d.ok} >= {"loss1.total", "grad1.ctx"}


def knowledge(method, text):
    aux = {"own_text": text}
    out = type("Out", (), {"aux": aux})
    return method.knowledge(out, None, None).item()


def test_the_term_is_the_weight_times_one_minus_the_mean_cosine():
    method = make_method("KgCoOp", shared_tiny_clip(), weight=3.0)
    fixed = method.fixed_CD
    across = torch.roll(fixed, 1, dims=-1)
    across = unit(across - (across * fixed).sum(-1, keepdim=True) * fixed)
    turned = 0.6 * fixed + 0.8 * across
    assert knowledge(method, turned) == pytest.approx(3.0 * (1 - 0.6), abs=1e-6)
    squared = make_method("KgCoOp", shared_tiny_clip(), weight=3.0, distance="squared")
    assert knowledge(squared, turned) == pytest.approx(3.0 * 2 * (1 - 0.6), abs=1e-6)


def test_with_the_words_of_the_template_the_term_starts_at_zero():
    method = make_method("KgCoOp", shared_tiny_clip())
    assert CLASSES.template == "a photo of a {}."
    assert knowledge(method, method.class_texts()) == pytest.approx(0.0, abs=1e-5)
    (gradient,) = torch.autograd.grad(
        method.weight * (1 - (method.class_texts() * method.fixed_CD).sum(-1).mean()), method.ctx
    )
    assert float(gradient.abs().max()) < 1e-5


def test_the_hand_made_texts_are_those_of_the_classes_and_their_template():
    clip = shared_tiny_clip()
    method = make_method("KgCoOp", clip)
    other = ClassNames(names=("tram", "red_kite"), template="{} seen from above.")
    method.set_classes(other)
    expected = unit(clip.encode_texts(["tram seen from above.", "red kite seen from above."]))
    torch.testing.assert_close(method.fixed_CD, expected)


def test_a_class_specific_context_scores_its_own_classes_only():
    method = make_method("KgCoOp", shared_tiny_clip(), class_specific=True)
    with pytest.raises(ValueError, match=r"use KgCoOp.class_specific = False"):
        method.set_classes(ClassNames(names=("tram",)))
