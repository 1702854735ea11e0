"""Datasets are told apart by what they are, never by spelling; a test image is never trained on."""

import json
import os
import shutil
import sys

import pytest

import main as command_line
from analysis.read.study_folder import load_study
from core.config import Reference
from core.store.record import read_records
from core.store.run_facts import own_scores, target_scores
from experiments.configs import config_path, read_config_file
from experiments.run import data_inputs
from experiments.run.data_inputs import read_data_inputs
from experiments.run.dataset_names import with_canonical_names
from experiments.run.runtime import Runtime
from experiments.study.planner import plan
from tests.helpers.picture_trees import class_tree, parts_tree, picture

SHORT = ("experiment.epochs=1", "experiment.shots=2", "experiment.batch_size=4")
CROSS = "experiment.protocol=cross_dataset"
GRID = """
include 'methods/coop.gin'
experiment.epochs = 1
experiment.shots = 2
grid.seeds = (1,)
grid.baseline = 'CoOp'
grid.variants = {
    'CoOp': {},
    'ZeroShot': {'experiment.method': @ZeroShot, 'experiment.refiner': @NullRefiner},
}
"""


@pytest.fixture
def place(tmp_path, monkeypatch, cache_dir):
    """A working folder with a data root, and a cache that other tests may have filled."""
    class_tree(tmp_path / "data/v1/birds", 1)
    class_tree(tmp_path / "data/v2/birds", 2)
    class_tree(tmp_path / "data/cars", 3, classes=("bike", "bus", "tram", "van"))
    (tmp_path / "runs").mkdir()
    cache_dir.mkdir(exist_ok=True)
    (tmp_path / "runs/cache").symlink_to(cache_dir)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(place, monkeypatch, capsys):
    """Runs a command with that data root; gives exit code, output and the last line of errors."""

    def run(*words, settings=(), data_root=True):
        given = [word for setting in settings for word in ("--set", setting)]
        given += ["--data-root", str(place / "data")] if data_root else []
        line = ["main.py", *map(str, words), *given]
        monkeypatch.setattr(sys, "argv", line)
        data_inputs._dataset.cache_clear()  # a command has a process of its own
        code = command_line.main()
        shown = capsys.readouterr()
        return code, shown.out, (shown.err.splitlines() or [""])[-1]

    return run


@pytest.fixture
def train(call):
    """Trains a moment on a dataset; gives the record, or the error."""

    def run(dataset, *settings):
        chosen = {s.split("=")[0] for s in settings}
        kept = [s for s in SHORT if s.split("=")[0] not in chosen]
        named = (f"experiment.dataset='{dataset}'", *kept, *settings)
        code, out, err = call("train", "coop", "--json", settings=named)
        return json.loads(out) if code == 0 else err

    return run


@pytest.fixture
def grid(call, place):
    """Runs a grid on datasets; gives exit code, output and the last line of errors."""

    def run(study, datasets, *words, more=""):
        text = f"{GRID}grid.study = '{study}'\ngrid.datasets = {datasets!r}\n{more}"
        (place / f"{study}.gin").write_text(text)
        return call("grid", f"{study}.gin", "--jobs", "0", "--no-track", *words)

    return run


def shares_a_file(place, name="over"):
    """A tree whose test list has one training image under another name."""
    tree = parts_tree(place / "data" / name, 5)
    os.link(tree / "train/crow/0.png", tree / "test/crow/9.png")
    return f"folder/{name}"


# one name


def test_a_folder_by_its_path_is_the_run_of_its_name(train, place):
    named = train("folder/v1/birds")
    for typed in (f"folder/{place}/data/v1/birds", "folder/./v2/../v1/birds/"):
        again = train(typed)
        assert again["identity"] == named["identity"]
        assert again["dataset"] == named["dataset"] == "folder/v1/birds"
        assert again["evaluations"] == named["evaluations"]
    assert [e["target"] for e in named["evaluations"]] == ["base", "new"]


