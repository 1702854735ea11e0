"""Studies on a Ray cluster that loses workers and nodes, and what a task of it does."""

import json
import os
import shutil
import signal
import threading
from types import SimpleNamespace

import pytest

import experiments.run.experiment
import methods.zero_shot
import refiners.null_refiner
from core.clip.features import FEATURES_FOLDER, FeatureStore
from core.config import config_from_text
from core.machine import DEVICE_WORKERS_VARIABLE, WORKERS_VARIABLE
from core.store.names import LEDGER_NAME, SHARE_FOLDER
from experiments.run import image_source
from experiments.run.outside_files import config_mark
from experiments.study.driver import run_study
from experiments.study.share import Sharing, run_shared_study
from experiments.workers.jobs import Job
from experiments.workers.local import InlineExecutor, LocalExecutor
from experiments.workers.worker import ENTRY
from tests.helpers.executors import drain, ended
from tests.helpers.fake_runs import executions, fake_plan
from tests.helpers.fake_searches import history, parsed, run_inline
from tests.helpers.fault_programs import texts, wait_for
from tests.helpers.two_step_runs import two_steps

pytestmark = pytest.mark.executors
pytest.importorskip("ray")

from experiments.workers import ray  # noqa: E402
from experiments.workers.ray import RayExecutor, carry_out, task_variables  # noqa: E402
from tests.helpers.ray_clusters import cluster  # noqa: E402

SEARCH = "tests.helpers.fake_search_runs:search_run"
FAKE = "tests.helpers.fake_runs:fake_run"
DESCRIBE = "tests.helpers.fake_runs:describe_process"
WALK = "tests.helpers.fake_runs:walk"
REGISTERED = (experiments.run.experiment, methods.zero_shot, refiners.null_refiner)
RUNTIME = SimpleNamespace(cache_dir="cache", data_root=None, device="cpu")


