"""What the frozen text tower makes of texts is computed once, and only while it stays the same."""

import copy

import pytest
import torch

from core.clip import blocks
from core.clip.frozen import TowerlessCLIP
from core.clip.kept import KeptTensors
from core.config import lookup
from core.seeding import Seeds
from tests.helpers.tiny_clip import CLASSES, OTHER_CLASSES, make_method, tiny_clip

TEXTS = ("a photo of a cat.", "an oak")


@pytest.fixture
def clip():
    return tiny_clip()


@pytest.fixture
def encoded(clip, monkeypatch):
    """How many texts the towers have computed, chunk by chunk."""
    numbers = []
    encode = type(clip).encode_ids

    def counting(self, ids, packing):
        numbers.append(len(ids))
        return encode(self, ids, packing)

    monkeypatch.setattr(type(clip), "encode_ids", counting)
    return numbers


def test_texts_are_encoded_once_bit_for_bit(clip, encoded):
    expected = clip.compute_texts(TEXTS)
    encoded.clear()
    for texts in (TEXTS, list(TEXTS), TEXTS):
        assert torch.equal(clip.encode_texts(texts), expected)
    assert encoded == [2]
    assert torch.equal(clip.encode_texts(TEXTS[::-1]), clip.compute_texts(TEXTS[::-1]))
    assert encoded == [2, 2, 2]


def test_a_caller_owns_what_it_gets(clip):
    first = clip.encode_texts(TEXTS)
    expected = first.clone()
    first.zero_()
    assert torch.equal(clip.encode_texts(TEXTS), expected)


def test_what_a_gpu_rounds_to_tf32_is_another_thing(clip, encoded, monkeypatch):
    for allowed, so_far in ((False, 1), (True, 2), (False, 2), (True, 2)):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        clip.encode_texts(TEXTS)
        assert len(encoded) == so_far


def test_neither_autocast_nor_inference_mode_is_kept(clip):
    expected = clip.compute_texts(TEXTS)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = clip.encode_texts(TEXTS)
        mean = clip.kept("mean", lambda: clip.encode_texts(TEXTS) @ expected.t())
    after = clip.encode_texts(TEXTS)
    assert torch.equal(inside, expected) and torch.equal(after, expected)
    kept = clip.kept("mean", lambda: torch.zeros(()))
    assert torch.equal(kept, mean) and torch.equal(kept, expected @ expected.t())
    assert not after.is_inference() and not after.requires_grad
    weight = torch.ones(after.shape[1], requires_grad=True)
    (after @ weight).sum().backward()  # usable with autograd
    torch.testing.assert_close(weight.grad, expected.sum(dim=0))


