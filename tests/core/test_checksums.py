"""Files below ``runs/`` notice that they were changed; those of earlier versions are read."""

import json
import re
from dataclasses import replace

import pytest

from core.data.benchmarks.text_files import json_of
from core.data.folder_settings import read_folder_settings
from core.data.foreign_shots import read_foreign_shots
from core.data.split_file import read_split
from core.store.documents import NewerSchemaError, read_document, write_document
from core.store.epochs import epoch_log, numbers_of, read_epochs, terms_of
from core.store.own_files import FILES, file_checksums, foreign_files, require_own
from core.store.record import RunRecord, check_place, read_record, write_record
from core.store.settings import read_config, write_config
from core.store.shots import read_shot_file
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


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("shots.json", read_shot_file),
        ("lines.jsonl", read_foreign_shots),
        ("split.json", read_split),
        ("refinelab.json", lambda path: read_folder_settings([path.parent])),
        ("annotations.json", json_of),
        ("record.json", lambda path: read_record(path.parent)),
        ("log.jsonl", lambda path: read_epochs(path.parent)),
    ],
)
def test_a_file_that_is_nested_too_deeply_is_named(tmp_path, name, read):
    (tmp_path / name).write_text("[" * 100_000)
    with pytest.raises(ValueError, match=rf"{name}.*nested too deeply"):
        read(tmp_path / name)


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


def test_a_log_is_valid_json_where_a_number_is_not_finite(tmp_path):
    infinite, nan = float("inf"), float("nan")
    line = {"epoch": 1, "epochs": 1, "lr": 0.1, "loss": 0.5, "guide": -infinite}
    shown = []
    with epoch_log(tmp_path, shown.append) as write:
        write({**line, "metrics": {"gap": nan, "share": 0.25}})

    def refuse(constant):
        raise ValueError(constant)

    (text,) = (tmp_path / "log.jsonl").read_text().splitlines()
    raw = json.loads(text, parse_constant=refuse)
    assert raw["guide"] is None and raw["metrics"] == {"gap": None, "share": 0.25}
    (epoch,) = read_epochs(tmp_path)
    assert shown[0]["guide"] == -infinite
    assert numbers_of(epoch) == {**dict(list(line.items())[:4]), "metrics.share": 0.25}
    assert terms_of(epoch) == {"loss": 0.5}


def test_a_log_of_an_earlier_version_with_a_nan_is_read(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epoch": 1, "loss": 0.5, "metrics": {"gap": NaN}}\n')
    assert [numbers_of(epoch) for epoch in read_epochs(tmp_path)] == [{"epoch": 1, "loss": 0.5}]


def _run(folder, text):
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(text + name)
    config_sha256 = write_config(folder, text)
    fields = dict.fromkeys(("variant", "dataset", "protocol", "regime", "selection"), "x")
    record = RunRecord(
        **fields,
        identity=folder.name,
        factors={},
        seed=1,
        shots=1,
        status="diverged",
        config_sha256=config_sha256,
        files_sha256=file_checksums(folder),
    )
    write_record(folder, record)
    return read_record(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_run_is_noticed(tmp_path, name):
    mine, _ = _run(tmp_path / "mine", "a"), _run(tmp_path / "other", "b")
    path = tmp_path / "mine" / name
    require_own(path, mine)
    assert set(mine.files_sha256) == set(FILES) and foreign_files(tmp_path / "mine", mine) == []
    path.write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(ValueError, match=f"{name} was changed after the run: .*checksum"):
        require_own(path, mine)
    assert foreign_files(tmp_path / "mine", mine) == [name]
    older = replace(mine, files_sha256={})
    require_own(path, older)
    path.unlink()
    require_own(path, mine)  # whoever needs the file says that it is missing


def test_a_missing_configuration_is_named(tmp_path):
    record = _run(tmp_path / "mine", "a")
    (tmp_path / "mine" / "config.gin").unlink()
    assert foreign_files(tmp_path / "mine", record) == ["config.gin (missing)"]
    with pytest.raises(ValueError, match=r"mine has a record, but its config\.gin is missing"):
        read_config(tmp_path / "mine")
    (tmp_path / "mine" / "record.json").unlink()
    with pytest.raises(ValueError, match="is not a run folder"):
        read_config(tmp_path / "mine")


def test_two_folders_that_changed_places_are_noticed(tmp_path):
    record = _run(tmp_path / "0123456789ab", "a")
    check_place(tmp_path / "0123456789ab", record)
    (tmp_path / "0123456789ab").rename(tmp_path / "0123456789ac")
    with pytest.raises(ValueError, match="is the record of run 0123456789ab"):
        read_config(tmp_path / "0123456789ac")
    (tmp_path / "0123456789ac").rename(tmp_path / "kept")  # a name that a person chose
    assert read_config(tmp_path / "kept") == "a"


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
