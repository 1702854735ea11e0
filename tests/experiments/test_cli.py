"""The command line as a user meets it: exit codes, one line an error, JSON that parses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import main as command_line
from core.clip.measured import FOLDER
from core.config import registered_classes
from core.machine import processor
from core.program import command_line as command_line_of
from core.program import same_command
from core.store.names import CACHE_FOLDER
from experiments.configs import config_rows
from experiments.workers.local import InlineExecutor

ROOT = Path(command_line.__file__).parent
SHORT = ("--set", "experiment.epochs=2", "--set", "experiment.shots=2")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a command in an empty folder; gives exit code, output and error lines."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, words)])
        code = command_line.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err.splitlines()

    return run


@pytest.fixture
def quick(call, small_mosaic, tmp_path):
    """The same with the small Mosaic's cache below ``runs``."""
    (tmp_path / "runs").mkdir()
    small_mosaic.mkdir(exist_ok=True)
    (tmp_path / "runs" / "cache").symlink_to(small_mosaic)
    return call


BAD_INPUT = [
    (["train", "nosuch"], "'nosuch' is neither a file nor a shipped configuration"),
    (["train", "base"], "experiment.method has no value|experiment.dataset has no value"),
    (["train", "mosaic", "--set", "CoOp.ctx_inti=5"], "did you mean 'ctx_init'"),
    (["train", "mosaic", "--set", "CoOpp.num_ctx=4"], "did you mean 'CoOp'"),
    (["train", "mosaic", "--set", "CoOp.num_ctx=abc"], "is not a value"),
    (["train", "mosaic", "--set", "CoOp.num_ctx=0"], "must be int >= 1"),
    (["train", "mosaic", "--set", "CoOp.num_ctx='four'"], "must be int >= 1"),
    (["train", "mosaic", "--set", "CoOp.num_ctx"], "write --set Class.parameter=value"),
    (
        ["train", "mosaic", "--set", "experiment.method=@SGD"],
        "is of kind optimizer, not method",
    ),
    (["train", "mosaic", "--set", "EmaCache.num_slots=5"], "TextRefiner is not plugged in"),
    (["train", "mosaic", "--set", "experiment.dataset=mosaic/vehicle"], "mosaic/vehicles'?"),
    (["train", "mosaic", "--set", "experiment.dataset=folder/nowhere"], "nowhere"),
    (["train", "mosaic", "--set", "experiment.backbone=ViT-B-61"], "unknown backbone 'ViT-B-61'"),
    (["train", "mosaic", "--set", "experiment.weights=gone.pt"], "gone.pt does not exist"),
    (["train", "mosaic", "--device", "gpu"], "device must be cpu, cuda or cuda:N, got 'gpu'"),
    (["train", "mosaic", "--device", "cuda:99"], "use --device cpu"),
    (["grid", "mosaic", "--dry-run"], "grid"),
    (["evaluate", "runs/none"], "is not a run folder"),
    (["status", "runs/none"], "is not a study folder"),
    (["status", __file__], "is a file: status shows the folder of a grid or a search"),
    (["sync", __file__], "is a file: sync copies the runs of a study folder"),
    (["sync", "."], "is not a study folder: it holds no runs"),
    (["report", "none.csv", "--out", "o"], "none.csv: no such file or folder"),
    (["report", __file__, "--out", __file__], "is a file; name another place"),
    (["report", __file__, "--out", "/proc/none"], "--out: cannot write into /proc"),
    (["report", __file__, "--out", "o", "--json", "."], "--json must be a file, but . is a folder"),
    (["report", __file__, "--rope", "-1"], "to below 100, got -1"),
    (["report", __file__, "--rope", "nan"], "--rope is in points, from 0"),
    (["report", __file__, "--alpha", "1"], "--alpha must be above 0 and below 1"),
    (["report", __file__, "--out", "o", "--metrics", "a,,b"], "--metrics must name columns"),
    (["export", __file__, "."], "OUT must be a file, but . is a folder"),
    (["diff", "a", "b"], "a is not a run folder"),
    (["report", "nowhere"], "no such file or folder"),
    (["verify", "."], "holds no reference vectors"),
    (["list", "nonsense"], "unknown topic 'nonsense'"),
    (["data", "check", "mosaic/vehicles", "--classes", "odd"], "all, base or new"),
    (["data", "check", "imagenet"], "imagenet does not exist"),
    (["data", "check", "imagenets"], "did you mean 'imagenet'?"),
    (["frobnicate"], "No such command 'frobnicate'"),
    (["train"], "Missing argument"),
    (["train", "mosaic", "--nonsense"], "No such option"),
    (["data", "check", "mosaic/vehicles", "--shots", "x"], "valid int"),
]


