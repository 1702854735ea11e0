"""Studies on a Ray cluster that loses workers and nodes."""

import os
import signal
import threading
from types import SimpleNamespace

import pytest

import experiments.run.experiment
import methods.zero_shot
import refiners.null_refiner
from core.store.names import SHARE_FOLDER
from experiments.study.driver import run_study
from experiments.study.share import Sharing, run_shared_study
from experiments.workers.local import InlineExecutor
from tests.helpers.fake_runs import executions, fake_plan
from tests.helpers.fault_programs import texts, wait_for

pytestmark = pytest.mark.executors
pytest.importorskip("ray")

from experiments.workers.ray import RayExecutor  # noqa: E402
from tests.helpers.ray_clusters import cluster  # noqa: E402

FAKE = "tests.helpers.fake_runs:fake_run"
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


def in_background(condition, act):
    """Act once a condition holds, while the test goes on."""

    def watch():
        wait_for(condition)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def begun(folder):
    return sum(executions(folder).values())


def test_a_study_survives_the_loss_of_a_worker_and_of_a_node(tmp_path):
    plan = fake_plan(["nap a", "nap b", "refuse", "fail"], seeds=[1, 2, 3])
    lone = tmp_path / "lone"
    run_study(plan, lone, InlineExecutor(FAKE), runtime=RUNTIME)
    study, notes = tmp_path / "study", Notes()
    study.mkdir()
    with cluster(1, 1) as (made, nodes):
        executor = RayExecutor(address=made.address, entry=FAKE)
        assert executor.num_workers() == 2

        def kill_a_worker():
            marks = sorted((study / "executions").iterdir(), key=lambda p: p.stat().st_mtime_ns)
            os.kill(int(marks[-1].name.split("-")[1]), signal.SIGKILL)

        first = in_background(lambda: begun(study) >= 3, kill_a_worker)
        then = in_background(lambda: begun(study) >= 8, lambda: made.remove_node(nodes[0]))
        outcome = run(plan, study, executor, progress=notes)
        first.join()
        then.join()
    assert (len(outcome.done), len(outcome.failed), len(outcome.left)) == (12, 12, 0)
    finished = [cell.identity for cell in plan.runs if cell.variant.startswith("nap")]
    assert all(texts(study)[i] == texts(lone)[i] for i in finished)
    lost = [note for note in notes.notes if "lost" in note]
    assert len(lost) >= 2 and all("it is run again" in note for note in lost), notes.notes
    tries = executions(study)
    refused = [cell.identity for cell in plan.runs if cell.variant == "refuse"]
    failing = [cell.identity for cell in plan.runs if cell.variant == "fail"]
    assert sum(tries[i] for i in refused) <= len(refused) + len(lost)  # a user's error: once
    assert sum(tries[i] for i in failing) <= 3 * len(failing) + 3 * len(lost)
    assert not (study / SHARE_FOLDER).exists()
