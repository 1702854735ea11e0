"""A report averages runs of one code: by the source that they ran, not by their commit."""

import json
from dataclasses import replace

import pytest

from analysis.read.csv_file import load_csv
from analysis.read.study_folder import load_study
from analysis.report import build_report
from analysis.sections.analysis import Options
from core.store.code import EVERY_RUN, RunCode, write_code
from core.store.record import read_record, record_paths, write_record
from tests.helpers.study_folders import make_study

CLASSES = {"CoOp": "methods.coop:CoOp", "Full": "refiners.text_refiner:TextRefiner"}


@pytest.fixture
def study(tmp_path):
    """Two variants, two datasets, three seeds; every record has its code."""
    folder = make_study(tmp_path / "s", {"CoOp": (0, 0), "Full": (8, 8)}, datasets=2, seeds=3)
    for path in record_paths(folder):
        record = read_record(path.parent)
        write_record(
            path.parent, replace(record, code={EVERY_RUN: "e1", CLASSES[record.variant]: "c1"})
        )
    return folder


def change(folder, choose, *, code=None, commit=None):
    """Give some records other hashes, or another commit."""
    for path in record_paths(folder):
        record = read_record(path.parent)
        if choose(record):
            environment = {**record.environment, **({"commit": commit} if commit else {})}
            made = record.code if code is None else code and {**record.code, **code}
            write_record(path.parent, replace(record, code=made, environment=environment))


def excluded(results):
    return sorted((p.variant, p.dataset, p.seed) for p in results.problems)


def test_another_commit_sets_nothing_aside(study):
    change(study, lambda r: r.seed == 2, commit="other")
    results = load_study(study)
    assert not results.problems and not any("commit" in note for note in results.notes)
    assert set(results.runs["status"]) == {"finished"}


def test_runs_of_an_older_class_are_set_aside_and_named(study):
    change(study, lambda r: r.variant == "Full" and r.seed == 2, code={CLASSES["Full"]: "c0"})
    results = load_study(study)
    assert excluded(results) == [("Full", "data/set0", 2), ("Full", "data/set1", 2)]
    assert results.problems[0].detail == (
        "made by other code than most runs (the code of TextRefiner); run the grid again, which "
        "repeats the runs of older code, or report with --allow-mixed"
    )
    mixed = load_study(study, allow_mixed=True)
    assert not mixed.problems
    assert "runs of different code stand together (--allow-mixed): 2 of 12" in mixed.notes


def test_the_definitions_that_differ_are_named_where_they_are_known(study):
    for path in record_paths(study):
        record = read_record(path.parent)
        old = record.variant == "Full" and record.seed == 2
        code = {**record.code, CLASSES["Full"]: "c0"} if old else record.code
        files = {"refiners/cache.py": {"EmaCache": "1" if old else "2", "NoCache": "3"}}
        write_code(path.parent, RunCode(classes=code, files=files))
        write_record(path.parent, replace(record, code=code))
    details = {p.detail for p in load_study(study).problems}
    assert len(details) == 1 and "(refiners/cache.py: EmaCache)" in details.pop()


def test_what_differs_is_named_also_where_no_other_run_has_the_same_classes(study):
    for path in record_paths(study):
        record = read_record(path.parent)
        old = record.variant == "Full"
        code = {**record.code, EVERY_RUN: "e0" if old else "e1"}
        files = {"core/train/fit.py": {"fit": "1", "train_step": "2" if old else "3"}}
        files[f"{record.variant}.py"] = {record.variant: record.variant}
        write_code(path.parent, RunCode(classes=code, files=files))
        write_record(path.parent, replace(record, code=code))
    (detail,) = {p.detail for p in load_study(study).problems}
    assert "than most runs (core/train/fit.py: train_step); run the grid" in detail


def test_every_run_shares_what_every_run_passes_through(study):
    change(study, lambda r: r.seed == 1, code={EVERY_RUN: "e0"})
    assert excluded(load_study(study)) == [
        (variant, dataset, 1)
        for variant in ("CoOp", "Full")
        for dataset in ("data/set0", "data/set1")
    ]


def test_two_variants_of_one_class_share_its_code(study):
    change(study, lambda r: True, code={"core.train.optimizers:SGD": "s1"})
    change(study, lambda r: r.variant == "Full", code={"core.train.optimizers:SGD": "s0"})
    assert {p.variant for p in load_study(study).problems} == {"Full"}  # even: the baseline counts


def test_several_generations_never_leave_nothing(study):
    change(study, lambda r: r.seed == 1, code={EVERY_RUN: "e0"})
    change(study, lambda r: r.variant == "CoOp" and r.seed != 1, code={CLASSES["CoOp"]: "c9"})
    results = load_study(study)
    assert {p.seed for p in results.problems} == {1} and len(results.problems) == 4


def test_records_of_older_versions_are_not_checked_and_that_is_said_where_it_matters(study):
    change(study, lambda r: r.seed == 1, code={})
    results = load_study(study)
    assert not results.problems
    assert (
        "4 of 12 runs were made by a version of RefineLab that did not record their code: whether "
        "it is that of the others is not checked"
    ) in results.notes
    change(study, lambda r: True, code={})
    assert not any("record their code" in note for note in load_study(study).notes)
    change(study, lambda r: r.variant == "Full" and r.seed == 2, commit="new")
    assert "code version new, while most runs have abc" in load_study(study).problems[0].detail


def test_an_exported_table_keeps_one_version_for_runs_of_one_code(study, tmp_path):
    results = load_study(study)
    assert len(set(results.provenance["code"])) == 1 and results.provenance["code"][0]
    change(study, lambda r: r.variant == "Full" and r.seed == 2, code={CLASSES["Full"]: "c0"})
    mixed = load_study(study, allow_mixed=True)
    table = mixed.frame.join(mixed.provenance[["code"]]).drop(columns="hm")
    table.to_csv(tmp_path / "r.csv", index=False)
    assert excluded(load_csv(tmp_path / "r.csv")) == [
        ("Full", "data/set0", 2),
        ("Full", "data/set1", 2),
    ]


def test_the_report_says_what_it_left_out(study, tmp_path):
    change(study, lambda r: r.variant == "Full" and r.seed == 2, code={CLASSES["Full"]: "c0"})
    report = build_report(study, out=tmp_path / "out", options=Options(reps=200), figures=False)
    text = json.dumps(json.loads((tmp_path / "out" / "report.json").read_text()))
    assert "made by other code than most runs" in text
    assert "made by other code than most runs" in report.page.read_text()
