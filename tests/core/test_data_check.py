"""``data check`` and ``data shots`` as a user meets them."""

import hashlib
import json
import shutil
import sys

import pytest

import main as command_line
from core.data.catalog import load_dataset
from core.data.fewshot import few_shot
from core.data.shots import with_shots
from tests.helpers.benchmark_trees import CREATED, RECORDED, snapshot


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a ``data`` command in an empty folder; gives exit code, output and error lines."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", "data", *map(str, words)])
        code = command_line.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err.splitlines()

    return run


@pytest.mark.parametrize("name", list(RECORDED))
def test_the_printed_listings_are_the_published_ones(call, trees, name):
    before = snapshot(trees)
    for key in ("seed2/shots4/new", "seed1/shots16/all"):
        expected = RECORDED[name]["runs"][key]
        seed, shots, subset = (word.removeprefix("seed").removeprefix("shots")
                               for word in key.split("/"))  # fmt: skip
        code, out, err = call("check", name, "--root", trees, "--shots", shots, "--seed", seed,
                              "--classes", subset, "--json")  # fmt: skip
        found = json.loads(out)
        assert code == 0 and err == [] and found["problem"] == "" and found["missing"] is None
        assert found["train"]["sha256"][:16] == expected[0]
        assert found["test"]["sha256"][:16] == expected[2]
        val = {"test": expected[2], None: hashlib.sha256().hexdigest()[:16]}
        assert found["val"]["sha256"][:16] == val.get(expected[1], expected[1])
        for part in ("train", "val", "test"):
            listing = found[part]["listing"]
            lines = "".join(f"{path}\t{label}\t{name}\n" for path, label, name in listing)
            assert hashlib.sha256(lines.encode()).hexdigest() == found[part]["sha256"]
            ordered = "".join(f"{p}\t{n}\t{c}\n" for p, n, c in sorted(map(tuple, listing)))
            assert hashlib.sha256(ordered.encode()).hexdigest() == found[part]["sha256_sorted"]
            assert sum(found[part]["per_label"]) == found[part]["n"] == len(listing)
    assert snapshot(trees) == before


@pytest.mark.parametrize("name", CREATED)
def test_a_set_without_split_file(call, bare_trees, name):
    expected = RECORDED[name]["no_split"]["seed2"]
    words = ("check", name, "--root", bare_trees, "--split-seed", 2)
    code, out, _ = call(*words, "--json")
    found = json.loads(out)
    assert code == 0 and found["split"].startswith("created with seed 2, a copy is ")
    assert [found[p]["sha256"][:16] for p in ("train", "val", "test")] == expected["splits"]
    assert any("is absent, the split is our own" in line for line in found["differs"])
    code, out, _ = call(*words, "--shots", 16, "--seed", 2, "--json")
    found = json.loads(out)
    assert [found[p]["sha256"][:16] for p in ("train", "val")] == expected["later_run"]


def test_the_screen_says_what_is_there_and_what_differs(call, trees):
    code, out, err = call("check", "oxford_pets", "--data-root", trees, "--shots", "1")
    assert code == 0 and err == []
    for line in ("oxford_pets/annotations/trainval.txt", "from split_zhou_OxfordPets.json",
                 "7 classes, published 37", "51 test images, published 3669"):  # fmt: skip
        assert line in out


def test_what_is_missing_is_counted_and_the_first_is_named(call, copied):
    root = copied("dtd")
    shutil.rmtree(root / "dtd" / "images" / "frilly")
    code, out, err = call("check", "dtd", "--root", root, "--json")
    found = json.loads(out)
    assert code == 2 and len(err) == 1 and err[0].startswith("error: ")
    first = found["missing"].pop("first")
    assert found["missing"] == {"count": 43, "total": 271}
    assert first.startswith("dtd/images/frilly/") and found["problem"] in err[0]
    assert found["there"] == {
        "dtd/images": True,
        "dtd/split_zhou_DescribableTextures.json": True,
    }
    code, out, err = call("check", "dtd", "--root", root)
    assert code == 2 and "43 of 271" in out and len(err) == 1


def test_the_check_does_not_trust_the_index(call, copied, monkeypatch):
    monkeypatch.setattr("core.data.benchmarks.image_tree._SETTLED_NS", -1)
    root = copied("dtd")
    before = json.loads(call("check", "dtd", "--root", root, "--json")[1])
    picture = next((root / "dtd" / "images" / "frilly").iterdir())
    picture.write_bytes(picture.read_bytes() + b"more")  # in place: the folder does not change
    after = json.loads(call("check", "dtd", "--root", root, "--json")[1])
    assert after["fingerprint"] != before["fingerprint"] and after["train"] == before["train"]


def test_decode_opens_every_picture(call, copied):
    root = copied("dtd")
    assert call("check", "dtd", "--root", root, "--decode")[0] == 0
    victims = sorted((root / "dtd" / "images" / "frilly").iterdir())[:3]
    for victim in victims:
        victim.write_bytes(victim.read_bytes()[:200])
    code, out, err = call("check", "dtd", "--root", root, "--decode", "--json")
    assert code == 2 and len(err) == 1
    assert json.loads(out)["problem"].startswith("3 of 271 images cannot be read, first: image ")


def test_the_root_comes_from_the_environment_too(call, trees, monkeypatch):
    monkeypatch.setenv("REFINELAB_DATA", str(trees))
    assert call("check", "eurosat")[0] == 0
    monkeypatch.delenv("REFINELAB_DATA")
    code, out, err = call("check", "eurosat")
    assert code == 2 and out == "" and "eurosat of eurosat does not exist; check the name" in err[0]


def test_shots_are_written_for_a_run(call, trees, bare_trees, tmp_path):
    code, out, _ = call("shots", "dtd", "s.json", "--root", trees, "--shots", 2, "--seed", 3)
    dataset = load_dataset("dtd", root=trees, cache_dir=tmp_path / "cache")
    file = tmp_path / "here" / "s.json"
    assert code == 0 and json.loads(file.read_text())["train_sha256"] in out
    assert with_shots(dataset, file) == few_shot(dataset, shots=2, seed=3)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_draw_of_the_run_that_creates_the_split(call, bare_trees, seed):
    words = ("shots", "dtd", "s.json", "--root", bare_trees, "--shots", 16, "--seed", seed)
    code, out, _ = call(*words, "--first-run")
    assert code == 0
    assert RECORDED["dtd"]["no_split"][f"seed{seed}"]["first_run"][0] in out
    code, out, _ = call(*words, "--split-seed", seed)
    assert RECORDED["dtd"]["no_split"][f"seed{seed}"]["later_run"][0] in out
    code, _, err = call(*words, "--first-run", "--split-seed", 3 - seed)
    assert code == 2 and "draws split and shots with the same seed" in err[0]


def test_the_list_names_all_fifteen(call):
    rows = json.loads(call("list", "--json")[1])["datasets"]
    assert set(RECORDED) <= {row["name"] for row in rows}
    assert "caltech-101/101_ObjectCategories" in call("list")[1]
