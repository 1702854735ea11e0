"""What a ``gpu_check.json`` of any kind measured counts; what it did not is named or refused."""

import json

import pytest

import experiments.run.registered  # noqa: F401  (fills the registry)
from experiments.cli.app import app
from experiments.run.gpu_speeds import SCHEMA_VERSION, checked_speeds

B16, TIME_UP = "ViT-B-16-quickgelu", {"error": "not measured: the time was up"}
NAMED = {"method": "CoOp", "backbone": B16, "refiner": "none", "images": "pixels"}
FULL = {**NAMED, "precision": "float32"}
FIGURES = {"batch_size": 32, "step_ms": 30.0, "peak_mb": 1000.0, "evaluated_per_second": 1e4}
LOW = {**NAMED, "precision": "bfloat16", **FIGURES, "step_ms": 20.0}
MACHINE = {"device": "A Card", "float32_tflops": 50.0, "bfloat16_tflops": 700.0, "memory_gib": 4}
TOWER = {"backbone": B16, "what": "features", "precision": "float32", "encoded_per_second": 1e3}
NAN, INF = float("nan"), float("inf")
GRID = {
    "grid.datasets": "('dtd',)",
    "grid.seeds": "(1,)",
    "grid.variants": "{'CoOp': {'experiment.refiner': @NullRefiner}}",
    "grid.baseline": "'CoOp'",
    "grid.overrides": "()",
}


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


def written(path, *speed, **changed):
    sections = {"machine": [MACHINE], "features": [TOWER], "grid": [], "speed": speed}
    document = {"schema": SCHEMA_VERSION, "device": "cuda:0", **sections, **changed}
    path.write_text(json.dumps(without(document, *(k for k, v in changed.items() if v is None))))
    return path


def planned(capsys, path, changes=None, words=()):
    sets = [w for k, v in {**GRID, **(changes or {})}.items() for w in ("--set", f"{k}={v}")]
    given = ("published/grid_base_to_new_methods", "--measured", str(path), "--runs", "none")
    fixed = ("--decode-rate", "1e9", "--json")
    code = app(["plan", *given, *sets, *fixed, *words], standalone_mode=False)
    assert code in (None, 0)
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gpu_check.json"


def precision(name):
    return {"experiment.precision": repr(name)}


def lacks(found):
    return {(gap["what"], gap["way_out"].startswith("'python")) for gap in found["not_measured"]}


def test_a_precision_that_was_not_reached_is_not_measured(path, capsys):
    written(path, {**FULL, **TIME_UP}, LOW)
    found = planned(capsys, path, precision("float32"))
    assert lacks(found) == {("a step of CoOp in float32 on pixels", True)}
    assert found["variants"][0]["ms a step"] == "not measured"
    low = planned(capsys, path, precision("bfloat16"))
    assert (low["complete"], low["variants"][0]["ms a step"]) == (True, 20.0)
    written(path, {**FULL, **FIGURES})
    half = planned(capsys, path, precision("float16"))
    assert lacks(half) == {("a step of CoOp in float16 on pixels", False)}  # gpu-check does not
    assert half["at_least"]["longest_hours"] == 0 and not half["complete"]
    written(path, {**FULL, **FIGURES}, without(LOW, "evaluated_per_second", "peak_mb"))
    derived = planned(capsys, path, precision("bfloat16"))["notes"][-1]
    for what in ("evaluation", "memory", "image features"):
        assert f"{what} in bfloat16 from float32" in derived


def test_float16_takes_no_figure_of_float32_unnamed(path, capsys):
    row = {**FULL, **without(FIGURES, "step_ms", "batch_size"), "method": "ZeroShot"}
    written(path, row)
    zero = "{'CoOp': {'experiment.method': @ZeroShot, 'experiment.refiner': @NullRefiner}}"
    half = planned(capsys, path, {"grid.variants": zero, **precision("float16")})
    assert half["complete"] and "evaluation in float16 from float32" in half["notes"][-1]
    assert "memory in float16 from float32" in half["notes"][-1]


@pytest.mark.parametrize(
    ("rows", "changed", "lacking"),
    [
        ([{**FULL, **FIGURES, "images": "cached"}], {}, "a step of CoOp in float32 on pixels"),
        (
            [{**FULL, **without(FIGURES, "evaluated_per_second")}],
            {},
            "the evaluation of CoOp in float32",
        ),
        ([{**FULL, **FIGURES}], {"features": []}, f"the image tower of {B16}"),
        ([{**FULL, **FIGURES}], {"features": [{**TOWER, **TIME_UP}]}, f"the image tower of {B16}"),
        ([{**FULL, **FIGURES, "method": "MaPLe"}], {}, f"CoOp on {B16}"),
    ],
)
def test_what_a_file_lacks_is_named(path, capsys, rows, changed, lacking):
    found = planned(capsys, written(path, *rows, **changed))
    assert (lacking, True) in lacks(found) and not found["complete"]
    assert found["device_hours"] is None


