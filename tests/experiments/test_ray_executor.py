"""The executor on Ray with a pretended Ray: what it asks of a cluster, and what it does when tasks,
processes and nodes are lost. See tests/faults/test_ray_cluster.py for real clusters.
"""

import json
import os
import socket
import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")

from experiments.workers import ray as executor_module
from experiments.workers import ray_cluster
from experiments.workers.jobs import Job, NoWorkersError
from experiments.workers.ray import RayExecutor, carry_out
from experiments.workers.ray_cluster import Demand, check_address, connected


def node(name, cores=0, gpus=0, *, alive=True, **labels):
    resources = {"CPU": float(cores), "GPU": float(gpus)}
    return {"NodeID": name, "Alive": alive, "Resources": resources, "Labels": labels}


class Stream:
    """What a task tells: the texts that a test puts here, or errors."""

    def __init__(self):
        self.told = []
        self.killed = self.over = False

    def __next__(self):
        return self.told.pop(0)

    def completed(self):
        return Completion(self)

    def tell(self, kind, **values):
        self.told.append(json.dumps({"kind": kind, **values}))

    def begin(self, name="n1", gpus="0"):
        self.tell("begun", node=name, host=f"host-{name}", gpus=gpus)


class Completion:
    def __init__(self, stream):
        self.stream = stream


class PretendedRay:
    """A cluster whose tasks do what a test says."""

    def __init__(self, *nodes):
        self.all, self.tasks, self.options_of = list(nodes), [], []

    def nodes(self):
        return self.all

    def is_initialized(self):
        return True

    def remote(self, **_):
        return lambda function: self

    def options(self, **options):
        self.options_of.append(options)
        return SimpleNamespace(remote=self._submit)

    def _submit(self, entry, messages):
        self.tasks.append(Stream())
        self.tasks[-1].keys = [message["key"] for message in messages]
        return self.tasks[-1]

    def wait(self, refs, *, num_returns, timeout):
        found = [r for r in refs if (r.stream.over if isinstance(r, Completion) else r.told)]
        return found[:num_returns], []

    def get(self, value):
        if isinstance(value, Exception):
            raise value
        return value

    def cancel(self, task, *, force):
        task.killed = True


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setattr(executor_module, "CLOSE_SECONDS", 0.0)
    monkeypatch.setattr(ray_cluster, "may_grow", lambda: False)
    monkeypatch.setattr(executor_module, "may_grow", lambda: False)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def pretend(*nodes):
        made = PretendedRay(*nodes)
        for module in (executor_module, ray_cluster):
            monkeypatch.setattr(module, "ray", made)
        return made

    return pretend


def kinds(events):
    return [(event.key, event.kind, event.attempt) for event in events]


@pytest.mark.parametrize(
    ("nodes", "device", "threads", "message"),
    [
        (
            [node("n1", 2)],
            *("cpu", "4"),
            "a run asks one node for 4 cores, and the cluster has 1 node with 2 cores and no GPU: "
            "set OMP_NUM_THREADS to 2 or less, or start nodes that have as many cores",
        ),
        ([node("n1", 2), node("n2", 2)], "cpu", "4", "has 2 nodes with 2 cores and no GPU"),
        ([node("n1", 8, alive=False)], "cpu", "1", "the cluster has no node"),
        (
            [node("n1", 8)],
            *("cuda", "1"),
            "for 1 core and a GPU, and the cluster has 1 node with 8 cores and no GPU: start nodes "
            "that have a GPU, or use --device cpu",
        ),
        ([node("n1", 8), node("n2", 1, 4)], "cuda", "2", "set OMP_NUM_THREADS to 1 or less, or"),
        ([node("n1", 8), node("n2", 0, 4)], "cuda", "1", "start nodes that have as many cores"),
    ],
)
def test_a_run_that_no_node_has_room_for_is_refused(
    pretended, monkeypatch, nodes, device, threads, message
):
    pretended(*nodes)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    with pytest.raises(ValueError, match="a run asks one node for") as found:
        RayExecutor(device=device)
    assert message in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("nodes", "demand", "room"),
    [
        ([node("n1", 3, 1)], Demand(1, 0.5), 2),
        ([node("n1", 1, 4)], Demand(1, 0.5), 1),
        ([node("n1", 3), node("n2", 3)], Demand(2), 2),
        ([node("n1", 3, 1), node("n2", 3, 1, alive=False)], Demand(1, 1.0), 1),
    ],
)
def test_room_is_that_of_single_nodes(pretended, nodes, demand, room):
    pretended(*nodes)
    assert demand.room() == room


