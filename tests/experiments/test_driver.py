"""A study survives kills, failures, interruptions, changed grids and other drivers."""

import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import experiments.run.experiment
import methods.zero_shot
import refiners.null_refiner
from core.store import read_manifest, read_record, write_manifest
from core.store.names import LOCK_NAME, MANIFEST_NAME, RECORD_NAME
from experiments.study.driver import rerun, run_study
from experiments.study.dry_run import dry_run
from experiments.study.lock import Holder, StudyLock, living_holder
from experiments.study.progress import Bar, BarProgress, PlainProgress, make_progress
from experiments.study.status import diff, find_run, study_status
from experiments.workers.local import InlineExecutor, LocalExecutor
from tests.helpers.fake_runs import executions, fake_plan

FAKE = "tests.helpers.fake_runs:fake_run"
REGISTERED = (experiments.run.experiment, methods.zero_shot, refiners.null_refiner)
RUNTIME = SimpleNamespace(cache_dir="cache", data_root=None, device="cpu")


def run_inline(plan, study_dir, **options):
    return run_study(plan, study_dir, InlineExecutor(FAKE), runtime=RUNTIME, **options)


def records_text(study_dir):
    """All records of a study, one after the other."""
    return "".join(path.read_text() for path in sorted(study_dir.glob(f"*/{RECORD_NAME}")))


def test_a_study_runs_once(tmp_path):
    plan = fake_plan(["ok a", "ok b"])
    outcome = run_inline(plan, tmp_path / "s")
    assert (len(outcome.done), outcome.exit_code) == (8, 0)
    before = records_text(tmp_path / "s")
    again = run_inline(plan, tmp_path / "s")
    assert (len(again.done), len(again.skipped), again.exit_code) == (0, 8, 0)
    assert set(executions(tmp_path / "s").values()) == {1}
    assert records_text(tmp_path / "s") == before


def test_the_plan_stands_above_what_a_run_says_of_itself(tmp_path):
    plan = fake_plan(["ok a"], seeds=[7])
    run_inline(plan, tmp_path)
    record = read_record(tmp_path / plan.cells[0].identity)
    assert (record.seed, record.variant) == (7, "ok a")


def test_the_manifest_is_deterministic_and_complete(tmp_path):
    plan = fake_plan(["ok a", "ok b"])
    run_inline(plan, tmp_path / "one")
    run_inline(plan, tmp_path / "two")
    text = (tmp_path / "one" / MANIFEST_NAME).read_text()
    assert text == (tmp_path / "two" / MANIFEST_NAME).read_text()
    manifest = json.loads(text)
    assert list(manifest) == [
        "schema_version",
        "study",
        "baseline",
        "references",
        "datasets",
        "seeds",
        "factors",
        "variants",
        "cells",
        "digest",
    ]
    assert manifest["variants"][0] == {
        "name": "ok a",
        "factors": {"Fake.variant": "'ok a'"},
    }
    assert set(manifest["cells"][0]) == {"variant", "dataset", "seed", "identity", "note"}


def test_an_extended_grid_keeps_what_is_done(tmp_path):
    lines = io.StringIO()
    run_inline(fake_plan(["ok a"], seeds=[1]), tmp_path)
    plan = fake_plan(["ok a", "ok b"], seeds=[1, 2])
    outcome = run_inline(plan, tmp_path, progress=PlainProgress(lines))
    assert (len(outcome.skipped), len(outcome.done)) == (2, 6)
    assert "6 cells are new, 0 were removed" in lines.getvalue()
    assert set(executions(tmp_path).values()) == {1}


def test_a_cell_that_always_fails_is_quarantined(tmp_path):
    plan = fake_plan(["ok", "fail"], datasets=["alpha"], seeds=[1])
    lines = io.StringIO()
    outcome = run_inline(plan, tmp_path, progress=PlainProgress(lines))
    assert (len(outcome.done), len(outcome.failed), outcome.exit_code) == (1, 1, 1)
    identity = outcome.failed[0].identity
    record = read_record(tmp_path / identity)
    assert record.status == "failed" and record.shots == 16 and record.protocol == "base_to_new"
    assert record.message == "RuntimeError: this run always fails (3 attempts)"
    assert executions(tmp_path)[identity] == 3
    assert "fail on alpha, seed 1: failed" in lines.getvalue()
    assert run_inline(plan, tmp_path).exit_code == 1
    assert executions(tmp_path)[identity] == 3
    assert run_inline(plan, tmp_path, retry_failed=True, max_attempts=1).exit_code == 1
    assert executions(tmp_path)[identity] == 4


