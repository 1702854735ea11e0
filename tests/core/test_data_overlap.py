"""Images that are in two lists: under one path, as one file, or with equal content."""

import os
import shutil
from dataclasses import replace

import pytest

from core.data.catalog import load_dataset
from core.data.dataset import Item
from core.data.folder import read_folder
from core.data.overlap import ImageList, shared_images
from tests.helpers.picture_trees import parts_tree


@pytest.fixture
def tree(tmp_path):
    return parts_tree(tmp_path / "x", 1)


def of_test(dataset, **how):
    asked, seen = (ImageList(dataset, dataset.split(part)) for part in ("test", "train"))
    return shared_images(asked, seen, **how)


def test_separate_lists_share_nothing(tree):
    assert of_test(read_folder(tree)) == of_test(read_folder(tree), copies=True) == (0, "", "")


@pytest.mark.parametrize("how", ["hard link", "link", "link of a class folder"])
def test_one_file_under_two_names(tree, how):
    own, other = tree / "train/crow/0.png", tree / "test/crow/9.png"
    if how == "hard link":
        os.link(own, other)
    elif how == "link":
        other.symlink_to(own)
    else:
        shutil.rmtree(tree / "test/wren")
        (tree / "test/wren").symlink_to(tree / "train/wren")
    found = of_test(read_folder(tree))
    expected = (4, "test/wren/0.png", "train/wren/0.png")
    assert found == (expected if "folder" in how else (1, "test/crow/9.png", "train/crow/0.png"))


def test_a_copy_counts_on_request_whatever_its_name_and_class(tree):
    shutil.copy(tree / "train/crow/0.png", tree / "test/wren/7.png")
    dataset = read_folder(tree)
    assert of_test(dataset) == (0, "", "")
    assert of_test(dataset, copies=True) == (1, "test/wren/7.png", "train/crow/0.png")


def test_equal_sizes_are_not_equal_content(tree):
    (tree / "train/crow/a.bmp").write_bytes(b"x" * 99)
    (tree / "test/crow/a.bmp").write_bytes(b"y" * 99)
    assert of_test(read_folder(tree), copies=True).number == 0


def test_paths_are_compared_without_spelling_and_images_count_once(tree):
    dataset = read_folder(tree)
    item = dataset.train[0]
    odd = item.path.replace("/", "/./", 1).replace("crow/", "crow//")
    twice = replace(dataset, test=(*dataset.test, Item(odd, 0), Item(odd, 0)))
    assert of_test(twice) == (1, odd, item.path)
    benchmark = replace(twice, folder="x")  # whose files are not looked at one by one
    assert of_test(benchmark) == (1, odd, item.path)


def test_datasets_without_files(cache_dir):
    digits = load_dataset("sklearn/digits", root=None, cache_dir=cache_dir)
    assert of_test(digits).number == 0
    same = replace(digits, test=(*digits.test, digits.train[3]))
    assert of_test(same) == (1, digits.train[3].path, digits.train[3].path)
    renamed = replace(digits, name="sklearn/other")
    asked = ImageList(renamed, renamed.train[:2])
    seen = ImageList(digits, digits.train)
    assert shared_images(asked, seen).number == 0
    assert shared_images(asked, seen, copies=True).number == 2
