"""Where a grid runs: what the options of ``grid`` say together, before anything runs."""

import importlib
import importlib.util
import re
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

import main as command_line
from experiments.cli import executors
from experiments.cli.app import app
from experiments.cli.executors import parameters_of

GRID = """include 'mosaic.gin'
grid.study = 'tiny'
grid.datasets = ('mosaic/vehicles',)
grid.seeds = (1,)
grid.variants = {'a': {}}
grid.baseline = 'a'
"""
HAS_SLURM = importlib.util.find_spec("submitit") is not None
HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture
def grid(tmp_path, monkeypatch):
    (tmp_path / "tiny.gin").write_text(GRID)
    monkeypatch.chdir(tmp_path)
    return "tiny.gin"


def refusal(grid, *words):
    with pytest.raises(ValueError) as found:
        app(["grid", grid, "--no-track", *words], standalone_mode=False)
    assert not Path("runs/tiny").exists()
    return str(found.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--executor", "rays"], "one of local, ray, slurm, got 'rays'; did you mean 'ray'?"),
        (["--address", "auto"], "--address means something with --executor ray alone"),
        (["--node-cache", "x"], "--node-cache means something with --executor ray alone"),
        (["--nodes", "2"], "--nodes means something with --executor slurm alone"),
        (["--slurm", "a=b"], "--slurm means something with --executor slurm alone"),
        (["--share", "--share-seconds", "0.5"], "--share-seconds must be at least 1, got 0.5"),
        (["--share-seconds", "5"], "--share-seconds means something among drivers that share"),
        (["--share-seconds", "60"], "give --share as well, or leave it out"),
        (["--executor", "slurm", "--jobs-per-gpu", "2"], "the device is cpu: use --jobs"),
        (["--executor", "ray", "--jobs-per-gpu", "3"], "the device is cpu: use --jobs"),
        pytest.param(
            *(["--executor", "ray", "--address", "foo"], "must be auto or HOST:PORT"),
            marks=pytest.mark.skipif(not HAS_RAY, reason="needs ray"),
        ),
        (["--executor", "ray", "--device", "cuda:1"], "--device must be cpu or cuda"),
        (["--executor", "ray", "--jobs", "0"], "--jobs must not be 0"),
        (["--executor", "slurm", "--device", "tpu"], "--device must be cpu or cuda"),
    ],
)
def test_options_that_mean_nothing_are_refused(grid, words, message):
    assert message in refusal(grid, *words)


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_package_that_is_missing_is_named_with_the_way_out(grid, monkeypatch, name, package):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *rest: None if n == package else real(n, *rest)
    )
    monkeypatch.delitem(sys.modules, f"experiments.workers.{name}", raising=False)
    found = refusal(grid, "--executor", name)
    assert f"needs the package {package}" in found and f".[{name}]" in found


