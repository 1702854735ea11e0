"""Which images can be decoded: opened once, kept, and opened again when a file changes."""

import json
import os

import pytest
from PIL import Image

from core.data import decoding
from core.data.catalog import load_dataset
from core.data.decoding import decode_all
from core.data.folder import FolderReader, read_folder


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "pets"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for n in range(10):
            Image.new("RGB", (16, 16), (n * 20, 9, 9)).save(root / name / f"{n}.png")
    return root


@pytest.fixture
def opened(monkeypatch):
    """The paths that are opened, as they are."""
    seen = []
    read = FolderReader.read

    def watched(self, path):
        seen.append(path)
        return read(self, path)

    monkeypatch.setattr(FolderReader, "read", watched)
    return seen


def paths_of(dataset):
    return [item.path for part in ("train", "val", "test") for item in dataset.split(part)]


def test_images_are_opened_once_and_again_when_they_change(tree, tmp_path, opened):
    dataset, cache, steps = read_folder(tree), tmp_path / "cache", []
    found = decode_all(dataset, paths_of(dataset), cache, progress=lambda *step: steps.append(step))
    assert (found.total, found.unreadable, found.unopened) == (20, {}, 0) and found.problem() == ""
    assert sorted(opened) == sorted(paths_of(dataset)) and steps[-1] == (20, 20)
    opened.clear()
    assert decode_all(dataset, paths_of(dataset), cache) == found and opened == []
    (tree / "cat" / "3.png").write_bytes(b"no image at all")
    (tree / "dog" / "4.png").unlink()
    found = decode_all(dataset, paths_of(dataset), cache)
    assert sorted(opened) == ["cat/3.png", "dog/4.png"] == sorted(found.unreadable)
    assert found.problem().startswith("2 of 20 images cannot be read, first: image ")
    assert "not in a format that Pillow can read" in str(found.unreadable["cat/3.png"])
    opened.clear()
    assert decode_all(dataset, paths_of(dataset), cache) == found
    assert sorted(opened) == ["cat/3.png", "dog/4.png"]  # only what failed is tried again
    known = decode_all(dataset, paths_of(dataset), cache, limit=1)
    assert known.unreadable == found.unreadable and known.unopened == 2
    opened.clear()
    file = tree / "cat" / "5.png"
    stamp = os.stat(file)
    file.write_bytes(b"x" * stamp.st_size)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    found = decode_all(dataset, paths_of(dataset), cache)
    assert "cat/5.png" in found.unreadable  # same size and modification time: its change time tells


def test_more_than_the_limit_is_not_opened(tree, tmp_path, opened):
    dataset = read_folder(tree)
    found = decode_all(dataset, paths_of(dataset), tmp_path, limit=19)
    assert (found.unopened, opened) == (20, [])
    decode_all(dataset, ["cat/1.png"], tmp_path)
    assert decode_all(dataset, paths_of(dataset), tmp_path, limit=19).unopened == 0
    assert len(opened) == 20


@pytest.mark.parametrize("damage", ["flip", "cut", "other", "bytes"])
def test_a_damaged_result_is_made_again(tree, tmp_path, opened, damage, caplog):
    (tree / "cat" / "3.png").write_bytes(b"")
    dataset = read_folder(tree)
    found = decode_all(dataset, paths_of(dataset), tmp_path)
    (file,) = (tmp_path / "decoded").iterdir()
    text = file.read_bytes()
    changed = {
        "flip": text.replace(b"cannot", b"canNot").replace(b"not in", b"not iN"),
        "cut": text[:-9],
        "other": b"[]",
        "bytes": b"\xff" + text,
    }[damage]
    assert changed != text
    file.write_bytes(changed)
    opened.clear()
    assert decode_all(dataset, paths_of(dataset), tmp_path) == found and len(opened) == 20
    assert "opened again" in caplog.text
    assert file.read_bytes() == text


def test_a_folder_that_cannot_be_written_keeps_nothing(tree, tmp_path, caplog):
    dataset = read_folder(tree)
    (tmp_path / "decoded").write_text("a file")
    found = decode_all(dataset, paths_of(dataset), tmp_path)
    assert found.unreadable == {} and "not kept" in caplog.text


def test_a_failure_that_was_the_disks_is_not_kept(tree, tmp_path, monkeypatch):
    dataset = read_folder(tree)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "I/O")))
        assert len(decode_all(dataset, paths_of(dataset), tmp_path).unreadable) == 20
    assert decode_all(dataset, paths_of(dataset), tmp_path).unreadable == {}


def test_what_was_opened_before_an_interrupt_is_kept(tree, tmp_path, opened, monkeypatch):
    monkeypatch.setattr(decoding, "_PER_CALL", 5)

    def interrupt(done, total):
        if done >= 10:
            raise KeyboardInterrupt

    dataset = read_folder(tree)
    with pytest.raises(KeyboardInterrupt):
        decode_all(dataset, paths_of(dataset), tmp_path, progress=interrupt)
    opened.clear()
    decode_all(dataset, paths_of(dataset), tmp_path)
    assert len(opened) == 10


def test_rendered_images_are_no_files(tmp_path):
    dataset = load_dataset("sklearn/digits", root=None, cache_dir=tmp_path)
    assert decode_all(dataset, paths_of(dataset), tmp_path).unreadable == {}
    assert not (tmp_path / "decoded").exists()


def test_two_datasets_over_one_folder_share_the_result(tree, tmp_path, opened):
    dataset = read_folder(tree)
    decode_all(dataset, [item.path for item in dataset.train], tmp_path)
    decode_all(dataset, [item.path for item in dataset.test], tmp_path)
    (file,) = (tmp_path / "decoded").iterdir()
    kept = json.loads(file.read_text().partition("\n")[2])["files"]
    assert len(kept) == len(dataset.train) + len(dataset.test) == len(opened)
    assert decoding._VERSION == 1
