"""What train, grid and ``data check`` show and refuse of the data on disk before anything runs."""

import json
import os
import sys

import pytest
from PIL import Image

import main as command_line
from core.data.folder import FolderReader

RUN = ("--set", "experiment.epochs=1", "--set", "experiment.shots=2")
GRID = """
include 'mosaic.gin'
grid.study = 'mine'
grid.datasets = {datasets}
grid.seeds = (1, 2)
grid.variants = {{'A': {{}}, 'B': {{'experiment.epochs': 2}}}}
grid.baseline = 'A'
experiment.epochs = 1
experiment.shots = 2
{more}
"""


def save(path, shade):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        Image.new("RGB", (16, 16), (shade % 256, 90, 9)).save(file, format="PNG")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a command in a folder with the trees ``pets`` (plain) and ``parts``."""
    for c, name in enumerate(("cat", "dog", "owl", "yak")):
        for n in range(10):
            save(tmp_path / "pets" / name / f"{n}.png", c * 50 + n)
            save(tmp_path / "parts" / ("Train", "Testing")[n % 2] / name / f"{n}.png", c * 50 + n)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFINELAB_DATA", str(tmp_path))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, words)])
        code = command_line.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err.splitlines()

    return run


def dataset(name):
    return "--set", f"experiment.dataset=folder/{name}"


def write_grid(tmp_path, *datasets, more=""):
    (tmp_path / "g.gin").write_text(GRID.format(datasets=tuple(datasets), more=more))
    return tmp_path / "g.gin"


def test_train_shows_how_the_data_were_read(call, tmp_path):
    (tmp_path / "pets" / "cat" / "x.heic").write_bytes(b"x")
    code, out, err = call("train", "mosaic", *RUN, *dataset("pets"))
    assert code == 0 and err == []
    assert "folder/pets: class folders below" in out and "train 20, val 8, test 12" in out
    assert "folder/pets: ignored 1 .heic: image formats that are not read" in out
    code, out, err = call("train", "mosaic", *RUN, *dataset("parts"), "--json")
    assert code == 0 and json.loads(out)["status"] == "finished"
    assert len(err) == 1 and "train/test folders (Train, Testing)" in err[0]


def test_an_unreadable_test_image_is_found_before_training(call, tmp_path, monkeypatch):
    for name in ("cat/1", "owl/3"):
        (tmp_path / "parts" / "Testing" / f"{name}.png").write_bytes(b"no image")
    monkeypatch.setattr("experiments.run.run.fit_steps", None)  # nothing is trained
    code, out, err = call("train", "mosaic", *RUN, *dataset("parts"))
    assert code == 2 and out == "" and len(err) == 1
    assert "folder/parts: 2 of 24 images cannot be read, first: image " in err[0]
    assert "cat/1.png" in err[0] and "Testing/owl/3.png" in err[0]
    code, out, err = call("data", "check", "folder/parts", "--decode", "--json")
    assert code == 2 and len(json.loads(out)["unreadable"]) == 2
    assert json.loads(out)["decoded"] == 38 and err[0].startswith("error: 2 of 40 images")


def test_only_what_the_run_reads_is_opened(call, tmp_path, monkeypatch):
    opened = []
    read = FolderReader.read
    monkeypatch.setattr(
        FolderReader, "read", lambda self, path: (opened.append(path), read(self, path))[1]
    )
    code, _, _ = call("train", "mosaic", *RUN, *dataset("parts"))
    first = sum(path.startswith("Train/") for path in opened)
    assert code == 0 and first == 2 * 2 * 2  # checked and encoded: two shots of two base classes
    opened.clear()
    assert call("train", "mosaic", *RUN, *dataset("parts"))[0] == 0 and opened == []
    (tmp_path / "parts" / "Train" / "cat" / "0.png").write_bytes(b"no image")
    mosaic = ("--set", "experiment.backbone=mosaic")
    code, _, err = call("train", "zero_shot", *dataset("parts"), *mosaic)
    assert code == 0, err  # reads no training image


def test_a_grid_reports_unreadable_images_and_starts_nothing(call, tmp_path):
    file = write_grid(tmp_path, "folder/pets", "folder/parts")
    code, out, err = call("grid", file, "--dry-run")
    assert code == 0 and err == [] and "8 cells, 8 runs" in out
    assert "folder/pets: class folders below" in out and "folder/parts: train/test" in out
    (tmp_path / "parts" / "Testing" / "dog" / "5.png").write_bytes(b"")
    for words in (("--dry-run",), ("--jobs", "0", "--no-track")):
        code, out, err = call("grid", file, *words)
        assert code == 2 and "1 of 2" in err[-1] and "Testing/dog/5.png is not in" in err[-1]
    assert not (tmp_path / "runs" / "mine").exists()


@pytest.mark.parametrize(("protocol", "number"), [("validation", 16), ("pseudo_new", 12)])
def test_the_runs_of_a_search_open_validation_images_first(call, tmp_path, protocol, number):
    for name in ("ape", "bee", "cat", "dog", "eel", "fox", "owl", "yak"):
        (tmp_path / "pets" / name).mkdir(exist_ok=True)
        for n in range(10):
            (tmp_path / "pets" / name / f"{n}.png").write_bytes(b"no image")
    rules = ("--set", f"experiment.protocol={protocol}")
    code, _, err = call("train", "mosaic", *RUN, *dataset("pets"), *rules)
    assert code == 2 and f"folder/pets: {number} of {number} images cannot" in err[0]


def test_a_dry_run_opens_a_bounded_number_of_images(call, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.run.preflight.DRY_RUN_IMAGES", 5)
    (tmp_path / "parts" / "Testing" / "dog" / "5.png").write_bytes(b"")
    file = write_grid(tmp_path, "folder/parts")
    code, out, _ = call("grid", file, "--dry-run")
    assert code == 0 and "images were never opened; 'python main.py data check folder/parts" in out
    call("data", "check", "folder/parts", "--decode")
    code, _, err = call("grid", file, "--dry-run")
    assert code == 2 and "cannot be read" in err[0]  # from the kept result


@pytest.mark.parametrize(
    "setting", ["experiment.split_seed=3", "experiment.split_fractions=(0.6, 0.1, 0.3)"]
)
def test_a_split_setting_without_effect_is_refused_or_noted(call, tmp_path, setting):
    key = setting.partition("=")[0]
    assert call("train", "mosaic", *RUN, *dataset("pets"), "--set", setting)[0] == 0
    for name in ("parts", "../" + tmp_path.name + "/parts"):
        code, _, err = call("train", "mosaic", *RUN, *dataset(name), "--set", setting)
        assert code == 2 and f"{key} = " in err[0] and "has no effect on" in err[0]
    code, _, err = call("train", "mosaic", *RUN, "--set", setting)
    assert code == 2 and "has no effect on mosaic/critters" in err[0]
    default = {"experiment.split_seed": "0"}.get(key, "(0.5, 0.2, 0.3)")
    words = ("--set", f"{key}={default}")
    assert call("train", "mosaic", *RUN, *dataset("parts"), *words)[0] == 0
    file = write_grid(tmp_path, "folder/pets", "folder/parts", more=setting)
    code, out, _ = call("grid", file, "--dry-run")
    assert code == 0 and f"{key} = " in out and "has no effect on folder/parts" in out
    file = write_grid(tmp_path, "folder/parts", more=setting)
    code, _, err = call("grid", file, "--dry-run")
    assert code == 2 and "has no effect on folder/parts" in err[-1]
    option = f"--{key.partition('.')[2].replace('_', '-')}"
    value = setting.partition("=")[2].strip("()")
    code, out, _ = call("data", "check", "folder/parts", option, value)
    assert code == 0 and "has no effect" in out


def test_data_check_takes_the_settings_of_a_run(call):
    def check(*words):
        code, out, err = call("data", "check", *words, "--json")
        return (json.loads(out) if out else None), code, err

    plain, code, _ = check("folder/pets")
    assert code == 0 and plain["images"] == {"train": 20, "val": 8, "test": 12}
    named, _, _ = check("folder/pets", "--split-fractions", "0.6,0.1,0.3", "--shots", "2")
    words = ("--set", "experiment.split_fractions=(0.6, 0.1, 0.3)", "--set", "experiment.shots=2")
    assert named["images"] == {"train": 24, "val": 4, "test": 12} and named["train"]["n"] == 8
    assert check("folder/pets", *words)[0] == named
    assert check("--config", "mosaic", *dataset("pets"), *words)[0] == named
    assert check("--set", "experiment.dataset=folder/pets", *words)[0] == named
    full, _, _ = check("--config", "mosaic")
    assert full["name"] == "mosaic/critters" and full["shots"] == 16
    assert check("folder/pets", "--template", "a {}, drawn")[0]["template"] == "a {}, drawn"
    for bad, message in (
        (("folder/pets", "--template", "a thing"), r"must be text with one {}"),
        (("folder/pets", "--protocol", "few_shots"), "few_shot"),
        (("folder/pets", "--protocol", "cross_dataset"), "experiment.targets"),
        (("folder/pets", "--split-fractions", "0.6,0.4"), "must be TRAIN,VAL,TEST"),
        (("folder/pets", "--split-fractions", "0.6,0.6,0.6"), "add up to 1"),
        (("folder/pets", "--set", "experiment.shot=2"), "did you mean 'shots'"),
        (("folder/pets", *dataset("parts")), "name one dataset"),
        (("--shots", "2"), "name a dataset"),
        (("--protocol", "few_shot"), "name one dataset"),
        (("folder/parts", "--set", "experiment.split_seed=2"), "has no effect on"),
    ):
        _, code, err = check(*bad)
        assert code == 2 and len(err) == 1 and message in err[0], (bad, err)


@pytest.mark.parametrize("command", ["shots", "export"])
def test_a_split_can_be_given_where_a_draw_or_a_copy_is_written(call, tmp_path, command):
    words = ("--split-fractions", "0.6,0.1,0.3", "--split-seed", "2")
    code, _, err = call("data", command, "folder/pets", "out", *words)
    assert code == 0, err
    found = json.loads(call("data", "check", "folder/pets", *words, "--shots", "16", "--json")[1])
    if command == "shots":
        written = json.loads((tmp_path / "out").read_text())["train"]
        assert written == [row[:2] for row in found["train"]["listing"]]
    else:
        again = json.loads(call("data", "check", "folder/out", "--json")[1])
        assert again["images"] == found["images"] == {"train": 24, "val": 4, "test": 12}
    for option in (words[:2], words[2:]):
        code, _, err = call("data", command, "folder/parts", "other", *option)
        assert code == 2 and f"{option[0]} has no effect on folder/parts" in err[0]
        assert not (tmp_path / "other").exists()


def test_a_file_name_that_is_not_utf8_works_everywhere(call, tmp_path):
    root = os.fsencode(tmp_path / "latin")
    for c, name in enumerate((b"cat", b"dog", b"owl", b"yak")):
        for n in range(10):
            save(os.path.join(root, name, b"caf\xe9 %d.png" % n), c * 50 + n)
    (tmp_path / "latin" / "cat" / os.fsdecode(b"n\xf6te.txt")).write_text("")
    views = ("--set", "experiment.num_views=1")
    code, out, err = call("train", "mosaic", *RUN, *dataset("latin"), *views, "--out", "one")
    assert code == 0 and err == [] and "base accuracy %" in out
    shots = (tmp_path / "one" / "shots.json").read_bytes()
    assert b"caf\\udce9" in shots and shots.isascii()
    again = (*views, "--set", "experiment.shots_file=one/shots.json")
    code, _, err = call("train", "mosaic", *RUN, *dataset("latin"), *again, "--out", "two")
    assert code == 0, err
    records = [json.loads((tmp_path / d / "record.json").read_text()) for d in ("one", "two")]
    assert records[0]["evaluations"] == records[1]["evaluations"]
    for words in (
        ("evaluate", "one"),
        ("inspect", "one"),
        ("data", "check", "folder/latin", "--decode", "--json"),
        ("data", "shots", "folder/latin", "s.json"),
        ("data", "export", "folder/latin", "out"),
        ("data", "check", "folder/out", "--decode"),
    ):
        code, _, err = call(*words)
        assert code == 0, (words, err)
    listing = [os.fsencode(s[0]) for s in json.loads((tmp_path / "s.json").read_text())["train"]]
    (tmp_path / "list.txt").write_bytes(b"\n".join(listing))
    drawn = ("--set", "experiment.shots_file=list.txt", "--set", "experiment.shots=5")
    code, _, err = call("train", "mosaic", *dataset("latin"), *drawn, *RUN[:2])
    assert code == 0, err
    with open(os.path.join(root, b"cat", b"caf\xe9 0.png"), "wb") as file:
        file.write(b"")
    code, out, err = call("data", "check", "folder/latin", "--decode")
    assert code == 2 and "caf\\xe9 0.png" in out and "\udce9" not in out


SEARCH = """
include 'mosaic.gin'
include 'search_base.gin'
search.study = 'tuned'
search.datasets = ('folder/pets',)
search.seeds = (1,)
search.final_seeds = (101,)
search.trials = 1
search.space = {'SGD.lr': {'low': 0.001, 'high': 0.1}}
experiment.epochs = 2
experiment.shots = 2
"""


def test_a_search_over_unreadable_images_starts_no_trial(call, tmp_path):
    for name in ("cat", "dog"):
        for n in range(10):
            (tmp_path / "pets" / name / f"{n}.png").write_bytes(b"no image")
    (tmp_path / "s.gin").write_text(SEARCH)
    code, _, err = call("search", "s.gin", "--jobs", "0", "--no-track")
    assert code == 2 and "folder/pets: 8 of 8 images cannot be read" in err[-1]
    assert not list((tmp_path / "runs").glob("tuned/*/"))
