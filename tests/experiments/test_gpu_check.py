"""The check of a device: on a pretended GPU, with what fails, hangs or does not fit in the time."""

import json
import math
import os
import warnings
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import core.clip.backbone as backbone
import experiments.run.image_source as image_source
import experiments.run.method_presets as presets_module
import experiments.study.gpu_check as gpu_check_module
from core.config import lookup
from experiments.cli.app import app
from experiments.run import device_cases
from experiments.run.device_cases import REFINERS, measure_case, write_images
from experiments.run.device_timing import counting
from experiments.run.method_presets import method_presets
from experiments.run.runtime import Runtime
from experiments.study.gpu_check import JSON_NAME, OUT_OF_TIME, PAGE_NAME, GpuCheck, gpu_check
from experiments.study.gpu_check_page import page
from experiments.workers.local import InlineExecutor
from tests.helpers.paths import ROOT
from tests.helpers.pretended_cuda import PretendedCuda
from tests.helpers.recorded_steps import record_on_cpu


@pytest.fixture(autouse=True)
def small_cases(monkeypatch):
    """Few steps and few images."""
    for name, value in {"TIMED_STEPS": 2, "WARM_UP_STEPS": 1, "EVALUATED": 4, "TESTED": 8}.items():
        monkeypatch.setattr(device_cases, name, value)
    yield
    backbone._shared_clip.cache_clear()  # what is on one pretended GPU is not on the next
    image_source._store.cache_clear()


@pytest.fixture
def inline(monkeypatch):
    """Measurements run in this process; gives the limits and the numbers of jobs asked for."""
    asked = []

    def executor(jobs, *, log_dir, entry, job_seconds):
        asked.append((jobs, job_seconds))
        return InlineExecutor(entry)

    monkeypatch.setattr(gpu_check_module, "LocalExecutor", executor)
    return asked


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The images of the speeds, small ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_cases, "IMAGE_SIDE", 32)
        return write_images(tmp_path_factory.mktemp("speed") / "images")


def checked(out, **settings):
    """The rows of a check on the CPU, by section, and whether all are right."""
    given = {"seconds": 600.0, "backbones": ("mosaic",), "methods": ("CoOp",), "matrix_side": 16}
    check = GpuCheck(out=out, device="cpu", jobs=1, **(given | settings))
    ok = gpu_check(check, lambda line: None)
    found = json.loads((out / JSON_NAME).read_text())
    assert found["ok"] is ok
    return found


def timed(tree, cache_dir, **settings):
    payload = {
        "case": "speed",
        "method": "CoOp",
        "refiner": "none",
        "images": "cached",
        "precision": "float32",
        "device": "cpu",
        "backbone": "mosaic",
        "weights": None,
        "tree": str(tree),
        "cache_dir": str(cache_dir),
    }
    return measure_case(payload | settings, None)


@pytest.mark.parametrize("refiner", REFINERS)
def test_a_device_that_computes_the_same_agrees(refiner, small_mosaic, cache_dir, monkeypatch):
    record_on_cpu(monkeypatch)
    monkeypatch.setattr(device_cases, "REPLAYED_EPOCHS", 3)
    payload = {"case": "agreement", "method": "CoOp", "refiner": refiner, "device": "cuda"}
    with PretendedCuda(ROOT):
        found = measure_case(payload | {"cache_dir": str(small_mosaic)}, None)
    assert found["ok"] and found["steps"] == 6
    assert found["loss"] == found["logits"] == 0
    assert found["graph_same"] and found["graph"].startswith("not used: a replayed step gives")
    assert found["agree"] == found["images"] == 8


