"""Weights of a backbone: four formats of one model, pretrained tags, and what is refused."""

import hashlib
import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

import main
from core.clip import backbone
from core.clip.backbone import load_clip
from core.clip.weights import OPENAI_SIZES, read_state_dict
from tests.helpers.open_clip_models import open_clip, random_model, tiny_config

SIZES = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def small_names(tmp_path, monkeypatch) -> None:
    """Small models that open_clip knows by name for the length of a test, and no network."""
    from open_clip import factory

    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    configs = tmp_path / "configs"
    configs.mkdir()
    changes = {
        "small-16": {},
        "small-16-quickgelu": {"quick_gelu": True},
        "small-4": {"vision_cfg": {**tiny_config()["vision_cfg"], "patch_size": 16}},
        "small-short": {"text_cfg": {**tiny_config()["text_cfg"], "context_length": 50}},
    }
    for name, change in changes.items():
        (configs / f"{name}.json").write_text(json.dumps(tiny_config() | change))
    open_clip.add_model_config(configs)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("core.clip.weights.URL_CACHE", tmp_path / "clip")

    def refuse(*args: object) -> None:
        raise AssertionError(f"the network was asked for {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Random weights that half precision holds exactly, as OpenAI's files do."""
    return {
        key: value.half().float() for key, value in random_model("small-16").state_dict().items()
    }


def archive(state: dict[str, torch.Tensor], path: Path) -> None:
    """A TorchScript program whose modules are named as in ``state``, as OpenAI publishes CLIP."""
    root = nn.Module()
    for name, value in state.items():
        *parents, last = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        if name in OPENAI_SIZES:
            module.register_buffer(last, value)
        else:
            module.register_parameter(last, nn.Parameter(value))
    torch.jit.script(root).save(str(path))


def openai(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Half precision where OpenAI keeps it, and the three sizes."""
    stay = ("ln_", "logit_scale", "positional_embedding", "class_embedding", "token_embedding")
    weights = {k: v if any(s in k for s in stay) else v.half() for k, v in state.items()}
    return weights | {name: torch.tensor(size) for name, size in SIZES.items()}


def write_all(state: dict[str, torch.Tensor], folder: Path) -> list[Path]:
    """One model in every format: open_clip's three, OpenAI's archive and its state dict."""
    files = [folder / f for f in ("a.safetensors", "b.bin", "c.pt", "jit.pt", "openai.pt")]
    save_file(state, files[0])
    torch.save(state, files[1])
    training = {f"module.{k}": v for k, v in state.items()}
    torch.save({"epoch": 32, "name": "run", "state_dict": training}, files[2])
    archive(openai(state), files[3])
    torch.save(openai(state), files[4])
    return files


def test_every_format_gives_the_same_backbone(state, tmp_path):
    files = write_all(state, tmp_path)
    images = torch.randn(1, 3, 32, 32)
    clips = [load_clip("small-16-quickgelu", str(file)) for file in files]
    assert len({clip.spec.fingerprint for clip in clips}) == 1
    assert {tensor.dtype for clip in clips for tensor in clip.state_dict().values()} == {
        torch.float32
    }
    first = clips[0]
    for clip in clips[1:]:
        assert torch.equal(clip.encode_image(images).pooled, first.encode_image(images).pooled)
        assert torch.equal(clip.encode_texts(["a cat"]), first.encode_texts(["a cat"]))
    other = dict(state)
    other["logit_scale"] = state["logit_scale"] + 1e-6
    save_file(other, tmp_path / "other.safetensors")
    changed = load_clip("small-16", str(tmp_path / "other.safetensors"))
    assert changed.spec.fingerprint != first.spec.fingerprint


def test_openai_files_select_quick_gelu_and_others_take_the_name(state, tmp_path):
    *plain, jit, dictionary = write_all(state, tmp_path)
    images = torch.randn(1, 3, 32, 32)
    expected = load_clip("small-16-quickgelu", str(plain[0])).encode_image(images).pooled
    for file in (jit, dictionary):
        clip = load_clip("small-16", str(file))
        assert clip.name == f"small-16-quickgelu/{file}" and clip.spec.quick_gelu
        assert torch.equal(clip.encode_image(images).pooled, expected)
    for file in plain:
        clip = load_clip("small-16", str(file))
        assert clip.name == f"small-16/{file}" and not clip.spec.quick_gelu
        assert (clip.encode_image(images).pooled - expected).abs().max() > 1e-4


def hub_file(repository: str, name: str) -> Path:
    """Where the cache of the Hugging Face hub keeps a file, after a first download."""
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    return folder / "snapshots" / "abc" / name


@pytest.fixture
def tags(monkeypatch) -> None:
    """Tags as open_clip describes them: with quick-GELU, without, and known by url alone."""
    quick = {"url": "https://nowhere/x/small.pt", "hf_hub": "nobody/quick/", "quick_gelu": True}
    known = {
        "small-16": {
            "openai": quick,
            "laion_plain": {"hf_hub": "nobody/plain/", "mean": (0.5, 0.5, 0.4)},
            "by_url": {"url": "https://nowhere/x/only.pt"},
        },
        "small-16-quickgelu": {"openai": quick, "quick_only": quick},
    }
    monkeypatch.setattr(
        open_clip.pretrained, "_PRETRAINED", {**open_clip.pretrained._PRETRAINED, **known}
    )


@pytest.mark.usefixtures("tags")
def test_a_tag_that_was_never_fetched_is_one_line_with_the_way_out(tmp_path):
    for name, tag in (("small-16", "openai"), ("small-16-quickgelu", "quick_only")):
        with pytest.raises(ValueError) as caught:
            load_clip(name, tag)
        line = str(caught.value)
        assert "\n" not in line and f"about 11 MB from nobody/quick into {tmp_path}/hub" in line
        assert line.endswith(f"python main.py weights {name} {tag}")
    with pytest.raises(ValueError, match=rf"from https://nowhere/x/only.pt into {tmp_path}/clip "):
        load_clip("small-16", "by_url")


@pytest.mark.usefixtures("tags")
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_fetched_tags_load_without_network_and_select_quick_gelu(state, file):
    path = hub_file("nobody/quick", file)
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    names = [("small-16", "openai"), ("small-16", "quick_only"), ("small-16-quickgelu", "openai")]
    for name, tag in names:
        clip = load_clip(name, tag)
        assert clip.name == f"small-16-quickgelu/{tag}" and clip.spec.quick_gelu
    torch.save(state, path := hub_file("nobody/plain", "open_clip_pytorch_model.bin"))
    clip = load_clip("small-16", "laion-plain")
    assert clip.name == "small-16/laion-plain" and not clip.spec.quick_gelu
    assert clip.spec.image_mean == (0.5, 0.5, 0.4)
    with pytest.raises(ValueError, match=r"trained without quick-GELU.* use 'small-16'"):
        load_clip("small-16-quickgelu", "laion_plain")


@pytest.mark.usefixtures("tags")
def test_an_archive_in_the_folder_of_openais_code_serves_too(state, tmp_path):
    (tmp_path / "clip").mkdir()
    archive(openai(state), tmp_path / "clip" / "small.pt")
    assert load_clip("small-16", "openai").name == "small-16-quickgelu/openai"


@pytest.mark.usefixtures("tags")
def test_fetch_downloads_once_and_says_why_it_cannot(state, tmp_path, monkeypatch):
    asked = []

    def download(source) -> str:
        asked.append(source["hf_hub"])
        save_file(state, path := hub_file("nobody/quick", "open_clip_model.safetensors"))
        return str(path)

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    first = backbone.fetch("small-16", "openai")
    assert backbone.fetch("small-16", "openai") == first and asked == ["nobody/quick/"]
    assert load_clip("small-16", "openai").spec.quick_gelu

    def fail(source) -> str:
        raise FileNotFoundError("no route to host\nsecond line")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(
        ValueError, match="cannot be downloaded: no route to host; download the file"
    ):
        backbone.fetch("small-16", "laion_plain")


def test_real_openai_tags_are_quick_gelu_under_both_names():
    names = [name for name in open_clip.list_models() if name.startswith("ViT-")]
    plain = [name for name in names if f"{name}-quickgelu" in names]
    assert {"ViT-B-16", "ViT-B-32", "ViT-L-14", "ViT-L-14-336"} <= set(plain)
    for name in plain:
        quick = open_clip.get_model_config(f"{name}-quickgelu")
        assert quick == {**open_clip.get_model_config(name), "quick_gelu": True}
        for model in (name, f"{name}-quickgelu"):
            if "openai" in open_clip.list_pretrained_tags_by_model(model):
                assert backbone.pretrained_source(model, "openai")["quick_gelu"]


@pytest.mark.usefixtures("tags")
def test_the_command_says_the_size_before_it_asks_anybody(state, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["main.py", "weights", "small-16", "openai"])

    def download(source) -> str:
        before = capsys.readouterr().out
        assert before.startswith("weights 'openai' of 'small-16': about 11 MB from nobody/quick")
        assert before.endswith(f"into {tmp_path}/hub\n")
        save_file(state, path := hub_file("nobody/quick", "open_clip_model.safetensors"))
        return str(path)

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    assert main.main() == 0
    assert "small-16-quickgelu/openai is ready, fingerprint " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["main.py", "weights", "small-16", "opennai"])
    assert main.main() == 2
    assert "no pretrained tag 'opennai'" in capsys.readouterr().err


def test_weights_of_another_shape_say_what_differs(state, tmp_path):
    file = tmp_path / "clip.safetensors"
    save_file(state, file)
    with pytest.raises(ValueError, match=r"'visual.positional_embedding' is \(17, 64\) in the "):
        load_clip("small-4", str(file))
    with pytest.raises(ValueError, match=r"\(77, 48\) .* \(50, 48\) .*a different context length"):
        load_clip("small-short", str(file))
    save_file({k: v for k, v in state.items() if k != "logit_scale"}, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match="do not fit the model: the file lacks 1 tensors"):
        load_clip("small-16", str(tmp_path / "less.safetensors"))
    save_file(state | {"logit_bias": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(ValueError, match="the file has unknown 1 tensors, first 'logit_bias'"):
        load_clip("small-16", str(tmp_path / "more.safetensors"))


def test_torn_files_are_refused_in_one_line(state, tmp_path):
    for file in write_all(state, tmp_path):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(ValueError, match="cannot be read") as caught:
            load_clip("small-16", str(file))
        assert "\n" not in str(caught.value)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no tensors by name, .* it is a list; save"):
        load_clip("small-16", str(tmp_path / "list.pt"))


class _Code:
    """What a weights file must not be able to do: run something when it is read."""

    def __reduce__(self):
        return (print, ("executed",))


class _Program(nn.Module):
    """A program that says so when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self) -> torch.Tensor:
        print("executed")
        return self.weight


def test_nothing_in_a_weights_file_is_executed(tmp_path, capfd):
    torch.save({"state_dict": _Code()}, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_clip("small-16", str(tmp_path / "clip.pt"))
    torch.jit.script(_Program()).save(str(tmp_path / "program.pt"))
    assert list(read_state_dict(tmp_path / "program.pt")) == ["weight"]
    assert "executed" not in capfd.readouterr().out


CONFIG = "open_clip_config.json"
UNKNOWN = "whether they were trained with quick-GELU is unknown"


@pytest.fixture
def notes(caplog) -> Callable[[], list[str]]:
    """The notes so far; each is said once per process, so that they are forgotten first."""
    backbone._note.cache_clear()
    ours = "core.clip.backbone"
    return lambda: [record.getMessage() for record in caplog.records if record.name == ours]


def put_beside(file: Path, name: str, **content: object) -> Path:
    """A file in a folder of its own with a configuration beside it."""
    folder = file.with_suffix("")
    folder.mkdir(exist_ok=True)
    shutil.copy(file, folder / file.name)
    (folder / name).write_text(json.dumps(content))
    return folder / file.name


@pytest.mark.parametrize("quick", [True, False])
def test_the_configuration_beside_a_file_says_the_activation(state, tmp_path, notes, quick):
    save_file(state, tmp_path / "clip.safetensors")
    images = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}
    model = tiny_config(quick_gelu=quick)
    file = put_beside(tmp_path / "clip.safetensors", CONFIG, model_cfg=model, preprocess_cfg=images)
    clip = load_clip("small-16", str(file))
    assert clip.spec.quick_gelu is quick and notes() == []
    assert clip.spec.image_mean == (0.5, 0.4, 0.3) and clip.spec.image_std == (0.2, 0.2, 0.1)
    assert clip.name.startswith("small-16-quickgelu/" if quick else "small-16/")
    if quick:
        assert load_clip("small-16-quickgelu", str(file)).spec == clip.spec
    else:
        with pytest.raises(ValueError, match=r"without quick-GELU, as .* use 'small-16'$"):
            load_clip("small-16-quickgelu", str(file))


@pytest.mark.usefixtures("notes")
@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("vision_cfg", "head_width", 32),  # shows in no tensor
        ("text_cfg", "heads", 6),
        ("vision_cfg", "patch_size", 16),
        ("text_cfg", "context_length", 50),
    ],
)
def test_the_configuration_of_another_model_is_refused(state, tmp_path, part, key, value):
    save_file(state, tmp_path / "clip.safetensors")
    model = tiny_config()
    model[part] = {**model[part], key: value}
    file = put_beside(tmp_path / "clip.safetensors", CONFIG, model_cfg=model)
    with pytest.raises(ValueError, match=rf"another model than 'small-16': .* has {part}.{key} "):
        load_clip("small-16", str(file))
    file = put_beside(tmp_path / "clip.safetensors", CONFIG, model_cfg={"embed_dim": 32})
    with pytest.raises(ValueError, match="has no 'model_cfg' with a 'vision_cfg'"):
        load_clip("small-16", str(file))


