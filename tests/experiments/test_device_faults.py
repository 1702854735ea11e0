"""Errors of a device, exhausted memory, a lost GPU: what they cost, and what they leave alone."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import refiners.null_refiner  # noqa: F401  (the record of a failed run reads settings)
from core.config import lookup
from core.device_faults import describe_fault, fault_of
from core.store.record import read_record
from core.store.run_facts import lacked_memory
from experiments.cli.app import main
from experiments.run.environment import peak_memory_mb, reset_peak_memory
from experiments.run.memory import LacksMemoryError, memory_advice
from experiments.run.method_presets import method_presets
from experiments.run.runtime import Runtime, _missing_kernel
from experiments.study.driver import rerun, run_study
from experiments.study.dry_run import dry_run
from experiments.workers.jobs import Job
from experiments.workers.local import InlineExecutor, LocalExecutor
from tests.helpers.executors import drain, ended
from tests.helpers.fake_runs import ASSERT, LOST, OUT_OF_MEMORY, executions, fake_plan

COMPUTE = "tests.helpers.fake_runs:compute"
WALK = "tests.helpers.fake_runs:walk"
FAKE = "tests.helpers.fake_runs:fake_run"
RUNTIME = SimpleNamespace(cache_dir="cache", data_root=None, device="cpu")
HINT = "CUDA_LAUNCH_BLOCKING=1 in the environment shows the line"


def raised(make):
    try:
        make()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (torch.OutOfMemoryError("any words"), "memory"),
        (RuntimeError(OUT_OF_MEMORY), "memory"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might"), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "memory"),
        (raised(lambda: torch.zeros(10**15)), "memory"),
        (raised(lambda: np.zeros(10**15)), "memory"),
        (MemoryError(), "memory"),
        (LacksMemoryError("see below"), "memory"),
        (torch.AcceleratorError("any words"), "device"),
        (RuntimeError(ASSERT), "device"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device"),
        (RuntimeError("CUDA error: unspecified launch failure"), "device"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device"),
        (caused(KeyError("x"), torch.AcceleratorError("any words")), "device"),
        (caused(ValueError("x"), RuntimeError(ASSERT)), "device"),
        (torch.AcceleratorError(LOST), "lost"),
        (RuntimeError("No CUDA GPUs are available"), "lost"),
        (RuntimeError("no luck"), ""),
        (ValueError("a class named 'CUDA error'"), ""),
        (FileNotFoundError("out of memory.png"), ""),
    ],
)
def test_faults_are_known_by_their_type_or_their_words(error, fault):
    assert fault_of(error) == fault


def test_a_fault_is_told_in_its_first_line():
    long = f"{OUT_OF_MEMORY} Of the allocated memory 1 GiB is in use. If reserved but unallocated"
    assert describe_fault(torch.OutOfMemoryError(long)) == OUT_OF_MEMORY.rstrip(".")
    assert describe_fault(caused(KeyError(0), RuntimeError(ASSERT))) == (
        f"CUDA error: device-side assert triggered; {HINT}"
    )
    assert describe_fault(MemoryError()) == "MemoryError"


@pytest.fixture
def executor(tmp_path):
    """A factory of executors of ``compute`` jobs, closed after the test."""
    made = []

    def make(jobs, gpus=(), entry=COMPUTE, **options):
        if jobs:
            logs = tmp_path / "logs"
            made.append(LocalExecutor(jobs, entry=entry, log_dir=logs, gpus=gpus, **options))
        else:
            made.append(InlineExecutor(entry, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def submit(executor, folder, name, do="nothing", max_attempts=3, **payload):
    given = {"name": name, "do": do, "inside": str(folder / "inside"), **payload}
    executor.submit(Job(key=name, payload=given, max_attempts=max_attempts))


def test_an_error_of_the_device_is_no_other_runs_error(executor, tmp_path):
    one = executor(1, ["5"])
    submit(one, tmp_path, "bad", do="assert")
    for number in range(4):
        submit(one, tmp_path, f"good {number}")
    found = ended(drain(one, 5))
    assert (found["bad"].kind, found["bad"].attempt, found["bad"].fault) == ("failed", 3, "device")
    assert found["bad"].message == f"GPU 5: CUDA error: device-side assert triggered; {HINT}"
    good = [event for key, event in found.items() if key != "bad"]
    assert {(event.kind, event.attempt) for event in good} == {("done", 1)}
    assert len({event.result["pid"] for event in good}) == 1  # of one worker, the fourth


def test_what_is_out_of_memory_has_its_gpu_for_itself_once(executor, tmp_path):
    four = executor(4, ["5", "6"])
    submit(four, tmp_path, "hungry", do="need it whole", seconds=0.3, max_attempts=1)
    for number in range(7):
        submit(four, tmp_path, f"other {number}", seconds=0.3, after_crowd=True)
    events = drain(four, 8)
    retries = [(e.key, e.attempt, e.fault) for e in events if e.kind == "retry"]
    assert retries == [("hungry", 1, "memory")]
    found = ended(events)
    assert {event.kind for event in found.values()} == {"done"}
    assert found["hungry"].attempt == 2 and found["hungry"].result["beside"] == []
    # Meanwhile the other GPU was shared as before.
    assert any(event.result["beside"] for event in found.values())
    assert {event.result["gpu"] for event in found.values()} == {"5", "6"}


def test_what_needs_more_than_there_is_fails_after_that(executor, tmp_path):
    for jobs in (2, 0):
        some = executor(jobs)
        submit(some, tmp_path, "greedy", do="need more", max_attempts=5)
        submit(some, tmp_path, "other")
        found = ended(drain(some, 2))
        greedy = found["greedy"]
        assert (greedy.kind, greedy.attempt, greedy.fault) == ("failed", 2, "memory")
        assert greedy.message == OUT_OF_MEMORY.rstrip(".")
        assert found["other"].kind == "done"


def walked(executor, folder, words):
    """What becomes of three runs of a bundle, of which the second fails."""
    for name in "abc":
        payload = {"name": name, "trace": str(folder / "trace"), "steps": 4}
        payload |= {"at": 1, "do": "raise", "words": words} if name == "b" else {}
        executor.submit(Job(key=name, payload=payload, bundle="one"))
    return drain(executor, 3)


def test_in_this_process_the_others_of_a_bundle_go_on(executor, tmp_path):
    events = walked(executor(0, entry=WALK, lockstep=4), tmp_path, OUT_OF_MEMORY)
    assert [(e.key, e.attempt) for e in events if e.kind == "retry"] == [("b", 0), ("b", 1)]
    found = ended(events)
    assert [found[name].kind for name in "abc"] == ["done", "failed", "done"]
    assert found["a"].result["lockstep"] == 3 and found["b"].attempt == 2


@pytest.mark.parametrize("words", [OUT_OF_MEMORY, ASSERT])
def test_runs_in_lockstep_go_on_one_by_one(executor, tmp_path, words):
    events = walked(executor(1, ["5"], entry=WALK, lockstep=4), tmp_path, words)
    found = ended(events)
    apart = [event for event in events if event.kind == "retry" and event.attempt == 0]
    assert sorted(event.key for event in apart) == list("abc")
    assert all("as 3 runs advanced in lockstep; it runs alone next" in e.message for e in apart)
    assert {key: event.kind for key, event in found.items()} == {
        "a": "done",
        "b": "failed",
        "c": "done",
    }
    assert {event.result["lockstep"] for event in found.values() if event.result} == {1}
    assert found["b"].attempt == (2 if words == OUT_OF_MEMORY else 3)


def test_a_lost_gpu_is_used_no_more_and_the_others_go_on(executor, tmp_path):
    two = executor(2, ["5", "6"])
    for number in range(6):
        submit(two, tmp_path, f"job {number}", lost=["5"], max_attempts=1, seconds=0.1)
    events = drain(two, 6)
    assert {event.kind for event in ended(events).values()} == {"done"}
    assert {event.result["gpu"] for event in ended(events).values()} == {"6"}
    lost = [event for event in events if event.kind == "retry"]
    assert [event.attempt for event in lost] == [0, 0]
    assert lost[1].message == f"GPU 5: {LOST}; it is used no more"


def test_without_a_gpu_that_answers_jobs_are_given_back(executor, tmp_path):
    one = executor(1, ["5"])
    for number in range(3):
        submit(one, tmp_path, f"job {number}", lost=["5"])
    events, deadline = [], time.monotonic() + 60
    while not any(event.kind == "returned" for event in events):
        assert time.monotonic() < deadline
        events += one.poll(1.0)
    assert one.poll(0.0) == []
    assert all(one.cancel(f"job {number}") for number in range(3))


def test_in_this_process_nothing_runs_after_an_error_of_the_device(executor, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.helpers.fake_runs.poisoned", [])
    inline = executor(0)
    for name, do in (("first", "nothing"), ("bad", "assert"), ("last", "nothing")):
        submit(inline, tmp_path, name, do=do)
    found = ended(drain(inline, 2))
    assert (found["first"].kind, found["bad"].kind, found["bad"].attempt) == ("done", "failed", 1)
    (event,) = inline.poll(0.0)
    assert (event.key, event.kind) == ("last", "returned")
    assert event.message.endswith(
        "nothing more can run in this process: repeat the command to go on"
    )
    assert inline.cancel("last")


def study(folder, variants, executor=None, **options):
    plan = fake_plan(variants, ["alpha"], [1])
    executor = executor or InlineExecutor(FAKE)
    return plan, run_study(plan, folder, executor, runtime=RUNTIME, **options)


def test_runs_that_lacked_memory_are_tried_again_by_every_call(tmp_path, capsys):
    from experiments.study.progress import PlainProgress

    plan, outcome = study(tmp_path, ["ok a", "full b", "fail c"])
    names = {cell.variant: cell.identity for cell in plan.runs}
    assert {cell.variant for cell in outcome.failed} == {"full b", "fail c"}
    record = read_record(tmp_path / names["full b"])
    assert lacked_memory(record) and record.environment == {"fault": "memory"}
    assert record.message.startswith(OUT_OF_MEMORY.rstrip(".")) and "(2 attempts" in record.message
    assert not lacked_memory(read_record(tmp_path / names["fail c"]))
    found = dry_run(plan, tmp_path, jobs=1)
    assert (found.done, found.failed, found.to_do, found.lacked) == (1, 1, 1, 1)

    before = executions(tmp_path)
    _, again = study(tmp_path, ["ok a", "full b", "fail c"], progress=PlainProgress(sys.stdout))
    assert "1 run that lacked memory will be tried again" in capsys.readouterr().out
    assert (len(again.skipped), len(again.failed)) == (1, 2)
    after = executions(tmp_path)
    assert {n: after[i] - before[i] for n, i in names.items()} == {
        "ok a": 0,
        "full b": 2,
        "fail c": 0,
    }


def test_a_study_pauses_when_its_process_lost_the_device(tmp_path):
    _, outcome = study(tmp_path, ["ok a", "assert b", "ok c"])
    assert [cell.variant for cell in outcome.failed] == ["assert b"]
    assert [cell.variant for cell in outcome.left] == ["ok c"]
    assert "repeat the command to go on" in outcome.paused
    _, again = study(tmp_path, ["ok a", "assert b", "ok c"])
    assert not again.left and len(again.done) == 1


def test_a_rerun_without_memory_keeps_the_good_run(tmp_path, monkeypatch):
    plan, _ = study(tmp_path, ["ok a"])
    (cell,) = plan.runs

    def full(*_):
        raise RuntimeError(OUT_OF_MEMORY)

    monkeypatch.setattr("tests.helpers.fake_runs.behave", full)
    outcome = rerun(tmp_path, cell.identity, InlineExecutor(FAKE), runtime=RUNTIME)
    assert len(outcome.failed) == 1
    assert read_record(tmp_path / cell.identity).status == "finished"


def test_what_to_change_is_what_the_run_has():
    cocoop = method_presets()["CoCoOp"].read("experiment.dataset='mosaic/vehicles'")
    assert memory_advice(cocoop, "cuda") == (
        "lower experiment.batch_size (1 now), lower CoCoOp.max_text_memory_mb (2048.0 now), set "
        "experiment.precision = 'bfloat16', or leave more of the memory to this run (fewer "
        "--jobs-per-gpu, other programs)"
    )
    sole = method_presets()["ZeroShot"].read(
        "experiment.dataset='mosaic/vehicles'", "experiment.precision='bfloat16'"
    )
    assert memory_advice(sole, "cpu") == (
        "choose a smaller backbone, or leave more of the memory to this run (fewer --jobs, other "
        "programs)"
    )


def test_a_full_device_is_no_missing_precision(monkeypatch):
    _missing_kernel.cache_clear()

    def full(*_, **__):
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "conv2d", full)
        with pytest.raises(torch.OutOfMemoryError):
            Runtime(cache_dir=Path()).require("bfloat16")
    Runtime(cache_dir=Path()).require("bfloat16")  # and nothing was kept of it


@pytest.mark.parametrize("debug", [False, True])
def test_train_tells_of_a_lack_of_memory_in_one_line(debug, small_mosaic, monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError(f"{OUT_OF_MEMORY} Of the allocated memory 1 GiB is in use.")

    monkeypatch.setattr(lookup("ZeroShot").cls, "forward", full)
    begun = []
    monkeypatch.setattr("experiments.run.run.reset_peak_memory", begun.append)
    words = ["train", "zero_shot", "--set", "experiment.dataset='mosaic/vehicles'"]
    words += ["--set", "experiment.backbone='mosaic'", "--no-track"]
    runs = small_mosaic.parent / "runs-without-memory"
    monkeypatch.setattr(sys, "argv", ["main.py", *words, "--runs", str(runs)] + ["--debug"] * debug)
    if debug:
        with pytest.raises(LacksMemoryError):
            main()
        return
    assert main() == 1
    assert begun == ["cpu"]  # the peak of memory is that of this run
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert line.startswith(f"error: {OUT_OF_MEMORY.rstrip('.')}; ")
    assert "experiment.precision = 'bfloat16'" in line and "Of the allocated" not in line


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux keeps it")
def test_the_peak_of_memory_begins_anew_with_every_run():
    block = np.ones(200 * 2**20, dtype=np.uint8)
    high = peak_memory_mb("cpu")
    del block
    assert peak_memory_mb("cpu") == high
    reset_peak_memory("cpu")
    assert peak_memory_mb("cpu") < high - 150


@pytest.mark.parametrize("used", [False, True])
def test_the_peak_of_a_gpu_begins_anew_where_it_was_used(used, monkeypatch):
    """Before its first use torch does not know the number of a GPU, and there is no peak."""
    begun = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", begun.append)
    reset_peak_memory("cuda:1")
    assert begun == ["cuda:1"] * used
