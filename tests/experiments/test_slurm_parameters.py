"""What the parameters of Slurm jobs say, before anything is read or submitted, and when jobs are
submitted.
"""

import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

import experiments.run.experiment
import methods.zero_shot
import refiners.null_refiner
from experiments.cli import executors
from experiments.cli.executors import Where, parameters_of
from experiments.study import share as share_module
from experiments.study.driver import run_study
from experiments.study.lock import StudyLock
from experiments.study.members import Member
from experiments.workers.jobs import NoWorkersError
from experiments.workers.local import InlineExecutor
from tests.helpers.fake_runs import executions, fake_plan
from tests.helpers.fault_programs import wait_for

pytest.importorskip("submitit")

from experiments.workers import slurm
from experiments.workers.slurm import DriverJob, SlurmJobs, checked

REGISTERED = (experiments.run.experiment, methods.zero_shot, refiners.null_refiner)
FAKE = "tests.helpers.fake_runs:fake_run"
RUNTIME = SimpleNamespace(cache_dir="cache", data_root=None, device="cpu")


@pytest.fixture(autouse=True)
def _on_a_login_node(monkeypatch):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(share_module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(share_module, "POLL_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["signal_delay_s=abc"], "signal_delay_s must be a whole number of at least 1, got 'abc'"),
        (["signal_delay_s=0"], "signal_delay_s must be a whole number of at least 1, got '0'"),
        (["signal_delay_s=300"], "must be below the time of a job, 300 seconds, got 300"),
        (["timeout_min=3", "signal_delay_s=200"], "must be below the time of a job, 180 seconds"),
        (["timeout_min=0"], "timeout_min must be a whole number of at least 1, got '0'"),
        (["timeout_min=1.5"], "timeout_min must be a whole number of at least 1, got '1.5'"),
        (["timeout_mins=9"], "is not a parameter of submitit; did you mean 'timeout_min'?"),
        (["bogus=3"], "--slurm bogus is not a parameter of submitit"),
        (["additional_parameters=x"], "go into variables such as SBATCH_RESERVATION"),
        (["time=0"], "time must be minutes, or a time such as 4:00:00"),
        (["time=soon"], "time must be minutes, or a time such as 4:00:00"),
        (["time=1-"], "time must be minutes, or a time such as 4:00:00"),
        (["time=9", "timeout_min=9"], "are the same: give one of them"),
        (["nodes=2"], "--nodes says how many jobs there are, got '2'"),
        (["tasks_per_node=4"], "one driver uses all GPUs and cores of its node, got '4'"),
        (["ntasks_per_node=4"], "one driver uses all GPUs and cores of its node, got '4'"),
        (["gpus_per_node=all"], "gpus_per_node must be a whole number of at least 0, got 'all'"),
        (["mem_gb=nan"], "mem_gb must be a number above 0, got 'nan'"),
        (["use_srun=maybe"], "use_srun must be true or false, got 'maybe'"),
    ],
)
@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_a_parameter_that_means_nothing_is_refused_by_its_name(words, message, cluster):
    with pytest.raises(ValueError, match="--slurm") as found:
        checked(parameters_of([*words, f"cluster={cluster}"]))
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_a_parameter_is_given_once():
    with pytest.raises(ValueError, match="--slurm time is given twice, 1 and 2"):
        parameters_of(["time=1", "time=2"])


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        *(("240", 240), ("90:30", 91), ("4:00:00", 240), ("1-12", 2160), ("1-12:30", 2190)),
        *(("0-0:0:1", 1), ("02:05:00", 125)),
    ],
)
def test_the_time_of_a_job_is_read_as_sbatch_reads_it(text, minutes):
    cluster, values = checked(parameters_of([f"time={text}"]))
    assert (cluster, values["timeout_min"]) == ("slurm", minutes)


def test_submitit_gets_every_parameter_as_it_takes_it(tmp_path, monkeypatch):
    """The script for sbatch says what was asked for; submitit computes with the minutes."""
    words = ["time=4:00:00", "partition=gpu", "setup=module load x", "exclusive=true"]
    words += ["mem_gb=1.5", "srun_args=--cpu-bind none", "name=5", "gres=gpu:a100:4"]
    jobs = SlurmJobs(["true"], 1, tmp_path, parameters_of(words))
    scripts = []
    executor = slurm.submitit.SlurmExecutor

    def submit(self, command):
        scripts.append(self._make_submission_file_text(command, "uid"))
        assert self.parameters["time"] == 240
        raise slurm.FailedSubmissionError("seen enough")

    monkeypatch.setattr(executor, "_submit_command", submit)
    with pytest.raises(ValueError, match="Slurm refused the jobs: seen enough"):
        jobs.submit()
    lines = scripts[0].splitlines()
    expected = ["time=240", "partition=gpu", "exclusive", "mem=1536MB", "job-name=5"]
    expected += ["gres=gpu:a100:4", "signal=USR2@180"]
    assert {f"#SBATCH --{line}" for line in expected} <= set(lines)
    assert "module load x" in lines and "--cpu-bind none" in scripts[0]
    assert not [line for line in lines if "gpus-per-node" in line]


def test_without_a_time_a_job_has_that_of_submitit_and_is_told_in_time():
    assert checked({})[1] == {"timeout_min": 5, "signal_delay_s": 150}
    assert checked({"time": 60})[1] == {"timeout_min": 60, "signal_delay_s": 180}
    assert checked({"time": 60, "cluster": "local"})[1]["signal_delay_s"] == 30


