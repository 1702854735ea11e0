"""ProGrad: recorded runs of other settings, projections computed by hand, and what it refuses."""

import json

import pytest
import torch
from torch.nn import functional as F

from core.types import ClassNames
from experiments.verify.verify import verify_set
from methods.prograd import ProGrad, project
from tests.helpers.preset_runs import few_test_images
from tests.helpers.recorded_sets import Recorder, unit, with_context
from tests.helpers.tiny_clip import CLASSES, make_method, shared_tiny_clip
from tests.helpers.two_step_runs import check_recorded, run_text, two_steps


def test_matches_the_recorded_run():
    check_recorded("public_prograd")


def record(
    folder, *, num_ctx=6, words=True, specific=False, template="a photo of a {}.", strength=1.0,
    temperature=1.0, **sizes,
):  # fmt: skip
    """A set with labels of the zero-shot model's choice, and others."""
    it = Recorder(**sizes)
    init = template.replace(" {}.", "").split(" ") if words else []
    text = " ".join(["X"] * (num_ctx - len(init)) + init)
    rows, eot = it.embed([f"{text} {name.replace('_', ' ')}." for name in it.names])
    fixed = it.hand_made(template)
    shape = (len(it.names), num_ctx) if specific else (num_ctx,)
    start = torch.randn(*shape, it.sizes["text_width"], generator=it.random)
    it.parameters({"ctx": 0.3 * start})
    del it.tensors["in.labels"]
    zero_shot = it.scale * unit(it.image(it["in.images"].flatten(0, 1))) @ fixed.t()
    it.tensors["in.labels.agree"] = zero_shot.argmax(-1).reshape(it.num_steps, -1)
    it.tensors["in.labels.conflict"] = zero_shot.argmin(-1).reshape(it.num_steps, -1)
    it.tensors["out1.image_feature"] = it.image(it["in.images"][0])
    it.tensors["out1.text_fixed"] = fixed
    start = it["param.ctx"]
    it.tensors["out1.text_feature"] = it.text(with_context(rows, start), eot)
    signs = set()
    for case in ("agree", "conflict"):
        ctx = it["param.ctx"].clone().requires_grad_(True)
        kept = {}
        for n in range(1, it.num_steps + 1):
            image = unit(it.image(it["in.images"][n - 1]))
            logits = it.scale * image @ unit(it.text(with_context(rows, ctx), eot)).t()
            zs = it.scale * image @ fixed.t()
            ce = F.cross_entropy(logits, it[f"in.labels.{case}"][n - 1])
            soft = (zs / temperature).softmax(-1)
            kl = -(soft * (logits / temperature).log_softmax(-1)).sum(-1).mean() * temperature**2
            (b,) = torch.autograd.grad(kl, ctx, retain_graph=True)
            (a,) = torch.autograd.grad(ce, ctx)
            u = b.flatten() / b.norm()
            cosine = a.flatten() @ u / a.norm()
            g = a - strength * (a.flatten() @ u) * u.reshape(a.shape) if cosine < 0 else a
            signs.add(bool(cosine < 0))
            kept |= {f"out{n}.logits": logits, f"out{n}.zero_shot_logits": zs}
            kept |= {f"loss{n}.ce": ce, f"loss{n}.kl": kl, f"out{n}.gradient_cosine": cosine}
            kept |= {f"grad{n}.ce.ctx": a, f"grad{n}.kl.ctx": b, f"grad{n}.ctx": g}
            with torch.no_grad():
                ctx -= it.lr * g
        texts = unit(it.text(with_context(rows, ctx), eot))
        kept[f"after{it.num_steps}.ctx"] = ctx
        scores = it.scale * unit(it.image(it["in.eval_images"])) @ texts.t()
        kept[f"eval_after{it.num_steps}.logits"] = scores
        it.tensors |= {f"{case}.{name}": value for name, value in kept.items()}
    assert signs == {False, True}
    return it.save(
        folder, "prograd", n_ctx=num_ctx, ctx_init=words, temperature=temperature,
        lambda_=strength, template=template,
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"strength": 0.8, "temperature": 2.0},
        {"num_ctx": 4},
        {"num_ctx": 8, "template": "a type of pet, a photo of a {}."},
        {"num_ctx": 16, "template": "a centered satellite photo of {}.", "temperature": 0.5},
        {"num_ctx": 3, "words": False, "template": "a photo of a {}, a type of flower.",
         "seed": 1},
        {"num_ctx": 16, "words": False, "template": "{} texture.", "seed": 3},
        {"num_ctx": 2, "words": False, "specific": True, "strength": 0.3, "seed": 1},
        {"text_width": 48, "text_heads": 3, "text_layers": 2, "embed_dim": 40},
        {"lr": 0.05, "num_steps": 4, "layernorm_eps": 0.01, "seed": 1},
    ],
)  # fmt: skip
def test_matches_a_recorded_run_of_other_settings(tmp_path, settings):
    outcome = verify_set(record(tmp_path, **settings))
    wrong = [d for d in outcome.differences if not d.ok]
    assert outcome.status == "matched", (outcome.problem, wrong)


