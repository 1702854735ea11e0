"""Reading study folders: what is averaged, what is named, what is refused."""

import json

import numpy as np
import pytest

from analysis.read.load import load_results
from analysis.read.results import with_choices
from analysis.read.study_folder import load_study
from analysis.sections.analysis import Analysis
from analysis.sections.costs import TOPIC as COSTS
from core.store.own_files import file_checksums
from core.store.record import RunRecord, write_record
from tests.helpers.study_folders import (
    FIELDS,
    cross_dataset,
    edit_manifest,
    edit_record,
    make_study,
)


@pytest.fixture
def study(tmp_path):
    return tmp_path / "demo"


def test_scores_are_exact_fractions_of_the_counts_and_hm_is_per_run(study):
    results = load_results(
        make_study(study, {"CoOp": (0, 0), "Full": (8, 12)}, datasets=2, seeds=3)
    )
    assert results.metrics == ("base", "new", "hm")
    assert results.variants == ("CoOp", "Full")
    assert results.planned_seeds == (1, 2, 3)
    base, new, hm = (results.scores("Full", m) for m in results.metrics)
    assert base.shape == (2, 3)
    assert np.array_equal(np.round(base * 400) / 400, base)
    np.testing.assert_allclose(hm, 2 * base * new / (base + new), rtol=0, atol=1e-15)
    assert results.shots == (16,) and results.problems == () and results.notes == ()


def test_zero_shot_is_one_measurement_a_dataset(study):
    folder = make_study(study, {"CoOp": (0, 0), "Zero": (-30, 20)}, constant=("Zero",))
    results = load_study(folder)
    assert results.scores("Zero", "base").shape == (6, 1)
    assert len(results.frame[results.frame["variant"] == "Zero"]) == 6
    assert not results.seeded("Zero") and results.seeded("CoOp")


def test_missing_failed_diverged_and_unreadable_cells_are_named_and_not_averaged(study):
    status = {
        ("Full", "data/set1", 2): ("diverged", "loss was nan at step 12"),
        ("Full", "data/set2", 3): ("failed", "killed three times"),
    }
    skip = (("CoOp", "data/set0", 1),)
    folder = make_study(study, {"CoOp": (0, 0), "Full": (8, 12)}, status=status, skip=skip)
    (folder / "010401" / "record.json").write_text("{")
    results = load_study(folder)
    told = {(p.kind, p.variant, p.dataset, p.seed) for p in results.problems}
    assert told == {
        ("missing", "CoOp", "data/set0", 1),
        ("diverged", "Full", "data/set1", 2),
        ("failed", "Full", "data/set2", 3),
        ("unreadable", "Full", "data/set4", 1),
    }
    texts = [str(p) for p in results.problems]
    assert "diverged: Full on data/set1, seed 2: loss was nan at step 12" in texts
    assert str(folder) not in " ".join(texts)
    full = results.scores("Full", "hm")
    assert np.argwhere(np.isnan(full)).tolist() == [[1, 1], [2, 2], [4, 0]]


def test_inert_variant_is_recognized_by_its_runs(study):
    folder = make_study(
        study,
        {"CoOp": (0, 0), "NoAgg": (3, 3), "NoAgg+NoCache": (3, 3)},
        inert={"NoAgg+NoCache": "NoAgg"},
    )
    results = load_study(folder)
    assert results.aliases == {"NoAgg+NoCache": "NoAgg"}
    assert results.inert == {"NoAgg+NoCache": "inert: same as 'NoAgg'"}
    assert np.array_equal(results.scores("NoAgg", "hm"), results.scores("NoAgg+NoCache", "hm"))


def test_partly_inert_variants_are_noted_by_cell(study):
    folder = make_study(study, {"CoOp": (0, 0), "Full": (8, 12)}, datasets=2, seeds=1)
    cells = json.loads((folder / "study.json").read_text())["cells"]
    cells[3]["note"] = "inert: same as 'CoOp'"
    results = load_study(edit_manifest(folder, cells=cells))
    assert results.inert == {} and results.aliases == {}
    assert results.notes == ("Full on data/set1: inert: same as 'CoOp'",)