def test_a_failure_in_a_worker_says_where_its_output_is(tmp_path):
    plan = fake_plan(["fail"], datasets=["alpha"], seeds=[1])
    with LocalExecutor(1, entry=FAKE, log_dir=tmp_path / "logs") as executor:
        outcome = run_study(plan, tmp_path, executor, runtime=RUNTIME)
    run_dir = tmp_path / outcome.failed[0].identity
    assert read_record(run_dir).message.endswith("always fails (3 attempts; see output.log)")
    output = (run_dir / "output.log").read_text()
    assert output.count("Traceback") == 3 and "attempt 3" in output


def test_users_errors_fail_at_once_and_diverged_runs_count_as_problems(tmp_path):
    plan = fake_plan(["refuse", "diverge"], datasets=["alpha"], seeds=[1])
    outcome = run_inline(plan, tmp_path)
    assert (len(outcome.failed), len(outcome.diverged), outcome.exit_code) == (1, 1, 1)
    assert set(executions(tmp_path).values()) == {1}
    assert "(1 attempt)" in read_record(tmp_path / outcome.failed[0].identity).message


def test_workers_that_die_leave_no_trace_in_the_records(tmp_path):
    plan = fake_plan(["ok", "kill"])
    with LocalExecutor(2, entry=FAKE, log_dir=tmp_path / "logs") as executor:
        outcome = run_study(plan, tmp_path / "killed", executor, runtime=RUNTIME)
    assert (len(outcome.done), outcome.exit_code) == (8, 0)
    counts = executions(tmp_path / "killed")
    assert not list((tmp_path / "killed").glob("*/record.json.*"))
    assert sorted(counts.values()) == [1] * 4 + [2] * 4
    for identity in counts:
        (tmp_path / "plain" / identity).mkdir(parents=True)
        (tmp_path / "plain" / identity / "killed").touch()
    run_inline(plan, tmp_path / "plain")
    assert records_text(tmp_path / "killed") == records_text(tmp_path / "plain")


def test_bundles_whose_workers_die_end_as_single_runs(tmp_path):
    """A run that dies once, one that always dies and one that fails beside two that are well."""
    plan = fake_plan(["ok", "kill", "die", "fail", "slow"], seeds=[1], bundled=True)
    executor = LocalExecutor(2, entry=FAKE, log_dir=tmp_path / "logs", lockstep=5)
    lines = io.StringIO()
    progress = PlainProgress(lines)
    outcome = run_study(plan, tmp_path, executor, runtime=RUNTIME, progress=progress)
    assert sorted(cell.variant for cell in outcome.done) == ["kill"] * 2 + ["ok"] * 2 + ["slow"] * 2
    messages = {c.variant: read_record(tmp_path / c.identity).message for c in outcome.failed}
    assert "killed by SIGKILL" in messages["die"] and "(3 attempts" in messages["die"]
    assert "always fails (3 attempts" in messages["fail"]
    assert "in lockstep; it runs alone next" in lines.getvalue()
    counts = executions(tmp_path)
    ok = {cell.identity for cell in plan.runs if cell.variant == "ok"}
    assert {counts[identity] for identity in ok} == {1}


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 0}', "foreign"])
def test_a_damaged_or_foreign_record_is_kept_aside_and_the_cell_runs_again(tmp_path, content):
    plan = fake_plan(["ok"], datasets=["alpha"])
    run_inline(plan, tmp_path)
    expected = records_text(tmp_path)
    first, second = (tmp_path / cell.identity for cell in plan.cells)
    text = (second / RECORD_NAME).read_text() if content == "foreign" else content
    (first / RECORD_NAME).write_text(text)
    assert study_status(tmp_path)["damaged"] == [str(first / RECORD_NAME)]
    lines = io.StringIO()
    outcome = run_inline(plan, tmp_path, progress=PlainProgress(lines))
    assert (len(outcome.done), len(outcome.skipped)) == (1, 1)
    assert str(first / RECORD_NAME) in lines.getvalue()
    assert (first / "record.json.damaged").read_text() == text
    assert records_text(tmp_path) == expected


