"""``plan``: every figure follows from a measured one."""

import json

import pytest

from core.store.record import write_record
from experiments.cli.app import app
from experiments.cli.plan import _rows
from experiments.configs import config_path, read_config_file
from experiments.run.gpu_speeds import SHIPPED_SPEEDS, checked_speeds, shipped_speeds
from experiments.run.runtime import Runtime
from experiments.run.step_costs import read_step_costs
from experiments.study.cost_plan import Hardware, plan_costs, sizes_of
from experiments.study.planner import plan
from tests.helpers.fake_runs import fake_record
from tests.helpers.paths import ROOT

SEVEN = "published/grid_base_to_new_methods"


def made(name=SEVEN, *overrides):
    import experiments.run.registered  # noqa: F401  (fills the registry)

    given = read_config_file(config_path(name), list(overrides))
    return plan(given, lambda config: {"dataset": str(config.bindings["experiment.dataset"])})


def costs(tmp_path, grid, records=(), **hardware):
    given = {"decoded_per_core": 1e9, "lockstep": 1, **hardware}
    return plan_costs(
        grid,
        records,
        speeds=shipped_speeds(),
        costs=read_step_costs(),
        hardware=Hardware(**given),
        runtime=Runtime(cache_dir=tmp_path),
    )


def rows_of(page, first):
    """The cells of the table that begins with this heading."""
    lines = page[page.index(first) :].splitlines()[2:]
    table = lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_shipped_speeds_are_those_of_the_page():
    page = (ROOT / "docs" / "speed.md").read_text()
    shown = {row[0]: row[1:] for row in rows_of(page, "| method | batch | pixels, float32")}
    kept = {row["method"]: row for row in json.loads(SHIPPED_SPEEDS.read_text())["rows"]}
    assert shown.keys() == kept.keys()
    for name, cells in shown.items():
        row = kept[name]
        values = [row["batch"], row["pixels"]["float32"], row["pixels"]["bfloat16"]]
        values += [row["cached"]["float32"], row["cached"]["bfloat16"]]
        values += [row["peak_mib"], row["evaluated_per_second"]]
        numbers = [None if cell == "–" else float(cell.replace(",", "")) for cell in cells]
        assert numbers == values, name


def test_the_worked_example_of_the_page_is_what_the_command_says(tmp_path):
    page = (ROOT / "docs" / "scaling.md").read_text()
    grid, given = made(), {"decoded_per_core": 100, "lockstep": 8}
    one, eight, all_ = (
        costs(tmp_path, grid, **given, gpus=gpus, nodes=nodes)
        for gpus, nodes in ((1, 1), (8, 1), (8, 8))
    )
    shown = rows_of(page, "| method | runs | steps")
    kept = [
        [
            *(row["variant"], str(row["runs"]), f"{row['steps']:,}", str(row["ms a step"])),
            *(str(row["GPU hours"]), f"{row['peak MiB']:,}"),
        ]
        for row in _rows(all_)
    ]
    assert shown == kept
    hours = [[f"{c.device_hours:.1f}" for c in (one, eight, all_)]]
    hours.append([f"{c.hours:.1f}" for c in (one, eight, all_)])
    assert [row[1:] for row in rows_of(page, "| GPUs (H200)")] == hours


