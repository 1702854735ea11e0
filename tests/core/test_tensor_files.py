"""What people give for a file of tensors, and what each reader says about it, in one line."""

import argparse
import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from core.clip.weights import read_state_dict
from core.tensor_files import first_line, is_safetensors, load_torch, read_safetensors
from core.train.checkpoints import load_checkpoint
from core.train.published_checkpoints import read_published

TENSORS = {"a": torch.arange(600.0).reshape(20, 30), "b": torch.ones(3)}


def torch_bytes(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def packed(kind: str) -> bytes:
    buffer, content = io.BytesIO(), torch_bytes(TENSORS)
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            about = tarfile.TarInfo("clip.pt")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    else:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("clip.pt", content)
    return buffer.getvalue()


def numpy_bytes(*, many: bool) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3)) if many else np.save(buffer, np.ones(3))
    return buffer.getvalue()


class Model(nn.Module):
    """A model of somebody's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


def zeroed(content: bytes) -> bytes:
    return content[:200] + bytes(100) + content[300:]


LEGACY = {"_use_new_zipfile_serialization": False}
KINDS = {
    "page.pt": (
        b"<!DOCTYPE html><html><title>\x1b[31m404 Not Found</title></html>",
        "an HTML page",
    ),
    "blanks.safetensors": (b"\n\n  <HTML lang='de'><body>login</body>", "an HTML page"),
    "latin.bin": (b"<html><body>Stra\xdfe und M\xfcller, nicht gefunden", "an HTML page"),
    "error.bin": (b"<?xml version='1.0'?><Error><Code>AccessDenied", "an XML page"),
    "lfs.safetensors": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 598641023\n",
        "a Git LFS pointer.*git lfs pull",
    ),
    "empty.pt": (b"", "empty"),
    "empty.safetensors": (b"", "empty"),
    "few.safetensors": (save(TENSORS)[:5], "cut: it has only 5 bytes"),
    "zeros.bin": (bytes(4000), "filled with zeros"),
    "cut.pt": (torch_bytes(TENSORS)[:2000], "cut: a torch file without its end"),
    "cut.safetensors": (save(TENSORS)[:-7], r"cut .* of \d+ bytes that should have \d+"),
    "header.safetensors": (save(TENSORS)[:40], "cut .* whose header is incomplete"),
    "cut.pth": (torch_bytes(TENSORS, **LEGACY)[:200], "cut or damaged"),
    "damaged.pt": (zeroed(torch_bytes(TENSORS)), "damaged|cut"),
    "clip.tar": (packed("tar"), "a tar archive; unpack it"),
    "clip.pt": (packed("tar"), "a tar archive; unpack it"),
    "clip.zip": (packed("zip"), "a zip archive that torch.save did not write; unpack it"),
    "clip.pt.gz": (gzip.compress(torch_bytes(TENSORS)), "a gzip file; unpack it"),
    "clip.tgz": (gzip.compress(packed("tar")), "a gzip file; unpack it"),
    "model.pt": (torch_bytes(Model()), r"among them .*test_tensor_files\.Model; .*state_dict\(\)"),
    "model.pth": (torch_bytes(Model(), **LEGACY), r"among them .*\.Model; .*state_dict\(\)"),
    "linear.pt": (torch_bytes(nn.Linear(2, 2)), r"torch\.nn\.modules\.linear\.Linear"),
    "args.pt": (torch_bytes({"state_dict": TENSORS, "args": argparse.Namespace(a=1)}), "Namespace"),
    "plain.pkl": (pickle.dumps({"a": 1, "b": list(range(30))}), "other objects than tensors"),
    "array.npy": (numpy_bytes(many=False), "a NumPy array; convert it"),
    "arrays.npz": (numpy_bytes(many=True), "a NumPy archive; convert it"),
    "array.pt": (numpy_bytes(many=False), "a NumPy array; convert it"),
    "clip.onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.0" + bytes(50), "an ONNX model"),
    "clip.h5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
    "graph.pb": (b"\n\x10\n\x05input\x12\x0bPlaceholder" + bytes(range(90)), "a TensorFlow graph"),
    "clip.tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "a TensorFlow Lite model"),
    "flax.msgpack": (b"\x82\xa5model" + bytes(range(200, 256)) + bytes(9), "a Flax file"),
    "config.json": (b'{\n "architectures": ["CLIPModel"]\n}', "a JSON text"),
    "link.pt": (b"https://example.org/clip.pt\x1b[2J\n", "a text that begins 'https"),
    "photo.pt": (b"\x89PNG\r\n\x1a\n" + bytes(range(60)), "a PNG image"),
    "noise.bin": (bytes(range(1, 255)) * 9, "not a file of tensors of any known format"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_reader_says_what_a_file_is_and_the_way_out(tmp_path, name):
    content, expected = KINDS[name]
    path = tmp_path / name
    path.write_bytes(content)
    readers = (
        read_state_dict,
        read_published,
        lambda path: load_checkpoint(path, nn.Linear(2, 2)),
        lambda path: load_torch(path, "file"),
        lambda path: read_safetensors(path, "file"),
    )
    for number, read in enumerate(readers):
        with pytest.raises(ValueError, match=r"cannot be read: .*; \w+") as caught:
            read(path)
        line = str(caught.value)
        assert line.isprintable() and str(path) in line
        assert "weights_only" not in line and "WeightsUnpickler" not in line
        if number in (0, 1, 3):  # the readers of both formats
            with pytest.raises(ValueError, match=expected):
                read(path)


@pytest.mark.parametrize("member", ["data.pkl", "data/0", "constants.pkl"])
@pytest.mark.parametrize("program", [True, False])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch, member, program):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("data.pkl", *(["constants.pkl"] if program else [])):
            if name != member:
                archive.writestr(f"a/{name}", b"\x80\x02).")
        with archive.open(f"a/{member}", "w") as file:
            for _ in range(40):
                file.write(bytes(2**21))
    monkeypatch.setattr(zipfile.ZipFile, "read", None)  # nothing is unpacked
    for read in (read_state_dict, read_published, lambda path: read_safetensors(path, "file")):
        with pytest.raises(ValueError, match=r"a.pt cannot be read: .* unpacks to 838\d+ bytes;"):
            read(path)


def test_a_folder_and_nothing_are_told_apart(tmp_path):
    for read in (read_published, lambda path: load_checkpoint(path, nn.Linear(2, 2))):
        with pytest.raises(ValueError, match="is a folder; give"):
            read(tmp_path)
        with pytest.raises(ValueError, match="does not exist"):
            read(tmp_path / "nothing.pt")
    (tmp_path / "prompt_learner").mkdir()
    for epoch in (5, 50, 10):
        (tmp_path / "prompt_learner" / f"model.pth.tar-{epoch}").touch()
    with pytest.raises(ValueError, match=r"is a folder; give the file in it, such as .*tar-50$"):
        read_published(tmp_path)


def test_a_torch_file_in_place_of_the_weights_of_a_run_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(torch_bytes(TENSORS))
    with pytest.raises(ValueError, match="a torch file, not safetensors"):
        load_checkpoint(path, nn.Linear(2, 2))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
def test_content_decides_and_not_the_suffix(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    for content in (save(TENSORS), torch_bytes(TENSORS), torch_bytes(TENSORS, **LEGACY)):
        path.write_bytes(content)
        assert is_safetensors(path) is (content == save(TENSORS))
        found = read_state_dict(path)
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_state_dict_is_found_under_the_usual_names(tmp_path, key, prefix):
    content = {key: {prefix + k: v for k, v in TENSORS.items()}, "epoch": 3}
    torch.save(content, tmp_path / "clip.pt")
    assert read_state_dict(tmp_path / "clip.pt").keys() == TENSORS.keys()


def test_no_line_carries_what_a_terminal_would_obey():
    error = RuntimeError("\x1b[31mred\x1b[0m \x07bell\nsecond line")
    assert first_line(error) == "red bell"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 10_000))) <= 300


def test_nothing_that_a_pickle_names_is_imported(tmp_path):
    (tmp_path / "evil.pt").write_bytes(b"\x80\x02cno_such_module_at_all\nrun\nq\x00(tq\x01Rq\x02.")
    with pytest.raises(ValueError, match=r"among them no_such_module_at_all\.run"):
        read_state_dict(Path(tmp_path / "evil.pt"))
