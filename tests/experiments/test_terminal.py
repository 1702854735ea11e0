"""Tables on terminals of every width, and names that must not steer them."""

import io
import json
import re
import sys

import pytest

from experiments.cli.console import console, table
from experiments.study.progress import Bar, PlainProgress
from experiments.workers.worker import Task

COLUMNS = ["variant", "dataset", "finished", "failed", "diverged", "missing"]
STYLE = re.compile(r"\x1b\[[0-9;]*m")
ROWS = [["CoOp+TextRefiner", "mosaic/critters", 5, 0, 0, 0]]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, width, rows=ROWS, columns=COLUMNS):
    screen = Terminal()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", screen)
    console().print(table("study demo", columns, rows))
    return STYLE.sub("", screen.getvalue())


@pytest.mark.parametrize("width", [0, 1, 10, 20, 40, 60, 80, 200])
def test_every_cell_is_readable_at_every_width(monkeypatch, width):
    found = "".join(shown(monkeypatch, width).split())
    for word in ("CoOp", "TextRefiner", "mosaic", "critters", "diverged", "5"):
        assert word in found.replace("│", "")


def test_a_narrow_terminal_gets_a_block_for_each_row(monkeypatch):
    lines = shown(monkeypatch, 20, [["a", "b", 1, 2, 3, 4]]).split("\n")
    assert [line.strip() for line in lines if line.strip()] == [
        "study demo", "variant: a", "dataset: b", "finished: 1", "failed: 2", "diverged: 3",
        "missing: 4",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [20, 200])
def test_names_are_text_and_nothing_else(monkeypatch, width):
    name = "\x1b[2J[bold]:cat:\x9b"
    found = shown(monkeypatch, width, [[name]], ["na\x1bme"])
    assert "\x1b[2J" not in found and "\x9b" not in found and "\x1bme" not in found
    assert "\\u001b[2J[bold]:cat:\\u009b" in re.sub(r"[\s│]", "", found)


def test_names_longer_than_any_line_are_shown_whole(monkeypatch):
    found = shown(monkeypatch, 80, [["n" * 300, "d", 1, 0, 0, 0]])
    assert found.count("n") >= 300


def test_labels_and_notes_of_progress_are_text(monkeypatch):
    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    with Bar("\x1b[2Jlabel", screen) as bar:
        bar.show(0, 2, "\x1b[2Jlabel")
        bar.note("note \x1b[2J")
    assert "\x1b[2J" not in screen.getvalue() and "\\u001b[2Jlabel" in screen.getvalue()


def test_a_long_failure_is_one_bounded_line():
    log = io.StringIO()
    PlainProgress(log).note("attempt 1 failed: " + "y" * 3_000_000 + "\nmore")
    assert log.getvalue().count("\n") == 1 and len(log.getvalue()) < 2200


def explode(payload, on_progress):
    """An entry function that fails with a very long text."""
    raise RuntimeError("z" * 3_000_000)


def test_a_worker_sends_a_bounded_message_and_logs_all_of_it(capsys):
    task = Task("tests.experiments.test_terminal:explode", "job", {}, lambda values: None)
    answer = json.loads(task.advance())
    assert answer["kind"] == "failed" and answer["message"].startswith("RuntimeError: zzz")
    assert len(answer["message"]) < 2100 and answer["message"].endswith("more characters)")
    assert capsys.readouterr().err.count("z") >= 3_000_000
