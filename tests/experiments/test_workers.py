"""Executors: every job ends once, whatever happens to the processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

import experiments.run.run  # noqa: F401  (before a test replaces what it imports)
from experiments.workers import worker
from experiments.workers.jobs import Job, JobQueue
from experiments.workers.local import InlineExecutor, LocalExecutor, check_limits, make_executor
from tests.helpers.executors import drain, ended, local_executors
from tests.helpers.fault_programs import wait_for

ACT = "tests.helpers.fake_runs:act"


@pytest.fixture
def local(tmp_path):
    """A factory of local executors that are closed after the test."""
    with local_executors(tmp_path / "logs", ACT, jobs=1) as make:
        yield make


def job(key, **payload):
    options = {
        name: payload.pop(name) for name in ("max_attempts", "affinity", "log") if name in payload
    }
    return Job(key=key, payload=payload, **options)


def forked(executor):
    """The process numbers of all workers, once each of them has one."""
    workers = [worker.process for worker in executor.workers]
    wait_for(lambda: all(worker.poll() is None and worker.pid for worker in workers))
    return {worker.pid for worker in workers}


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def test_jobs_are_carried_out_and_workers_are_reused(local):
    executor = local(2)
    for number in range(6):
        executor.submit(job(f"job {number}", do="nothing", value=number))
    results = ended(drain(executor, 6))
    assert [results[f"job {n}"].result["value"] for n in range(6)] == list(range(6))
    assert len({event.result["pid"] for event in results.values()}) <= 2
    assert executor.poll(0.0) == []


def test_a_worker_is_lean_and_its_environment_is_set(local, tmp_path):
    look, threads = "tests.helpers.fake_runs:describe_process", 3
    executor = local(3, entry=look, threads=threads, gpus=["5", "6"])  # a worker starts for its job
    executor.submit(job("look", log=tmp_path / "run" / "output.log"))
    result = ended(drain(executor, 1))["look"].result
    assert result["sharing"] == 2  # three workers of two GPUs
    assert not {"mlflow", "torch", "rich"} & set(result["modules"])
    assert (result["threads"], result["gpu"]) == ("3", "5")
    assert (result["waiting"], result["measured_threads"]) == (
        os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "",
    )
    assert "printed by the job" in (tmp_path / "run" / "output.log").read_text()


def test_workers_that_are_started_early_take_the_first_jobs(local, tmp_path):
    executor = local(2)
    executor.start_early()
    early = forked(executor)
    assert len(early) == 2 and not (tmp_path / "logs").exists()
    executor.start_early()  # again: changes nothing
    assert forked(executor) == early
    for number in range(4):
        executor.submit(job(f"job {number}", do="nothing", value=number))
    assert {event.result["pid"] for event in ended(drain(executor, 4)).values()} <= early


def test_a_worker_that_dies_before_its_first_job_is_replaced(local, tmp_path):
    executor = local(1)
    executor.start_early()
    first = executor.workers[0].process
    first.kill()
    first.wait(60)
    executor.submit(job("look", do="nothing", value=1))
    result = ended(drain(executor, 1))["look"].result
    assert result["pid"] != first.pid and executor.failed_starts == 0
    assert len(list((tmp_path / "logs").iterdir())) == 1


def test_workers_that_never_had_a_job_are_killed_and_not_waited_for(local):
    executor = local(2)
    executor.start_early()
    processes = [worker.process for worker in executor.workers]
    executor.close()
    assert {process.returncode for process in processes} == {-signal.SIGKILL}
    inline = InlineExecutor(ACT)
    inline.start_early()
    assert inline.poll(0.0) == []


def test_a_worker_of_studies_imports_what_runs_need_before_the_first_one(monkeypatch):
    loaded = []
    monkeypatch.setattr("core.clip.open_clip_library.load_open_clip", lambda: loaded.append("yes"))
    serve = "experiments.workers.worker.serve"
    monkeypatch.setattr(serve, lambda *_: loaded.append("serves"))
    for name in ("_vanish_with_driver", "ignore_hangup", "Connection"):
        monkeypatch.setattr(f"experiments.workers.worker.{name}", lambda *_: None)
    worker.main(0, worker.ENTRY)
    assert loaded == ["yes", "serves"]
    worker.main(0, ACT)
    assert loaded == ["yes", "serves", "serves"]

    def broken():
        raise ImportError("no such library")

    monkeypatch.setattr("core.clip.open_clip_library.load_open_clip", broken)
    worker.main(0, worker.ENTRY)  # the job that needs it tells
    assert loaded == ["yes", "serves", "serves", "serves"]


@pytest.mark.parametrize(
    ("variables", "openmp", "mkl"),
    [
        ({}, "2", "2"),
        ({"OMP_NUM_THREADS": "1"}, "1", "1"),
        ({"OMP_NUM_THREADS": " 7 "}, "7", "7"),
        ({"OMP_NUM_THREADS": "6,2"}, "6,2", "6"),
        ({"MKL_NUM_THREADS": "5"}, "2", "5"),
        ({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "4"}, "3", "4"),
        ({"OMP_NUM_THREADS": ""}, "2", "2"),
    ],
)
def test_the_threads_that_the_user_has_set_count(local, monkeypatch, variables, openmp, mkl):
    monkeypatch.setattr("experiments.workers.local.available_cores", lambda: 4)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    executor = local(2, entry="tests.helpers.fake_runs:describe_process")
    executor.submit(job("look"))
    result = ended(drain(executor, 1))["look"].result
    assert (result["threads"], result["mkl_threads"]) == (openmp, mkl)
    given = any(text.strip() for text in variables.values())
    assert result["measured_threads"] == ("" if given else "1")


@pytest.mark.parametrize("text", ["0", "-1", "many", "2.5", "4,0", ",", "9" * 12, "²"])
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_senseless_numbers_of_threads_are_refused_early(tmp_path, monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    for refuse in (
        lambda: check_limits(2, None, None),
        lambda: LocalExecutor(1, log_dir=tmp_path),
    ):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of threads"):
            refuse()
    check_limits(0, None, None)  # there is no worker whose threads would be set
    LocalExecutor(1, log_dir=tmp_path, threads=1).close()


def test_a_killed_worker_costs_one_try_and_nothing_else(local, tmp_path):
    executor = local(2)
    executor.submit(job("victim", do="sleep", seconds=1.0, mark=str(tmp_path / "victim")))
    for number in range(4):
        executor.submit(job(f"other {number}", do="sleep", seconds=0.1))
    events = []
    while not any((tmp_path / "victim").glob("*")):
        events += executor.poll(0.05)
    (mark,) = (tmp_path / "victim").glob("*")
    os.kill(int(mark.name.partition("-")[0]), signal.SIGKILL)
    events = drain(executor, 5, before=events)
    retries = [event for event in events if event.kind == "retry"]
    assert [event.key for event in retries] == ["victim"]
    assert "SIGKILL" in retries[0].message
    results = ended(events)
    assert len(results) == 5 and all(event.kind == "done" for event in results.values())
    assert {event.attempt for key, event in results.items() if key != "victim"} == {1}
    assert results["victim"].attempt == 2


def test_a_worker_killed_while_idle_costs_no_try(local):
    executor = local(1)
    executor.submit(job("first", do="nothing"))
    pid = ended(drain(executor, 1))["first"].result["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid))
    executor.submit(job("second", do="nothing"))
    event = ended(drain(executor, 1))["second"]
    assert (event.kind, event.attempt) == ("done", 1)


@pytest.mark.parametrize(
    ("do", "tries", "words"),
    [
        ("raise", 3, "RuntimeError: no luck"),
        ("exit", 3, "exited with code 7"),
        ("refuse", 1, "ValueError: not like this"),
        ("return garbage", 3, "TypeError"),
    ],
)
def test_failures_are_tried_again_but_the_users_errors_are_not(local, do, tries, words):
    executor = local(1)
    executor.submit(job("bad", do=do))
    executor.submit(job("good", do="nothing"))
    results = ended(drain(executor, 2))
    assert (results["bad"].kind, results["bad"].attempt) == ("failed", tries)
    assert words in results["bad"].message
    assert results["good"].kind == "done"


def test_inline_and_local_agree_on_outcomes(local):
    outcomes = []
    for executor in (local(1), InlineExecutor(ACT)):
        for do in ("nothing", "raise", "refuse"):
            executor.submit(job(do, do=do))
        outcomes.append({k: (e.kind, e.attempt) for k, e in ended(drain(executor, 3)).items()})
    assert outcomes[0] == outcomes[1]


def test_progress_arrives_while_the_job_runs(local):
    executor = local(1)
    executor.submit(job("long", do="report"))
    events = drain(executor, 1)
    epochs = [event.result["epoch"] for event in events if event.kind == "progress"]
    assert len(epochs) >= 2 and epochs == sorted(epochs)


@pytest.mark.parametrize("limit", ["job_seconds", "silent_seconds"])
def test_a_job_that_hangs_is_stopped(local, limit):
    executor = local(1, **{limit: 2.0})
    executor.submit(job("hang", do="spin", max_attempts=1))
    executor.submit(job("good", do="nothing", max_attempts=9))
    results = ended(drain(executor, 2))
    assert results["hang"].kind == "failed" and "stopped after 2 seconds" in results["hang"].message
    assert results["good"].kind == "done"


def test_queued_and_running_jobs_can_be_cancelled(local, tmp_path):
    executor = local(1)
    executor.submit(job("running", do="spin", mark=str(tmp_path / "mark")))
    executor.submit(job("queued", do="nothing"))
    while not any((tmp_path / "mark").glob("*")):
        executor.poll(0.05)
    assert not executor.cancel("running")
    assert executor.cancel("queued") and not executor.cancel("queued")
    assert executor.cancel("running", running=True)
    assert executor.poll(0.1) == []
    executor.submit(job("running", do="nothing"))
    assert ended(drain(executor, 1))["running"].kind == "done"


def test_close_ends_busy_workers_at_once(local, tmp_path):
    executor = local(2)
    executor.submit(job("busy", do="spin", mark=str(tmp_path / "mark")))
    while not any((tmp_path / "mark").glob("*")):
        executor.poll(0.05)
    (mark,) = (tmp_path / "mark").glob("*")
    began = time.monotonic()
    executor.close()
    assert time.monotonic() - began < 4
    assert not is_alive(int(mark.name.partition("-")[0]))


DRIVER = """
import sys
from pathlib import Path
from experiments.workers.local import LocalExecutor
from experiments.workers.jobs import Job
executor = LocalExecutor(2, entry="tests.helpers.fake_runs:act", log_dir=Path(sys.argv[1]) / "logs")
for key in ("sleeps", "spins"):
    do = {"sleeps": "sleep", "spins": "spin"}[key]
    payload = {"do": do, "seconds": 600, "mark": str(Path(sys.argv[1]) / key)}
    executor.submit(Job(key=key, payload=payload))
