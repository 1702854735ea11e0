"""TF32 and determinism: what is set on a GPU, what is refused, and what is left alone on a CPU."""

import os
from dataclasses import asdict

import pytest
import torch
from PIL import Image

from core.config import config_from_text
from core.machine import CUBLAS_VARIABLE, ORDERED_CUBLAS
from core.store.record import write_record
from experiments.run import image_source
from experiments.run.bundles import bundle_of
from experiments.run.inspection import inspect_run
from experiments.run.numerics import Numerics, order_required
from experiments.run.run import assemble
from experiments.run.runtime import Runtime
from experiments.run.standalone import evaluate_run
from methods.coop import CoOp
from refinelab import load_run
from tests.helpers.paths import ROOT
from tests.helpers.pretended_cuda import PretendedCuda
from tests.helpers.two_step_runs import run_text, two_steps

DEFAULT = Numerics(tf32=False, deterministic=True)


def state():
    return {
        "matmul": torch.backends.cuda.matmul.allow_tf32,
        "cudnn": torch.backends.cudnn.allow_tf32,
        "benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warns": torch.is_deterministic_algorithms_warn_only_enabled(),
    }


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    before = state()
    monkeypatch.delenv(CUBLAS_VARIABLE, raising=False)
    yield
    torch.use_deterministic_algorithms(before["deterministic"])
    torch.backends.cuda.matmul.allow_tf32 = before["matmul"]
    torch.backends.cudnn.allow_tf32 = before["cudnn"]


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_run_on_a_gpu_sets_all_of_it(tf32, deterministic, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for first in (Numerics(tf32=not tf32, deterministic=not deterministic), None):
        Runtime(cache_dir=ROOT, device="cuda")  # before cuBLAS is used
        assert os.environ[CUBLAS_VARIABLE] in ORDERED_CUBLAS
        (first or Numerics(tf32=tf32, deterministic=deterministic)).apply("cuda:0")
    assert state() == {
        "matmul": tf32,
        "cudnn": tf32,  # of convolutions, where torch's own default is True
        "benchmark": False,
        "deterministic": deterministic,
        "warns": False,
    }


def test_a_cpu_is_left_alone():
    torch.use_deterministic_algorithms(True)
    before = state()
    Numerics(tf32=True, deterministic=False).apply("cpu")
    assert state() == before and CUBLAS_VARIABLE not in os.environ


@pytest.mark.parametrize("given", ["", ":0:0", ":4096:2"])
def test_a_workspace_without_order_is_refused(given, monkeypatch):
    monkeypatch.setenv(CUBLAS_VARIABLE, given)
    with pytest.raises(ValueError, match=r":4096:8 or :16:8, got .*deterministic = False"):
        DEFAULT.apply("cuda")
    Numerics(tf32=False, deterministic=False).apply("cuda")


@pytest.mark.parametrize("given", ORDERED_CUBLAS)
def test_the_users_own_workspace_is_kept(given, monkeypatch):
    monkeypatch.setenv(CUBLAS_VARIABLE, given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    Runtime(cache_dir=ROOT, device="cuda")
    DEFAULT.apply("cuda")
    assert os.environ[CUBLAS_VARIABLE] == given


def test_an_operator_without_order_is_one_line_with_the_way_out():
    torch.use_deterministic_algorithms(True)
    with (
        pytest.raises(
            ValueError, match=r"^put_\S* adds in no fixed order.*set it to False"
        ) as told,
        order_required(),
    ):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))  # refused on a CPU as well
    assert "\n" not in str(told.value)
    with pytest.raises(RuntimeError, match="shapes"), order_required():
        torch.ones(2) @ torch.ones(3, 3)


def test_what_scores_a_stored_run_says_it_as_well(small_mosaic, tmp_path, monkeypatch):
    """evaluate, inspect and load_run build and score in the same two places."""
    run = tmp_path / "run"
    write_record(run, run_text(two_steps("CoOp"), run, small_mosaic))
    place = Runtime(cache_dir=small_mosaic)
    torch.use_deterministic_algorithms(True)

    def unordered(self, *_, **__):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))

    with monkeypatch.context() as patch:
        patch.setattr(CoOp, "forward", unordered)
        loaded = load_run(run, runs=tmp_path)
        for look in (
            lambda: evaluate_run(run, "", "", place),
            lambda: inspect_run(run, place, num_images=1),
            lambda: loaded.predict([Image.new("RGB", (32, 32))]),
        ):
            with pytest.raises(ValueError, match="adds in no fixed order"):
                look()
    monkeypatch.setattr(CoOp, "__init__", unordered)
    with pytest.raises(ValueError, match="adds in no fixed order"):
        assemble(config_from_text(two_steps("CoOp")), place)


def identity(*lines):
    text = two_steps("CoOp", "\n".join(lines))
    return config_from_text(text).identity("experiment")


def test_other_settings_are_other_runs_and_the_default_is_what_it_was():
    plain = identity()
    assert identity("experiment.tf32 = False", "experiment.deterministic = True") == plain
    others = {
        identity("experiment.tf32 = True"),
        identity("experiment.deterministic = False"),
        *(identity(f"experiment.precision = '{p}'") for p in ("bfloat16", "float16")),
    }
    assert len(others) == 4 and plain not in others


def test_runs_in_lockstep_agree_in_what_is_set_for_a_process():
    def bundle(line):
        views = "experiment.num_views = 1\nexperiment.fresh_views = True"
        return bundle_of(config_from_text(two_steps("CoOp", f"{views}\n{line}")))

    keys = {
        bundle(line) for line in ("", "experiment.tf32 = True", "experiment.deterministic = False")
    }
    assert len(keys) == 3 and "" not in keys


def test_a_record_says_what_was_set(small_mosaic, tmp_path):
    record = run_text(two_steps("CoOp"), tmp_path / "plain", small_mosaic)
    assert record.environment.items() >= asdict(DEFAULT).items()
    other = two_steps("CoOp", "experiment.tf32 = True\nexperiment.deterministic = False")
    record = run_text(other, tmp_path / "other", small_mosaic)
    assert record.environment["tf32"] and not record.environment["deterministic"]


def test_features_of_tf32_are_other_features(small_mosaic, tmp_path):
    def keys(device, tf32):
        text = two_steps("CoOp", f"experiment.tf32 = {tf32}")
        image_source._store.cache_clear()
        built = assemble(config_from_text(text), Runtime(cache_dir=small_mosaic, device=device))
        return built.source.store._request(built.dataset, None).key

    assert keys("cpu", True) == keys("cpu", False)
    with PretendedCuda(ROOT):
        on_gpu = [keys("cuda", tf32) for tf32 in (False, True)]
        assert torch.backends.cudnn.allow_tf32 and len({*on_gpu, keys("cuda", False)}) == 2
        assert not torch.backends.cudnn.allow_tf32
