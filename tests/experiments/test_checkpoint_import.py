"""Published checkpoints: files in the structure of the released trainers, read into our methods.

The values come from the reference vectors, which were recorded from the released code: what the
imported method says must be what the released code said with the same tensors.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import methods.teachers
from core.seeding import Seeds
from core.train.model import RefinedMethod
from core.train.published_checkpoints import load_published, read_published
from core.types import Batch
from experiments.verify import promptkd as kd
from experiments.verify import promptsrc as src
from experiments.verify import sep as seps
from experiments.verify import text_refiner as refiners
from experiments.verify.vectors import POOLED, Vectors, frozen_clip
from methods.cocoop import CoCoOp
from methods.coop import CoOp
from methods.kgcoop import KgCoOp
from methods.maple import MaPLe
from methods.prograd import ProGrad
from methods.tcp import TCP
from methods.teachers import PublishedTeacher
from refiners.null_refiner import NullRefiner
from tests.helpers.dassl_checkpoints import class_buffers, head, save, whole_clip
from tests.helpers.paths import GOLDEN
from tests.helpers.tiny_clip import logits, make_method, make_model, part, shared_tiny_clip

SEEDS = Seeds(7)


def vectors_of(case: str) -> Vectors:
    path = GOLDEN / f"public_{case}.json"
    tensors = load_file(path.with_suffix(".safetensors"))
    return Vectors(path.stem, json.loads(path.read_text())["constants"], tensors)


def plain(method) -> RefinedMethod:
    return RefinedMethod(method, NullRefiner(method.output(), SEEDS)).double()


def load(model: RefinedMethod, path: Path) -> None:
    published = read_published(path)
    if model.refiner.released_file:
        published = published.beside(model.refiner.released_file)
    unused = model.method.released_unused
    load_published(model, model.released_names(), published, unused=unused)


def check(model: RefinedMethod, path: Path, images: Batch, expected: torch.Tensor) -> None:
    """Loading moves the logits from somewhere else to the recorded ones.

    Trained tensors of more than 2048 entries were recorded rounded to float32.
    """
    rounded = any(value.numel() > 2048 for value in model.trainable())
    before = logits(model, images)
    load(model, path)
    after = logits(model, images)
    largest = expected.abs().max()
    assert (before - expected).abs().max() > 1e-3 * largest
    assert (after - expected).abs().max() < (1e-6 if rounded else 1e-9) * largest


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("kind", ["generic", "csc"])
def test_coop(tmp_path, position, kind):
    vectors = vectors_of("coop")
    n_ctx, case = vectors.constants["n_ctx"], f"{position}.{kind}"
    ctx = vectors[f"{case}.after3.ctx"]
    path = save(tmp_path, "prompt_learner", {"ctx": ctx, **class_buffers(5, ctx.shape[-1])})
    method = CoOp(
        frozen_clip(vectors), vectors.classes, SEEDS, num_ctx=n_ctx, ctx_init="",
        class_position=position, class_specific=kind == "csc",
    )  # fmt: skip
    model = plain(method)
    check(model, path, vectors.eval_batch(), vectors[f"{case}.eval_after3.logits"])
    assert torch.equal(method.ctx, ctx)


def test_cocoop(tmp_path):
    vectors = vectors_of("cocoop")
    c, after = vectors.constants, vectors.prefixed("after3.")
    state = {"ctx": after["ctx"], **class_buffers(5, c["text_width"])}
    for layer in (1, 2):
        for kind in ("weight", "bias"):
            state[f"meta_net.linear{layer}.{kind}"] = after[f"meta.fc{layer}.{kind}"]
    path = save(tmp_path, "prompt_learner", state, epoch=10)
    reduction = c["embed_dim"] // c["meta_hidden"]
    method = CoCoOp(
        frozen_clip(vectors), vectors.classes, SEEDS, num_ctx=c["n_ctx"], ctx_init="",
        meta_reduction=reduction,
    )  # fmt: skip
    check(plain(method), path, vectors.eval_batch(), vectors["eval_after3.logits"])


def test_kgcoop(tmp_path):
    """The file also holds a bias and a network that the released model never uses."""
    vectors = vectors_of("kgcoop")
    width = vectors.constants["text_width"]
    unused = {"bias_vectors": torch.randn(1, 8), "meta_net.linear1.weight": torch.randn(8, 8)}
    unused["meta_net.linear1.bias"] = torch.randn(8)
    state = {"ctx": vectors["after3.ctx"], **unused, **class_buffers(5, width)}
    path = save(tmp_path, "prompt_learner", state, epoch=100)
    method = KgCoOp(frozen_clip(vectors), vectors.classes, SEEDS)
    check(plain(method), path, vectors.eval_batch(), vectors["eval_after3.logits"])
    with pytest.raises(ValueError, match="also holds 3 tensors, first 'bias_vectors'"):
        load(plain(CoOp(frozen_clip(vectors), vectors.classes, SEEDS)), path)


@pytest.mark.parametrize("case", ["agree", "conflict"])
def test_prograd(tmp_path, case):
    vectors = vectors_of("prograd")
    ctx = vectors[f"{case}.after3.ctx"]
    state = {"ctx": ctx, **class_buffers(5, vectors.constants["text_width"])}
    path = save(tmp_path, "prompt_learner", state, epoch=100)
    method = ProGrad(frozen_clip(vectors), vectors.classes, SEEDS, num_ctx=len(ctx))
    check(plain(method), path, vectors.eval_batch(), vectors[f"{case}.eval_after3.logits"])


def test_tcp(tmp_path):
    vectors = vectors_of("tcp")
    after, c = vectors.prefixed("after3."), vectors.constants
    state = {"ctx": after["ctx"], **class_buffers(5, c["text_width"])}
    for layer in (1, 2):
        for kind in ("weight", "bias"):
            state[f"meta_net.linear{layer}.{kind}"] = after[f"meta.fc{layer}.{kind}"]
    path = save(tmp_path, "prompt_learner", state, optimizer=torch.optim.Adam)
    method = TCP(frozen_clip(vectors), vectors.classes, SEEDS)
    check(plain(method), path, vectors.eval_batch(), vectors["eval_after3.logits"])


def maple_state(vectors: Vectors) -> dict[str, torch.Tensor]:
    """The whole model, whose maps are ``proj`` at the input and a list for the later blocks."""
    after = vectors.prefixed("after3.")
    state = {"prompt_learner.ctx": after["prompt_text0"], **whole_clip()}
    for kind in ("weight", "bias"):
        state[f"prompt_learner.proj.{kind}"] = after[f"couple0.{kind}"]
    for i in range(1, vectors.constants["depth"]):
        state[f"prompt_learner.compound_prompts_text.{i - 1}"] = after[f"prompt_text{i}"]
        for kind in ("weight", "bias"):
            name = f"prompt_learner.compound_prompt_projections.{i - 1}.{kind}"
            state[name] = after[f"couple{i}.{kind}"]
    return state | class_buffers(5, vectors.constants["text_width"], "prompt_learner.")


def test_maple(tmp_path):
    vectors = vectors_of("maple")
    path = save(tmp_path, "MultiModalPromptLearner", maple_state(vectors), epoch=5)
    method = MaPLe(frozen_clip(vectors), vectors.classes, SEEDS)
    check(plain(method), path, vectors.eval_batch(), vectors["eval_after3.logits"])


@pytest.mark.parametrize("settings", [{"depth": 2}, {"coupling": "shared"}])
def test_maple_of_other_maps_is_refused(tmp_path, settings):
    vectors = vectors_of("maple")
    path = save(tmp_path, "MultiModalPromptLearner", maple_state(vectors), epoch=5)
    with pytest.raises(ValueError, match=r"also holds \d tensors, first 'compound_prompt"):
        load(plain(MaPLe(frozen_clip(vectors), vectors.classes, SEEDS, **settings)), path)


def text_refiner_files(folder: Path, vectors: Vectors) -> Path:
    """Two folders: the whole model, and the memory with the cache beside its state dict."""
    after = vectors.prefixed("after3.")
    align = {k.removeprefix("align."): v for k, v in after.items() if k.startswith("align.")}
    align["bn.num_batches_tracked"] = align.pop("bn.count")
    width = vectors.constants["text_width"]
    state = {
        **whole_clip(),
        "prompt_learner.ctx": after["ctx"],
        "prompt_learner.tokenized_prompts": torch.ones(8, 77, dtype=torch.int64),
        **class_buffers(5, width, "prompt_learner."),
        **head("mid_image_trans", align),
    }
    memory = {"extractor.weight": after["extractor.weight"]}
    save(folder, "Memory", memory, epoch=10, memory_item=after["cache"])
    return save(folder, "prompt_learner", state, epoch=10)


def test_text_refiner_with_its_memory(tmp_path):
    vectors = vectors_of("textrefiner")
    path = text_refiner_files(tmp_path, vectors)
    released = refiners._released(frozen_clip(vectors), vectors)
    check(released.model, path, vectors.eval_batch(), vectors["eval_after3.logits"])
    for name, value in released.state().items():
        torch.testing.assert_close(value.double(), vectors[f"after3.{name}"].double())


def test_text_refiner_needs_both_files(tmp_path):
    vectors = vectors_of("textrefiner")
    path = text_refiner_files(tmp_path, vectors)
    model = refiners._released(frozen_clip(vectors), vectors).model
    (tmp_path / "Memory" / path.name).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"one of two files: the other is expected at .*/Memory/"):
        load(model, path)
    alone = plain(CoOp(frozen_clip(vectors), vectors.classes, SEEDS))
    with pytest.raises(ValueError, match=r"also holds 9 tensors, first 'mid_image_trans\."):
        load(alone, path)


SEP_MODULES = {
    "attn.qkv.": "promt_attention_visual.in_proj_",
    "attn.out.": "promt_attention_visual.out_proj.",
    "ln1.": "ln_pa_1_visual.",
    "ln2.": "ln_pa_2_visual.",
    "fc1.": "mlp_pa_visual.c_fc1.",
    "fc2.": "mlp_pa_visual.c_proj.",
    "s1": "scale1",
    "s2": "scale2",
}
SEP_LISTS = {"text": "prompt_projections", "vision": "visual_prompts"}


def sep_state(vectors: Vectors) -> dict[str, torch.Tensor]:
    """Twelve clones a tower, the first ones in use, and all that the release never uses."""
    after, c = vectors.prefixed("after3."), vectors.constants
    state = {"ctx": after["ctx"], "ctx_visual": after["ctx_visual"]}
    state |= {"VPT_fc.weight": torch.randn(9, 64), **class_buffers(5, c["text_width"])}
    for tower, clones in SEP_LISTS.items():
        used = len(c[f"active_{tower}_layers"])
        for place, layer in enumerate(c[f"active_{tower}_layers"]):
            prefix = f"fuse.{tower}.layer{layer}."
            for name in (name for name in after if name.startswith(prefix)):
                rest = name.removeprefix(prefix)
                key = next(key for key in SEP_MODULES if rest.startswith(key))
                released = SEP_MODULES[key] + rest.removeprefix(key)
                state[f"{clones}.{place}.{released}"] = after[name]
        for place in range(used, 12):
            state[f"{clones}.{place}.scale1"] = torch.full((1,), 0.75)
        state[f"{clones}.0.ln_pa_1_token.weight"] = torch.ones(4)
    state["meta_net_.scale1"] = state["visual_meta_net_.scale1"] = torch.full((1,), 0.75)
    return state


def test_sep(tmp_path):
    vectors = vectors_of("sep")
    path = save(tmp_path, "prompt_learner", sep_state(vectors), optimizer=torch.optim.Adam)
    method = seps._released(vectors, frozen_clip(vectors))
    check(plain(method), path, vectors.eval_batch(), vectors["eval_after3.logits"])


def prompts(vectors: Vectors, prefix: str, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Deep prompts as released: the first of a tower has a name of its own."""
    state = {}
    for recorded, tower in names.items():
        found = [v for k, v in vectors.prefixed(prefix).items() if k.startswith(recorded)]
        first = "prompt_learner.ctx" if tower == "text_encoder" else "image_encoder.VPT"
        state[first] = found[0]
        for block, value in enumerate(found[1:], start=1):
            state[f"{tower}.transformer.resblocks.{block}.VPT_shallow"] = value
    return state