def test_folders_of_one_last_name_are_two_targets(train, place):
    class_tree(place / "elsewhere/birds", 4)
    outside = f"folder/{place}/elsewhere/birds"
    targets = ("folder/v1/birds/", f"folder/{place}/data/v2/birds", outside)
    record = train("folder/cars", CROSS, f"experiment.targets={targets!r}")
    names = ["folder/v1/birds", "folder/v2/birds", outside]
    assert [e["target"] for e in record["evaluations"]] == ["all", *names]
    assert [e["dataset"] for e in record["evaluations"]] == ["folder/cars", *names]
    prints = record["fingerprints"]
    assert len({prints["dataset"], *(prints[f"target {name}"] for name in names)}) == 4


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("folder/v1/birds",), "must not hold the source 'folder/v1/birds'"),
        (("folder/cars", "folder/v1/birds/."), "must not hold the source"),
        (("folder/{data}/v1/birds",), "must not hold the source"),
        (("folder/link",), "must not hold the source"),
        (("folder/cars", "folder/{data}/cars/"), "must not repeat a dataset, 'folder/cars' does"),
        (("folder/v2/birds", "folder/v2/../v2/birds"), "must not repeat a dataset"),
        (("folder/same_test",), "is the source 'folder/v1/birds' under another name"),
        (("folder/cars/../../out",), "leaves the data root"),
    ],
)
def test_a_dataset_is_named_once_in_any_spelling(train, grid, place, targets, message):
    data = place / "data"
    (data / "link").symlink_to("v1/birds")
    if "folder/same_test" in targets:  # another folder, whose test images are the source's
        runtime = Runtime(cache_dir=place / "cache", data_root=data)
        config = read_config_file(config_path("coop"), ["experiment.dataset='folder/v1/birds'"])
        for item in read_data_inputs(config, runtime).full.test:
            file = data / "same_test/test" / item.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.symlink_to(data / "v1/birds" / item.path)
        class_tree(data / "same_test/train", 9, images=3)
    targets = tuple(target.format(data=data) for target in targets)
    error = train("folder/v1/birds", CROSS, f"experiment.targets={targets!r}")
    assert message in error and error.startswith("error: ")
    more = f"experiment.protocol = 'cross_dataset'\nexperiment.targets = {targets!r}\n"
    for words in (["--dry-run"], []):
        code, _, error = grid("s", ("folder/v1/birds",), *words, more=more)
        assert code == 2 and message in error
    assert not (place / "runs/s").exists()


def test_a_grid_names_a_dataset_once_and_rules_find_it(grid, place):
    path = f"folder/{place}/data/v1/birds"
    code, _, error = grid("s", ("folder/v1/birds", path))
    assert code == 2 and "must not repeat a value, but 'folder/v1/birds' appears twice" in error
    (place / "data/big").symlink_to(class_tree(place / "disk/big", 8))
    code, _, error = grid("s", (f"folder/{place}/disk/big", "folder/big"), "--dry-run")
    assert code == 2 and "'folder/big' appears twice" in error
    rule = "({'datasets': ('folder/v1/birds/',), 'set': {'experiment.epochs': 2}},)"
    code, _, error = grid("s", (path, "folder/cars"), more=f"grid.overrides = {rule}\n")
    assert code == 0, error
    records = {r.dataset: r for r in read_records(place / "runs/s") if r.variant == "CoOp"}
    assert set(records) == {"folder/v1/birds", "folder/cars"}
    configs = {
        d: (place / "runs/s" / r.identity / "config.gin").read_text() for d, r in records.items()
    }
    assert "experiment.epochs = 2" in configs["folder/v1/birds"]
    assert "experiment.epochs = 1" in configs["folder/cars"]


def test_variants_that_differ_in_spelling_are_one_run(grid, place):
    variants = (
        "grid.variants = {\n"
        "    'A': {'experiment.targets': ('folder/cars/', 'folder/v2/birds')},\n"
        f"    'B': {{'experiment.targets': ('folder/{place}/data/cars', 'folder/./v2/birds')}},\n"
        "    'C': {'experiment.targets': ('folder/v2/birds', 'folder/cars')},\n}\n"
    )
    text = GRID[: GRID.index("grid.variants")].replace("'CoOp'", "'A'") + variants
    (place / "v.gin").write_text(
        f"{text}grid.study = 'v'\ngrid.datasets = ('folder/v1/birds',)\n"
        "experiment.protocol = 'cross_dataset'\n"
    )
    config = with_canonical_names(read_config_file(place / "v.gin"), place / "data")
    cells = plan(config, lambda made: {}).cells
    assert {cell.variant: cell.note for cell in cells} == {
        "A": "",
        "B": "duplicate of 'A'",
        "C": "",
    }