def test_a_record_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path):
    plan = fake_plan(["ok"], datasets=["alpha"])
    run_inline(plan, tmp_path)
    path = tmp_path / plan.cells[0].identity / RECORD_NAME
    path.write_text('{"schema_version": 99}')
    with pytest.raises(ValueError, match=r"schema version 99.*use the version that wrote it"):
        run_inline(plan, tmp_path)
    assert path.read_text() == '{"schema_version": 99}'
    assert not list(path.parent.glob("*.damaged"))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema_version": 1}', '{"cells": 5}'])
def test_a_damaged_manifest_is_kept_aside_and_written_again(tmp_path, content):
    plan = fake_plan(["ok"])
    run_inline(plan, tmp_path)
    path = tmp_path / MANIFEST_NAME
    whole = path.read_text()
    path.write_text(content)
    with pytest.raises(ValueError, match=r"study\.json.*rerun the grid"):
        read_manifest(tmp_path)
    lines = io.StringIO()
    outcome = run_inline(plan, tmp_path, progress=PlainProgress(lines))
    assert len(outcome.skipped) == 4 and path.read_text() == whole
    assert "kept as study.json.damaged" in lines.getvalue()
    assert path.with_name("study.json.damaged").read_text() == content


def test_a_manifest_of_a_newer_version_is_never_overwritten(tmp_path):
    path = tmp_path / MANIFEST_NAME
    path.write_text('{"schema_version": 99}')
    with pytest.raises(ValueError, match="schema version 99"):
        run_inline(fake_plan(["ok"]), tmp_path)
    assert path.read_text() == '{"schema_version": 99}'


DRIVER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from tests.helpers.fake_runs import fake_plan
from experiments.study.driver import run_study
from experiments.workers.local import LocalExecutor
from experiments.study.progress import make_progress

study_dir = Path(sys.argv[1])
plan = fake_plan(["slow a", "slow b", "slow c"], seeds=range(int(sys.argv[2])))
entry = "tests.helpers.fake_runs:fake_run"
with LocalExecutor(2, entry=entry, log_dir=study_dir / "logs") as executor:
    outcome = run_study(
        plan, study_dir, executor,
        runtime=SimpleNamespace(cache_dir="cache", data_root=None, device="cpu"),
        progress=make_progress(),
        max_attempts=1000,
    )
print(len(outcome.done), len(outcome.skipped), len(outcome.left))
sys.exit(outcome.exit_code)
"""


def start_driver(study_dir, num_seeds=4):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(study_dir), str(num_seeds)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_records(study_dir, count, driver):
    while len(list(study_dir.glob(f"*/{RECORD_NAME}"))) < count and driver.poll() is None:
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The records of the drivers' study when nothing happens."""
    study_dir = tmp_path_factory.mktemp("undisturbed")
    run_inline(fake_plan(["slow a", "slow b", "slow c"], seeds=range(4)), study_dir)
    return records_text(study_dir)


def test_a_killed_driver_can_be_called_again(tmp_path, undisturbed):
    """Kill it again and again, at other moments: before the first run, between and within runs."""
    moments = (0, 1, 5, 12)
    for kill_at in moments:
        driver = start_driver(tmp_path)
        wait_for_records(tmp_path, kill_at, driver)
        if kill_at:
            time.sleep(0.03 * (kill_at % 3))
        driver.kill()
        driver.communicate()
    finished = {path.parent.name for path in tmp_path.glob(f"*/{RECORD_NAME}")}
    before = executions(tmp_path)
    assert 0 < len(finished) < 24
    driver = start_driver(tmp_path)
    output, errors = driver.communicate(timeout=120)
    assert driver.returncode == 0, errors
    assert output.split() == [str(24 - len(finished)), str(len(finished)), "0"]
    after = executions(tmp_path)
    assert all(after[identity] == before[identity] for identity in finished)
    assert records_text(tmp_path) == undisturbed
    assert sum(after.values()) <= 24 + len(moments) * 2


