"""Full disks, read-only and vanished folders, torn and garbled files."""

import json
import os
import shutil
import stat
import zlib

import pytest

from tests.helpers.fake_runs import executions
from tests.helpers.fault_programs import (
    drive,
    finish,
    program,
    records,
    remount,
    small_disk,
    start,
    texts,
    wait_for,
)
from tests.helpers.study_folders import make_study

pytestmark = pytest.mark.faults
NO_MOUNT = "mounting a file system is not allowed here"


def counts(output):
    return json.loads(output.splitlines()[-1])


@pytest.fixture
def disk(tmp_path):
    """A disk of 256 KiB."""
    with small_disk(tmp_path / "disk") as mounted:
        if not mounted:
            pytest.skip(NO_MOUNT)
        yield tmp_path / "disk"


def test_08_a_disk_that_fills_while_a_run_writes(disk):
    """The study pauses, no attempt is counted, and the same call goes on when there is room."""
    study = disk / "s"
    plan = {"variants": ["ok", "fill"], "seeds": 2}
    code, output, errors = drive(study, **plan)
    assert code == 3, errors
    found = counts(output)
    assert "no space left on device" in found["paused"] and found["failed"] == 0
    assert errors.count("no space left on device") <= 3 and "Traceback" not in errors
    kept = texts(study)
    assert len(kept) == found["done"]
    assert not [p for p in records(study) if json.loads(p.read_text())["status"] != "finished"]
    remount(disk, "size=16m")
    code, output, errors = drive(study, **plan)
    assert code == 0, errors
    assert counts(output)["skipped"] == len(kept) and texts(study).items() >= kept.items()


def test_08_a_disk_that_fills_while_the_driver_writes(disk):
    """A finished run whose record does not fit is kept until the end, then run again."""
    study = disk / "s"
    driver = start(study, variants=["patient"], seeds=2, logs=True)
    wait_for(lambda: (study / "executions").is_dir() and (study / "study.json").is_file())
    _fill(disk)
    (study / "go").symlink_to("/")  # needs no block of its own
    code, output, errors = finish(driver)
    assert code == 3 and "no space left" in counts(output)["paused"], errors
    assert not records(study) and "Traceback" not in errors
    (disk / "filler").unlink()
    code, output, errors = drive(study, variants=["patient"], seeds=2)
    assert code == 0 and counts(output)["done"] == 2, errors


def test_08_a_disk_that_fills_while_a_search_writes_its_ledger(disk):
    search = disk / "s"
    assert drive(search, search=[])[0] == 0
    whole = (search / "ledger.jsonl").read_bytes()
    shutil.rmtree(search)
    driver = start(search, search=[])
    wait_for(lambda: (search / "ledger.jsonl").is_file() or driver.poll() is not None)
    _fill(disk)
    code, _, errors = finish(driver)
    (disk / "filler").unlink()
    assert code in (0, 2, 3) and "Traceback" not in errors, errors
    assert whole.startswith((search / "ledger.jsonl").read_bytes())
    assert drive(search, search=[])[0] == 0
    assert (search / "ledger.jsonl").read_bytes() == whole


def _fill(disk):
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def test_09_a_ledger_with_a_torn_end(tmp_path):
    assert drive(tmp_path / "s", search=[])[0] == 0
    path = tmp_path / "s" / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    code, _, errors = drive(tmp_path / "s", search=[])
    assert code == 0 and "a torn end of 1 line(s) was cut off" in errors
    assert path.read_bytes() == whole
    assert (tmp_path / "s" / "ledger.jsonl.damaged").read_bytes() == whole[:-9]


def test_10_a_ledger_of_garbage_or_of_a_newer_version(tmp_path):
    assert drive(tmp_path / "s", search=[])[0] == 0
    path = tmp_path / "s" / "ledger.jsonl"
    whole = path.read_bytes()
    newer = b'[{"event":"ask","trial":0,"params":{},"news":1}]'
    cases = {
        b"garbage\n" * 5: "the line is damaged: restore the file",
        bytes(range(256)): "the line is damaged: restore the file",
        b"%08x %b\n" % (zlib.crc32(newer), newer): "use the version of RefineLab that wrote it",
        b"": "has lost what the winner was chosen from",
        whole[:-9]: "has lost what the winner was chosen from",
    }
    for content, words in cases.items():
        if "winner" in words:
            (tmp_path / "s" / "result.json").write_text("{}")
        path.write_bytes(content)
        code, _, errors = drive(tmp_path / "s", search=[])
        assert code == 2 and words in errors, (content, errors)
        assert path.read_bytes() == content


