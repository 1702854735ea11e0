"""SEP: the recorded numbers, both pairs of scopes, prototypes, runs on the embedded benchmark."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from core.clip.prompts import ContextPrompts
from core.seeding import Seeds
from core.train.batches import FeatureBatches
from core.types import Batch, ClassNames, ImageFeatures
from experiments.verify.verify import verify_set
from methods.base import unit
from methods.sep import SEP
from methods.token_fusion import TokenFusion
from tests.helpers.paths import GOLDEN
from tests.helpers.preset_runs import (
    NAMES,
    check_off_is_base,
    check_run,
    few_test_images,
    pixel_batch,
    tiny_clip,
)

EXACT = {"rtol": 1e-11, "atol": 1e-11}
RELEASED = {"selection_scope": "batch", "fusion_axis": "batch"}


def build(classes=NAMES, clip=None, **options):
    clip = clip or tiny_clip()
    options = {"fusion_hidden": 24, "fusion_init": "independent"} | options
    return SEP(clip, classes, Seeds(3), **options).double()


def one_by_one(method, batch):
    rows = [
        method(replace(batch, labels=batch.labels[i : i + 1], pixels=batch.pixels[i : i + 1]))
        for i in range(len(batch))
    ]
    return torch.cat([row.logits() for row in rows])


def test_reproduces_every_recorded_tensor():
    outcome = verify_set(GOLDEN / "public_sep.json")
    assert outcome.status == "matched", outcome.problem
    assert len(outcome.differences) == 161


def by_hand(fusion, tokens_nW, prompts_nW):
    """The fusion of one sequence over its tokens, head by head."""
    attention = fusion.attention
    query, key, value = attention.in_proj_weight.chunk(3)
    biases = attention.in_proj_bias.chunk(3)
    keys = F.layer_norm(tokens_nW, tokens_nW.shape[-1:], fusion.norm1.weight, fusion.norm1.bias)
    asks = F.layer_norm(prompts_nW, tokens_nW.shape[-1:], fusion.norm1.weight, fusion.norm1.bias)
    q, k, v = asks @ query.t() + biases[0], keys @ key.t() + biases[1], keys @ value.t() + biases[2]
    size = q.shape[-1] // attention.num_heads
    heads = [
        (q[:, h : h + size] @ k[:, h : h + size].t() / math.sqrt(size)).softmax(dim=-1)
        @ v[:, h : h + size]
        for h in range(0, q.shape[-1], size)
    ]
    attended = attention.out_proj(torch.cat(heads, dim=-1))
    mixed = fusion.scale1 * tokens_nW + (1 - fusion.scale1) * attended
    hidden = fusion.fc1(fusion.norm2(mixed))
    last = fusion.fc2(hidden / (1 + torch.exp(-1.702 * hidden)))
    return fusion.scale2 * mixed + (1 - fusion.scale2) * last


def test_fusion_over_tokens_and_over_the_batch():
    fusion = TokenFusion(32, 2, Seeds(1), hidden=16, axis="token").double()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tokens, prompts = torch.randn(2, 5, 3, 32, dtype=torch.float64)
    fused = fusion(tokens, prompts)
    for row in range(5):
        torch.testing.assert_close(fused[row], by_hand(fusion, tokens[row], prompts[row]), **EXACT)
    fusion.axis = "batch"
    fused = fusion(tokens, prompts)
    for slot in range(3):
        expected = by_hand(fusion, tokens[:, slot], prompts[:, slot])
        torch.testing.assert_close(fused[:, slot], expected, **EXACT)


@pytest.mark.parametrize("scope", ["image", "batch"])
@pytest.mark.parametrize("axis", ["token", "batch"])
def test_only_the_default_pair_sees_one_image(scope, axis):
    method, batch = build(selection_scope=scope, fusion_axis=axis).eval(), pixel_batch()
    assert method.batch_coupled == ((scope, axis) != ("image", "token"))
    together, alone = method(batch).logits(), one_by_one(method, batch)
    if method.batch_coupled:
        assert (together - alone).abs().max() > 1e-6
    else:
        torch.testing.assert_close(together, alone, **EXACT)


def test_a_tower_without_fusion_is_not_coupled():
    method, batch = build(vision_layers=(), text_layers=(0, 2), **RELEASED), pixel_batch()
    assert not method.batch_coupled
    torch.testing.assert_close(method(batch).logits(), one_by_one(method, batch), **EXACT)


def test_class_texts_know_each_other_only_over_the_batch_axis():
    fewer = ClassNames(names=NAMES.names[:2])
    for axis, same in (("token", True), ("batch", False)):
        texts = build(fusion_axis=axis).class_texts()
        alone = build(fewer, fusion_axis=axis).class_texts()
        assert torch.allclose(texts[:2], alone, **EXACT) == same


def test_selected_tokens_are_the_strongest_in_descending_order():
    x = torch.randn(3, 21, 48, dtype=torch.float64)
    image = build().vision
    power = x[:, :17].square().mean(dim=-1)
    assert torch.equal(image.select(x), power.argsort(dim=-1, descending=True)[:, :4])
    batch = build(**RELEASED).vision
    expected = power.mean(dim=0).argsort(descending=True)[:4]
    assert torch.equal(batch.select(x), expected.expand(3, -1))
    tokens, prompts = image.parts(x)
    assert torch.equal(tokens[1], x[1, image.select(x)[1]])
    assert torch.equal(prompts, x[:, 17:])


def test_short_names_keep_the_tokens_that_fusion_reads():
    classes = ClassNames(names=("cat", "dog"))
    method = build(classes, num_ctx=8)
    assert method.prompts.ids_CL.shape[1] == 17 > int(method.prompts.eot_C.max()) + 1
    short = method.class_texts()
    method.prompts = ContextPrompts(
        method.clip, classes, placeholder=method.placeholder, min_length=77
    )
    torch.testing.assert_close(short, method.class_texts(), **EXACT)


def test_prototypes_are_unit_class_means_and_a_class_without_image_has_its_text():
    method = build()
    batches = [pixel_batch(4, num_classes=4, seed=1), pixel_batch(6, num_classes=4, seed=2)]
    method.begin_training(batches, 1)
    frozen = torch.cat([method.frozen_image(batch) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    for label in range(4):
        mean = unit(frozen[labels == label].mean(dim=0))
        torch.testing.assert_close(method.prototypes[label].detach(), mean, **EXACT)
    assert torch.equal(method.prototypes[4].detach(), method.handmade_CD[4])


def test_the_pass_before_training_sees_every_image():
    features = ImageFeatures(pooled=torch.arange(7.0)[:, None])
    need = frozenset({"pooled"})
    batches = FeatureBatches(features, torch.arange(7), 3, torch.device("cpu"), need)
    seen = list(batches.every_image(Seeds(5)))
    assert [len(batch) for batch in seen] == [3, 3, 1]
    assert torch.cat([batch.labels for batch in seen]).sort().values.tolist() == list(range(7))
    for batch, other in zip(batches.epoch(0, Seeds(5)), seen, strict=False):
        assert torch.equal(batch.labels, other.labels)


def test_loss_terms_carry_their_weights():
    batch = pixel_batch()
    light = build(text_weight=1.0, vision_weight=1.0, prototype_weight=1.0)
    heavy = build(text_weight=3.0, vision_weight=0.0, prototype_weight=2.0)
    terms = [
        {
            name: term(method(batch), batch.labels, method.criterion)
            for name, term in method.loss_terms().items()
        }
        for method in (light, heavy)
    ]
    factors = {"ce": 1, "text_consistency": 3, "vision_consistency": 0, "prototypes": 2}
    assert terms[0].keys() == factors.keys()
    for name, factor in factors.items():
        torch.testing.assert_close(terms[1][name], factor * terms[0][name], **EXACT)


def test_fusions_start_shared_or_independent():
    for init, same in (("shared", True), ("independent", False)):
        method = build(fusion_init=init)
        for tower in (method.text, method.vision):
            first, second = (tower.fusions[str(layer)].fc1.weight for layer in (1, 2))
            assert torch.equal(first, second) == same


def test_every_parameter_gets_a_gradient_and_copies_are_independent():
    method, batch = build(), pixel_batch()
    out = method(batch)
    terms = [t(out, batch.labels, method.criterion) for t in method.loss_terms().values()]
    torch.autograd.backward(torch.stack(terms).sum())
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained.values())
    assert not any(name.startswith("clip.") for name in trained)
    twin = copy.deepcopy(method)
    with torch.no_grad():
        twin.vision.ctx.add_(1)
    assert not torch.equal(twin(batch).logits(), out.logits())
    assert torch.equal(method(batch).logits(), out.logits())


def test_refiners_get_the_prompted_tower_without_its_prompts():
    method, batch = build(), pixel_batch(need=("pooled", "local", "attention"))
    out = method(batch)
    assert (out.local.shape, out.attention.shape) == ((6, 17, 32), (6, 16))
    frozen = method.clip.encode_image(batch.pixels, need=batch.need)
    assert not torch.allclose(out.local, frozen.local)
    torch.testing.assert_close(out.image, unit(unit(out.local[:, 0]) + unit(frozen.pooled)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_layers": (1, 3)}, r"SEP.text_layers is \(1, 3\).* 3 blocks, 0 to 2"),
        ({"vision_layers": (2, 1)}, "ascending order"),
        ({"vision_layers": (1, 1)}, "ascending order"),
        ({"num_ctx": 39}, "77 tokens; use SEP.num_ctx of at most 38"),
        ({"num_ctx_vision": 18}, "has 17 tokens to choose from"),
    ],
)
def test_clear_errors(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize("preset", ["sep", "sep_released", "text_refiner_on_sep"])
def test_trains_saves_and_loads(preset, tmp_path, cache_dir, monkeypatch):
    few_test_images(monkeypatch)
    record = check_run(preset, tmp_path / "run", cache_dir)
    assert (record.status, record.batch_coupled) == ("finished", preset == "sep_released")


def test_everything_off_is_the_base_method(tmp_path, cache_dir, monkeypatch):
    few_test_images(monkeypatch)
    check_off_is_base("sep", "text_refiner_on_sep", tmp_path, cache_dir)


def test_cached_features_serve_the_pass_before_training():
    method, batch = build(), pixel_batch()
    pooled = method.clip.encode_image(batch.pixels).pooled
    cached = Batch(labels=batch.labels, features=ImageFeatures(pooled=pooled))
    assert torch.equal(method.frozen_image(cached), method.frozen_image(batch))
