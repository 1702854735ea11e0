"""Images that a run could not be scored on are refused before it trains, by every command."""

import json
import shutil
import sys

import pytest

import main as command_line
from experiments.run import data_inputs
from tests.helpers.picture_trees import CLASSES, class_tree, parts_tree

RUN = ("experiment.epochs=1", "experiment.shots=2")
GRID = """
include 'mosaic.gin'
grid.study = 'mine'
grid.datasets = ('folder/x',)
grid.seeds = (1, 2)
grid.variants = {{'A': {{}}, 'B': {{'experiment.epochs': 2}}}}
grid.baseline = 'A'
experiment.shots = 2
{more}
"""


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFINELAB_DATA", str(tmp_path))
    monkeypatch.setattr("experiments.run.run.fit_steps", None)  # nothing is trained

    def run(*words):
        data_inputs._dataset.cache_clear()  # a command has a process of its own
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, words)])
        code = command_line.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err.splitlines()

    return run


def train(*settings):
    words = ("train", "mosaic", "--set", "experiment.dataset=folder/x")
    return (*words, *(word for text in (*RUN, *settings) for word in ("--set", text)))


def commands(tmp_path, more=""):
    """Every command that would start runs on the dataset, or is asked about one."""
    (tmp_path / "g.gin").write_text(GRID.format(more=more))
    settings = [line.replace(" = ", "=").replace("'", "") for line in more.splitlines()]
    return {
        "train": train(*settings),
        "grid": ("grid", tmp_path / "g.gin"),
        "dry run": ("grid", tmp_path / "g.gin", "--dry-run"),
        "data check": ("data", "check", "--config", tmp_path / "g.gin", *train(*settings)[2:]),
    }


def refused(call, commands):
    lines = {}
    for name, words in commands.items():
        code, out, err = call(*words)
        assert code == 2 and len(err) == 1, (name, out, err)
        lines[name] = err[0]
    return lines


@pytest.mark.parametrize(("number", "half"), [(2, "base"), (3, "new")])
def test_a_half_of_a_single_class_is_refused(call, tmp_path, number, half):
    class_tree(tmp_path / "x", 1, classes=CLASSES[:number])
    for line in refused(call, commands(tmp_path)).values():
        only = CLASSES[0 if half == "base" else number - 1]
        assert f"folder/x: the {half} half has the single class {only!r}" in line
        assert "use the protocol 'few_shot'" in line
    code, out, _ = call("data", "check", "folder/x", "--json")
    assert code == 0 and any("few_shot" in note for note in json.loads(out)["notes"])
    assert call("data", "check", "folder/x", "--protocol", "few_shot")[0] == 0


def test_a_search_on_too_few_classes_is_refused(call, tmp_path):
    class_tree(tmp_path / "x", 1, classes=CLASSES[:3])
    for objective in ("hm", "base"):
        words = (f"search.objectives=('{objective}',)", "search.datasets=('folder/x',)", RUN[1])
        settings = [word for text in words for word in ("--set", text)]
        for more in (["--dry-run"], ["--jobs", "0", "--no-track"]):
            code, out, err = call("search", "search_text_refiner", *settings, *more)
            assert code == 2 and "the single class" in err[-1], (out, err)


def test_a_half_without_test_images_is_refused(call, tmp_path):
    parts_tree(tmp_path / "x", 1)
    for name in CLASSES[2:]:
        shutil.rmtree(tmp_path / "x" / "test" / name)
    for line in refused(call, commands(tmp_path)).values():
        assert "folder/x has no test images of the classes of the new half, 'hawk', 'wren'" in line
    code, out, _ = call("data", "check", "folder/x", "--json")
    assert code == 0 and "no test images of 'hawk', 'wren'" in json.loads(out)["notes"]


@pytest.mark.parametrize(("part", "kind"), [("train", "training"), ("test", "test")])
@pytest.mark.parametrize("protocol", ["few_shot", "base_to_new"])
def test_an_empty_list_of_a_split_file_is_refused(call, tmp_path, part, kind, protocol):
    class_tree(tmp_path / "x" / "images", 1, images=6)
    split = {
        name: [[f"{c}/{n}.png", label, c] for label, c in enumerate(CLASSES) for n in numbers]
        for name, numbers in {"train": (0, 1), "val": (2, 3), "test": (4, 5)}.items()
    }
    (tmp_path / "x" / "split_zhou_x.json").write_text(json.dumps(split | {part: []}))
    for line in refused(call, commands(tmp_path, f"experiment.protocol = '{protocol}'")).values():
        assert f"folder/x has no {kind} images of the classes" in line and "'crow'" in line
    code, out, _ = call("data", "check", "folder/x", "--json")
    assert code == 0 and f"no {kind} images" in json.loads(out)["notes"]


