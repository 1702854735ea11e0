"""Drivers and workers that are killed, stopped, interrupted and started twice."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from core.store.names import TRAINING_NAME
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
SLOW = {"variants": ["slow a", "slow b"], "seeds": 4}


def counts(output):
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The records of the slow study when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert drive(folder, **SLOW)[0] == 0
    return texts(folder)


def worker_of(study_dir):
    """The number of the process that wrote the newest execution mark."""
    marks = sorted((study_dir / "executions").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    return int(marks[-1].name.split("-")[1])


def test_01_kill_of_the_driver_in_mid_grid(tmp_path, undisturbed):
    driver = start(tmp_path, **SLOW)
    wait_for(lambda: len(records(tmp_path)) >= 3)
    driver.kill()
    finish(driver)
    kept = texts(tmp_path)
    before = executions(tmp_path)
    code, output, errors = drive(tmp_path, **SLOW)
    assert code == 0, errors
    assert counts(output)["skipped"] == len(kept) and texts(tmp_path) == undisturbed
    after = executions(tmp_path)
    assert all(after[identity] == before[identity] for identity in kept)


def test_02_kill_of_the_driver_between_result_and_commit(tmp_path, undisturbed):
    code, _, _ = drive(tmp_path, die_before_commit=3, **SLOW)
    assert code == -signal.SIGKILL and len(records(tmp_path)) == 2
    code, output, errors = drive(tmp_path, **SLOW)
    assert code == 0, errors
    assert counts(output) == {"done": 6, "skipped": 2, "failed": 0, "left": 0, "paused": ""}
    assert texts(tmp_path) == undisturbed
    assert set(executions(tmp_path).values()) <= {1, 2}


def test_03_kill_of_a_worker(tmp_path):
    code, output, errors = drive(tmp_path, variants=["kill", "ok"], seeds=2, jobs=2)
    assert code == 0 and counts(output)["done"] == 4
    assert errors.count("attempt 1 failed") == 2 and "SIGKILL" in errors
    assert sorted(executions(tmp_path).values()) == [1, 1, 2, 2]


def test_04_a_cell_that_dies_three_times(tmp_path):
    code, output, errors = drive(tmp_path, variants=["die", "ok"], seeds=1)
    assert code == 1 and counts(output)["failed"] == 1
    assert "SIGKILL" in errors and "3 attempts; see output.log" in errors
    (failed,) = [r for r in map(json.loads, texts(tmp_path).values()) if r["status"] == "failed"]
    assert "3 attempts" in failed["message"]
    assert drive(tmp_path, variants=["die", "ok"], seeds=1)[0] == 1
    assert max(executions(tmp_path).values()) == 3  # quarantined
    drive(tmp_path, variants=["die", "ok"], seeds=1, retry_failed=True)
    assert max(executions(tmp_path).values()) == 6


@pytest.mark.parametrize("twice", [False, True])
def test_05_interrupt_once_and_twice(tmp_path, undisturbed, twice):
    driver = start(tmp_path, **SLOW)
    wait_for(lambda: len(records(tmp_path)) >= 2)
    driver.send_signal(signal.SIGINT)
    if twice:
        time.sleep(0.02)
        driver.send_signal(signal.SIGINT)
    code, output, errors = finish(driver)
    assert code == 3 and "Traceback" not in errors, errors
    assert counts(output)["left"] + counts(output)["done"] == 8
    assert drive(tmp_path, **SLOW)[0] == 0 and texts(tmp_path) == undisturbed


def test_06_termination(tmp_path, undisturbed):
    driver = start(tmp_path, **SLOW)
    wait_for(lambda: len(records(tmp_path)) >= 2)
    driver.terminate()
    code, _, errors = finish(driver)
    assert code == 3 and "Traceback" not in errors
    assert drive(tmp_path, **SLOW)[0] == 0 and texts(tmp_path) == undisturbed


def test_07_two_drivers_and_a_stale_lock(tmp_path):
    first = start(tmp_path, variants=["patient"], seeds=1)
    wait_for(lambda: (tmp_path / "executions").is_dir())
    code, _, errors = drive(tmp_path, variants=["ok"], seeds=1)
    assert code == 2
    assert f"process {first.pid} on {socket.gethostname()}: wait for it to finish" in errors
    assert "--steal-lock" not in errors  # it is alive, and nothing may override it
    first.kill()
    finish(first)
    (tmp_path / "go").touch()
    assert drive(tmp_path, variants=["patient"], seeds=1)[0] == 0  # a stale lock is no lock
    holder = {"host": "elsewhere", "pid": 1, "process_start": "1", "boot": "b"}
    (tmp_path / ".lock").write_text(json.dumps(holder))
    code, _, errors = drive(tmp_path, variants=["patient"], seeds=2)
    assert code == 2 and "process 1 on elsewhere" in errors and "--steal-lock" in errors
    code, output, _ = drive(tmp_path, variants=["patient"], seeds=2, steal_lock=True)
    assert code == 0 and counts(output)["done"] == 1


def test_17_a_stopped_worker_is_killed_and_its_cell_retried(tmp_path):
    code, output, errors = drive(tmp_path, variants=["stop", "ok"], seeds=1, silent_seconds=2.0)
    assert code == 0 and counts(output)["done"] == 2
    assert "stopped after 2 seconds without progress" in errors
    assert sorted(executions(tmp_path).values()) == [1, 2]


def test_17_a_stopped_worker_does_not_outlast_one_signal(tmp_path):
    driver = start(tmp_path, variants=["stall", "ok"], seeds=1)
    wait_for(lambda: any(tmp_path.glob("*/stopped")))
    driver.terminate()
    began = time.monotonic()
    code, output, errors = finish(driver, 60)
    assert code == 3 and time.monotonic() - began < 40, errors
    assert counts(output)["left"] == 2 and "Traceback" not in errors


def test_17_a_cell_has_a_time_limit(tmp_path):
    code, _, errors = drive(tmp_path, variants=["patient", "ok"], seeds=1, job_seconds=1.0)
    assert code == 1 and "the time limit of a job" in errors and len(records(tmp_path)) == 2


def test_18_a_clock_that_jumps(tmp_path):
    options = {"variants": ["slow a"], "seeds": 8, "silent_seconds": 60.0, "job_seconds": 60.0}
    code, output, errors = drive(tmp_path, clock_jumps=True, **options)
    assert code == 0 and counts(output)["done"] == 8, errors
    assert "stopped after" not in errors and not re.search(r"\d{3}:\d\d:\d\d", errors)


def test_36_a_worker_that_prints_much_and_closes_its_output(tmp_path):
    code, output, errors = drive(tmp_path, variants=["loud", "ok"], seeds=1)
    assert code == 0 and counts(output)["done"] == 2, errors
    assert "\x1b" not in errors and "\r" not in errors  # no terminal: plain lines
    assert sum(p.stat().st_size for p in tmp_path.glob("*/output.log")) > 10_000_000


def test_37_a_worker_killed_for_its_memory_is_told_apart(tmp_path):
    """Killed by the system, its end is named so, not as a crash with an exit code."""
    code, _, errors = drive(tmp_path, variants=["die"], seeds=1)
    assert code == 1 and "SIGKILL, possibly out of memory" in errors
    assert "exited with code" not in errors


def test_38_a_result_that_arrives_late_is_counted_once(tmp_path):
    """The first attempt is given up; the second one's result stands."""
    driver = start(tmp_path, variants=["patient"], seeds=1, silent_seconds=1.5)
    wait_for(lambda: len(list((tmp_path / "executions").glob("*"))) >= 2)
    (tmp_path / "go").touch()
    code, output, errors = finish(driver)
    assert code == 0 and counts(output)["done"] == 1, errors
    assert len(records(tmp_path)) == 1
    assert not [p for p in map(int, _pids(tmp_path)) if _alive(p)]


