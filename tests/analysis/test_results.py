"""``Results.cube``: one array a metric, and nobody repeats unseeded variants by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.read.results import Problem, Results, add_hm, seed_array
from analysis.sections.results import main_table

DATASETS, SEEDS = ("d0", "d1"), (0, 1, 2)


def results():
    rows = [("a", d, s, 0.1 * i + 0.01 * s) for i, d in enumerate(DATASETS) for s in SEEDS]
    rows = [row for row in rows if row[:3] != ("a", "d1", 2)]
    rows += [("zero", d, None, 0.5 + 0.1 * i) for i, d in enumerate(DATASETS)]
    frame = pd.DataFrame(rows, columns=["variant", "dataset", "seed", "accuracy"])
    return Results(
        name="toy",
        frame=frame.assign(seed=pd.array(frame["seed"].tolist(), dtype="Int64")),
        variants=("a", "zero"),
        datasets=DATASETS,
        metrics=("accuracy",),
        planned_seeds=SEEDS,
        baseline="a",
    )


def test_a_variant_without_seeds_is_repeated_and_a_missing_score_is_nan():
    cube = results().cube(("zero", "a"), "accuracy")
    assert cube.shape == (2, 2, 3) and cube.dtype == np.float64
    assert cube[0].tolist() == [[0.5] * 3, [0.6] * 3]
    assert cube[1, 0].tolist() == [0.0, 0.01, 0.02]
    assert np.isnan(cube[1, 1, 2]) and np.isnan(cube).sum() == 1


def test_without_repetition_it_stands_in_the_first_column_alone():
    cube = results().cube(("a", "zero"), "accuracy", repeat_unseeded=False)
    assert cube[1, :, 0].tolist() == [0.5, 0.6] and np.isnan(cube[1, :, 1:]).all()


def test_one_column_where_no_variant_has_seeds_and_no_row_without_variants():
    assert results().cube(("zero",), "accuracy").shape == (1, 2, 1)
    assert results().cube((), "accuracy").shape == (0, 2, 1)


def test_it_is_made_once_and_read_only():
    found = results()
    cube = found.cube(["a", "zero"], "accuracy")
    assert found.cube(("a", "zero"), "accuracy") is cube
    with pytest.raises(ValueError, match="read-only"):
        cube[0, 0, 0] = 1.0


def test_a_metric_has_a_direction():
    assert results().direction("accuracy") == 1
    error = replace(results(), lower_is_better=frozenset({"accuracy"}))
    assert error.direction("accuracy") == -1 and error.direction("base") == 1
    np.testing.assert_array_equal(error.scores("a", "accuracy"), results().scores("a", "accuracy"))


def test_a_variant_without_a_finished_run_has_no_run_yet():
    missing = Problem(kind="missing", variant="new", dataset="d0", seed=0, detail="no record yet")
    planned = replace(results(), variants=("a", "zero", "new"), problems=(missing,))
    assert planned.not_comparable("new", "a") == "no run yet"
    assert planned.not_comparable("a", "new") == "new has no run yet"
    assert planned.not_comparable("zero", "a") == "" == planned.not_comparable("new", "new")
    failed = replace(planned, problems=(missing, replace(missing, kind="failed")))
    assert failed.not_comparable("new", "a") == "no finished run (1 failed, 1 missing)"
    assert "protocol" not in planned.not_comparable("new", "a")


def test_best_and_second_follow_the_direction():
    found = results()
    for lower, best in ((frozenset(), "zero"), (frozenset({"accuracy"}), "a")):
        cells = main_table(replace(found, lower_is_better=lower)).cells
        marks = {v: cells[v, "d0", "accuracy"].mark for v in ("a", "zero")}
        assert marks[best] == "best" and set(marks.values()) == {"best", "second"}


def test_seeds_are_kept_exactly():
    assert seed_array([2**64 - 1, None, 3]).tolist()[::2] == [2**64 - 1, 3]
    assert seed_array([-1, None, 2**53 + 1]).tolist()[::2] == [-1, 2**53 + 1]


def test_hm_is_blank_where_base_or_new_is():
    frame = pd.DataFrame({"base": [0.8, np.nan, 0.0], "new": [0.6, 0.5, 0.0]})
    hm = add_hm(frame)["hm"].tolist()
    assert hm[0] == pytest.approx(0.6857, abs=1e-4) and np.isnan(hm[1]) and hm[2] == 0.0