@pytest.mark.parametrize(
    ("number", "twice"),
    [
        (signal.SIGINT, False),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.faults),
        pytest.param(signal.SIGHUP, False, marks=pytest.mark.faults),
        (signal.SIGINT, True),
    ],
)
def test_an_interrupted_driver_stops_and_can_be_called_again(tmp_path, undisturbed, number, twice):
    driver = start_driver(tmp_path)
    wait_for_records(tmp_path, 2, driver)
    driver.send_signal(number)
    if twice:
        time.sleep(0.01)
        driver.send_signal(number)
    output, errors = driver.communicate(timeout=120)
    assert driver.returncode == 3, errors
    assert "Traceback" not in errors
    assert twice or "press Ctrl-C again to stop immediately" in errors
    done, _, left = map(int, output.split())
    assert done + left == 24 and done >= 2
    if not twice:
        assert sum(executions(tmp_path).values()) == done
    assert living_holder(tmp_path) is None
    again = start_driver(tmp_path)
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert records_text(tmp_path) == undisturbed


def test_a_second_driver_is_refused(tmp_path):
    driver = start_driver(tmp_path, num_seeds=100)
    wait_for_records(tmp_path, 1, driver)
    with pytest.raises(ValueError, match=rf"in use by process {driver.pid} on .*stop it$"):
        run_inline(fake_plan(["ok"]), tmp_path)
    status = study_status(tmp_path)
    assert status["holder"].startswith(f"process {driver.pid} on ")
    assert 1 <= len(status["running"]) <= 2 and status["remaining_seconds"] > 0
    driver.send_signal(signal.SIGTERM)
    driver.communicate(timeout=120)


def test_locks_of_the_dead_are_taken_over_and_others_are_not(tmp_path):
    me = Holder.current()
    gone = {"pid": 2**22 + 1, "process_start": "5"}
    cases = [
        ({}, "stop it$"),
        (gone, ""),
        ({"process_start": "1"}, ""),
        ({"process_start": "1", "space": me.space}, ""),
        ({**gone, "boot": "another"}, ""),  # before a restart
        *[
            (unseen, r"give --steal-lock, or remove .*\.lock$")
            for unseen in (
                {**gone, "host": "elsewhere"},
                {**gone, "boot": "another", "space": "of another container"},
                {**gone, "space": "of another container"},
            )
        ],
    ]
    for changes, refusal in cases:
        holder = {
            "host": me.host,
            "pid": me.pid,
            "process_start": me.process_start,
            "boot": me.boot,
        }
        (tmp_path / LOCK_NAME).write_text(json.dumps(holder | changes))
        if not refusal:
            with StudyLock(tmp_path):
                assert living_holder(tmp_path) == me
        else:
            with (
                pytest.raises(ValueError, match=f"is in use by process .*{refusal}"),
                StudyLock(tmp_path),
            ):
                pass
            with StudyLock(tmp_path, steal=True):
                pass
        assert living_holder(tmp_path) is None


def test_a_killed_process_whose_parent_has_not_asked_for_it_is_gone(tmp_path):
    child = subprocess.Popen(["sleep", "60"])
    try:
        start = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        holder = replace(Holder.current(), pid=child.pid, process_start=start)
        (tmp_path / LOCK_NAME).write_text(json.dumps(asdict(holder)))
        assert holder.is_here() and not holder.is_gone()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert holder.is_gone() and not holder.is_here()
        with StudyLock(tmp_path):
            assert living_holder(tmp_path) == Holder.current()
    finally:
        child.kill()
        child.wait()


def test_a_torn_lock_is_free_and_a_held_one_is_not_even_for_its_holder(tmp_path):
    (tmp_path / LOCK_NAME).write_text('{"host"')
    with StudyLock(tmp_path):
        with (
            pytest.raises(ValueError, match=f"process {os.getpid()}"),
            StudyLock(tmp_path, steal=True),
        ):
            pass
        assert living_holder(tmp_path).pid == os.getpid()