class Notes:
    """Keeps what a driver notes."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def __getattr__(self, name):
        return lambda *args, **options: None


def run(plan, folder, executor, **options):
    share = Sharing(num_workers=executor.num_workers, lockstep=executor.lockstep)
    return run_shared_study(plan, folder, executor, share=share, runtime=RUNTIME, **options)


def begun(folder):
    return sum(executions(folder).values())


def test_a_study_survives_the_loss_of_a_worker_and_of_a_node(tmp_path):
    """Two runs wait on a node each. The worker of one is killed, then the node of one removed."""
    plan = fake_plan(["patient a", "patient b", "refuse", "fail"], seeds=[1, 2])
    lone, study, notes = tmp_path / "lone", tmp_path / "study", Notes()
    for folder in (lone, study):
        folder.mkdir()
    (lone / "go").touch()
    run_study(plan, lone, InlineExecutor(FAKE), runtime=RUNTIME)
    with cluster(1, 1) as (made, nodes):
        executor = RayExecutor(address=made.address, entry=FAKE)
        assert executor.num_workers() == 2

        def break_things():
            wait_for(lambda: begun(study) == 2)
            mark = next((study / "executions").iterdir())
            os.kill(int(mark.name.split("-")[1]), signal.SIGKILL)
            wait_for(lambda: begun(study) == 3)
            made.remove_node(nodes[0])
            (study / "go").touch()

        thread = threading.Thread(target=break_things)
        thread.start()
        outcome = run(plan, study, executor, progress=notes)
        thread.join()
    assert (len(outcome.done), len(outcome.failed), len(outcome.left)) == (8, 8, 0)
    finished = [cell.identity for cell in plan.runs if cell.variant.startswith("patient")]
    assert all(texts(study)[i] == texts(lone)[i] for i in finished)
    lost = [note for note in notes.notes if "lost" in note]
    assert len(lost) == 2 and all("it is run again" in note for note in lost), notes.notes
    tries = executions(study)
    assert sum(tries[i] for i in finished) == 8 + 2
    by_variant = {cell.identity: cell.variant for cell in plan.runs}
    assert {tries[i] for i, name in by_variant.items() if name == "refuse"} == {1}
    assert {tries[i] for i, name in by_variant.items() if name == "fail"} == {3}
    assert not (study / SHARE_FOLDER).exists()


def test_a_search_that_loses_a_worker_ends_as_on_this_machine(tmp_path):
    found = parsed(tmp_path, "search.trials=4", "search.round_size=2")
    run_inline(found, tmp_path / "here")
    study, notes = tmp_path / "search", Notes()
    with cluster(2) as (made, _):
        executor = RayExecutor(address=made.address, entry=SEARCH)
        share = Sharing(num_workers=executor.num_workers)
        marks = study / SHARE_FOLDER / "runs" / "executions"  # of claimed runs

        def kill_one():
            wait_for(lambda: marks.is_dir() and any(marks.iterdir()))
            os.kill(int(next(marks.iterdir()).name.split("-")[1]), signal.SIGKILL)

        thread = threading.Thread(target=kill_one)
        thread.start()
        course = run_inline(found, study, executor, share=share, progress=notes)
        thread.join()
    assert course.complete and not (study / SHARE_FOLDER).exists()
    assert history(study) == history(tmp_path / "here")
    assert (study / LEDGER_NAME).read_bytes() == (tmp_path / "here" / LEDGER_NAME).read_bytes()


def test_runs_share_gpus_by_fractions_and_one_that_lacks_memory_gets_one_alone(tmp_path):
    plan = fake_plan(["ok a", "ok b", "full"], datasets=["alpha"], seeds=[1])
    notes = Notes()
    with cluster(3, gpus=1) as (made, _):
        executor = RayExecutor(
            address=made.address, device="cuda", jobs_per_gpu=2, entry=FAKE, cache_dir=tmp_path
        )
        assert executor.num_workers() == 2
        outcome = run(plan, tmp_path / "study", executor, progress=notes)
        options = {"address": made.address, "device": "cuda"}
        described = RayExecutor(jobs_per_gpu=2, entry=DESCRIBE, **options)
        described.submit(Job(key="a", payload={}))
        inside = ended(drain(described, 1))["a"].result
    assert (len(outcome.done), len(outcome.failed)) == (2, 1)
    assert any("has the device for itself next" in note for note in notes.notes), notes.notes
    assert (inside["gpu"], inside["sharing"]) == ("0", 2)


@pytest.mark.parametrize(
    ("given", "variable", "address"),
    [("", "", "local"), ("", "head:6379", None), ("auto", "", "auto"), ("a:1", "head:6379", "a:1")],
)
def test_without_an_address_a_cluster_is_started_whatever_else_runs_here(
    monkeypatch, given, variable, address
):
    asked = {}
    monkeypatch.setenv("RAY_ADDRESS", variable)
    monkeypatch.setattr(ray.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray.ray, "init", lambda **options: asked.update(options))
    assert ray._connect(given)
    assert asked.get("address") == address


def test_a_task_knows_how_many_share_its_machine_and_its_gpu():
    shared = [
        {
            name: task_variables({}, *of)[name]
            for name in (WORKERS_VARIABLE, DEVICE_WORKERS_VARIABLE)
        }
        for of in ((7, 2, None), (16, 2, 4), (16, 2, 1), (1, 0, None))
    ]
    assert [tuple(found.values()) for found in shared] == [
        ("4", "4"),
        ("8", "4"),
        ("8", "1"),
        ("1", "1"),
    ]


def test_a_run_over_its_limits_ends_as_it_does_on_this_machine(tmp_path):
    """It is tried again three times in all, in folders of its own; the error of a user is final."""
    silent = fake_plan(["stall", "stop", "ok", "refuse"], datasets=["alpha"], seeds=[1])
    long = fake_plan(["patient"], datasets=["alpha"], seeds=[1])
    cases = {"silent": (silent, {"silent_seconds": 3.0}), "long": (long, {"job_seconds": 1.5})}
    notes = Notes()
    for name, (plan, limits) in cases.items():
        local = LocalExecutor(3, entry=FAKE, log_dir=tmp_path, **limits)
        run_study(plan, tmp_path / f"{name} here", local, runtime=RUNTIME)
    with cluster(3) as (made, _):
        for name, (plan, limits) in cases.items():
            executor = RayExecutor(address=made.address, entry=FAKE, **limits)
            run(plan, tmp_path / name, executor, progress=notes)
        options = {"address": made.address, "entry": WALK, "jobs": 1}
        executor = RayExecutor(lockstep=3, job_seconds=2.0, **options)
        for key, more in (("a", {}), ("b", {}), ("c", {"at": 1, "do": "sleep", "seconds": 3.0})):
            trace = {"name": key, "trace": str(tmp_path / "trace"), "steps": 2, **more}
            executor.submit(Job(key=key, payload=trace, bundle="one"))
        together = drain(executor, 3)
    for name, (plan, _) in cases.items():
        assert texts(tmp_path / name) == texts(tmp_path / f"{name} here")
        tries = {c.variant: executions(tmp_path / name)[c.identity] for c in plan.runs}
        expected = {"stall": 3, "stop": 2, "ok": 1, "refuse": 1, "patient": 3}
        assert tries == {variant: expected[variant] for variant in tries}
    reasons = ("stopped after 3 seconds without progress", "the time limit of a job")
    assert all(sum(reason in note for note in notes.notes) >= 2 for reason in reasons), notes.notes
    assert {event.kind for event in ended(together).values()} == {"done"}, together
    assert not [event for event in together if event.kind == "lost"]  # the limit is that of three


def message(run_dir, text, shared, node=None, study=None):
    """What a task gets for a run: the message of an executor with this cache of its node."""
    run_dir.mkdir()
    payload = {"config": config_from_text(text).text(), "run_dir": str(run_dir)}
    payload |= {"identity": "0123456789ab", "variant": "a", "factors": {}}
    payload |= {"cache_dir": str(shared), "data_root": None}
    attempts = SimpleNamespace(attempts={"a": 1})
    executor = SimpleNamespace(device="cpu", cache_dir=node, queue=attempts)
    return RayExecutor._message(executor, Job(key="a", payload=payload, home=run_dir.parent))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The shared cache and that of a node; nothing is kept in memory from one run to the next."""
    made = image_source._store
    monkeypatch.setattr(image_source, "_store", made.__wrapped__)
    return tmp_path / "shared", tmp_path / "node"


