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


def test_runs_share_gpus_by_fractions_and_one_that_lacks_memory_gets_one_alone(tmp_path):
    plan = fake_plan(["ok a", "ok b", "full"], datasets=["alpha"], seeds=[1])
    notes = Notes()
    with cluster(3, gpus=1) as (made, _):
        executor = RayExecutor(
            address=made.address, device="cuda", jobs_per_gpu=2, entry=FAKE, cache_dir=tmp_path
        )
        assert executor.num_workers() == 2
        outcome = run(plan, tmp_path / "study", executor, progress=notes)
    assert (len(outcome.done), len(outcome.failed)) == (2, 1)
    assert any("has the device for itself next" in note for note in notes.notes), notes.notes
