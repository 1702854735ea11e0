"""The JSON of reports is that of ``json.dumps``, also where it is written another way."""

import json

import pytest

from analysis.render import json_document
from analysis.render.json_document import json_text

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
