"""A search that was killed anywhere ends as the one that was not: the same ledger, to the byte."""

import io
import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from itertools import count

import pytest

import experiments.study.driver
from core.store.names import LEDGER_NAME, SHARE_FOLDER
from experiments.search.ledger import Ledger
from experiments.study.progress import PlainProgress
from experiments.study.share import Sharing
from experiments.workers.local import InlineExecutor, LocalExecutor
from tests.helpers.fake_runs import executions
from tests.helpers.fake_searches import ENTRY, history, parsed, read_trials, run_inline

FORK = multiprocessing.get_context("fork")
SAMPLERS = {
    "TPE": ("search.sampler=@TPE",),
    "GP": ("search.sampler=@GP", "GP.num_startup=4"),
    "NSGA3": (
        "search.sampler=@NSGA3",
        "NSGA3.population=4",
        "search.objectives=('base', 'new', 'trainable_parameters')",
    ),
    "CMAES": ("search.sampler=@CMAES",),
    "QMC": ("search.sampler=@QMC",),
}
PRUNED = (
    "search.pruner=@MedianPruning",
    "MedianPruning.num_startup=2",
    "MedianPruning.min_runs=1",
    "search.stage='run'",
)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def at(number, how):
    """A wrapper that kills the process at call ``number``: before, after, or in the middle."""

    def wrap(function, torn=None):
        calls = iter(range(1, 10_000))

        def call(*arguments):
            due = next(calls) == number
            if due and how == "before":
                die()
            if due and how == "torn":
                torn(*arguments)
                die()
            result = function(*arguments)
            if due:
                die()
            return result

        return call

    return wrap


