"""The images of a run: written, read back, and taken from the lists of other projects."""

import json
import os
import pickle
import sys
import types
from dataclasses import replace

import pytest

from core.data.catalog import load_dataset
from core.data.fewshot import few_shot
from core.data.item_hashes import hash_rows, item_rows
from core.data.shots import with_shots, write_shots
from core.data.splits import class_subset

ELSEWHERE = "/home/someone/data"


@pytest.fixture
def dtd(trees, tmp_path):
    return load_dataset("dtd", root=trees, cache_dir=tmp_path / "cache")


@pytest.fixture
def imagenet(trees, tmp_path):
    return load_dataset("imagenet", root=trees, cache_dir=tmp_path / "cache")


@pytest.fixture
def dassl(monkeypatch):
    """Dassl's item class as its pickles know it; it is gone when a file is read."""
    names = ["dassl", "dassl.data", "dassl.data.datasets", "dassl.data.datasets.base_dataset"]
    modules = {name: types.ModuleType(name) for name in names}

    class Datum:
        def __init__(self, impath, label, classname):
            self._impath, self._label, self._classname = impath, label, classname
            self._domain = 0

    Datum.__module__, Datum.__qualname__ = names[-1], "Datum"
    modules[names[-1]].Datum = Datum

    def dump(path, value, protocol=pickle.HIGHEST_PROTOCOL):
        with pytest.MonkeyPatch.context() as patch:
            for name, module in modules.items():
                patch.setitem(sys.modules, name, module)
            path.write_bytes(pickle.dumps(value, protocol=protocol))
        assert "dassl" not in sys.modules
        return path

    dump.Datum = Datum
    return dump


def absolute(dataset, items):
    return [(f"{ELSEWHERE}/{path}", label, name) for path, label, name in item_rows(dataset, items)]


def test_written_shots_come_back(dtd, tmp_path):
    drawn = few_shot(dtd, shots=4, seed=2)
    digest = write_shots(tmp_path / "deep" / "shots.json", drawn)
    document = json.loads((tmp_path / "deep" / "shots.json").read_text())
    assert digest == document["train_sha256"] == hash_rows(item_rows(drawn, drawn.train))
    assert document["train"][0] == [f"dtd/images/{drawn.train[0].path}", drawn.train[0].label]
    assert with_shots(dtd, tmp_path / "deep" / "shots.json") == drawn
    base = class_subset(with_shots(dtd, tmp_path / "deep" / "shots.json"), "base")
    assert base == class_subset(drawn, "base")


def test_val_that_is_the_test_list_is_named_not_listed(imagenet, tmp_path):
    drawn = few_shot(imagenet, shots=2, seed=1)
    write_shots(tmp_path / "s.json", drawn)
    assert json.loads((tmp_path / "s.json").read_text())["val"] == "test"
    assert with_shots(imagenet, tmp_path / "s.json") == drawn


def test_changed_shots_are_noticed(dtd, tmp_path):
    file = tmp_path / "s.json"
    write_shots(file, few_shot(dtd, shots=4, seed=2))
    document = json.loads(file.read_text())
    document["train"][0], document["train"][1] = document["train"][1], document["train"][0]
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"the train list is not the one that was written"):
        with_shots(dtd, file)


def test_shots_outlive_a_renamed_data_set_but_not_other_class_names(dtd, tmp_path):
    drawn = few_shot(dtd, shots=4, seed=2)
    write_shots(tmp_path / "s.json", drawn)
    moved = replace(dtd, name="folder/textures", folder="")
    assert with_shots(moved, tmp_path / "s.json").train == drawn.train
    renamed = replace(dtd, class_names=("bands", *dtd.class_names[1:]))
    with pytest.raises(ValueError, match=r"the class names of dtd have changed"):
        with_shots(renamed, tmp_path / "s.json")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_dassl_pickle(dtd, dassl, tmp_path, protocol):
    drawn = few_shot(dtd, shots=4, seed=3)
    lists = {
        part: [dassl.Datum(*row) for row in absolute(drawn, drawn.split(part))]
        for part in ("train", "val")
    }
    assert with_shots(dtd, dassl(tmp_path / "shot_4-seed_3.pkl", lists, protocol)) == drawn


