"""What a command imports before it has anything to do with it: asked of ``sys.modules``, not of a
clock.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.store.record import Evaluation, RunRecord, write_record
from tests.helpers.paths import ROOT

HEAVY = {"torch", "torchvision", "open_clip", "timm", "mlflow", "optuna", "sklearn", "matplotlib"}
STATISTICS = {"scipy", "pandas", "statsmodels"}
# What open_clip and torch's optimizers load on the way, and a run on the embedded model never uses.
UNUSED = {"torch._dynamo", "torch._inductor", "sympy", "timm", "transformers", "wandb"}

CODE = """
import runpy, sys
sys.argv = ["main.py", *sys.argv[1:]]
try:
    runpy.run_path("main.py", run_name="__main__")
except SystemExit as end:
    print("loaded:", *sorted(sys.modules))
    sys.exit(end.code)
"""


def loaded(*words) -> set[str]:
    """The modules that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("loaded: ").split())


@pytest.fixture
def study(tmp_path) -> Path:
    """A finished study of one run."""
    cell = {"variant": "CoOp", "dataset": "a", "seed": 1, "identity": "0" * 12, "note": ""}
    manifest = {
        "schema_version": 1, "study": "s", "baseline": "CoOp", "references": [],
        "datasets": ["a"], "seeds": [1], "factors": {},
        "variants": [{"name": "CoOp", "factors": {}}], "cells": [cell],
    }  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps(manifest))
    scored = Evaluation(
        target="all", dataset="a", classes="all", class_names=("x",), correct=(1,), total=(2,)
    )
    record = RunRecord(
        identity="0" * 12, variant="CoOp", factors={}, dataset="a", protocol="few_shot",
        regime="inductive", selection="last", seed=1, shots=1, status="finished",
        evaluations=(scored,),
    )  # fmt: skip
    (tmp_path / ("0" * 12)).mkdir()
    write_record(tmp_path / ("0" * 12), record)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "--help", "train --help", "grid --help", "search --help", "report --help",
        "list configs", "list datasets", "list protocols", "data list",
    ],
)  # fmt: skip
def test_help_and_lists_load_nothing_heavy(words):
    assert not loaded(*words.split()) & (HEAVY | STATISTICS)


def test_a_status_loads_nothing_heavy(study):
    assert not loaded("status", study) & (HEAVY | STATISTICS)


@pytest.mark.parametrize("words", ["published", "power --datasets 4 --seeds 3"])
def test_statistics_load_no_model_and_no_tracking(words):
    assert not loaded(*words.split()) & HEAVY


def test_a_difference_of_two_runs_loads_no_model_and_no_tracking(study):
    (study / ("0" * 12) / "config.gin").write_text("experiment.method = @CoOp\n")
    found = loaded("diff", study / ("0" * 12), study / ("0" * 12))
    assert not found & (HEAVY - {"matplotlib"})


@pytest.mark.slow
def test_a_report_without_figures_loads_no_model_and_draws_nothing(study, tmp_path):
    words = ("report", study, "--out", tmp_path / "report", "--no-figures")
    assert not loaded(*words) & {"torch", "torchvision", "open_clip", "mlflow", "optuna"}


@pytest.mark.slow
def test_the_plan_of_a_search_loads_the_sampler_and_nothing_beside_it(tmp_path):
    found = loaded("search", "search_text_refiner", "--dry-run", "--runs", tmp_path)
    assert not found & (UNUSED | {"mlflow", "matplotlib", "statsmodels"})


def test_the_doctor_loads_no_statistics_and_no_figures():
    assert not loaded("doctor") & ({"torch._inductor", "matplotlib", "statsmodels"})


def test_the_list_of_methods_needs_torch_and_no_backbone():
    assert loaded("list", "methods") & HEAVY == {"torch"}


def test_a_plan_loads_the_model_and_nothing_beside_it(tmp_path):
    found = loaded("grid", "demo", "--dry-run", "--runs", tmp_path)
    assert not found & (UNUSED | STATISTICS | {"mlflow", "optuna", "sklearn", "matplotlib"})
    assert {"torch", "open_clip"} <= found


def test_a_run_trains_without_the_compiler(tmp_path):
    words = ("train", "mosaic", "--set", "experiment.epochs=1", "--track", "none")
    found = loaded(*words, "--runs", tmp_path)
    assert not found & (UNUSED | STATISTICS | {"mlflow", "optuna", "sklearn", "matplotlib"})
    assert {"torch", "open_clip"} <= found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "needed"),
    [("inspect", STATISTICS | {"matplotlib"}), ("evaluate", frozenset())],  # the page has figures
)
def test_a_look_at_a_run_loads_what_it_needs(tmp_path, command, needed):
    words = ("train", "mosaic", "--set", "experiment.epochs=1", "--track", "none")
    loaded(*words, "--out", tmp_path / "run", "--runs", tmp_path)
    found = loaded(command, tmp_path / "run", "--runs", tmp_path)
    heavy = UNUSED | STATISTICS | {"mlflow", "optuna", "sklearn", "matplotlib"}
    assert found & heavy == needed