@pytest.mark.usefixtures("notes")
@pytest.mark.parametrize(
    ("part", "key", "value", "same"),
    [
        ("vision_cfg", "pool_type", "avg", "tok"),
        ("vision_cfg", "norm_kwargs", {"eps": 0.1}, {"eps": 1e-5}),
        ("vision_cfg", "act_kwargs", {"approximate": "tanh"}, {}),
        ("vision_cfg", "qk_norm", True, False),
        ("text_cfg", "no_causal_mask", True, False),
        ("text_cfg", "pool_type", "first", "argmax"),
        ("text_cfg", "hf_tokenizer_name", "other", None),
        ("text_cfg", "rotary", 2, None),  # unknown to open_clip
        ("vision_cfg", "patch_dropout", None, 0.5),  # for training only
    ],
)
def test_every_key_that_makes_another_model_is_refused(state, tmp_path, part, key, value, same):
    save_file(state, tmp_path / "clip.safetensors")
    model = tiny_config()
    model[part] = {**model[part], key: same}
    file = put_beside(tmp_path / "clip.safetensors", CONFIG, model_cfg=model)
    assert load_clip("small-16", str(file)).spec.quick_gelu is False
    if value is not None:
        model[part] = {**model[part], key: value}
        file = put_beside(tmp_path / "clip.safetensors", CONFIG, model_cfg=model)
        with pytest.raises(ValueError, match=rf"another model than 'small-16': .* {part}.{key} "):
            load_clip("small-16", str(file))