BOTH_TOWERS = {"prompt_text": "text_encoder", "prompt_vision": "image_encoder"}


@pytest.mark.parametrize(
    ("state", "said"), [("after3.", "eval_after3"), ("gpa.final.", "gpa.eval")]
)
def test_promptsrc(tmp_path, state, said):
    """As after a step, and as published: averaged over the epochs."""
    vectors = vectors_of("promptsrc")
    tensors = prompts(vectors, state, BOTH_TOWERS) | whole_clip()
    tensors |= class_buffers(5, vectors.constants["text_width"], "prompt_learner.")
    path = save(tmp_path, "VLPromptLearner", tensors, epoch=20)
    model = plain(src._build(vectors, frozen_clip(vectors)))
    check(model, path, vectors.eval_batch(), vectors[f"{said}.logits"])


def test_a_published_teacher(tmp_path, monkeypatch):
    vectors = vectors_of("promptkd")
    state = prompts(vectors, "clip.teacher.", BOTH_TOWERS) | whole_clip()
    path = save(tmp_path, "VLPromptLearner", state)
    monkeypatch.setattr(methods.teachers, "shared_clip", lambda *_: kd._clip(vectors, "teacher"))
    teacher = PublishedTeacher(kd._clip(vectors, "student"), vectors.classes, path=str(path))
    for images, expected in (
        (vectors.batch(1, POOLED), vectors["out1.teacher_logits"]),
        (vectors.eval_batch(), vectors["eval_after3.teacher_logits"]),
    ):
        torch.testing.assert_close(teacher.logits(images, vectors.classes), expected)


