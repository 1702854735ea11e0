"""A report over runs of several devices says which cells ran where."""

import json
from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

from analysis.report import build_report, print_report
from analysis.sections.analysis import Options
from analysis.sections.devices import shares
from analysis.sections.run_pair import machine_note, machine_rows
from core.store.run_facts import device_name
from core.store.settings import write_config
from experiments.cli.app import app
from tests.helpers.study_folders import edit_record, make_study


@pytest.fixture
def mixed(tmp_path):
    """Two variants on two datasets with three seeds; ``device`` names that of a run."""

    def made(device, folder="study"):
        study = make_study(tmp_path / folder, {"CoOp": (0, 0), "Full": (3, 4)}, datasets=2)
        for path in sorted(study.glob("*/record.json")):
            variant, dataset, seed = (int(path.parent.name[i : i + 2]) for i in (0, 2, 4))
            facts = device(variant, dataset, seed)
            edit_record(path, lambda raw, facts=facts: raw["environment"].update(facts))
        return study

    return made


CPU = {"device": "cpu (x86_64)"}


def gpu(name, index=0):
    return {"device": f"cuda:{index} ({name})", "gpu": {"name": name, "memory_gb": 80.0 + index}}


def said(study, out):
    report = build_report(study, out=out, options=Options(reps=100), figures=False)
    page, text = (out / "index.html").read_text(), (out / "report.md").read_text()
    return report, page, text


def test_every_cell_has_its_device(mixed, tmp_path):
    study = mixed(
        lambda v, d, s: CPU if v == 0 else gpu("H100") if (d, s) != (1, 2) else gpu("A100")
    )
    report, page, text = said(study, tmp_path / "out")
    found = {(s.device, s.variant): (s.runs, s.cells) for s in shares(report.analysis)}
    assert found == {
        ("cpu (x86_64)", "CoOp"): (10, ("data/set0", "data/set1")),
        ("H100", "Full"): (9, ("data/set0", "data/set1, seed 1, 3, 4, 5")),
        ("A100", "Full"): (1, ("data/set1, seed 2",)),
    }
    terminal = StringIO()
    print_report(report, Console(file=terminal, width=100))
    for shown in (page, text):
        assert "Which cells ran where" in shown and "round differently" in shown
    assert "Which cells ran where" in terminal.getvalue()
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = document["sections"]["devices"]["tables"]["devices"]
    assert {(row["device"], row["runs"]) for row in rows} == {
        *(("cpu (x86_64)", 10), ("H100", 9), ("A100", 1))
    }


def test_gpus_of_one_model_are_one_device(mixed, tmp_path):
    study = mixed(lambda v, d, s: gpu("H100", s % 2))
    report, page, _ = said(study, tmp_path / "out")
    assert list(report.analysis.results.devices) == [("H100",)]
    assert "Which cells ran where" not in page and "differ in gpu" not in page
    assert "differ in device" not in page and "Different devices" not in page


def test_a_gpu_of_an_earlier_record_is_the_same_with_and_without_its_number(mixed, tmp_path):
    names = ("cuda (H100)", "cuda:0 (H100)", "cuda:11 (H100)")
    study = mixed(lambda v, d, s: gpu("H100") if v else {"device": names[s % 3]})
    report, page, _ = said(study, tmp_path / "out")
    assert list(report.analysis.results.devices) == [("H100",)]
    assert "Which cells ran where" not in page and "differ in device" not in page
    odd = {"device": "cuda (NVIDIA A100 (MIG 1g.5gb))"}
    assert device_name(odd) == "NVIDIA A100 (MIG 1g.5gb)" and device_name({}) == ""
    assert device_name(CPU) == "cpu (x86_64)"  # its kind is no number of one of several


def test_records_without_a_device_are_told_beside_others(mixed, tmp_path):
    study = mixed(lambda v, d, s: {} if v else CPU)
    report, page, text = said(study, tmp_path / "out")
    found = {(s.device, s.variant): s.runs for s in shares(report.analysis)}
    assert found == {("cpu (x86_64)", "CoOp"): 10, ("not recorded", "Full"): 10}
    for shown in (page, text):
        assert "Which cells ran where" in shown and "do not say which device" in shown
        assert "Several devices computed" not in shown
    none, page, _ = said(mixed(lambda v, d, s: {}, "none"), tmp_path / "none-out")
    assert none.analysis.results.devices == {} and "Which cells ran where" not in page