def where(**options):
    return Where(executor="slurm", workers=1, limits={}, slurm=("cluster=local",), **options)


class Submitted:
    """Jobs that are never begun, and end at once."""

    made = 0

    def __init__(self, *args, **options):
        self.jobs = []

    def submit(self):
        Submitted.made += 1
        self.jobs = ["7"]

    def num_workers(self):
        raise NoWorkersError("the jobs have ended")


@pytest.fixture
def submitted(monkeypatch):
    monkeypatch.setattr(Submitted, "made", 0)
    monkeypatch.setattr(slurm, "SlurmJobs", Submitted)
    monkeypatch.setattr(executors, "job_words", lambda context: ["grid"])
    return Submitted


def test_jobs_are_submitted_once_the_study_is_free_and_runs_are_left(tmp_path, submitted):
    plan, study = fake_plan(["ok a"], datasets=["alpha"], seeds=[1]), tmp_path / "study"
    with StudyLock(study), pytest.raises(ValueError, match="is in use"):
        where().run(plan, study, InlineExecutor(FAKE), runtime=RUNTIME)
    assert submitted.made == 0
    outcome = where().run(plan, study, InlineExecutor(FAKE), runtime=RUNTIME)
    assert (submitted.made, outcome.exit_code, outcome.paused) == (1, 3, "the jobs have ended")
    run_study(plan, study, InlineExecutor(FAKE), runtime=RUNTIME)
    outcome = where().run(plan, study, InlineExecutor(FAKE), runtime=RUNTIME)
    assert (submitted.made, outcome.exit_code, len(outcome.skipped)) == (1, 0, 1)


def test_other_drivers_have_another_plan_and_nothing_is_submitted(tmp_path, submitted):
    plan, study = fake_plan(["ok a"]), tmp_path / "study"
    run_study(fake_plan(["ok b"]), study, InlineExecutor(FAKE), runtime=RUNTIME)
    with Member(study), pytest.raises(ValueError, match="must have the same configuration"):
        where().run(plan, study, InlineExecutor(FAKE), runtime=RUNTIME)
    assert submitted.made == 0


def test_watching_ends_where_nobody_works(tmp_path, monkeypatch):
    """Neither submitit nor Slurm is asked for that, and another one that watches is no worker."""
    monkeypatch.setattr(slurm, "SlurmJobs", None)
    plan, study = fake_plan(["ok a"]), tmp_path / "study"
    with Member(study, idle=True):
        outcome = where(nodes=0).run(plan, study, InlineExecutor(FAKE), runtime=RUNTIME)
    assert (outcome.exit_code, len(outcome.left)) == (3, 4)
    assert "no driver works on this study: give --nodes" in outcome.paused
    assert not executions(study)


def test_watching_goes_on_while_another_driver_works(tmp_path):
    plan, study, outcomes = fake_plan(["patient a"]), tmp_path / "study", []

    def work():
        one = Where(share=True, workers=1, limits={})
        one.run(plan, study, InlineExecutor(FAKE), runtime=RUNTIME)

    def watch():
        found = where(nodes=0, share_seconds=2.0)
        outcomes.append(found.run(plan, study, InlineExecutor(FAKE), runtime=RUNTIME))

    worker = threading.Thread(target=work)
    worker.start()
    wait_for(lambda: executions(study))
    watcher = threading.Thread(target=watch)
    watcher.start()
    (study / "go").touch()
    worker.join()
    watcher.join()
    (outcome,) = outcomes
    assert (outcome.exit_code, len(outcome.skipped), outcome.paused) == (0, 4, "")


@pytest.mark.parametrize(("cluster", "command"), [("slurm", "scancel 7 8"), ("local", "kill 7 8")])
def test_the_command_that_ends_the_jobs_is_that_of_their_cluster(tmp_path, cluster, command):
    jobs = SlurmJobs(["true"], 1, tmp_path, {"cluster": cluster, "partition": "gpu"})
    jobs.jobs = [SimpleNamespace(job_id=number) for number in (7, 8)]
    assert jobs.ending() == command
    assert str(jobs).startswith("7, 8, of 5 minutes each")
    assert str(jobs).endswith("these have no effect: partition") == (cluster == "local")


def test_a_local_job_ends_with_its_driver_where_it_is_told_to(tmp_path, monkeypatch):
    """And on Slurm it does not: there it is told so before it is queued again."""
    begun = tmp_path / "begun"
    code = f"import signal, sys; signal.signal(15, lambda *_: sys.exit(3)); open({str(begun)!r}, "
    command = [sys.executable, "-c", code + "'w').close(); signal.pause()"]
    kept = signal.getsignal(signal.SIGTERM)
    job = DriverJob(command, os.getcwd(), 30.0, ends_on_term=True)
    assert job.checkpoint().function.ends_on_term

    def end():
        wait_for(begun.exists)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    try:
        assert job() == 3
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, kept)
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append("job"))
    try:
        waits = SimpleNamespace(wait=lambda: os.kill(os.getpid(), signal.SIGTERM) or 0)
        monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: waits)
        assert DriverJob(command, os.getcwd(), 30.0)() == 0
    finally:
        signal.signal(signal.SIGTERM, kept)
    assert heard == ["job"]
