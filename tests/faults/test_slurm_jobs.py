"""Slurm jobs as drivers of a shared study, with processes of this machine in place of Slurm."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.store.names import SHARE_FOLDER, TRAINING_NAME
from tests.helpers.fault_programs import environment, finish, records, wait_for
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.executors
pytest.importorskip("submitit")

GRID = """include 'coop.gin'
experiment.epochs = 1500
experiment.shots = 8
experiment.checkpoint_every = 3
grid.study = 'long'
grid.datasets = ('mosaic/vehicles',)
grid.seeds = (1,)
grid.variants = {'CoOp': {}, 'fast': {'experiment.epochs': 1}}
grid.baseline = 'CoOp'
"""
LOCAL = ("--executor", "slurm", "--slurm", "cluster=local", "--slurm", "timeout_min=5")


def parents(pid):
    """A process, its parent, and so on."""
    while pid > 1:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_job_whose_time_ends_is_queued_again_and_goes_on_inside_a_run(tmp_path):
    (tmp_path / "long.gin").write_text(GRID)
    words = ("grid", "long.gin", "--jobs", "1", "--lockstep", "1", "--no-track", *LOCAL)
    watcher = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *words],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    study = tmp_path / "runs" / "long"
    try:
        wait_for(lambda: list(study.glob(f"{SHARE_FOLDER}/runs/*/{TRAINING_NAME}")), 200)
        (log,) = (study / "slurm").glob("*_log.out")
        driver = next(pid for pid in _drivers(study) if watcher.pid != pid)
        job = list(parents(driver))[1]
        os.kill(job, signal.SIGUSR2)  # as Slurm does when its time is nearly over
        wait_for(lambda: log.read_text().count("Starting with JobEnvironment") == 2, 100)
        code, output, errors = finish(watcher, 300)
    finally:
        watcher.kill()
    assert (code, "2 done before" in output) == (0, True), errors
    assert len(records(study)) == 2 and not (study / SHARE_FOLDER).exists()
    logs = [path.read_text() for path in study.glob("*/output.log")]
    assert sum("training goes on after epoch" in text for text in logs) == 1


def test_ctrl_c_leaves_the_jobs_alone_and_the_command_that_is_told_ends_them(tmp_path):
    (tmp_path / "long.gin").write_text(GRID)
    log = tmp_path / "errors"  # not a pipe, which the jobs would keep open
    words = ("grid", "long.gin", "--jobs", "1", "--lockstep", "1", "--no-track", *LOCAL)
    watcher = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *words],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=log.open("w"),
        start_new_session=True,
    )
    study = tmp_path / "runs" / "long"
    try:
        wait_for(lambda: list(study.glob(f"{SHARE_FOLDER}/runs/*/{TRAINING_NAME}")), 200)
        driver = next(pid for pid in _drivers(study) if watcher.pid != pid)
        os.killpg(watcher.pid, signal.SIGINT)  # as a terminal does, to all that is in front
        code, errors = watcher.wait(60), log.read_text()
        (line,) = [line for line in errors.splitlines() if "the jobs go on" in line]
        command = line.partition("to end them: ")[2].split()
        assert (code, command[0]) == (3, "kill"), errors
        assert driver in _drivers(study) and _lives(driver)
        subprocess.run(command, check=True)
        wait_for(lambda: not _lives(driver), 120)  # once its current run has ended
        assert len(records(study)) == 1
    finally:
        watcher.kill()


def _lives(pid):
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _drivers(study):
    """The drivers of a study, by process."""
    import json

    found = (study / SHARE_FOLDER / "drivers").glob("*.json")
    return [json.loads(path.read_text())["pid"] for path in found]
