"""Scores as one tidy table, and two runs side by side."""

import csv
import itertools

import pandas as pd
import pytest
from typer.testing import CliRunner

import main
from analysis.read.csv_cells import is_number
from analysis.read.csv_file import load_csv
from analysis.read.csv_text import spreadsheet_text, typed_text
from analysis.read.results import with_choices
from analysis.read.settings import differing_settings
from analysis.read.study_folder import load_study
from analysis.render.scores_table import export, scores_frame
from analysis.report import build_report
from analysis.sections.analysis import Options
from analysis.sections.parts import parts
from analysis.sections.run_pair import score_rows
from tests.helpers.report_studies import PARTS, toggle_study
from tests.helpers.study_folders import edit_record, make_study


@pytest.fixture
def study(tmp_path):
    effects = {"CoOp": (0, 0), "Zero": (-9, 9)}
    folder = make_study(tmp_path / "s", effects, datasets=2, seeds=2, constant=("Zero",))
    for path in sorted(folder.glob("*/record.json")):
        value = "0.5" if path.parent.name.startswith("00") else "0.1"
        path.with_name("config.gin").write_text(
            f"SGD.lr = {value}\nexperiment.seed = 1\nexperiment.epochs = 3\n"
        )
    return folder


def test_the_csv_reads_back_as_the_same_scores(study, tmp_path):
    results = load_study(study)
    assert export(results, tmp_path / "t.csv") == 6 == len(scores_frame(results))
    again = load_csv(tmp_path / "t.csv")
    for variant in results.variants:
        for metric in ("base", "new", "hm"):
            assert again.scores(variant, metric) == pytest.approx(results.scores(variant, metric))
    assert again.settings == results.settings and not again.seeded("Zero")


def test_parquet_holds_the_same_table(study, tmp_path):
    results = load_study(study)
    export(results, tmp_path / "t.parquet")
    read = pd.read_parquet(tmp_path / "t.parquet")
    assert list(read.columns) == list(scores_frame(results).columns) and len(read) == 6
    assert read["seed"].isna().sum() == 2
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet, got 't\.xlsx'"):
        export(results, tmp_path / "t.xlsx")


def test_settings_that_differ_leave_out_the_cell(study):
    table = differing_settings(load_study(study), study)
    assert table.rows == (("SGD.lr", ("0.5", "0.1")),) and "configurations" in table.source
    by_factors = differing_settings(load_study(study), None)
    assert by_factors.rows == () and by_factors.source == "the factors of the study"


def test_two_runs_side_by_side(study, tmp_path):
    names = sorted(p.parent.name for p in study.glob("*/record.json"))
    first, second = study / names[0], study / names[-1]
    rows = {row[0]: row[1:] for row in score_rows(first, second)}
    one, two, gap = rows["accuracy on base, %"]
    assert float(gap) == pytest.approx(float(two) - float(one), abs=0.011)
    assert rows["train seconds"] == ("10.25", "10.25", "+0.00")
    with pytest.raises(ValueError, match="has no record"):
        score_rows(first, tmp_path)


def test_the_commands(study, tmp_path):
    runner = CliRunner()
    done = runner.invoke(main.app, ["export", str(study), str(tmp_path / "x.csv")])
    assert done.exit_code == 0 and "6 rows" in done.output
    names = sorted(p.parent.name for p in study.glob("*/record.json"))
    done = runner.invoke(main.app, ["diff", str(study / names[0]), str(study / names[-1])])
    assert done.exit_code == 0 and "SGD.lr" in done.output and "accuracy on new" in done.output


def effects_of(report):
    """The effects of parts as report.json holds them."""
    return report.to_dict()["sections"]["attribution"]["tables"]["effects"]


def same_report(one, two, *metrics):
    """Two results give the same scores and are held together by the same rules."""
    assert (one.variants, one.datasets, one.metrics) == (two.variants, two.datasets, two.metrics)
    assert (one.baseline, one.primary_metric) == (two.baseline, two.primary_metric)
    assert (one.settings, one.shots, one.curve) == (two.settings, two.shots, two.curve)
    assert one.shared_seeds == two.shared_seeds
    for variant in one.variants:
        for metric in one.metrics:
            first, second = one.scores(variant, metric), two.scores(variant, metric)
            assert second == pytest.approx(first, abs=1e-9, nan_ok=True)


def test_a_base_to_new_study_reads_back_with_its_rules_and_parts(tmp_path):
    folder = toggle_study(tmp_path / "grid", datasets=3, seeds=2)
    results = load_study(folder)
    frame = scores_frame(results)
    assert list(frame.columns[:10]) == [
        "variant", "dataset", "seed", "shots", "protocol", "regime", "selection", "code", "run",
        "base",
    ]  # fmt: skip
    assert [c for c in frame.columns if c.startswith("factor:")] == [f"factor:{p}" for p in PARTS]
    assert (
        set(frame["code"]) == {"abc"} and frame["run"].is_unique and set(frame["shots"]) == {"16"}
    )
    export(results, tmp_path / "t.csv")
    again = load_csv(tmp_path / "t.csv")
    same_report(results, again)
    effects = []
    for source in (folder, tmp_path / "t.csv"):
        made = build_report(
            source, out=tmp_path / source.stem, options=Options(reps=200), figures=False
        )
        effects.append({(e["kind"], *e["parts"]): e["value"] for e in effects_of(made)})
    assert len(effects[0]) > 15 and effects[1] == pytest.approx(effects[0], abs=1e-6)


