"""Hashes of code that are kept belong to one content of all source files."""

import gc
import json
import os

import pytest

from core.source.tree import SourceFolder, SourceTree
from core.store.collector import many_objects
from experiments.run import stale
from experiments.run.code import PACKAGES, called_by, source_tree
from experiments.run.known_hashes import KnownHashes, hashes_file, read_all
from experiments.run.stale import CodeCheck

PACKAGE = frozenset({"pack"})
KEYS = ("every run", "methods.coop:CoOp", "core.train.optimizers:SGD", "methods.coop:Gone")


@pytest.fixture
def home(tmp_path):
    files = {"__init__.py": "", "one.py": "A = 1\n", "inner/two.py": "B = 2\n", "data.gin": "x"}
    for name, text in files.items():
        path = tmp_path / "home" / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "home"


def fingerprint(home):
    return read_all(SourceTree(home, [SourceFolder(home, PACKAGE)]), PACKAGE)


CHANGES = {
    "a character": lambda pack: (pack / "one.py").write_text("A = 2\n"),
    "a new file": lambda pack: (pack / "three.py").write_text(""),
    "a new folder": lambda pack: (pack / "empty").mkdir(),
    "a removed file": lambda pack: (pack / "inner" / "two.py").unlink(),
    "a moved file": lambda pack: (pack / "one.py").rename(pack / "inner" / "one.py"),
    "a module beside the package": lambda pack: (pack.parent / "pack.py").write_text(""),
    "a file without an ending": lambda pack: (pack / "four").write_text("C = 3\n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_a_source_file_changes_the_fingerprint(home, change):
    before = fingerprint(home)
    assert before == fingerprint(home) != ""
    CHANGES[change](home / "pack")
    assert fingerprint(home) != before


def test_what_python_compiled_and_the_time_of_a_file_are_no_change(home):
    before = fingerprint(home)
    (home / "pack" / "__pycache__").mkdir()
    (home / "pack" / "__pycache__" / "one.pyc").write_bytes(b"x")
    os.utime(home / "pack" / "one.py", (1, 1))
    assert fingerprint(home) == before


def test_an_edit_of_equal_length_and_time_is_seen(home):
    before, stat = fingerprint(home), (home / "pack" / "one.py").stat()
    (home / "pack" / "one.py").write_text("A = 3\n")
    os.utime(home / "pack" / "one.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint(home) != before


def test_a_link_to_a_folder_keeps_nothing(home, tmp_path):
    (home / "pack" / "linked").symlink_to(home / "pack" / "inner")
    assert fingerprint(home) == ""
    known = KnownHashes(tmp_path / "kept.json", "")
    known.add("a:A", "1")
    known.save()
    assert not (tmp_path / "kept.json").exists()


def test_hashes_are_kept_for_this_fingerprint_alone(tmp_path):
    file = tmp_path / "cache" / "kept.json"
    known = KnownHashes(file, "now")
    known.add("a:A", "1")
    known.save()
    assert KnownHashes(file, "now").get("a:A") == "1"
    assert KnownHashes(file, "later").get("a:A") is None
    for damage in ("", "[]", "{", json.dumps({"schema_version": 1}), file.read_text()[:-20]):
        file.write_text(damage)
        assert KnownHashes(file, "now").get("a:A") is None


def test_a_changed_hash_in_the_file_is_not_used(tmp_path):
    file = tmp_path / "kept.json"
    known = KnownHashes(file, "now")
    known.add("a:A", "1")
    known.save()
    file.write_text(file.read_text().replace('"a:A": "1"', '"a:A": "2"'))
    assert KnownHashes(file, "now").get("a:A") is None


def test_hashes_that_are_kept_are_those_that_would_be_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(stale, "hashes_file", lambda: tmp_path / "kept.json")
    first = CodeCheck()
    computed = [first._hash(key, None) for key in KEYS]
    first._known.save()
    tree = source_tree()
    read_all(tree, PACKAGES)
    assert computed == [called_by(tree, [key]).hash for key in KEYS[:3]] + [stale.GONE]

    def refuse(*_):
        raise AssertionError("the code was parsed again")

    monkeypatch.setattr(stale, "called_by", refuse)
    second = CodeCheck()
    assert [second._hash(key, None) for key in KEYS] == computed


def test_hashes_are_kept_beside_what_python_compiled():
    assert hashes_file().name == "code_hashes.json"
    assert hashes_file().parent.name == "__pycache__" or not hashes_file().is_relative_to(
        source_tree().home
    )


def failing_reader():
    with many_objects():
        assert not gc.isenabled()
        raise ValueError("broken")


def test_the_garbage_collector_runs_again_after_records_were_read():
    assert gc.isenabled()
    with pytest.raises(ValueError, match="broken"):
        failing_reader()
    assert gc.isenabled()
