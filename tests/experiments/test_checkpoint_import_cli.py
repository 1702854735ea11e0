"""The ``import`` command: a published checkpoint becomes a run folder like any other."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import main
from core.train.published_checkpoints import read_published
from tests.helpers.dassl_checkpoints import class_buffers, head, save, whole_clip

SHORT = ("experiment.epochs=2", "experiment.shots=2", "SGD.lr=0.05")
MOSAIC = ("experiment.dataset=mosaic/critters", "experiment.backbone=mosaic")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, small_mosaic):
    """Runs a command in an empty folder with the small Mosaic; exit code, output, error lines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    small_mosaic.mkdir(exist_ok=True)
    (tmp_path / "runs" / "cache").symlink_to(small_mosaic)

    def run(*words: object, sets: tuple[str, ...] = ()) -> tuple[int, str, list[str]]:
        chosen = [word for setting in (*SHORT, *MOSAIC, *sets) for word in ("--set", setting)]
        if words[0] == "evaluate":
            chosen = []
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, words), *chosen])
        code = main.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err.splitlines()

    return run


def record(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


def test_an_imported_run_says_what_the_trained_one_says(call, tmp_path):
    assert call("train", "coop", "--out", tmp_path / "trained")[0] == 0
    learned = load_file(tmp_path / "trained" / "weights.safetensors")
    state = {"ctx": learned["method.ctx"], **class_buffers(6, 128)}
    file = save(tmp_path / "theirs", "prompt_learner", state)
    code, out, _ = call("import", file, "coop", "--out", tmp_path / "imported")
    assert code == 0 and "harmonic mean %" in out and "imported from" in out
    trained, imported = record(tmp_path / "trained"), record(tmp_path / "imported")
    assert imported["evaluations"] == trained["evaluations"]
    assert imported["status"] == "finished" and imported["selected_epoch"] == 50
    assert imported["identity"] != trained["identity"]
    assert imported["fingerprints"]["few_shot"] == "" and imported["fingerprints"]["checkpoint"]
    assert imported["cost"]["train_seconds"] == 0
    files = {path.name for path in (tmp_path / "imported").iterdir()}
    assert files == {
        "config.gin",
        "weights.safetensors",
        "operative.json",
        "code.json",
        "log.jsonl",
        "correct.json",
        "predictions.json",
        "record.json",
    }
    again = ("--dataset", "mosaic/vehicles", "--classes", "all", "--json")
    scores = [call("evaluate", tmp_path / run, *again) for run in ("trained", "imported")]
    assert scores[0] == scores[1] and json.loads(scores[0][1])[0]["dataset"] == "mosaic/vehicles"
    changed = {**state, "ctx": torch.zeros_like(state["ctx"])}
    assert call("import", save(tmp_path / "other", "prompt_learner", changed), "coop")[0] == 0
    (folder,) = (tmp_path / "runs" / "imported").iterdir()
    assert record(folder)["identity"] == folder.name != imported["identity"]


def test_text_refiner_comes_with_the_file_of_its_memory(call, tmp_path):
    assert call("train", "text_refiner", "--out", tmp_path / "trained")[0] == 0
    learned = load_file(tmp_path / "trained" / "weights.safetensors")
    align = {
        name.removeprefix("refiner.alignment.").replace("norm.", "bn."): value
        for name, value in learned.items()
        if name.startswith("refiner.alignment.")
    }
    state = {"prompt_learner.ctx": learned["method.ctx"], **whole_clip()}
    state |= class_buffers(6, 128, "prompt_learner.") | head("mid_image_trans", align)
    file = save(tmp_path / "theirs", "prompt_learner", state, epoch=10)
    extractor = {"extractor.weight": learned["refiner.aggregation.extractor.weight"]}
    memory = learned["refiner.cache.slots_MD"]
    words = ("import", file, "text_refiner", "--out", tmp_path / "imported")
    code, _, errors = call(*words)
    assert code == 2 and "the other is expected at" in errors[-1] and len(errors) == 1
    assert not (tmp_path / "imported").exists()
    save(tmp_path / "theirs", "Memory", extractor, epoch=10, memory_item=memory)
    assert call(*words)[0] == 0
    trained, imported = record(tmp_path / "trained"), record(tmp_path / "imported")
    assert imported["evaluations"] == trained["evaluations"]
    restored = load_file(tmp_path / "imported" / "weights.safetensors")
    counters = {"refiner.cache.idle_M"}  # nobody publishes how long a slot was idle
    assert all(torch.equal(restored[k], learned[k]) for k in set(learned) - counters)
    save(tmp_path / "theirs", "Memory", extractor, epoch=10, memory_item=memory.flip(0) * 2)
    first = imported["fingerprints"]["checkpoint"]
    assert call(*words)[0] == 0
    assert record(tmp_path / "imported")["fingerprints"]["checkpoint"] != first


def test_what_does_not_fit_is_one_line_and_exit_code_2(call, tmp_path):
    file = save(tmp_path / "theirs", "prompt_learner", {"ctx": torch.ones(6, 128)})
    code, _, errors = call("import", file, "coop", "--out", tmp_path / "imported")
    assert code == 2 and len(errors) == 1
    assert "'ctx' is (6, 128) in" in errors[0] and "'method.ctx' is (4, 128) here" in errors[0]
    sets = ("CoOp.num_ctx=6", "CoOp.ctx_init=''")
    assert call("import", file, "coop", "--out", tmp_path / "imported", sets=sets)[0] == 0
    code, _, errors = call("import", tmp_path / "nowhere", "coop")
    assert code == 2 and errors == [f"error: checkpoint {tmp_path / 'nowhere'} does not exist"]
    assert read_published(file).epoch == 50
