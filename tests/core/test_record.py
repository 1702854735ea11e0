"""Records: what is written is read back, and what no run can have written is refused by name."""

import json
from dataclasses import replace

import pytest

from core.store.documents import NewerSchemaError, digest_of
from core.store.record import SCHEMA_VERSION, from_json, read_record, to_json, write_record
from tests.helpers.study_folders import edit_record, make_study


@pytest.fixture
def run_dir(tmp_path):
    study = make_study(tmp_path / "s", {"CoOp": (0, 0), "Full": (8, 8)}, datasets=1, seeds=1)
    return study / "010001"


def rewrite(run_dir, **changed):
    path = run_dir / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_one_changed_digit_anywhere_is_noticed(run_dir):
    path = run_dir / "record.json"
    text = path.read_text()
    digits = [n for n, sign in enumerate(text) if sign in "123456789"]
    assert len(digits) > 50
    for n in digits:
        path.write_text(text[:n] + ("3" if text[n] == "8" else "8") + text[n + 1 :])
        if path.read_text() != text:
            with pytest.raises(ValueError, match=r"record.json: "):
                read_record(run_dir)
    path.write_text(text)
    assert to_json(read_record(run_dir)) == text


IMPOSSIBLE = {
    "correct": (176, "has 176 correct of 100 test images"),
    "negative": (-1, "has -1 correct of"),
    "text": ("76", "in whole numbers"),
    "fraction": (76.0, "in whole numbers"),
    "truth": (True, "in whole numbers"),
}


@pytest.mark.parametrize(("value", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_counts_of_a_record_without_digest_are_refused(run_dir, value, message):
    path = run_dir / "record.json"
    raw = json.loads(path.read_text())
    raw["evaluations"][0]["correct"][0] = value
    raw["evaluations"][0]["total"][0] = 100
    del raw["digest"]
    path.write_text(json.dumps({**raw, "schema_version": 1}))
    with pytest.raises(ValueError, match=message):
        read_record(run_dir)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_not_finite_is_named(run_dir, constant):
    path = run_dir / "record.json"
    text = path.read_text()
    assert text.count('"train_seconds": 10.25') == 1
    path.write_text(text.replace("10.25", constant))
    with pytest.raises(ValueError, match=f"the number {constant}, which no run writes"):
        read_record(run_dir)


def test_lists_of_unequal_length_are_refused(run_dir):
    for key in ("correct", "total", "class_names"):
        with pytest.raises(ValueError, match="must count the correct and all test images"):
            edit_record(
                run_dir / "record.json", lambda raw, key=key: raw["evaluations"][0][key].pop()
            )


def test_a_record_of_the_first_version_is_read_and_written_with_a_digest(run_dir):
    path = run_dir / "record.json"
    raw = json.loads(path.read_text())
    for name in ("digest", "weights_sha256", "drawn_per_class", "shared_images"):
        del raw[name]
    path.write_text(json.dumps({**raw, "schema_version": 1}))
    record = read_record(run_dir)
    assert record.schema_version == 1 and record.weights_sha256 == ""
    write_record(run_dir, record)
    assert read_record(run_dir) == replace(record, schema_version=SCHEMA_VERSION)


def test_a_record_of_the_second_version_is_read_and_knows_no_code(run_dir):
    raw = json.loads((run_dir / "record.json").read_text())
    del raw["code"]
    rest = {key: value for key, value in raw.items() if key != "digest"} | {"schema_version": 2}
    (run_dir / "record.json").write_text(json.dumps({**rest, "digest": digest_of(rest)}))
    record = read_record(run_dir)
    assert record.schema_version == 2 and record.code == {}
    assert from_json(to_json(replace(record, code={"m:C": "0f"}))).code == {"m:C": "0f"}
    with pytest.raises(ValueError, match="code must be texts by name"):
        replace(record, code={"m:C": 1})


def test_a_record_of_a_newer_version_is_told_apart_from_a_damaged_one(run_dir):
    rewrite(run_dir, schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(
        NewerSchemaError,
        match=f"schema version {SCHEMA_VERSION + 1}, and this version of RefineLab",
    ):
        read_record(run_dir)
    for wrong in (0, "2", None, 2.0, True):
        rewrite(run_dir, schema_version=wrong)
        with pytest.raises(ValueError, match=f"schema version {wrong}"):
            read_record(run_dir)


def test_a_target_that_is_scored_twice_is_refused(run_dir):
    record = read_record(run_dir)
    with pytest.raises(ValueError, match="targets of evaluations must differ"):
        from_json(to_json(replace(record, evaluations=record.evaluations * 2)))
