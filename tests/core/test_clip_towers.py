"""Every family of towers says what open_clip says; what a family cannot do is refused by name."""

import sys
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from core.clip import catalog
from core.clip.backbone import build_open_clip
from core.clip.deep_prompts import LeadingPrompts, TextPrompts, VisionPrompts
from core.clip.frozen import FrozenCLIP, TowerlessCLIP, fingerprint, tower_support
from core.clip.hooks import NO_HOOK
from core.clip.packing import Packing
from core.clip.prompts import ContextPrompts
from core.clip.tokenizer import HubTokenizer, LongTextError
from core.seeding import Seeds
from core.types import ClassNames
from tests.helpers.hub_tokenizers import stand_in
from tests.helpers.open_clip_models import FAMILIES, family, open_clip, register_families
from tests.helpers.tiny_clip import CLASSES
from tests.helpers.tiny_clip import tokenizer as bpe_tokenizer

LOCAL = frozenset({"local", "attention"})
WITH_TOKENS = [name for name in FAMILIES if "convnext" not in name and name != "tiny-mobile"]
HUB = "nobody/tiny-siglip"
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def hub(monkeypatch) -> None:
    stand_in(monkeypatch, HUB)


def frozen(name: str, dtype: torch.dtype = torch.float32) -> tuple[FrozenCLIP, Any]:
    """The model of open_clip and the frozen one around it; they share their weights."""
    model: Any = family(name)
    tokenizer: Any = bpe_tokenizer(model.context_length)
    if name == "tiny-siglip":
        text = FAMILIES[name]["text_cfg"]
        settings = {"settings": text["tokenizer_kwargs"], "way_out": "nothing"}
        tokenizer = HubTokenizer(HUB, model.context_length, vocab_size=400, **settings)
    return FrozenCLIP(model, tokenizer, name=name).to(dtype), model


def pixels(clip: FrozenCLIP, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, *clip.spec.image_size, generator=generator).to(clip.scale.dtype)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    size = 1e-5 if found.dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, expected, atol=size, rtol=size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_those_of_open_clip(name, dtype):
    clip, model = frozen(name, dtype)
    texts = ["a photo of a cat", "x", "a very large red hot air balloon"]
    with torch.no_grad():
        image, ids = pixels(clip), clip.tokenizer(texts)
        pooled, expected = clip.encode_image(image).pooled, model.encode_image(image)
        text = clip.encode_texts(texts)
        close(text, model.encode_text(ids))
    close(pooled, expected)
    assert pooled.shape == (3, clip.spec.joint_width) == text.shape
    assert pooled.std(dim=0).min() > 1e-4 and text.std(dim=0).min() > 1e-4