def test_fractions_that_leave_no_test_images_are_refused(call, tmp_path):
    class_tree(tmp_path / "x", 1)
    code, _, err = call(*train("experiment.split_fractions=(1, 0, 0)"))
    assert code == 2 and "folder/x has no test images of the classes of the base half" in err[0]


def test_validation_images_that_are_test_images_are_noted_and_no_selection(call, tmp_path):
    parts_tree(tmp_path / "x", 1)
    code, out, _ = call("data", "check", "folder/x", "--json")
    assert code == 0 and not json.loads(out)["notes"]
    split = {
        name: [[f"{part}/{c}/{n}.png", label, c] for label, c in enumerate(CLASSES) for n in (0, 1)]
        for name, part in {"train": "train", "val": "test", "test": "test"}.items()
    }
    (tmp_path / "x" / "split_zhou_x.json").write_text(json.dumps(split))
    code, out, _ = call("data", "check", "folder/x", "--json")
    assert code == 0 and "8 of 8 validation images are test images" in json.loads(out)["notes"][0]
    select = "experiment.selection = 'val'"
    for line in refused(call, commands(tmp_path, select)).values():
        assert "needs validation images, folder/x has none of its own: they are its test" in line
    (tmp_path / "x" / "split_zhou_x.json").write_text(json.dumps(split | {"val": []}))
    for line in refused(call, commands(tmp_path, select)).values():
        assert "needs validation images, folder/x has none of the classes of the base half" in line


def test_a_setting_of_a_grid_is_refused_on_a_single_run(call, tmp_path):
    class_tree(tmp_path / "x", 1)
    (tmp_path / "g.gin").write_text(GRID.format(more=""))
    for setting in ("grid.seeds=(1,2,3)", "grid.study='mine'"):
        for words in (train(setting), ("train", tmp_path / "g.gin", "--set", setting)):
            code, out, err = call(*words)
            assert code == 2 and out == "" and len(err) == 1
            assert f"--set: {setting.split('=')[0]} has no effect on a single run" in err[0]
    code, _, err = call("search", "search_text_refiner", "--dry-run", "--set", "grid.seeds=(1, 2)")
    assert code == 2 and "--set: grid.seeds has no effect on a search" in err[0]


def test_messages_name_what_is_to_blame(call, tmp_path):
    class_tree(tmp_path / "x", 1)
    long = " ".join(["word"] * 100)
    setting = f"experiment.template='{long} {{}}.'"
    code, _, err = call(
        "train", "zero_shot", "--set", "experiment.dataset=folder/x", "--set", setting
    )
    assert code == 2 and "folder/x with experiment.template = " in err[0]
    assert "shorten the class name or the template" in err[0]
    (tmp_path / "mine.gin").write_text("include 'mosaic.gin'\nCoOp.ctx_init = 'a photo of a'\n")
    code, _, err = call("train", tmp_path / "mine.gin", "--set", "experiment.method=@ZeroShot")
    assert code == 2 and "python main.py train zero_shot" in err[0]
    assert "experiment.method is replaced by --set" in err[0]
    (tmp_path / "g.gin").write_text(
        GRID.format(more="").replace("'folder/x',", "'folder/x', 'folder/./x'")
    )
    code, _, err = call("grid", tmp_path / "g.gin", "--dry-run")
    assert code == 2 and "'folder/x' appears twice: as 'folder/x' and as 'folder/./x'" in err[0]
    targets = "experiment.targets=('mosaic/land', 'mosaic/./land')"
    code, _, err = call(*train("experiment.protocol=cross_dataset", targets))
    assert code == 2 and "'mosaic/land' does: as 'mosaic/land' and as 'mosaic/./land'" in err[0]


def test_a_run_whose_data_are_not_here_says_which(call, tmp_path, monkeypatch):
    class_tree(tmp_path / "x", 1)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    words = ("--data-root", str(tmp_path), "--out", "run")
    settings = [word for text in ("experiment.dataset=folder/x", *RUN) for word in ("--set", text)]
    monkeypatch.setattr(sys, "argv", ["main.py", "train", "zero_shot", *settings[:2], *words])
    assert command_line.main() == 0
    (tmp_path / "elsewhere").mkdir()
    code, _, err = call("evaluate", "run", "--dataset", "mosaic/land", "--data-root", "elsewhere")
    assert (
        code == 2 and "run is a run on folder/x, which cannot be read below the data root" in err[0]
    )
    assert str(tmp_path / "elsewhere") in err[0] and "--data-root" in err[0]
