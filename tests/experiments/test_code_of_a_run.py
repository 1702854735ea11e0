"""The code that a run records: what belongs to it in this project, for every class there is."""

import inspect
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import experiments.run.registered
from core.config import config_from_text, registered_classes
from core.store.code import read_code, write_code
from core.store.record import read_record, write_record
from experiments.run.code import (
    ENGINE,
    ENTRY_POINTS,
    HOME,
    OUTSIDE,
    called_by,
    code_of,
    places_of,
    plug_in_folder,
    source_tree,
)
from experiments.run.stale import CodeCheck
from tests.helpers.fake_runs import fake_record

TREE = source_tree()
REGISTERED = experiments.run.registered
KINDS = sorted({e.kind for e in registered_classes()} - {"experiment", "grid", "search"})
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
    found = files(ENGINE)
    expected = {
        "core/train/fit.py": {"fit", "train_step"},
        "core/train/evaluate.py": {"predict"},
        "core/clip/frozen.py": {"FrozenCLIP"},
        "core/data/transforms.py": {"EvalTransform", "TrainTransform"},
        "core/data/fewshot.py": {"few_shot"},
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
    names = {key.partition(":")[2] for key in code.classes}
    assert {"CoOp", "SGD", "ConstantThenCosine", "TextRefiner", "EmaCache", "SemanticLoss"} <= names
    assert "run" in names and not {"Adam", "NoCache", "Experiment", "ZeroShot"} & names
    assert code.files["methods/coop.py"]["CoOp"] and not code.folders
    assert code_of(config_from_text(COOP)) is code


def test_equal_runs_have_equal_code():
    """A method that does not train has no optimizer, whatever is bound."""
    bare = config_from_text(ZERO_SHOT.format(optimizer=None, schedule=None))
    bound = config_from_text(ZERO_SHOT.format(optimizer="@SGD", schedule="@ConstantThenCosine"))
    assert bare.identity("experiment") == bound.identity("experiment")
    assert code_of(bare) == code_of(bound)


def test_the_hashes_do_not_depend_on_the_order_of_sets():
    one, two = (called_by(source_tree(), [ENGINE, "methods.coop:CoOp"]) for _ in range(2))
    assert one.hash == two.hash and one.listing() == two.listing()


def test_the_folder_of_a_plug_in_follows_from_its_module(tmp_path, monkeypatch):
    inside = tmp_path / "paper" / "sub" / "method.py"
    inside.parent.mkdir(parents=True)
    inside.touch()
    monkeypatch.setitem(sys.modules, "paper.sub.method", type(sys)("paper.sub.method"))
    sys.modules["paper.sub.method"].__file__ = str(inside)
    assert plug_in_folder("paper.sub.method").path == tmp_path.resolve()
    assert plug_in_folder("methods.coop") is None and plug_in_folder("absent.module") is None
    assert plug_in_folder("absent.module", {"absent": str(tmp_path)}).path == tmp_path
    installed = tmp_path / "site-packages" / "paper2" / "__init__.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setitem(sys.modules, "paper2", type(sys)("paper2"))
    sys.modules["paper2"].__file__ = str(installed)
    assert plug_in_folder("paper2").packages == {"paper2"}


def test_a_stored_record_of_this_code_is_not_stale(tmp_path):
    code = code_of(config_from_text(COOP))
    record = fake_record({"identity": "0" * 12, "variant": "v", "factors": {}})
    write_record(tmp_path, replace(record, code=code.classes))
    write_code(tmp_path, code)
    assert read_code(tmp_path) == code
    assert CodeCheck().changes(read_record(tmp_path), tmp_path) == ""
