"""What runs ask of a device is checked once, before any work, and by no run."""

import json

import pytest
import torch
from typer.testing import CliRunner

from core.config import config_from_text
from core.machine import CUBLAS_VARIABLE
from experiments.cli.app import app
from experiments.run import device_check, runtime
from experiments.run.device_check import require_device, tell, trial
from experiments.run.devices import VISIBLE_VARIABLE, WorkPlace
from experiments.run.runtime import Runtime
from tests.helpers.paths import ROOT
from tests.helpers.two_step_runs import two_steps

SMALL = (
    *("--set", "grid.datasets=('mosaic/vehicles',)", "--set", "grid.seeds=(1,)"),
    *("--set", "experiment.epochs=1"),
)


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch):
    """A machine with a GPU, on which no run may begin."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    monkeypatch.delenv(VISIBLE_VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv(CUBLAS_VARIABLE, ":16:8")
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    runtime._missing_kernel.cache_clear()


def config(*lines):
    return config_from_text(two_steps("CoOp", "\n".join(lines)))


@pytest.mark.parametrize(
    "words",
    [
        ("grid", "demo", "--jobs", "0", *SMALL),
        ("grid", "demo", "--jobs", "0", "--dry-run", *SMALL),
        ("grid", "demo", "--jobs", "0", "--share", *SMALL),
        ("train", "coop", "--set", "experiment.dataset=mosaic/vehicles"),
        ("search", "search_sep", "--jobs", "0"),
        ("search", "search_sep", "--jobs", "0", "--dry-run"),
    ],
    ids=" ".join,
)
def test_a_wrong_workspace_is_one_line_and_no_record(words, tmp_path, monkeypatch):
    monkeypatch.setenv(CUBLAS_VARIABLE, ":0:0")
    done = CliRunner().invoke(app, [*words, "--device", "cuda", "--runs", str(tmp_path)])
    assert isinstance(done.exception, ValueError)
    assert f"needs {CUBLAS_VARIABLE} to be :4096:8 or :16:8, got ':0:0'" in str(done.exception)
    assert not list(tmp_path.rglob("record.json")) and not list(tmp_path.rglob("config.gin"))


def test_a_precision_is_tried_on_a_gpu_of_the_workers_in_another_process(monkeypatch):
    asked, answer = [], ["no bfloat16 here"]

    def told(device, precision, environment):
        asked.append((device, precision, environment))
        return answer[0]

    monkeypatch.setattr(device_check, "trial", told)
    place, there = Runtime(cache_dir=ROOT, device="cuda"), WorkPlace(workers=2, gpus=("3", "5"))
    plain, half = config(), config("experiment.precision = 'bfloat16'")
    require_device([plain], place, there)
    assert asked == []  # every device computes in float32
    with pytest.raises(ValueError, match=r"^no bfloat16 here$"):
        require_device([plain, half, half], place, there)
    assert asked == [("cuda", "bfloat16", {VISIBLE_VARIABLE: "3"})]
    answer[0] = ""
    require_device([half], place, there)
    require_device([half], Runtime(cache_dir=ROOT), WorkPlace(workers=2))
    assert len(asked) == 2


def test_nothing_is_asked_of_this_machine_for_runs_elsewhere(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError('"conv" not implemented')

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    runtime._missing_kernel.cache_clear()
    half, place = config("experiment.precision = 'float16'"), Runtime(cache_dir=ROOT)
    for workers in (0, 4):
        with pytest.raises(ValueError, match="'float16' does not work on cpu"):
            require_device([half], place, WorkPlace(workers=workers))
    require_device([half], place, WorkPlace(workers=4, here=False))
    require_device([config("experiment.precision = 'float64'")], place)


def test_a_process_of_its_own_says_what_is_missing(monkeypatch, capsys):
    tell("cpu", "bfloat16")
    assert json.loads(capsys.readouterr().out) == ""
    runtime._missing_kernel.cache_clear()

    def refuse(*_, **__):
        raise RuntimeError('"conv" not implemented')

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    tell("cpu", "bfloat16")
    assert "'bfloat16' does not work on cpu" in json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_the_process_of_its_own_runs():
    assert trial("cpu", "bfloat16", {}) == ""
    refused = trial("cpu", "float12", {})  # its own error: the runs would tell
    assert refused == ""
    assert "not available" in trial("cuda:7", "bfloat16", {VISIBLE_VARIABLE: ""})
