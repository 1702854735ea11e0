"""``Results.cube``: one array a metric, and nobody repeats unseeded variants by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.read.results import Results

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
