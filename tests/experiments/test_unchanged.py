"""Scoring a stored run again, and learning from one: only with what it was made with."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import main
from core import mosaic
from core.store.record import read_record, write_record
from experiments.run.data_inputs import _dataset
from tests.helpers.dassl_checkpoints import save

SHORT = ("experiment.epochs=1", "experiment.shots=2", "experiment.batch_size=4")
CLASSES = ("apple", "boat", "cat", "dog", "egg", "fox")


def draw(tree: Path, names: tuple[str, ...], count: int = 8) -> None:
    """Noise of a color of its own for every class."""
    for number, name in enumerate(names):
        (tree / name).mkdir(parents=True)
        for i in range(count):
            rng = np.random.default_rng(100 * number + i)
            pixels = rng.integers(0, 90, (32, 32, 3)) + np.eye(3)[number % 3] * 120
            Image.fromarray(pixels.astype(np.uint8)).save(tree / name / f"{i}.png")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a command in an empty folder with a tree of images and a copy of the backbone."""
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "data" / "things", CLASSES)
    shutil.copy(mosaic.WEIGHTS_PATH, tmp_path / "clip.safetensors")

    def run(*words: object, sets: tuple[str, ...] = ()) -> tuple[int, str, list[str]]:
        _dataset.cache_clear()  # as in a new process
        settings = () if words[0] in ("evaluate", "inspect") else (*SHORT, *BASE, *sets)
        chosen = [word for setting in settings for word in ("--set", setting)]
        given = ["main.py", *map(str, words), "--data-root", "data", *chosen]
        given += ["--allow-outside-files"] if words[0] in ("evaluate", "inspect") else []
        monkeypatch.setattr(sys, "argv", given)
        code = main.main()
        shown = capsys.readouterr()
        return code, shown.out, [line for line in shown.err.splitlines() if line]

    return run


BASE = ("experiment.dataset=folder/things", "experiment.weights=clip.safetensors")


def other_weights(path: Path) -> None:
    state = {name: value.clone() for name, value in load_file(path).items()}
    state["visual.proj"] *= 1.5
    save_file(state, path)


def more_classes(data: Path) -> None:
    draw(data, ("gnu", "hat"))