def test_a_run_is_its_steps_times_the_measured_step_and_its_test_images(tmp_path):
    grid = made(SEVEN, "grid.datasets=('dtd',)", "grid.seeds=(1,)")
    found = {run.cell.variant: run for run in costs(tmp_path, grid).runs}
    speeds, dtd = shipped_speeds(), sizes_of("dtd", Runtime(cache_dir=tmp_path))
    assert (dtd.classes, dtd.test) == (47, 1692)
    for variant, epochs, batch in (("CoOp", 200, 32), ("CoCoOp", 10, 1), ("MaPLe", 5, 4)):
        speed, run = speeds.methods["ViT-B-16", variant, "none"], found[variant]
        step = speed.step_ms["pixels", "float32"]
        assert run.steps == epochs * (24 * 16 // batch)
        assert run.step_ms == pytest.approx(step)
        expected = run.steps * step / 1000 + 1692 / speed.evaluated_per_second
        assert run.seconds == pytest.approx(expected)
        assert "NVIDIA H200" in run.basis and not run.derived
    assert found["CoOp+TextRefiner"].derived == ("without the own part of TextRefiner",)


def test_what_takes_no_steps_and_what_is_scored_elsewhere(tmp_path):
    few = made("published/grid_base_to_new", "grid.datasets=('dtd',)", "grid.seeds=(1,)")
    zero = next(r for r in costs(tmp_path, few).runs if r.cell.variant == "ZeroShot")
    rate = shipped_speeds().methods["ViT-B-16", "ZeroShot", "none"].evaluated_per_second
    assert (zero.steps, zero.seconds) == (0, pytest.approx(1692 / rate))
    cross = made("published/grid_cross_dataset", "grid.seeds=(1,)")
    found = costs(tmp_path, cross)
    assert sum("imagenet" not in key for key in found.feature_seconds) == 10
    few = ("grid.datasets=('dtd',)", "grid.seeds=(1,)")
    all_images = ("PromptKD.regime='transductive'", "experiment.shots=0")
    for more, drawn in (((), 47 * 16), (all_images, 2820)):  # without labels, of all classes
        kd = made("published/grid_base_to_new_promptkd", *few, *more)
        assert {run.steps for run in costs(tmp_path, kd).runs} == {20 * (drawn // 8)}


def test_more_classes_and_decoding_are_arithmetic_and_said_to_be(tmp_path):
    grid = made(SEVEN, "grid.datasets=('imagenet',)", "grid.seeds=(1,)")
    (coop,) = [r for r in costs(tmp_path, grid).runs if r.cell.variant == "CoOp"]
    assert coop.step_ms == pytest.approx(35 + 450 * 0.64 / (0.5 * 51))
    assert coop.derived == ("more classes than 50",)
    (slow,) = [
        r
        for r in costs(tmp_path, grid, decoded_per_core=100, cores_per_gpu=2).runs
        if r.cell.variant == "CoOp"
    ]
    assert slow.step_ms == pytest.approx(1000 * 32 / 200)
    assert "decoding is slower than the GPU" in slow.derived


def test_lockstep_shares_the_image_tower_and_decoding(tmp_path):
    variants = "grid.variants={'a': {'experiment.refiner': @NullRefiner}, 'b': {}}"
    few = ("grid.datasets=('dtd',)", "grid.seeds=(1,)", "grid.baseline='a'", "grid.overrides=()")
    grid = made(SEVEN, variants, *few)
    alone, together = costs(tmp_path, grid), costs(tmp_path, grid, lockstep=2)
    assert alone.runs[0].step_ms == pytest.approx(35)
    assert together.runs[0].step_ms == pytest.approx(32 + 3 / 2)
    assert together.runs[0].derived == ("2 runs in lockstep share the image tower",)


def test_another_backbone_is_not_guessed(tmp_path):
    large = made(SEVEN, "grid.datasets=('dtd',)", "experiment.backbone='ViT-L-14-quickgelu'")
    assert len(costs(tmp_path, large).unknown) == 21
    same = made(SEVEN, "grid.datasets=('dtd',)", "experiment.backbone='ViT-B-16'")
    assert not costs(tmp_path, same).unknown


def test_hours_are_those_of_the_busiest_gpu(tmp_path):
    grid = made(SEVEN, "grid.datasets=('dtd', 'eurosat')")
    one, many = costs(tmp_path, grid), costs(tmp_path, grid, gpus=8, nodes=100)
    assert one.hours == pytest.approx(one.device_hours)
    assert many.device_hours == pytest.approx(one.device_hours)
    assert many.hours == pytest.approx(max(run.seconds for run in many.runs) / 3600)


def test_finished_runs_count_as_done_and_their_seconds_for_others(tmp_path):
    grid = made(SEVEN, "grid.datasets=('dtd',)")
    first = next(cell for cell in grid.runs if cell.variant == "CoOp")
    payload = {"identity": "0" * 12, "variant": "CoOp", "factors": {}}
    from dataclasses import replace

    record = replace(
        fake_record(payload), dataset="dtd", seed=first.seed, environment={"device": "a card"}
    )
    found = costs(tmp_path, grid, [record])
    assert (found.done, len(found.runs)) == (1, 20)
    known = [run for run in found.runs if run.cell.variant == "CoOp"]
    assert {run.seconds for run in known} == {record.cost.total_seconds}
    assert {run.basis for run in known} == {"finished runs on a card"}


def test_the_command_takes_the_figures_of_ones_own_card(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    row = {"method": "CoOp", "refiner": "none", "images": "pixels", "precision": "float32"}
    speed = {"batch_size": 32, "step_ms": 1000.0, "peak_mb": 100.0, "evaluated_per_second": 1e6}
    own = {
        "device": "cuda",
        "backbone": "ViT-B-16-quickgelu",
        "machine": [{"device": "My Card", "float32_tflops": 10.0}],
        "speed": [row | speed, row | speed | {"backbone": "ViT-L-14", "step_ms": 9e9}],
        "features": [
            {"backbone": "ViT-B-16-quickgelu", "what": "features", "precision": "float32"}
            | {"encoded_per_second": 1692.0}
        ],
    }
    path = tmp_path / "runs" / "gpu_check" / "gpu_check.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(own))
    words = ["--set", "grid.datasets=('dtd',)", "--decode-rate", "1e9"]
    assert app(["plan", SEVEN, *words, "--json"], standalone_mode=False) in (None, 0)
    found = json.loads(capsys.readouterr().out)
    coop = next(row for row in found["variants"] if row["variant"] == "CoOp")
    assert (coop["ms a step"], coop["measured"]) == (
        1000.0,
        "My Card, runs/gpu_check/gpu_check.json",
    )
    assert found["feature_hours"] == pytest.approx(1 / 3600)  # DTD's 1,692 test images
    assert any("nothing is known of CoCoOp, KgCoOp" in note for note in found["notes"])
    app(["plan", SEVEN, *words, "--device-name", "h200"], standalone_mode=False)
    assert "NVIDIA H200" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"'A100' was not measured.*My Card, NVIDIA H200"):
        app(["plan", SEVEN, *words, "--device-name", "A100"], standalone_mode=False)
    write_record(
        tmp_path / "elsewhere", fake_record({"identity": "0" * 12, "variant": "a", "factors": {}})
    )
    with pytest.raises(ValueError, match=r"is not a gpu_check\.json"):
        checked_speeds(tmp_path / "elsewhere" / "record.json")
