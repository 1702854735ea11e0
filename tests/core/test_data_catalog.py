"""Datasets by name, and the digits."""

import pytest

import core.mosaic
from core.data.benchmarks.definitions import BENCHMARKS
from core.data.catalog import dataset_names, load_dataset


@pytest.fixture(autouse=True)
def mosaic(monkeypatch):
    """Stands in for the embedded benchmark, whose own tests are elsewhere."""
    monkeypatch.setattr(core.mosaic, "DATASETS", ("shapes", "critters"))
    monkeypatch.setattr(core.mosaic, "load_mosaic", lambda name, cache_dir: (name, cache_dir))


def test_names_are_listed_with_help():
    names = dict(dataset_names())
    mosaic, rest = ["mosaic/shapes", "mosaic/critters"], ["sklearn/digits", "folder/<path>"]
    assert list(names) == [*mosaic, *BENCHMARKS, *rest] and len(BENCHMARKS) == 15
    assert all(line and "\n" not in line for line in names.values())


def test_mosaic_is_asked_with_the_cache_folder(tmp_path):
    assert load_dataset("mosaic/shapes", root=None, cache_dir=tmp_path) == ("shapes", tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mosaic/shape", "did you mean 'mosaic/shapes'"),
        ("shapes", "did you mean 'mosaic/shapes'"),
        ("Digits", "did you mean 'sklearn/digits'"),
        ("sklearn/digit", "did you mean 'sklearn/digits'"),
        ("mosaik/critters", "did you mean 'mosaic/critters'"),
        ("caltech-101", "did you mean 'caltech101'"),
        ("imagenet/v2", "did you mean 'imagenetv2'"),
        ("folder", "unknown dataset 'folder'. Names: "),
        ("qqq", "unknown dataset 'qqq'. Names: "),
        ("folder/", "unknown dataset 'folder/'"),
    ],
)
def test_unknown_names(tmp_path, name, hint):
    with pytest.raises(ValueError) as caught:
        load_dataset(name, root=None, cache_dir=tmp_path)
    message = str(caught.value)
    assert hint in message and "\n" not in message
    assert message.endswith("imagenet_r, sklearn/digits, folder/<path>")


@pytest.mark.parametrize("name", ["eurosat/", "/eurosat", "EuroSAT/"])
def test_a_benchmark_typed_like_its_folder_is_suggested(tmp_path, name):
    (tmp_path / "eurosat").mkdir()
    with pytest.raises(ValueError, match="; did you mean 'eurosat'"):
        load_dataset(name, root=tmp_path, cache_dir=tmp_path)


def test_digits(tmp_path):
    digits = load_dataset("sklearn/digits", root=None, cache_dir=tmp_path)
    assert digits.class_names[0] == "zero" and len(digits.class_names) == 10
    assert digits.template.format("zero") == 'a photo of the number "zero".'
    assert (len(digits.train), len(digits.val), len(digits.test)) == (898, 359, 540)
    every = [*digits.train, *digits.val, *digits.test]
    assert len({item.path for item in every}) == 1797
    assert all(item.path.startswith(digits.class_names[item.label] + "/") for item in every)
    for part in (digits.train, digits.val, digits.test):  # stratified: every class near its share
        counts = [sum(item.label == c for item in part) for c in range(10)]
        assert max(counts) - min(counts) <= 6
    picture = digits.reader.read("zero/0000.png")
    assert picture.size == (8, 8) and picture.mode == "RGB"
    from sklearn import datasets

    grey = [[p[0] for p in (picture.getpixel((x, y)) for x in range(8))] for y in range(8)]
    assert grey == [[round(v * 255 / 16) for v in row] for row in datasets.load_digits().images[0]]
    assert load_dataset("sklearn/digits", root=None, cache_dir=tmp_path) == digits
