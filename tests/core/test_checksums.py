"""Files below ``runs/`` notice that they were changed; those of earlier versions are read."""

import json
import re

import pytest

from core.store.documents import NewerSchemaError, read_document, write_document
from core.store.epochs import epoch_log, read_epochs
from core.store.storage import describe_os_error, storage_problem


def test_a_document_notices_a_changed_character(tmp_path):
    path = tmp_path / "d.json"
    write_document(path, 1, {"b": [1, 2.5], "a": "text"})
    assert read_document(path, 1, remedy="-") == {"schema_version": 1, "b": [1, 2.5], "a": "text"}
    text = path.read_text()
    for old, new in (("2.5", "2.6"), ("text", "texT"), ('"a"', '"c"')):
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=r"d\.json is damaged .*digest.*: restore it"):
            read_document(path, 1, remedy="restore it")
    path.write_text(re.sub(r',\s*"digest": "\w+"', "", text))
    assert read_document(path, 1, remedy="-")["a"] == "text"  # of an earlier version


@pytest.mark.parametrize("text", ["[]", "null", "5", "{", "", "[" * 100_000, '{"a": 1}'])
def test_what_is_no_document_is_damaged_not_newer(tmp_path, text):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(ValueError, match=r"is damaged .*: restore it") as caught:
        read_document(tmp_path / "d.json", 1, remedy="restore it")
    assert not isinstance(caught.value, NewerSchemaError)


def test_a_log_notices_a_changed_digit(tmp_path):
    with epoch_log(tmp_path, lambda epoch: None) as log:
        log({"epoch": 1, "loss": 0.25})
        log({"epoch": 2, "loss": 0.125})
    assert read_epochs(tmp_path) == [{"epoch": 1, "loss": 0.25}, {"epoch": 2, "loss": 0.125}]
    path = tmp_path / "log.jsonl"
    text = path.read_text()
    path.write_text(text.replace("0.125", "0.126"))
    with pytest.raises(ValueError, match=r"log\.jsonl cannot be read: .*checksum"):
        read_epochs(tmp_path)
    path.write_text(json.dumps({"epoch": 1, "loss": 0.5}) + "\n")
    assert read_epochs(tmp_path) == [{"epoch": 1, "loss": 0.5}]  # of an earlier version


def test_faults_of_the_storage_are_told_from_those_of_a_run(tmp_path):
    full = OSError(28, "No space left on device", "/disk/file")
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = full
    assert storage_problem(wrapped) == "no space left on device: /disk/file"
    assert describe_os_error(full) == "no space left on device: /disk/file"
    denied = PermissionError(13, "Permission denied", str(tmp_path / "run" / "x"))
    assert storage_problem(denied, tmp_path) and not storage_problem(denied)
    assert not storage_problem(FileNotFoundError(2, "No such file", str(tmp_path / "x")), tmp_path)
    assert not storage_problem(ValueError("wrong"), tmp_path)
    assert "has vanished" in storage_problem(ValueError("wrong"), tmp_path / "gone")