@pytest.mark.parametrize(
    ("tower", "key", "value", "same"),
    [
        ("vision_config", "hidden_act", "relu", "quick_gelu"),
        ("text_config", "hidden_act", "gelu_new", "quick_gelu"),
        ("vision_config", "layer_norm_eps", 0.1, 1e-5),
        ("text_config", "layer_norm_eps", 1e-6, 1e-5),
        ("text_config", "eos_token_id", 5, 2),
    ],
)
def test_what_transformers_does_and_open_clip_does_not_is_refused(
    state, tmp_path, tower, key, value, same
):
    save_file(as_transformers(state), tmp_path / "model.safetensors")
    config = transformers_config()
    config[tower] = {**config[tower], key: same}
    file = put_beside(tmp_path / "model.safetensors", "config.json", **config)
    assert load_clip("small-16", str(file)).spec.quick_gelu
    config[tower] = {**config[tower], key: value}
    file = put_beside(tmp_path / "model.safetensors", "config.json", **config)
    with pytest.raises(ValueError, match=rf"another model: it has {tower}.{key} {value!r}"):
        load_clip("small-16", str(file))


@pytest.mark.parametrize(
    "change",
    [
        {"model_cfg": {**tiny_config(), "quick_gelu": "yes"}},
        {"model_cfg": {**tiny_config(), "quick_gelu": None}},
        {"model_cfg": {**tiny_config(), "vision_cfg": [1]}},
        {"preprocess_cfg": [1]},
        {"preprocess_cfg": {"mean": 3}},
        {"preprocess_cfg": {"std": ["a", "b", "c"]}},
    ],
)
def test_a_configuration_of_a_wrong_type_is_refused(state, tmp_path, change):
    save_file(state, tmp_path / "clip.safetensors")
    content = {"model_cfg": tiny_config(), **change}
    with pytest.raises(ValueError, match=r"open_clip_config\.json has .*; mend it"):
        load_clip("small-16", str(put_beside(tmp_path / "clip.safetensors", CONFIG, **content)))


