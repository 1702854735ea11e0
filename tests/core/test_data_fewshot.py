"""The few-shot draw and the base/new halves, against what the published readers return.

The listings are two of the published sets in miniature (names only, no pictures); the hashes are of
the listings the published code returned for them: ``path TAB label TAB class name LF`` in the order
returned.
"""

import hashlib
from dataclasses import dataclass

import pytest
from PIL import Image

from core.data.dataset import Dataset, Item
from core.data.fewshot import few_shot
from core.data.splits import SplitFractions, class_subset, cut_classes


@dataclass(frozen=True)
class NoReader:
    def read(self, path: str) -> Image.Image:
        raise AssertionError(path)


def make(names, train, val, test) -> Dataset:
    lists = {"train": train, "val": val, "test": test}
    items = {key: tuple(Item(p, label) for p, label in rows) for key, rows in lists.items()}
    return Dataset(name="t/t", class_names=tuple(names), template="{}", reader=NoReader(), **items)


def cut_listing(names, files, label_order) -> Dataset:
    """A 50/20/30 split of each class in an order that follows from the file names."""
    parts = ([], [], [])
    for label in label_order:
        order = sorted(
            files[label], key=lambda name: hashlib.sha256(f"split|{name}".encode()).digest()
        )
        a = round(len(order) * 0.5)
        b = a + round(len(order) * 0.2)
        for part, chosen in zip(parts, (order[:a], order[a:b], order[b:]), strict=True):
            part += [(name, label) for name in chosen]
    return make(names, *parts)


def textures() -> Dataset:
    counts = {"banded": 40, "cobwebbed": 41, "frilly": 43, "polka-dotted": 40}
    counts |= {"stained": 20, "waffled": 45, "zigzagged": 42}
    files = [[f"{c}/{c}_{4 * i + 2:04d}.jpg" for i in range(n)] for c, n in counts.items()]
    return cut_listing(list(counts), files, range(7))


def flowers() -> Dataset:
    names = ["pink primrose", "hard-leaved pocket orchid", "colt's foot", "bird of paradise"]
    names += ["prince of wales feathers", "globe-flower"]
    blocks = [(4, 45), (0, 41), (2, 20), (5, 38), (1, 40), (2, 16), (3, 20)]
    labels = [label for label, count in blocks for _ in range(count)]
    files = [[f"image_{k + 1:05d}.jpg" for k, x in enumerate(labels) if x == c] for c in range(6)]
    return cut_listing(names, files, dict.fromkeys(labels))


def listing_hash(dataset: Dataset, items, folder: str) -> str:
    rows = (f"{folder}/{i.path}\t{i.label}\t{dataset.class_names[i.label]}\n" for i in items)
    return hashlib.sha256("".join(rows).encode()).hexdigest()[:16]


PUBLISHED = [
    (textures, "dtd/images", 1, 0, "base", "f36f35fa475495dc", "9385118e350da8ef"),
    (textures, "dtd/images", 1, 1, "all", "fb94f7e2ad33cad1", "d0cd2604c1d09814"),
    (textures, "dtd/images", 1, 16, "new", "9172f05157ff345a", "3d63e8ca76cf2dcd"),
    (textures, "dtd/images", 2, 4, "base", "606aa4776ea50df0", "dfc013f340724b53"),
    (textures, "dtd/images", 2, 16, "all", "e2720e5e19ce79d9", "155fad334cf90d8b"),
    (flowers, "oxford_flowers/jpg", 1, 0, "base", "e13de0a2d1eaac4e", "631cdf544b1530b9"),
    (flowers, "oxford_flowers/jpg", 1, 1, "all", "ade7c11d57f389c0", "453f17e1f25c766c"),
    (flowers, "oxford_flowers/jpg", 1, 16, "new", "f1e74bb5f30fa540", "1639c186597c5001"),
    (flowers, "oxford_flowers/jpg", 2, 4, "base", "1be5123f5e4a425b", "68b73f59894ba134"),
    (flowers, "oxford_flowers/jpg", 2, 16, "all", "1e6d4a3e5f5111d2", "15e3cf3c4e10f031"),
]


@pytest.mark.parametrize(
    ("listing", "folder", "seed", "shots", "subset", "train", "val"), PUBLISHED
)
def test_draw_is_the_published_one(listing, folder, seed, shots, subset, train, val):
    drawn = class_subset(few_shot(listing(), shots=shots, seed=seed), subset)
    assert listing_hash(drawn, drawn.train, folder) == train
    assert listing_hash(drawn, drawn.val, folder) == val


