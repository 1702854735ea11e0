"""Jobs of one bundle advance side by side on one worker, and each ends on its own."""

import time
from types import SimpleNamespace

import pytest

from experiments.workers.jobs import Job, JobQueue
from experiments.workers.local import InlineExecutor, LocalExecutor
from tests.helpers.executors import drain, ended

WALK = "tests.helpers.fake_runs:walk"
STEPS = 3


@pytest.fixture
def trace(tmp_path):
    """The file in which all jobs of a test note their steps."""
    return tmp_path / "trace"


@pytest.fixture
def executors(tmp_path):
    """Both executors that advance up to four jobs side by side."""
    local = LocalExecutor(1, entry=WALK, log_dir=tmp_path / "logs", lockstep=4)
    with local, InlineExecutor(WALK, lockstep=4) as inline:
        yield {"worker": local, "inline": inline}


@pytest.fixture
def local(tmp_path):
    """A factory of local executors that are closed after the test."""
    made = []

    def make(jobs=1, lockstep=4, **options):
        log_dir = tmp_path / "logs"
        executor = LocalExecutor(jobs, entry=WALK, log_dir=log_dir, lockstep=lockstep, **options)
        made.append(executor)
        return executor

    yield make
    for executor in made:
        executor.close()


def submit(executor, trace, names="abc", bundle="one", **special):
    """Jobs of a bundle; ``special`` are the settings of single ones, or of all of them."""
    own = {name: special.pop(name) for name in names if name in special}
    for name in names:
        options = {"max_attempts": 3, "log": None} | special | own.get(name, {})
        settings = {key: options.pop(key) for key in ("max_attempts", "log")}
        payload = {"name": name, "trace": str(trace), "steps": STEPS, **options}
        executor.submit(Job(key=name, payload=payload, bundle=bundle, **settings))


@pytest.mark.parametrize("kind", ["worker", "inline"])
def test_they_take_each_step_one_after_the_other(executors, trace, kind):
    submit(executors[kind], trace)
    found = ended(drain(executors[kind], 3))
    assert trace.read_text() == "a0 b0 c0 a1 b1 c1 a2 b2 c2 "
    assert {event.kind for event in found.values()} == {"done"}
    assert [found[name].result["name"] for name in "abc"] == list("abc")
    assert {event.result["lockstep"] for event in found.values()} == {3}


@pytest.mark.parametrize("kind", ["worker", "inline"])
def test_one_that_resumes_is_joined_when_the_others_reach_it(executors, trace, kind):
    submit(executors[kind], trace, b={"first": 2}, c={"first": 1})
    drain(executors[kind], 3)
    assert trace.read_text() == "a0 a1 c1 a2 b2 c2 "


@pytest.mark.parametrize("kind", ["worker", "inline"])
def test_one_that_raises_ends_alone_and_is_tried_again_alone(executors, trace, kind):
    submit(executors[kind], trace, b={"at": 1, "do": "raise"})
    events = drain(executors[kind], 3)
    found = ended(events)
    assert [found[name].kind for name in "abc"] == ["done", "failed", "done"]
    assert (found["b"].attempt, found["b"].message) == (3, "RuntimeError: no luck")
    assert trace.read_text() == "a0 b0 c0 a1 b1 c1 a2 c2 b0 b1 b0 b1 "
    assert [found[name].result["lockstep"] for name in "ac"] == [3, 3]


@pytest.mark.parametrize("kind", ["worker", "inline"])
def test_the_error_of_a_user_is_final_for_one_alone(executors, trace, kind):
    submit(executors[kind], trace, a={"at": 0, "do": "refuse"})
    found = ended(drain(executors[kind], 3))
    assert (found["a"].kind, found["a"].attempt) == ("failed", 1)
    assert found["b"].kind == found["c"].kind == "done"


@pytest.mark.parametrize("kind", ["worker", "inline"])
def test_a_result_that_cannot_be_sent_is_the_failure_of_its_run(executors, trace, kind):
    submit(executors[kind], trace, a={"steps": object} if kind == "inline" else {"steps": "many"})
    found = ended(drain(executors[kind], 3))
    assert found["a"].kind == "failed" and "TypeError" in found["a"].message
    assert found["b"].kind == found["c"].kind == "done"


def test_each_event_comes_when_its_job_ends(executors, trace):
    """A record is committed as soon as its run has ended, whatever the others do."""
    submit(executors["inline"], trace, a={"steps": 1})
    first = executors["inline"].poll(0.0)
    assert [e.key for e in first if e.kind == "done"] == ["a"]
    assert trace.read_text() == "a0 "


def test_output_goes_to_the_log_of_its_job(local, trace, tmp_path):
    executor = local(1)
    submit(executor, trace, **{n: {"log": tmp_path / n / "output.log"} for n in "abc"})
    drain(executor, 3)
    for name in "abc":
        steps = [f"{name} is at {step}" for step in range(STEPS)]
        lines = (tmp_path / name / "output.log").read_text().splitlines()
        assert lines == [f"--- {name}, attempt 1", *steps]