def test_runs_wait_for_a_node_that_an_autoscaler_may_add(pretended, monkeypatch, capsys):
    pretended(node("n1", 2))
    monkeypatch.setattr(ray_cluster, "may_grow", lambda: True)
    with connected("", Demand(4)):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("2 cores and no GPU; waiting for its autoscaler to add one")


def test_nodes_of_an_autoscaler_are_known_by_their_label(monkeypatch, tmp_path):
    monkeypatch.setattr(ray_cluster, "BOOTSTRAP", tmp_path / "none")
    for labels, grows in (({}, False), ({"ray.io/node-group": "gpu"}, True)):
        monkeypatch.setattr(ray_cluster, "ray", PretendedRay(node("n1", 1, **labels)))
        assert ray_cluster.may_grow() is grows


def test_a_cluster_whose_nodes_have_gone_is_given_up_after_a_while(pretended, monkeypatch):
    made = pretended(node("n1", 2))
    executor = RayExecutor()
    made.all = [node("n1", 2, alive=False)]
    assert executor.num_workers() == 1
    monkeypatch.setattr(executor_module, "ROOM_SECONDS", -1.0)
    with pytest.raises(NoWorkersError, match="has had no node for a run, which asks for 1 core"):
        executor.num_workers()
    made.all = [node("n2", 2)]
    assert executor.num_workers() == 2


@pytest.mark.parametrize(
    "address", ["foo", "foo bar:1", "a:b", "a:0", "a:70000", ":6379", "ray://a:1"]
)
def test_an_address_of_no_cluster_is_refused_at_once(monkeypatch, address):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match="--address must be auto or HOST:PORT"):
        check_address(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match="RAY_ADDRESS must be auto or HOST:PORT"):
        check_address("")
    check_address("auto")