def test_a_gradient_loses_what_opposes_the_guide():
    a, b = torch.tensor([3.0, -4.0]), torch.tensor([0.0, 2.0])
    projected, cosine = project(a, b, 1.0, [0])
    torch.testing.assert_close(projected, torch.tensor([3.0, 0.0]))
    assert cosine.item() == pytest.approx(-0.8)
    torch.testing.assert_close(project(a, b, 0.25, [0])[0], torch.tensor([3.0, -3.0]))
    for guide in (-b, torch.zeros(2)):
        assert torch.equal(project(a, guide, 1.0, [0])[0], a)
    nothing, cosine = project(torch.zeros(2), b, 1.0, [0])
    assert torch.equal(nothing, torch.zeros(2)) and cosine.item() == 0.0


def test_one_sign_for_the_whole_context_or_one_for_each_vector():
    a = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    b = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert torch.equal(project(a, b, 1.0, [0, 1])[0], a)  # <a, b> = 1
    each = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    torch.testing.assert_close(project(a, b, 1.0, [-1])[0], each)


def test_the_context_ends_in_the_words_of_the_template_behind_zeros():
    clip = shared_tiny_clip()
    assert len(make_method("ProGrad", clip).ctx) == 4
    assert len(make_method("ProGrad", clip, ctx_init="a b c d e f").ctx) == 6
    assert len(make_method("ProGrad", clip, ctx_init="").ctx) == 4
    method = make_method("ProGrad", clip, num_ctx=6)
    assert CLASSES.template == "a photo of a {}." and method.placeholder == "X X a photo of a"
    assert not method.ctx[:2].any()
    ids = torch.tensor(clip.tokenizer.encode("a photo of a"))
    assert torch.equal(method.ctx[2:], clip.embed_tokens(ids))
    specific = make_method("ProGrad", clip, num_ctx=6, class_specific=True)
    assert specific.ctx.shape[:2] == (len(CLASSES), 6) and torch.equal(specific.ctx[3], method.ctx)


def test_a_comma_is_a_token_but_no_word():
    clip = shared_tiny_clip()
    classes = ClassNames(names=("cat", "dog"), template="a type of pet, a photo of a {}.")
    method = make_method("ProGrad", clip, classes=classes, num_ctx=8)
    ids = torch.tensor(clip.tokenizer.encode("a type of pet, a photo of a cat."))
    assembled = method.prompts.assemble(method.ctx)[0, 1 : 1 + len(ids)]
    assert torch.equal(assembled, clip.embed_tokens(ids)) and len(method.ctx) == 8


@pytest.mark.parametrize(
    ("settings", "template", "message"),
    [
        ({"num_ctx": 4}, "a type of pet, a photo of a {}.", r"num_ctx is 4, .* from the 8 words"),
        ({}, "{} texture.", r"has no words before the name .* ProGrad.ctx_init = ''"),
        ({"num_ctx": 1, "ctx_init": "a photo"}, "{}", r"use ProGrad.num_ctx = 2 or more"),
    ],
)
def test_words_that_do_not_fit_are_refused(settings, template, message):
    classes = ClassNames(names=("cat", "dog"), template=template)
    with pytest.raises(ValueError, match=message) as caught:
        make_method("ProGrad", shared_tiny_clip(), classes=classes, **settings)
    assert "\n" not in str(caught.value)


def test_other_classes_keep_the_learned_prompt():
    method = make_method("ProGrad", shared_tiny_clip(), num_ctx=6)
    before = method.ctx.detach().clone()
    method.set_classes(ClassNames(names=("tram", "oak"), template="{} texture."))
    assert method.placeholder == "X X a photo of a" and torch.equal(method.ctx, before)


def test_a_class_specific_context_is_a_closed_set_and_says_whose():
    assert not ProGrad.closed_set({"class_specific": False})
    assert "use ProGrad.class_specific = False" in ProGrad.closed_set({"class_specific": True})


def test_a_run_logs_how_often_it_projects(tmp_path, cache_dir, monkeypatch):
    few_test_images(monkeypatch)
    record = run_text(two_steps("ProGrad"), tmp_path / "run", cache_dir)
    assert record.status == "finished"
    log = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert log["loss"] == log["ce"] > 0 and log["zero_shot"] > 0
    assert 0 <= log["metrics"]["projected"] <= 1 and -1 <= log["metrics"]["gradient_cosine"] <= 1
