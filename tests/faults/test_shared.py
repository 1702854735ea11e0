"""Several driver processes on one study folder; some of them are killed and suspended."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from core.store.names import SHARE_FOLDER, TRAINING_NAME
from tests.helpers.fake_runs import executions
from tests.helpers.fault_programs import (
    drive,
    environment,
    finish,
    program,
    records,
    start,
    texts,
    wait_for,
)
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.faults
SLOW = {"variants": ["slow a", "slow b", "slow c"], "seeds": 8}


def counts(output):
    return json.loads(output.splitlines()[-1])


def claims(folder, driver):
    """The claims of a driver process."""
    drivers = folder / SHARE_FOLDER / "drivers"
    texts_of = {path.stem: path.read_text() for path in drivers.glob("*.json")}
    own = [name for name, text in texts_of.items() if f'"pid": {driver.pid},' in text]
    files = (folder / SHARE_FOLDER / "claims").glob("*")
    return [path for path in files if own and path.read_text() == own[0]]


def test_drivers_that_are_killed_and_suspended_lose_nothing(tmp_path):
    code, _, errors = drive(tmp_path / "lone", **SLOW)
    assert code == 0, errors
    study = tmp_path / "shared"
    study.mkdir()
    drivers = [start(study, share=2.0, **SLOW) for _ in range(3)]
    killed, suspended, kept = drivers
    wait_for(lambda: all(len(claims(study, driver)) >= 2 for driver in drivers))
    killed.kill()
    suspended.send_signal(signal.SIGSTOP)
    taken = [path.name for path in claims(study, suspended)]
    code, output, errors = finish(kept)
    assert code == 0, errors
    assert counts(output)["done"] + counts(output)["skipped"] == 24
    assert texts(study) == texts(tmp_path / "lone")
    assert f"process {killed.pid} on" in errors  # whose runs it took over
    assert (study / SHARE_FOLDER).exists() or f"process {suspended.pid} on" in errors
    suspended.send_signal(signal.SIGCONT)
    code, output, errors = finish(suspended)
    assert code == 0, errors
    assert counts(output)["left"] == 0
    assert taken and texts(study) == texts(tmp_path / "lone")
    assert sum(executions(study).values()) <= 24 + 2 * 2  # those that were lost were begun twice
    assert not (study / SHARE_FOLDER).exists()
    finish(killed)


def test_an_interrupted_driver_leaves_its_runs_to_the_others_at_once(tmp_path):
    drivers = [start(tmp_path, share=600.0, **SLOW) for _ in range(2)]
    wait_for(lambda: all(len(claims(tmp_path, driver)) >= 2 for driver in drivers))
    drivers[0].send_signal(signal.SIGTERM)
    code, output, errors = finish(drivers[0])
    assert (code, counts(output)["left"] > 0) == (3, True), errors
    code, output, errors = finish(drivers[1])
    assert code == 0, errors
    assert counts(output)["left"] == 0
    assert len(records(tmp_path)) == 24 and set(executions(tmp_path).values()) == {1}


def test_drivers_that_all_try_failed_runs_again_end(tmp_path):
    options = {"variants": ["slow a", "fail b"], "seeds": 4}
    drive(tmp_path, **options)
    before, failed = texts(tmp_path), 3 * 4
    assert sum(executions(tmp_path).values()) == 4 + failed
    drivers = [start(tmp_path, share=2.0, retry_failed=True, **options) for _ in range(2)]
    for driver in drivers:
        code, output, errors = finish(driver, 60)
        assert (code, counts(output)["failed"]) == (1, 4), errors
    assert texts(tmp_path) == before
    assert sum(executions(tmp_path).values()) in (4 + 2 * failed, 4 + 3 * failed)  # one came later


@pytest.mark.parametrize("what", [SHARE_FOLDER, ""], ids=["shared", "all"])
def test_a_folder_is_removed_under_two_drivers(tmp_path, what):
    study = tmp_path / "study"
    study.mkdir()
    drivers = [start(study, share=2.0, logs=True, **SLOW) for _ in range(2)]
    wait_for(lambda: all(len(claims(study, driver)) >= 2 for driver in drivers))
    os.rename(study / what, tmp_path / "removed")
    for driver in drivers:
        code, output, errors = finish(driver, 60)
        assert (code, "Traceback" in errors) == (0 if what else 3, False), errors
        assert what or f"the folder {study} has vanished" in counts(output)["paused"]
    assert len(records(study)) == (24 if what else 0)
    assert not (study / SHARE_FOLDER).exists() and (study / "study.json").exists() == bool(what)


LONG = """include 'coop.gin'
experiment.epochs = 400
experiment.shots = 8
experiment.checkpoint_every = 3
grid.study = 'long'
grid.datasets = ('mosaic/vehicles',)
grid.seeds = (1, 2)
grid.variants = {'CoOp': {}, 'fast': {'experiment.epochs': 2, 'experiment.checkpoint_every': 0}}
grid.baseline = 'CoOp'
"""
SAME = ("weights.safetensors", "log.jsonl", "correct.json", "predictions.json")


def test_grid_commands_share_a_study(tmp_path):
    """One is killed in the middle of a training, which goes on elsewhere; all is as of one alone,
    also where that one finishes what the others have left.
    """
    (tmp_path / "long.gin").write_text(LONG)
    lone = ("grid", "long.gin", "--jobs", "1", "--lockstep", "1", "--no-track")
    shared = (*lone, "--share")
    drivers = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *shared],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    study = tmp_path / "runs" / "long"
    wait_for(lambda: len(list(study.glob(f"{SHARE_FOLDER}/runs/*/{TRAINING_NAME}"))) == 2, 150)
    drivers[0].kill()
    finish(drivers[0])
    refused = program(*lone, cwd=tmp_path)
    assert refused[0] == 2 and f"process {drivers[1].pid}" in refused[2], refused
    os.kill(drivers[1].pid, signal.SIGTERM)
    os.kill(drivers[1].pid, signal.SIGTERM)  # at once
    code, _, errors = finish(drivers[1])
    assert code == 3, errors
    half = shutil.copytree(tmp_path, tmp_path / "half", symlinks=True)
    code, output, errors = program(*shared, cwd=tmp_path)
    assert code == 0 and "4 runs" in output + errors, errors
    code, _, errors = program(*lone, cwd=half)
    assert code == 0, errors
    code, _, errors = program(*lone, "--set", "grid.study='whole'", cwd=tmp_path)
    assert code == 0, errors
    for record in records(tmp_path / "runs" / "whole"):
        for there in (study, half / "runs" / "long"):
            found = there / record.parent.name
            same = [(found / n).read_bytes() == (record.parent / n).read_bytes() for n in SAME]
            assert all(same), found
    for there in (study, half / "runs" / "long"):
        logs = "".join(path.read_text() for path in there.glob("*/output.log"))
        assert logs.count("training goes on after epoch") >= 1
        assert not (there / SHARE_FOLDER).exists()
