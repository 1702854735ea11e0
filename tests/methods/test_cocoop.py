"""CoCoOp: the recorded numbers, chunks, class texts per image, runs on the embedded benchmark."""

import copy

import pytest
import torch

from core.clip.backbone import load_clip
from core.seeding import Seeds
from core.types import Batch, ClassNames, ImageFeatures
from experiments.verify.verify import verify_set
from methods.base import unit
from methods.cocoop import CoCoOp
from methods.sep import SEP
from tests.helpers.paths import GOLDEN
from tests.helpers.preset_runs import (
    NAMES,
    check_off_is_base,
    check_run,
    few_test_images,
    pixel_batch,
    tiny_clip,
)


def build(**options):
    method = CoCoOp(tiny_clip(), NAMES, Seeds(3), meta_reduction=4, **options).double()
    with torch.no_grad():
        method.meta_net.fc2.weight.mul_(20)
    return method


def gradients(method, batch):
    method.zero_grad()
    out = method(batch)
    torch.autograd.backward(method.criterion(out.logits(), batch.labels))
    return out, {name: p.grad for name, p in method.named_parameters() if p.requires_grad}


def test_reproduces_every_recorded_tensor():
    outcome = verify_set(GOLDEN / "public_cocoop.json")
    assert outcome.status == "matched", outcome.problem
    assert len(outcome.differences) == 23


def test_texts_belong_to_images():
    method, batch = build(), pixel_batch()
    out = method(batch)
    assert out.text.shape == (6, 5, 32)
    assert not torch.allclose(out.text[0], out.text[1])
    torch.testing.assert_close(out.text.norm(dim=-1), torch.ones(6, 5, dtype=torch.float64))
    one = method(Batch(labels=batch.labels[2:3], pixels=batch.pixels[2:3]))
    torch.testing.assert_close(out.logits()[2:3], one.logits(), rtol=1e-12, atol=1e-12)


def test_one_prompt_at_a_time_says_the_same():
    method, batch = build(), pixel_batch()
    image = unit(method.image_features(batch).pooled)
    together = method.encode(image)
    for row, shift in enumerate(method.meta_net(image)):
        alone = method.prompts.encode(method.clip, method.ctx + shift)
        torch.testing.assert_close(together[row], alone, rtol=1e-12, atol=1e-12)


def test_chunked_equals_unchunked():
    whole, batch = build(), pixel_batch()
    chunked = build(max_text_memory_mb=1e-6)
    assert (whole.images_per_chunk() > 6, chunked.images_per_chunk()) == (True, 1)
    out, expected = gradients(whole, batch)
    again, computed = gradients(chunked, batch)
    torch.testing.assert_close(out.text, again.text, rtol=1e-12, atol=1e-12)
    assert expected.keys() == computed.keys() == {
        "ctx", "meta_net.fc1.weight", "meta_net.fc1.bias", "meta_net.fc2.weight",
        "meta_net.fc2.bias",
    }  # fmt: skip
    for name, gradient in expected.items():
        torch.testing.assert_close(gradient, computed[name], rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(whole(batch).text, chunked(batch).text, rtol=1e-12, atol=1e-12)


def kept_bytes(method, image):
    """What the backward pass of a batch's prompts keeps besides the backbone."""
    frozen = {p.untyped_storage().data_ptr() for p in method.clip.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        method.encode(image)
    return sum(size for size, _ in kept.values())


def test_the_memory_limit_holds():
    classes = ClassNames(names=tuple(f"red {name}" for name in ("bus", "car", "train", "truck")))
    method = CoCoOp(load_clip("mosaic"), classes, Seeds(0))
    image = unit(torch.randn(8, method.clip.spec.joint_width))
    kept = kept_bytes(method, image)
    method.max_text_memory_mb = kept / 2**20
    assert 2 <= method.images_per_chunk() <= 8
    assert kept_bytes(method, image) < kept / 4


def test_chunks_are_larger_where_nothing_is_kept_for_a_gradient():
    """On a CPU up to what its caches hold, elsewhere up to the limit."""
    method = CoCoOp(load_clip("mosaic"), NAMES, Seeds(0), max_text_memory_mb=8.0)
    with_gradient = method.images_per_chunk()
    with torch.no_grad():
        without = method.images_per_chunk()
        assert without > 2 * with_gradient
        method.max_text_memory_mb = 1e6
        assert without < method.images_per_chunk() < 5 * without
    assert method.images_per_chunk() > 1e3 * with_gradient
    assert kept_bytes(method, unit(torch.randn(2, method.clip.spec.joint_width))) > 0


def test_rows_and_not_padded_tokens_are_counted():
    classes = ClassNames(names=("ox", "a very long name of a class that is alone"))
    method = CoCoOp(load_clip("mosaic"), classes, Seeds(0), max_text_memory_mb=8.0)
    rows = [len(method.clip.tokenizer.encode(f"a photo of a {n}.")) + 2 for n in classes.names]
    shared = method.prompts.packing("context").prefix
    assert method.prompts.rows_per_group == sum(rows) - shared < 2 * max(rows) - shared
    few = method.images_per_chunk()
    method.set_classes(ClassNames(names=classes.names[:1] * 2))
    assert method.images_per_chunk() > few


def test_other_classes_can_be_scored():
    method, batch = build(), pixel_batch()
    before = method(batch).logits()
    method.set_classes(ClassNames(names=NAMES.names[:2]))
    torch.testing.assert_close(method(batch).logits(), before[:, :2], rtol=1e-12, atol=1e-12)
    method.set_classes(NAMES)
    assert torch.equal(method(batch).logits(), before)


def test_copies_are_independent_and_features_stand_for_pixels():
    method, batch = build(), pixel_batch()
    twin = copy.deepcopy(method)
    with torch.no_grad():
        twin.ctx.add_(1)
    assert not torch.equal(twin.ctx, method.ctx)
    features = ImageFeatures(pooled=method.image_features(batch).pooled)
    cached = method(Batch(labels=batch.labels, features=features))
    assert torch.equal(cached.logits(), method(batch).logits())


@pytest.mark.parametrize("method", [CoCoOp, SEP])
def test_blanks_around_the_words_of_a_context_do_not_count(method):
    spelt = [method(tiny_clip(), NAMES, Seeds(0), ctx_init=x) for x in ("a red", " a_red_ ")]
    assert spelt[1].ctx.shape == (2, 32)
    assert torch.equal(spelt[0].ctx, spelt[1].ctx)
    batch = pixel_batch()
    assert torch.equal(spelt[0].double()(batch).text, spelt[1].double()(batch).text)


def test_clear_errors():
    with pytest.raises(ValueError, match=r"joint width is 32, .* smaller meta_reduction"):
        CoCoOp(tiny_clip(), NAMES, Seeds(0), meta_reduction=33)


@pytest.mark.parametrize("preset", ["cocoop", "text_refiner_on_cocoop"])
def test_trains_saves_and_loads(preset, tmp_path, cache_dir, monkeypatch):
    few_test_images(monkeypatch)
    record = check_run(preset, tmp_path / "run", cache_dir)
    assert (record.status, record.batch_coupled) == ("finished", False)


def test_everything_off_is_the_base_method(tmp_path, cache_dir, monkeypatch):
    few_test_images(monkeypatch)
    check_off_is_base("cocoop", "text_refiner_on_cocoop", tmp_path, cache_dir)
