"""The fifteen benchmarks against what the published readers return over miniature trees.

``tests/golden_data/expected.json`` was recorded from the published readers, CoOp commit ff61507.
"""

import hashlib
import json
import os
import random
from pathlib import Path

import pytest

from core.data.benchmarks.definitions import BENCHMARKS
from core.data.benchmarks.image_tree import ImageTree
from core.data.benchmarks.published import differences, repetitions
from core.data.benchmarks.read_benchmark import first_run, read_benchmark
from core.data.catalog import load_dataset
from core.data.fewshot import few_shot
from core.data.item_hashes import hash_rows, item_rows
from core.data.splits import class_subset
from tests.helpers.benchmark_trees import CREATED, RECORDED, snapshot

each_set = pytest.mark.parametrize("name", list(RECORDED))
each_created = pytest.mark.parametrize("name", CREATED)


def digest(dataset, items):
    return hash_rows(item_rows(dataset, items))[:16]


def digests(dataset, *parts):
    return [digest(dataset, dataset.split(part)) for part in parts]


def test_every_benchmark_is_recorded():
    assert list(BENCHMARKS) == list(RECORDED) and len(RECORDED) == 15 and len(CREATED) == 9
    assert sum(len(expected["runs"]) for expected in RECORDED.values()) == 15 * 2 * 4 * 3


@each_set
def test_listings_are_the_published_ones(name, trees, tmp_path):
    dataset = load_dataset(name, root=trees, cache_dir=tmp_path)
    expected = RECORDED[name]
    for key, (train, val, test) in expected["runs"].items():
        seed, shots, subset = key.split("/")
        drawn = few_shot(dataset, shots=int(shots[5:]), seed=int(seed[4:]))
        part = class_subset(drawn, subset)
        assert digest(part, part.train) == train, key
        assert digest(part, part.test) == test, key
        if val is None:
            assert part.val == (), key
        else:
            assert digest(part, part.val) == (test if val == "test" else val), key
        names = expected["classnames"].get(subset)
        assert names is None or names in (list(part.class_names), len(part.class_names)), key
    shift = BENCHMARKS[name].kind == "variant"
    assert dataset.test_only == shift and (dataset.train == dataset.test) == shift


@each_created
def test_created_splits_and_both_draws_are_the_published_ones(name, bare_trees, tmp_path):
    for key, expected in RECORDED[name]["no_split"].items():
        seed = int(key[4:])
        found = read_benchmark(name, root=bare_trees, cache_dir=tmp_path, split_seed=seed)
        written = hashlib.sha256(found.created.read_bytes()).hexdigest()[:16]
        assert written == expected["file"] and f"seed{seed}" in str(found.created)
        assert digests(found.dataset, "train", "val", "test") == expected["splits"]
        later = few_shot(found.dataset, shots=16, seed=seed)
        assert digests(later, "train", "val") == expected["later_run"]
        first = first_run(name, root=bare_trees, cache_dir=tmp_path, shots=16, seed=seed)
        assert digests(first, "train", "val") == expected["first_run"]


@each_created
def test_draws_of_other_seeds_follow_the_published_rule(name, trees, tmp_path):
    """The rule written out once more, with the process-wide generator, over the file itself."""
    row = BENCHMARKS[name]
    listed = json.loads((trees / row.folder / row.split_file).read_text())
    dataset = load_dataset(name, root=trees, cache_dir=tmp_path)
    state = random.getstate()
    for seed in (3, 11, 2024):
        for shots in (2, 4, 8):
            random.seed(seed)
            for part, most in (("train", shots), ("val", min(shots, 4))):
                classes = {}
                for path, label, _ in listed[part]:
                    classes.setdefault(label, []).append(path)
                drawn = []
                for paths in classes.values():
                    drawn += random.sample(paths, most) if len(paths) >= most else paths
                found = few_shot(dataset, shots=shots, seed=seed).split(part)
                assert [item.path for item in found] == drawn, (seed, shots, part)
    random.setstate(state)


