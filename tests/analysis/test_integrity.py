"""What may not stand in one table: other code, other data, the best of N, a look at test data."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from analysis.read.csv_file import load_csv
from analysis.read.integrity import Provenance, reasons_to_exclude, saw_test
from analysis.read.load import load_results
from analysis.read.study_folder import load_study
from analysis.report import build_report
from analysis.sections.analysis import Options
from analysis.sections.comparisons import compare_all, compared
from analysis.sections.evidence import evidenced
from analysis.sections.power import powers
from analysis.sections.results import flagged, tags
from core.store.record import read_record, write_record
from tests.helpers.study_folders import make_study

QUICK = Options(reps=200)


def change(folder, variant, seeds, **fields):
    """Rewrite the records of some runs."""
    for path in sorted(folder.glob("*/record.json")):
        record = read_record(path.parent)
        if record.variant == variant and record.seed in seeds:
            made = {k: {**getattr(record, k), **v} for k, v in fields.items()}
            write_record(path.parent, replace(record, **made))


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "s", {"CoOp": (0, 0), "Full": (8, 8)}, datasets=3, seeds=3)


def test_runs_of_another_code_version_are_set_aside_by_name(study):
    change(study, "Full", (2,), environment={"commit": "new", "dirty": True})
    results = load_study(study)
    assert [p.kind for p in results.problems] == ["set aside"] * 3
    assert results.problems[0].detail == (
        "code version new with changes, while most runs have abc; rerun it, or report with "
        "--allow-mixed"
    )
    assert set(results.runs["status"]) == {"finished", "set aside"}
    pair = compare_all(results, QUICK)[0].comparisons["hm"][0]
    assert pair.num_pairs == 6
    mixed = load_results(study, allow_mixed=True)
    assert not mixed.problems and "commit: abc, new" in " ".join(mixed.notes)


def test_half_and_half_keeps_the_version_of_the_baseline(study):
    change(study, "Full", (1, 2, 3), environment={"commit": "new"})
    results = load_study(study)
    assert {p.variant for p in results.problems} == {"Full"}
    pair = compare_all(results, QUICK)[0].comparisons["hm"][0]
    assert pair.difference is None and "no finished pair" in pair.reason


def test_runs_on_another_split_are_set_aside(study):
    change(study, "CoOp", (1, 2, 3), fingerprints={"dataset": "one"})
    change(study, "Full", (1, 2), fingerprints={"dataset": "one"})
    change(study, "Full", (3,), fingerprints={"dataset": "two"})
    details = [p.detail for p in load_study(study).problems]
    assert details == ["data split two, while the runs paired with it have one"] * 3


def test_a_run_without_a_seed_may_have_any_split_of_its_dataset():
    beside = [Provenance("A", "d", s, "", f"split{s}") for s in (1, 2)]
    free = Provenance("Zero", "d", None, "", "split2")
    odd = Provenance("Zero", "d", None, "", "split9")
    assert reasons_to_exclude([*beside, free], baseline="A") == ["", "", ""]
    assert reasons_to_exclude([*beside, odd], baseline="A")[2].startswith("data split split9")
    assert reasons_to_exclude([Provenance("A", "d", 1, "", "")], baseline="A") == [""]


def test_a_file_may_name_code_and_data(tmp_path):
    path = tmp_path / "r.csv"
    rows = ["A,d,1,60,v1,x", "B,d,1,61,v1,x", "A,d,2,62,v1,y", "B,d,2,63,v2,y"]
    path.write_text("variant,dataset,seed,accuracy,code,data\n" + "\n".join(rows) + "\n")
    results = load_csv(path)
    assert [(p.variant, p.seed, p.kind) for p in results.problems] == [("B", 2, "set aside")]
    assert not load_csv(path, allow_mixed=True).problems and results.metrics == ("accuracy",)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("variant,dataset,seed,accuracy,selection", "A,d,1,60,best-of-3"),
        ("variant,dataset,seed,best_of_5", "A,d,1,60"),
        ("variant,dataset,seed,accuracy", "CoOp (best of 3 seeds),d,1,60"),
        ("variant,dataset,seed,accuracy,selection", "A,d,1,60,max over seeds"),
    ],
)
def test_the_best_of_n_is_refused(tmp_path, header, row):
    path = tmp_path / "r.csv"
    path.write_text(f"{header}\n{row}\n")
    with pytest.raises(ValueError, match=r"best of several runs.*give every run with its seed"):
        load_csv(path)


def test_selection_on_test_data_carries_a_flag(tmp_path):
    path = tmp_path / "r.csv"
    rows = [f"{v},{d},{s},6{s},{sel}" for v, sel in (("A", "last"), ("B", "oracle-test"))
            for d in ("x", "y") for s in (1, 2)]  # fmt: skip
    path.write_text("variant,dataset,seed,accuracy,selection\n" + "\n".join(rows) + "\n")
    report = build_report(path, out=tmp_path / "out", options=QUICK, figures=False)
    page = report.page.read_text()
    assert flagged(report.results, "B") and not flagged(report.results, "A")
    assert "Selection used test data, so these numbers are too high: B." in page
    assert page.count('<span class="flag">⚑</span>') == 3
    assert any(t.startswith("not ranked: selection") for t in tags(report.results, "B"))
    assert saw_test("best test epoch") and not saw_test("val")


def test_runs_that_are_no_pairs_are_compared_by_welch(tmp_path):
    path = tmp_path / "r.csv"
    one, two = [0.70, 0.72, 0.71, 0.73], [0.75, 0.78, 0.76]
    rows = [f"A,x,{s},{v}" for s, v in enumerate(one)]
    rows += [f"B,x,{s + 10},{v}" for s, v in enumerate(two)]
    path.write_text("variant,dataset,seed,accuracy\n" + "\n".join(rows) + "\n")
    found = build_report(path, out=tmp_path / "out", options=QUICK, figures=False)
    pair = compared(found.analysis)[0].comparisons["accuracy"][0]
    welch = scipy.stats.ttest_ind(two, one, equal_var=False)
    assert pair.difference == pytest.approx(np.mean(two) - np.mean(one)) and not pair.num_pairs
    assert pair.these.p == pytest.approx(welch.pvalue) and pair.these.word == "better"
    ends = welch.confidence_interval()
    np.testing.assert_allclose(pair.these.interval, (ends.low, ends.high))
    assert "Welch's t" in pair.reason and pair.like.word == "undecided"


@pytest.mark.parametrize(
    ("selection", "seen"),
    [("latest", False), ("fastest", False), ("oracle-test", True), ("best_test", True)],
)
def test_only_rules_that_name_test_data_are_flagged(selection, seen):
    assert saw_test(selection) == seen


def test_the_flag_and_seeds_as_pandas_writes_them(tmp_path):
    path = tmp_path / "r.csv"
    rows = [f"{v},{d},{s}.0,0.{60 + s + k}1,test" for k, v in enumerate("AB") for d in "xy"
            for s in (1, 2, 4)]  # fmt: skip
    path.write_text("variant,dataset,seed,accuracy,selection\n" + "\n".join(rows) + "\n")
    report = build_report(path, out=tmp_path / "out", options=QUICK, figures=False)
    assert (
        report.results.planned_seeds == (1, 2, 4)
        and report.section("headline").sentences[0].kind == "flag"
    )
    for name in ("report.md", "report.tex", "report.json"):
        assert "Selection used test data" in (tmp_path / "out" / name).read_text()


def test_one_dataset_has_t_intervals_and_a_posterior_over_its_seeds(tmp_path):
    path = tmp_path / "r.csv"
    values = {"A": (0.70, 0.72, 0.71, 0.74), "B": (0.71, 0.72, 0.73, 0.75)}
    rows = [f"{v},x,{s},{x}" for v, xs in values.items() for s, x in enumerate(xs)]
    path.write_text("variant,dataset,seed,accuracy\n" + "\n".join(rows) + "\n")
    report = build_report(path, out=tmp_path / "out", options=QUICK, figures=False)
    found, planned = evidenced(report.analysis)[0][0], powers(report.analysis)[0].plan
    d = np.subtract(values["B"], values["A"])
    over_seeds = scipy.stats.ttest_1samp(d, 0.0)
    these, like = found.comparison.these, found.comparison.like
    assert these.interval == pytest.approx(over_seeds.confidence_interval())
    assert these.p == pytest.approx(over_seeds.pvalue)
    assert (like.word, like.p, like.interval) == ("undecided", None, None) and like.reason
    scale = d.std(ddof=1) / 2
    expected = scipy.stats.t.sf(0.01, 3, loc=d.mean(), scale=scale)
    assert found.posterior.better == pytest.approx(expected, rel=1e-6)
    assert planned.like.datasets_needed is None and planned.these.power is not None


def test_half_a_grid_has_no_interaction_plot(tmp_path):
    path = tmp_path / "r.csv"
    cells = {"none": "off,off", "a": "on,off", "b": "off,on", "both": "on,on"}
    for kept in (("none", "a", "b", "both"), ("none", "a", "both")):
        rows = [f"{v},{d},{s},0.{70 + s}{k},{cells[v]}" for k, v in enumerate(kept)
                for d in "xy" for s in (1, 2)]  # fmt: skip
        head = "variant,dataset,seed,accuracy,factor:a,factor:b\n"
        path.write_text(head + "\n".join(rows) + "\n")
        report = build_report(path, out=tmp_path / "out", options=QUICK, figures=False)
        assert ("interaction" in report.figures) == (len(kept) == 4)
        assert ("is confounded with the effect" in report.page.read_text()) == (len(kept) < 4)
