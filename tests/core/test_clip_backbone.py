"""The frozen backbone says what open_clip says, only faster."""

import pytest
import torch
from torch import nn

from core.clip import backbone
from core.clip.backbone import build_open_clip, load_clip
from core.clip.frozen import FrozenCLIP
from core.clip.packing import Packing
from core.clip.tokenizer import Tokenizer
from core.clip.undrawn import LeftUndrawn
from tests.helpers.open_clip_models import open_clip, random_model, tiny_config

TEXTS = [
    "a photo of a cat.",
    "a drawing of a very large red hot air balloon over a sea anemone.",
    "x",
]


def frozen(model: torch.nn.Module) -> FrozenCLIP:
    torch.manual_seed(0)
    return FrozenCLIP(model, Tokenizer(model.context_length))


def custom_text() -> torch.nn.Module:
    torch.manual_seed(0)
    return open_clip.model.CustomTextCLIP(**tiny_config())


MODELS = {
    "tiny-gelu": lambda: build_open_clip(tiny_config()),
    "tiny-quickgelu": lambda: build_open_clip(tiny_config(quick_gelu=True)),
    "tiny-custom-text": custom_text,
    "ViT-B-16": lambda: random_model("ViT-B-16"),
    "ViT-B-32-quickgelu": lambda: random_model("ViT-B-32-quickgelu"),
    "ViT-L-14": lambda: random_model("ViT-L-14"),
}
LARGE = {"ViT-L-14"}  # filling it with random numbers takes longer than all other models together


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in MODELS]
)
def test_equals_open_clip_on_full_context(name: str) -> None:
    model = MODELS[name]().eval()
    clip = frozen(model)
    size = clip.spec.image_size
    count = 2 if name.startswith("tiny") else 1
    images = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))
    ids = clip.tokenizer(TEXTS)
    with torch.no_grad():
        expected_image, expected_text = model.encode_image(images), model.encode_text(ids)
        pooled = clip.encode_image(images).pooled
        everything = clip.encode_image(images, need=frozenset({"pooled", "local", "attention"}))
        full = clip.encode_text(clip.embed_tokens(ids), ids.argmax(dim=-1))
        cut = clip.encode_texts(TEXTS)
    torch.testing.assert_close(pooled, expected_image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(everything.pooled, expected_image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(full, expected_text, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cut, expected_text, atol=1e-5, rtol=1e-5)
    assert everything.local is not None
    assert everything.local.shape == (count, 1 + clip.spec.num_patches, clip.spec.joint_width)


def test_attention_row_and_local_tokens_are_those_of_the_last_block() -> None:
    model = build_open_clip(tiny_config()).eval()
    clip = frozen(model)
    images = torch.randn(3, 3, 32, 32)
    seen: dict[str, torch.Tensor] = {}
    last = model.visual.transformer.resblocks[-1]

    def keep(block: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        x = block.ln_1(args[0])
        seen["weights"] = block.attn(x, x, x, need_weights=True)[1]

    handle = last.register_forward_pre_hook(keep)
    with torch.no_grad():
        model.encode_image(images)
    handle.remove()
    features = clip.encode_image(images, need=frozenset({"local", "attention"}))
    assert features.attention is not None and features.local is not None
    torch.testing.assert_close(features.attention, seen["weights"][:, 0, 1:])
    tokens = model.visual.forward_intermediates(
        images,
        indices=[2],
        normalize_intermediates=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    patches = tokens["image_intermediates"][0] @ model.visual.proj
    torch.testing.assert_close(features.local[:, 1:], patches, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 3])
def test_shared_prefix_equals_full_sequences_and_their_gradients(groups: int) -> None:
    clip = frozen(build_open_clip(tiny_config())).double()
    width = clip.spec.text_width
    generator = torch.Generator().manual_seed(2)
    prefix = torch.randn(
        groups, 5, width, generator=generator, dtype=torch.float64
    ).requires_grad_()
    suffix = torch.randn(4, 6, width, generator=generator, dtype=torch.float64).requires_grad_()
    eot = torch.tensor([6, 10, 7, 9])
    rows = torch.stack([torch.cat([p.expand(4, -1, -1), suffix], dim=1) for p in prefix])
    tokens = [
        [*range(5), *(100 * n + at for at in range(at_end - 4))]
        for n, at_end in enumerate(eot.tolist(), 1)
    ]
    packing = Packing(tokens, eot.tolist())
    placed = packing.tokens.index_R
    packed = (rows + clip.text.positional_embedding[:11]).flatten(1, 2)[:, placed]
    fast = clip.encode_packed(packed, packing)
    slow = torch.stack([clip.encode_text(r, eot) for r in rows])
    torch.testing.assert_close(fast, slow, atol=1e-11, rtol=1e-10)
    weights = torch.randn(fast.shape, generator=generator, dtype=torch.float64)
    fast_grads = torch.autograd.grad((fast * weights).sum(), (prefix, suffix), retain_graph=True)
    slow_grads = torch.autograd.grad((slow * weights).sum(), (prefix, suffix))
    for fast_grad, slow_grad in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(fast_grad, slow_grad, atol=1e-11, rtol=1e-9)


def draws() -> bool:
    """Whether new layers take numbers from the generator of the process."""
    before = torch.get_rng_state()
    nn.Linear(3, 2), nn.Embedding(3, 2), nn.MultiheadAttention(4, 2), nn.Conv2d(3, 2, 1)
    return not torch.equal(torch.get_rng_state(), before)


def test_weights_that_come_from_a_file_are_not_drawn_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [draws()]
    with LeftUndrawn():
        found.append(draws())
    monkeypatch.setattr(
        backbone, "build_open_clip", lambda c: found.append(draws()) or build_open_clip(c)
    )
    clip = load_clip("mosaic")
    assert [*found, draws()] == [True, False, False, True]
    assert all(value.isfinite().all() for value in clip.parameters())


def test_stays_frozen_and_in_eval_mode() -> None:
    clip = frozen(build_open_clip(tiny_config()))
    torch.nn.Sequential(clip).train()
    assert not clip.training and not any(p.requires_grad for p in clip.parameters())


class _Deep:
    """Appends two tokens and overwrites them before block 1."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.tokens[0].expand(len(x), -1, -1)], dim=1)

    def before_block(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        if layer != 1:
            return x
        return torch.cat([x[:, :-2], self.tokens[1].expand(len(x), -1, -1)], dim=1)


def test_hooks_reach_the_tower_and_prompt_tokens_are_removed() -> None:
    clip = frozen(build_open_clip(tiny_config()))
    images = torch.randn(2, 3, 32, 32)
    tokens = torch.randn(2, 2, clip.spec.vision_width, requires_grad=True)
    need = frozenset({"local", "attention"})
    hooked = clip.encode_image(images, _Deep(tokens), need=need)
    assert hooked.local is not None and hooked.attention is not None
    assert hooked.local.shape == (2, 17, 32) and hooked.attention.shape == (2, 16)
    assert (hooked.pooled - clip.encode_image(images).pooled).abs().max() > 1e-3
    (grad,) = torch.autograd.grad(hooked.pooled.sum(), tokens)
    assert (grad.abs().sum(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("RN50", None, "needs weights"),
        ("vit_medium_patch16_gap_256", None, "needs weights"),
        ("ViT-L-14-CLIPA", None, "'ViT-L-14-CLIPA' .* image tower pools by average"),
        ("ViT-H-14-worldwide", None, "tokenizer comes from Hugging Face"),
        ("EVA02-B-16-quickgelu", None, "did you mean 'EVA02-B-16'"),
        ("xlm-roberta-base-ViT-B-32", None, "Hugging Face"),
        ("coca_ViT-B-32", None, "caption decoder"),
        ("ViT-B-61", None, "did you mean"),
        ("ViT-B-16", None, "needs weights"),
        ("ViT-B-16", "laoin400m", "no pretrained tag"),
        ("ViT-B-16", "openai", "fetch about 598 MB .* python main.py weights ViT-B-16 openai"),
        ("ViT-B-16-quickgelu", "laion400m_e31", "use 'ViT-B-16'"),
        ("ViT-B-16", "/nowhere/weights.pt", "does not exist"),
    ],
)
def test_unusable_backbones_get_one_clear_line(
    name: str, weights: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_clip(name, weights)
    assert "\n" not in str(caught.value)


def test_tokenizers_share_the_published_tables_and_change_none_of_them() -> None:
    texts = ["a photo of a golden retriever.", "hot-air balloon, 3 of 5!"]
    small = Tokenizer(24, num_merges=500)
    for context_length in (77, 30):
        own = open_clip.tokenizer.SimpleTokenizer(context_length=context_length)
        assert torch.equal(Tokenizer(context_length)(texts), own(texts))
    assert torch.equal(Tokenizer(24, num_merges=500)(texts), small(texts))
    assert small.vocab_size == 2 * 256 + 500 + 2
    first, second = Tokenizer(77), Tokenizer(30)
    assert first.__dict__["_bpe"].encoder is second.__dict__["_bpe"].encoder


def test_texts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit a context of 8"):
        Tokenizer(8)(["a photo of a cat and a dog and a horse"])