@pytest.mark.parametrize(("words", "message"), BAD_INPUT, ids=[" ".join(w) for w, _ in BAD_INPUT])
def test_bad_input_is_one_line_and_2(call, words, message):
    code, out, err = call(*words)
    assert code == 2 and out == ""
    assert len(err) == 1, err
    assert err[0].startswith("error: ")
    assert any(choice in err[0] for choice in message.split("|")), err[0]


def test_a_study_without_runs_has_nothing_to_copy(call, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.json").write_text("{}")
    code, out, err = call("sync", "s")
    assert (code, out, err) == (0, "nothing to copy: s has no run yet\n", [])


def test_a_report_of_a_table_takes_its_options(call, tmp_path):
    rows = [f"{v},d{d},{s},{70 + s + d * d},{30 - s}" for v in "XY" for d in (0, 1) for s in (1, 2)]
    (tmp_path / "t").write_text("\n".join(["variant,dataset,seed,acc,err", *rows]))
    code, _, err = call("report", "t", "--no-figures")
    assert code == 2 and "does not tell whether lower is better" in err[0] and len(err) == 1
    options = ("--no-figures", "--lower", "ERR", "--scale", "percent", "--metrics", "acc,err")
    code, out, err = call("report", "t", "t", "--as", "again", "--alpha", "0.01", *options)
    assert code == 0 and not err and "again/X" in out
    report = json.loads((tmp_path / "t.report" / "report" / "report.json").read_text())
    assert report["options"]["alpha"] == 0.01
    code, out, _ = call("export", "t", "t.csv", "--lower", "err")
    assert code == 0 and (tmp_path / "t.csv").read_text().startswith("variant,dataset,seed,acc,low")


def test_debug_shows_where_it_came_from(call):
    with pytest.raises(ValueError, match="unknown topic"):
        call("list", "nonsense", "--debug")


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["data", "--help"], []])
def test_help_is_no_error(call, words):
    code, out, err = call(*words)
    assert code == 0 and err == [] and "Usage" in out


def test_list_names_everything_registered(call):
    code, out, _ = call("list", "--json")
    found = json.loads(out)
    assert code == 0
    for topic, kind in (("methods", "method"), ("refiners", "refiner")):
        assert {row["name"] for row in found[topic]} == {e.name for e in registered_classes(kind)}
    assert {"EmaCache", "NoCache", "SGD", "SemanticLoss"} <= {r["name"] for r in found["parts"]}
    assert {"mosaic/vehicles", "sklearn/digits"} <= {r["name"] for r in found["datasets"]}
    assert {row["name"] for row in found["configs"]} >= {"coop", "demo", "text_refiner"}
    code, out, _ = call("list", "parts")
    assert code == 0 and "EmaCache.num_slots = 25  (int >= 1)" in out
    assert call("list")[0] == 0


def test_every_shipped_configuration_says_what_it_is():
    rows = config_rows()
    assert len(rows) >= 6
    for row in rows:
        assert row["summary"] and "=" not in row["summary"], row