class Given(torch.nn.Module):
    """Stands in for the token embeddings of open_clip's own encoder."""

    def __init__(self, embedding: torch.Tensor) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.embedding


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_through_the_text_tower_are_those_of_open_clip(name):
    clip, model = frozen(name, torch.float64)
    ids = clip.tokenizer(["a photo of a cat", "x"])
    read = clip.read_positions(ids)
    length = clip.length_read(read)
    assert (length == clip.spec.context_length) is not clip.causal
    ours = clip.embed_tokens(ids[:, :length]).clone().requires_grad_()
    theirs = clip.embed_tokens(ids).clone().requires_grad_()
    weights = torch.randn(2, clip.spec.joint_width, dtype=torch.float64)
    (found,) = torch.autograd.grad((clip.encode_text(ours, read) * weights).sum(), ours)
    owner = getattr(model, "text", model)
    owner.token_embedding = Given(theirs)
    (expected,) = torch.autograd.grad((model.encode_text(ids) * weights).sum(), theirs)
    close(found, expected[:, :length])
    assert not expected[:, length:].any() and found.abs().sum() > 0


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_prompts_with_a_context_are_the_tokenized_texts(name, position):
    """A context of the words' own embeddings gives the texts of the words, in every layout."""
    clip, model = frozen(name)
    names = ("cat", "hot air balloon")
    prompts = ContextPrompts(
        clip, ClassNames(names=names), placeholder="photo of", position=position
    )
    ctx = clip.embed_tokens(torch.tensor(clip.tokenizer.encode("photo of")))
    layout = {"end": "photo of {}.", "middle": "photo {} of.", "front": "{} photo of."}[position]
    expected = model.encode_text(clip.tokenizer([layout.format(n) for n in names]))
    close(prompts.encode(clip, ctx), expected)
    close(prompts.encode_groups(clip, torch.stack([ctx, ctx]))[1], expected)
    close(prompts.encode(clip, ctx.expand(2, *ctx.shape)), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_groups_of_prefixes_are_whole_prompts_and_so_are_their_gradients(name):
    clip, _ = frozen(name, torch.float64)
    prompts = ContextPrompts(clip, CLASSES, placeholder="X X")
    generator = torch.Generator().manual_seed(2)
    shape = (3, 2, clip.spec.text_width)
    ctx = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    fast = prompts.encode_groups(clip, ctx)
    slow = torch.stack([clip.encode_text(prompts.assemble(c), prompts.eot_C) for c in ctx])
    close(fast, slow)
    weights = torch.randn(fast.shape, generator=generator, dtype=torch.float64)
    (one,) = torch.autograd.grad((fast * weights).sum(), ctx, retain_graph=True)
    (two,) = torch.autograd.grad((slow * weights).sum(), ctx)
    torch.testing.assert_close(one, two, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("name", WITH_TOKENS)
def test_fields_have_their_shapes_and_pooled_does_not_depend_on_what_else_is_asked(name):
    clip, _ = frozen(name)
    image = pixels(clip)
    features = clip.encode_image(image, need=LOCAL)
    assert features.local is not None and features.attention is not None
    assert features.local.shape == (3, 1 + clip.spec.num_patches, clip.spec.joint_width)
    assert features.attention.shape == (3, clip.spec.num_patches)
    close(features.local[:, 0], features.pooled)
    close(clip.encode_image(image).pooled, features.pooled)
    assert (features.attention > 0).all() and (features.attention.sum(dim=1) < 1 + 1e-6).all()


def test_local_tokens_of_a_resnet_are_what_its_pooling_makes_of_one_cell():
    clip, model = frozen("tiny-resnet", torch.float64)
    image, pool = pixels(clip), model.visual.attnpool
    features = clip.encode_image(image, need=LOCAL)
    visual, x = model.visual, model.visual.stem(image)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    cells = x.flatten(2).permute(2, 0, 1)
    tokens = torch.cat([cells.mean(dim=0, keepdim=True), cells])
    tokens = tokens + pool.positional_embedding[:, None]
    weights = (pool.q_proj.weight, pool.k_proj.weight, pool.v_proj.weight)
    bias = torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias])

    def attend(mask: torch.Tensor | None) -> tuple[torch.Tensor, Any]:
        return F.multi_head_attention_forward(
            tokens[:1], tokens, tokens, tokens.shape[-1], pool.num_heads, None, bias, None, None,
            False, 0.0, pool.c_proj.weight, pool.c_proj.bias, training=False, need_weights=True,
            attn_mask=mask, use_separate_proj_weight=True, q_proj_weight=weights[0],
            k_proj_weight=weights[1], v_proj_weight=weights[2],
        )  # fmt: skip

    pooled, attention = attend(None)
    close(features.pooled, pooled[0])
    close(features.attention, attention[:, 0, 1:])
    for cell in range(clip.spec.num_patches):
        only = torch.full((1, 1 + clip.spec.num_patches), float("-inf"), dtype=torch.float64)
        only[0, 1 + cell] = 0
        close(features.local[:, 1 + cell], attend(only)[0][0])


def test_local_tokens_of_siglip_are_what_its_pooling_makes_of_one_patch():
    clip, model = frozen("tiny-siglip", torch.float64)
    image, trunk = pixels(clip), model.visual.trunk
    features = clip.encode_image(image, need=LOCAL)
    tokens = trunk.forward_features(image)
    for patch in range(clip.spec.num_patches):
        only = torch.zeros(1, 1, 1, clip.spec.num_patches, dtype=torch.bool)
        only[..., patch] = True
        close(features.local[:, 1 + patch], trunk.attn_pool(tokens, attn_mask=only))
    pool, width = trunk.attn_pool, tokens.shape[-1]
    reference = torch.nn.MultiheadAttention(width, pool.num_heads, batch_first=True).double()
    reference.in_proj_weight.data = torch.cat([pool.q.weight, pool.kv.weight])
    reference.in_proj_bias.data = torch.cat([pool.q.bias, pool.kv.bias])
    _, attention = reference(pool.latent.expand(3, -1, -1), tokens, tokens)
    close(features.attention, attention[:, 0])


@pytest.mark.parametrize("name", ["tiny-eva02", "tiny-eva01", "tiny-eva-post"])
def test_fields_of_eva_are_those_of_its_last_block(name):
    clip, model = frozen(name, torch.float64)
    image, trunk = pixels(clip), model.visual.trunk
    features = clip.encode_image(image, need=LOCAL)
    close(features.local, trunk.head(trunk.forward_features(image)))
    seen: list[torch.Tensor] = []
    last = trunk.blocks[-1].attn
    last.fused_attn = False
    last.attn_drop.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    trunk(image)
    close(features.attention, seen[0].mean(dim=1)[:, 0, 1:])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_hook_that_cannot_enter_is_refused_by_name(name):
    clip, _ = frozen(name)
    hooked = clip.spec.support.hooked
    ids = clip.tokenizer(["a cat"])
    text = clip.embed_tokens(ids)
    hook = LeadingPrompts([text[0, :1], text[0, 1:2]])
    read = clip.read_positions(ids).tolist()
    shared = Packing([range(position + 1) for position in read], read)
    for whole in (clip, TowerlessCLIP(clip)):
        for tower, build in (
            ("image", lambda c=whole: VisionPrompts(c, Seeds(0), num_ctx=2, depth=1)),
            ("text", lambda c=whole: deep_text(c)),
            ("text", lambda c=whole: c.encode_text(text, ids[:, 2] * 0, hook)),
            (
                "text",
                lambda c=whole: c.encode_packed(c.embed_packed(ids, shared)[None], shared, hook),
            ),
        ):
            if tower in hooked:
                build()
                continue
            with pytest.raises(ValueError, match=f"'{name}' has no place .* its {tower} tower"):
                build()
    if "image" not in hooked:
        with pytest.raises(ValueError, match=f"'{name}' has no place for prompts"):
            clip.encode_image(pixels(clip), hook)
        clip.encode_image(pixels(clip), NO_HOOK)