CHANGES = {
    "written": lambda clip: next(clip.text.parameters()).add_(0.5),
    "embedding": lambda clip: clip.text.token_embedding.weight.mul_(2),
    "loaded": lambda clip: clip.load_state_dict({k: v + 0.01 for k, v in clip.state_dict().items()
                                                 if v.is_floating_point()}, strict=False),
    "double": lambda clip: clip.double(),
    "half": lambda clip: clip.to(torch.bfloat16),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_other_weights_have_other_texts(clip, change):
    before = clip.encode_texts(TEXTS)
    with torch.no_grad():
        CHANGES[change](clip)
    now = clip.encode_texts(TEXTS)
    assert torch.equal(now, clip.compute_texts(TEXTS))
    assert now.dtype == clip.logit_scale.dtype and not torch.equal(now.to(before), before)


def test_a_copy_and_a_towerless_clip_keep_their_own(clip):
    texts = clip.encode_texts(TEXTS)
    twin = copy.deepcopy(clip)
    with torch.no_grad():
        twin.text.token_embedding.weight.mul_(2)
    assert not torch.equal(twin.encode_texts(TEXTS), texts)
    planned = TowerlessCLIP(clip)
    constant = planned.encode_texts(TEXTS)
    assert torch.equal(constant[0], constant[1]) and not torch.equal(constant, texts)
    assert torch.equal(clip.encode_texts(TEXTS), texts)


def test_updated_blocks_neither_fill_nor_read_what_is_kept(clip):
    plain = clip.encode_texts(TEXTS)
    block = clip.text.transformer.resblocks[0]

    def update(normed, matrix, rows=None):
        return normed

    with blocks.updated({block: update}):
        changed = clip.encode_texts(TEXTS)
        other = clip.encode_texts(("another text",))
    assert not torch.equal(changed, plain)
    assert torch.equal(clip.encode_texts(TEXTS), plain)
    assert not torch.equal(clip.encode_texts(("another text",)), other)


def test_memory_is_bounded_and_the_last_used_stays():
    kept, made = KeptTensors(memory_bytes=3 * 400), []

    def get(key, size=100):
        return kept.get(key, (), lambda: made.append(key) or torch.full((size,), float(key)))

    for key in (1, 2, 3, 1, 4, 1):  # 4 takes the place of 2
        assert get(key)[0] == key
    assert made == [1, 2, 3, 4]
    assert len(get(5, 1000)) == 1000 and len(get(5, 1000)) == 1000  # larger than all: not kept
    get(1)
    assert made == [1, 2, 3, 4, 5, 5]
    get(2)
    assert made[-1] == 2


REREAD = ["SEP", "KgCoOp", "ProGrad", "TCP", "ZeroShot", "TaskRes", "TipAdapter", "ClipAdapter",
          "CoPrompt", "PromptSRC"]  # fmt: skip


@pytest.mark.parametrize("name", REREAD)
def test_a_second_run_and_the_way_back_encode_no_hand_made_text_again(clip, encoded, name):
    """Two methods of a study on one frozen model, and the way to other classes and back."""

    def texts(method):
        if name == "PromptSRC":
            return method.frozen_text()
        return method.frozen_sentences() if name == "CoPrompt" else None

    first = make_method(name, clip)
    before = texts(first)
    encoded.clear()
    second = make_method(name, clip, seed=1)
    again = texts(second)
    assert not encoded and (before is None or torch.equal(before, again))
    entry = lookup(name, "method")
    defaults = {key: parameter.default for key, parameter in entry.parameters.items()}
    if not entry.ask("closed_set", defaults):
        second.set_classes(OTHER_CLASSES)
        texts(second)
        encoded.clear()
        second.set_classes(CLASSES)
        assert texts(second) is None or torch.equal(texts(second), before)
        first.set_classes(OTHER_CLASSES)
        texts(first)
        assert not encoded


def test_kept_means_of_templates_are_those_that_a_new_model_makes():
    """PromptSRC's and a zero-shot ensemble, with and without an entry of the other kind."""
    templates = ("a photo of a {}.", "one {}")
    kinds = [{"template_average": "raw"}, {"template_average": "unit"}]
    clip = tiny_clip()
    for settings in (*kinds, *kinds):
        kept = make_method("PromptSRC", clip, templates=templates, **settings).frozen_text()
        alone = make_method("PromptSRC", tiny_clip(), templates=templates, **settings)
        assert torch.equal(kept, alone.frozen_text())
    for _ in range(2):
        one = make_method("ZeroShot", clip, templates=templates).class_texts()
        other = make_method("ZeroShot", tiny_clip(), templates=templates).class_texts()
        assert torch.equal(one, other)


def test_a_subclass_that_makes_its_texts_in_another_way_gets_its_own(clip):
    """What another method has kept for the same classes and templates is not for it."""

    class Turned(lookup("ZeroShot").cls):
        def template_features(self, classes):
            return -super().template_features(classes)

    class TurnedSource(lookup("PromptSRC").cls):
        def template_mean(self):
            return -super().template_mean()

    texts = make_method("ZeroShot", clip).texts_CD
    assert torch.equal(Turned(clip, CLASSES, Seeds(0)).texts_CD, -texts)
    source = make_method("PromptSRC", clip, depth_text=1, depth_vision=1)
    turned = TurnedSource(clip, CLASSES, Seeds(0), depth_text=1, depth_vision=1)
    frozen = source.frozen_text()
    for _ in range(2):
        assert torch.equal(turned.frozen_text(), -frozen)