@pytest.mark.skipif(not HAS_SLURM, reason="needs submitit")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is no 'sbatch' here"),
        (["--slurm", "nonsense"], "NAME=VALUE, such as partition=gpu, got 'nonsense'"),
        (["--slurm", "cluster=pbs"], "must be slurm or local, got 'pbs'"),
    ],
)
def test_slurm_is_looked_for_before_any_work(grid, monkeypatch, words, message):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert message in refusal(grid, "--executor", "slurm", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--executor", "slurm"], "one of local, ray, got 'slurm'; 'grid' has that one"),
        (["--executor", "rayy"], "one of local, ray, got 'rayy'; did you mean 'ray'?"),
        (["--address", "auto"], "--address means something with --executor ray alone"),
        (["--node-cache", "x"], "--node-cache means something with --executor ray alone"),
        (["--jobs-per-gpu", "2"], "the device is cpu: use --jobs"),
        (["--device", "cuda:0,cuda:1", "--jobs-per-gpu", "2"], "device cuda:0 is not available"),
    ],
)
def test_a_search_says_where_it_runs_as_a_grid_does(words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        app(["search", "search_tip_adapter", *words], standalone_mode=False)


def test_a_search_gives_the_cluster_what_was_asked_for(tmp_path, monkeypatch):
    """The shorter one of both time limits among it."""
    monkeypatch.chdir(tmp_path)
    asked = {}

    def executor(**options):
        asked.update(options)
        raise ValueError("seen enough")

    ray = SimpleNamespace(
        RayExecutor=executor,
        check_address=lambda address: None,
        demand_of=lambda *of: of,
        connected=lambda address, demand: nullcontext(),
    )
    monkeypatch.setitem(sys.modules, "experiments.workers.ray", ray)
    words = ["--executor", "ray", "--address", "auto", "--device", "cuda", "--jobs-per-gpu", "2"]
    words += ["--node-cache", "node", "--silent-seconds", "9", "--job-seconds", "50"]
    words += ["--set", "search.run_seconds=40.0", "--lockstep", "3"]
    with pytest.raises(ValueError, match="seen enough"):
        app(["search", "search_tip_adapter", *words], standalone_mode=False)
    assert asked == {
        "address": "auto",
        "device": "cuda",
        "jobs": -1,
        "jobs_per_gpu": 2,
        "lockstep": 3,
        "cache_dir": tmp_path / "node",
        "job_seconds": 40.0,
        "silent_seconds": 9.0,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "x", "--share"], "one of 'grid'; a search has one driver, which '--executor"),
        (["rerun", "x", "y", "--share"], "one of 'grid'; 'rerun' makes one run again"),
        (["rerun", "x", "y", "--executor", "ray"], "one of 'grid', 'search'; 'rerun' makes one"),
        (["data", "check", "x", "--nodes", "2"], "'check' has no option --nodes, it is one of"),
        (["grid", "x", "--nonsense"], "No such option: --nonsense"),
    ],
)
def test_an_option_of_another_command_is_said_to_be_one(monkeypatch, capsys, words, message):
    monkeypatch.setattr(sys, "argv", ["main.py", *words])
    assert command_line.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and line.endswith("; try --help")


def test_parameters_are_whole_numbers_or_texts():
    found = parameters_of(["partition=gpu", "time=240", "gres=gpu:a100:2", "mem=64GB"])
    assert found == {"partition": "gpu", "time": 240, "gres": "gpu:a100:2", "mem": "64GB"}
    for word in ("time", "=5", "time=", "a b=1", "--x=1"):
        with pytest.raises(ValueError, match="must be NAME=VALUE"):
            parameters_of([word])


@pytest.mark.skipif(not HAS_SLURM, reason="needs submitit")
def test_a_slurm_job_runs_the_same_command_as_one_of_the_drivers(grid, monkeypatch):
    """With every option that was given, and none that is of this process alone."""
    given = {}

    class Jobs:
        jobs = ()

        def __init__(self, command, count, folder, parameters, *, once):
            given.update(command=command, count=count, parameters=parameters, once=once)
            raise ValueError("seen enough")

    monkeypatch.setattr(importlib.import_module("experiments.workers.slurm"), "SlurmJobs", Jobs)
    monkeypatch.setattr(executors.Where, "_require", lambda self: None)
    words = ["--set", "experiment.epochs=1", "--set", "experiment.shots=2", "--device", "cuda"]
    words += ["--executor", "slurm", "--nodes", "3", "--slurm", "partition=gpu", "--jobs", "-1"]
    with pytest.raises(ValueError, match="seen enough"):
        app(["grid", grid, "--no-track", "--retry-failed", *words], standalone_mode=False)
    assert given["command"][2:] == [
        *("grid", "tiny.gin", "--set=experiment.epochs=1", "--set=experiment.shots=2"),
        *("--jobs=-1", "--retry-failed", "--no-track", "--device=cuda", "--share"),
    ]
    assert given["parameters"] == {"gpus_per_node": 1, "partition": "gpu"}
    assert (given["count"], given["once"]) == (3, ("--retry-failed", "--steal-lock"))
