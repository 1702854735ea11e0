"""A report over runs of several devices says which cells ran where."""

import pytest

from analysis.report import build_report
from analysis.sections.analysis import Options
from analysis.sections.devices import shares
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
    for shown in (page, text):
        assert "Which cells ran where" in shown and "round differently" in shown


def test_gpus_of_one_model_are_one_device(mixed, tmp_path):
    study = mixed(lambda v, d, s: gpu("H100", s % 2))
    report, page, _ = said(study, tmp_path / "out")
    assert list(report.analysis.results.devices) == ["H100"]
    assert "Which cells ran where" not in page and "differ in gpu" not in page


def test_records_without_a_device_are_not_compared(mixed, tmp_path):
    study = mixed(lambda v, d, s: {} if v else CPU)
    report, page, _ = said(study, tmp_path / "out")
    assert list(report.analysis.results.devices) == ["cpu (x86_64)"]
    assert "Which cells ran where" not in page


def test_what_decides_the_last_digits_is_noted_and_skipped_steps_are_not(mixed, tmp_path):
    study = mixed(lambda v, d, s: {"tf32": bool(v), "deterministic": s > 1, "skipped_steps": s})
    _, page, _ = said(study, tmp_path / "out")
    assert "the runs differ in tf32: False, True" in page
    assert "the runs differ in deterministic: False, True" in page
    assert "differ in skipped_steps" not in page
