"""Workers that are forked from one process are as fresh ones, and no run is lost with it."""

import os
import signal
import time

import pytest

from experiments.workers.fork_server import ForkServer
from experiments.workers.jobs import Job
from experiments.workers.local import SERVER_IS_GONE
from experiments.workers.worker import ENTRY
from tests.helpers.executors import local_executors
from tests.helpers.fault_programs import wait_for

ACT = "tests.helpers.fake_runs:act"
LOOK = "tests.helpers.fake_runs:describe_process"

pytestmark = pytest.mark.skipif(not ForkServer.is_possible(), reason="this system cannot fork")


@pytest.fixture
def local(tmp_path):
    """A factory of local executors that are closed after the test."""
    with local_executors(tmp_path / "logs", ACT, jobs=2) as make:
        yield make


def carried_out(executor, payloads, seconds=60.0):
    """The last event of every job."""
    for number, payload in enumerate(payloads):
        executor.submit(Job(key=str(number), payload=payload))
    keys = [str(number) for number in range(len(payloads))]
    found, deadline = {}, time.monotonic() + seconds
    while not found.keys() >= set(keys):
        assert time.monotonic() < deadline, found
        events = executor.poll(1.0)
        found |= {e.key: e for e in events if e.kind in ("done", "failed")}
    return [found[key] for key in keys]


def forked(executor):
    """The numbers of the workers' processes, when all of them have one."""
    processes = [worker.process for worker in executor.workers]
    wait_for(lambda: all(process.poll() is None and process.pid for process in processes))
    return [process.pid for process in processes]


def kill(pid, number=signal.SIGKILL):
    os.kill(pid, number)


def logged(tmp_path):
    return "".join(path.read_text() for path in (tmp_path / "logs").glob("*"))


def parent_and_group(pid):
    with open(f"/proc/{pid}/stat") as file:
        return [int(word) for word in file.read().rpartition(")")[2].split()[1:3]]


def test_a_forked_worker_is_as_a_fresh_one(local, monkeypatch):
    monkeypatch.setenv("SOMETHING", "of the user")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    found = []
    for forks in (True, False):
        monkeypatch.setattr(ForkServer, "is_possible", lambda forks=forks: forks)
        for gpus in ((), ("3", "5")):
            executor = local(entry=LOOK, gpus=gpus)
            executor.start_early()
            pids = forked(executor)
            assert len(set(pids)) == 2
            assert all(parent_and_group(pid)[1] == pid for pid in pids)
            assert (parent_and_group(pids[0])[0] != os.getpid()) == forks
            results = [event.result for event in carried_out(executor, [{}, {}])]
            found.append([look(result) for result in results])
    assert found[0] == found[2] and found[1] == found[3]
    assert [each["gpu"] for each in found[0] + found[1]] == ["7", "7", "3", "5"]


def look(result):
    """What of a worker must not depend on how it was started."""
    own = {"experiments.workers.fork_server", "gc", "_socket", "socket", "array"}
    return {**result, "pid": None, "modules": sorted(set(result["modules"]) - own)}


def test_a_killed_worker_is_forked_again(local):
    executor = local()
    first = {event.result["pid"] for event in carried_out(executor, [{"do": "nothing"}] * 4)}
    for worker in executor.workers:
        kill(worker.process.pid)
    wait_for(lambda: all(worker.process.poll() == -9 for worker in executor.workers))
    events = carried_out(executor, [{"do": "nothing"}] * 4)
    pids = {event.result["pid"] for event in events}
    assert not pids & first and {event.attempt for event in events} == {1}
    assert {parent_and_group(pid)[0] for pid in pids} == {executor.server.process.pid}
    (failed,) = carried_out(executor, [{"do": "exit"}])
    assert "exited with code 7" in failed.message


def test_a_killed_server_takes_no_worker_along(local, tmp_path):
    executor = local(job_seconds=30)
    executor.start_early()
    pids = forked(executor)
    kill(executor.server.process.pid)
    events = carried_out(executor, [{"do": "sleep", "seconds": 0.1}] * 4)
    assert {event.result["pid"] for event in events} <= set(pids)
    (failed,) = carried_out(executor, [{"do": "exit"}])  # nobody is told its code any more
    assert failed.kind == "failed" and "worker process exited with code" in failed.message
    assert executor.server is None and logged(tmp_path).count(SERVER_IS_GONE) == 1
    assert carried_out(executor, [{"do": "nothing"}])[0].kind == "done"


def stopped_early(executor):
    """Start the workers, and stop their server before it has forked one."""
    executor.start_early()
    kill(executor.server.process.pid, signal.SIGSTOP)
    executor.server.listen()
    assert [worker.process.pid for worker in executor.workers] == [None] * len(executor.workers)
    return executor.server.process.pid


@pytest.mark.parametrize("given", [0, 5])
def test_a_server_that_dies_before_it_forks_costs_no_try(local, tmp_path, given):
    executor = local(5)
    server = stopped_early(executor)
    for number in range(given):
        executor.submit(Job(key=f"early {number}", payload={"do": "nothing"}))
    executor.poll(0.0)
    kill(server)
    events = carried_out(executor, [{"do": "nothing"}] * 6)
    assert {(event.kind, event.attempt) for event in events} == {("done", 1)}
    assert logged(tmp_path).count(SERVER_IS_GONE) == 1 and executor.failed_starts == 0


def test_a_server_that_hangs_is_given_up(local, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.workers.local.SILENT_SECONDS", 1.0)
    executor = local()
    server = stopped_early(executor)
    events = carried_out(executor, [{"do": "nothing"}] * 2)
    assert {(event.kind, event.attempt) for event in events} == {("done", 1)}
    assert logged(tmp_path).count(SERVER_IS_GONE) == 1
    assert not os.path.exists(f"/proc/{server}")


def test_workers_that_are_still_to_be_forked_are_not_waited_for(local):
    executor = local()
    stopped_early(executor)
    began, processes = time.monotonic(), [worker.process for worker in executor.workers]
    executor.close()
    assert time.monotonic() - began < 4
    assert {process.returncode for process in processes} == {-signal.SIGKILL}


def test_another_environment_needs_fresh_workers(local, tmp_path, monkeypatch):
    executor = local(entry=LOOK)
    executor.start_early()
    for pid in forked(executor):
        kill(pid)
    wait_for(lambda: all(worker.process.poll() == -9 for worker in executor.workers))
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    (event,) = carried_out(executor, [{}])
    assert event.result["waiting"] == "ACTIVE"
    assert parent_and_group(event.result["pid"])[0] == os.getpid()
    assert SERVER_IS_GONE not in logged(tmp_path)


def test_what_runs_need_starts_no_thread_and_opens_no_file(local, monkeypatch):
    """What a copy could not use: threads, files, the pipes of other workers."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # with more than one, numpy starts a thread
    executor = local(entry=ENTRY)
    executor.start_early()
    pids = forked(executor)
    server = executor.server.process.pid
    assert len(os.listdir(f"/proc/{server}/task")) == 1
    kinds = [os.readlink(f"/proc/{server}/fd/{name}") for name in os.listdir(f"/proc/{server}/fd")]
    assert sorted(kind.partition(":")[0] for kind in kinds if kind != "/dev/null") == [
        *["anon_inode"] * 2,
        "socket",
    ]
    with open(f"/proc/{server}/maps") as maps:
        assert "libtorch" in maps.read()
    assert len(set(pids)) == 2
