"""Two commits side by side: what a row says, what is refused, and that nothing is left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.run.published_flow import revision_child, revisions
from experiments.run.published_flow.revisions import (
    RevisionRow,
    RevisionSetting,
    checked_out,
    commit_of,
    compare_revisions,
)
from main import main
from tests.helpers.paths import ROOT

needs_git = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="the tree is not a git repository"
)


def row(before, now, **more):
    return RevisionRow(case="coop", views="fixed", before=before, now=now, **more)


def is_worktree(tree):
    done = subprocess.run(
        ["git", "-C", str(ROOT), "worktree", "list"], capture_output=True, text=True, check=True
    )
    return str(tree) in done.stdout


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        ((2.0, 2.1, 1.9), (1.0, 1.0, 1.0), "faster"),
        ((1.0, 1.0, 1.0), (2.0, 2.1, 1.9), "slower"),
        ((1.0, 1.2, 0.9), (1.0, 1.0, 1.0), "within the noise"),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), "within the noise"),
        ((2.0,), (1.0,), "one round: no spread"),
    ],
)
def test_a_difference_counts_where_it_is_larger_than_the_noise(before, now, verdict):
    assert row(before, now).verdict == verdict


def test_a_busy_moment_that_touches_both_sides_is_no_noise():
    found = row((2.0, 4.0, 2.0), (1.0, 2.0, 1.0))
    assert found.ratio == 2 and found.noise == 0 and found.verdict == "faster"


def test_a_row_says_whether_both_commits_computed_the_same():
    assert row((1.0,), (1.0,), losses=(4.0, 4.00001)).same_loss
    assert not row((1.0,), (1.0,), losses=(4.0, 4.1)).same_loss
    assert row((1.0,), (1.0,)).same_loss


def test_a_child_answers_with_times_and_says_what_it_cannot_run(tmp_path):
    steps = revision_child.Steps("mosaic", 5, 1, tmp_path)
    asked = {"case": "coop", "views": "fixed", "at_least": 0.0}
    first, second = steps.answer(asked), steps.answer(asked)
    assert first["seconds"] > 0 and second["loss"] != first["loss"], "steps go on"
    assert len(steps.sides) == 1
    with pytest.raises(KeyError):
        steps.answer({**asked, "case": "other"})


@needs_git
def test_a_commit_is_checked_out_and_leaves_nothing_behind():
    seen = []

    def interrupted():
        with checked_out("HEAD") as tree:
            seen.extend((tree, (tree / "main.py").is_file(), is_worktree(tree)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen[1:] == [True, True]
    assert not seen[0].exists() and not is_worktree(seen[0])


@needs_git
@pytest.mark.parametrize("reference", ["no such branch", "", " ", "--help", "HEAD:main.py"])
def test_what_is_no_commit_is_refused(reference):
    with pytest.raises(ValueError, match="--against"):
        commit_of(reference)


@needs_git
def test_the_command_refuses_what_is_no_commit_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["main.py", "bench", "--against", "publishd"])
    assert main() != 0
    said = capsys.readouterr().err.strip()
    assert "must be 'published' or a commit" in said and len(said.splitlines()) == 1


@needs_git
def test_memory_and_evaluation_are_of_the_released_flow_alone(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["main.py", "bench", "--against", "HEAD", "--memory"])
    assert main() != 0
    assert "--memory belongs to --against published" in capsys.readouterr().err


@pytest.mark.slow
@needs_git
def test_this_commit_against_itself_gives_the_same_losses_in_turns(monkeypatch):
    setting = RevisionSetting(backbone="mosaic", classes=5, rounds=2, threads=1)
    monkeypatch.setattr(revisions, "SECONDS", 0.0)
    keys = [("coop", "fixed"), ("sep", "fresh"), ("other", "fixed")]
    found = list(compare_revisions("HEAD", keys, setting, lambda text: None))
    assert [r.same_loss for r in found] == [True] * 3
    assert [len(r.before) for r in found] == [2, 2, 0]
    assert found[-1].problem == "the other commit cannot run it: KeyError: 'other'"


@needs_git
def test_a_child_that_ends_is_a_problem_of_its_side(monkeypatch, tmp_path):
    child = tmp_path / "child.py"
    child.write_text("import sys; sys.stdin.readline()")
    monkeypatch.setattr(revisions, "CHILD", child)
    setting = RevisionSetting(backbone="mosaic", classes=5, rounds=1, threads=1)
    with revisions.RevisionSide(Path(sys.prefix), setting) as side:
        assert side.asked("coop", "fixed", at_least=0.0) == {"error": "its process ended"}
        assert side.asked("coop", "fixed", at_least=0.0) == {"error": "its process ended"}