def student_state(vectors: Vectors) -> dict[str, torch.Tensor]:
    state = prompts(vectors, "after3.student.", {"prompt": "image_encoder"}) | whole_clip()
    return state | head("VPT_image_trans", vectors.prefixed("after3.student.align."))


def test_promptkd_student(tmp_path):
    vectors = vectors_of("promptkd")
    path = save(tmp_path, "VLPromptLearner", student_state(vectors), epoch=20)
    model = plain(kd._student(vectors))
    check(model, path, vectors.eval_batch(), vectors["eval_after3.logits"])


def test_text_refiner_on_promptkd(tmp_path):
    vectors = vectors_of("textrefiner_kd")
    state = student_state(vectors)
    state |= head("mid_image_trans", vectors.prefixed("after3.local.align."))
    memory = {"extractor.weight": vectors["after3.extractor.weight"]}
    save(tmp_path, "Memory", memory, epoch=20, memory_item=vectors["after3.cache"])
    path = save(tmp_path, "VLPromptLearner", state, epoch=20)
    method = kd._student(vectors)
    model = RefinedMethod(method, kd._refiner(method.output(), vectors.constants)).double()
    check(model, path, vectors.eval_batch(), vectors["eval_after3.logits"])


def coop_file(folder: Path, **changes) -> Path:
    ctx = torch.randn(4, 32, generator=torch.Generator().manual_seed(3))
    state = {"ctx": ctx.half(), **class_buffers(5, 32), **changes}
    state = {name: value for name, value in state.items() if value is not None}
    return save(folder, "prompt_learner", state)


