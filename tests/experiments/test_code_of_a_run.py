"""The code that a run records: what belongs to it in this project, for every class there is."""

import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import experiments.run.registered
from core.clip.features import FeatureStore
from core.clip.frozen import FrozenCLIP
from core.config import config_from_text, registered_classes
from core.data.transforms import EvalTransform, TrainTransform
from core.store.code import EVERY_RUN, read_code, write_code
from core.store.record import read_record, write_record
from experiments.run import code as code_module
from experiments.run import stale
from experiments.run.code import (
    ENTRY_POINTS,
    HOME,
    OUTSIDE,
    add_plugin,
    called_by,
    code_of,
    hash_of,
    places_of,
    source_tree,
)
from experiments.run.stale import CodeCheck
from tests.helpers.fake_runs import fake_record
from tests.helpers.image_features import FakeCLIP, noise_dataset

TREE = source_tree()
REGISTERED = experiments.run.registered
KINDS = sorted(
    {e.kind for e in registered_classes()} - {"experiment", "grid", "search", "sampler", "pruner"}
)
CLASSES = [entry for kind in KINDS for entry in registered_classes(kind)]
COOP = """experiment.dataset = 'mosaic/shapes'
experiment.method = @CoOp
experiment.optimizer = @SGD
experiment.refiner = @TextRefiner
experiment.schedule = @ConstantThenCosine
TextRefiner.aggregation = @LinearAggregation
TextRefiner.alignment = @MlpAlignment
TextRefiner.cache = @EmaCache
TextRefiner.regularization = @L1Regularization
TextRefiner.semantic = @SemanticLoss
"""
ZERO_SHOT = """experiment.dataset = 'mosaic/shapes'
experiment.method = @ZeroShot
experiment.optimizer = {optimizer}
experiment.refiner = @NullRefiner
experiment.schedule = {schedule}
"""


def files(*keys):
    return called_by(TREE, keys).listing()


@pytest.mark.parametrize("entry", CLASSES, ids=lambda entry: entry.name)
def test_every_registered_class_is_found_where_it_is_defined(entry):
    places = places_of(TREE, f"{entry.cls.__module__}:{entry.cls.__qualname__}")
    paths = {HOME / place.module.path for place in places}
    assert paths == {Path(inspect.getfile(entry.cls)).resolve()}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_entry_point_is_a_definition_of_the_project(name):
    module, _, definition = name.partition(":")
    (place,) = TREE.find(module, definition)
    assert place.definition.name == definition


@pytest.mark.parametrize("name", OUTSIDE)
def test_everything_left_out_is_there(name):
    stem = HOME.joinpath(*name.split("."))
    assert stem.is_dir() or stem.with_suffix(".py").is_file()


def test_the_code_of_coop_is_its_own_and_that_of_what_it_calls():
    found = files("methods.coop:CoOp")
    assert {"CoOp"} == set(found["methods/coop.py"])
    assert {"TextMethod", "unit"} <= set(found["methods/base.py"])
    assert "ContextPrompts" in found["core/clip/prompts.py"]
    assert (
        "cross_entropy" in found["core/train/losses.py"] and "Method" in found["core/interfaces.py"]
    )
    assert not [
        path for path in found if path.startswith(("experiments/", "core/config", "core/store"))
    ]


def test_every_run_passes_through_training_evaluation_and_the_frozen_model():
    found = files(EVERY_RUN)
    expected = {
        "core/train/fit.py": {"fit_steps", "train_step"},
        "core/train/evaluate.py": {"predict"},
        "core/clip/frozen.py": {"FrozenCLIP"},
        "core/data/transforms.py": {"EvalTransform", "TrainTransform"},
        "core/data/dataset.py": {"Dataset"},
        "core/data/fewshot.py": {"few_shot"},
        "core/data/shots.py": {"with_shots"},
        "core/data/validation_only.py": {"validation_only"},
        "core/train/resume.py": {"TrainingCheckpoints"},
        "experiments/run/few_shot_draw.py": {"drawn"},
        "experiments/run/runtime.py": {"Runtime", "STORED_AS"},
        "experiments/run/run.py": {"assemble", "score_images", "train"},
        "experiments/run/protocols.py": {"PROTOCOLS"},
        "core/train/batches.py": {"FeatureSource", "PixelSource"},
    }
    for path, names in expected.items():
        assert names <= set(found[path]), path
    rooms = {path.split("/")[0] for path in found}
    assert rooms == {"core", "experiments"}
    assert {path.split("/")[1] for path in found if path.startswith("experiments")} == {"run"}


