"""The JSON of reports is that of ``json.dumps``, also where it is written another way."""

import json

import numpy as np
import pytest

from analysis import text
from analysis.render import json_document
from analysis.render.json_document import json_text
from analysis.text import SEVERAL, rounded, rounded_column, rounded_p

ROW = {"name": "},\n   {", "mean": 0.25, "n": 3, "best": True, "p": None}
VALUES = [
    [ROW],
    [ROW] * 5,
    {"tables": {"pairs": [ROW] * 3, "none": []}, "empty": {}, "é": "ü"},
    [ROW, {"names": ["a", "b"]}],
    [ROW, {}],
    [{}],
    [{"inner": {"a": 1}}],
    [{1: 2}, ROW],
    {1: [ROW], "x": {None: 1}},
    {"deep": [[ROW], [ROW, ROW]]},
    "text\nof lines",
    None,
]


@pytest.mark.parametrize("rows_at_once", [1, 2, 1000])
@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_the_text_is_that_of_the_standard_library(value, rows_at_once, monkeypatch):
    monkeypatch.setattr(json_document, "ROWS_AT_ONCE", rows_at_once)
    assert json_text(value) == json.dumps(value, indent=1, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("value", [float("nan"), [{"x": float("inf")}]], ids=["nan", "row"])
def test_a_number_that_json_has_not_is_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text(value)


def test_long_tables_are_written_by_the_fast_encoder(monkeypatch):
    calls = []
    original = json.dumps

    def counted(value, **options):
        calls.append(options.get("indent"))
        return original(value, **options)

    monkeypatch.setattr(json_document.json, "dumps", counted)
    json_text([ROW] * 3000)
    assert calls == [None] * 3


ODD = (0.0, -0.0, 1.0, 5e-7, -5e-7, 1.5e-6, 0.1234565, 0.9999995, 1e-300, 123456.7890125, None)


@pytest.mark.parametrize("digits", [False, True])
def test_a_column_is_rounded_as_its_numbers_are_one_by_one(digits):
    rng = np.random.default_rng(0)
    halves = (np.round(rng.normal(0, 0.1, 500), 6) + 5e-7).tolist()
    tiny = (10 ** rng.uniform(-25, 0, 500)).tolist()
    values = [*ODD, float("nan"), float("inf"), *halves, *tiny, *rng.normal(0, 1, 500).tolist()]
    one_by_one = rounded_p if digits else rounded
    assert len(values) > SEVERAL
    found = rounded_column(values, digits=digits)
    assert list(map(repr, found)) == [repr(one_by_one(value)) for value in values]


def test_numbers_of_a_long_column_are_not_rounded_one_by_one(monkeypatch):
    asked = []
    monkeypatch.setattr(text, "rounded", asked.append)
    text.rounded_column([k / 7000 for k in range(5000)])
    assert len(asked) < 50