def test_11_a_read_only_folder(disk):
    """An error before any work; and a study that loses the right to write pauses."""
    study = disk / "s"
    driver = start(study, variants=["patient"], seeds=2)
    wait_for(lambda: (study / "executions").is_dir())
    (study / "go.part").touch()
    os.rename(study / "go.part", study / "go")
    remount_when_free(disk)
    code, _, errors = finish(driver)
    assert code in (0, 3) and "Traceback" not in errors, errors
    code, _, errors = drive(study, variants=["ok"], seeds=1)
    assert code == 2 and "read-only file system" in errors.lower(), errors
    remount(disk, "rw")
    code, _, errors = drive(study, variants=["patient"], seeds=2)
    assert code == 0, errors


def remount_when_free(disk):
    """A file system cannot become read-only while a file on it is being written."""
    for _ in range(200):
        try:
            remount(disk, "ro")
        except Exception:
            continue
        return


def test_11_a_folder_that_vanishes(tmp_path):
    """It is not made again half: the study pauses, and goes on where the folder is back."""
    study = tmp_path / "s"
    driver = start(study, variants=["slow a"], seeds=40)
    wait_for(lambda: len(records(study)) >= 2)
    study.rename(tmp_path / "moved")
    code, _, errors = finish(driver, 60)
    assert code == 3 and f"the folder {study} has vanished" in errors, errors
    assert "Traceback" not in errors and not (study / "study.json").exists()
    shutil.rmtree(study, ignore_errors=True)
    (tmp_path / "moved").rename(study)
    kept = texts(study)
    code, output, errors = drive(study, variants=["slow a"], seeds=40)
    assert code == 0 and counts(output)["skipped"] == len(kept) >= 2, errors


def test_31_a_storage_that_is_garbage_is_left_and_a_new_one_is_filled(tmp_path):
    """The copy in Optuna's storage is derived: its loss costs a note and no trial."""
    (tmp_path / "optuna.db").write_bytes(b"garbage" * 1000)
    storage = f"search.storage='sqlite:///{tmp_path}/optuna.db'"
    code, _, errors = drive(tmp_path / "s", search=[storage])
    assert code == 0 and "nothing is lost" in errors, errors
    (tmp_path / "optuna.db").unlink()
    assert drive(tmp_path / "s", search=[storage])[0] == 0
    import sqlite3

    with sqlite3.connect(tmp_path / "optuna.db") as database:
        assert database.execute("select count(*) from trials").fetchone() == (4,)


def test_32_a_sampler_that_drifts(tmp_path):
    """A trial that would now be another one is refused, and the ledger stays as it is."""
    assert drive(tmp_path / "s", search=[])[0] == 0
    path = tmp_path / "s" / "ledger.jsonl"
    first, rest = path.read_bytes().split(b"\n", 1)
    rows = json.loads(first[9:])
    rows[0]["params"]["SGD.lr"] = "0.5"
    text = json.dumps(rows, separators=(",", ":")).encode()
    path.write_bytes(b"%08x %b\n%b" % (zlib.crc32(text), text, rest))
    changed = path.read_bytes()
    code, _, errors = drive(tmp_path / "s", search=[])
    assert code == 2 and "the sampler behaves differently here" in errors
    assert path.read_bytes() == changed


def test_35_names_of_every_kind(tmp_path):
    """Spaces, accents, signs and a long path: a study runs and goes on in such a folder."""
    study = tmp_path / "_ & % # ünï \u00e9 ' \" $x" / ("deep " * 20) / "s"
    code, _, errors = drive(study, variants=["ok & % _"], seeds=1)
    assert code == 0, errors
    code, output, _ = drive(study, variants=["ok & % _"], seeds=1)
    assert code == 0 and counts(output)["skipped"] == 1
    names = {"$x_&%#": (0, 0), "ünï \\ é": (3, 5)}
    shown = make_study(study.parent / "a % b", names, datasets=2, seeds=2, prefix="d & _")
    code, _, errors = program("report", shown, "--out", tmp_path / "100 %", cwd=tmp_path)
    assert code == 0, errors
    page = (tmp_path / "100 %" / "index.html").read_text()
    assert "$x_&amp;%#" in page and "$x_&%#" not in page
    (table, *_) = (tmp_path / "100 %").rglob("*.tex")
    assert r"\$x\_\&\%\#" in table.read_text()


def test_the_same_folder_for_everybody_is_written_with_the_usual_rights(tmp_path):
    assert drive(tmp_path / "s", variants=["ok"], seeds=1)[0] == 0
    (record,) = records(tmp_path / "s")
    assert stat.S_IMODE(record.stat().st_mode) == 0o666 & ~os.umask(os.umask(0o022))
    assert set(executions(tmp_path / "s").values()) == {1}
