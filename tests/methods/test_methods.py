"""The contract of every registered base method, whoever wrote it."""

import copy
import math
import re
from dataclasses import replace

import pytest
import torch

from core.clip.frozen import fingerprint
from core.clip.prompts import ContextPrompts
from core.config import lookup, registered_classes
from core.train.checkpoints import learned_state, load_checkpoint, save_checkpoint
from core.train.evaluate import predict
from core.types import Batch, ClassNames
from tests.helpers.tiny_clip import (
    CLASSES,
    EVERYTHING,
    OTHER_CLASSES,
    batch,
    logits,
    make_method,
    make_model,
    shared_tiny_clip,
    small_step,
    tiny_clip,
    training,
)

METHODS = [entry.name for entry in registered_classes("method")]
CASES = [
    *((name, {}) for name in METHODS),
    ("CoOp", {"ctx_init": ""}),
    ("CoOp", {"class_position": "middle"}),
    ("CoOp", {"class_position": "front", "class_specific": True}),
    ("CoOp", {"ctx_init": "", "num_ctx": 3, "class_specific": True}),
    ("ZeroShot", {"templates": ("a {}.", "no {} at all")}),
    ("LinearProbe", {"init": "random"}),
    ("LinearProbe", {"constraint": "class_adaptive"}),
]
each_method = pytest.mark.parametrize("name", METHODS)
each_case = pytest.mark.parametrize(
    ("name", "settings"), CASES, ids=[f"{n}-{'-'.join(map(str, s.values()))}" for n, s in CASES]
)


def why_closed(method, settings):
    """Why a method with these settings scores only what it was trained on; "" if it does not."""
    parameters = lookup(type(method).__name__).parameters
    return method.closed_set({name: p.default for name, p in parameters.items()} | settings)


def test_the_registry_holds_the_methods_of_this_suite():
    assert {"CoOp", "ZeroShot"} <= set(METHODS)


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_has_the_promised_shapes_norms_and_type(name, settings, dtype):
    clip = tiny_clip().to(dtype)
    method = make_method(name, clip, **settings).to(dtype)
    method.eval()
    out = method(batch(dtype=dtype))
    width, count = method.output().text_width, len(CLASSES)
    assert out.image.shape == (6, width)
    assert out.text.shape in {(count, width), (6, count, width)}
    assert out.logit_scale.shape == () and out.logits().shape == (6, count)
    for unit in (out.image, out.text):
        assert unit.dtype == dtype and bool(torch.isfinite(unit).all())
        torch.testing.assert_close(unit.norm(dim=-1), torch.ones(unit.shape[:-1], dtype=dtype))
    if "local" in method.provides:
        assert out.local.shape == (6, 1 + method.output().num_patches, method.output().local_width)
    if "attention" in method.provides:
        assert out.attention.shape == (6, method.output().num_patches)
        assert bool((out.attention >= 0).all()) and bool((out.attention.sum(dim=1) < 1).all())


@each_case
def test_same_seed_same_start(name, settings):
    clip = shared_tiny_clip()
    first, again = (learned_state(make_method(name, clip, **settings)) for _ in range(2))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)


@each_case
def test_training_leaves_the_backbone_alone(name, settings):
    clip = tiny_clip()
    before = fingerprint(clip.state_dict())
    model = make_model(make_method(name, clip, **settings))
    start = {key: value.clone() for key, value in learned_state(model).items()}
    training(model)
    assert fingerprint(clip.state_dict()) == before
    assert not any(p.requires_grad or p.grad is not None for p in clip.parameters())
    assert bool(model.trainable()) == (model.method.trains and model.method.trains_by_gradient)
    if model.method.trains:
        now = learned_state(model)
        assert any(not torch.equal(now[key], start[key]) for key in start)


@each_case
def test_one_small_step_lowers_the_loss(name, settings):
    clip = tiny_clip().double()
    model = make_model(make_method(name, clip, **settings), dtype=torch.float64)
    if not (model.method.trains and model.method.trains_by_gradient):
        assert model.trainable() == []
        return
    before, after = small_step(model, batch(dtype=torch.float64))
    assert math.isfinite(before) and after < before