def tear(ledger, events):
    """Write half of what was to be written."""
    events = list(events)
    length = ledger.path.stat().st_size if ledger.path.exists() else 0
    ORIGINAL_APPEND(ledger, events)
    whole = ledger.path.stat().st_size
    os.truncate(ledger.path, length + (whole - length) // 2)


ORIGINAL_APPEND = Ledger.append


class Forgetful(InlineExecutor):
    """Loses every fifth job at its end, as an executor on other machines may."""

    def __init__(self):
        super().__init__(ENTRY)
        self.numbers, self.lost = count(1), 0

    def poll(self, timeout):
        return [*map(self.heard, super().poll(timeout))]

    def heard(self, event):
        if event.kind != "done" or next(self.numbers) % 5:
            return event
        self.lost += 1
        return replace(event, kind="lost", attempt=0, result={}, message="its node was lost")


SHARE = Sharing(num_workers=lambda: 3)


def killed_search(search, folder, place, number, how, jobs):
    """The life of a process that is killed at one call of the ledger or of a record."""
    if place == "ledger":
        Ledger.append = at(number, how)(Ledger.append, tear)
    else:
        experiments.study.driver.write_record = at(number, how)(
            experiments.study.driver.write_record
        )
    if jobs < 0:
        run_inline(search, folder, Forgetful(), share=SHARE)
        return
    executor = LocalExecutor(jobs, entry=ENTRY, log_dir=folder / "logs") if jobs else None
    run_inline(search, folder, executor)


def kill(search, folder, place, number, how, jobs=0):
    process = FORK.Process(target=killed_search, args=(search, folder, place, number, how, jobs))
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL, process.exitcode


POINTS = [
    ("ledger", 1, "before"),
    ("ledger", 1, "torn"),
    ("ledger", 1, "after"),
    ("record", 1, "before"),
    ("record", 7, "after"),
    ("ledger", 1, "torn"),
    ("ledger", 1, "after"),
    ("ledger", 1, "before"),
    ("record", 5, "before"),
    ("record", 9, "after"),
]


@pytest.fixture(autouse=True)
def library_path(monkeypatch):
    """Workers find the modules of the tests."""
    monkeypatch.setattr(sys, "path", [*dict.fromkeys(p or os.getcwd() for p in sys.path)])


@pytest.mark.parametrize("name", [*SAMPLERS, "pruned"])
def test_a_killed_search_ends_as_the_undisturbed_one(tmp_path, name):
    overrides = PRUNED if name == "pruned" else SAMPLERS[name]
    search = parsed(tmp_path, *overrides)
    assert run_inline(search, tmp_path / "plain").complete
    for place, number, how in POINTS[:: 3 if name == "GP" else 1]:
        kill(search, tmp_path / "killed", place, number, how)
    course = run_inline(search, tmp_path / "killed")
    assert course.complete
    plain, killed = ((tmp_path / f / LEDGER_NAME).read_bytes() for f in ("plain", "killed"))
    assert killed == plain
    assert history(tmp_path / "killed") == history(tmp_path / "plain")
    trials = read_trials(tmp_path / "plain")
    assert len(trials) == 12 and len({str(trial["params"]) for trial in trials}) > 8
    if name == "pruned":
        assert {"pruned", "complete"} == {trial["state"] for trial in trials}


@pytest.mark.parametrize("name", ["TPE", "pruned"])
def test_an_executor_that_loses_jobs_and_a_kill_of_its_driver_change_nothing(tmp_path, name):
    """The search goes on where it was, on another executor too."""
    search = parsed(tmp_path, *(PRUNED if name == "pruned" else SAMPLERS[name]))
    run_inline(search, tmp_path / "plain")
    executor = Forgetful()
    course = run_inline(search, tmp_path / "lost", executor, share=SHARE)
    assert course.complete and executor.lost > 5 and not course.study.left
    kill(search, tmp_path / "killed", "ledger", 2, "torn", jobs=-1)
    assert (tmp_path / "killed" / SHARE_FOLDER).exists()
    assert run_inline(search, tmp_path / "killed").complete
    for folder in ("lost", "killed"):
        assert not (tmp_path / folder / SHARE_FOLDER).exists()
        assert history(tmp_path / folder) == history(tmp_path / "plain")
        ledgers = [(tmp_path / f / LEDGER_NAME).read_bytes() for f in (folder, "plain")]
        assert ledgers[0] == ledgers[1]


@pytest.mark.parametrize("name", ["TPE", "GP", "NSGA3"])
def test_several_workers_and_kills_change_nothing(tmp_path, name):
    search = parsed(tmp_path, *SAMPLERS[name])
    run_inline(search, tmp_path / "plain")
    kill(search, tmp_path / "workers", "record", 6, "before", jobs=3)
    kill(search, tmp_path / "workers", "ledger", 2, "torn", jobs=2)
    with LocalExecutor(3, entry=ENTRY, log_dir=tmp_path / "logs") as executor:
        assert run_inline(search, tmp_path / "workers", executor).complete
    plain, again = ((tmp_path / f / LEDGER_NAME).read_bytes() for f in ("plain", "workers"))
    assert again == plain
    counts = executions(tmp_path / "workers")
    assert sum(counts.values()) <= len(counts) + 2 * 3


def test_a_worker_that_dies_changes_nothing(tmp_path):
    quiet = parsed(tmp_path, "search.trials=4", "experiment.shots_file='x'")
    run_inline(quiet, tmp_path / "plain")
    search = parsed(tmp_path, "search.trials=4", "experiment.shots_file='kill once'")
    with LocalExecutor(2, entry=ENTRY, log_dir=tmp_path / "logs") as executor:
        course = run_inline(search, tmp_path / "killed", executor)
    assert course.complete and not course.study.failed
    rows = [
        [(t["number"], t["params"], t["values"]) for t in read_trials(tmp_path / folder)]
        for folder in ("plain", "killed")
    ]
    assert rows[0] == rows[1]


def test_a_longer_search_begins_as_the_shorter_one(tmp_path):
    run_inline(parsed(tmp_path, trials=8), tmp_path / "grown")
    short = read_trials(tmp_path / "grown")
    run_inline(parsed(tmp_path, trials=12), tmp_path / "grown")
    run_inline(parsed(tmp_path, trials=12), tmp_path / "at once")
    assert read_trials(tmp_path / "grown")[:8] == short
    assert history(tmp_path / "grown") == history(tmp_path / "at once")


def test_an_interrupted_search_is_resumed(tmp_path):
    """Ctrl-C lets what runs end; nothing new is asked for."""
    search = parsed(tmp_path)
    run_inline(search, tmp_path / "plain")

    class Impatient(PlainProgress):
        def finished(self, key, label, status):
            super().finished(key, label, status)
            if self.pace.done == 9:
                os.kill(os.getpid(), signal.SIGINT)

    course = run_inline(search, tmp_path / "stopped", progress=Impatient(io.StringIO()))
    assert not course.complete and course.study.interrupted
    assert run_inline(search, tmp_path / "stopped").complete
    assert history(tmp_path / "stopped") == history(tmp_path / "plain")


def test_the_asynchronous_mode_keeps_its_order_and_resumes(tmp_path):
    search = parsed(tmp_path, "search.mode='asynchronous'")
    with LocalExecutor(2, entry=ENTRY, log_dir=tmp_path / "logs") as executor:
        assert run_inline(search, tmp_path / "plain", executor).complete
    kinds = [type(event).__name__ for event in Ledger(tmp_path / "plain").events]
    assert kinds.count("Asked") == kinds.count("Told") == 12
    assert kinds[:4] == ["Asked"] * 4 and kinds[4:6] == ["Told", "Asked"]
    kill(search, tmp_path / "killed", "record", 12, "after", jobs=2)
    kill(search, tmp_path / "killed", "ledger", 4, "torn", jobs=2)
    before = Ledger(tmp_path / "killed").events
    assert run_inline(search, tmp_path / "killed").complete
    after = Ledger(tmp_path / "killed").events
    assert after[: len(before)] == before and len(after) == 24


def test_sampler_drift_is_told_and_nothing_is_lost(tmp_path):
    run_inline(parsed(tmp_path, trials=4), tmp_path / "s")
    ledger = Ledger(tmp_path / "s")
    events = list(ledger.events)
    ledger.path.unlink()
    changed = type(events[1])(
        trial=1, params={**events[1].params, "SGD.lr": "0.5"}, runs=events[1].runs
    )
    ORIGINAL_APPEND(Ledger(tmp_path / "s"), [events[0], changed, *events[2:]])
    text = ledger.path.read_bytes()
    with pytest.raises(ValueError, match="trial 1 of 'fake' would now be"):
        run_inline(parsed(tmp_path, trials=8), tmp_path / "s")
    assert ledger.path.read_bytes() == text
