"""Reading somebody else's CSV: scale, holes, and one clear line for everything that is wrong."""

import numpy as np
import pytest

from analysis.read.csv_file import load_csv
from analysis.read.load import load_results

HEADER = "variant,dataset,seed,base,new\n"
ROWS = "A,d1,1,80,60\nA,d1,2,82,62\nB,d1,1,81,70\nB,d1,2,83,71\n"


def write(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    return path


def test_percent_and_fraction_give_the_same_results(tmp_path):
    percent = load_results(write(tmp_path, HEADER + ROWS))
    assert percent.metrics == ("base", "new", "hm") and percent.baseline == "A"
    assert percent.scores("A", "base").tolist() == [[0.80, 0.82]]
    np.testing.assert_allclose(percent.scores("A", "hm")[0, 0], 2 * 0.8 * 0.6 / 1.4)
    text = "variant,dataset,seed,base,new\nA,d1,1,0.80,0.60\nA,d1,2,0.82,0.62\n"
    fraction = load_results(write(tmp_path, text))
    assert fraction.scores("A", "base").tolist() == [[0.80, 0.82]]


def test_correct_and_total_give_exact_accuracies(tmp_path):
    text = "variant,dataset,seed,correct,total\nA,d,1,1,3\nB,d,1,2,3\n"
    results = load_csv(write(tmp_path, text))
    assert results.metrics == ("accuracy",) and results.scores("A", "accuracy")[0, 0] == 1 / 3


def test_small_percentages_need_the_scale_said(tmp_path):
    path = write(tmp_path, "variant,dataset,seed,acc\nA,d,1,0.8\nB,d,1,70\n")
    with pytest.raises(ValueError, match="line 2: one value above 1 makes the whole file percent"):
        load_csv(path)
    assert load_csv(path, scale="percent").scores("A", "acc")[0, 0] == pytest.approx(0.008)
    with pytest.raises(ValueError, match="scale is fraction, but the largest value is 70"):
        load_csv(path, scale="fraction")
    with pytest.raises(ValueError, match="scale must be one of auto, percent, fraction"):
        load_csv(path, scale="guess")


def test_holes_are_named_and_the_rest_is_used(tmp_path):
    text = HEADER + "A,d1,1,80,60\nA,d1,2,82,\nB,d1,1,81,70\nB,d1,2,,n/a\nB,d2,1,50,51\n"
    results = load_csv(write(tmp_path, text))
    assert [str(p) for p in results.problems] == [
        "missing: A on d2, seed 1: the file has no such row",
        "missing: A on d2, seed 2: the file has no such row",
        "missing: B on d1, seed 2: blank base, new, hm",
        "missing: B on d2, seed 2: the file has no such row",
    ]
    assert len(results.frame) == 4


def test_one_blank_metric_costs_only_its_cell(tmp_path):
    text = HEADER + "A,d1,1,80,60\nA,d1,2,82,\nB,d1,1,81,70\nB,d1,2,83,71\n"
    results = load_csv(write(tmp_path, text))
    assert results.scores("A", "base").tolist() == [[0.80, 0.82]] and not results.problems
    for metric in ("new", "hm"):
        assert np.isnan(results.scores("A", metric)).tolist() == [[False, True]]
        assert f"{metric} is blank for A on d1, seed 2" in results.notes


def test_a_metric_that_a_variant_lacks_is_said(tmp_path):
    rows = [f"X,d{d},{s},{70 + d + s / 10:.1f}," for d in range(3) for s in (1, 2)]
    rows += [f"Y,d{d},{s},{71 + d + s / 10:.1f},{60 + d}" for d in range(3) for s in (1, 2)]
    results = load_csv(write(tmp_path, "variant,dataset,seed,acc,f1\n" + "\n".join(rows)))
    assert results.metrics == ("acc", "f1") and not results.problems
    assert results.notes == ("f1 is missing for X",)
    assert np.isfinite(results.scores("X", "acc")).all()
    assert np.isnan(results.scores("X", "f1")).all()


def test_a_metric_without_any_value_is_left_out(tmp_path):
    results = load_csv(write(tmp_path, HEADER + "A,d,1,nan,60\nB,d,1,,61\n"))
    assert results.metrics == ("new",)
    assert results.notes == ("not read as metrics (blank): base",)
    with pytest.raises(ValueError, match="needs at least one metric column"):
        load_csv(write(tmp_path, HEADER + "A,d,1,,\n"))


def test_rows_without_a_seed_are_one_measurement(tmp_path):
    text = "variant,dataset,seed,acc\nZero,d1,,70\nA,d1,1,71\nA,d1,2,72\n"
    results = load_csv(write(tmp_path, text), baseline="A")
    assert results.scores("Zero", "acc").shape == (1, 1) and not results.problems
    results = load_csv(write(tmp_path, "variant,dataset,acc\nA,d,71\nB,d,72\n"))
    assert results.notes == ("the file has no seed column, so every row is one measurement",)


def test_given_hm_is_checked(tmp_path):
    text = "variant,dataset,seed,base,new,hm\nA,d,1,80,60,68.57\nB,d,1,80,60,70\n"
    results = load_csv(write(tmp_path, text))
    assert "differs by up to 1.43 points (line 3)" in results.notes[0]
    assert results.scores("B", "hm")[0, 0] == pytest.approx(0.685714, abs=1e-6)


def test_settings_columns_keep_regimes_apart(tmp_path):
    text = (
        "variant,dataset,seed,regime,shots,acc\nA,d,1,inductive,16,70\nB,d,1,transductive,16,80\n"
    )
    results = load_csv(write(tmp_path, text))
    assert results.not_comparable("B", "A") == "regime 'transductive' against 'inductive'"
    assert results.shots == (16,) and results.metrics == ("acc",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable CSV file"),
        (HEADER, "needs at least one row below its header"),
        ("variants,dataset,seed,acc\nA,d,1,2\n", "needs a column 'variant'.*rename 'variants'"),
        ("variant,data,seed,acc\nA,d,1,2\n", "needs a column 'dataset'"),
        ("variant,dataset,seed\nA,d,1\n", "needs at least one metric column"),
        (
            HEADER + ROWS + "A,d1,2,1,1\n",
            "line 6: one row per variant, dataset, seed, but A, d1, 2",
        ),
        (HEADER + ",d,1,80,60\n", "line 2: variant must not be blank"),
        (HEADER + "A,d,x,80,60\n", "line 2: seed must be a whole number or blank, got 'x'"),
        (HEADER + "A,d,1,80,60\nA,e,,80,60\n", "a seed in every row or in none; 'A' mixes both"),
        (HEADER + "A,d,1,eighty,60\n", "line 2: base must be a number, got 'eighty'"),
        (
            HEADER + "A,d,1,120,60\n",
            "line 2: base must be an accuracy from 0 to 1 or from 0 to 100",
        ),
        (HEADER + "A,d,1,-3,60\n", "line 2: base must be an accuracy"),
        (HEADER + "A,d,1,inf,60\n", "line 2: base must be an accuracy"),
        ("variant,dataset,seed,acc\nA,d,1,-\n", "needs at least one metric column"),
        ("variant,dataset,seed,acc,acc\nA,d,1,2,2\n", "every column must be unique"),
        ("variant,dataset,seed,correct\nA,d,1,2\n", "correct and total belong together"),
        (
            "variant,dataset,seed,correct,total\nA,d,1,4,3\n",
            "line 2: correct and total must be whole",
        ),
        ("variant,dataset,seed,correct,total,accuracy\nA,d,1,2,3,4\n", "line 2: .* must agree"),
        ("variant,dataset,seed,shots,acc\nA,d,1,x,50\n", "line 2: shots must be a whole number"),
        ("variant,dataset,seed,regime,acc\nA,d,1,a,50\nA,d,2,b,50\n", "line 3.*'A' mixes regime"),
        ("a,b\n1,2,3\n1,2,3,4\n", "line 2: 3 fields, but the header has 2"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_csv(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_unknown_baseline_and_missing_file(tmp_path):
    with pytest.raises(ValueError, match="baseline must be one of the variants, got 'a'"):
        load_csv(write(tmp_path, HEADER + ROWS), baseline="a")
    with pytest.raises(ValueError, match="no such file or folder"):
        load_results(tmp_path / "absent.csv")