def test_a_worker_that_dies_takes_no_finished_run_with_it_and_blames_nobody(local, trace):
    """The others run alone from then on, and the one to blame fails alone."""
    executor = local(1)
    submit(executor, trace, a={"steps": 1}, b={"at": 1, "do": "exit"}, max_attempts=1)
    events = drain(executor, 3)
    found = ended(events)
    assert [found[name].kind for name in "abc"] == ["done", "failed", "done"]
    assert found["b"].message == "worker process exited with code 7" and found["b"].attempt == 1
    retried = {event.key: event.message for event in events if event.kind == "retry"}
    assert sorted(retried) == ["b", "c"] and "as 2 runs advanced in lockstep" in retried["c"]
    assert found["c"].result["lockstep"] == 1
    assert trace.read_text() == "a0 b0 c0 b1 b0 b1 c0 c1 c2 "


def test_one_job_that_kills_its_worker_is_not_taken_along_for_ever(local, trace):
    executor = local(2, lockstep=2)
    submit(executor, trace, names="abcd", b={"at": 0, "do": "exit"}, max_attempts=2)
    events = drain(executor, 4)
    found = ended(events)
    assert {name: found[name].kind for name in "acd"} == dict.fromkeys("acd", "done")
    assert (found["b"].kind, found["b"].attempt) == ("failed", 2)
    assert trace.read_text().split().count("b0") == 3


@pytest.mark.parametrize(
    ("num_jobs", "seconds", "limit", "stopped"),
    [
        (1, 12.0, "job_seconds", "stopped after 10 seconds, the time limit of a job"),
        (3, 12.0, "job_seconds", ""),
        (3, 31.0, "job_seconds", "stopped after 30 seconds, the time limit of 3 jobs in lockstep"),
        (1, 12.0, "silent_seconds", "stopped after 10 seconds without progress"),
        (3, 12.0, "silent_seconds", ""),
        (3, 31.0, "silent_seconds", "stopped after 30 seconds without progress"),
    ],
)
def test_the_limits_are_those_of_all_of_them(local, num_jobs, seconds, limit, stopped):
    """A worker that has run, or said nothing, for so long."""
    worker = SimpleNamespace(
        begun=True,
        num_given=num_jobs,
        jobs=dict.fromkeys(range(num_jobs)),
        started=time.monotonic() - seconds,
        silence=lambda: seconds,
        is_busy=lambda: True,
    )
    assert local(**{limit: 10.0})._late(worker) == stopped


def test_one_that_hangs_is_stopped_and_fails_alone(local, trace, monkeypatch):
    monkeypatch.setattr("experiments.workers.local.SILENT_SECONDS", 1.5)
    executor = local(1)
    submit(executor, trace, c={"at": 1, "do": "sleep", "seconds": 600.0}, max_attempts=1)
    found = ended(drain(executor, 3))
    assert [found[name].kind for name in "abc"] == ["done", "done", "failed"]
    assert "without progress" in found["c"].message


def queue_of(names, bundle="one", workers=1, most=4):
    queue = JobQueue()
    for name in names:
        queue.add(Job(key=name, payload={}, bundle=bundle))
    sizes = []
    while queue:
        sizes.append(len(queue.next_jobs(None, (), most=most, workers=workers)))
    return sizes


@pytest.mark.parametrize(
    ("num_jobs", "workers", "most", "sizes"),
    [
        (8, 1, 4, [4, 4]),
        (8, 1, 1, [1] * 8),
        (4, 2, 4, [2, 1, 1]),
        (4, 4, 4, [1, 1, 1, 1]),
        (16, 2, 4, [4, 4, 4, 2, 1, 1]),
        (3, 8, 4, [1, 1, 1]),
    ],
)
def test_no_worker_waits_for_what_another_could_have_left(num_jobs, workers, most, sizes):
    assert queue_of(range(num_jobs), workers=workers, most=most) == sizes


def test_jobs_without_a_bundle_and_of_others_run_apart():
    assert queue_of("abcd", bundle="") == [1] * 4
    queue = JobQueue()
    for name, bundle in zip("abcdef", "xyxyx", strict=False):
        queue.add(Job(key=name, payload={}, bundle=bundle))
    taken = [[job.key for job in queue.next_jobs(None, (), most=4, workers=1)] for _ in range(2)]
    assert taken == [["a", "c", "e"], ["b", "d"]]
    assert not queue and not queue.bundles


def test_a_withdrawn_job_is_in_no_bundle():
    queue = JobQueue()
    for name in "abc":
        queue.add(Job(key=name, payload={}, bundle="one"))
    assert queue.remove("b")
    assert [job.key for job in queue.next_jobs(None, (), most=4, workers=1)] == ["a", "c"]


def test_a_running_bundle_that_loses_one_begins_again_with_the_others(local, trace):
    executor = local(1)
    submit(executor, trace, at=0, do="sleep", seconds=0.5)
    events = list(executor.poll(5.0))
    assert [event.key for event in events] == ["a", "b", "c"]
    assert executor.cancel("b", running=True)
    found = ended(drain(executor, 2))
    assert sorted(found) == ["a", "c"] and {e.result["lockstep"] for e in found.values()} == {2}