@each_case
def test_a_prediction_depends_on_its_own_image_alone(name, settings):
    model = make_model(make_method(name, shared_tiny_clip(), **settings))
    training(model, epochs=1)
    data = batch(8)
    together = logits(model, data)
    alone = torch.cat(
        [
            logits(model, Batch(labels=data.labels[i : i + 1], pixels=data.pixels[i : i + 1]))
            for i in range(8)
        ]
    )
    if model.method.batch_coupled:
        assert (together - alone).abs().max() > 1e-6
    else:
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-5)


@each_case
def test_evaluation_changes_no_state_and_repeats(name, settings):
    model = make_model(make_method(name, shared_tiny_clip(), **settings))
    training(model, epochs=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = logits(model, batch()), logits(model, batch())
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@each_case
def test_other_classes_and_back(name, settings):
    model = make_model(make_method(name, shared_tiny_clip(), **settings))
    training(model, epochs=1)
    before = logits(model, batch())
    if why_closed(model.method, settings):
        with pytest.raises(ValueError, match="other classes"):
            model.method.set_classes(OTHER_CLASSES)
    else:
        model.method.set_classes(OTHER_CLASSES)
        other = logits(model, batch())
        assert other.shape == (6, 3) and bool(torch.isfinite(other).all())
        assert len(model.method.classes) == model.method.output().num_classes == 3
        model.method.set_classes(CLASSES)
    assert torch.equal(logits(model, batch()), before)


CLOSED = [name for name in METHODS if why_closed(make_method(name, shared_tiny_clip()), {})]


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("order", [(3, 1), (4, 3, 2, 1, 0), (2,)])
def test_a_closed_set_scores_some_of_its_classes_in_any_order(name, order):
    model = make_model(make_method(name, shared_tiny_clip()))
    training(model)
    whole = logits(model, batch())
    some = replace(CLASSES, names=tuple(CLASSES.names[i] for i in order))
    model.set_classes(some)
    assert len(model.method.classes) == model.method.output().num_classes == len(order)
    torch.testing.assert_close(logits(model, batch()), whole[:, list(order)])
    with pytest.raises(ValueError, match="other classes") as caught:
        model.set_classes(replace(CLASSES, names=(*some.names, "tram")))
    assert "'tram'" in str(caught.value) and model.method.classes == some
    model.set_classes(CLASSES)
    assert torch.equal(logits(model, batch()), whole)


@each_case
def test_what_was_learned_survives_a_file(name, settings, tmp_path):
    clip = shared_tiny_clip()
    model = make_model(make_method(name, clip, **settings))
    training(model, epochs=1)
    save_checkpoint(tmp_path / "weights.safetensors", model)
    fresh = make_model(make_method(name, clip, seed=99, **settings), seed=99)
    load_checkpoint(tmp_path / "weights.safetensors", fresh)
    assert torch.equal(logits(fresh, batch()), logits(model, batch()))
    backbone = sum(value.numel() for value in clip.state_dict().values())
    assert sum(value.numel() for value in learned_state(model).values()) < backbone / 2


@each_case
def test_a_copy_learns_on_its_own(name, settings):
    model = make_model(make_method(name, shared_tiny_clip(), **settings))
    before = logits(model, batch())
    twin = copy.deepcopy(model)
    training(twin)
    assert torch.equal(logits(model, batch()), before)
    if model.method.trains:
        assert not torch.equal(logits(twin, batch()), before)


SEES_FEATURES = [
    name for name in METHODS if make_method(name, shared_tiny_clip()).image_input != "pixels"
]


@pytest.mark.parametrize("name", SEES_FEATURES)
def test_cached_features_say_what_pixels_say(name):
    clip = shared_tiny_clip()
    model = make_model(make_method(name, clip))
    data = batch()
    cached = clip.encode_image(data.pixels, need=EVERYTHING)
    torch.testing.assert_close(
        logits(model, Batch(labels=data.labels, features=cached)), logits(model, data)
    )


@each_method
def test_counting_right_answers_equals_the_argmax_of_every_image(name):
    model = make_model(make_method(name, shared_tiny_clip()))
    model.eval()
    parts = [batch(5, seed=8), batch(4, seed=9)]
    correct, total = predict(model, parts).counts(len(CLASSES))
    guesses = torch.cat([logits(model, b).argmax(dim=-1) for b in parts])
    labels = torch.cat([b.labels for b in parts])
    assert total == tuple(int((labels == c).sum()) for c in range(len(CLASSES)))
    assert correct == tuple(
        int(((labels == c) & (guesses == c)).sum()) for c in range(len(CLASSES))
    )


@pytest.mark.parametrize("entry", registered_classes("method"), ids=lambda entry: entry.name)
def test_every_method_names_its_source(entry):
    assert entry.summary and not entry.summary.startswith(entry.name + "(")
    assert re.search(r"\b(19|20)\d\d\b", entry.reference), entry.reference
    assert entry.cls.regime in {"inductive", "transductive", "limited"}


def test_words_count_as_context_vectors_and_further_pieces_stay_as_text():
    """As released: "axolotl photo" is two words of five pieces; two vectors are learned."""
    clip = shared_tiny_clip()
    pieces = clip.tokenizer.encode("axolotl photo")
    method = make_method("CoOp", clip, ctx_init="axolotl photo")
    assert len(pieces) == 5 and method.ctx.shape == (2, 32)
    assert torch.equal(method.ctx, clip.embed_tokens(torch.tensor(pieces[:2])))
    prompt = method.prompts.assemble(method.ctx)[0]
    assert torch.equal(prompt[3:6], clip.embed_tokens(torch.tensor(pieces[2:])))


def test_the_untrained_context_of_words_is_the_zero_shot_prompt():
    clip = shared_tiny_clip()
    learned = make_method("CoOp", clip, ctx_init="a photo of a")
    fixed = make_method("ZeroShot", clip)
    torch.testing.assert_close(learned(batch()).text, fixed(batch()).text, atol=1e-5, rtol=1e-5)


def test_ensemble_is_the_unit_mean_of_unit_texts():
    clip = shared_tiny_clip()
    templates = ("a photo of a {}.", "one {}")
    single = [make_method("ZeroShot", clip, templates=(t,)).class_texts() for t in templates]
    mean = (single[0] + single[1]) / 2
    both = make_method("ZeroShot", clip, templates=templates).class_texts()
    torch.testing.assert_close(both, mean / mean.norm(dim=-1, keepdim=True))


def test_a_template_without_one_slot_for_the_name_is_refused():
    with pytest.raises(ValueError, match="exactly once"):
        make_method("ZeroShot", shared_tiny_clip(), templates=("a photo.",))


def test_class_specific_context_says_why_it_cannot_score_other_classes():
    method = make_method("CoOp", shared_tiny_clip(), class_specific=True)
    with pytest.raises(ValueError, match="class_specific = False"):
        method.set_classes(OTHER_CLASSES)
    assert method.classes == CLASSES


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_prompts_hold_context_and_name_in_the_published_order(position):
    clip = shared_tiny_clip()
    classes = ClassNames(names=("cat", "hot air balloon"))
    prompts = ContextPrompts(clip, classes, placeholder="X X X", position=position)
    ctx = torch.arange(3.0)[:, None].expand(3, 32) + 1000
    made = prompts.assemble(ctx)
    for row, name in zip(made, classes.names, strict=True):
        ids = clip.tokenizer.encode(name)
        words = list(clip.embed_tokens(torch.tensor(ids)))
        dot = clip.embed_tokens(torch.tensor(clip.tokenizer.encode(".")))[0]
        context = list(ctx)
        body = {
            "end": [*context, *words],
            "middle": [context[0], *words, *context[1:]],
            "front": [*words, *context],
        }[position]
        sot, eot = clip.tokenizer.sot_id, clip.tokenizer.eot_id
        start, end = clip.embed_tokens(torch.tensor([sot, eot]))
        torch.testing.assert_close(row[: len(body) + 3], torch.stack([start, *body, dot, end]))


def test_a_name_too_long_for_the_context_is_refused_when_the_run_is_built():
    with pytest.raises(ValueError, match="shorten the class name"):
        make_method("CoOp", shared_tiny_clip(), classes=ClassNames(names=("cat " * 80, "dog")))
