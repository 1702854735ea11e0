"""Every command that is given a wrong value: exit code 2, one line, no work."""

import os
import sys

import pytest

import main as command_line

NAMES = (
    *("", "nan", "-1", "99999999999999999999", "file.txt", "/nowhere/x/y", "a" * 5000),
    *("\x1b[31m", "a\nb", "%s", "{}", "ünï/no", "\udce4"),
)
NUMBERS = ("", "nan", "inf", "1e400", "one", "file.txt", "\x1b[31m", "-99999999999999999999")

FOLDERS = [
    ["evaluate", "@"], ["inspect", "@"], ["status", "@"], ["diff", "@", "@"], ["rerun", "@", "x"],
    ["report", "@"], ["export", "@", "x.csv"], ["sync", "@"], ["ui", "no@"],
    ["import", "@", "coop"],
    ["train", "@"], ["grid", "@"], ["search", "@"], ["published", "@"], ["data", "check", "@"],
    ["train", "zero_shot", "--set", "@"], ["grid", "demo", "--dry-run", "--set", "@"],
    ["train", "zero_shot", "--set", "experiment.dataset=mosaic/vehicles", "--device", "@"],
]  # fmt: skip
COUNTS = [
    ["grid", "demo", "--dry-run", "--jobs", "@"], ["inspect", ".", "--images", "@"],
    ["report", "file.txt", "--alpha", "@"], ["report", "file.txt", "--rope", "@"],
    ["report", "file.txt", "--image-runs", "@"], ["ui", ".", "--port", "@"],
    ["search", "search_sep", "--dry-run", "--trials", "@"], ["pretrain", "--steps", "@"],
    ["pretrain", "--processes", "@"], ["grid", "demo", "--dry-run", "--set", "grid.seeds=(@,)"],
    ["train", "coop", "--set", "experiment.epochs=@"], ["train", "coop", "--set", "SGD.lr=@"],
]  # fmt: skip
OTHERS = [
    (["ui", "runz"], "runz does not exist"),
    (["ui", "file.txt"], "file.txt is a file"),
    (["ui", ".", "--port", "0"], "--port must be from 1 to 65535"),
    (["grid", "demo", "--dry-run", "--set", "experiment.dataset=x"], "set grid.datasets instead"),
    (["grid", "demo", "--dry-run", "--set", "experiment.seed=3"], "set grid.seeds instead"),
    (["grid", "demo", "--dry-run", "--set", "grid.study=Cache"], "other commands use"),
    (["train", "coop", "--set", "CoOp.num_ctx=16"], "CoOp.ctx_init = '' for 16 random vectors"),
    (["import", "file.txt", "coop", "--set", "CoOp.num_ctx=16"], "16 random vectors"),
    (["train", "zero_shot", "--set", "experiment.template='a {0}'"], "{} exactly once"),
    (["train", "mosaic", "--set", "experiment.template='a {}'"], "CoOp makes its own prompts"),
    (
        ["grid", "demo", "--dry-run", "--set", "experiment.crop_cache_gb=1e300"],
        "in [0, 1000000000]",
    ),
    (["train", "cocoop", "--set", "CoCoOp.max_text_memory_mb=1e300"], "> 0 and in [0, 1000000000]"),
    (["status", "deep"], "nested too deeply|not a readable|not JSON|damaged|study.json"),
]


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a command beside a text file and an empty folder; gives code, output and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "study.json").write_text("[" * 100_000)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", *words])
        code = command_line.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def refused(call, words, tmp_path):
    before = sorted(os.listdir(tmp_path))
    code, out, err = call(*words)
    assert code == 2 and out == "", (words, out)
    assert err.startswith("error: ") and err.count("\n") == 1 and len(err) < 2300
    assert "\x1b" not in err and "Errno" not in err and "Traceback" not in err
    assert sorted(os.listdir(tmp_path)) == before
    return err


@pytest.mark.parametrize("form", FOLDERS, ids=" ".join)
def test_a_wrong_name_is_one_line(call, tmp_path, form):
    for name in NAMES:
        refused(call, [word.replace("@", name) for word in form], tmp_path)


@pytest.mark.parametrize("form", COUNTS, ids=" ".join)
def test_a_wrong_number_is_one_line(call, tmp_path, form):
    for number in NUMBERS:
        refused(call, [word.replace("@", number) for word in form], tmp_path)


@pytest.mark.parametrize(("words", "message"), OTHERS, ids=[" ".join(w) for w, _ in OTHERS])
def test_a_wrong_value_names_the_way_out(call, tmp_path, words, message):
    found = refused(call, words, tmp_path)
    assert any(part in found for part in message.split("|"))