def test_a_training_that_went_on_elsewhere_is_told(mixed, tmp_path):
    """Even where all runs have done so, and where the same model has another driver."""
    moved = [gpu("A100"), gpu("H100", 1)]
    study = mixed(lambda v, d, s: {**gpu("H100"), "devices": moved})
    report, page, text = said(study, tmp_path / "out")
    assert list(report.analysis.results.devices) == [("A100", "H100")]
    assert {s.device for s in shares(report.analysis)} == {"A100, then H100"}
    for shown in (page, text):
        assert "A100, then H100" in shown and "some trainings went on on another device" in shown
    drivers = [{"gpu": {"name": "H100", "driver": d, "cuda": "12.4", "cudnn": None}} for d in "12"]
    study = mixed(lambda v, d, s: {**gpu("H100"), "devices": drivers} if v else CPU, "drivers")
    report, _, _ = said(study, tmp_path / "drivers-out")
    assert list(report.analysis.results.devices) == [
        ("H100 (driver 1, CUDA 12.4)", "H100 (driver 2, CUDA 12.4)"),
        ("cpu (x86_64)",),
    ]


def test_costs_of_several_devices_say_so(mixed, tmp_path):
    study = mixed(lambda v, d, s: CPU if v == 0 or s == 1 else gpu("H100"))
    _, page, _ = said(study, tmp_path / "out")
    expected = "CoOp: 10 on cpu (x86_64); Full: 8 on H100, 2 on cpu (x86_64)"
    told = "their seconds do not compare: a mean over several devices is that of none"
    assert f"{told} ({expected})" in page
    _, page, _ = said(mixed(lambda v, d, s: CPU, "one"), tmp_path / "one-out")
    assert "seconds do not compare" not in page


def test_what_decides_the_last_digits_is_noted_and_skipped_steps_are_not(mixed, tmp_path):
    study = mixed(lambda v, d, s: {"tf32": bool(v), "deterministic": s > 1, "skipped_steps": s})
    _, page, _ = said(study, tmp_path / "out")
    assert "the runs differ in tf32: False, True" in page
    assert "the runs differ in deterministic: False, True" in page
    assert "differ in skipped_steps" not in page


def test_two_runs_say_in_what_their_machines_differ(mixed, tmp_path):
    on_gpu = gpu("H100") | {"tf32": True, "deterministic": True, "threads": 4}
    on_gpu["gpu"] |= {"driver": "550", "cuda": "12.4", "cudnn": None}
    other = on_gpu | {"tf32": False, "gpu": {**on_gpu["gpu"], "driver": "560"}}
    on_cpu = CPU | {"tf32": False, "deterministic": True, "threads": 4}
    kinds = [on_cpu, on_cpu | {"tf32": True}, on_gpu, other, {}]
    study = mixed(lambda v, d, s: kinds[s - 1])
    runs = [next(study.glob(f"0000{seed:02}*")) for seed in range(1, 6)]
    assert machine_rows(runs[0], runs[0]) == machine_rows(runs[0], runs[1]) == []
    assert dict(row[:2] for row in machine_rows(runs[2], runs[0])) == {
        **{"device": "H100", "driver": "550", "CUDA": "12.4"},
        **{"TF32": "True", "deterministic": "True"},
    }
    rows = machine_rows(runs[2], runs[3])
    assert rows == [("driver", "550", "560"), ("TF32", "True", "False")]
    assert machine_note(rows) == "the runs differ in driver, TF32: a few images may be due to it"
    assert machine_rows(runs[0], runs[4])[0] == ("device", "cpu (x86_64)", "-")
    for run in runs:
        write_config(run, "experiment.seed = 1\n")
    done = CliRunner().invoke(app, ["diff", str(runs[0]), str(runs[2])])
    assert done.exit_code == 0 and "made by" in done.output and "H100" in done.output
    assert "their seconds and memory do not compare" in done.output
    same = CliRunner().invoke(app, ["diff", str(runs[0]), str(runs[1])])
    assert "made by" not in same.output and "do not compare" not in same.output