def test_split_seed_0_is_the_first_published_seed(bare_trees, tmp_path):
    def split(seed):
        return load_dataset("dtd", root=bare_trees, cache_dir=tmp_path, split_seed=seed)

    assert split(0) == split(1) and split(0).train != split(2).train
    assert split(0) == split(0)  # whatever was read before


def test_a_first_run_with_a_split_file_is_like_any_other(trees, tmp_path):
    dataset = load_dataset("dtd", root=trees, cache_dir=tmp_path)
    first = first_run("dtd", root=trees, cache_dir=tmp_path, shots=4, seed=2)
    assert first == few_shot(dataset, shots=4, seed=2)


def test_templates_are_the_published_ones():
    special = {
        "oxford_pets": "a photo of a {}, a type of pet.",
        "oxford_flowers": "a photo of a {}, a type of flower.",
        "food101": "a photo of {}, a type of food.",
        "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
        "dtd": "{} texture.",
        "eurosat": "a centered satellite photo of {}.",
        "ucf101": "a photo of a person doing {}.",
    }
    for name, row in BENCHMARKS.items():
        assert row.template == special.get(name, "a photo of a {}.")


@each_set
def test_reading_never_writes_below_the_root(name, copied, tmp_path):
    root = copied(name, splits=name not in CREATED)
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o555)
    before = snapshot(root)
    dataset = load_dataset(name, root=root, cache_dir=tmp_path / "cache")
    few_shot(dataset, shots=2, seed=1)
    assert dataset.reader.read(dataset.test[-1].path).mode == "RGB"
    assert snapshot(root) == before
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o755)


@each_set
def test_pictures_of_every_kind_open(name, trees, tmp_path):
    dataset = load_dataset(name, root=trees, cache_dir=tmp_path)
    for item in dataset.test[:40]:
        assert dataset.reader.read(item.path).mode == "RGB"


def test_moving_the_root_moves_nothing_but_the_reader(copied, trees, tmp_path):
    here = load_dataset("eurosat", root=trees, cache_dir=tmp_path)
    there = load_dataset("eurosat", root=copied("eurosat"), cache_dir=tmp_path)
    assert here.reader != there.reader and here.fingerprint == there.fingerprint
    assert here.content == there.content and here.train == there.train


def test_a_relative_root_and_home_are_understood(trees, tmp_path, monkeypatch):
    monkeypatch.chdir(trees.parent)
    monkeypatch.setenv("HOME", str(trees.parent))
    for root in (Path(trees.name), Path("~") / trees.name):
        dataset = load_dataset("eurosat", root=root, cache_dir=tmp_path)
        monkeypatch.chdir(tmp_path)
        assert dataset.reader.read(dataset.train[0].path).mode == "RGB"
        monkeypatch.chdir(trees.parent)


def test_other_pictures_under_the_same_names_are_another_content(copied, trees, tmp_path):
    root = copied("stanford_cars")
    first = load_dataset("stanford_cars", root=root, cache_dir=tmp_path)
    picture = root / "stanford_cars" / first.test[0].path
    picture.write_bytes((trees / "stanford_cars" / first.test[1].path).read_bytes())
    again = read_benchmark("stanford_cars", root=root, cache_dir=tmp_path, relist=True).dataset
    assert again.content != first.content and again.test == first.test


# The index: what it keeps, what makes it stale.


@pytest.fixture
def scanned(monkeypatch):
    """Which folders were listed from the disk."""
    import core.data.benchmarks.image_tree as module

    seen = []
    scan = module._scan
    monkeypatch.setattr(module, "_scan", lambda path: (seen.append(path.name), scan(path))[1])
    return seen


@pytest.fixture
def settled(monkeypatch):
    """Listings are kept at once; no test waits."""
    monkeypatch.setattr("core.data.benchmarks.image_tree._SETTLED_NS", -1)