def test_a_tree_is_named_by_its_split_file_or_by_its_images_not_by_both(grid, train, place):
    tree = class_tree(place / "data/x/images", 5)
    items = [
        [path.relative_to(tree).as_posix(), label, name]
        for label, name in enumerate(("crow", "duck", "hawk", "wren"))
        for path in sorted((tree / name).iterdir())
    ]
    parts = {"train": items[::2], "val": [], "test": items[1::2]}
    (place / "data/x/split_zhou_X.json").write_text(json.dumps(parts))
    code, _, error = grid("s", ("folder/x", "folder/x/images"), "--dry-run")
    assert code == 2 and "'folder/x' and 'folder/x/images' are the same images" in error
    error = train("folder/x", CROSS, "experiment.targets=('folder/x/images',)")
    assert "'folder/x/images' is the source 'folder/x' under another name" in error


def test_canonical_names_are_found_wherever_a_configuration_has_them(place):
    text = (
        f"{GRID}grid.study = 's'\ngrid.datasets = ('folder/./cars', 'caltech101')\n"
        "grid.factors = {'experiment.targets': "
        "(('folder/v1//birds',), ('dtd', 'folder/v2/birds/'))}\n"
        "experiment.targets = ('folder/v2//birds',)\n"
    )
    (place / "s.gin").write_text(text)
    config = read_config_file(place / "s.gin", ["experiment.template='folder/./cars {}'"])
    found = with_canonical_names(config, place / "data")
    assert found.bindings["grid.datasets"] == ("folder/cars", "caltech101")
    assert found.bindings["experiment.targets"] == ("folder/v2/birds",)
    levels = found.bindings["grid.factors"]["experiment.targets"]
    assert levels == (("folder/v1/birds",), ("dtd", "folder/v2/birds"))
    assert found.bindings["experiment.template"] == "folder/./cars {}"
    assert found.bindings["grid.variants"]["ZeroShot"]["experiment.method"] == Reference("ZeroShot")
    assert with_canonical_names(found, place / "data") is found


def test_evaluate_knows_the_own_dataset_in_any_spelling(call, train, place):
    record = train("folder/v1/birds")
    run = place / "runs/train" / record["identity"]
    keys = ("target", "dataset", "correct", "total")
    own = [{key: e[key] for key in keys} for e in record["evaluations"]]
    for typed in (f"folder/{place}/data/v1/birds/", "folder/./v1/birds"):
        code, out, _ = call("evaluate", run, "--dataset", typed, "--json")
        assert code == 0 and [{key: e[key] for key in keys} for e in json.loads(out)] == own
    code, out, _ = call("evaluate", run, "--dataset", "folder/v2//birds", "--json")
    assert code == 0 and [e["target"] for e in json.loads(out)] == ["folder/v2/birds"]


# reports


def test_a_report_of_absolute_names_has_base_new_and_their_mean(grid, place):
    class_tree(place / "elsewhere/birds", 4)
    code, _, error = grid("s", (f"folder/{place}/elsewhere/birds", f"folder/{place}/data/v1/birds"))
    assert code == 0, error
    results = load_study(place / "runs/s")
    assert results.metrics == ("base", "new", "hm") and not results.shared_seeds
    assert results.datasets == (f"folder/{place}/elsewhere/birds", "folder/v1/birds")


def test_an_average_over_targets_has_no_source_in_it_in_older_records_either(grid, place):
    more = (
        "experiment.protocol = 'cross_dataset'\n"
        "experiment.targets = ('folder/v2/birds/', 'folder/cars')\n"
    )
    code, _, error = grid("s", (f"folder/{place}/data/v1/birds",), more=more)
    assert code == 0, error
    study = place / "runs/s"
    assert load_study(study).datasets == ("folder/v2/birds", "folder/cars")
    before = [target_scores(record) for record in read_records(study)]
    for file in (study / "study.json", *study.glob("*/record.json")):
        _as_before_names_were_canonical(file, f"folder/{place}/data/v1/birds")
    for scores, record in zip(before, read_records(study), strict=True):
        assert target_scores(record) == scores
        assert [e.dataset for e in own_scores(record)] == ["folder/birds"]
    assert load_study(study).datasets == ("folder/v2/birds", "folder/cars")