def answer(*messages):
    """The answer of a task to the last of its messages."""
    return json.loads([*carry_out(ENTRY, messages)][-1])


@pytest.mark.usefixtures("tiny_backbone", "small_mosaic")
def test_features_are_kept_and_found_on_the_node(tmp_path, folders, monkeypatch):
    shared, node = folders
    text = two_steps("CoOp")
    assert answer(message(tmp_path / "one", text, shared, node))["kind"] == "done"
    assert [*(node / FEATURES_FOLDER).rglob("*.safetensors")]
    assert config_mark(config_from_text(text).text(), shared).exists()
    assert not [path for path in shared.rglob("*") if path.is_file() and path.stat().st_size]

    def encode(*args, **options):
        raise RuntimeError("features were computed again")

    monkeypatch.setattr(FeatureStore, "_encode", encode)
    other = text.replace("0.01", "0.02")
    assert answer(message(tmp_path / "two", other, shared, node))["kind"] == "done"
    found = answer(message(tmp_path / "three", other, shared))
    assert "computed again" in found["message"]
    shutil.rmtree(node / FEATURES_FOLDER)
    assert "computed again" in answer(message(tmp_path / "four", other, shared, node))["message"]


@pytest.mark.usefixtures("tiny_backbone", "small_mosaic")
def test_the_progress_of_the_last_epoch_is_told_before_the_evaluation(tmp_path, monkeypatch):
    begun = []
    scored = "experiments.run.run.score_images"
    monkeypatch.setattr(scored, lambda *args: begun.append("evaluation") or 1 / 0)
    told = carry_out(ENTRY, [message(tmp_path / "one", two_steps("CoOp"), tmp_path / "cache")])
    kinds = [(json.loads(text)["kind"], len(begun)) for text in told]
    assert kinds == [("begun", 0), ("progress", 0), ("failed", 1)]