def test_memory_that_was_not_measured_is_not_that_of_more_classes(path, capsys):
    written(path, {**FULL, **without(FIGURES, "peak_mb")})
    found = planned(capsys, path, {"grid.datasets": "('imagenet',)"})
    assert found["variants"][0]["peak MiB"] == "unknown" and found["peak_mib"] == 0
    assert "GPU memory: not measured" in found["notes"]
    written(path, {**FULL, **FIGURES})
    found = planned(capsys, path, {"experiment.batch_size": 128})
    assert found["peak_mib"] == 4000  # no less than in proportion to the batch
    found = planned(capsys, path, words=("--jobs-per-gpu", "5"))
    assert any("4.9 GiB for 5 of the largest" in n and "NOT fit" in n for n in found["notes"])


@pytest.mark.parametrize("machine", [[], [TIME_UP], [{"device": "A Card"}]])
def test_more_classes_need_the_rate_of_the_card(path, capsys, machine):
    written(path, {**FULL, **FIGURES}, machine=machine)
    found = planned(capsys, path, {"grid.datasets": "('sun397',)"})
    assert lacks(found) == {("more classes than 50", True)}
    assert planned(capsys, path)["complete"]  # DTD has fewer


def test_several_runs_on_a_gpu_change_no_hour_and_the_plan_says_so(path, capsys):
    rates = [("cpu", None, 5.0), ("device, 1 job", 1, 20.0), ("device, 4 jobs", 4, 50.0)]
    grid = [{"name": n, "jobs_per_gpu": jobs, "runs_per_minute": rate} for n, jobs, rate in rates]
    written(path, {**FULL, **FIGURES}, grid=grid)
    one, two, four = (planned(capsys, path, words=("--jobs-per-gpu", n)) for n in "124")
    assert one["device_hours"] == two["device_hours"] == four["device_hours"]
    said = [[n for n in found["notes"] if "runs on a GPU at a time" in n] for found in (two, four)]
    assert "was not measured" in said[0][0] and "2.50 times as many runs a minute" in said[1][0]
    assert not any("at a time: the hours" in note for note in one["notes"])
    assert (two["jobs_per_gpu"], four["jobs_per_gpu"]) == (2, 4)


def test_figures_of_a_cpu_are_not_gpu_hours(path, capsys):
    found = planned(capsys, written(path, {**FULL, **FIGURES}, device="cpu"))
    assert found["unit"] == "core" and "core hours" in found["variants"][0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("step_ms", value) for value in (NAN, INF, 0, -1.0, "30", True, [30])),
        ("batch_size", "32"),
        ("peak_mb", NAN),
        ("evaluated_per_second", "many"),
        ("method", None),
        ("precision", 32),
    ],
)
def test_a_figure_that_is_no_number_is_refused(path, name, value):
    written(path, LOW, {**FULL, **FIGURES, name: value})
    with pytest.raises(ValueError, match=r"gpu_check\.json to plan with: .*speed\[1\]") as found:
        checked_speeds(path)
    assert name in str(found.value)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"schema": SCHEMA_VERSION + 1}, "its schema is 3, and this version reads 1 to 2"),
        ({"schema": "2"}, "its schema is '2'"),
        ({"speed": {}}, "speed is no list of rows"),
        ({"speed": [[1]]}, "speed[0] is no row"),
        ({"speed": None}, "it has no speeds"),
        ({"machine": {"device": "x"}}, "machine is no list"),
        ({"machine": [{**MACHINE, "float32_tflops": "50"}]}, "float32_tflops of machine[0]"),
        ({"features": [{**TOWER, "encoded_per_second": NAN}]}, "encoded_per_second of features[0]"),
    ],
)
def test_another_file_is_refused_in_one_line(path, changed, problem):
    written(path, {**FULL, **FIGURES}, **changed)
    with pytest.raises(ValueError, match=r"is not a gpu_check\.json to plan with") as found:
        checked_speeds(path)
    assert problem in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"no json", b"\xff\xfe{"])
def test_what_is_no_json_object_with_speeds_is_refused(path, text):
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"is not a gpu_check\.json to plan with"):
        checked_speeds(path)


def test_a_file_without_speeds_counts_only_where_it_was_asked_for(path, capsys, monkeypatch):
    written(path, {**FULL, **TIME_UP}, {"error": "RuntimeError: of the section"})
    with pytest.raises(ValueError, match="no speed was measured"):
        planned(capsys, path)
    monkeypatch.chdir(path.parent)
    own = path.parent / "runs" / "gpu_check" / path.name
    own.parent.mkdir(parents=True)
    path.rename(own)
    words = ["plan", "published/grid_base_to_new_methods", "--decode-rate", "1", "--json"]
    app(words, standalone_mode=False)
    told = capsys.readouterr()
    assert "H200" in told.out and "is not used: no speed was measured" in told.out + told.err


def test_files_of_the_first_version_are_read(path):
    written(path, without({**FULL, **FIGURES}, "backbone"), schema=1, backbone=B16)
    speed, exact = checked_speeds(path).of("ViT-B-16", "CoOp", "none")
    assert exact and speed.step_ms == {("pixels", "float32"): 30.0} and speed.batch == 32