def test_a_device_that_computes_otherwise_is_seen(small_mosaic, monkeypatch):
    exact = lookup("CoOp").cls.forward
    wrong = [1.0, 1.0 + 1e-3]  # first on the CPU, then on the device

    def forward(self, batch):
        out = exact(self, batch)
        return replace(out, logit_scale=out.logit_scale * wrong[assembled[-1]])

    assembled = []
    ordinary = device_cases.assemble

    def assemble(config, runtime):
        assembled.append(min(len(assembled), 1))
        return ordinary(config, runtime)

    monkeypatch.setattr(device_cases, "assemble", assemble)
    monkeypatch.setattr(lookup("CoOp").cls, "forward", forward)
    payload = {"case": "agreement", "method": "CoOp", "refiner": "none", "device": "cpu"}
    found = measure_case(payload | {"cache_dir": str(small_mosaic)}, None)
    assert not found["ok"]
    assert 1e-4 < found["logits"] < 1e-2 and 1e-4 < found["loss"] < 1e-2


@pytest.mark.parametrize("pixels", ["pixels", "cached"])
def test_the_speed_is_that_of_the_published_batch(pixels, images, tmp_path):
    found = timed(images, tmp_path, images=pixels)
    assert found["tflops"] > 0 and found["waits"] is None  # nobody waits for the CPU
    assert found["batch_size"] == method_presets()["CoOp"].batch_size == 32
    assert math.isclose(found["images_per_second"], 32 / found["step_ms"] * 1e3)
    assert found["slowest_ms"] >= found["step_ms"] > 0 and found["evaluated_per_second"] > 0
    assert found["parameters"] == 4 * 128  # four words of context


def test_rows_share_what_does_not_depend_on_them(images, tmp_path, monkeypatch):
    """The weights, and the presets of all methods, are read by the first row of each precision."""
    found = {"configurations": 0, "weights": 0}

    def count(module, name, what):
        real = getattr(module, name)

        def call(*given, **settings):
            found[what] += 1
            return real(*given, **settings)

        monkeypatch.setattr(module, name, call)

    with PretendedCuda(ROOT):
        for row in range(2):
            for precision in ("float32", "bfloat16"):
                timed(images, tmp_path, device="cuda", precision=precision, images="pixels")
            if not row:
                count(presets_module, "read_config_file", "configurations")
                count(backbone, "load_clip", "weights")
    assert found == {"configurations": 2, "weights": 0}  # what each row runs


def test_what_trains_nothing_has_no_step(images, tmp_path):
    found = timed(images, tmp_path, method="ZeroShot")
    assert "step_ms" not in found and found["batch_size"] is None
    assert found["evaluated_per_second"] > 0 and found["parameters"] == 0


def test_speeds_on_a_gpu_have_its_memory_and_those_of_a_graph(images, tmp_path, monkeypatch):
    record_on_cpu(monkeypatch)
    with PretendedCuda(ROOT):
        found = timed(images, tmp_path, device="cuda", precision="bfloat16")
    assert found["peak_mb"] == 0  # the pretended GPU has none
    assert found["graph_ms"] > 0 and found["graph"]
    assert not {"peak_mb", "graph"} & timed(images, tmp_path).keys()


def test_a_check_writes_all_sections(inline, tmp_path, small_mosaic, monkeypatch):
    monkeypatch.setattr(device_cases, "IMAGE_SIDE", 32)
    found = checked(tmp_path, sections=("machine", "agreement", "features", "speed"))
    assert found["ok"], found
    assert [row["refiner"] for row in found["agreement"]] == ["none", "TextRefiner"]
    order = [(row["refiner"], row["images"], row["precision"]) for row in found["speed"]]
    assert order == [
        (refiner, images, precision)
        for refiner, images in (("none", "pixels"), ("none", "cached"), ("TextRefiner", "pixels"))
        for precision in ("float32", "bfloat16")
    ]
    assert found["machine"][0]["torch"] == torch.__version__
    assert all(row["share"] > 0 for row in found["speed"])
    what = [(row["what"], row.get("precision")) for row in found["features"]]
    assert what == [("decode", None), ("features", "float32"), ("features", "bfloat16")]
    for row in found["features"]:
        rates = [value for key, value in row.items() if key.endswith("_per_second")]
        assert rates and min(rates) > 0, row
    text = (tmp_path / PAGE_NAME).read_text()
    assert text == page(found) and text.count("| CoOp |") == 8
    assert all(seconds <= gpu_check_module.CASE_SECONDS for _, seconds in inline)