def _as_before_names_were_canonical(file, typed):
    """A document in which the source is called as it was typed, and scored under its last name."""
    raw = json.loads(file.read_text().replace('"folder/v1/birds"', json.dumps(typed)))
    for scored in raw.get("evaluations", []):
        if scored["dataset"] == typed:
            scored |= {"dataset": "folder/birds", "target": "folder/birds"}
    raw["schema_version"] = 1
    for key in ("digest", "weights_sha256", "drawn_per_class", "shared_images"):
        raw.pop(key, None)
    file.write_text(json.dumps(raw))


# images of training in the test


def test_a_test_image_that_is_a_training_image_is_refused_everywhere(train, grid, call, place):
    name = shares_a_file(place)
    shown = "over: 1 of 13 test images are its training images as well, first test/crow/9.png"
    assert shown in train(name)
    for words in (["--dry-run"], []):
        code, _, error = grid("s", ("folder/cars", name), *words)
        assert code == 2 and shown in error and "experiment.overlap = 'allowed'" in error
    settings = [f"search.datasets=('{name}',)", "experiment.shots=2"]
    for words in (["--dry-run"], ["--jobs", "0", "--no-track"]):
        code, _, error = call("search", "search_text_refiner", *words, settings=settings)
        assert code == 2 and shown in error
    code, _, error = call("data", "check", name)
    assert code == 2 and shown in error


@pytest.mark.parametrize("how", ["one folder", "target", "split file"])
def test_other_ways_to_test_on_training_images(train, place, how):
    data, settings = place / "data", ()
    if how == "one folder":
        class_tree(data / "x/train", 5, images=3)
        for part in ("val", "test"):
            (data / "x" / part).symlink_to("train")
    elif how == "target":
        parts_tree(data / "x", 5)
        shutil.copytree(data / "cars", data / "y")
        shutil.rmtree(data / "y/bus")
        (data / "y/bus").symlink_to(data / "x/train/crow")
        settings = (CROSS, "experiment.targets=('folder/y',)", "experiment.split_seed=0")
    else:
        class_tree(data / "x/images", 5)
        row = ["crow/1.png", 0, "crow"], ["duck/2.png", 1, "duck"]
        listed = {"train": row, "val": [], "test": [[f"./{row[0][0]}", 0, "crow"], row[1]]}
        (data / "x/split_zhou_X.json").write_text(json.dumps(listed))
    error = train("folder/x", *settings)
    assert "training images as well" in error and error.startswith("error: folder/")
    assert ("folder/y" if how == "target" else "its training") in error


def test_images_that_two_datasets_of_one_average_share_are_refused(train, grid, place):
    parts_tree(place / "data/x", 5, train=8, test=20)
    error = train("folder/x", CROSS, "experiment.targets=('folder/x/test',)")
    assert error.startswith("error: folder/x/test: 24 of 24 test images are folder/x's test images")
    assert "(as test/crow/" in error
    (place / "data/y").mkdir()
    for name in ("cars/bus", "x/test/crow", "x/test/duck"):
        (place / "data/y" / name.rpartition("/")[2]).symlink_to(place / "data" / name)
    error = train("folder/x", CROSS, "experiment.targets=('folder/y',)")
    assert error.startswith("error: folder/y: ") and "are folder/x's test images as well" in error
    error = train("folder/cars", CROSS, "experiment.targets=('folder/x', 'folder/x/test')")
    assert error.startswith("error: folder/x/test: 24 of 24 test images are folder/x's test images")
    for nested in (("folder/x", "folder/x/train"), ("folder/x/test", "folder/x")):
        code, _, error = grid("s", nested, "--dry-run")
        assert code == 2 and "share " in error and "experiment.overlap = 'allowed'" in error
        allowed = ("--set", "experiment.overlap=allowed")
        assert grid("s", nested, "--dry-run", *allowed)[0] == 0
    assert grid("s", ("folder/x/test", "folder/x/train"), "--dry-run")[0] == 0