def to_sketch_and_art(raw):
    for target, evaluation in zip(("sketch", "art"), raw["evaluations"], strict=True):
        evaluation["dataset"] = evaluation["target"] = target


def test_targets_of_one_model_keep_their_counts_and_their_shared_seeds(tmp_path):
    folder = make_study(tmp_path / "s", {"CoOp": (0, 0), "Ours": (9, 9)}, datasets=1, seeds=3)
    for path in folder.glob("*/record.json"):
        edit_record(path, to_sketch_and_art)
    results = load_study(folder)
    frame = scores_frame(results)
    assert (frame["correct"] / frame["total"]).tolist() == pytest.approx(frame["accuracy"].tolist())
    assert results.shared_seeds and len(frame) == 12 and frame["run"].nunique() == 6
    export(results, tmp_path / "t.csv")
    same_report(results, load_csv(tmp_path / "t.csv"))


def test_a_curve_reads_back_as_a_curve(tmp_path):
    rows = ["variant,dataset,seed,1 shot,4 shots"]
    rows += [f"{v},d{d},{s},0.5{d},0.6{s}" for v in "AB" for d in range(2) for s in range(2)]
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    results = load_csv(tmp_path / "a.csv")
    assert results.curve == {"1 shot": 1, "4 shots": 4} and results.primary_metric == "4 shots"
    export(results, tmp_path / "b.csv")
    same_report(results, load_csv(tmp_path / "b.csv"))


def test_the_baseline_comes_first(study, tmp_path):
    results = with_choices(load_study(study), baseline="Zero")
    export(results, tmp_path / "t.csv")
    assert load_csv(tmp_path / "t.csv").baseline == "Zero"


def test_parts_from_a_csv_with_factor_columns(tmp_path):
    rows = ["variant,dataset,seed,accuracy,factor:cache,factor:loss"]
    for cache, loss in itertools.product(("off", "on"), ("no", "yes")):
        worth = 3 * (cache == "on") + 1 * (loss == "yes")
        name = f"cache {cache} loss {loss}"
        rows += [
            f"{name},d{d},{s},{60 + d + worth},{cache},{loss}" for d in range(3) for s in (1, 2)
        ]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(rows) + "\n")
    made = build_report(path, out=tmp_path / "o", options=Options(reps=200), figures=False)
    worth = {e.parts: e.value for e in parts(made.analysis).attribution.of("shapley")}
    assert worth == {("cache",): pytest.approx(0.03), ("loss",): pytest.approx(0.01)}
    path.write_text("\n".join([*rows, "cache on loss yes,d9,1,50,off,yes"]) + "\n")
    with pytest.raises(ValueError, match="line 26: a variant has one level of every factor"):
        load_csv(path)


def test_directions_and_large_seeds_read_back(tmp_path):
    rows = [f"{v},d,{2**64 - s},{70 + s},{4 + s},{s}" for v in "AB" for s in (1, 2, 3)]
    (tmp_path / "a.csv").write_text("variant,dataset,seed,acc,ece,rank\n" + "\n".join(rows))
    results = load_csv(tmp_path / "a.csv", lower=["ece"], higher=["rank"], scale=["percent"])
    assert list(scores_frame(results).columns[-3:]) == ["acc", "lower:ece", "higher:rank"]
    export(results, tmp_path / "b.csv")
    again = load_csv(tmp_path / "b.csv")
    same_report(results, again)
    assert again.lower_is_better == {"ece"} and again.planned_seeds == results.planned_seeds


FORMULAS = [
    "=1+1",
    "+cache",
    "-cache",
    "@SUM(A1)",
    "'=x",
    "''+y",
    "'quoted'",
    "-0.5 alpha",
    "plain",
]


def test_no_cell_is_a_formula_and_names_come_back(tmp_path):
    effects = {name: (place % 3, 0) for place, name in enumerate(FORMULAS)}
    results = load_study(make_study(tmp_path / "s", effects, datasets=2, seeds=2))
    export(results, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    formulas = [
        c for c in cells if c.startswith(("=", "+", "-", "@", "\t", "\r")) and not is_number(c)
    ]
    assert not formulas and "'-cache" in cells
    assert set(load_csv(tmp_path / "t.csv").variants) == set(FORMULAS)
    files = build_report(results, out=tmp_path / "report", options=Options(), figures=False)
    assert files is not None
    for path in (tmp_path / "report").glob("*.csv"):
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        assert not [
            cell for row in rows for cell in row
            if cell.startswith(("=", "+", "-", "@")) and not is_number(cell) and len(cell) > 1
        ]  # fmt: skip
    assert set(load_csv(tmp_path / "report" / "scores.csv").variants) == set(FORMULAS)


@pytest.mark.parametrize("number", ["-0.5", "+3", "-1,5", "-5%", "-", "--", "-1e-5"])
def test_numbers_stay_numbers(number):
    assert spreadsheet_text(number) == number == typed_text(number)