def test_a_run_records_the_classes_plugged_in_and_no_others():
    code = code_of(config_from_text(COOP))
    names = {key.rpartition(":")[2] for key in code.classes}
    assert {"CoOp", "SGD", "ConstantThenCosine", "TextRefiner", "EmaCache", "SemanticLoss"} <= names
    assert "every run" in names and not {"Adam", "NoCache", "Experiment", "ZeroShot"} & names
    assert code.files["methods/coop.py"]["CoOp"] and not code.plugins
    assert code_of(config_from_text(COOP)) is code


def test_equal_runs_have_equal_code():
    """A method that does not train has no optimizer, whatever is bound."""
    bare = config_from_text(ZERO_SHOT.format(optimizer=None, schedule=None))
    bound = config_from_text(ZERO_SHOT.format(optimizer="@SGD", schedule="@ConstantThenCosine"))
    assert bare.identity("experiment") == bound.identity("experiment")
    assert code_of(bare) == code_of(bound)


def test_the_hashes_do_not_depend_on_the_order_of_sets():
    one, two = (called_by(source_tree(), [EVERY_RUN, "methods.coop:CoOp"]) for _ in range(2))
    assert one.hash == two.hash and one.listing() == two.listing()


def loaded(monkeypatch, name, file):
    """A module in ``sys.modules`` that says that it comes from a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("class Part:\n    pass\n")
    monkeypatch.setitem(sys.modules, name, type(sys)(name))
    sys.modules[name].__file__ = str(file)


@pytest.mark.parametrize(
    ("module", "file", "place"),
    [
        ("paper_part", "paper_part.py", "paper_part.py"),
        ("paper_pack", "paper_pack/__init__.py", "paper_pack"),
        ("paper_pack.sub.part", "paper_pack/sub/part.py", "paper_pack"),
        ("plugin_0a_my_paper.part", "my-paper/part.py", "my-paper"),
        ("plugin_0a_methods", "methods.py", "methods.py"),
    ],
)
def test_the_place_of_a_plug_in_follows_from_its_module(tmp_path, monkeypatch, module, file, place):
    loaded(monkeypatch, module, tmp_path / file)
    tree = source_tree()
    assert add_plugin(tree, module, {}) == (tmp_path / place).resolve()
    (found,) = tree.find(module, "Part")
    assert found.module.path == str((tmp_path / file).resolve())
    monkeypatch.delitem(sys.modules, module)
    again, stored = source_tree(), {module.partition(".")[0]: str(tmp_path / place)}
    assert add_plugin(again, module, stored) and again.find(module, "Part")
    assert add_plugin(source_tree(), module, {}) is None


def test_what_is_installed_beside_a_plug_in_is_not_followed(tmp_path, monkeypatch):
    loaded(monkeypatch, "paper_pack", tmp_path / "site-packages" / "paper_pack" / "__init__.py")
    (tmp_path / "site-packages" / "library.py").write_text("def call():\n    pass\n")
    tree = source_tree()
    assert add_plugin(tree, "paper_pack", {}) and tree.module("library") is None


def test_a_plug_in_may_name_the_project_by_its_long_name(tmp_path, monkeypatch):
    loaded(monkeypatch, "paper_part", tmp_path / "paper_part.py")
    (tmp_path / "beside.py").write_text("def near():\n    return 1\n")
    (tmp_path / "paper_part.py").write_text(
        "from refinelab.methods.base import unit\nfrom refinelab import methods\n"
        "from beside import near\nclass Part:\n    def f(self, x):\n"
        "        return unit(x), near(), methods.coop.CoOp\n"
    )
    tree = source_tree()
    add_plugin(tree, "paper_part", {})
    found = called_by(tree, ["paper_part:Part"]).listing()
    assert "unit" in found["methods/base.py"] and "CoOp" in found["methods/coop.py"]
    assert str((tmp_path / "beside.py").resolve()) in found


PAPER = {
    "part.py": "import registry, patches\nclass Part:\n    def f(self, x):\n"
    "        return registry.TABLE['one'](x)\n",
    "registry.py": "TABLE = {}\ndef add(f):\n    TABLE['one'] = f\n    return f\nimport entries\n",
    "entries.py": "from registry import add\nfrom refinelab.methods import base\n@add\n"
    "def one(x):\n    return x\nclass Kind:\n    value = 1\n",
    "patches.py": "import entries\nentries.Kind.value = 2\n",
    "unread.py": "K = 1\n",
}


@pytest.mark.parametrize(
    ("name", "old", "new", "changes"),
    [
        ("entries.py", "return x", "return -x", True),
        ("entries.py", "value = 1", "value = 3", True),
        ("patches.py", "value = 2", "value = 3", True),
        ("part.py", "class Part", "def beside():\n    pass\nclass Part", True),
        ("registry.py", "def add(f):", "def add(f):  # keeps it", False),
        ("unread.py", "K = 1", "K = 2", False),
    ],
)
def test_a_plug_in_counts_with_all_that_it_imports_of_its_own(
    tmp_path, monkeypatch, name, old, new, changes
):
    loaded(monkeypatch, "part", tmp_path / "part.py")
    hashes = []
    for edit in (("", ""), (old, new)):
        for path, text in PAPER.items():
            edited = text.replace(*edit) if path == name and edit[0] else text
            (tmp_path / path).write_text(edited)
        tree = source_tree()
        add_plugin(tree, "part", {})
        found = called_by(tree, ["part:Part"])
        assert not [path for path in found.listing() if path.startswith("methods/")]
        hashes.append(found.hash)
    assert (hashes[0] != hashes[1]) == changes


def test_a_stored_record_of_this_code_is_not_stale(tmp_path):
    code = code_of(config_from_text(COOP))
    record = fake_record({"identity": "0" * 12, "variant": "v", "factors": {}})
    write_record(tmp_path, replace(record, code=code.classes))
    write_code(tmp_path, code)
    assert read_code(tmp_path) == code
    assert CodeCheck().changes(read_record(tmp_path), tmp_path) == ""


def test_what_the_check_of_one_record_computes_is_kept_for_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(stale, "hashes_file", lambda: tmp_path / "kept.json")
    computed = []
    monkeypatch.setattr(stale, "called_by", lambda *_: computed.append(1) or called_by(*_))
    code = code_of(config_from_text(COOP))
    record = fake_record({"identity": "0" * 12, "variant": "v", "factors": {}})
    record = replace(record, code=code.classes)
    for _ in range(2):
        assert CodeCheck().changes(record, tmp_path) == ""
        assert len(computed) == len(code.classes)


def test_the_code_of_a_class_is_followed_once_for_all_configurations(monkeypatch):
    followed = []

    def noted(tree, keys):
        followed.append(list(keys))
        return called_by(tree, keys)

    monkeypatch.setattr(code_module, "called_by", noted)
    settings = [COOP.replace("CoOp", name) for name in ("TCP", "ProGrad")]
    codes = [code_of(config_from_text(text)) for text in settings]
    assert codes[0].classes[EVERY_RUN] == codes[1].classes[EVERY_RUN]
    assert codes[0].classes.keys() != codes[1].classes.keys()
    alone = [keys[0] for keys in followed if len(keys) == 1]
    assert len(alone) == len(set(alone))


@pytest.mark.parametrize("key", [EVERY_RUN, "methods.coop:CoOp"])
def test_a_record_of_other_code_is_stale_also_where_every_run_passes(tmp_path, key):
    code = code_of(config_from_text(COOP))
    record = fake_record({"identity": "0" * 12, "variant": "v", "factors": {}})
    changed = {**code.classes, key: "0" * 16}
    change = CodeCheck().changes(replace(record, code=changed), tmp_path)
    assert change == f"the code of {key.rpartition(':')[2]}"


def test_features_of_other_code_are_not_used(tmp_path):
    """An edited tower must not be given what the old one computed."""
    clip, dataset = FakeCLIP(), noise_dataset()
    stores = [FeatureStore(tmp_path, clip, code_of=lambda _, code=code: code) for code in "aab"]
    for store in stores:
        store.get(dataset, dataset.train)
    keys = {json.loads(path.read_text())["code"] for path in tmp_path.glob("*/key.json")}
    assert keys == {"a", "b"} and len(list(tmp_path.glob("*/key.json"))) == 2


def test_the_code_of_features_is_that_of_the_tower_and_the_transform():
    one, two = hash_of(FrozenCLIP, EvalTransform), hash_of(FrozenCLIP, TrainTransform)
    assert one == hash_of(FrozenCLIP, EvalTransform) != two
    listing = files("core.clip.frozen:FrozenCLIP")
    assert "image_tower" in listing["core/clip/image_towers.py"]