def tiny(name: str = "CoOp", **settings) -> RefinedMethod:
    return make_model(make_method(name, shared_tiny_clip(), **settings))


def test_half_precision_becomes_the_precision_of_the_run(tmp_path):
    path, model = coop_file(tmp_path), tiny()
    load(model, path)
    assert model.method.ctx.dtype == torch.float32
    assert torch.equal(model.method.ctx, read_published(path).tensors["ctx"].float())


def test_a_bare_state_dict_and_several_devices(tmp_path):
    ctx = torch.randn(4, 32)
    torch.save({"module.prompt_learner.ctx": ctx, "logit_scale": torch.tensor(4.6)}, tmp_path / "a")
    model = tiny()
    load(model, tmp_path / "a")
    assert torch.equal(model.method.ctx, ctx)


def test_two_prompts_of_one_name_are_ambiguous(tmp_path):
    ctx = torch.randn(4, 32)
    torch.save({"prompt_learner.ctx": ctx, "ctx": ctx + 1}, tmp_path / "a")
    with pytest.raises(ValueError, match="holds two different tensors of the name 'ctx'"):
        read_published(tmp_path / "a")


REFUSED = [
    ({"ctx": None}, "CoOp", {}, "lacks 1 tensors, first 'ctx'; is it from another method"),
    ({"meta_net.linear1.bias": torch.ones(2)}, "CoOp", {}, "also holds 1 .* 'meta_net.linear1"),
    ({"image_encoder.VPT": torch.ones(2, 32)}, "CoOp", {}, "also holds 1 .* 'image_encoder.VPT'"),
    ({}, "CoOp", {"num_ctx": 3, "ctx_init": ""}, r"'ctx' is \(4, 32\) in .* \(3, 32\) here; set "),
    ({}, "CoOp", {"class_specific": True}, r"'ctx' is \(4, 32\) .* \(5, 4, 32\) here"),
    ({"ctx": torch.ones(4, 32, dtype=torch.int8)}, "CoOp", {}, "holds int8 in the tensor 'ctx'"),
    ({"ctx": torch.ones(4, 32) > 0}, "CoOp", {}, "holds bool in the tensor 'ctx'"),
    ({"ctx": torch.ones(4, 32) * 1j}, "CoOp", {}, "holds complex64 in the tensor 'ctx'"),
    ({"ctx": torch.ones(4, 32).to_sparse()}, "CoOp", {}, "holds sparse_coo in the tensor 'ctx'"),
    ({"ctx": torch.ones(4, 32, device="meta")}, "CoOp", {}, r"holds no numbers .* tensor 'ctx'"),
    ({}, "CoCoOp", {}, r"lacks 4 tensors, first 'meta_net\.linear1\.bias'"),
    ({}, "IVLP", {}, "lacks 5 tensors, first 'image_encoder.VPT'"),
    ({}, "ZeroShot", {}, "also holds 1 tensors, first 'ctx'"),
    ({}, "TipAdapterF", {}, "'method.keys' has no name in published checkpoints"),
    ({}, "NearestClassMean", {}, "also holds 1 tensors, first 'ctx'"),
]


