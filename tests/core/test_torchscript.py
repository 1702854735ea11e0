"""TorchScript archives: the same tensors as the JIT gives, and nothing of the archive runs."""

import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from core.clip.torchscript import is_torchscript, read_torchscript

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class Inner(nn.Module):
    """Half parameters, buffers of several types, and attributes that are not weights."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, 3).half())
        self.register_buffer("counts", torch.arange(size))
        self.register_buffer("derived", torch.ones(2), persistent=False)
        self.plain = torch.ones(3)
        self.sizes, self.names, self.tensors = [1, 2], ["a"], [torch.ones(1)]
        self.table, self.text, self.number, self.nothing = {"a": 1}, "word", 1.5, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.float().t() + self.plain.sum()


class Clip(nn.Module):
    """As OpenAI's: nested modules, half weights, sizes as tensors beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 3))
        self.blocks = nn.ModuleList([Inner(4), Inner(2)])
        self.conv1 = nn.Conv2d(3, 4, 2, bias=False).half()
        self.norm, self.attention = nn.BatchNorm1d(3), nn.MultiheadAttention(4, 2)
        self.logit_scale = nn.Parameter(torch.tensor(4.6))
        self.rounded = nn.Parameter(torch.randn(3, 2).bfloat16())
        self.tied = self.visual[0].weight
        for name, size in (
            ("input_resolution", 224),
            ("context_length", 77),
            ("vocab_size", 49408),
        ):
            self.register_buffer(name, torch.tensor(size))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("view", torch.arange(12.0).reshape(3, 4).t()[1:])
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("absent", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.visual(x)
        for block in self.blocks:
            x = x + block(x).sum()
        return x * self.logit_scale


def scripted(path: Path) -> None:
    torch.jit.script(Clip()).save(str(path))


def traced(path: Path) -> None:
    torch.jit.trace(Clip().eval(), torch.randn(2, 3)).save(str(path))


def frozen(path: Path) -> None:
    torch.jit.freeze(torch.jit.script(Clip().eval())).save(str(path))


@pytest.mark.parametrize("write", [scripted, traced, frozen])
def test_the_tensors_are_those_of_the_jit(tmp_path, write):
    write(path := tmp_path / "clip.pt")
    assert is_torchscript(path)
    expected, found = dict(torch.jit.load(path).state_dict()), read_torchscript(path)
    assert found.keys() == expected.keys()
    assert bool(found) is (write is not frozen)  # a frozen program has no parameters left
    for name, value in expected.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype
        assert found[name].stride() == value.stride()


def test_files_of_torch_save_are_not_archives(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"text")
    assert not is_torchscript(tmp_path / "a.pt") and not is_torchscript(tmp_path / "b.pt")
    assert not is_torchscript(tmp_path / "nothing.pt")


class _Loud(nn.Module):
    """A module whose archive runs code when the JIT loads it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        print("executed")
        self.weight = state[0]
        self.training = state[1]

    def forward(self) -> torch.Tensor:
        return self.weight


def test_a_program_that_runs_when_it_is_loaded_is_refused(tmp_path, capfd):
    torch.jit.script(_Loud()).save(str(path := tmp_path / "loud.pt"))
    torch.jit.load(path)
    assert "executed" in capfd.readouterr().out  # what must not happen here
    with pytest.raises(ValueError, match="a state of its own, which only code can read"):
        read_torchscript(path)
    assert "executed" not in capfd.readouterr().out


class _Call:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def rewritten(path: Path, name: str, content: bytes) -> None:
    """An archive with one member replaced."""
    with zipfile.ZipFile(path) as archive:
        members = {m: archive.read(m) for m in archive.namelist()}
    chosen = next(m for m in members if m.endswith(name))
    with zipfile.ZipFile(path, "w") as archive:
        for member, old in members.items():
            archive.writestr(member, content if member == chosen else old)


@pytest.mark.parametrize(
    "payload",
    [
        pickle.dumps(_Call(print, "executed"), protocol=2),
        pickle.dumps(_Call(eval, "print('executed')"), protocol=4),
        pickle.dumps({"weight": _Call(getattr, int, "real")}, protocol=2),
        b"\x80\x02cposix\nsystem\nX\x0d\x00\x00\x00echo executed\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n(K\x01\x89NtR.",
        b"\x80\x02ctorch.jit._pickle\nother\n)R.",
        b"\x80\x02c__torch__\nLinear\n(K\x01tR.",
        b"\x80\x02]K\x01a.",
        b"\x80\x02c__torch__.Unknown\nLinear\n)\x81}X\x06\x00\x00\x00weightK\x01sb.",
        b"\x80\x02r\xff\xff\xff\x7f.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"",
    ],
)
def test_any_other_pickle_is_refused_and_nothing_runs(tmp_path, payload, capfd):
    torch.jit.script(nn.Linear(2, 2)).save(str(path := tmp_path / "linear.pt"))
    rewritten(path, "/data.pkl", payload)
    with pytest.raises(ValueError) as caught:
        read_torchscript(path)
    assert "\n" not in str(caught.value)
    assert "executed" not in capfd.readouterr().out


@pytest.mark.parametrize("content", [b"", b"1234", bytes(4000)])
def test_a_storage_of_another_size_is_refused(tmp_path, content):
    torch.jit.script(nn.Linear(2, 2)).save(str(path := tmp_path / "linear.pt"))
    rewritten(path, "/data/0", content)
    with pytest.raises(ValueError, match=re.escape(f"storage 0 has {len(content)} bytes")):
        read_torchscript(path)


def test_a_flipped_byte_is_noticed(tmp_path):
    torch.jit.script(nn.Linear(50, 50)).save(str(path := tmp_path / "linear.pt"))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = next(m for m in archive.infolist() if m.filename.endswith("/data/0"))
    data[member.header_offset + 200] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="its content is damaged"):
        read_torchscript(path)