def test_doctor_tells_what_is_there(call, monkeypatch):
    code, out, _ = call("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)}
    assert code == (0 if all(check["ok"] for check in checks.values()) else 1)
    assert checks["torch"]["ok"] and checks["mosaic weights"]["ok"] and checks["runs folder"]["ok"]
    monkeypatch.setattr("experiments.cli.doctor.PACKAGES", {"torch": "99.0", "nosuchpackage": "1"})
    code, out, _ = call("doctor")
    assert code == 1 and out.count("BAD") == 2 and "make setup" in out and "missing" in out


def test_doctor_tells_what_was_measured_here_and_refuses_a_misspelt_switch(call, monkeypatch):
    measured = Path("runs") / CACHE_FOLDER / FOLDER
    measured.mkdir(parents=True)
    here = {"processor": processor(), "torch": torch.__version__, "answer": "oneDNN"}
    for name, said in {
        "here": here | {"question": "matrix product", "widths": [512, 768]},
        "elsewhere": here | {"processor": "another", "question": "matrix product", "widths": [7]},
        "list": [],
    }.items():
        (measured / f"{name}.json").write_text(json.dumps(said))
    (measured / "damaged.json").write_text("{")

    def said():
        return {c["name"]: c for c in json.loads(call("doctor", "--json")[1])}["matrix product"]

    monkeypatch.setenv("REFINELAB_ONEDNN", "auto")
    assert said()["ok"] and said()["found"].endswith("; matrix product of width 512+768: oneDNN")
    monkeypatch.setenv("REFINELAB_ONEDNN", "true")
    assert not said()["ok"] and "must be auto, on or off, got 'true'" in said()["found"]


def test_train_evaluate_diff(quick):
    words = ("mosaic", *SHORT, "--set", "experiment.dataset=mosaic/vehicles")
    code, out, err = quick("train", *words, "--out", "one")
    assert code == 0 and err == [] and "base accuracy %" in out and "harmonic mean %" in out
    code, out, err = quick("train", *words, "--set", "experiment.seed=2", "--json")
    record = json.loads(out)
    folder = Path("runs/train") / record["identity"]
    assert code == 0 and err == [] and json.loads((folder / "record.json").read_text()) == record
    code, out, _ = quick("evaluate", folder, "--json")
    scores = json.loads(out)
    assert code == 0 and [s["target"] for s in scores] == ["base", "new"]
    for score, recorded in zip(scores, record["evaluations"], strict=True):
        assert (score["correct"], score["total"]) == (recorded["correct"], recorded["total"])
        assert score["accuracy"] == sum(score["correct"]) / sum(score["total"])
    code, out, _ = quick("evaluate", folder, "--classes", "all")
    assert code == 0 and "mosaic/vehicles" in out
    code, out, _ = quick("diff", "one", folder)
    assert code == 0 and "experiment.seed" in out and "CoOp.num_ctx" not in out


def test_a_diverged_run_is_a_failed_one(quick):
    overrides = ["--set", "SGD.lr=1e30", "--set", "ConstantThenCosine.warmup_lr=1e30"]
    code, out, err = quick("train", "text_refiner", *SHORT, *overrides, "--set",
                           "experiment.dataset=mosaic/vehicles")  # fmt: skip
    assert code == 1 and "diverged" in out
    assert len(err) == 1 and "try a lower lr" in err[0]


def test_data_list_check_and_export(quick):
    code, out, _ = quick("data", "check", "mosaic/vehicles", "--shots", "2", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["train"]["n"] == found["val"]["n"] == 2 * found["num_classes"]
    assert found["test"]["n"] == 5 * found["num_classes"]
    code, out, err = quick("data", "export", "mosaic/vehicles", "tree")
    assert code == 0 and err == [] and "folder/tree" in out
    code, out, _ = quick("data", "check", "folder/tree", "--shots", "2", "--json")
    again = json.loads(out)
    assert code == 0
    own = ("name", "fingerprint", "layout")
    assert {k: again[k] for k in again if k not in own} == {
        k: found[k] for k in found if k not in own
    }
    assert "split file" in again["layout"] and "tree/images" in again["layout"]
    code, _, err = quick("data", "export", "mosaic/land", "tree")
    assert code == 2 and len(err) == 1 and "choose an empty folder" in err[0]
    assert quick("data", "list")[0] == 0


GRID = """
include 'coop.gin'
experiment.epochs = 1
experiment.shots = 1
grid.study = 'little'
grid.datasets = ('mosaic/vehicles',)
grid.seeds = (1, 2)
grid.baseline = 'CoOp'
grid.variants = {
    'ZeroShot': {'experiment.method': @ZeroShot},
    'CoOp': {},
}
"""


def test_workers_start_early_only_where_runs_may_be_left(quick, monkeypatch):
    started, closed = [], []

    class Watched(InlineExecutor):
        def start_early(self):
            started.append("early")

        def close(self):
            super().close()
            closed.append("closed")

    monkeypatch.setattr("experiments.workers.local.make_executor", lambda *_, **__: Watched())
    Path("little.gin").write_text(GRID)
    assert quick("grid", "little.gin", "--dry-run")[0] == 0 and not started
    wrong = ("--set", "grid.variants={'CoOp': {'SGD.lr': 0.1}, 'ZeroShot': {'CoOp.nothing': 1}}")
    assert quick("grid", "little.gin", *wrong)[0] == 2 and not Path("runs/little").exists()
    assert closed, "workers of a plan that cannot be made are stopped"
    started.clear()
    assert quick("grid", "little.gin", "--no-track")[0] == 0 and started == ["early"]
    assert quick("grid", "little.gin", "--no-track")[0] == 0 and started == ["early"]


def test_a_little_study_from_plan_to_status(quick):
    Path("little.gin").write_text(GRID)
    code, out, _ = quick("grid", "little.gin", "--dry-run")
    assert code == 0 and "3 left" in out and not Path("runs/little").exists()
    code, out, _ = quick("grid", "little.gin", "--jobs", "0", "--no-track")
    assert code == 0 and "3 runs done" in out and "report runs/little" in out
    code, out, _ = quick("grid", "little.gin", "--jobs", "0", "--no-track")
    assert code == 0 and "0 runs done now, 3 done before" in out
    code, out, _ = quick("status", "runs/little", "--json")
    found = json.loads(out)
    assert code == 0 and (found["finished"], found["missing"]) == (3, 0)
    code, out, _ = quick("status", "runs/little")
    assert code == 0 and "3 of 3 runs finished" in out
    code, _, _ = quick("report", "runs/little", "--json", "made.json")
    assert code == 0 and Path("runs/little/report/index.html").is_file()
    assert json.loads(Path("made.json").read_text())


def test_as_a_program(tmp_path):
    def program(*words):
        return subprocess.run(
            [sys.executable, ROOT / "main.py", *words], cwd=tmp_path, capture_output=True, text=True
        )

    plain = program("frobnicate")
    assert plain.returncode == 2 and plain.stderr.count("\n") == 1
    assert "Traceback" not in plain.stderr
    debug = program("--debug", "diff", "a", "b")
    assert debug.returncode != 0 and "Traceback" in debug.stderr


def test_messages_name_the_program_that_was_started(call, monkeypatch):
    assert "python main.py list configs" in call("train", "nosuch")[2][0]
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/refinelab", "grid", "a b"])
    assert same_command() == "refinelab grid 'a b'"
    assert command_line_of("report", Path("runs/demo")) == "refinelab report runs/demo"


def test_pretrain_shows_drawing_and_steps_and_prints_the_report(call, monkeypatch):
    def pretrain(out, build_model, *, seed, processes, progress, **more):
        progress(0, 4, {"images": 0.5})
        progress(3, 4, {"loss": 2.0, "seconds": 0.1})
        return {"out": str(out), "seed": seed, "processes": processes, **more}

    monkeypatch.setattr("core.mosaic.pretrain", pretrain)
    code, out, _ = call("pretrain", "--steps", 4, "--seed", 3)
    expected = {"out": "runs/pretrain", "seed": 3, "processes": 1, "steps": 4}
    assert code == 0 and json.loads(out) == expected