@pytest.mark.parametrize(
    ("subset", "expected"), [("base", "dad91d0cb852ce0d"), ("new", "30d9af50cbac00c0")]
)
def test_test_half_is_the_published_one(subset, expected):
    half = class_subset(few_shot(textures(), shots=16, seed=3), subset)
    assert listing_hash(half, half.test, "dtd/images") == expected


def test_shots_and_test_list():
    dataset = textures()
    assert few_shot(dataset, shots=0, seed=1) is dataset
    drawn = few_shot(dataset, shots=16, seed=1)
    assert drawn.test == dataset.test
    count = [sum(i.label == c for i in drawn.train) for c in range(7)]
    assert count == [16, 16, 16, 16, 10, 16, 16]  # "stained" has ten and is taken whole
    assert {sum(i.label == c for i in drawn.val) for c in range(7)} == {4}
    assert few_shot(dataset, shots=2, seed=1).train != few_shot(dataset, shots=2, seed=2).train
    assert drawn.content == dataset.content and drawn.fingerprint != dataset.fingerprint


def test_val_that_is_the_test_list_is_kept_whole():
    rows = [(f"{c}/{n}", c) for c in range(3) for n in range(9)]
    dataset = make("abc", [(f"t{p}", label) for p, label in rows], rows, rows)
    drawn = few_shot(dataset, shots=2, seed=1)
    assert drawn.val == dataset.val and len(drawn.train) == 6


def test_negative_shots():
    with pytest.raises(ValueError, match=r"shots must be 0 .* got -1"):
        few_shot(textures(), shots=-1, seed=1)


def test_halves_of_an_odd_count_relabel_and_keep_order():
    rows = [("c1", 4), ("a1", 0), ("b1", 2), ("d1", 3), ("e1", 1), ("a2", 0)]
    dataset = make("vwxyz", rows, rows[:2], [("t4", 4), ("t2", 2), ("t0", 0)])
    base, new = class_subset(dataset, "base"), class_subset(dataset, "new")
    assert base.class_names == ("v", "w", "x") and new.class_names == ("y", "z")
    assert base.train == (Item("a1", 0), Item("b1", 2), Item("e1", 1), Item("a2", 0))
    assert new.train == (Item("c1", 1), Item("d1", 0))
    assert new.test == (Item("t4", 1),) and base.test == (Item("t2", 2), Item("t0", 0))
    assert base.val == (Item("a1", 0),) and new.val == (Item("c1", 1),)
    assert class_subset(dataset, "all") is dataset


def test_halves_follow_the_labels_present_in_train():
    dataset = make("abcde", [("x", 1), ("y", 4), ("z", 2)], [], [("t0", 0), ("t4", 4)])
    base, new = class_subset(dataset, "base"), class_subset(dataset, "new")
    assert base.class_names == ("b", "c") and base.test == ()
    assert new.class_names == ("e",) and new.test == (Item("t4", 0),)
    only_test = make("abc", [], [], [("x", 0), ("y", 1), ("z", 2)])
    assert class_subset(only_test, "base").class_names == ("a", "b")


def test_subset_errors():
    with pytest.raises(ValueError, match=r"classes must be one of .* got 'old'"):
        class_subset(textures(), "old")
    with pytest.raises(ValueError, match=r"1 class\(es\) with images"):
        class_subset(make("a", [("x", 0)], [], []), "base")


def test_own_split_is_stable_and_independent_between_classes():
    paths = {name: [f"{name}/{n}.png" for n in range(11)] for name in "abc"}
    train, val, test = cut_classes(paths, SplitFractions(), seed=0)
    assert [len(part) for part in (train, val, test)] == [
        18,
        6,
        9,
    ]  # round(5.5) = 6, round(2.2) = 2
    everything = {*train, *val, *test}
    assert len(everything) == 33
    without_a = {name: paths[name] for name in "bc"}
    train_bc = cut_classes(without_a, SplitFractions(), seed=0)[0]
    assert [i.path for i in train if i.label] == [i.path for i in train_bc]
    reversed_files = {name: files[::-1] for name, files in paths.items()}
    assert cut_classes(reversed_files, SplitFractions(), seed=0)[0] == train
    assert cut_classes(paths, SplitFractions(), seed=1)[0] != train
    assert cut_classes(paths, SplitFractions(train=0.7, val=0, test=0.3), seed=0)[1] == ()


def test_split_errors():
    with pytest.raises(ValueError, match="add up to 1"):
        SplitFractions(train=0.5, val=0.5, test=0.5)
    with pytest.raises(ValueError, match=r"class 'a' has 2 image\(s\), too few"):
        cut_classes({"a": ["a/1", "a/2"]}, SplitFractions(), seed=0)