def test_a_summary_counts_before_anything_runs(tmp_path):
    plan = fake_plan(["ok a", "diverge", "refuse"], seeds=[1])
    empty = dry_run(plan, tmp_path, jobs=2)
    assert (empty.cells, empty.runs, empty.to_do, empty.seconds) == (6, 6, 6, None)
    assert not list(tmp_path.iterdir())
    run_inline(fake_plan(["ok a", "diverge", "refuse"], ["alpha"], [1]), tmp_path)
    half = dry_run(plan, tmp_path, jobs=2)
    assert (half.done, half.failed, half.diverged, half.to_do) == (1, 1, 1, 3)
    assert half.seconds == pytest.approx(3 * 2.0 / 2)
    assert (half.change.added, half.change.removed) == (3, 0)
    assert half.rows[0] == {"variant": "ok a", "cells": 2, "runs": 2, "done": 1, "note": ""}


def test_status_says_what_is_missing_and_why(tmp_path):
    run_inline(fake_plan(["ok", "refuse"], seeds=[1]), tmp_path)
    plan = fake_plan(["ok", "refuse"], seeds=[1, 2])
    (tmp_path / MANIFEST_NAME).unlink()
    write_manifest(tmp_path, plan.manifest)
    status = study_status(tmp_path)
    assert {key: status[key] for key in ("cells", "runs", "finished", "failed", "missing")} == {
        "cells": 8,
        "runs": 8,
        "finished": 2,
        "failed": 2,
        "missing": 4,
    }
    assert status["rows"][0] == {
        "variant": "ok",
        "dataset": "alpha",
        "finished": 1,
        "failed": 0,
        "diverged": 0,
        "missing": 1,
    }
    assert "this configuration is wrong" in status["problems"][0]["message"]
    assert status["holder"] is None and status["running"] == []
    assert json.dumps(status)


def test_a_folder_without_a_readable_manifest_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a study folder"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text('{"schema_version": 2}')
    with pytest.raises(ValueError, match="schema version 2"):
        read_manifest(tmp_path)


def test_one_cell_can_be_run_again(tmp_path):
    plan = fake_plan(["ok a", "ok b"])
    run_inline(plan, tmp_path)
    before = records_text(tmp_path)
    identity = find_run(tmp_path, plan.cells[1].identity[:6])
    (tmp_path / identity / "inspect").mkdir()
    outcome = rerun(tmp_path, identity, InlineExecutor(FAKE), runtime=RUNTIME)
    assert not (tmp_path / identity / "inspect").exists()
    assert [cell.identity for cell in outcome.done] == [identity]
    assert executions(tmp_path)[identity] == 2
    assert (tmp_path / identity / "record.json.previous").exists()
    assert records_text(tmp_path) == before
    assert len(read_manifest(tmp_path).cells) == 8
    with pytest.raises(ValueError, match="no run of"):
        find_run(tmp_path, "x")


@pytest.mark.parametrize("fault", ["the run fails", "the config is refused"])
def test_a_rerun_that_fails_keeps_the_good_run(tmp_path, fault):
    plan = fake_plan(["ok"], datasets=["alpha"])
    run_inline(plan, tmp_path)
    identity = plan.cells[0].identity
    run_dir, before = tmp_path / identity, records_text(tmp_path)
    (run_dir / "weights.safetensors").write_text("learned")
    if fault == "the config is refused":
        (run_dir / "config.gin").write_text("experiment.nonsense = [")
        with pytest.raises(ValueError, match=r"config\.gin"):
            rerun(tmp_path, identity, InlineExecutor(FAKE), runtime=RUNTIME)
    else:
        failing = InlineExecutor("tests.helpers.fake_runs:refuse_and_write")
        outcome = rerun(tmp_path, identity, failing, runtime=RUNTIME)
        assert len(outcome.failed) == 1 and outcome.exit_code == 1
    assert records_text(tmp_path) == before
    assert (run_dir / "weights.safetensors").read_text() == "learned"
    assert not list(run_dir.glob("*.previous")) and not list(tmp_path.glob("*.rerun"))
    assert len(run_inline(plan, tmp_path).skipped) == 2


