"""What doctor and a record say of GPUs, and of a torch without CUDA."""

from types import SimpleNamespace

import pytest
import torch

from experiments.cli import doctor
from experiments.run import environment, gpu_facts
from experiments.run.environment import describe_environment


@pytest.fixture
def machine(monkeypatch):
    """A machine with these GPUs, CUDA version and driver, for ``torch`` to see."""

    def made(names, cuda="12.8", driver="550.54.15", cudnn=91002):
        def properties(device):
            number = int(str(device).partition(":")[2] or 0)
            return SimpleNamespace(
                name=names[number], total_memory=80e9 + number, major=9, minor=number
            )

        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda d: properties(d).name)
        monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: cuda is not None)
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
        monkeypatch.setattr(gpu_facts, "driver", lambda: driver)
        environment._lasting.cache_clear()

    yield made
    environment._lasting.cache_clear()


def told():
    """What doctor says of the devices: by name, the text and whether it is fine."""
    return {c.name: (c.found, c.ok) for c in doctor._devices()}


def test_doctor_names_every_gpu_and_library(machine):
    machine(["NVIDIA H100", "NVIDIA A100"])
    found = told()
    assert found["device"][0].startswith("GPUs: 2, ")
    assert found["cuda"] == ("driver 550.54.15, CUDA 12.8, cuDNN 9.10.2", True)
    assert found["cuda:0"] == ("NVIDIA H100, 80 GB, compute capability 9.0", True)
    assert found["cuda:1"] == ("NVIDIA A100, 80 GB, compute capability 9.1", True)


@pytest.mark.parametrize(("driver", "fine"), [(None, True), ("550.54.15", False)])
def test_doctor_says_that_this_torch_has_no_cuda(driver, fine, machine):
    machine([], cuda=None, driver=driver)
    found = told()
    assert found.keys() == {"device"}
    text, ok = found["device"]
    assert "this torch has no CUDA" in text and "cpu only" in text and ok is fine
    assert ("550.54.15" in text) is not fine


@pytest.mark.parametrize(("driver", "words"), [(None, "no driver was found"), ("9", "driver 9")])
def test_doctor_tells_a_gpu_that_is_not_seen_from_a_torch_without_cuda(driver, words, machine):
    machine([], driver=driver)
    text, ok = told()["device"]
    assert "torch has CUDA 12.8, but sees no GPU" in text and words in text and ok
    assert gpu_facts.NO_CUDA not in text


def test_a_record_holds_the_gpu_and_its_libraries(machine):
    machine(["NVIDIA H100", "NVIDIA A100"])
    facts = describe_environment("cuda:1")
    assert facts["device"] == "cuda:1 (NVIDIA A100)"
    assert facts["gpu"] == {
        "name": "NVIDIA A100",
        "memory_gb": 80.0,
        "capability": "9.1",
        "driver": "550.54.15",
        "cuda": "12.8",
        "cudnn": "9.10.2",
    }
    assert "gpu" not in describe_environment("cpu")


def test_what_the_driver_does_not_say_is_left_out(machine, monkeypatch):
    machine(["NVIDIA H100"], driver=None, cudnn=8907)

    def refuse(_):
        raise RuntimeError("no answer")

    monkeypatch.setattr(torch.cuda, "get_device_properties", refuse)
    found = gpu_facts.gpu_facts("cuda")
    assert found == {"name": "NVIDIA H100", "driver": None, "cuda": "12.8", "cudnn": "8.9.7"}
    assert list(gpu_facts.visible_gpus()) == ["NVIDIA H100"]


@pytest.mark.parametrize(
    "written", ["#!/bin/sh\necho 550.54.15\necho 550.54.15\n", "#!/bin/sh\nexit 9\n"]
)
def test_the_driver_is_what_its_tool_says(written, monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(written)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert gpu_facts.driver() == ("550.54.15" if "echo" in written else None)
    tool.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_facts.driver() is None