def serve(answer):
    """A server on this machine that answers so, once; its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def work():
        connection, _ = server.accept()
        connection.recv(100)
        if answer is not None:
            connection.sendall(answer)
            connection.close()
        server.close()

    threading.Thread(target=work, daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_only_a_server_of_the_right_kind_is_taken_for_a_cluster(monkeypatch):
    check_address(serve(bytes((0, 0, 6, 4, 0, 0, 0, 0, 0))))
    for answer in (b"HTTP/1.1 400 Bad Request", b""):
        with pytest.raises(ValueError, match="what answers there is not Ray"):
            check_address(serve(answer))
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    with pytest.raises(ValueError, match=rf"no Ray cluster at 127.0.0.1:{port} \(.*refused\)"):
        check_address(f"127.0.0.1:{port}")
    monkeypatch.setattr(ray_cluster, "PROBE_SECONDS", 0.05)
    silent = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(ValueError, match=r"no answer within 0\.05 seconds"):
        check_address(f"127.0.0.1:{silent.getsockname()[1]}")
    silent.close()


def test_auto_without_a_cluster_is_one_line(monkeypatch):
    def init(**_):
        raise ConnectionError("Could not find any running Ray instance.\nSecond line")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setattr(ray_cluster, "ray", ray)
    with pytest.raises(ValueError, match="there is no Ray cluster") as found:
        ray_cluster.connect("auto")
    assert "\n" not in str(found.value)


def test_a_gpu_that_does_not_answer_loses_runs_and_its_node_is_avoided(pretended):
    """No attempt counts. Another GPU of the node that works does not excuse it."""
    made = pretended(node("n1", 8, 2), node("n2", 8, 1))
    executor = RayExecutor(device="cuda", jobs=1)
    for number in range(4):
        executor.submit(Job(key=f"j{number}", payload={}))
        executor.poll(0)
        task = made.tasks[-1]
        task.begin(gpus="1" if number % 2 else "0")
        executor.poll(0)
        if number % 2:
            task.tell("done", key=f"j{number}", result={})
            assert kinds(executor.poll(0)) == [(f"j{number}", "done", 1)]
            continue
        lost = {"fault": "lost", "message": "no CUDA-capable device", "fatal": False}
        task.tell("failed", key=f"j{number}", **lost)
        (event,) = executor.poll(0)
        assert kinds([event]) == [(f"j{number}", "lost", 0)]
        assert "GPU 0 of node host-n1: no CUDA-capable device" in event.message
        assert ("node host-n1 is used no more" in event.message) == (number == 2)
        task.over = True
    assert [options.get("label_selector") for options in made.options_of] == [
        *(None, None, None),
        {"ray.io/node-id": "!in(n1)"},
    ]
    assert executor.num_workers() == 1


def test_where_no_node_is_left_runs_are_returned(pretended):
    made = pretended(node("n1", 4))
    executor = RayExecutor(jobs=1, lockstep=2)
    for key in ("a", "b", "c"):
        executor.submit(Job(key=key, payload={}, bundle="one"))
    executor.poll(0)
    made.tasks[0].begin()
    executor.poll(0)
    made.tasks[0].tell("unusable", message="node host-n1 does not see the folder x")
    events = executor.poll(0)
    assert kinds(events) == [("a", "returned", 0), ("b", "returned", 0)]
    assert all("does not see the folder x; node host-n1 is used" in e.message for e in events)
    assert all(executor.cancel(key) for key in ("a", "b", "c"))


def test_a_folder_that_a_node_does_not_see_is_told_by_the_task(tmp_path):
    gone = str(tmp_path / "gone")
    begun, told = map(json.loads, carry_out("x:y", [{"home": gone}]))
    assert (begun["kind"], begun["host"]) == ("begun", os.uname().nodename)
    assert told["kind"] == "unusable" and f"does not see the folder {gone}" in told["message"]


def test_nothing_is_submitted_while_a_process_ends(pretended):
    """A task that was killed, and one that ends after a fault, would take the next one along."""
    made = pretended(node("n1", 1))
    executor = RayExecutor(job_seconds=1e-9)
    for key in ("a", "b", "c"):
        executor.submit(Job(key=key, payload={}, affinity=key))
    executor.poll(0)
    made.tasks[0].begin()
    assert kinds(executor.poll(0)) == [("a", "started", 1), ("a", "lost", 1)]
    assert made.tasks[0].killed
    assert executor.poll(0) == [] and len(made.tasks) == 1
    made.tasks[0].over = True
    executor.job_seconds = None
    executor.poll(0)
    assert [task.keys for task in made.tasks] == [["a"], ["b"]]
    made.tasks[1].begin()
    executor.poll(0)
    made.tasks[1].tell("failed", key="b", message="m", fatal=True, fault="device")
    assert kinds(executor.poll(0)) == [("b", "failed", 1)]
    assert executor.poll(0) == [] and len(made.tasks) == 2
    executor.ending = dict.fromkeys(executor.ending, 0.0)  # whatever it does so long
    executor.poll(0)
    executor.poll(0)
    assert [task.keys for task in made.tasks] == [["a"], ["b"], ["c"]]


def test_what_ran_beside_a_job_that_is_withdrawn_is_lost(pretended):
    """It is run again in another folder: the killed process may still write into this one."""
    made = pretended(node("n1", 1))
    executor = RayExecutor(lockstep=3)
    for key in ("a", "b", "c"):
        executor.submit(Job(key=key, payload={}, bundle="one"))
    executor.poll(0)
    made.tasks[0].begin()
    executor.poll(0)
    assert executor.cancel("b", running=True) and made.tasks[0].killed
    assert kinds(executor.poll(0)) == [("a", "lost", 0), ("c", "lost", 0)]
    executor.submit(Job(key="a", payload={}))  # all keys are free again
    assert not executor.cancel("b")


def test_the_limit_of_jobs_in_lockstep_is_that_of_all_that_began(pretended, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(executor_module.time, "monotonic", lambda: clock.now)
    made = pretended(node("n1", 1))
    executor = RayExecutor(lockstep=3, job_seconds=10.0)
    for key in ("a", "b", "c"):
        executor.submit(Job(key=key, payload={}, bundle="one"))
    clock.now = 100.0
    executor.poll(0)
    made.tasks[0].begin()
    executor.poll(0)
    for key in ("a", "b"):
        made.tasks[0].tell("done", key=key, result={})
        executor.poll(0)
    clock.now = 129.0
    assert executor.poll(0) == []
    clock.now = 131.0
    (event,) = executor.poll(0)
    assert event.kind == "lost" and "30 seconds, the time limit of 3 jobs" in event.message