def test_regimes_keep_variants_apart_and_zero_shot_goes_with_all(study):
    folder = make_study(
        study,
        {"CoOp": (0, 0), "KD": (20, 20), "Zero": (-30, 20)},
        regimes={"KD": "transductive"},
        constant=("Zero",),
    )
    results = load_study(folder)
    assert results.not_comparable("KD", "CoOp") == "regime 'transductive' against 'inductive'"
    assert results.not_comparable("Zero", "KD") == ""


def test_a_variant_that_mixes_regimes_is_refused(study):
    folder = make_study(study, {"CoOp": (0, 0), "Full": (8, 12)})
    path = folder / "010001" / "record.json"
    edit_record(path, lambda raw: raw.update(regime="transductive"))
    with pytest.raises(ValueError, match="'Full' mixes regime 'inductive' against 'transductive'"):
        load_study(folder)


def test_differing_splits_backbones_and_environments_are_noted(study):
    folder = make_study(study, {"CoOp": (0, 0), "Full": (8, 12)})
    path = folder / "010001" / "record.json"
    fingerprints = {"dataset": "other", "backbone": "other"}
    environment = {"commit": "def", "packages": {"torch": "2.10"}}
    edit_record(path, lambda raw: raw.update(fingerprints=fingerprints, environment=environment))
    stray = RunRecord(**{**FIELDS, "identity": "stray"})
    write_record(folder / "stray", stray)
    assert load_study(folder).notes == (
        "runs in the folder but not in the manifest are not used (1): stray",
        "the runs differ in commit: abc, def",
        "the runs on data/set0 differ in split, so their differences are not paired",
        "the runs do not share one frozen backbone",
    )


def test_runs_in_lockstep_differ_in_nothing_but_their_costs(study):
    folder = make_study(study, {"CoOp": (0, 0), "Full": (8, 12)})
    for number, path in enumerate(sorted(folder.glob("*/record.json"))[:2]):
        edit_record(path, lambda raw, n=number: raw["environment"].update(lockstep=2 + 8 * n))
    results = load_study(folder)
    assert results.notes == () and results.environment["lockstep"] == ("10", "2")
    (costs,) = COSTS.build(Analysis(results=results))
    assert "up to 10 side by side" in costs.tables[0].notes[-1]


def test_files_that_their_runs_did_not_write_are_named(study):
    folder = make_study(study, {"CoOp": (0, 0), "Full": (8, 12)})
    run_dir = folder / "010001"
    for name in ("log.jsonl", "shots.json", "config.gin"):
        (run_dir / name).write_text("as it was")
    sha256 = file_checksums(run_dir)
    hashes = {"files_sha256": sha256, "config_sha256": sha256["log.jsonl"]}
    edit_record(run_dir / "record.json", lambda raw: raw.update(hashes))
    assert load_study(folder).notes == ()
    (run_dir / "shots.json").write_text("of another run")
    (run_dir / "config.gin").unlink()
    (note,) = load_study(folder).notes
    assert "(2): 010001/config.gin (missing), 010001/shots.json; the scores are" in note


def test_a_split_per_seed_is_paired_but_not_for_a_variant_without_seeds(study):
    folder = make_study(study, {"CoOp": (0, 0), "Zero": (3, 3)}, datasets=1, constant=("Zero",))
    for path in folder.glob("*/record.json"):
        edit_record(path, lambda raw: raw.update(fingerprints={"dataset": str(raw["seed"] or 1)}))
    (note,) = load_study(folder).notes
    assert note.startswith("data/set0 has a split of its own for every seed, but a variant without")


def test_targets_of_a_cross_dataset_model_are_the_datasets(study):
    results = load_study(cross_dataset(study))
    assert results.datasets == ("t0", "t1") and results.metrics == ("accuracy",)
    assert results.shared_seeds
    assert results.notes == (
        "accuracy on the source dataset is not part of the average over targets",
    )
    np.testing.assert_allclose(results.scores("Full", "accuracy")[0], [211 / 400, 212 / 400])


def test_several_sources_keep_their_targets_apart(study):
    results = load_study(cross_dataset(study, sources=("a", "b")))
    assert results.datasets == ("a to t0", "a to t1", "b to t0", "b to t1")


