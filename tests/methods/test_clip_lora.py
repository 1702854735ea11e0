"""CLIP-LoRA: what it adds, bit for bit nothing at first, and the merged matrices after training."""

import copy
import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from core.clip.blocks import updated
from core.clip.low_rank import Dropped, LowRank
from core.clip.prompts import ContextPrompts
from core.seeding import Seeds
from tests.helpers.tiny_clip import (
    CLASSES,
    PARTS_OFF,
    batch,
    make_method,
    make_model,
    shared_tiny_clip,
    tiny_clip,
    training,
)

TOWERS = ("image", "text")


def filled(method, seed=0):
    """The method with a B that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in method.named_parameters():
            if name.endswith("up"):
                value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) / 4)
    return method


def merged_clip(method):
    """The clip with W + g B A in place of every matrix."""
    clip = copy.deepcopy(method.clip)
    for tower, owner in zip(TOWERS, (clip.visual, clip.text), strict=True):
        if tower not in method.low_rank:
            continue
        for block, update in zip(owner.transformer.resblocks, method.low_rank[tower], strict=True):
            width = block.attn.embed_dim
            for matrix in update.matrices:
                start = "qkv".index(matrix) * width
                block.attn.in_proj_weight[start : start + width] += update.merged(matrix)
    return clip


@pytest.mark.parametrize("training_mode", [False, True])
def test_untrained_it_is_zero_shot_bit_for_bit(training_mode):
    clip, data = shared_tiny_clip(), batch()
    frozen = make_method("ZeroShot", clip)(data)
    out = make_method("ClipLoRA", clip).train(training_mode)(data)
    assert torch.equal(out.text, frozen.text) and torch.equal(out.image, frozen.image)
    assert torch.equal(out.local, frozen.local) and torch.equal(out.attention, frozen.attention)


def test_an_update_of_rank_one_by_hand():
    """g b (a . x) with g = alpha / sqrt(1): here 3 (2, 0, 1, 0) times the first entry of x."""
    update = LowRank(4, ("q", "v"), 1, 3.0, Seeds(0))
    assert update(torch.ones(4), "k") is None
    with torch.no_grad():
        update.down.zero_()[:, 0, 0] = 1.0
        update.up[1] = torch.tensor([[2.0], [0.0], [1.0], [0.0]])
    x = torch.tensor([[5.0, 7.0, 7.0, 7.0]])
    assert torch.equal(update(x, "v"), torch.tensor([[30.0, 0.0, 15.0, 0.0]]))
    assert torch.equal(update(x, "q"), torch.zeros(1, 4))
    assert torch.equal(x @ update.merged("v").t(), update(x, "v"))


@pytest.mark.parametrize("encoder", ["both", "image", "text"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"rank": 1, "matrices": ("v",)}, {"rank": 3, "alpha": 2.0, "scaling": "rank"}],
)
def test_the_updates_are_merged_matrices(encoder, settings):
    clip, data = tiny_clip().double(), batch(dtype=torch.float64)
    method = filled(make_method("ClipLoRA", clip, encoder=encoder, **settings).double()).eval()
    whole = make_method("ZeroShot", merged_clip(method))(data)
    out, frozen = method(data), make_method("ZeroShot", clip)(data)
    for field in ("image", "text", "local", "attention"):
        torch.testing.assert_close(getattr(out, field), getattr(whole, field), atol=1e-11, rtol=0)
    assert torch.equal(out.text, frozen.text) is (encoder == "image")
    assert torch.equal(out.image, frozen.image) is (encoder == "text")
    scale = settings.get("alpha", 1.0) / {1: 1.0, 3: 3.0}.get(settings.get("rank"), math.sqrt(2))
    updates = [module for module in method.modules() if isinstance(module, LowRank)]
    assert {update.scale for update in updates} == {scale}


def test_prompts_with_a_shared_prefix_have_the_updates_too():
    """Every way through a block has them: the whole, one row of it, and the shared prefix."""
    clip = tiny_clip().double()
    method = filled(make_method("ClipLoRA", clip).double()).eval()
    prompts = ContextPrompts(clip, CLASSES, placeholder="a photo of a").double()
    ctx = torch.randn(4, clip.spec.text_width, generator=torch.Generator().manual_seed(1)).double()
    whole = prompts.encode(merged_clip(method), ctx)
    blocks = dict(zip(clip.text.transformer.resblocks, method.low_rank["text"], strict=True))
    plain = prompts.encode(clip, ctx)
    with updated(blocks):
        torch.testing.assert_close(prompts.encode(clip, ctx), whole, atol=1e-11, rtol=0)
    assert torch.equal(prompts.encode(clip, ctx), plain)  # outside of it nothing is left
    assert (plain - whole).abs().max() > 1e-3


def test_dropout_acts_in_training_alone_and_depends_on_seed_and_step():
    clip, data = shared_tiny_clip(), batch()
    method, other = (filled(make_method("ClipLoRA", clip, seed=s)) for s in (0, 1))
    other.load_state_dict(method.state_dict())
    evaluated = method.eval()(data).image
    assert torch.equal(method(data).image, evaluated)
    first = method.train()(data).image
    assert torch.equal(method(data).image, first) and not torch.equal(first, evaluated)
    assert not torch.equal(other.train()(data).image, first)
    method.after_backward({})
    assert not torch.equal(method(data).image, first)
    without = filled(make_method("ClipLoRA", clip, dropout=0.0))
    assert torch.equal(without.train()(data).image, evaluated)


def test_masks_do_not_depend_on_which_fields_and_rows_are_read():
    method = filled(make_method("ClipLoRA", tiny_clip().double()).double()).train()
    data = batch(dtype=torch.float64)
    fields = [set(), {"local"}, {"attention"}, {"local", "attention"}]
    read = [
        method.image_features(replace(data, need=frozenset({"pooled", *more}))) for more in fields
    ]
    for one in read[1:]:
        torch.testing.assert_close(one.pooled, read[0].pooled, atol=1e-12, rtol=0)
    torch.testing.assert_close(read[3].attention, read[2].attention, atol=1e-12, rtol=0)
    torch.testing.assert_close(read[3].local, read[1].local, atol=1e-12, rtol=0)
    assert (read[0].pooled - method.eval().image_features(data).pooled).abs().max() > 1e-3


def test_every_block_matrix_and_tower_has_masks_of_its_own():
    x = torch.ones(2, 5, 64)
    seeds = Seeds(0).at("dropout")
    plain = [
        Dropped(lambda kept, matrix, row: kept, 0.5, seeds.at(tower, step, block))(x, matrix)
        for tower, step, block, matrix in (
            ("image", 0, 0, "q"), ("text", 0, 0, "q"), ("image", 1, 0, "q"), ("image", 0, 1, "q"),
            ("image", 0, 0, "v"),
        )
    ]  # fmt: skip
    assert all(not torch.equal(a, b) for a, b in combinations(plain, 2))


def test_a_refiner_part_that_nothing_reads_changes_no_step():
    def learned(cache):
        method = make_method("ClipLoRA", tiny_clip().double()).double()
        off = {**PARTS_OFF, "cache": cache}
        model = make_model(method, dtype=torch.float64, **off)
        need = frozenset({"pooled"}) | model.refiner.needs()
        data = [replace(batch(seed=s, dtype=torch.float64), need=need) for s in (3, 4)]
        training(model, epochs=2, lr=0.5, data=data)
        return method.low_rank.state_dict(), need

    (plain, few), (beside, more) = learned("NoCache"), learned("EmaCache")
    assert few < more
    for name, value in plain.items():
        torch.testing.assert_close(beside[name], value, atol=1e-12, rtol=0)


def test_the_mean_over_masks_is_the_update_without_dropout():
    update = LowRank(8, ("q",), 2, 1.0, Seeds(0)).double()
    with torch.no_grad():
        update.up.normal_(generator=torch.Generator().manual_seed(3))
    dropped = Dropped(update, 0.25, Seeds(0))
    x = torch.randn(1, 8, dtype=torch.float64).expand(200_000, -1)
    torch.testing.assert_close(dropped(x, "q").mean(dim=0), update(x[0], "q"), atol=0.02, rtol=0.02)


def test_training_changes_the_updates_alone_and_text_refiner_works_on_top():
    clip = tiny_clip()
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    model = make_model(make_method("ClipLoRA", clip), alignment="MlpAlignment")
    _, log = training(model, epochs=2)
    assert {"ce", "semantic", "regularization"} <= set(log[0])
    assert log[-1]["loss"] < log[0]["loss"] and int(model.method.step) == 4
    assert all(torch.equal(clip.state_dict()[name], value) for name, value in before.items())
    assert all(update.up.abs().sum() > 0 for update in model.method.low_rank["image"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dropout": 1.0}, "ClipLoRA.dropout is 1"),
        ({"matrices": ()}, "must name some once"),
        ({"matrices": ("q", "q")}, "must name some once"),
    ],
)
def test_settings_that_leave_nothing_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        make_method("ClipLoRA", shared_tiny_clip(), **settings)
