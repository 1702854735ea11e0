"""All four protocols, from gin presets on miniature trees: stopped, resumed, reported."""

import contextlib
import io
import json
import signal
import subprocess
import sys
import time

import pytest

import experiments.study.driver
from analysis.report import build_report
from analysis.sections.analysis import Options
from core.store.names import RECORD_NAME
from core.store.record import read_records
from tests.helpers.paths import ROOT
from tests.helpers.protocol_studies import GRIDS, run_all

BEFORE_THE_STOP = 4  # records: one study is done, the next has begun


class PowerCutError(BaseException):
    """Nothing catches it on its way out."""


def stopped_inside(home, trees):
    """Both calls in this process; the first one ends right behind a record."""
    write = experiments.study.driver.write_record

    def write_and_stop(run_dir, record):
        write(run_dir, record)
        if len(contents(home)) >= BEFORE_THE_STOP:
            raise PowerCutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments.study.driver, "write_record", write_and_stop)
        with pytest.raises(PowerCutError):
            run_all(home, trees)
    kept = contents(home)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        run_all(home, trees)
    return kept, said.getvalue()


def killed_outside(home, trees):
    """Both calls as programs; the first one is killed."""

    def start():
        return subprocess.Popen(
            [sys.executable, ROOT / "tests" / "helpers" / "protocol_studies.py", home, trees],
            cwd=home,
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    process = start()
    while len(contents(home)) < BEFORE_THE_STOP and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    kept = contents(home)
    again = start()
    said, _ = again.communicate()
    assert again.returncode == 0, said
    return kept, said


def contents(home):
    return {path: path.read_bytes() for path in home.glob(f"runs/*/*/{RECORD_NAME}")}


@pytest.fixture(
    scope="module", params=[stopped_inside, pytest.param(killed_outside, marks=pytest.mark.slow)]
)
def studies(request, tmp_path_factory, trees):
    """The studies after a stop and a second call; what was there at the stop comes along."""
    home = tmp_path_factory.mktemp("protocols")
    kept, said = request.param(home, trees)
    for protocol in GRIDS:
        study = home / "runs" / protocol
        build_report(study, out=study / "report", options=Options(reps=200), figures=False)
    return home, kept, said


def evaluations(home, protocol):
    return {
        (r.variant, r.shots): {e.target: e for e in r.evaluations}
        for r in read_records(home / "runs" / protocol)
    }


def columns(home, protocol):
    report = json.loads((home / "runs" / protocol / "report" / "report.json").read_text())
    rows = report["sections"]["results"]["tables"]["results"]
    return {(row["dataset"], row["metric"]) for row in rows}


def test_what_was_done_before_the_stop_is_kept(studies):
    home, kept, said = studies
    assert len(kept) >= BEFORE_THE_STOP
    assert all(path.read_bytes() == content for path, content in kept.items())
    done = {protocol: len(evaluations(home, protocol)) for protocol in GRIDS}
    assert done == {
        "base_to_new": 3, "cross_dataset": 3, "domain_generalization": 3, "few_shot": 5,
    }  # fmt: skip
    assert len(contents(home)) == 14
    assert "3 done before" in said and " 0 failed" in said


def test_every_record_counts_whole_images_of_every_class(studies):
    home, _, _ = studies
    for protocol in GRIDS:
        for targets in evaluations(home, protocol).values():
            for found in targets.values():
                assert len(found.correct) == len(found.total) == len(found.class_names)
                assert all(type(n) is int for n in (*found.correct, *found.total))
                pairs = zip(found.correct, found.total, strict=True)
                assert all(0 <= right <= count for right, count in pairs)
    names = {r.protocol for p in GRIDS for r in read_records(home / "runs" / p)}
    assert names == set(GRIDS)


def test_base_to_new_has_both_halves_and_their_mean(studies):
    home, _, _ = studies
    for targets in evaluations(home, "base_to_new").values():
        assert {t: len(e.class_names) for t, e in targets.items()} == {"base": 4, "new": 3}
    assert {("dtd", m) for m in ("base", "new", "hm")} <= columns(home, "base_to_new")


def test_cross_dataset_has_a_column_a_target_and_their_average(studies):
    home, _, _ = studies
    for targets in evaluations(home, "cross_dataset").values():
        assert list(targets) == ["all", "dtd", "eurosat"]
        assert targets["dtd"].class_names[0] == "banded" and sum(targets["dtd"].total) == 82
    assert columns(home, "cross_dataset") == {
        (dataset, "accuracy") for dataset in ("average", "dtd", "eurosat")
    }
    page = (home / "runs" / "cross_dataset" / "report" / "report.md").read_text()
    assert "not part of the average over targets" in page and "HM" not in page


def test_shifted_imagenets_are_scored_among_their_own_classes(studies):
    home, _, _ = studies
    for targets in evaluations(home, "domain_generalization").values():
        sizes = {name: len(found.class_names) for name, found in targets.items()}
        assert sizes["imagenet_a"] == sizes["imagenet_r"] == sizes["imagenet_sketch"] == 6
        assert sizes["all"] > 6
        assert set(targets["imagenet_a"].class_names) < set(targets["all"].class_names)
        assert targets["imagenet_sketch"].class_names.count("missile") == 2
    averages = columns(home, "domain_generalization")
    assert ("average", "accuracy") in averages and len(averages) == 4


def test_the_few_shot_curve_is_a_table_by_shots(studies):
    home, _, _ = studies
    found = evaluations(home, "few_shot")
    assert set(found) == {
        ("ZeroShot", 0),
        *((variant, shots) for variant in ("CoOp", "CoOp+TextRefiner") for shots in (1, 2)),
    }
    assert columns(home, "few_shot") == {("eurosat", "1 shot"), ("eurosat", "2 shots")}
    folder = home / "runs" / "few_shot"
    page = (folder / "report" / "report.md").read_text()
    assert "| Dataset | Variant | 1 shot | 2 shots |" in page.split("## Accuracy over shots")[1]
    assert "Accuracy over shots" in (folder / "report" / "index.html").read_text()
    epochs = {r.shots: r.selected_epoch for r in read_records(folder) if r.variant == "CoOp"}
    assert epochs == {1: 1, 2: 2}  # what grid.overrides says of two shots