def test_two_runs_differ_in_their_settings(tmp_path):
    plan = fake_plan(["ok"], datasets=["alpha"])
    run_inline(plan, tmp_path)
    first, second = (tmp_path / cell.identity for cell in plan.cells)
    (second / "config.gin").write_text((second / "config.gin").read_text() + "EmaCache.slots = 3\n")
    assert diff(first, second) == [("EmaCache.slots", "-", "3"), ("experiment.seed", "1", "2")]
    with pytest.raises(ValueError, match="is not a run folder"):
        diff(first, tmp_path)


class FullTracker:
    """Notes what it is told."""

    def __init__(self):
        self.runs, self.closed = [], False

    def finished(self, run_dir):
        assert read_record(run_dir) is not None
        self.runs.append(run_dir.name)

    def close(self, *, seconds=0):
        self.closed = True
        return "the tracker is behind"


def test_the_tracker_hears_of_every_committed_run(tmp_path):
    tracker, lines = FullTracker(), io.StringIO()
    plan = fake_plan(["ok", "refuse"], seeds=[1])
    run_inline(plan, tmp_path, tracker=tracker, progress=PlainProgress(lines))
    assert sorted(tracker.runs) == sorted(cell.identity for cell in plan.cells)
    assert tracker.closed and "the tracker is behind" in lines.getvalue()


def test_an_impossible_folder_is_an_error_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        run_inline(fake_plan(["ok"]), tmp_path / "file")


def test_plain_progress_counts_and_estimates(monkeypatch):
    clock = itertools.count(0, 10.0)
    monkeypatch.setattr("experiments.study.progress.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    progress = PlainProgress(stream, seconds=5)
    progress.begin(total=4, done=1)
    for number in range(3):
        progress.running(str(number), "cell", 0.5)
        progress.finished(str(number), f"cell {number}", "failed" if number == 1 else "finished")
    progress.end()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "4 runs, 1 already done, 3 left"
    assert lines[1].startswith("2/4 runs, about 0:")
    assert "cell 1: failed" in lines and "1 with problems" in lines[-1]
    assert lines[-1].startswith("4/4 runs") and "all done in" in lines[-1]


def test_a_bar_is_for_terminals_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_progress(io.StringIO()), PlainProgress)
    stream = Terminal()
    progress = make_progress(stream)
    assert isinstance(progress, BarProgress)
    progress.begin(total=2, done=0)
    progress.running("a", "run a", 0.5)
    progress.finished("a", "run a", "failed")
    progress.end()
    assert "1/2" in stream.getvalue() and "run a: failed" in stream.getvalue()


def test_one_bar_for_everything_else(monkeypatch):
    """Nothing before the first news; a line every ten seconds where there is no terminal."""
    clock = itertools.count(0, 6.0)
    monkeypatch.setattr("experiments.study.progress.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    with Bar("epochs", stream) as bar:
        assert stream.getvalue() == ""
        for epoch in range(1, 5):
            bar.show(epoch, 5)
    assert stream.getvalue().splitlines()[0].startswith("epochs: ")


@pytest.mark.slow
def test_a_study_survives_a_storm(tmp_path, undisturbed):
    """Random processes of a study are killed at random moments until it is done."""
    chance = random.Random(0)
    kills = 0
    for number in range(60):
        driver = start_driver(tmp_path)
        patience = 1 + number / 15  # a slow machine needs longer lives to get anywhere
        lifetime = time.monotonic() + chance.uniform(0.5, 4.0) * patience
        while time.monotonic() < lifetime and driver.poll() is None:
            time.sleep(chance.uniform(0.2, 0.8))
            with suppress(OSError, IndexError):
                children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text()
                os.kill(int(chance.choice(children.split())), signal.SIGKILL)
                kills += 1
        driver.kill()
        driver.communicate()
        if driver.returncode == 0:
            break
    assert driver.returncode == 0 and kills > 0
    assert records_text(tmp_path) == undisturbed
