"""Single classes, confusions, calibration and training curves, against numbers counted by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from analysis.read.predictions import NOT_STORED
from analysis.read.study_folder import load_study
from analysis.report import build_report, report_schema
from analysis.sections import calibration, classes, confusions, training
from analysis.sections.analysis import Analysis, Options
from analysis.sections.calibration import calibrations
from analysis.sections.class_counts import main_contrasts, part_contrasts, study_counts
from analysis.sections.classes import shifted_classes
from analysis.sections.confusions import confusion_changes
from analysis.sections.training import shared_term, training_logs
from core.store import (
    CorrectImages,
    PredictedClasses,
    read_record,
    write_correct_images,
    write_predictions,
    write_record,
)
from core.store.record import Evaluation
from tests.helpers.json_schema import assert_matches_schema
from tests.helpers.study_folders import FULL, make_study

NAMES = ("cat", "dog", "newt")
SIZE = 10
TOPICS = (classes.TOPIC, confusions.TOPIC, calibration.TOPIC, training.TOPIC)

# Rows are true classes, columns predicted ones: ten images of each class.
PLAIN = [[6, 4, 0], [2, 8, 0], [0, 1, 9]]
BETTER = [[9, 1, 0], [2, 8, 0], [3, 0, 7]]
SECOND_SEED = [[8, 2, 0], [1, 9, 0], [1, 0, 9]]


def lists_of(matrix):
    cells = [(i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) for _ in range(n)]
    return [i for i, _ in cells], [j for _, j in cells]


def give_predictions(run_dir, matrix, *, confidence, test_list="list", stored=True):
    """Replace the evaluations of a run by one, whose confusion matrix is given."""
    labels, predicted = lists_of(matrix)
    scored = Evaluation(
        target="all",
        dataset=read_record(run_dir).dataset,
        classes="all",
        class_names=NAMES,
        correct=tuple(matrix[i][i] for i in range(3)),
        total=(SIZE,) * 3,
    )
    bits = np.packbits(np.equal(labels, predicted)).tobytes()
    images = CorrectImages(target="all", test_list=test_list, num_images=30, bits=bits)
    write_correct_images(run_dir, [images])
    if stored:
        found = PredictedClasses(
            target="all",
            test_list=test_list,
            class_names=NAMES,
            labels=labels,
            predicted=predicted,
            confidences=[round(65535 * confidence)] * 30,
        )
        write_predictions(run_dir, [found])
    write_record(run_dir, replace(read_record(run_dir), evaluations=(scored,)))


def log(run_dir, *losses, **more):
    lines = [{"epoch": i, "lr": 0.1, "loss": x, "ce": x} | more for i, x in enumerate(losses, 1)]
    (run_dir / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def study(tmp_path):
    """CoOp, Full and Full without its cache on one dataset with two seeds."""
    folder = make_study(
        tmp_path / "s",
        {"CoOp": (0, 0), "Full": (0, 0), "no cache": (0, 0)},
        datasets=1,
        seeds=2,
        references=("Full",),
        factors={
            "CoOp": {"experiment.refiner": "@NullRefiner"},
            "Full": FULL,
            "no cache": FULL | {"TextRefiner.cache": "@NoCache"},
        },
    )
    matrices = {"000001": PLAIN, "000002": PLAIN, "010001": BETTER, "010002": SECOND_SEED}
    matrices |= {"020001": BETTER, "020002": BETTER}
    for identity, matrix in matrices.items():
        give_predictions(folder / identity, matrix, confidence=0.8)
        log(folder / identity, 2.0, 1.0 if identity.endswith("1") else 1.5)
    return folder


def analysis_of(folder, **more):
    return Analysis(results=load_study(folder), folder=folder, out=folder / "report", **more)


def section(topic, analysis):
    (found,) = topic.build(analysis)
    return found


def test_accuracy_per_class_is_the_mean_over_seeds(study):
    found = {f.shift.name: f for f in shifted_classes(analysis_of(study))}
    assert {f.contrast for f in found.values()} == {("Full", "CoOp")}
    cat, dog, newt = (found[name].shift for name in NAMES)
    assert (cat.reference, cat.variant) == pytest.approx((0.6, (0.9 + 0.8) / 2))
    assert (cat.lowest, cat.highest) == pytest.approx((0.2, 0.3))
    assert (dog.difference, dog.lowest, dog.highest) == pytest.approx((0.05, 0.0, 0.1))
    assert newt.difference == pytest.approx((-0.2 + 0.0) / 2) and newt.images == SIZE
    assert found["cat"].seeds == 2


def test_gains_and_losses_are_counted(study):
    (row,) = section(classes.TOPIC, analysis_of(study)).table("class_tally").rows
    assert row == ("Full", "CoOp", "all", 3, 2, 1, 1, 0)


def test_the_figure_has_gains_first_and_losses_last(study):
    (figure,) = section(classes.TOPIC, analysis_of(study)).figures
    (panel,) = figure.info
    assert [s.name for s in panel.shown] == ["cat", "dog", "newt"]


def test_confusions_that_a_part_fixes_and_causes(study):
    changes = confusion_changes(analysis_of(study))
    assert list(changes) == [("Full", "CoOp"), ("Full", "no cache")]
    against = {(c.pair.true, c.pair.predicted): c.change for c in changes["Full", "CoOp"]}
    assert against == pytest.approx(
        {
            ("cat", "dog"): (1 + 2) / 2 - 4,
            ("dog", "cat"): (2 + 1) / 2 - 2,
            ("newt", "cat"): (3 + 1) / 2 - 0,
            ("newt", "dog"): 0 - 1,
        }
    )
    cache = {(c.pair.true, c.pair.predicted): c.change for c in changes["Full", "no cache"]}
    assert cache == pytest.approx(
        {("cat", "dog"): 0.5, ("dog", "cat"): -0.5, ("newt", "cat"): -1.0}
    )


def test_the_confusion_figure_is_ordered_by_the_first_column(study):
    (figure,) = section(confusions.TOPIC, analysis_of(study)).figures
    info = figure.info
    assert info.columns == ("vs CoOp", "vs no cache")
    assert [(p.true, p.predicted) for p in info.pairs] == [
        ("cat", "dog"), ("newt", "dog"), ("dog", "cat"), ("newt", "cat"),
    ]  # fmt: skip
    np.testing.assert_allclose(info.change, [[-2.5, 0.5], [-1, 0], [-0.5, -0.5], [2, -1]])


def test_other_test_images_have_no_confusions_in_common(study):
    for seed in (1, 2):
        give_predictions(study / f"00000{seed}", PLAIN, confidence=0.8, test_list="other")
    changes = confusion_changes(analysis_of(study))
    assert changes["Full", "CoOp"] == () and changes["Full", "no cache"]
    assert len(shifted_classes(analysis_of(study))) == 3


def test_calibration_is_the_mean_over_seeds(study):
    """All images are in one bin: the error is the gap between .8 and the accuracy."""
    found = {c.variant: c for c in calibrations(analysis_of(study))}
    assert found["CoOp"].ece == pytest.approx(abs(0.8 - 23 / 30), abs=1e-5)
    assert found["Full"].ece == pytest.approx((0.8 - 24 / 30) + (26 / 30 - 0.8) / 2, abs=1e-5)
    assert found["Full"].excess == pytest.approx(0.8 - 25 / 30, abs=1e-5)
    drawn = section(calibration.TOPIC, analysis_of(study)).figures[0].info
    assert [c.variant for c in drawn][:2] == ["CoOp", "Full"]
    assert all(c.share == (1.0,) for c in drawn)


def test_training_curves_have_the_seeds_as_a_band(study):
    (figure,) = section(training.TOPIC, analysis_of(study)).figures
    curve = next(c for c in figure.info if c.variant == "Full")
    assert (curve.mean, curve.lowest, curve.highest) == ((2.0, 1.25), (2.0, 1.0), (2.0, 1.5))
    assert curve.epochs == (1, 2) and curve.seeds == 2


def test_losses_with_different_terms_are_not_compared(study):
    assert shared_term(training_logs(analysis_of(study)))[0] == "loss"
    for identity in ("010001", "010002"):
        log(study / identity, 2.0, 1.0, semantic=0.5)
    term, remark = shared_term(training_logs(analysis_of(study)))
    assert term == "ce" and "cannot be compared" in remark


def test_old_runs_keep_the_classes_and_say_what_is_missing(study):
    for path in study.glob("*/predictions.json"):
        path.unlink()
    analysis = analysis_of(study)
    assert section(classes.TOPIC, analysis).reason == "" and shifted_classes(analysis)
    for topic in (confusions.TOPIC, calibration.TOPIC):
        assert section(topic, analysis).reason == NOT_STORED
    assert "rerun" in NOT_STORED


def test_some_old_runs_do_not_stop_the_others(study):
    (study / "000001" / "predictions.json").unlink()
    changes = confusion_changes(analysis_of(study))["Full", "CoOp"]
    assert {c.seeds for c in changes} == {1}
    found = {c.variant: c.seeds for c in calibrations(analysis_of(study))}
    assert found == {"CoOp": 1, "Full": 2, "no cache": 2}


def test_a_damaged_file_is_the_reason(study):
    (study / "000001" / "predictions.json").write_text("{")
    reason = section(confusions.TOPIC, analysis_of(study)).reason
    assert reason.startswith("000001/predictions.json cannot be read")
    (study / "000001" / "log.jsonl").write_text("[1]\n")
    assert "000001/log.jsonl cannot be read" in section(training.TOPIC, analysis_of(study)).reason


def test_a_large_study_is_not_read(study):
    analysis = analysis_of(study, image_runs=5)
    for topic in TOPICS:
        assert "6" in section(topic, analysis).reason
        assert "--image-runs 6" in section(topic, analysis).reason
    assert study_counts(analysis).counts == {}


def test_without_references_every_variant_meets_the_baseline(study):
    results = replace(load_study(study), references=())
    wanted = (("Full", "CoOp"), ("no cache", "CoOp"))
    assert main_contrasts(results) == part_contrasts(results) == wanted


def test_a_variant_without_seeds_meets_every_seed(tmp_path):
    effects = {"CoOp": (0, 0), "Zero": (0, 0)}
    folder = make_study(tmp_path / "s", effects, datasets=1, seeds=2, constant=("Zero",))
    for identity, matrix in (("000001", PLAIN), ("000002", BETTER), ("010000", SECOND_SEED)):
        give_predictions(folder / identity, matrix, confidence=0.5)
    found = {f.shift.name: f for f in shifted_classes(analysis_of(folder))}
    assert found["cat"].seeds == 2
    assert found["cat"].shift.reference == pytest.approx((0.6 + 0.9) / 2)
    assert found["cat"].shift.variant == pytest.approx(0.8)


def test_the_report_holds_the_chapters_and_matches_its_schema(study):
    report = build_report(study, out=study / "report", options=Options(reps=100))
    raw = json.loads((study / "report" / "report.json").read_text())
    assert_matches_schema(raw, report_schema())
    tables = {key: raw["sections"][key]["tables"][key] for key in ("classes", "confusions")}
    assert len(tables["classes"]) == 3 and len(tables["confusions"]) == 7
    assert {r["ece"] for r in raw["sections"]["calibration"]["tables"]["calibration"]}
    for name in ("classes", "confusions", "reliability", "training"):
        assert (study / "report" / "figures" / f"{name}.png").is_file()
    page = report.page.read_text()
    assert "Class by class" in page and "overconfident" in page


def test_the_runs_link_to_their_inspection(study):
    inspected = study / "010001" / "inspect"
    inspected.mkdir()
    (inspected / "index.html").write_text("<p>")
    page = build_report(study, out=study / "report", figures=False).page.read_text()
    assert page.count('href="../010001/inspect/index.html"') == 1
    assert page.count("inspect/index.html") == 1
    assert f"inspect {study}/RUN" in page


def test_a_csv_has_no_classes(tmp_path):
    (tmp_path / "x.csv").write_text("variant,dataset,seed,hm\na,d,1,70\nb,d,1,71\n")
    report = build_report(tmp_path / "x.csv", out=tmp_path / "o", figures=False)
    assert all(report.section(t.key).reason for t in TOPICS)