def test_a_dassl_pickle_of_imagenet_has_no_val(imagenet, dassl, tmp_path):
    drawn = few_shot(imagenet, shots=4, seed=3)
    lists = {"train": [dassl.Datum(*row) for row in absolute(drawn, drawn.train)]}
    assert with_shots(imagenet, dassl(tmp_path / "p.pkl", lists)) == drawn


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def global_call(module, name, argument):
    """A pickle that calls a function by name, written by hand."""
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


EVIL = {
    "os.system": lambda mark: pickle.dumps(Evil(os.system, f"touch {mark}")),
    "inside a list": lambda mark: pickle.dumps({"train": [Evil(os.system, f"touch {mark}")]}),
    "builtins.eval": lambda mark: global_call("builtins", "eval", f"open('{mark}', 'w')"),
    "posix.system": lambda mark: global_call("posix", "system", f"touch {mark}"),
    "another class of dassl": lambda mark: global_call("dassl.utils", "Datum", ""),
    "through the known module": lambda mark: global_call(
        "dassl.data.datasets.base_dataset", "os.system", f"touch {mark}"
    ),
    "a dotted name": lambda mark: pickle.PROTO + b"\x04" + pickle.SHORT_BINUNICODE + bytes([32])
    + b"dassl.data.datasets.base_dataset" + pickle.SHORT_BINUNICODE + bytes([14])
    + b"Datum.__init__" + pickle.STACK_GLOBAL + b".",
    "an old class": lambda mark: b"(idassl.data.datasets.base_dataset\nOther\n.",
    "arguments for the class": lambda mark: global_call(
        "dassl.data.datasets.base_dataset", "Datum", "x"
    ),
    "a set": lambda mark: pickle.dumps({"train": {1, 2}}, protocol=2),
    "persistent objects": lambda mark: b"Pname\n.",
    "nothing": lambda mark: b"",
    "half of one": lambda mark: pickle.dumps({"train": ["x"] * 9})[:20],
    "plain texts": lambda mark: pickle.dumps({"train": ["a.jpg"]}),
    "a list": lambda mark: pickle.dumps([1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("kind", EVIL)
def test_other_pickles_are_refused_and_never_run(dtd, tmp_path, kind):
    mark = tmp_path / "mark"
    file = tmp_path / "s.pkl"
    file.write_bytes(EVIL[kind](mark))
    with pytest.raises(ValueError, match=r"shots file .*s\.pkl") as caught:
        with_shots(dtd, file)
    assert "\n" not in str(caught.value) and not mark.exists()


def test_another_class_of_the_known_module_is_refused(dtd, dassl, tmp_path):
    item = dassl.Datum("banded/banded_0002.jpg", 0, "banded")
    file = dassl(tmp_path / "s.pkl", {"train": [item]})
    file.write_bytes(file.read_bytes().replace(b"Datum", b"Other"))
    with pytest.raises(ValueError, match=r"base_dataset\.Other, but only Dassl's Datum is allowed"):
        with_shots(dtd, file)


def test_an_evil_pickle_does_run_elsewhere(tmp_path):
    """The tests above can fail: the plain unpickler runs it."""
    mark = tmp_path / "mark"
    pickle.loads(EVIL["posix.system"](mark))
    assert mark.exists()


def test_a_pickled_item_of_odd_content(dtd, dassl, tmp_path):
    item = dassl.Datum(3, 0, "banded")
    with pytest.raises(ValueError, match=r"train\[0\]: the path must be text, got 3"):
        with_shots(dtd, dassl(tmp_path / "s.pkl", {"train": [item]}))
    item = dassl.Datum("banded/banded_0002.jpg", "0", "banded")
    with pytest.raises(ValueError, match=r"the label must be an integer of at least 0, got '0'"):
        with_shots(dtd, dassl(tmp_path / "s.pkl", {"train": [item]}))


@pytest.mark.parametrize(
    "keys",
    [
        ("impath", "label", "classname"),
        ("path", "class_id", "class_name"),
        ("image", "target", "x"),
    ],
)
def test_json_lines_of_objects(dtd, tmp_path, keys):
    drawn = few_shot(dtd, shots=2, seed=1)
    lines = [
        json.dumps(dict(zip(keys, row, strict=True)) | ({"split": part} if part == "val" else {}))
        for part in ("train", "val")
        for row in absolute(drawn, drawn.split(part))
    ]
    (tmp_path / "s.jsonl").write_text("\n".join(lines) + "\n\n")
    assert with_shots(dtd, tmp_path / "s.jsonl") == drawn


def test_json_lines_of_lists(dtd, tmp_path):
    drawn = few_shot(dtd, shots=2, seed=1)
    lines = [json.dumps(row) for row in absolute(drawn, drawn.train)]
    (tmp_path / "s.jsonl").write_text("\r\n".join(lines))
    found = with_shots(dtd, tmp_path / "s.jsonl")
    assert found.train == drawn.train and found.val == () and found.test == dtd.test


@pytest.mark.parametrize(
    "form", ["{0}", "{0} {1}", "{0}\t{1}", "{0}\t{1}\t{2}", "C:\\data\\{0}", "./{0}"]
)
def test_plain_text(dtd, tmp_path, form):
    drawn = few_shot(dtd, shots=2, seed=1)
    lines = [form.format(*row) for row in item_rows(drawn, drawn.train)]
    (tmp_path / "s.txt").write_text("\n".join(lines))
    assert with_shots(dtd, tmp_path / "s.txt").train == drawn.train


BAD = {
    "s.txt": [
        (
            "frilly/none.jpg 2",
            r"train\[0\]: 'frilly/none\.jpg' is not an image of dtd; use the",
        ),
        ("{test} 0", r"is a test image of dtd here; the file belongs to another split"),
        ("{train} 5", r"has label 5, but in dtd it is 0 \('banded'\); the label order differs"),
        ("{train}\n{train}", r"train\[1\]: .* is also train\[0\]; list an image once"),
        ("{train}", r"6 of 7 classes of dtd have no training image, first 'cobwebbed'"),
        ("{train}\tx", r"s\.txt:1: the label must be an integer of at least 0, got 'x'"),
        ("", r"names no training images"),
    ],
    "s.jsonl": [
        ("{{", r"s\.jsonl:1 is not JSON"),
        ("3", r"s\.jsonl:1 must be an object with one of impath"),
        ('{{"label": 3}}', r"must be an object with one of"),
        ('{{"path": "a", "label": -1}}', r"must be an integer of at least 0, got -1"),
        ('{{"path": "a", "split": "test"}}', r"a part is train or val, got 'test'"),
    ],
    "s.json": [
        ("[]", r'must be a JSON object with "format"'),
        ("{{", r"cannot be read"),
        ('{{"format": "refinelab shots 1"}}', r"train must be a list of \[path, label\]"),
        ('{{"format": "refinelab shots 1", "train": [[1, 2]]}}', r"path must be text, got 1"),
    ],
    "s.csv": [("x", r"unknown file type '\.csv'; use \.json, \.pkl, \.jsonl, \.txt")],
}


@pytest.mark.parametrize(
    ("name", "text", "message"), [(n, t, m) for n, cases in BAD.items() for t, m in cases]
)
def test_bad_lists_give_one_line(dtd, tmp_path, name, text, message):
    paths = {"train": dtd.train[0].path, "test": dtd.test[0].path}
    (tmp_path / name).write_text(text.format(**paths))
    with pytest.raises(ValueError, match=message) as caught:
        with_shots(dtd, tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_missing_and_undecodable_files(dtd, tmp_path):
    for name in ("s.json", "s.pkl", "s.jsonl", "s.txt"):
        with pytest.raises(ValueError, match=r"cannot be read"):
            with_shots(dtd, tmp_path / name)
    (tmp_path / "s.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"is not UTF-8 text"):
        with_shots(dtd, tmp_path / "s.txt")


def test_validation_images_of_imagenet_cannot_be_trained_on(imagenet, tmp_path):
    drawn = few_shot(imagenet, shots=1, seed=1)
    lines = [item.path for item in (*drawn.train, imagenet.test[0])]
    (tmp_path / "s.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"train\[6\].* is a test image of imagenet here"):
        with_shots(imagenet, tmp_path / "s.txt")


def test_test_sets_take_no_shots(trees, tmp_path):
    sketch = load_dataset("imagenet_sketch", root=trees, cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"imagenet_sketch is a test set"):
        with_shots(sketch, tmp_path / "s.txt")