def _pids(study_dir):
    return {mark.name.split("-")[1] for mark in (study_dir / "executions").iterdir()}


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


LONG = ("experiment.epochs=120", "experiment.shots=8", "experiment.checkpoint_every=3")
SAME = ("weights.safetensors", "log.jsonl", "correct.json", "predictions.json")


def long_training(folder):
    """The words of a command that trains for many epochs."""
    sets = ("experiment.dataset=mosaic/vehicles", *LONG)
    return ["train", "coop", *(w for text in sets for w in ("--set", text)), "--out", str(folder)]


def test_39_kill_in_the_middle_of_a_training(tmp_path):
    """The same command goes on from the last checkpoint and ends bitwise as without a kill."""
    code, _, errors = program(*long_training(tmp_path / "whole"), cwd=tmp_path)
    assert code == 0 and "goes on after epoch" not in errors, errors
    command = [sys.executable, str(ROOT / "main.py"), *long_training(tmp_path / "killed")]
    killed = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    kept = tmp_path / "killed" / TRAINING_NAME
    wait_for(kept.is_file)
    killed.kill()
    killed.communicate()
    assert kept.is_file() and not (tmp_path / "killed" / "record.json").exists()
    code, _, errors = program(*long_training(tmp_path / "killed"), cwd=tmp_path)
    assert code == 0 and re.search(r"training goes on after epoch \d+ of 120", errors), errors
    assert not list((tmp_path / "killed").glob(f"*{TRAINING_NAME}*"))
    for name in SAME:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_39_a_grid_goes_on_inside_a_run(tmp_path):
    (tmp_path / "long.gin").write_text(
        "include 'coop.gin'\n"
        + "".join(f"{text.replace('=', ' = ')}\n" for text in LONG)
        + "grid.study = 'long'\ngrid.datasets = ('mosaic/vehicles',)\ngrid.seeds = (1,)\n"
        "grid.variants = {'CoOp': {}}\ngrid.baseline = 'CoOp'\n"
    )
    words = ("grid", "long.gin", "--jobs", "1", "--no-track")
    driver = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *words],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: list(tmp_path.glob(f"runs/long/*/{TRAINING_NAME}")))
    driver.kill()
    driver.communicate()
    code, _, errors = program(*words, cwd=tmp_path)
    assert code == 0, errors
    (output,) = tmp_path.glob("runs/long/*/output.log")
    assert "training goes on after epoch" in output.read_text()
    code, _, errors = program(*long_training(tmp_path / "whole"), cwd=tmp_path)
    assert code == 0, errors
    for name in SAME:
        assert (output.parent / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
