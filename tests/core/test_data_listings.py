"""What a dataset was, so that a change is told by the name of a file."""

from dataclasses import replace

import pytest

from core.data.catalog import load_dataset
from core.data.folder import read_folder
from core.data.listings import first_difference, keep_listing
from tests.helpers.picture_trees import parts_tree, picture


@pytest.fixture
def tree(tmp_path):
    return parts_tree(tmp_path / "x", 1)


def kept(tree, cache):
    dataset = read_folder(tree)
    keep_listing(dataset, dataset.fingerprint, cache)
    return dataset.fingerprint


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: picture(t / "test/duck/1.png", 999), "test/duck/1.png has other content"),
        (lambda t: (t / "train/wren/0.png").unlink(), "train/wren/0.png is no longer listed"),
        (lambda t: picture(t / "val/hawk/8.png", 5), "val/hawk/8.png is new"),
    ],
)
def test_the_first_difference(tree, tmp_path, change, told):
    before = kept(tree, tmp_path)
    assert first_difference(read_folder(tree), before, tmp_path) == ""
    change(tree)
    changed = read_folder(tree)
    assert changed.fingerprint != before
    assert first_difference(changed, before, tmp_path) == told


def test_lists_labels_and_names(tree, tmp_path):
    dataset, before = read_folder(tree), kept(tree, tmp_path)
    first = dataset.train[0]
    moved = replace(dataset, train=dataset.train[1:], test=(*dataset.test, first))
    told = first_difference(moved, before, tmp_path)
    assert told == f"{first.path} was in train, is in test"
    names = ("raven", *dataset.class_names[1:])
    told = first_difference(replace(dataset, class_names=names), before, tmp_path)
    assert told == f"{first.path} was of class 'crow', is of 'raven'"
    turned = replace(dataset, train=dataset.train[::-1])
    assert first_difference(turned, before, tmp_path) == "the order of the lists"


def test_a_damaged_or_absent_listing_tells_nothing(tree, tmp_path):
    before = kept(tree, tmp_path)
    picture(tree / "test/duck/1.png", 999)
    (file,) = tmp_path.glob("listings/*")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    file.write_bytes(raw)
    assert first_difference(read_folder(tree), before, tmp_path) == ""
    assert first_difference(read_folder(tree), "0" * 16, tmp_path) == ""


def test_what_has_no_files_and_what_cannot_be_written_cost_nothing(tree, tmp_path, cache_dir):
    digits = load_dataset("sklearn/digits", root=None, cache_dir=cache_dir)
    keep_listing(digits, "d" * 16, tmp_path)
    (tmp_path / "file").write_text("no folder")
    kept(tree, tmp_path / "file")
    assert not list(tmp_path.glob("listings/*"))