def test_copies_are_refused_on_request_and_where_validation_selects(train, call, place):
    tree = parts_tree(place / "data/x", 6)
    shutil.copy(tree / "train/crow/0.png", tree / "test/wren/7.png")
    record = train("folder/x")
    assert record["shared_images"] == 0
    copies = "experiment.overlap=copies-refused"
    assert "1 of 13 test images are its training images" in train("folder/x", copies)
    code, _, error = call("data", "check", "folder/x", "--content")
    assert code == 2 and "test/wren/7.png (as train/crow/0.png)" in error
    assert call("data", "check", "folder/x")[0] == 0
    assert train("folder/v1/birds", copies)["identity"] == train("folder/v1/birds")["identity"]
    os.link(tree / "val/duck/0.png", tree / "test/duck/8.png")
    assert isinstance(train("folder/x"), dict)
    assert "1 of 14 test images are its validation images" in train(
        "folder/x", "experiment.selection=val"
    )


def test_what_is_allowed_is_recorded_and_marked(train, grid, call, place):
    name = shares_a_file(place)
    allowed = "experiment.overlap=allowed"
    record = train(name, allowed, "experiment.shots=4")
    assert record["shared_images"] == 1 and record["drawn_per_class"] == [4, 4]
    code, out, error = grid("s", (name,), "--set", "experiment.shots=4", "--set", allowed)
    assert code == 0 and "test/crow/9.png (as train/crow/0.png); allowed by" in out, error
    results = load_study(place / "runs/s")
    assert results.trained_on_test == {"CoOp": 1}
    code, out, _ = call("report", place / "runs/s", "--out", place / "page", data_root=False)
    assert code == 0 and "Training saw test images, so these numbers are too high: CoOp" in out
    assert "training used test data" in (place / "page/index.html").read_text()


def test_a_method_that_trains_nothing_needs_no_permission(call, place):
    name = shares_a_file(place)
    code, out, _ = call("train", "zero_shot", "--json", settings=[f"experiment.dataset='{name}'"])
    assert code == 0 and json.loads(out)["shared_images"] == 0


# shots


def test_fewer_images_than_shots_are_recorded_and_told(train, grid, call, place):
    record = train("folder/v1/birds", "experiment.shots=9")
    assert record["shots"] == 9 and record["drawn_per_class"] == [4, 4]
    assert train("folder/v1/birds")["drawn_per_class"] == [2, 2]
    told = "9 shots: 4 of the 4 classes of folder/v1/birds have fewer training images"
    settings = ["experiment.dataset='folder/v1/birds'", "experiment.shots=9", "experiment.epochs=1"]
    code, out, _ = call("train", "coop", settings=settings)
    assert code == 0 and told in out and "shots used" in out
    for words in (["--dry-run"], []):
        code, out, _ = grid("s", ("folder/v1/birds",), "--set", "experiment.shots=9", *words)
        assert code == 0 and told in out
    code, out, _ = call("data", "check", "folder/v1/birds", "--shots", "9", "--json")
    assert code == 0 and any(told in note for note in json.loads(out)["notes"])
    notes = load_study(place / "runs/s").notes
    assert any("folder/v1/birds, 9 shots: 2 trained classes have fewer" in n for n in notes)


# changed data


def test_a_changed_image_is_named(grid, place):
    datasets = ("folder/v1/birds", "folder/cars")
    assert grid("s", datasets)[0] == 0
    assert "there changed" not in grid("s", datasets, "--dry-run")[1]
    picture(place / "data/cars/tram/3.png", 77)
    told = "there changed: the data of folder/cars, first tram/3.png has other content"
    for words in (["--dry-run"], []):
        code, out, _ = grid("s", datasets, *words)
        assert code == 0 and told in out and "data of folder/v1/birds" not in out
    assert "there changed" not in grid("s", datasets, "--dry-run")[1]


def test_evaluate_names_the_changed_image(call, train, place):
    record = train("folder/cars")
    picture(place / "data/cars/tram/3.png", 78)
    code, _, error = call("evaluate", place / "runs/train" / record["identity"])
    assert code == 2 and "the data of folder/cars, first tram/3.png has other content" in error