def test_all_registered_methods_are_checked_unless_some_are_named(tmp_path):
    every = GpuCheck(out=tmp_path, device="cpu", seconds=1)
    assert set(gpu_check_module._methods(every)) == set(method_presets())
    assert {row["method"] for row in gpu_check_module._speed_rows(every)} == set(method_presets())
    some = GpuCheck(out=tmp_path, device="cpu", seconds=1, methods=("CoOp",))
    assert gpu_check_module._methods(some) == ("CoOp",)


def test_a_method_that_fails_is_a_row(inline, tmp_path, monkeypatch):
    def fails(**_):
        raise RuntimeError("no | kernel\nsecond line")

    monkeypatch.setattr(device_cases, "speed", fails)
    found = checked(tmp_path, sections=("machine", "speed"))
    assert not found["ok"] and found["machine"]
    errors = [row["error"] for row in found["speed"]]
    assert len(errors) == 6 and all("no | kernel" in error for error in errors)
    (line, *_) = [x for x in (tmp_path / PAGE_NAME).read_text().splitlines() if "kernel" in x]
    assert line.startswith("| CoOp | mosaic | none | pixels | float32 | ")
    assert line.endswith(" no \\| kernel second line |")


def test_a_section_that_fails_does_not_end_the_check(inline, tmp_path, monkeypatch):
    def fails(*_):
        raise KeyError("no such tag")

    monkeypatch.setattr(gpu_check_module, "write_random_weights", fails)
    found = checked(tmp_path, sections=("speed", "machine"), backbones=("ViT-B-16",))
    assert [row["error"] for row in found["speed"]] == ["KeyError: 'no such tag'"]
    assert found["machine"][0]["float32_tflops"] > 0 and not found["ok"]
    assert "no such tag" in (tmp_path / PAGE_NAME).read_text()


def test_what_does_not_fit_in_the_time_is_said(inline, tmp_path):
    found = checked(tmp_path, sections=("machine", "speed"), seconds=1e-9)
    rows = [*found["machine"], *found["speed"]]
    assert rows and {row["error"] for row in rows} == {OUT_OF_TIME} and not found["ok"]
    assert OUT_OF_TIME in (tmp_path / PAGE_NAME).read_text()


def test_the_last_section_may_use_all_the_time(tmp_path):
    def left(section, *sections):
        check = GpuCheck(out=tmp_path, device="cpu", seconds=100, sections=sections)
        found = gpu_check_module.Findings(check=check, say=lambda line: None)
        return found.time_left(section)

    assert left("machine", "machine") == pytest.approx(100, abs=1)
    assert left("machine", "machine", "speed") == pytest.approx(8, abs=1)
    assert left("agreement", "machine", "agreement") == pytest.approx(100, abs=1)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"device": "cuda:99"}, "is not available"),
        ({"device": "tpu"}, "device must be cpu, cuda or cuda:N"),
        ({"methods": ("CooP",)}, "did you mean 'CoOp'"),
        ({"sections": ("speeds",)}, "no section 'speeds'"),
        ({"seconds": float("nan")}, "seconds must be"),
        ({"seconds": 0.0}, "seconds must be"),
    ],
)
def test_nonsense_is_refused_before_any_work(settings, reason, tmp_path):
    given = {"out": tmp_path / "new", "device": "cpu", "seconds": 10.0} | settings
    with pytest.raises(ValueError, match=reason):
        GpuCheck(**given)
    assert not (tmp_path / "new").exists()


def test_the_command_says_where_the_findings_are(inline, tmp_path):
    words = ["gpu-check", "--device", "cpu", "--out", str(tmp_path), "--section", "machine"]
    done = CliRunner().invoke(app, [*words, "--matrix-side", "16"])
    assert done.exit_code == 0, done.output
    assert "everything agrees" in done.output and str(tmp_path / PAGE_NAME) in done.output