def deep_text(clip: FrozenCLIP) -> TextPrompts:
    settings = {"owner": "IVLP", "num_ctx": 1, "depth": 2, "ctx_init": ""}
    return TextPrompts(clip, CLASSES, Seeds(0), **settings)


def test_the_catalog_says_of_every_family_what_its_model_can_do(tmp_path, monkeypatch):
    register_families(tmp_path / "configs", monkeypatch)
    for name in FAMILIES:
        assert catalog.support_of(name) == frozen(name)[0].spec.support, name
    catalog.support_of.cache_clear()


@pytest.mark.slow
def test_the_catalog_says_of_every_model_what_its_towers_can_do():
    rows = {row.name: row for row in catalog.backbones()}
    assert set(rows) == {*open_clip.list_models(), "mosaic"}
    for name, row in rows.items():
        if name != "mosaic" and row.support is not None:
            with torch.device("meta"):
                model = build_open_clip(catalog.model_config(name))
            assert tower_support(model, name) == row.support, name


def test_the_catalog_knows_the_models_of_the_field():
    rows = {row.name: row for row in catalog.backbones()}
    everything = frozenset({"image", "text"})
    hooked = {
        "ViT-B-16-quickgelu": everything,
        "RN50-quickgelu": {"text"},
        "RN101": {"text"},
        "EVA02-B-16": {"text"},
        "ViT-B-16-SigLIP": frozenset(),
        "ViT-B-16-SigLIP2": frozenset(),
    }
    for name, towers in hooked.items():
        support = rows[name].support
        assert support is not None and support.hooked == towers
        assert support.image_fields == {"pooled", *LOCAL}
        assert support.causal_text is ("SigLIP" not in name)
    for name, reason in (
        ("coca_ViT-B-32", "caption decoder"),
        ("ViT-L-14-CLIPA", "pools by average"),
        ("xlm-roberta-base-ViT-B-32", "text tower comes from Hugging Face"),
    ):
        assert rows[name].support is None and reason in rows[name].reason


def test_counters_of_batches_are_no_part_of_a_fingerprint():
    state = dict(family("tiny-resnet").state_dict())
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert counters
    less = {name: value for name, value in state.items() if name not in counters}
    assert fingerprint(state) == fingerprint(less)
    less["visual.bn1.running_mean"] = less["visual.bn1.running_mean"] + 1
    assert fingerprint(state) != fingerprint(less)


def test_a_bias_of_all_logits_changes_no_prediction():
    clip, model = frozen("tiny-siglip", torch.float64)
    ids, image = clip.tokenizer(["a cat", "a dog", "an oak"]), pixels(clip)
    theirs, _ = model.get_logits(image, ids)
    text = F.normalize(clip.encode_texts(["a cat", "a dog", "an oak"]), dim=-1)
    ours = clip.scale * F.normalize(clip.encode_image(image).pooled, dim=-1) @ text.t()
    close(ours + model.logit_bias, theirs)
    close(ours.softmax(dim=-1), theirs.softmax(dim=-1))


def test_a_tokenizer_of_the_hub_pads_counts_and_says_what_does_not_fit():
    clip, _ = frozen("tiny-siglip")
    ids = clip.tokenizer(["a cat.", "A  CAT!"])
    assert ids.shape == (2, 24) and ids.dtype == torch.int64 and torch.equal(ids[0], ids[1])
    assert ids[0, 2:].tolist() == [1] * 22 and clip.tokenizer.encode("a cat") == ids[0, :2].tolist()
    assert clip.read_positions(ids).tolist() == [23, 23]
    clip.tokenizer(["w " * 23])
    with pytest.raises(LongTextError, match="text of 25 tokens does not fit a context of 24"):
        clip.tokenizer(["w " * 24])
    words = clip.tokenizer.words()
    assert len(words) == 400 and words[ids[0, 1]] == " cat"


def test_a_tokenizer_that_is_not_here_is_one_line_with_the_way_out(monkeypatch):
    settings = {"vocab_size": 400, "settings": {}, "way_out": "fetch it"}
    with pytest.raises(ValueError, match=r"other/one cannot be read: .*; fetch it$") as caught:
        HubTokenizer("other/one", 24, **settings)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'refinelab\[siglip\]'"):
        HubTokenizer(HUB, 24, **settings)