def test_pairs_of_names_with_the_word_between_them_stay_apart(study):
    results = load_study(cross_dataset(study, sources=("a", "a to t0")))
    assert results.datasets == ("a to t0", "a to t1", "'a to t0' to t0", "'a to t0' to t1")


def test_one_target_of_all_classes_is_a_metric(study):
    folder = make_study(study, {"CoOp": (0, 0), "Full": (8, 12)}, datasets=2, seeds=2)
    for path in folder.glob("*/record.json"):
        all_classes = {**json.loads(path.read_text())["evaluations"][0], "target": "all"}
        edit_record(path, lambda raw, one=all_classes: raw.update(evaluations=[one]))
    results = load_study(folder)
    assert results.metrics == ("accuracy",) and results.primary_metric == "accuracy"
    assert results.datasets == ("data/set0", "data/set1")


def test_training_on_test_images_and_short_classes_are_told(study):
    effects, regimes = {"CoOp": (0, 0), "Full": (8, 12)}, {"Full": "transductive"}
    folder = make_study(study, effects, datasets=2, seeds=2, regimes=regimes)
    for path in sorted(folder.glob("*/record.json"))[1::2]:  # the second seed of each dataset
        told = {"shared_images": 3, "drawn_per_class": [16, 5, 9]}
        edit_record(path, lambda raw, told=told: raw.update(told))
    results = load_study(folder)
    assert results.trained_on_test == {"CoOp": 3, "Full": 3}
    assert results.notes == (
        "data/set0, 16 shots: 2 trained classes have fewer training images than that: 5 to 9",
        "data/set1, 16 shots: 2 trained classes have fewer training images than that: 5 to 9",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 9}, "schema version 9, and this version of RefineLab reads 1"),
        ({"cells": []}, "lacks cells"),
        (
            {"baseline": "Coop"},
            "baseline must be one of the variants, got 'Coop'; did you mean 'CoOp'",
        ),
        (
            {"references": ["zzz"]},
            "reference must be one of the variants, got 'zzz'; known: CoOp, Full",
        ),
        ({"datasets": ["data/set0"]}, "names a variant or dataset that the manifest does not list"),
    ],
)
def test_manifest_errors_say_rule_and_value(study, changes, message):
    folder = edit_manifest(
        make_study(study, {"CoOp": (0, 0), "Full": (8, 12)}, datasets=2), **changes
    )
    with pytest.raises(ValueError, match=message):
        load_study(folder)


def test_cells_must_be_unique_and_belong_to_their_records(study):
    folder = make_study(study, {"CoOp": (0, 0), "Full": (8, 12)}, datasets=2)
    cells = json.loads((folder / "study.json").read_text())["cells"]
    edit_manifest(folder, cells=[*cells, cells[0]])
    with pytest.raises(ValueError, match="must list a cell once, but repeats"):
        load_study(folder)
    edit_manifest(folder, cells=[{**cells[0], "identity": cells[1]["identity"]}, *cells[1:]])
    with pytest.raises(ValueError, match="manifest and runs do not belong together"):
        load_study(folder)


def test_folders_without_a_study_or_a_finished_run_are_refused(tmp_path, study):
    with pytest.raises(ValueError, match=r"it has no study\.json"):
        load_results(tmp_path)
    folder = make_study(
        study, {"CoOp": (0, 0)}, datasets=1, seeds=1, skip=(("CoOp", "data/set0", 1),)
    )
    with pytest.raises(ValueError, match="none of the 1 planned cells has one"):
        load_study(folder)
    (folder / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"study\.json is damaged"):
        load_study(folder)


def test_baseline_references_and_metric_can_be_chosen(study):
    results = load_study(make_study(study, {"CoOp": (0, 0), "Full": (8, 12)}, references=("Full",)))
    other = with_choices(results, baseline="Full", references=["CoOp", "Full"], metric="new")
    assert (other.baseline, other.references, other.primary_metric) == ("Full", ("CoOp",), "new")
    with pytest.raises(
        ValueError, match="metric must be one of the metrics, got 'nwe'; did you mean 'new'"
    ):
        with_choices(results, metric="nwe")