def test_the_index_spares_unchanged_folders_and_notices_changes(copied, tmp_path, scanned, settled):
    root, cache = copied("dtd"), tmp_path / "cache"
    first = load_dataset("dtd", root=root, cache_dir=cache)
    assert len(scanned) == 7 and len(list((cache / "indexes").iterdir())) == 1
    scanned.clear()
    assert load_dataset("dtd", root=root, cache_dir=cache) == first and scanned == []
    victim = root / "dtd" / "images" / first.test[0].path
    victim.unlink()
    with pytest.raises(ValueError, match=r"1 of 271 listed images are missing"):
        load_dataset("dtd", root=root, cache_dir=cache)
    assert scanned == [victim.parent.name]
    scanned.clear()
    read_benchmark("eurosat", root=copied("eurosat"), cache_dir=cache, relist=True)
    assert len(scanned) == 6


def test_a_folder_that_has_just_changed_is_not_kept(copied, tmp_path, scanned):
    root = copied("dtd")
    for _ in range(2):
        load_dataset("dtd", root=root, cache_dir=tmp_path)
    assert len(scanned) == 14  # the copy is younger than two seconds


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version":1,"folders":{"banded":[1,2]}}', '{"version":99}']
)
def test_a_damaged_index_is_made_anew(trees, tmp_path, settled, text):
    load_dataset("dtd", root=trees, cache_dir=tmp_path)
    (file,) = (tmp_path / "indexes").iterdir()
    whole = file.read_text()
    file.write_text(text)
    load_dataset("dtd", root=trees, cache_dir=tmp_path)
    assert json.loads(file.read_text()) == json.loads(whole)


def test_a_tree_is_sorted_by_code_point_and_hides_what_is_hidden(tmp_path):
    for name in ("b", "B", "a b", "é", ".git"):
        (tmp_path / name).mkdir()
    for name in ("2.jpg", "10.jpg", ".DS_Store"):
        (tmp_path / "b" / name).write_bytes(b"x" * 3)
    (tmp_path / "b" / "dead").symlink_to("nowhere")
    tree = ImageTree(tmp_path)
    assert tree.folders() == ["B", "a b", "b", "é"]
    assert tree.files("b") == ["10.jpg", "2.jpg", "dead"]
    paths = ["b/2.jpg", "b/dead", "b/.DS_Store", "no/x", "b", "b/2.JPG"]
    assert [size >= 0 for size in tree.sizes(paths)] == [True, False, True, False, False, False]
    assert tree.near("b/2.JPG") == "2.jpg" and tree.near("b/3.jpg") is None
    assert tree.near("e\u0301") == "\u00e9"  # the accent written apart, as macOS does


# What was published.


def test_differences_from_what_was_published(trees, bare_trees, tmp_path):
    def found(name, root):
        one = read_benchmark(name, root=root, cache_dir=tmp_path)
        return differences(BENCHMARKS[name], one.dataset, one.split_file)

    lines = found("oxford_pets", trees)
    assert "7 classes, published 37" in lines and "51 test images, published 3669" in lines
    assert "class 1 is named 'american_pit_bull_terrier', published 'american_bulldog'" in lines
    assert any("is not the published file (sha256 d7f3ffe65b3919f9" in line for line in lines)
    assert "split_zhou_OxfordPets.json is absent, the split is our own" in found(
        "oxford_pets", bare_trees
    )
    assert found("imagenetv2", trees) == ["1054 test images, published 10000"]
    assert not any("class name" in line for line in found("imagenet_a", trees))


def test_repeated_names_and_images_are_told(trees, tmp_path):
    imagenet = load_dataset("imagenet", root=trees, cache_dir=tmp_path)
    assert repetitions(imagenet) == ["2 classes are named 'missile'"]
    dtd = load_dataset("dtd", root=trees, cache_dir=tmp_path)
    leaky = dtd.with_splits(train=(*dtd.train, dtd.train[0], dtd.test[0]), val=dtd.val)
    assert repetitions(dtd) == []
    assert repetitions(leaky) == [
        f"1 images are in more than one list, first {dtd.test[0].path}",
        f"1 images are in train more than once, first {dtd.train[0].path}",
    ]


def test_the_published_facts_agree_with_the_table():
    from core.data.benchmarks.published import _facts

    for name, facts in _facts().items():
        assert len(facts["class_names"]) == BENCHMARKS[name].counts.classes
    hashed = [name for name, facts in _facts().items() if "split_sha256" in facts]
    assert len(hashed) == 7 and set(hashed) <= set(CREATED)
