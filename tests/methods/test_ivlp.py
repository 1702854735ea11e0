"""IVLP: recorded runs, short trainings, and what it refuses."""

import json

import pytest
import torch

from core.clip.backbone import load_clip
from core.seeding import Seeds
from core.types import Batch, ClassNames
from experiments.run.run import evaluate, reload
from experiments.run.runtime import Runtime
from methods.ivlp import IVLP
from tests.helpers.preset_runs import few_test_images
from tests.helpers.two_step_runs import (
    OFF,
    ON,
    built,
    check_recorded,
    logits_of,
    run_text,
    trained_logits,
    two_steps,
)

CLASSES = ClassNames(names=("cat", "sea_anemone", "dragonfly"))


@pytest.fixture(scope="module")
def clip():
    return load_clip("mosaic")


def build(clip, **settings):
    return IVLP(clip, CLASSES, Seeds(1), **settings)


def pixels(clip, count=2):
    images = torch.randn(count, 3, *clip.spec.image_size, generator=Seeds(5).generator("images"))
    return Batch(labels=torch.zeros(count, dtype=torch.int64), pixels=images)


def test_matches_the_recorded_run():
    check_recorded("public_ivlp")


def test_a_run_trains_and_is_restored(tmp_path, cache_dir, monkeypatch):
    few_test_images(monkeypatch)
    record = run_text(two_steps("IVLP"), tmp_path / "run", cache_dir)
    assert record.status == "finished"
    assert record.cost.trainable_parameters == 2 * 128 * (3 + 4)
    log = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert log["loss"] == log["ce"] > 0
    again = reload(tmp_path / "run", Runtime(cache_dir=cache_dir))
    scores = tuple(evaluate(again, again.dataset, part) for part in again.scored_subsets())
    restored = logits_of(again)
    assert scores == record.evaluations
    logits, _ = trained_logits(two_steps("IVLP"), cache_dir)
    assert torch.equal(restored, logits)


def test_a_refiner_that_is_off_changes_no_bit(cache_dir):
    plain, state = trained_logits(two_steps("IVLP"), cache_dir)
    off, other = trained_logits(two_steps("IVLP", refiner=OFF), cache_dir)
    assert torch.equal(plain, off)
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_a_refiner_trains_on_prompted_local_tokens(cache_dir):
    assembly = built(two_steps("IVLP", refiner=ON), cache_dir)
    (batch,) = assembly.source.evaluation(assembly.dataset, assembly.dataset.test[:3], 3)
    need = frozenset({"pooled", "local", "attention"})
    out = assembly.model(Batch(labels=batch.labels, pixels=batch.pixels, need=need))
    spec = assembly.model.method.clip.spec
    assert out.local.shape == (3, 1 + spec.num_patches, spec.joint_width)
    assert out.attention.shape == (3, spec.num_patches)
    assert (out.attention.sum(dim=-1) < 1).all()
    vision = list(assembly.model.method.vision_prompts.parameters())
    assert all(g is not None for g in torch.autograd.grad(out.local.square().sum(), vision))


def test_depth_none_is_every_block_and_zero_is_no_vision_prompt(clip):
    method = build(clip)
    assert len(method.text_prompts.prompts) == clip.spec.text_depth
    assert len(method.vision_prompts.prompts) == clip.spec.vision_depth
    frozen = build(clip, depth_vision=0)
    batch = pixels(clip)
    expected = clip.encode_image(batch.pixels).pooled
    assert torch.equal(frozen.image_features(batch).pooled, expected)
    assert not torch.allclose(method.image_features(batch).pooled, expected)


def test_every_prompt_matters(clip):
    method = build(clip, num_ctx_text=3, num_ctx_vision=1)
    batch = pixels(clip)
    before = method(batch).logits()
    for prompt in method.parameters():
        if prompt.requires_grad:
            with torch.no_grad():
                prompt.add_(torch.randn(prompt.shape, generator=Seeds(2).generator("noise")))
            after = method(batch).logits()
            assert not torch.allclose(before, after)
            before = after


def test_the_first_context_is_the_first_words(clip):
    words = clip.embed_tokens(torch.tensor(clip.tokenizer.encode("a photo of a")))
    assert torch.equal(build(clip, num_ctx_text=2).text_prompts.prompts[0], words[:2])
    everything = build(clip, num_ctx_text=2, ctx_init_tokens="all")
    assert torch.equal(everything.text_prompts.prompts[0], words)
    random = build(clip, num_ctx_text=7, ctx_init="").text_prompts.prompts[0]
    assert random.shape == (7, clip.spec.text_width)


def test_with_the_words_as_context_and_depth_one_texts_are_zero_shot(clip):
    method = build(clip, num_ctx_text=4, depth_text=1)
    expected = clip.encode_texts([f"a photo of a {n.replace('_', ' ')}." for n in CLASSES.names])
    torch.testing.assert_close(method.text_prompts.encode(clip), expected, rtol=1e-5, atol=1e-5)


def test_rounding_to_half_precision_is_an_option(clip):
    exact, rounded = build(clip), build(clip, prompt_dtype="float16")
    batch = pixels(clip)
    with torch.no_grad():
        gap = (exact(batch).image - rounded(batch).image).abs().max()
    assert 0 < gap < 1e-2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth_text": 9}, r"IVLP.depth_text is 9, but .* has 3 blocks; use at most 3"),
        ({"depth_vision": 5}, r"IVLP.depth_vision is 5, but .* has 4 blocks; use at most 4"),
        ({"num_ctx_text": 6}, r"IVLP.num_ctx_text is 6, but ctx_init 'a photo of a' has 4 tokens"),
    ],
)
def test_refuses_what_the_backbone_or_the_words_cannot_hold(clip, settings, message):
    with pytest.raises(ValueError, match=message):
        build(clip, **settings)