CHANGES = {
    "weights": (lambda: other_weights(Path("clip.safetensors")), "the weights of the backbone"),
    "classes": (lambda: more_classes(Path("data/things")), r"\(2 added: 'gnu', 'hat'\)|the data"),
    "images": (lambda: Path("data/things/cat/3.png").unlink(), "the data"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_scored_again_only_with_what_it_was_made_with(call, change):
    assert call("train", "coop", "--out", "run")[0] == 0
    code, before, errors = call("evaluate", "run", "--json")
    assert code == 0 and errors == []
    stored = [(e.correct, e.total) for e in read_record(Path("run")).evaluations]
    assert [(tuple(e["correct"]), tuple(e["total"])) for e in json.loads(before)] == stored
    do, expected = CHANGES[change]
    do()
    for command in ("evaluate", "inspect"):
        code, out, errors = call(command, "run")
        assert (code, out) == (2, "") and len(errors) == 1
        assert "since this was made there changed: " in errors[0] and "--allow-changed" in errors[0]
        assert any(word in errors[0] for word in expected.replace("\\", "").split("|"))
    code, out, errors = call("evaluate", "run", "--allow-changed", "--json")
    assert code == 0 and any(line.startswith("changed since the run: ") for line in errors) is False
    assert all(score["changed"] for score in json.loads(out))
    code, out, errors = call("evaluate", "run", "--allow-changed")
    assert code == 0 and errors[0].startswith("changed since the run: ")
    code, out, _ = call("inspect", "run", "--allow-changed", "--out", "page", "--images", "4")
    assert code == 0
    assert "changed since the run" in Path("page/index.html").read_text()


def test_learned_weights_are_those_of_the_record(call):
    assert call("train", "coop", "--out", "run")[0] == 0
    path, record = Path("run/weights.safetensors"), read_record(Path("run"))
    data = bytearray(path.read_bytes())
    for place in range(300):
        data[-1 - 4 * place] ^= 1
    path.write_bytes(bytes(data))
    for words in (("evaluate", "run"), ("evaluate", "run", "--allow-changed"), ("inspect", "run")):
        code, out, errors = call(*words)
        assert (code, out) == (2, "") and "its sha256 is not the one" in errors[-1]
    write_record(Path("run"), replaced(record, weights_sha256=""))
    code, _, errors = call("evaluate", "run")
    assert code == 0 and errors == ["run holds no checksum of its learned weights: not checked"]


def test_the_configuration_is_that_of_the_record(call):
    assert call("train", "coop", "--out", "run")[0] == 0
    path = Path("run/config.gin")
    text = path.read_text()
    assert text.count("photo of a") == 1
    path.write_text(text.replace("photo of a", "picture of a"))
    for words in (("evaluate", "run"), ("inspect", "run")):
        code, out, errors = call(*words)
        assert (code, out) == (2, "") and "config.gin was changed after the run" in errors[-1]
    path.write_text(text)
    assert call("evaluate", "run")[0] == 0


def replaced(record, **changes):
    from dataclasses import replace

    return replace(record, **changes)


def test_a_record_of_an_older_version_is_compared_as_far_as_it_goes(call):
    assert call("train", "coop", "--out", "run")[0] == 0
    record = read_record(Path("run"))
    old = {k: v for k, v in record.fingerprints.items() if k != "activation"}
    write_record(Path("run"), replaced(record, fingerprints=old))
    assert call("evaluate", "run")[0] == 0
    other_weights(Path("clip.safetensors"))
    assert call("evaluate", "run")[0] == 2


STUDENT = ("PromptKD.teacher=@RunTeacher", "RunTeacher.run='teacher'")


@pytest.mark.parametrize("change", ["weights", "classes"])
def test_a_teacher_teaches_only_with_what_it_was_made_with(call, change):
    assert call("train", "ivlp", "--out", "teacher")[0] == 0
    assert call("train", "promptkd", "--out", "student", sets=STUDENT)[0] == 0
    CHANGES[change][0]()
    code, out, errors = call("train", "promptkd", "--out", "second", sets=STUDENT)
    assert code == 2 and out == "" and "RunTeacher.allow_changed = True" in errors[-1]
    allowed = (*STUDENT, "RunTeacher.allow_changed=True")
    assert call("train", "promptkd", "--out", "second", sets=allowed)[0] == 0
    assert "RunTeacher.allow_changed = True" in Path("second/config.gin").read_text()
    assert "allow_changed" not in Path("student/config.gin").read_text()


def test_a_teacher_that_is_damaged_or_did_not_finish_is_refused(call):
    assert call("train", "ivlp", "--out", "teacher")[0] == 0
    path, record = Path("teacher/weights.safetensors"), read_record(Path("teacher"))
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    code, _, errors = call("train", "promptkd", "--out", "student", sets=STUDENT)
    assert code == 2 and "its sha256 is not the one" in errors[-1]
    path.write_bytes(good)
    lost = replaced(record, status="diverged", evaluations=(), message="the loss was nan")
    write_record(Path("teacher"), lost)
    code, _, errors = call("train", "promptkd", "--out", "student", sets=STUDENT)
    assert code == 2 and "cannot teach: it diverged (the loss was nan)" in errors[-1]


@pytest.mark.parametrize("change", CHANGES)
def test_an_import_is_repeated_only_with_what_it_was_made_with(call, change):
    file = save(Path("theirs"), "prompt_learner", {"ctx": torch.randn(4, 128)})
    words = ("import", file, "coop")
    assert call(*words)[0] == 0
    code, _, errors = call(*words)
    assert code == 0 and errors[0].endswith("already holds this import; it is scored again")
    CHANGES[change][0]()
    code, out, errors = call(*words)
    assert (code, out) == (2, "") and "since this was made there changed" in errors[-1]
    assert call(*words, "--out", "other")[0] == 0  # another place, another result
    code, out, _ = call(*words, "--allow-changed", "--json")
    assert code == 0
    assert "changed since an earlier import: " in json.loads(out)["message"]


def test_an_import_says_what_it_replaces_and_what_a_folder_is(call):
    assert call("train", "coop", "--out", "run")[0] == 0
    file = save(Path("theirs"), "prompt_learner", {"ctx": torch.randn(4, 128)})
    code, _, errors = call("import", file, "coop", "--out", "run")
    assert code == 0 and errors == ["run holds another run, which this import replaces"]
    code, _, errors = call("import", "theirs", "coop")
    assert code == 2
    assert errors == [f"error: checkpoint theirs is a folder; give the file in it, such as {file}"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_an_imported_file_that_is_not_finite_names_the_tensor(call, value):
    context = torch.randn(4, 128, dtype=torch.float64)
    context[1, 2] = value
    file = save(Path("theirs"), "prompt_learner", {"ctx": context})
    code, out, errors = call("import", file, "coop", "--out", "run")
    assert (code, out) == (2, "") and "in the tensor 'ctx'" in errors[-1]
    assert not Path("run/record.json").exists() and not Path("run/weights.safetensors").exists()