def test_an_unknown_activation_is_said_once_with_the_way_out(state, tmp_path, notes):
    save_file(state, tmp_path / "clip.safetensors")
    for _ in range(2):
        assert not load_clip("small-16", str(tmp_path / "clip.safetensors")).spec.quick_gelu
    (note,) = notes()
    assert UNKNOWN in note and "set experiment.backbone = 'small-16-quickgelu'" in note
    assert load_clip("small-16-quickgelu", str(tmp_path / "clip.safetensors")).spec.quick_gelu
    assert len(notes()) == 1


def test_other_resizing_than_here_is_said(state, tmp_path, notes):
    save_file(state, tmp_path / "clip.safetensors")
    images = {"interpolation": "bilinear", "resize_mode": "squash"}
    content = {"model_cfg": tiny_config(), "preprocess_cfg": images}
    load_clip("small-16", str(put_beside(tmp_path / "clip.safetensors", CONFIG, **content)))
    (note,) = notes()
    assert "interpolation 'bilinear', resize_mode 'squash'" in note


@pytest.mark.usefixtures("tags")
@pytest.mark.parametrize("how", ["the file itself", "a copy", "a copy in another format"])
def test_a_file_of_a_known_tag_has_that_tags_activation(state, tmp_path, notes, how):
    cached = hub_file("nobody/quick", "open_clip_model.safetensors")
    save_file(state, cached)
    file = cached
    if how == "a copy":
        shutil.copy(cached, file := tmp_path / "renamed.bin")
    elif how == "a copy in another format":
        torch.save({"state_dict": state}, file := tmp_path / "other.pt")
    by_tag, by_path = load_clip("small-16", "openai"), load_clip("small-16", str(file))
    assert by_path.spec == by_tag.spec and by_path.spec.quick_gelu and notes() == []
    other = {**state, "logit_scale": state["logit_scale"] + 1}
    save_file(other, tmp_path / "another.safetensors")
    assert not load_clip("small-16", str(tmp_path / "another.safetensors")).spec.quick_gelu
    assert UNKNOWN in notes()[-1]


