"""Matrices in half precision: bit for bit autocast over float32, without a cast in every step."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from core.clip import backbone, product_choice, products
from core.clip.backbone import shared_clip
from core.clip.image_towers import EVERYTHING
from core.clip.measured import measured_in
from core.config import config_from_text
from experiments.run.run import assemble
from experiments.run.runtime import Runtime
from tests.helpers.paths import ROOT
from tests.helpers.pretended_cuda import PretendedCuda
from tests.helpers.tiny_clip import CLASSES, batch, images, make_method, tiny_clip
from tests.helpers.two_step_runs import two_steps

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


@pytest.fixture
def shared(monkeypatch):
    """``shared_clip`` of a tiny model, a new one for every test."""
    read = []

    def load(*_):
        read.append(1)
        return tiny_clip()

    monkeypatch.setattr(backbone, "load_clip", load)
    backbone._shared_clip.cache_clear()

    def made(dtype):
        return shared_clip("mosaic", None, "cpu", dtype)

    made.read = read
    yield made
    backbone._shared_clip.cache_clear()


def of_texts(clip):
    """Features of prompts with a gradient, and the gradient."""
    method = make_method("CoOp", clip)
    text = method.class_texts()
    text.float().square().sum().backward()
    return text.detach(), method.ctx.grad


def of_images(clip):
    with torch.no_grad():
        found = clip.encode_image(images(3), need=EVERYTHING)
    return found.pooled, found.local, found.attention


def same(one, two):
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("features", [of_texts, of_images])
@each_dtype
def test_features_and_gradients_are_those_of_autocast(features, dtype, shared):
    whole, reduced = shared(torch.float32), shared(dtype)
    with torch.autocast("cpu", dtype=dtype):
        assert same(features(reduced), features(whole))


@pytest.mark.parametrize("features", [of_texts, of_images])
@each_dtype
def test_outside_autocast_nothing_is_rounded(features, dtype, shared):
    assert same(features(shared(dtype)), features(shared(torch.float32)))


@each_dtype
def test_what_is_kept_is_not_rounded_and_read_once(dtype, shared):
    whole, reduced = shared(torch.float32), shared(dtype)
    before = len(shared.read)
    with torch.autocast("cpu", dtype=dtype):
        texts = [reduced.encode_texts(CLASSES.prompts()) for _ in range(3)]
        assert torch.equal(texts[-1], whole.encode_texts(CLASSES.prompts()))
    assert len(shared.read) == before + 1
    with reduced.weights_as_read():
        for _ in range(3):
            of_images(reduced)
        reduced.encode_texts(CLASSES.prompts())  # still known
    assert len(shared.read) == before + 2


@each_dtype
def test_weights_are_read_again_no_sooner_than_a_tower_runs(dtype, shared):
    reduced = shared(dtype)
    texts = reduced.encode_texts(CLASSES.prompts())
    before = len(shared.read)
    with reduced.weights_as_read():
        assert torch.equal(reduced.encode_texts(CLASSES.prompts()), texts)  # is known
        with torch.autocast("cpu", dtype=dtype), reduced.weights_as_read():
            pass
        assert len(shared.read) == before
        with torch.inference_mode():
            of_images(reduced)
        of_texts(reduced)  # has a gradient
        with torch.autocast("cpu", enabled=False), reduced.weights_as_read():
            of_images(reduced)
        assert len(shared.read) == before + 1
    with torch.autocast("cpu", dtype=dtype):
        of_images(reduced)
    assert len(shared.read) == before + 1


@each_dtype
def test_the_matrices_take_half_the_memory_and_stay_what_they_are(dtype, shared):
    whole, reduced = shared(torch.float32), shared(dtype)
    kinds = {name: p.dtype for name, p in reduced.named_parameters()}
    low = {name for name, kind in kinds.items() if kind == dtype}
    assert {kinds[name] for name in kinds.keys() - low} == {torch.float32}
    for name in kinds.keys() - low:  # vectors, and what is looked up or added
        assert (
            name.endswith("embedding") or "embedding." in name or "ln_" in name or "scale" in name
        )
    sizes = [sum(c.get_parameter(n).nbytes for n in low) for c in (whole, reduced)]
    assert sizes[0] == 2 * sizes[1] > 0
    model = torch.nn.ModuleList([reduced]).to("cpu", torch.float32)
    assert {n for n, p in model[0].named_parameters() if p.dtype == dtype} == low
    assert reduced.stored_as == dtype and whole.stored_as == torch.float32
    assert reduced.scale.dtype == torch.float32


class Casts(TorchDispatchMode):
    """Counts the casts of matrices that need no gradient."""

    def __init__(self, weights):
        super().__init__()
        self.places, self.number = {w.data_ptr() for w in weights if w.dim() > 1}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_to_copy" in func._schema.name and args[0].data_ptr() in self.places:
            self.number += 1
        return func(*args, **(kwargs or {}))


@each_dtype
def test_no_step_casts_a_frozen_matrix(dtype, shared):
    found = []
    for kind in (torch.float32, dtype):
        clip = shared(kind)
        with torch.autocast("cpu", dtype=dtype), Casts(clip.parameters()) as casts:
            make_method("IVLP", clip)(batch(3))
        found.append(casts.number)
    assert found[0] > 0 and found[1] == 0


def test_a_copy_is_of_the_same_kind(shared):
    twin = copy.deepcopy(shared(torch.bfloat16))
    assert twin.stored_as == torch.bfloat16
    assert same(of_images(twin), of_images(shared(torch.float32)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(of_images(twin), of_images(shared(torch.bfloat16)))


def test_other_weights_in_the_file_are_refused(shared, monkeypatch):
    reduced = shared(torch.bfloat16)
    monkeypatch.setattr(backbone, "load_clip", lambda *_: tiny_clip(embed_dim=16))
    with pytest.raises(ValueError, match="have changed while they are in use"):
        of_images(reduced)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        of_images(reduced)  # its own weights are as before


def test_on_a_gpu_what_is_there_in_full_precision_is_not_read_again(shared, monkeypatch):
    """It is that of another user on the device; on the CPU it may have a product of its own."""
    tiny = tiny_clip()
    monkeypatch.setattr(
        backbone, "load_clip", lambda *_: shared.read.append(1) or copy.deepcopy(tiny)
    )
    with PretendedCuda(ROOT):
        reduced = shared_clip("mosaic", None, "cuda", torch.bfloat16)
        low = reduced.get_parameter("visual.proj").dtype
        for beside in (False, True):
            whole = shared_clip("mosaic", None, "cuda", torch.float32) if beside else None
            before = len(shared.read)
            with reduced.weights_as_read():
                reduced.reduced.read()
                found = reduced.get_parameter("visual.proj")
                assert found.dtype == torch.float32 != low
                assert whole is None or found is whole.get_parameter("visual.proj")
            assert len(shared.read) == before + (not beside)
            assert reduced.get_parameter("visual.proj").dtype == low
        backbone._shared_clip.cache_clear()
    reduced, whole = shared(torch.bfloat16), shared(torch.float32)
    with reduced.weights_as_read():
        reduced.reduced.read()
        assert reduced.get_parameter("visual.proj") is not whole.get_parameter("visual.proj")


@pytest.mark.skipif(not products.is_available(), reason="no oneDNN product")
def test_full_precision_goes_through_the_product_of_the_machine(shared, monkeypatch, tmp_path):
    monkeypatch.setenv("REFINELAB_ONEDNN", "on")
    with measured_in(tmp_path):
        reduced = shared(torch.bfloat16)
        assert product_choice.product_of(reduced) == "oneDNN"
        with reduced.weights_as_read():
            of_images(reduced)
            assert product_choice.product_of(reduced) == "oneDNN"
            assert {w.dtype for w in product_choice.block_weights(reduced)} == {torch.float32}


@pytest.mark.parametrize("teacher", ["ZeroShotTeacher"])
@each_dtype
def test_a_run_and_its_teacher_have_matrices_in_its_precision(teacher, dtype, small_mosaic):
    name = next(name for name, kind in DTYPES.items() if kind == dtype)
    lines = (
        f"experiment.precision = '{name}'\nPromptKD.teacher = @{teacher}\n"
        f"{teacher}.backbone = 'mosaic'"
    )
    built = assemble(
        config_from_text(two_steps("PromptKD", lines)), Runtime(cache_dir=small_mosaic)
    )
    method = built.model.method
    assert method.clip.stored_as == method.teacher.method.clip.stored_as == dtype
    assert {p.dtype for p in built.model.trainable()} == {torch.float32}
