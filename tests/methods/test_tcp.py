"""TCP: recorded runs of other settings, values computed by hand, and what it refuses."""

import pytest
import torch
from torch.nn import functional as F

from core.seeding import Seeds
from core.types import ClassNames
from experiments.verify.verify import verify_set
from methods.tcp import TCP
from tests.helpers.recorded_sets import Recorder, steps, unit, with_context
from tests.helpers.tiny_clip import CLASSES, make_method, shared_tiny_clip
from tests.helpers.two_step_runs import check_recorded


def test_matches_the_recorded_run():
    check_recorded("public_tcp")


def record(
    folder, *, num_ctx=4, words=False, prompt="X X X X {}.", template="a photo of a {}.",
    length=4, block=1, mix=1.0, hidden=6, weight=8.0, **sizes,
):  # fmt: skip
    """A set with class-aware tokens of a length before a block."""
    it = Recorder(**sizes)
    width, joint = it.sizes["text_width"], it.sizes["embed_dim"]
    rows, eot = it.embed([prompt.replace("{}", name.replace("_", " ")) for name in it.names])
    fixed = it.hand_made(template)
    draw = lambda *shape: 0.3 * torch.randn(*shape, generator=it.random)  # noqa: E731
    named = it.parameters(
        {
            "ctx": draw(num_ctx, width),
            "meta.fc1.weight": draw(hidden, joint), "meta.fc1.bias": draw(hidden),
            "meta.fc2.weight": draw(length * width, hidden), "meta.fc2.bias": draw(length * width),
        }
    )  # fmt: skip
    entering = []

    def tokens():
        z = fixed @ named["meta.fc1.weight"].t() + named["meta.fc1.bias"]
        z = z * (1.702 * z).sigmoid()
        flat = z @ named["meta.fc2.weight"].t() + named["meta.fc2.bias"]
        return flat.reshape(len(fixed), length, width)

    def inject(layer, x):
        if layer != block:
            return x
        entering.append(x[:, 1 : 1 + length])
        x = x.clone()
        x[:, 1 : 1 + length] = mix * tokens() + (1 - mix) * x[:, 1 : 1 + length]
        return x

    texts = lambda: it.text(with_context(rows, named["ctx"]), eot, inject)  # noqa: E731
    it.tensors |= {"out1.text_feature": texts(), "out1.text_fixed": fixed}
    it.tensors |= {"out1.class_prompt": tokens(), "out1.block_input_prompt": entering[0]}
    it.tensors["out1.cosine"] = (unit(texts()) * fixed).sum(-1)
    it.tensors["out1.image_feature"] = it.image(it["in.images"][0])

    def loss(logits, labels):
        ce, apart = F.cross_entropy(logits, labels), 1 - (unit(texts()) * fixed).sum(-1).mean()
        return {"ce": ce, "text_consistency": apart, "total": ce + weight * apart}

    steps(it, named, lambda images: it.scale * unit(it.image(images)) @ unit(texts()).t(), loss)
    return it.save(
        folder, "tcp", n_ctx=num_ctx, ctx_init=words, consistency_weight=weight, template=template,
        prompt_template=prompt, class_prompt_length=length, injection_block=block,
        injection_weight=mix, meta_hidden=hidden, cosine_eps=1e-7,
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"block": 0, "mix": 0.25},
        {"block": 2, "hidden": 7, "weight": 1.0, "template": "{} texture."},
        {"num_ctx": 2, "prompt": "X X X X {}, a type of pet."},
        {"num_ctx": 3, "length": 3, "prompt": "X X X {}."},
        {"num_ctx": 16, "prompt": " ".join(["X"] * 16) + " {}.", "mix": 0.5, "block": 2},
        {"num_ctx": 16},
        {"num_ctx": 6, "length": 2, "prompt": "a photo of a person doing {}."},
        {"words": True, "prompt": "a photo of a person doing {}."},
        {"text_width": 48, "text_heads": 3, "text_layers": 2, "embed_dim": 40, "seed": 5},
        {"lr": 0.05, "num_steps": 2},
        {"lr": 0.02, "num_steps": 4, "momentum": 0.9, "weight_decay": 0.1},
        {"layernorm_eps": 0.01, "activation": "gelu"},
        {"text_heads": 4, "vision_heads": 6},
    ],
)
def test_matches_a_recorded_run_of_other_settings(tmp_path, settings):
    outcome = verify_set(record(tmp_path, **settings))
    wrong = [d for d in outcome.differences if not d.ok]
    assert outcome.status == "matched", (outcome.problem, wrong)


def test_the_class_aware_tokens_are_the_net_of_the_hand_made_text():
    method = make_method("TCP", shared_tiny_clip(), num_ctx=2, meta_hidden=1)
    width = method.clip.spec.text_width
    with torch.no_grad():
        method.fc1.weight.copy_(2 * method.fixed_CD[:1])
        method.fc1.bias.zero_()
        method.fc2.weight.copy_(torch.arange(2.0 * width)[:, None])
        method.fc2.bias.fill_(1.0)
    tokens = method.class_prompts()
    assert tokens.shape == (len(CLASSES), 2, width)
    gelu = 2 / (1 + torch.tensor(-1.702 * 2).exp())
    expected = 1 + gelu * torch.arange(2.0 * width).reshape(2, width)
    torch.testing.assert_close(tokens[0], expected)


def test_the_default_block_is_8_or_the_middle_of_a_shallower_tower():
    clip = shared_tiny_clip()
    assert make_method("TCP", clip).injection_block == clip.spec.text_depth // 2
    with pytest.raises(ValueError, match=r"TCP.injection_block is 8, counted from 0"):
        make_method("TCP", clip, injection_block=8)


def test_weight_zero_leaves_the_tokens_alone():
    clip = shared_tiny_clip()
    settings = {"num_ctx": 3, "prompt_template": "X X X {}."}
    plain = make_method("CoOp", clip, num_ctx=3, ctx_init="")
    method = make_method("TCP", clip, injection_weight=0.0, **settings)
    torch.testing.assert_close(method.ctx, plain.ctx)
    torch.testing.assert_close(method.class_texts(), plain.class_texts())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_ctx": 5, "prompt_template": "X X X X {}."},
            r"TCP.num_ctx is 5, but .* has 4 tokens",
        ),
        ({"num_ctx": 2, "class_prompt_length": 3}, r"TCP.class_prompt_length is 3, but"),
        ({"num_ctx": 1, "prompt_template": "{} texture."}, r"has 0 tokens before the name"),
        ({"num_ctx": 90, "long_context": "overwrite"}, r"the text tower takes \d+ tokens"),
    ],
)
def test_tokens_that_would_overwrite_class_names_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_method("TCP", shared_tiny_clip(), **settings)


def test_new_classes_get_tokens_from_their_own_text():
    clip = shared_tiny_clip()
    method = make_method("TCP", clip)
    before = method.class_prompts().detach()
    method.set_classes(ClassNames(names=("oak", "tram")))
    torch.testing.assert_close(method.class_prompts()[0], before[CLASSES.names.index("oak")])
    fresh = TCP(clip, ClassNames(names=("oak", "tram")), Seeds(1))
    assert fresh.class_prompts().shape == method.class_prompts().shape