@pytest.mark.parametrize(("changes", "name", "settings", "message"), REFUSED)
def test_files_that_do_not_fit_change_nothing(tmp_path, changes, name, settings, message):
    path, model = coop_file(tmp_path, **changes), tiny(name, **settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        load(model, path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"aggregation": "GatedAggregation"}, "'refiner.aggregation.extractor.weight' has no name"),
        ({"cache": "LearnedCache"}, "'refiner.cache.slots_MD' has no name in published"),
        ({"cache": "ClassCache"}, "also holds 1 tensors, first 'memory_item'"),
        ({"alignment": "NoAlignment"}, "also holds 9 tensors, first 'mid_image_trans"),
        (
            {"cache": part("EmaCache", num_slots=7)},
            r"'memory_item' is \(25, 32\) .* \(7, 32\) here",
        ),
    ],
)
def test_other_parts_than_the_released_ones_are_refused(tmp_path, parts, message):
    vectors = ("fc1.bias", "fc2.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    align = {name: torch.ones(32) for name in vectors}
    align |= {"fc1.weight": torch.ones(32, 32), "fc2.weight": torch.ones(32, 32)}
    path = coop_file(tmp_path, **head("mid_image_trans", align))
    extractor = {"extractor.weight": torch.ones(32, 64)}
    save(tmp_path, "Memory", extractor, memory_item=torch.ones(25, 32))
    load(make_model(make_method("CoOp", shared_tiny_clip()), cache="EmaCache"), path)
    with pytest.raises(ValueError, match=message):
        load(make_model(make_method("CoOp", shared_tiny_clip()), **parts), path)


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_clip_adapter(tmp_path):
    down, up = drawn(8, 32, seed=1), drawn(32, 8, seed=2)
    state = {"fc.0.weight": down, "fc.2.weight": up}
    model = tiny("ClipAdapter")
    load(model, save(tmp_path, "clip_adapter", state))
    assert torch.equal(model.method.down.weight, down)
    assert torch.equal(model.method.up.weight, up)


def test_taskres_with_the_base_of_the_file(tmp_path):
    """An enhanced base is in the file, and is not that of the frozen model."""
    base, residual = drawn(5, 32, seed=1), drawn(5, 32, seed=2)
    state = {"base_text_features": base, "text_feature_residuals": residual}
    model = tiny("TaskRes", alpha=1.0)
    load(model, save(tmp_path, "prompt_learner", state))
    text = base + residual
    torch.testing.assert_close(model.method.class_texts(), text / text.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("constraint", ["none", "class_adaptive"])
def test_clap(tmp_path, constraint):
    weight = drawn(5, 32, seed=1)
    state = {"prototypes": weight, "base_text_features": drawn(5, 32, seed=2)}
    model = tiny("LinearProbe", constraint=constraint)
    load(model, save(tmp_path, "adapter", state, epoch=300))
    assert torch.equal(model.method.weight, weight)


def test_a_closed_set_of_other_classes_is_refused(tmp_path):
    state = {"prototypes": drawn(7, 32, seed=1)}
    with pytest.raises(ValueError, match=r"'prototypes' is \(7, 32\) .* \(5, 32\) here"):
        load(tiny("LinearProbe"), save(tmp_path, "adapter", state))


@pytest.mark.parametrize(
    "name",
    [
        "CoOp", "CoCoOp", "IVLP", "PromptSRC", "PromptKD", "SEP", "ClipAdapter", "TaskRes",
        "LinearProbe", "CoPrompt", "TPT",
    ],
)  # fmt: skip
def test_everything_that_a_published_method_trains_has_a_name(name):
    model = make_model(make_method(name, shared_tiny_clip()), cache="EmaCache")
    names = model.released_names()
    assert {k for k, v in model.named_parameters() if v.requires_grad} <= set(names)
    assert set(names) <= set(model.state_dict()) and "refiner.cache.slots_MD" in names


class _Code:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_in_a_checkpoint_is_executed(tmp_path, capsys):
    path = save(tmp_path, "prompt_learner", {"ctx": torch.ones(4, 32)}, trainer=_Code())
    with pytest.raises(ValueError, match="cannot be read") as caught:
        read_published(path)
    assert "\n" not in str(caught.value)
    save(tmp_path, "prompt_learner", {"ctx": torch.ones(4, 32)}, trainer=SimpleNamespace())
    with pytest.raises(ValueError, match="cannot be read"):
        read_published(path)
    for nothing in ({}, {"state_dict": 3}, [1]):
        torch.save(nothing, path)
        with pytest.raises(ValueError, match="holds no tensors"):
            read_published(path)
    with pytest.raises(ValueError, match="does not exist"):
        read_published(tmp_path / "nowhere")
    assert "executed" not in capsys.readouterr().out