@pytest.mark.slow
def test_the_grid_says_the_same_with_one_worker_and_with_two(tmp_path):
    found = checked(tmp_path, sections=("grid",), seconds=3000.0, grid_runs=6)
    assert [(row["name"], row["runs"]) for row in found["grid"]] == [
        ("cpu", 4),
        ("device, 1 job", 6),
        ("device, 2 jobs", 6),
        ("device, 4 jobs", 6),
    ]
    assert found["ok"] and {row["counts_off"] for row in found["grid"]} == {0}
    assert sorted(os.listdir(tmp_path)) == ["cache", JSON_NAME, PAGE_NAME]


@pytest.mark.slow
def test_a_measurement_that_hangs_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check_module, "CASE_SECONDS", 1.0)
    found = checked(tmp_path, sections=("machine",), matrix_side=8192)
    (row,) = found["machine"]
    assert "time limit of a job" in row["error"]


def test_random_weights_are_a_backbone_like_any_other(tmp_path, monkeypatch):
    small = {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
            "image_size": 32,
        },
        "text_cfg": {"width": 32, "heads": 2, "layers": 1},
    }
    monkeypatch.setattr(backbone, "model_config", lambda name: dict(small))
    state = torch.random.get_rng_state()
    for name in ("one", "two"):
        backbone.write_random_weights("ViT-B-32-quickgelu", tmp_path / f"{name}.safetensors")
    assert torch.equal(torch.random.get_rng_state(), state)
    clips = [
        backbone.load_clip("ViT-B-32-quickgelu", str(tmp_path / f"{name}.safetensors"))
        for name in ("one", "two")
    ]
    assert clips[0].spec == clips[1].spec and clips[0].spec.quick_gelu


@pytest.mark.parametrize("views", [0, 63, 1000])
def test_an_image_with_many_views_counts_as_many(views, tmp_path, small_mosaic, monkeypatch):
    config = method_presets()["CoOp"].read(*device_cases.FEW_STEPS)
    built = device_cases.assemble(config, Runtime(cache_dir=small_mosaic))
    built.model.method.test_views = views
    part = built.dataset
    found = device_cases._some(built, part, 64)
    assert len(found) == {0: 64, 63: 8, 1000: 8}[views]
    assert list(found) == list(part.test[: len(found)])
    assert len(device_cases._some(built, part, 4)) == 4


def test_rows_are_left_out_from_the_least_important_on(tmp_path):
    check = GpuCheck(out=tmp_path, device="cpu", seconds=1, backbones=("small", "large"))
    rows = list(gpu_check_module._speed_rows(check))
    parts = list(dict.fromkeys((row["backbone"], row["refiner"], row["images"]) for row in rows))
    assert parts == [
        ("small", "none", "pixels"),
        ("small", "none", "cached"),
        ("large", "none", "pixels"),
        ("small", "TextRefiner", "pixels"),
    ]
    quick = GpuCheck(out=tmp_path, device="cpu", seconds=1, backbones=("a", "b"), quick=True)
    assert {(r["backbone"], r["refiner"]) for r in gpu_check_module._speed_rows(quick)} == {
        ("a", "none")
    }
    assert quick.grid_runs < check.grid_runs == 40


def test_waits_and_arithmetic_are_counted(monkeypatch):
    said = ["called a synchronizing CUDA operation at line 1", "something else"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    modes = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with counting() as counts:
        torch.ones(2, 3) @ torch.ones(3, 5)
        for _ in range(3):
            for text in said:
                warnings.warn(text, stacklevel=1)
    assert (counts.flops, counts.waits, modes) == (2 * 2 * 3 * 5, 3, ["warn", 0])


@pytest.mark.slow
def test_workers_survive_what_a_device_does_to_them(tmp_path):
    found = checked(tmp_path, sections=("faults",))
    rows = {row["fault"]: (row["ended"], row["attempts"], row["others"]) for row in found["faults"]}
    assert rows == {
        "kill": ("done", 2, "4 of 4"),
        "memory": ("failed", 2, "4 of 4"),
        "assert": ("failed", 3, "4 of 4"),
    }
    assert found["ok"]
    assert "| memory | failed | 2 | 4 of 4 |" in (tmp_path / PAGE_NAME).read_text()
