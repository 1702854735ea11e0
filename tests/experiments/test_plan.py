"""``plan``: every figure follows from a measured one."""

import json
from dataclasses import replace

import pytest

from core.config import config_from_text
from core.store.record import write_record
from experiments.cli.app import app
from experiments.cli.plan import NOT_MEASURED, _figures, _rows, _summary
from experiments.configs import config_path, read_config_file
from experiments.run.gpu_speeds import FULL, SHIPPED_SPEEDS, checked_speeds, shipped_speeds
from experiments.run.runtime import Runtime
from experiments.run.step_costs import read_step_costs
from experiments.study.cost_plan import Hardware, plan_costs, sizes_of
from experiments.study.past_costs import PastRuns
from experiments.study.planner import ROOT, plan
from tests.helpers.fake_runs import fake_record
from tests.helpers.paths import ROOT as HOME

SEVEN = "published/grid_base_to_new_methods"


def made(name=SEVEN, *overrides):
    import experiments.run.registered  # noqa: F401  (fills the registry)

    given = read_config_file(config_path(name), list(overrides))
    return plan(given, lambda config: {"dataset": str(config.bindings["experiment.dataset"])})


def costs(tmp_path, grid, past=None, speeds=None, **hardware):
    given = {"decoded_per_core": 1e9, "lockstep": 1, **hardware}
    return plan_costs(
        grid,
        past or PastRuns(),
        speeds=speeds or shipped_speeds(),
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
    page = (HOME / "docs" / "speed.md").read_text()
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
    page = (HOME / "docs" / "scaling.md").read_text()
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
    total, ways_out, *_ = _summary(all_, given=True, together={})
    assert total.partition(" (the longest")[0].split("done: ")[1] in page and ways_out in page
    assert f"Disk {all_.disk_bytes / 1e9:.1f} GB" in page


def lacking(tmp_path, grid, **hardware):
    """What a plan says that nobody has measured, by the number of runs; its rows and its total."""
    found = costs(tmp_path, grid, **hardware)
    gaps = {gap.what: len(runs) for gap, runs in found.gaps.items()}
    return found, gaps, _rows(found), _summary(found, given=True, together={})[0]


FEW = ("grid.datasets=('dtd',)", "grid.seeds=(1,)")


def test_a_run_that_nobody_has_measured_is_in_no_sum(tmp_path):
    half = "experiment.precision='float16'"
    whole, gaps, rows, total = lacking(tmp_path, made(SEVEN, *FEW, half))
    assert gaps["a step of CoCoOp in float16 on pixels"] == 1 and len(whole.unknown) == 7
    assert {(row["ms a step"], row["GPU hours"], row["measured"]) for row in rows} == {
        (NOT_MEASURED,) * 3
    }
    assert "at least 0.0 GPU hours" in total and "without 7 runs of CoCoOp, CoOp, " in total
    figures = _figures(whole)
    assert not figures["complete"] and figures["device_hours"] is figures["hours"] is None
    assert figures["at_least"]["device_hours"] == pytest.approx(whole.device_hours)
    assert sum(gap["runs"] for gap in figures["not_measured"] if gap["whole_runs"]) == 7


def test_the_steps_that_only_a_refiner_takes_are_not_those_of_its_method(tmp_path):
    variants = "grid.variants={'a': {'experiment.method': @ZeroShot}}"
    alone = ("grid.baseline='a'", "grid.overrides=()", "experiment.refiner=@TextRefiner")
    _, gaps, (row,), _ = lacking(tmp_path, made(SEVEN, *FEW, variants, *alone))
    assert gaps == {"a step of ZeroShot in float32 on pixels": 1}
    assert row["steps"] > 0 and row["GPU hours"] == NOT_MEASURED


def test_parts_of_runs_that_nobody_has_measured_are_named_beside_the_sum(tmp_path):
    few = ("grid.seeds=(1,)", "experiment.selection='val'")
    found, gaps, rows, total = lacking(tmp_path, made(SEVEN, *few, "grid.datasets=('dtd',)"))
    scores = "the scores of every epoch for 'val'"
    assert gaps == {scores: 7, "the own part of TextRefiner": 1}
    assert not found.unknown and all(isinstance(row["GPU hours"], float) for row in rows)
    assert f"without {scores} in 7 runs and the own part of TextRefiner in 1 run: not" in total
    _, gaps, *_ = lacking(tmp_path, made("demo", "grid.seeds=(1,)"))
    runs = len(made("demo", "grid.seeds=(1,)").runs)
    assert gaps["the evaluation"] == runs and gaps["the own part of TextRefiner"] < runs


def test_a_plan_of_which_everything_is_measured_is_complete(tmp_path):
    variants = "grid.variants={'a': {}}"
    alone = (variants, "grid.baseline='a'", "grid.overrides=()", "experiment.refiner=@NullRefiner")
    found, gaps, rows, total = lacking(tmp_path, made(SEVEN, *FEW, *alone))
    assert gaps == {} and "about" in total and "without" not in total
    figures = _figures(found)
    assert figures["complete"] and figures["device_hours"] == pytest.approx(found.device_hours)
    assert rows[0][NOT_MEASURED] == ""


def test_the_kept_features_are_those_of_every_seed_and_view(tmp_path):
    variants = "grid.variants={'a': {}}"
    alone = (variants, "grid.baseline='a'", "grid.overrides=()", "grid.datasets=('dtd',)")
    views = ("experiment.fresh_views=False", "experiment.num_views=2")
    rate = 10.0
    one, three, refined = (
        costs(tmp_path, made(SEVEN, *alone, *views, refiner, seeds), decoded_per_core=rate / 8)
        for refiner, seeds in (
            ("experiment.refiner=@NullRefiner", "grid.seeds=(1,)"),
            ("experiment.refiner=@NullRefiner", "grid.seeds=(1, 2, 3)"),
            ("experiment.refiner=@TextRefiner", "grid.seeds=(1,)"),
        )
    )
    images = [sum(found.feature_seconds.values()) * rate for found in (one, three)]
    assert images == [pytest.approx(1692 + k * 2 * 24 * 16) for k in (1, 3)]
    assert not one.disk_gaps
    assert [gap.what for gap in refined.disk_gaps] == ["the local tokens that TextRefiner reads"]


def test_a_search_has_no_plan_and_the_way_out_is_named():
    with pytest.raises(ValueError, match="it defines a search: 'search' runs it"):
        app(["plan", "search_tip_adapter", "--decode-rate", "1"], standalone_mode=False)


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
        expected = run.steps * step / 1000 + 1692 / speed.evaluated_per_second[FULL]
        assert run.seconds == pytest.approx(expected)
        assert "NVIDIA H200" in run.basis and not run.derived
    gaps = {name: [gap.what for gap in run.gaps] for name, run in found.items() if run.gaps}
    assert gaps == {"CoOp+TextRefiner": ["the own part of TextRefiner"]}


def test_what_takes_no_steps_and_what_is_scored_elsewhere(tmp_path):
    few = made("published/grid_base_to_new", "grid.datasets=('dtd',)", "grid.seeds=(1,)")
    zero = next(r for r in costs(tmp_path, few).runs if r.cell.variant == "ZeroShot")
    rate = shipped_speeds().methods["ViT-B-16", "ZeroShot", "none"].evaluated_per_second[FULL]
    assert (zero.steps, zero.seconds) == (0, pytest.approx(1692 / rate))
    cross = made("published/grid_cross_dataset", "grid.seeds=(1,)")
    found = costs(tmp_path, cross)
    assert sum("imagenet" not in key for key in found.feature_seconds) == 10
    few = ("grid.datasets=('dtd',)", "grid.seeds=(1,)")
    all_images = ("PromptKD.regime='transductive'", "experiment.shots=0")
    for more, drawn in (((), 47 * 16), (all_images, 2820)):  # without labels, of all classes
        kd = made("published/grid_base_to_new_promptkd", *few, *more)
        found = costs(tmp_path, kd)
        assert {run.steps for run in found.runs} == {20 * (drawn // 8)}
        assert "the PublishedTeacher of PromptKD" in {gap.what for gap in found.gaps}


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
    found, gaps, _, total = lacking(tmp_path, large)
    assert len(found.unknown) == 21 and found.on_gpus
    assert gaps.pop("the image tower of ViT-L-14-quickgelu") == 0
    assert gaps.pop("CoOp on ViT-L-14-quickgelu") == 6  # with and without a refiner
    assert len(gaps) == 5 and set(gaps.values()) == {3}
    assert "at least" in total and "and the image tower of ViT-L-14-quickgelu: not" in total
    ways = {gap.way_out for gap in found.gaps}
    assert all("gpu-check" in way for way in ways)
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
    config = config_from_text(first.config_text, "a run")
    prints = {"dataset": "what it had", "few_shot": "of its own", "backbone": "ViT"}
    inputs = {key: prints[key] for key in ("dataset", "backbone")}
    payload = {"identity": config.identity(ROOT, inputs), "variant": "any", "factors": {}}
    record = replace(
        fake_record(payload),
        dataset="dtd",
        fingerprints=prints,
        environment={"device": "cuda:0 (a card)"},
    )
    past = PastRuns([record], {record.identity: config})
    found = costs(tmp_path, grid, past)
    assert (found.done, len(found.runs)) == (1, 20)
    known = [run for run in found.runs if run.cell.variant == "CoOp"]
    assert {run.seconds for run in known} == {record.cost.total_seconds}
    assert {run.basis for run in known} == {"finished runs on a card"}
    assert all(run.steps and run.step_ms is None for run in known)
    other = made(SEVEN, "grid.datasets=('dtd',)", "experiment.batch_size=16")
    found = costs(tmp_path, other, past)
    assert found.done == 0 and not any("finished" in run.basis for run in found.runs)


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
    assert found["at_least"]["feature_hours"] == pytest.approx(1 / 3600)  # DTD's 1,692 test images
    assert found["feature_hours"] is found["device_hours"] is None
    whole = [gap["what"] for gap in found["not_measured"] if gap["whole_runs"]]
    assert "CoCoOp on ViT-B-16-quickgelu" in whole and len(whole) == 5
    assert "without 15 runs of CoCoOp, KgCoOp, " in found["notes"][0]
    assert "'python main.py gpu-check' measures them" in found["notes"][1]
    app(["plan", SEVEN, *words, "--device-name", "h200"], standalone_mode=False)
    assert "NVIDIA H200" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"'A100' was not measured.*My Card, NVIDIA H200"):
        app(["plan", SEVEN, *words, "--device-name", "A100"], standalone_mode=False)
    write_record(
        tmp_path / "elsewhere", fake_record({"identity": "0" * 12, "variant": "a", "factors": {}})
    )
    with pytest.raises(ValueError, match=r"is not a gpu_check\.json"):
        checked_speeds(tmp_path / "elsewhere" / "record.json")


def shown(capsys, *words):
    """What the command says as JSON, of machines whose cores decode without end."""
    words = ["plan", *words, "--decode-rate", "1e9", "--runs", "nowhere", "--json"]
    assert app(words, standalone_mode=False) in (None, 0)
    return json.loads(capsys.readouterr().out)


def test_a_published_plan_by_hand(capsys):
    """KgCoOp, alone and without its term, side by side: 100 epochs of 128 images, 16 for each of 24
    and of 199 base classes.
    """
    two = ("--set", "grid.datasets=('dtd', 'sun397')", "--set", "grid.seeds=(1,)")
    found = shown(capsys, "published/grid_base_to_new_kgcoop", *two)
    dtd, sun = 100 * (24 * 16 // 128), 100 * (199 * 16 // 128)
    alone, cached = 107.0, 28.6  # ms, of which the image tower is shared by both
    step = cached + (alone - cached) / 2
    step_of_sun = step + (199 - 50) * 0.64 / (0.5 * 51)  # GFLOP over GFLOP/ms
    images = 1692 + 19850
    run = (dtd * step + sun * step_of_sun) / 1000 + images / 8543
    features = images / 1033  # the median of the methods that train on pixels
    assert [row["steps"] for row in found["variants"]] == [dtd + sun] * 2
    assert {row["ms a step"] for row in found["variants"]} == {round((step + step_of_sun) / 2, 1)}
    assert {row["GPU hours"] for row in found["variants"]} == {float(f"{run / 3600:.2g}")}
    assert found["complete"] and found["runs"] == 4
    assert found["device_hours"] == pytest.approx((2 * run + features) / 3600)
    assert found["feature_hours"] == pytest.approx(features / 3600)
    longest = sun * step_of_sun / 1000 + 19850 / 8543
    assert found["longest_hours"] == pytest.approx(longest / 3600)
    kept = 4 * 60_000 + 2 * images * 10 + images * 512 * 4
    assert found["disk_bytes"] == pytest.approx(kept)


def test_a_plan_on_cached_features_of_the_embedded_backbone_by_hand(capsys):
    """CoOp, with and without a refiner: 15 epochs of 32 images, 16 for each of 12 base classes."""
    few = ("--set", "grid.datasets=('mosaic/land',)", "--set", "grid.seeds=(1, 2)")
    found = shown(capsys, "demo", *few)
    steps = 15 * (12 * 16 // 32)
    seconds = steps * read_step_costs().base_ms * read_step_costs().ratios["CoOp"] / 1000
    zero, *trained = found["variants"]
    assert (zero["variant"], zero["runs"], zero["core hours"]) == ("ZeroShot", 1, NOT_MEASURED)
    assert {(row["runs"], row["steps"]) for row in trained} == {(2, 2 * steps)}
    assert {row["core hours"] for row in trained} == {float(f"{2 * seconds / 3600:.2g}")}
    assert (found["unit"], found["feature_hours"], found["device_hours"]) == ("core", None, None)
    assert found["at_least"]["device_hours"] == pytest.approx(2 * len(trained) * seconds / 3600)
    lacks = {gap["what"]: gap["runs"] for gap in found["not_measured"]}
    assert lacks == {"the evaluation": 15, "the own part of TextRefiner": 12}


def shipped_grids():
    """The names of the grids that come with the program."""
    import experiments.run.registered  # noqa: F401  (fills the registry)

    configs = config_path(SEVEN).parents[1]
    for path in sorted(configs.glob("**/*.gin")):
        name = path.relative_to(configs).with_suffix("").as_posix().removeprefix("grids/")
        if "grid.baseline" in path.read_text():
            yield name


def test_every_shipped_grid_has_a_plan_in_which_no_zero_is_silent(tmp_path):
    names = list(shipped_grids())
    assert len(names) > 20
    for name in names:
        found = costs(tmp_path, made(name, "grid.seeds=(1,)"))
        assert found.runs and all(run.seconds or run.gaps for run in found.runs), name
        for row in _rows(found):
            hours = row[f"{found.unit} hours"]
            assert hours == NOT_MEASURED or isinstance(hours, str) or hours > 0, (name, row)


def test_searches_train_on_base_classes_alone(tmp_path):
    protocols = {"base_to_new": 24, "few_shot": 47, "validation": 24, "pseudo_new": 12}
    for protocol, classes in protocols.items():
        given = (f"experiment.protocol={protocol!r}", "experiment.epochs=1", "grid.overrides=()")
        grid = made(SEVEN, *FEW, "experiment.batch_size=1", *given)
        (coop,) = [r for r in costs(tmp_path, grid).runs if r.cell.variant == "CoOp"]
        assert coop.steps == 200 * classes * 16, protocol