while True:
    executor.poll(1.0)
"""


def test_orphaned_workers_vanish(tmp_path):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
    )
    marks = [tmp_path / "sleeps", tmp_path / "spins"]
    wait_for(lambda: all(any(mark.glob("*")) for mark in marks))
    pids = [int(next(mark.glob("*")).name.partition("-")[0]) for mark in marks]
    pids += {parent_of(pid) for pid in pids} - {driver.pid}
    assert all(map(is_alive, pids))
    driver.kill()
    driver.wait()
    wait_for(lambda: not any(map(is_alive, pids)), 10)


def test_processes_that_cannot_start_are_an_error(local, tmp_path, monkeypatch):
    (tmp_path / "experiments.py").write_text("raise ImportError('experiments is broken')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # in front of an installed package, too
    executor = local(1)
    executor.submit(job("never", do="nothing"))
    with pytest.raises(RuntimeError, match=r"cannot start .*worker-0\.log"):
        drain(executor, 1)
    assert "experiments" in (tmp_path / "logs" / "worker-0.log").read_text()


def test_an_entry_that_does_not_exist_is_named(local):
    executor = local(1, entry="tests.helpers.fake_runs:missing")
    executor.submit(job("any"))
    event = ended(drain(executor, 1))["any"]
    assert (event.kind, event.attempt) == (
        "failed",
        1,
    ) and "tests.helpers.fake_runs:missing" in event.message


@pytest.mark.parametrize("options", [{"jobs": 0}, {"jobs": -1}, {"jobs": 1, "threads": 0}])
def test_senseless_numbers_are_refused(local, options):
    with pytest.raises(ValueError, match="must be at least 1"):
        local(**options)


def test_workers_share_out_data_sets():
    queue = JobQueue()
    for number in range(6):
        queue.add(job(str(number), affinity="ab"[number % 2]))
    taken = [queue.next(None, []), queue.next(None, ["a"]), queue.next("a", ["b"])]
    assert [item.key for item in taken] == ["0", "1", "2"]
    with pytest.raises(ValueError, match="unique"):
        queue.add(job("5"))


def test_without_a_limit_a_job_that_neither_reports_nor_computes_is_stopped(local, monkeypatch):
    monkeypatch.setattr("experiments.workers.local.SILENT_SECONDS", 1.5)
    executor = local(2)
    executor.submit(job("waits", do="sleep", seconds=600, max_attempts=1))
    executor.submit(job("computes", do="spin"))
    event = ended(drain(executor, 1))["waits"]
    assert event.kind == "failed" and "stopped after 1.5 seconds without progress" in event.message
    executor.poll(2.0)
    assert [list(worker.jobs) for _, worker in executor._busy()] == [["computes"]]


def test_a_hung_job_is_returned_uncounted_when_the_study_is_stopping(local, monkeypatch):
    monkeypatch.setattr("experiments.workers.local.HURRIED_SECONDS", 1.0)
    executor = local(1)
    executor.submit(job("waits", do="sleep", seconds=600, max_attempts=1))
    executor.poll(1.0)
    executor.hurry()
    events = []
    while not any(event.kind == "returned" for event in events):
        events += executor.poll(1.0)
    assert executor.cancel("waits") and not executor.queue


@pytest.mark.parametrize("limits", [{"job_seconds": 0}, {"silent_seconds": -1}])
def test_limits_are_above_zero_and_need_a_worker(limits, tmp_path):
    with pytest.raises(ValueError, match="must be a number above 0"):
        make_executor(1, tmp_path, **limits)
    with pytest.raises(ValueError, match="none with --jobs 0"):
        make_executor(0, tmp_path, **dict.fromkeys(limits, 5.0))
