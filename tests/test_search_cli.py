"""The search on the command line: plans, refusals in one line, and the pages."""

import json
import sys

import pytest
from search_runs import CONFIG, parsed, run_inline

import main as command_line
from experiments.lock import StudyLock
from experiments.search_app import pages_of


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
    assert code == 2 and "the configuration has no search" in err[0]


def test_a_dry_run_checks_and_shows(call, tmp_path):
    code, out, err = call("search", "fake.gin", "--dry-run", "--trials", "5")
    assert (code, err) == (0, [])
    assert "5 x 2 data sets x 2 seeds" in out and "24 with the default's, then 8 on test" in out
    assert "@EmaCache | @NoCache" in out and "int, 5 to 100, log" in out
    assert not (tmp_path / "runs").exists()


def test_a_second_driver_hears_who_is_there(call, tmp_path, monkeypatch):
    from search_runs import fingerprints

    monkeypatch.setattr("experiments.search.commands.fingerprints", lambda c, **_: fingerprints(c))
    with StudyLock(tmp_path / "runs" / "fake"):
        code, _, err = call("search", "fake.gin", "--jobs", "0", "--no-track")
    assert code == 2 and len(err) == 1 and "study 'fake' is in use by process" in err[0]


def test_the_report_of_a_search_folder(call, tmp_path):
    run_inline(parsed(tmp_path / "files", trials=4), tmp_path / "s")
    code, out, err = call("report", tmp_path / "s", "--json", tmp_path / "r.json")
    assert (code, err) == (0, [])
    assert "Not judged yet" in out and "report/index.html" in out
    assert json.loads((tmp_path / "r.json").read_text())["study"] == "fake"


def test_pages_follow_the_folder(tmp_path):
    run_inline(parsed(tmp_path / "files", trials=4), tmp_path / "s")
    assert pages_of(tmp_path / "s", 8080).title == "Optuna dashboard"
    assert pages_of(tmp_path, 5000).title == "MLflow"
