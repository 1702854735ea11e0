"""Class lists that cannot be scored are found before anything is trained, in every command."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import main
from core.clip.backbone import shared_clip
from core.clip.frozen import TowerlessCLIP
from core.config import registered_classes
from core.seeding import Seeds
from core.types import ClassNames
from experiments.configs import config_path, read_config_file
from experiments.run.data_inputs import read_data_inputs
from experiments.run.method_presets import method_presets
from experiments.run.run import assemble
from experiments.run.runtime import Runtime
from experiments.run.scored_classes import check_scored_classes
from methods.coop import CoOp
from methods.ivlp import IVLP
from methods.zero_shot import ZeroShot

LONG = "zebra" + " q" * 100  # the last in the alphabet: a new class
METHODS = ("coop", "cocoop", "ivlp", "promptsrc", "sep", "promptkd", "zero_shot", "text_refiner")
SHORT = ("experiment.epochs=1", "experiment.shots=2", "experiment.batch_size=4")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a command in an empty folder where nothing may be trained."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("ant", "bee", "cow", LONG)):
        (tmp_path / "data" / "animals" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(9 * number + i).integers(0, 255, (32, 32, 3))
            path = tmp_path / "data" / "animals" / name / f"{i}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("something was trained")

    monkeypatch.setattr("experiments.run.run.fit_steps", refuse)

    def run(*words: object, sets: tuple[str, ...] = ()) -> tuple[int, str, list[str]]:
        chosen = [word for setting in sets for word in ("--set", setting)]
        given = ["main.py", *map(str, words), "--data-root", "data", *chosen]
        monkeypatch.setattr(sys, "argv", given)
        code = main.main()
        shown = capsys.readouterr()
        return code, shown.out, [line for line in shown.err.splitlines() if line]

    return run


@pytest.mark.parametrize("method", METHODS)
def test_a_new_class_name_that_does_not_fit_is_found_first(call, method):
    sets = (*SHORT, "experiment.dataset=folder/animals", "experiment.backbone=mosaic")
    code, _, errors = call("train", method, "--out", "run", sets=sets)
    assert code == 2 and "tokens does not fit a context of" in errors[-1]
    if method not in ("promptkd", "sep", "zero_shot"):
        assert "the classes 'new' of " in errors[-1] and "scored after training" in errors[-1]
    assert not Path("run/log.jsonl").exists() and not Path("run/record.json").exists()


GRID = """
include 'methods/coop.gin'
experiment.backbone = 'mosaic'
experiment.epochs = 1
grid.study = 'classes'
grid.datasets = ('mosaic/critters', 'mosaic/vehicles')
grid.seeds = (1, 2)
grid.baseline = 'CoOp'
grid.variants = {
    'CoOp': {},
    'own': {'CoOp.class_specific': True},
    'long': {'CoOp.ctx_init': '', 'CoOp.num_ctx': 70},
}
"""


@pytest.mark.parametrize("words", [("--dry-run",), ("--jobs", "0", "--no-track")])
def test_a_grid_names_every_cell_that_cannot_be_scored(call, words):
    Path("classes.gin").write_text(GRID)
    code, out, errors = call("grid", "classes.gin", *words)
    assert code == 2 and not out and len(errors) == 1
    assert errors[0].startswith(
        "error: 'own' on mosaic/critters: CoOp scores only classes that it was trained on ("
    )
    assert "use CoOp.class_specific = False" in errors[0]
    for cell in ("'long' on mosaic/critters", "'own' on mosaic/vehicles", "'long' on mosaic/vehi"):
        assert cell in errors[0]
    assert not Path("runs/classes").exists()


@pytest.mark.parametrize("words", [("--dry-run",), ("--jobs", "0", "--no-track")])
def test_a_search_names_the_choice_that_cannot_be_scored(call, words):
    Path("search.gin").write_text(
        """
include 'methods/coop.gin'
experiment.backbone = 'mosaic'
search.study = 'classes'
search.objectives = ('val',)
search.datasets = ('mosaic/critters',)
search.seeds = (1,)
search.final_seeds = (101,)
search.trials = 2
search.sampler = @Random
search.pruner = @NoPruning
search.space = {
    'CoOp.class_specific': (False, True),
    'SGD.lr': {'low': 0.001, 'high': 0.1, 'log': True},
}
"""
    )
    code, out, errors = call("search", "search.gin", *words)
    assert code == 2 and not out, errors
    assert "search.space, CoOp.class_specific = True, on mosaic/critters: " in errors[-1]
    assert "CoOp scores only classes that it was trained on (" in errors[-1]


def test_class_specific_contexts_score_what_they_were_trained_on(small_mosaic):
    sets = [
        *SHORT,
        "experiment.dataset=mosaic/vehicles",
        "experiment.backbone=mosaic",
        "CoOp.class_specific=True",
        "experiment.protocol=few_shot",
    ]
    config = read_config_file(config_path("coop"), sets)
    assemble(config, Runtime(cache_dir=small_mosaic))
    from experiments.run.run import fingerprints

    assert fingerprints(config, cache_dir=small_mosaic, data_root=None)


def test_a_clip_without_towers_assembles_the_same_prompts():
    clip = shared_clip("mosaic", None, "cpu", torch.float32)
    light = TowerlessCLIP(clip)
    names, seeds = ClassNames(names=("red cat", "dog")), Seeds(1)
    for made in (CoOp, IVLP):
        whole, planned = made(clip, names, seeds), made(light, names, seeds)
        assert whole.state_dict().keys() == planned.state_dict().keys()
        assert planned.output() == whole.output()
        assert planned.class_texts().shape == whole.class_texts().shape
    assert torch.equal(CoOp(light, names, seeds).ctx, CoOp(clip, names, seeds).ctx)
    texts = ZeroShot(light, names, seeds).class_texts()
    assert torch.allclose(texts.norm(dim=-1), torch.ones(2)) and texts.shape == (2, 128)


@pytest.mark.parametrize("name", [entry.name for entry in registered_classes("method")])
def test_class_lists_are_bound_in_the_precision_of_the_run(name, small_mosaic):
    """Class texts that pass through something learned have its type, and its device."""
    changed = {"dataset": "mosaic/vehicles", "backbone": "mosaic", "precision": "float64"}
    settings = [f"experiment.{key}={value}" for key, value in changed.items()]
    config = method_presets()[name].read_scorable(*settings)
    clip = shared_clip("mosaic", None, "cpu", torch.float64)
    inputs = read_data_inputs(config, Runtime(cache_dir=small_mosaic))
    check_scored_classes(config, inputs, clip)
