"""Scores as one tidy table, and two runs side by side."""

import pandas as pd
import pytest
from test_analysis_study import make_study
from typer.testing import CliRunner

import main
from analysis.export import export, tidy_frame
from analysis.frames import load_csv, load_study
from analysis.settings import differing_settings, score_rows


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
    assert export(results, tmp_path / "t.csv") == 6 == len(tidy_frame(results))
    again = load_csv(tmp_path / "t.csv")
    for variant in results.variants:
        for metric in ("base", "new", "hm"):
            assert again.scores(variant, metric) == pytest.approx(results.scores(variant, metric))
    assert again.settings == results.settings and not again.seeded("Zero")


def test_parquet_holds_the_same_table(study, tmp_path):
    results = load_study(study)
    export(results, tmp_path / "t.parquet")
    read = pd.read_parquet(tmp_path / "t.parquet")
    assert list(read.columns) == list(tidy_frame(results).columns) and len(read) == 6
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
