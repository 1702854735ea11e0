"""Weights of ResNet, SigLIP and EVA: formats, activation, preparation of images, tokenizer."""

import json
import socket
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

import main
from core.clip import backbone
from core.clip.backbone import load_clip
from core.clip.weights import OPENAI_SIZES
from tests.helpers.hub_tokenizers import stand_in
from tests.helpers.open_clip_models import FAMILIES, family, open_clip, register_families

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
HUB = "nobody/tiny-siglip"
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch) -> None:
    register_families(tmp_path / "configs", monkeypatch)
    stand_in(monkeypatch, HUB, tmp_path / "siglip")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("core.clip.weights.URL_CACHE", tmp_path / "clip")
    backbone._note.cache_clear()

    def refuse(*args: object) -> None:
        raise AssertionError(f"the network was asked for {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def state_of(name: str) -> dict[str, torch.Tensor]:
    """Random weights that half precision holds exactly, as OpenAI's files do."""
    state = family(name).state_dict()
    return {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}


def archive(state: dict[str, torch.Tensor], path: Path) -> None:
    """OpenAI's TorchScript of a ResNet: parameters, and buffers of batch norms among them."""
    root = nn.Module()
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    for name, value in state.items():
        *parents, last = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        if name in OPENAI_SIZES or last in buffers:
            module.register_buffer(last, value)
        else:
            module.register_parameter(last, nn.Parameter(value))
    torch.jit.script(root).save(str(path))


def openai(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Half precision where OpenAI keeps it, and the three sizes."""
    keep = ("bn", "downsample.1", "ln_", "logit_scale", "embedding")
    sizes = {"input_resolution": 96, "context_length": 77, "vocab_size": 49408}
    half = {
        k: v.half() if v.is_floating_point() and not any(part in k for part in keep) else v
        for k, v in state.items()
    }
    return half | {name: torch.tensor(size) for name, size in sizes.items()}


def test_every_format_of_a_resnet_gives_the_same_backbone(tmp_path):
    state = state_of("tiny-resnet")
    files = [tmp_path / name for name in ("a.safetensors", "b.pt", "jit.pt", "dict.pt", "less.pt")]
    save_file(state, files[0])
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, files[1])
    archive(openai(state), files[2])
    torch.save(openai(state), files[3])
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, files[4])
    images = torch.randn(2, 3, 96, 96)
    clips = [load_clip("tiny-resnet-quickgelu", str(file)) for file in files]
    assert len({clip.spec.fingerprint for clip in clips}) == 1
    for clip in clips:
        assert clip.spec.quick_gelu and clip.spec.support.image == "ResNet"
        assert torch.equal(clip.encode_image(images).pooled, clips[0].encode_image(images).pooled)
        assert torch.equal(clip.encode_texts(["a cat"]), clips[0].encode_texts(["a cat"]))
    for file in files[2:4]:  # OpenAI's format has quick-GELU whatever the name says
        assert load_clip("tiny-resnet", str(file)).name == f"tiny-resnet-quickgelu/{file}"
    plain = load_clip("tiny-resnet", str(files[0]))
    assert not plain.spec.quick_gelu
    assert torch.equal(plain.encode_image(images).pooled, clips[0].encode_image(images).pooled)
    assert not torch.allclose(plain.encode_texts(["a cat"]), clips[0].encode_texts(["a cat"]))


def test_weights_of_another_family_say_what_differs(tmp_path):
    save_file(state_of("tiny-resnet"), tmp_path / "resnet.safetensors")
    save_file(state_of("tiny-vit"), tmp_path / "vit.safetensors")
    save_file(state_of("tiny-eva01"), tmp_path / "eva.safetensors")
    for name, file in (
        ("tiny-vit", "resnet"),
        ("tiny-resnet", "vit"),
        ("tiny-eva02", "eva"),
        ("tiny-siglip", "eva"),
        ("tiny-convnext", "resnet"),
    ):
        with pytest.raises(ValueError, match=r"do not fit the model: .*check the model name"):
            load_clip(name, str(tmp_path / f"{file}.safetensors"))


@pytest.mark.parametrize("name", ["tiny-siglip", "tiny-eva02", "tiny-convnext"])
def test_files_of_timm_towers_are_the_model_of_open_clip(tmp_path, name):
    model = family(name)
    state = model.state_dict()
    for key in ("logit_scale", "logit_bias"):  # some files have them with one dimension
        if key in state:
            state[key] = state[key].reshape(1)
    save_file(state, tmp_path / "clip.safetensors")
    plain = {k.removeprefix("text."): v for k, v in state.items()}  # older than towers of text
    torch.save(plain, tmp_path / "old.pt")
    images = torch.randn(2, 3, 32, 32)
    for file in ("clip.safetensors", "old.pt"):
        clip = load_clip(name, str(tmp_path / file))
        ids = clip.tokenizer(["a photo of a cat", "x"])
        with torch.no_grad():
            torch.testing.assert_close(clip.encode_image(images).pooled, model.encode_image(images))
            torch.testing.assert_close(
                clip.encode_texts(["a photo of a cat", "x"]), model.encode_text(ids)
            )


def siglip_folder(tmp_path: Path, **images: object) -> Path:
    folder = tmp_path / "siglip"
    folder.mkdir()
    save_file(state_of("tiny-siglip"), folder / "open_clip_model.safetensors")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    if images:
        model = {**FAMILIES["tiny-siglip"]}
        model["text_cfg"] = {**model["text_cfg"], "hf_tokenizer_name": "somebody/else"}
        content = {"model_cfg": model, "preprocess_cfg": images}
        (folder / "open_clip_config.json").write_text(json.dumps(content))
    return folder


def test_a_folder_of_the_hub_has_its_tokenizer_and_its_preparation_of_images(tmp_path, caplog):
    images = {"mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "squash"}
    clip = load_clip("tiny-siglip", str(siglip_folder(tmp_path, **images)))
    assert (clip.spec.image_mean, clip.spec.image_std, clip.spec.squash) == (HALF, HALF, True)
    assert not [r for r in caplog.records if "prepares images" in r.getMessage()]


def test_without_a_word_of_the_maker_images_are_prepared_as_all_tags_do(tmp_path, monkeypatch):
    source = {"mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "squash"}
    known = {"webli": {"hf_hub": "nobody/siglip/", **source}}
    tags = {**open_clip.pretrained._PRETRAINED, "tiny-siglip": known}
    monkeypatch.setattr(open_clip.pretrained, "_PRETRAINED", tags)
    clip = load_clip("tiny-siglip", str(siglip_folder(tmp_path)))
    assert clip.spec.image_mean == HALF and clip.spec.squash
    known["other"] = {"hf_hub": "nobody/other/", **source, "mean": (0.1, 0.1, 0.1)}
    clip = load_clip("tiny-siglip", str(tmp_path / "siglip"))
    assert clip.spec.image_mean != HALF and not clip.spec.squash  # they disagree


def test_the_other_model_of_a_timm_tower_is_refused(tmp_path):
    folder = siglip_folder(tmp_path, mean=HALF)
    config = json.loads((folder / "open_clip_config.json").read_text())
    for part, key, value in (
        ("vision_cfg", "timm_pool", "avg"),
        ("vision_cfg", "timm_model_name", "vit_other"),
        ("text_cfg", "act_kwargs", {}),
        ("text_cfg", "norm_kwargs", {"eps": 1e-5}),
    ):
        changed = {**config["model_cfg"], part: {**config["model_cfg"][part], key: value}}
        content = {**config, "model_cfg": changed}
        (folder / "open_clip_config.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"another model than 'tiny-siglip': .* {part}.{key} "):
            load_clip("tiny-siglip", str(folder))


def test_files_of_transformers_are_read_for_clip_alone(tmp_path):
    names = ("text_model.embeddings.token_embedding.weight", "logit_scale")
    save_file({name: torch.zeros(2, 2) for name in names}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="format of transformers, which is read for CLIP alone"):
        load_clip("tiny-siglip", str(tmp_path / "model.safetensors"))


def test_a_tokenizer_that_was_never_fetched_is_one_line_with_the_way_out(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    save_file(state_of("tiny-siglip"), tmp_path / "clip.safetensors")
    with pytest.raises(
        ValueError, match=rf"{HUB} .* put the files of {HUB} \(tokenizer.json, .*\)"
    ):
        load_clip("tiny-siglip", str(tmp_path / "clip.safetensors"))


def test_the_command_fetches_weights_and_tokenizer(tmp_path, monkeypatch, capsys):
    import huggingface_hub

    source = {"hf_hub": "nobody/siglip/", "mean": HALF, "std": HALF, "resize_mode": "squash"}
    tags = {**open_clip.pretrained._PRETRAINED, "tiny-siglip": {"webli": source}}
    monkeypatch.setattr(open_clip.pretrained, "_PRETRAINED", tags)
    stand_in(monkeypatch)
    asked: list[str] = []

    def download(source) -> str:
        folder = tmp_path / "hub" / "models--nobody--siglip"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("abc")
        path = folder / "snapshots" / "abc" / "open_clip_model.safetensors"
        path.parent.mkdir(parents=True)
        save_file(state_of("tiny-siglip"), path)
        return str(path)

    def snapshot(repository: str, allow_patterns: list[str]) -> str:
        asked.append(repository)
        stand_in(monkeypatch, repository)
        return ""

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(sys, "argv", ["main.py", "weights", "tiny-siglip", "webli"])
    assert main.main() == 0 and asked == [HUB]
    assert "tiny-siglip/webli is ready, fingerprint " in capsys.readouterr().out
    stand_in(monkeypatch)
    with pytest.raises(ValueError, match=r"cannot be read: .*; fetch it with: python main.py weig"):
        load_clip("tiny-siglip", "webli")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RN-50", "RN50"),
        ("resnet50", "RN50"),
        ("clip_resnet101", "RN101"),
        ("rn50x4", "RN50x4"),
        ("RN50_quickgelu", "RN50-quickgelu"),
        ("google/siglip-base-patch16-224", "ViT-B-16-SigLIP"),
        ("google/siglip2-base-patch16-384", "ViT-B-16-SigLIP2-384"),
        ("google/siglip-so400m-patch14-384", "ViT-SO400M-14-SigLIP-384"),
        ("SigLIP-B/16", "ViT-B-16-SigLIP"),
        ("siglip_vit_b16_256", "ViT-B-16-SigLIP-256"),
        ("EVA02-CLIP-B-16", "EVA02-B-16"),
        ("eva02_base_patch16_clip_224", "EVA02-B-16"),
        ("EVA02_L_14_336", "EVA02-L-14-336"),
    ],
)
def test_the_usual_spellings_of_other_families_get_the_right_suggestion(name, meant):
    with pytest.raises(ValueError, match=f"unknown backbone '{name}'; did you mean '{meant}'"):
        load_clip(name, "openai")
