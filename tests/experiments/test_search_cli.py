"""The search on the command line: plans, refusals in one line, and the pages."""

import json
import os
import sys
from pathlib import Path

import pytest

import main as command_line
from experiments.cli.ui import server_for
from experiments.configs import read_config_file
from experiments.search.ledger import Asked, Ledger
from experiments.study.lock import StudyLock
from experiments.workers.local import InlineExecutor
from tests.helpers.fake_searches import CONFIG, parsed, read_trials, run_inline


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a command in an empty folder; gives exit code, output and error lines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fake.gin").write_text(CONFIG)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, words)])
        code = command_line.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err.splitlines()

    return run


BAD = [
    (["--trials", "0"], "search.trials must be int >= 1, got 0"),
    (["--set", "search.space={}"], "search.space is empty"),
    (["--set", "search.space={'SGD.lrr': (1.0, 2.0)}"], "did you mean 'lr'"),
    (["--set", "search.space={'experiment.seed': (1, 2)}"], "experiment.seed cannot be searched"),
    (["--set", "search.space={'SGD.lr': {'low': 2.0, 'high': 1.0}}"], "the range is inverted"),
    (["--set", "search.sampler=@Grid"], "there is no sampler 'Grid'"),
    (["--set", "search.datasets=('mosaic/vehicle',)"], "did you mean 'mosaic/vehicles'"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_input_is_one_line_and_2_and_leaves_no_folder(call, tmp_path, words, message):
    code, out, err = call("search", "fake.gin", "--jobs", "0", "--no-track", *words)
    assert (code, out) == (2, "") and len(err) == 1, err
    assert err[0].startswith("error: ") and message in err[0]
    assert not (tmp_path / "runs" / "fake").exists()


def test_a_file_without_a_search_says_so(call):
    code, _, err = call("search", "coop")
    assert code == 2 and "the configuration does not define a search" in err[0]


def test_a_dry_run_checks_and_shows(call, tmp_path):
    code, out, err = call("search", "fake.gin", "--dry-run", "--trials", "5")
    assert (code, err) == (0, [])
    assert "5 x 2 datasets x 2 seeds" in out and "24 with the default, then 8 on test" in out
    assert "@EmaCache | @NoCache" in out and "int, 5 to 100, log" in out
    assert not (tmp_path / "runs").exists()


def test_workers_start_early_where_trials_may_be_left(call, tmp_path, monkeypatch):
    seen = []

    class Watched(InlineExecutor):
        def start_early(self):
            seen.append("early")

        def close(self):
            super().close()
            seen.append("closed")

    def refuse(setup, folder, executor, **_):
        seen.append("planned")
        raise ValueError("not like this")

    monkeypatch.setattr("experiments.cli.search_commands.make_executor", lambda *_, **__: Watched())
    monkeypatch.setattr("experiments.cli.search_commands.run_trials", refuse)
    words = ("search", "fake.gin", "--trials", "4")
    assert call(*words)[2] == ["error: not like this"] and seen == ["early", "planned", "closed"]
    run_inline(parsed(tmp_path / "files", trials=4), tmp_path / "runs" / "fake")
    seen.clear()
    assert call(*words)[0] == 2 and seen == ["planned", "closed"]
    seen.clear()
    assert call(*words[:2], "--trials", "5")[0] == 2 and seen[0] == "early"


def test_a_second_driver_hears_who_is_there(call, tmp_path, monkeypatch):
    from tests.helpers.fake_searches import fingerprints

    monkeypatch.setattr(
        "experiments.cli.search_commands.readable_fingerprints", lambda c, **_: fingerprints(c)
    )
    with StudyLock(tmp_path / "runs" / "fake"):
        code, _, err = call("search", "fake.gin", "--jobs", "0", "--no-track")
    assert code == 2 and len(err) == 1 and "study 'fake' is in use by process" in err[0]


def test_the_report_of_a_search_folder(call, tmp_path):
    run_inline(parsed(tmp_path / "files", trials=4), tmp_path / "s")
    code, out, err = call("report", tmp_path / "s", "--json", tmp_path / "r.json")
    assert (code, err) == (0, [])
    assert "Not judged yet" in out and "report/index.html" in out
    assert json.loads((tmp_path / "r.json").read_text())["study"] == "fake"


def test_the_status_of_a_search_tells_trials_rounds_and_the_best(call, tmp_path):
    folder = tmp_path / "s"
    run_inline(parsed(tmp_path / "files", trials=6), folder)
    code, out, err = call("status", folder, "--json")
    found = json.loads(out)
    assert (code, err) == (0, []) and (found["planned"], found["told"]) == (6, 6)
    best = max(read_trials(folder), key=lambda t: t["values"])
    assert found["best"] == {
        "trial": best["number"], "values": {"val": best["values"][0]}, "params": best["params"],
    }  # fmt: skip
    assert found["runs"] == {"finished": 28, "failed": 0, "diverged": 0, "damaged": 0}
    assert found["under_way"] == [] and not found["judged"] and found["holder"] is None
    code, out, err = call("status", folder)
    assert (code, err) == (0, []) and "6 of 6 ended: 6 complete, 0 pruned" in out
    assert "2 of 2 ended, 4 trials each" in out and f"trial {best['number']}: val" in out


def test_the_status_of_a_search_under_way_and_of_one_in_trouble(call, tmp_path):
    folder = tmp_path / "s"
    run_inline(parsed(tmp_path / "files", "experiment.shots_file='crash'", trials=4), folder)
    asked = Asked(trial=4, params={}, runs=("abc",))
    Ledger(folder).append([asked])
    with StudyLock(folder):
        code, out, _ = call("status", folder)
    assert code == 0 and "no complete trial yet" in out
    assert "failed: trial 0: alpha, seed 1: RuntimeError: this run always fails" in out
    assert f"process {os.getpid()} on" in out and "4 failed" in out and "20 failed" in out
    assert any(line.split() == ["│", "running", "│", "4", "│"] for line in out.splitlines())


def test_no_run_of_a_search_is_made_again_and_the_way_out_works(call, tmp_path):
    folder = tmp_path / "s"
    course = run_inline(parsed(tmp_path / "files", trials=4), folder)
    run = course.scheduler.asked[2].runs[1]
    for wanted, shown in (("2", course.scheduler.asked[2].runs[0]), (run, run), (run[:9], run)):
        code, _, err = call("rerun", folder, wanted)
        assert code == 2 and len(err) == 1 and "trial 2 of" in err[0]
        path = err[0].partition("to repeat a run outside the search: python main.py train ")[2]
        assert path == str(folder / shown / "config.gin") and read_config_file(Path(path))
    for wanted, message in (("7", "no trials of"), ("zz", "give one of 0 to 3")):
        code, _, err = call("rerun", folder, wanted)
        assert code == 2 and len(err) == 1 and message in err[0]
    Ledger(folder).append([Asked(trial=4, params={}, runs=("zzz",))])
    code, _, err = call("rerun", folder, "zz")
    assert code == 2 and "trial 4 of" in err[0] and "is running" in err[0]


def test_pages_follow_the_folder(tmp_path):
    run_inline(parsed(tmp_path / "files", trials=4), tmp_path / "s")
    assert server_for(tmp_path / "s", 8080).title == "Optuna dashboard"
    assert server_for(tmp_path, 5000).title == "MLflow"