def test_a_file_is_known_by_the_sha256_in_the_address_of_its_tag(
    state, tmp_path, monkeypatch, notes
):
    file = tmp_path / "mine.safetensors"
    save_file(state, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    for url in (f"https://nowhere/{digest}/a.pt", f"https://nowhere/x/a-e31-{digest[:8]}.pt"):
        known = {"small-16": {"some": {"url": url, "quick_gelu": True}}}
        monkeypatch.setattr(open_clip.pretrained, "_PRETRAINED", known)
        assert load_clip("small-16", str(file)).spec.quick_gelu and notes() == []
    known = {"small-16": {"some": {"url": "https://nowhere/0123abcd/a.pt", "quick_gelu": True}}}
    monkeypatch.setattr(open_clip.pretrained, "_PRETRAINED", known)
    assert not load_clip("small-16", str(file)).spec.quick_gelu


def as_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of what is tested, written from the documentation of the other library."""
    made = {"logit_scale": state["logit_scale"]}
    made["text_projection.weight"] = state["text_projection"].t().contiguous()
    made["visual_projection.weight"] = state["visual.proj"].t().contiguous()
    text, vision = "text_model.embeddings", "vision_model.embeddings"
    made[f"{text}.token_embedding.weight"] = state["token_embedding.weight"]
    made[f"{text}.position_embedding.weight"] = state["positional_embedding"]
    made[f"{text}.position_ids"] = torch.arange(77)[None]
    made[f"{vision}.position_ids"] = torch.arange(17)[None]
    made[f"{vision}.class_embedding"] = state["visual.class_embedding"]
    made[f"{vision}.patch_embedding.weight"] = state["visual.conv1.weight"]
    made[f"{vision}.position_embedding.weight"] = state["visual.positional_embedding"]
    for kind in ("weight", "bias"):
        made[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        made[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        made[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        for tower, prefix in (("text_model", ""), ("vision_model", "visual.")):
            for i in range(3):
                block = f"{prefix}transformer.resblocks.{i}"
                layer = f"{tower}.encoder.layers.{i}"
                parts = state[f"{block}.attn.in_proj_{kind}"].chunk(3)
                for letter, part in zip("qkv", parts, strict=True):
                    made[f"{layer}.self_attn.{letter}_proj.{kind}"] = part.clone()
                for theirs, ours in (
                    ("self_attn.out_proj", "attn.out_proj"),
                    ("layer_norm1", "ln_1"),
                    ("layer_norm2", "ln_2"),
                    ("mlp.fc1", "mlp.c_fc"),
                    ("mlp.fc2", "mlp.c_proj"),
                ):
                    made[f"{layer}.{theirs}.{kind}"] = state[f"{block}.{ours}.{kind}"]
    return made


def transformers_config(**vision: object) -> dict[str, object]:
    """``config.json`` of the small model."""
    return {
        "model_type": "clip",
        "projection_dim": 32,
        "text_config": {
            "hidden_size": 48,
            "num_attention_heads": 3,
            "num_hidden_layers": 3,
            "hidden_act": vision.get("hidden_act", "quick_gelu"),
        },
        "vision_config": {
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "patch_size": 8,
            "image_size": 32,
            **vision,
        },
    }


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", None])
def test_files_of_transformers_are_the_same_backbone(state, tmp_path, notes, name, activation):
    theirs, file = as_transformers(state), tmp_path / name
    save_file(theirs, file) if file.suffix == ".safetensors" else torch.save(theirs, file)
    save_file(state, tmp_path / "ours.safetensors")
    named = {"hidden_act": activation} if activation else {}
    file = put_beside(file, "config.json", **transformers_config(**named))
    images = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    (file.parent / "preprocessor_config.json").write_text(json.dumps(images))
    clip = load_clip("small-16", str(file.parent))  # the folder
    assert clip.spec.quick_gelu is (activation != "gelu") and notes() == []
    assert clip.spec.image_mean == (0.5, 0.4, 0.3)
    ours = "small-16" if activation == "gelu" else "small-16-quickgelu"
    ours = load_clip(ours, str(tmp_path / "ours.safetensors"))
    assert clip.spec.fingerprint == ours.spec.fingerprint
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(clip.encode_image(pixels).pooled, ours.encode_image(pixels).pooled)
    assert torch.equal(clip.encode_texts(["a cat", "dogs"]), ours.encode_texts(["a cat", "dogs"]))


def test_files_of_transformers_that_do_not_fit_say_why(state, tmp_path, notes):
    theirs = as_transformers(state)
    save_file(theirs, file := tmp_path / "model.safetensors")
    assert not load_clip("small-16", str(file)).spec.quick_gelu and UNKNOWN in notes()[0]
    with pytest.raises(ValueError, match=r"'visual\.positional_embedding' is"):
        load_clip("small-4", str(file))
    file = put_beside(file, "config.json", **transformers_config(num_attention_heads=8))
    with pytest.raises(ValueError, match=r"has vision_cfg\.head_width 8, the model 16"):
        load_clip("small-16", str(file))
    key = "text_model.encoder.layers.1.self_attn.k_proj.bias"
    save_file({k: v for k, v in theirs.items() if k != key}, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"lacks k_proj of 'transformer.resblocks.1.attn.in_proj_"):
        load_clip("small-16", str(tmp_path / "less.safetensors"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"folder .* holds none of open_clip_model.safetensors,"):
        load_clip("small-16", str(tmp_path / "folder"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize(
    "name",
    [
        "logit_scale",
        "text_projection",
        "token_embedding.weight",
        "transformer.resblocks.2.mlp.c_fc.bias",
        "visual.proj",
        "visual.transformer.resblocks.0.attn.in_proj_weight",
    ],
)
def test_weights_that_are_not_finite_name_the_tensor(state, tmp_path, name, value):
    bad = {key: tensor.double() for key, tensor in state.items()}
    bad[name].view(-1)[-1] = value  # 1e300 overflows in the precision of the model
    save_file(bad, tmp_path / "bad.safetensors")
    kind = "NaN" if value != value else "an infinity"
    with pytest.raises(ValueError, match=f"bad.safetensors holds {kind} in the tensor '{name}'"):
        load_clip("small-16", str(tmp_path / "bad.safetensors"))
    torch.save({k: v.half() for k, v in bad.items()}, tmp_path / "half.bin")
    with pytest.raises(ValueError, match=f"in the tensor '{name}'"):
        load_clip("small-16", str(tmp_path / "half.bin"))


@pytest.mark.parametrize("name", ["visual.proj", "logit_scale"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_in_other_number_kinds_name_the_tensor(state, tmp_path, name, dtype):
    torch.save({**state, name: state[name].to(dtype)}, tmp_path / "odd.pt")
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"odd.pt holds {kind} in the tensor '{name}'; weights"):
        load_clip("small-16", str(tmp_path / "odd.pt"))


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_without_their_numbers_are_named(state, tmp_path, kind):
    projection = state["visual.proj"]
    odd = projection.to_sparse() if kind == "sparse" else projection.to("meta")
    torch.save({**state, "visual.proj": odd}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd.pt holds .* tensor 'visual.proj'|odd.pt cannot be"):
        load_clip("small-16", str(tmp_path / "odd.pt"))


def test_a_packed_projection_of_integers_is_named(state, tmp_path):
    theirs, key = as_transformers(state), "text_model.encoder.layers.1.self_attn.k_proj.bias"
    theirs[key] = theirs[key].to(torch.int8)  # the packing of all three would cast it
    save_file(theirs, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"holds int8 in the tensor '{key}'"):
        load_clip("small-16", str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("end", ["pt", "safetensors"])
def test_two_tensors_of_one_name_are_ambiguous(state, tmp_path, prefix, end):
    def load(tensors):
        file = tmp_path / f"two.{end}"
        torch.save(tensors, file) if end == "pt" else save_file(tensors, file)
        return load_clip("small-16", str(file))

    twice = {**state, f"{prefix}visual.proj": state["visual.proj"].clone()}
    assert load(twice).spec == load(state).spec
    twice[f"{prefix}visual.proj"] += 1
    with pytest.raises(ValueError, match=r"holds two different tensors of the name 'visual.proj'"):
        load(twice)


def test_what_a_file_holds_instead_is_said(state, tmp_path):
    file = tmp_path / "a.pt"
    for content, said in (
        ({f"clip.{k}": v for k, v in state.items()}, "has 86 others, first 'clip.ln_final.bias'"),
        ({"model_ema": state}, r"holds no tensors by name, .* the keys 'model_ema'; save"),
        ({"a": {"b": state}}, r"the keys 'a'; save"),
        ([state], r"it is a list; save"),
    ):
        torch.save(content, file)
        with pytest.raises(ValueError, match=said):
            load_clip("small-16", str(file))
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(state, folder / "model.fp16.safetensors")
    with pytest.raises(ValueError, match=r"holds none of .*, but model.fp16.safetensors; give"):
        load_clip("small-16", str(folder))
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds a model in several files \(model.safetensors.ind"):
        load_clip("small-16", str(folder))


def test_a_scale_whose_exponential_overflows_is_refused(state, tmp_path):
    save_file({**state, "logit_scale": torch.tensor(1000.0)}, tmp_path / "loud.safetensors")
    with pytest.raises(ValueError, match=r"exp\(logit_scale\) holds an infinity"):
        load_clip("small-16", str(tmp_path / "loud.safetensors"))


@pytest.mark.parametrize("value", [-300.0, -9.0, 12.0, 80.0])
def test_a_scale_that_no_training_gives_is_refused(state, tmp_path, value):
    save_file({**state, "logit_scale": torch.tensor(value)}, tmp_path / "odd.safetensors")
    with pytest.raises(
        ValueError, match=r"odd.safetensors, exp\(logit_scale\) is .*, but a trained CLIP has"
    ):
        load_clip("small-16", str(tmp_path / "odd.safetensors"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ViT-L/14@336px", "ViT-L-14-336"),
        ("vit_b16", "ViT-B-16"),
        ("ViT-B/16", "ViT-B-16"),
        ("ViTB32", "ViT-B-32"),
        ("clip-vit-base-patch16", "ViT-B-16"),
        ("openai/clip-vit-base-patch16", "ViT-B-16"),
        ("openai/clip-vit-large-patch14-336", "ViT-L-14-336"),
        ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", "ViT-bigG-14"),
        ("hf-hub:timm/vit_base_patch32_clip_224.openai", "ViT-B-32"),
        ("ViT-B/16-quickgelu", "ViT-B-16-quickgelu"),
        ("ViT-g/14", "ViT-g-14"),
        ("mosaik", "mosaic"),
    ],
)
def test_the_usual_spellings_of_models_get_the_right_suggestion(name, meant):
    with pytest.raises(ValueError, match=f"unknown backbone '{name}'; did you mean '{meant}'"):
        load_clip(name, "openai")


def test_quick_gelu_can_be_named_for_every_model(tmp_path, notes):
    assert "small-short-quickgelu" not in open_clip.list_models()
    save_file(random_model("small-short").state_dict(), tmp_path / "clip.safetensors")
    clip = load_clip("small-short-quickgelu", str(tmp_path / "clip.safetensors"))
    assert clip.spec.quick_gelu and notes() == []


@pytest.mark.usefixtures("tags")
def test_a_tag_is_a_tag_whatever_lies_in_the_folder(state, tmp_path, monkeypatch):
    save_file(state, hub_file("nobody/quick", "open_clip_model.safetensors"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai").write_text("something else")
    assert load_clip("small-16", "openai").name == "small-16-quickgelu/openai"
    (tmp_path / "mine").write_text("<html></html> " * 3)
    with pytest.raises(ValueError, match="mine cannot be read: it is an HTML page"):
        load_clip("small-16", "mine")
