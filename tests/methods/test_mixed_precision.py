"""What bfloat16 autocast rounds, and what it must not: logits, affinities, what is kept."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from core.clip.features import FeatureStore
from core.config import config_from_text, lookup, registered_classes
from core.data.splits import class_subset
from core.seeding import Seeds
from core.train.evaluate import outputs
from core.train.fit import train_step
from core.train.model import RefinedMethod
from core.types import Forward
from experiments.run import run as engine
from experiments.run.runtime import Runtime
from methods.teachers import ZeroShotTeacher
from tests.helpers.tiny_clip import (
    CLASSES,
    make_method,
    make_model,
    objective_of,
    shared_tiny_clip,
    training,
    with_views,
)
from tests.helpers.two_step_runs import ON, two_steps

METHODS = [entry.name for entry in registered_classes("method")]
# Beyond the towers these only compare features: on cached ones there is nothing to round.
COMPARING = (
    "LinearProbe",
    "NearestClassMean",
    "TDA",
    "TaskRes",
    "TipAdapter",
    "TipAdapterF",
    "ZeroShot",
)
REFINERS = ("NullRefiner", "DePT", "TextRefiner")
each_method = pytest.mark.parametrize("name", METHODS)
each_refiner = pytest.mark.parametrize("refiner", REFINERS)


def mixed():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def model_of(name, refiner="NullRefiner"):
    method = make_method(name, shared_tiny_clip())
    if refiner == "TextRefiner":
        return make_model(method, cache="EmaCache")
    seeds = Seeds(0).at("refiner")
    return RefinedMethod(method, lookup(refiner).cls(method.output(), seeds))


def learned(name, refiner="NullRefiner"):
    model = model_of(name, refiner)
    if model.learns:
        training(model, epochs=1, data=[with_views(6, 1, seed=seed) for seed in (3, 4)])
    return model.eval()


def on_features(model, data):
    """The batch with its frozen features in place of its pixels."""
    views = tuple(on_features(model, view) for view in data.views)
    features = model.method.clip.encode_image(data.pixels, need=data.need)
    return replace(data, pixels=None, features=features, views=views)


def seen(model, data, context):
    with torch.no_grad(), context:
        return [(out, out.logits()) for _, out in outputs(model, [data, data])]


@pytest.mark.parametrize("per_image", [False, True])
def test_logits_of_close_classes_do_not_tie(per_image):
    draw = torch.Generator().manual_seed(0)
    image, text = (
        torch.nn.functional.normalize(1 + 0.3 * torch.randn(n, 64, generator=draw), dim=-1)
        for n in (500, 60)
    )
    text = text.expand(len(image), -1, -1) if per_image else text
    out = Forward(image=image, text=text, logit_scale=torch.tensor(100.0))
    with mixed():
        logits = out.logits()
        rounded = replace(out, image=image.bfloat16(), text=text.bfloat16()).logits()
    assert torch.equal(logits, out.logits())
    assert rounded.dtype == torch.float32 and len(rounded.unique()) > rounded.numel() / 2
    best = logits.topk(2).values
    assert bool((best[:, 0] > best[:, 1]).all())


@each_refiner
@each_method
def test_logits_are_float32_products_of_the_features(name, refiner):
    for out, logits in seen(learned(name, refiner), with_views(6, 2), mixed()):
        assert logits.dtype == torch.float32
        expected = replace(out, image=out.image.float(), text=out.text.float()).logits()
        assert torch.equal(logits, expected)
        if refiner == "NullRefiner":
            for rows in (out.image, out.text):
                torch.testing.assert_close(rows.norm(dim=-1), torch.ones(rows.shape[:-1]))
        if out.extra_logits is not None and out.extra_logits.any():
            assert not torch.equal(out.extra_logits, out.extra_logits.bfloat16())


@pytest.mark.parametrize("refiner", ["NullRefiner", "DePT"])
@pytest.mark.parametrize("name", COMPARING)
def test_what_only_compares_cached_features_is_not_rounded(name, refiner):
    model = learned(name, refiner)
    data = on_features(model, with_views(6, 2))
    rounded, plain = (seen(model, data, context) for context in (mixed(), nullcontext()))
    for (_, one), (_, other) in zip(rounded, plain, strict=True):
        assert torch.equal(one, other)


LOGITS_OF_LOSSES = {
    "ProGrad": lambda model, out: model.method.zero_shot_logits(out),
    "PromptSRC": lambda model, out: model.method.frozen_logits(out),
    "SEP": lambda model, out: model.method.prototype_logits(out.image),
    "CoOp": lambda model, out: model.refiner.semantic.local_logits(out),
    "CoCoOp": lambda model, out: model.refiner.semantic.local_logits(out),
}


@pytest.mark.parametrize("name", LOGITS_OF_LOSSES)
def test_logits_of_loss_terms_are_not_rounded(name):
    model = model_of(name, "TextRefiner").train()
    with mixed():
        out = model(with_views(6, 1))
        rounded = LOGITS_OF_LOSSES[name](model, out)
    wide = replace(out, aux={key: value.float() for key, value in out.aux.items()})
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, LOGITS_OF_LOSSES[name](model, wide))


def gradients_of(name, refiner, context):
    """A training step, and the parameters that it gives a gradient."""
    model = model_of(name, refiner).train()
    data = with_views(6, 1)
    model.method.begin_training([data], 1)
    optimizer = torch.optim.SGD(model.trainable(), lr=0.0)
    values = train_step(model, objective_of(model), optimizer, data, context)
    assert all(bool(value.isfinite()) for value in values.values())
    return model, {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}


@each_refiner
@each_method
def test_gradients_flow_and_what_is_kept_is_not_rounded(name, refiner):
    if not model_of(name, refiner).trainable():
        pytest.skip("nothing is trained by gradient")
    (rounded, reached), (plain, expected) = (
        gradients_of(name, refiner, context) for context in (mixed(), nullcontext())
    )
    assert reached == expected
    kept, wanted = (
        {n: b for n, b in m.method.named_buffers() if n not in m.method.state_dict()}
        for m in (rounded, plain)
    )
    assert kept.keys() == wanted.keys()
    for key, value in kept.items():
        assert torch.equal(value, wanted[key]) and value.dtype == wanted[key].dtype, key


@pytest.mark.parametrize("method", ["CoOp", "PromptSRC"])
def test_a_teacher_keeps_texts_in_full_precision(method):
    teachers = [ZeroShotTeacher(shared_tiny_clip(), CLASSES) for _ in range(2)]
    for teacher in teachers:
        teacher.method = make_method(method, shared_tiny_clip())
    with mixed():
        texts = teachers[0].texts(CLASSES)
    assert torch.equal(texts, teachers[1].texts(CLASSES))


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_a_selected_epoch_is_scored_as_the_report_is(precision, small_mosaic):
    lines = f"experiment.selection = 'val'\nexperiment.precision = '{precision}'"
    built = engine.assemble(
        config_from_text(two_steps("CoOp", lines, refiner=ON)), Runtime(cache_dir=small_mosaic)
    )
    class_texts, scored = built.model.method.class_texts, []

    def watched():
        if not built.model.training:
            scored.append(torch.is_autocast_enabled("cpu"))
            assert not scored[-1] or str(torch.get_autocast_dtype("cpu")) == f"torch.{precision}"
        return class_texts()

    built.model.method.class_texts = watched
    result = engine.train(built, lambda values: None)
    assert len(result.scores) == 1 and scored
    engine.score_images(built, *built.scored()[0])
    assert set(scored) == {precision != "float32"}


def test_a_run_in_bfloat16_leaves_float32_features(small_mosaic, tmp_path):
    """The cache is shared: whoever fills it, features are the same."""
    text = two_steps("ZeroShot", "experiment.precision = 'bfloat16'")
    built = engine.assemble(config_from_text(text), Runtime(cache_dir=tmp_path))
    for part in built.scored():
        engine.score_images(built, *part)
        scored = class_subset(*part)
        shared = built.source.store.get(scored, scored.test).pooled
        fresh = FeatureStore(tmp_path / "fresh", built.model.method.clip)
        assert torch.equal(shared, fresh.get(scored, scored.test).pooled)
