"""MaPLe: recorded runs of other settings, its couplings, and what it refuses."""

import pytest
import torch
from torch.nn import functional as F

from experiments.verify.verify import verify_set
from tests.helpers.recorded_sets import Recorder, steps, unit, with_context
from tests.helpers.tiny_clip import make_method, shared_tiny_clip
from tests.helpers.two_step_runs import check_recorded


def test_matches_the_recorded_run():
    check_recorded("public_maple")


def record(
    folder, *, num_ctx=2, depth=2, words="a photo of a", maps="per_depth", bias=True, **sizes
):
    """A set with text prompts in ``depth`` blocks and their maps."""
    it = Recorder(**sizes)
    narrow, wide = it.sizes["text_width"], it.sizes["vision_width"]
    text = words.replace("_", " ") if words and num_ctx <= 4 else " ".join("X" * num_ctx)
    rows, eot = it.embed([f"{text} {name.replace('_', ' ')}." for name in it.names])
    draw = lambda *shape: 0.3 * torch.randn(*shape, generator=it.random)  # noqa: E731
    values = {f"prompt_text{i}": draw(num_ctx, narrow) for i in range(depth)}
    for i in range(depth if maps == "per_depth" else 1):
        values[f"couple{i}.weight"] = draw(wide, narrow)
        if bias:
            values[f"couple{i}.bias"] = draw(wide)
    named = it.parameters(values)

    def vision(i):
        at = i if maps == "per_depth" else 0
        mapped = named[f"prompt_text{i}"] @ named[f"couple{at}.weight"].t()
        return mapped + named[f"couple{at}.bias"] if bias else mapped

    def leading(layer, x):
        if not 1 <= layer < depth:
            return x
        return with_context(x, named[f"prompt_text{layer}"])

    def trailing(layer, x):
        if not 1 <= layer < depth:
            return x
        return torch.cat([x[:, :-num_ctx], vision(layer).expand(len(x), -1, -1)], 1)

    texts = lambda: it.text(with_context(rows, named["prompt_text0"]), eot, leading)  # noqa: E731
    images = lambda pixels: it.image(pixels, vision(0), trailing)  # noqa: E731
    it.tensors |= {f"out1.prompt_vision{i}": vision(i) for i in range(depth)}
    it.tensors["out1.prompts"] = with_context(rows, named["prompt_text0"])[:, :12]
    it.tensors |= {"out1.text_feature": texts()}
    it.tensors["out1.image_feature"] = images(it["in.images"][0])
    steps(
        it, named, lambda pixels: it.scale * unit(images(pixels)) @ unit(texts()).t(),
        lambda logits, labels: {"total": F.cross_entropy(logits, labels)},
    )  # fmt: skip
    return it.save(folder, "maple", n_ctx=num_ctx, depth=depth, ctx_init=words)


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 1},
        {"depth": 3, "num_ctx": 3, "words": ""},
        {"depth": 3, "num_ctx": 3, "words": None, "vision_layers": 3, "seed": 4},
        {"num_ctx": 16, "words": "a photo of a"},
        {"num_ctx": 4, "words": "a blurry_photo of the"},
        {"num_ctx": 1, "words": "itap of my", "text_layers": 4, "vision_layers": 3, "depth": 3},
        {"depth": 3, "maps": "shared"},
        {"depth": 2, "bias": False, "text_width": 48, "text_heads": 3, "vision_width": 32,
         "vision_heads": 2},
        {"lr": 0.05, "num_steps": 2},
        {"lr": 0.02, "num_steps": 4, "momentum": 0.9, "weight_decay": 0.1},
        {"layernorm_eps": 0.01, "activation": "gelu"},
        {"text_heads": 4, "vision_heads": 6},
    ],
)  # fmt: skip
def test_matches_a_recorded_run_of_other_settings(tmp_path, settings):
    outcome = verify_set(record(tmp_path, **settings))
    wrong = [d for d in outcome.differences if not d.ok]
    assert outcome.status == "matched", (outcome.problem, wrong)


def test_vision_prompts_are_the_maps_of_the_text_prompts():
    method = make_method("MaPLe", shared_tiny_clip())
    with torch.no_grad():
        for i, layer in enumerate(method.couplings):
            layer.weight.zero_().fill_diagonal_(2.0 + i)
            layer.bias.fill_(0.5)
    for i, prompt in enumerate(method.vision_prompts()):
        width = min(prompt.shape[-1], method.clip.spec.text_width)
        expected = (2.0 + i) * method.text_prompts.prompts[i][:, :width] + 0.5
        torch.testing.assert_close(prompt[:, :width], expected)


def test_the_maps_of_the_later_blocks_start_as_clones_and_the_first_does_not():
    clip = shared_tiny_clip()
    depth = min(clip.spec.text_depth, clip.spec.vision_depth)
    assert depth > 2
    first, *later = (layer.weight for layer in make_method("MaPLe", clip).couplings)
    assert all(torch.equal(weight, later[0]) for weight in later) and len(later) == depth - 1
    assert not torch.equal(first, later[0])
    weights = [m.weight for m in make_method("MaPLe", clip, coupling_init="independent").couplings]
    assert torch.equal(weights[0], first) and not torch.equal(weights[1], weights[2])
    assert len(make_method("MaPLe", clip, coupling="shared").couplings) == 1


def test_float16_rounds_the_later_text_prompts_and_every_vision_prompt():
    clip = shared_tiny_clip()
    exact, rounded = (
        make_method("MaPLe", clip, prompt_dtype=kind) for kind in ("parameter", "float16")
    )
    with torch.no_grad():
        for method in (exact, rounded):
            method.text_prompts.prompts[1].copy_(method.text_prompts.prompts[1])
        for prompt in list(exact.text_prompts.prompts)[1:]:
            prompt.copy_(prompt.half().float())
    torch.testing.assert_close(exact.class_texts(), rounded.class_texts(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 99}, r"MaPLe.depth is 99, but this tower of the backbone has \d+ blocks"),
        ({"num_ctx": 5}, r"MaPLe.num_ctx is 5, but ctx_init 'a photo of a' has 4 tokens"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_method("MaPLe", shared_tiny_clip(), **settings)
