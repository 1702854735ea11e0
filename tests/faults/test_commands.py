"""Faults that a user meets at the command line, each with the program itself as a process."""

import hashlib
import http.client
import json
import os
import pickle
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from core.store.record import read_record, write_record
from tests.helpers.fault_programs import environment, finish, program, records, texts, wait_for
from tests.helpers.paths import ROOT
from tests.helpers.study_folders import edit_manifest, make_study

pytestmark = pytest.mark.faults
CLASSES = ("red bird", "green bird", "blue bird", "gray bird")
SHORT = {
    "experiment.dataset": "folder/birds",
    "experiment.shots": "2",
    "experiment.epochs": "1",
}
GRID = """
include 'mosaic.gin'
grid.study = 'toy'
grid.datasets = ('folder/birds',)
grid.seeds = (1,)
grid.baseline = 'a'
grid.variants = VARIANTS
experiment.shots = 2
experiment.epochs = 1
"""
TWO = "{'a': {}, 'b': {'experiment.epochs': 2}}"


def settings(*words):
    """Options of a short run, with others instead of or beside them."""
    given = SHORT | dict(word.split("=", 1) for word in words)
    return [word for key, value in given.items() for word in ("--set", f"{key}={value}")]


def plant(folder):
    """A tree of small images of four classes."""
    rng = np.random.default_rng(0)
    for index, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 120, (48, 48, 3), dtype=np.uint8)
            pixels[..., index % 3] += 120
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def grid_file(folder, variants=TWO, more=""):
    (folder / "toy.gin").write_text(GRID.replace("VARIANTS", variants) + more)
    return "toy.gin"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A working folder with data, a finished study of two runs, and its caches."""
    folder = tmp_path_factory.mktemp("home")
    plant(folder / "birds")
    code, _, errors = program("grid", grid_file(folder), "--jobs", 1, "--no-track", cwd=folder)
    assert code == 0, errors
    return folder


@pytest.fixture
def place(home, tmp_path):
    """A copy of it for one test."""
    return shutil.copytree(home, tmp_path / "place", symlinks=True)


def refused(found, *words):
    """Exit code 2, one line that says these words, and no traceback."""
    code, _, errors = found
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in errors, errors
    assert all(re.search(word, lines[0], re.IGNORECASE) for word in words), lines[0]


def first_run(place):
    return records(place / "runs" / "toy")[0].parent


@pytest.mark.parametrize("how", ["torn", "flipped"])
def test_12_a_damaged_checkpoint(place, how):
    run_dir = first_run(place)
    path = run_dir / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 16
    path.write_bytes(bytes(data if how == "flipped" else data[: len(data) // 2]))
    refused(program("evaluate", run_dir, cwd=place), "weights.safetensors")


def test_12_a_damaged_cache_of_features_is_computed_again(place):
    shards = list((place / "runs" / "cache" / "features").rglob("*.safetensors"))
    for shard in shards:
        data = bytearray(shard.read_bytes())
        data[-9] ^= 255
        shard.write_bytes(bytes(data))
    before = program("evaluate", first_run(place), "--json", cwd=place)
    assert shards and before[0] == 0 and "corrupt feature shard" in before[2]
    again = program("evaluate", first_run(place), "--json", cwd=place)
    assert again[1] == before[1] and "corrupt" not in again[2]


def test_13_code_in_files_of_tensors(place):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {place}/executed",)

    torch.save({"state_dict": Evil()}, place / "evil.pt")
    (place / "evil.bin").write_bytes(pickle.dumps(Evil()))
    scripted = torch.jit.script(torch.nn.Linear(2, 2))
    scripted.save(str(place / "script.pt"))
    for name in ("evil.pt", "evil.bin", "script.pt"):
        found = program("train", "mosaic", *settings(f"experiment.weights={name}"), cwd=place)
        refused(found, name)
        assert "weights_only=False" not in found[2]
    assert not (place / "executed").exists()


def test_14_no_memory(place):
    """What needs no GPU of it: an allocation that cannot succeed ends the run, not the study."""
    limit = ["prlimit", "--as=3500000000"]
    found = program("grid", grid_file(place), "--jobs", 1, "--no-track", cwd=place, prefix=limit)
    assert found[0] in (0, 1, 2) and len(records(place / "runs" / "toy")) == 2


def test_15_a_device_that_is_not_there(place):
    """A GPU lost in a run needs one; that none is there is told before anything runs."""
    for device in ("cuda:7", "cuda", "gpu"):
        if device == "cuda" and torch.cuda.is_available():
            continue
        found = program("grid", grid_file(place), "--device", device, cwd=place)
        refused(found, "cpu")


def test_16_a_loss_that_is_not_finite(place):
    code, output, errors = program(
        "train", "mosaic", *settings("SGD.lr=1e38", "experiment.epochs=4"), cwd=place
    )
    assert code == 1 and "diverged" in errors + output and "Traceback" not in errors
    (record,) = [
        found
        for found in map(json.loads, texts(place / "runs" / "train").values())
        if found["status"] == "diverged"
    ]
    assert not record["evaluations"] and record["message"]


def test_19_code_that_changed_between_sessions(tmp_path):
    study = make_study(tmp_path / "s", {"a": (0, 0), "b": (3, 3)}, datasets=2, seeds=2)
    for path in records(study)[:2]:
        raw = json.loads(path.read_text())
        raw |= {"environment": {"commit": "another"}, "schema_version": 1}
        for key in ("digest", "weights_sha256", "drawn_per_class", "shared_images"):
            raw.pop(key, None)
        path.write_text(json.dumps(raw))
    code, output, errors = program("report", study, "--out", "r", cwd=tmp_path)
    assert code == 0 and "allow-mixed" in output + errors, errors
    assert program("report", study, "--out", "r", "--allow-mixed", cwd=tmp_path)[0] == 0


def test_20_a_configuration_that_changed(place):
    grid_file(place, TWO.replace("epochs': 2", "epochs': 3"))
    code, output, _ = program("grid", "toy.gin", "--dry-run", cwd=place)
    assert code == 0 and "the grid has changed: 1 cells are new, 1 were removed" in output


def test_21_an_image_that_is_missing_or_changed(place):
    image = place / "birds" / CLASSES[0] / "3.png"
    Image.new("RGB", (48, 48), "white").save(image)
    code, output, errors = program("grid", "toy.gin", "--dry-run", cwd=place)
    assert code == 0 and "folder/birds" in output + errors and "changed" in output + errors
    image.unlink()
    code, output, errors = program("grid", "toy.gin", "--dry-run", cwd=place)
    assert code == 0 and "changed" in output + errors


def test_22_typing_errors(place):
    cases = {
        ("train", "mosiac"): "did you mean 'mosaic'",
        ("train", "mosaic", *settings("CoOp.num_ctxx=4")): "did you mean",
        ("train", "mosaic", *settings("experiment.method=@CoOpp")): "did you mean",
        ("train", "mosaic", "--set", "experiment.dataset=caltech1O1"): "did you mean",
    }
    for words, message in cases.items():
        refused(program(*words, cwd=place), message)


def test_23_wrong_types_and_ranges(place):
    for setting in ("SGD.lr='abc'", "experiment.epochs=-1", "CoOp.num_ctx=2.5"):
        key = setting.partition("=")[0]
        refused(
            program("train", "mosaic", *settings(), "--set", setting, cwd=place), re.escape(key)
        )


def test_24_bindings_that_do_nothing_or_contradict_each_other(place):
    (place / "twice.gin").write_text("include 'mosaic.gin'\nSGD.lr = 0.1\nSGD.lr = 0.2\n")
    refused(program("train", "twice.gin", *settings(), cwd=place), "twice.gin", "SGD.lr")
    found = program("train", "mosaic", *settings("EmaCache.num_slots=5"), cwd=place)
    refused(found, "EmaCache.num_slots|not plugged in")


def test_25_an_import_that_is_not_allowed(place):
    (place / "evil.gin").write_text("import os\ninclude 'mosaic.gin'\nx = @os.system\n")
    refused(program("train", "evil.gin", *settings(), cwd=place), "import")


def test_26_a_grid_of_a_million_cells(place):
    grid_file(place, more="grid.seeds = ()\n".replace("()", repr(tuple(range(1, 600_001)))))
    text = (place / "toy.gin").read_text().replace("grid.seeds = (1,)\n", "")
    (place / "toy.gin").write_text(text)
    refused(program("grid", "toy.gin", "--dry-run", cwd=place), "1,?200,?000|cells|runs", "--yes")


def test_27_a_grid_without_cells(place):
    text = (place / "toy.gin").read_text()
    for empty in ("grid.datasets = ()", "grid.seeds = ()"):
        key = empty.partition(" =")[0]
        lines = [empty if line.startswith(key) else line for line in text.splitlines()]
        (place / "empty.gin").write_text("\n".join(lines) + "\n")
        refused(program("grid", "empty.gin", "--dry-run", cwd=place), re.escape(key))


def test_28_cells_that_are_the_same(place):
    variants = "{'a': {'SGD.lr': 1e-3}, 'b': {'SGD.lr': 0.001}}"
    code, output, errors = program("grid", grid_file(place, variants), "--dry-run", cwd=place)
    assert code == 0 and "2 cells, 1 runs (1 cells repeat another)" in output, errors


def test_29_a_tracking_database_that_is_locked_then_gone(place):
    shutil.rmtree(place / "runs" / "toy")
    database = sqlite3.connect(place / "runs" / "mlflow.db")
    database.execute("create table taken (x)")
    database.commit()
    database.execute("begin exclusive")
    code, _, errors = program("grid", "toy.gin", "--jobs", 1, "--track", "mlflow", cwd=place)
    assert code == 0 and len(records(place / "runs" / "toy")) == 2, errors
    assert "MLflow is behind" in errors and "sync" in errors
    database.rollback()
    database.close()
    (place / "runs" / "mlflow.db").unlink()
    code, output, errors = program("sync", "runs/toy", cwd=place)
    assert code == 0 and output.startswith("2 runs written"), errors
    code, output, _ = program("sync", "runs/toy", cwd=place)
    assert code == 0 and output.startswith("0 runs written, 2 already in MLflow")


def test_30_names_and_values_that_mlflow_does_not_take(tmp_path):
    factors = {name: {"a@[b]=": "1", "K.long": "x" * 9000} for name in ("a", "b")}
    study = make_study(
        tmp_path / "s", {"a": (0, 0), "b": (3, 3)}, datasets=1, seeds=1, factors=factors
    )
    for path in records(study):
        (path.parent / "config.gin").write_text(f"K.long = '{'x' * 9000}'\n")
    code, output, errors = program("sync", study, cwd=tmp_path)
    assert code == 0 and output.startswith("2 runs written"), output + errors
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        found = dict(database.execute("select key, value from params").fetchall())
    assert "a__b__" in found and found["K.long"].endswith("artifact config.gin]")
    kept = [p for p in (study / "artifacts").rglob("config.gin") if "x" * 9000 in p.read_text()]
    assert len(kept) == 2


CASES_33 = {
    "missing cells": {"skip": {("b", "data/set0", 1), ("b", "data/set1", 2)}},
    "one seed": {"seeds": 1},
    "two datasets": {"datasets": 2},
    "identical methods": {"noise": 0, "effects": {"a": (0, 0), "b": (0, 0)}},
    "one dataset, one seed": {"datasets": 1, "seeds": 1},
    "all diverged": {
        "datasets": 1,
        "seeds": 1,
        "status": {(v, "data/set0", 1): ("diverged", "lr is too high") for v in "ab"},
    },
}


@pytest.mark.parametrize("name", CASES_33)
def test_33_reports_of_incomplete_studies(tmp_path, name):
    options = {"datasets": 3, "seeds": 3, **CASES_33[name]}
    effects = options.pop("effects", {"a": (0, 0), "b": (3, 3)})
    study = make_study(tmp_path / "s", effects, **options)
    found = program("report", study, "--out", "r", cwd=tmp_path)
    if name == "all diverged":
        refused(found, "diverged", "lr is too high")
        assert "run it first" not in found[2]
        return
    assert found[0] == 0 and "Traceback" not in found[2], found[2]
    page = (tmp_path / "r" / "index.html").read_text()
    assert not re.search(r">\s*nan\s*<", page, re.IGNORECASE)


def test_34_the_smallest_p_that_can_be_reached(tmp_path):
    study = make_study(tmp_path / "s", {"a": (0, 0), "b": (5, 5)}, datasets=4, seeds=2)
    assert program("report", study, "--out", "r", cwd=tmp_path)[0] == 0
    assert "0.125" in (tmp_path / "r" / "index.html").read_text()


def test_39_no_network(place):
    """No download is tried: the weights that are missing are named with their place."""
    prefix = ["unshare", "-n"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a network of its own is not allowed here")
    words = settings("experiment.backbone=ViT-B-16-quickgelu", "experiment.weights=openai")
    empty = {"HF_HOME": str(place / "hub"), "HOME": str(place)}
    began = time.monotonic()
    refused(program("train", "mosaic", *words, cwd=place, prefix=prefix, **empty), "openai")
    assert time.monotonic() - began < 90
    found = program("evaluate", first_run(place), cwd=place, prefix=prefix, **empty)
    assert found[0] == 0, found[2]


def test_40_a_port_that_is_taken_and_a_foreign_host(place):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = subprocess.Popen(
            [*_python(), "ui", "runs", "--port", str(port)],
            cwd=place,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            process_group=0,
        )
        try:
            url = server.stdout.readline().split()[-1]
            assert url.startswith("http://127.0.0.1:") and not url.endswith(f":{port}")
            wait_for(lambda: _status(url) == 200, 120)
            assert _status(url, Host="evil.example") == 403
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _python():
    import sys

    return [sys.executable, str(ROOT / "main.py")]


def _status(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as a:
            return a.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):  # not there yet
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("twice", [False, True])
def test_a_train_that_is_interrupted(place, number, twice):
    words = settings("experiment.epochs=100000")
    started = subprocess.Popen(
        [*_python(), "train", "mosaic", *words, "--out", "r"],
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = place / "r" / "log.jsonl"
    wait_for(lambda: started.poll() is not None or (log.exists() and log.stat().st_size > 100))
    started.send_signal(number)
    if twice:
        time.sleep(0.01)
        started.send_signal(number)
    code, _, errors = finish(started)
    assert code == 3 and "Traceback" not in errors, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("interrupted")]
    assert "rerun: " in line and "kept" in line
    assert not (place / "r" / "record.json").exists() and not list((place / "r").glob(".*"))


def test_secrets_stay_where_they_are(place):
    """In no file below runs, no message and no argument of a process."""
    secret = "p:w@x9-Geheim"
    address = "http://user:p%3Aw%40x9-Geheim@127.0.0.1:1/?password=p:w@x9-Geheim"
    shutil.rmtree(place / "runs" / "toy")
    words = ("grid", "toy.gin", "--jobs", 1, "--track", "mlflow")
    found = program(*words, cwd=place, MLFLOW_TRACKING_URI=address)
    assert found[0] == 0 and "MLflow is behind" in found[2], found[2]
    found += program("sync", "runs/toy", cwd=place, MLFLOW_TRACKING_URI=address)
    spellings = (secret, "p%3Aw%40x9-Geheim", "x9-Geheim")
    shown = "".join(map(str, found))
    written = [p for p in (place / "runs").rglob("*") if p.is_file()]
    assert not [s for s in spellings if s in shown]
    assert not [p for p in written for s in spellings if s.encode() in p.read_bytes()]


def test_a_received_study_names_no_file_outside(place):
    run_dir = first_run(place)
    config, record = run_dir / "config.gin", read_record(run_dir)
    text = config.read_text()
    (place / "secret.txt").write_text("not for the sender")
    assert program("evaluate", run_dir, cwd=place)[0] == 0
    for line in (
        f"experiment.weights = '{place}/secret.txt'",
        "experiment.weights = '../../../secret.txt'",
        f"experiment.shots_file = '{place}/secret.txt'",
        "experiment.dataset = 'folder//etc'",
        f"experiment.dataset = 'folder/{place.parent}'",
    ):
        key = line.partition(" = ")[0]
        kept = [old for old in text.splitlines() if not old.startswith(f"{key} =")]
        config.write_text("\n".join([*kept, line]) + "\n")
        sender = {"config_sha256": hashlib.sha256(config.read_bytes()).hexdigest()}
        write_record(run_dir, replace(record, **sender))
        for words in (
            ("evaluate", run_dir),
            ("inspect", run_dir),
            ("rerun", "runs/toy", run_dir.name),
        ):
            refused(program(*words, cwd=place), "--allow-outside-files|outside the data root")
    config.write_text(text)
    write_record(run_dir, record)
    for identity in ("../../birds", "/etc", ".."):
        raw = json.loads((place / "runs" / "toy" / "study.json").read_text())
        raw.pop("digest", None)
        raw["cells"][0]["identity"] = identity
        (place / "runs" / "toy" / "study.json").write_text(json.dumps(raw))
        refused(program("report", "runs/toy", "--out", "r", cwd=place), "is not the name of a run")


def test_damaged_files_of_a_study_are_named_with_the_way_out(place):
    study, run_dir = place / "runs" / "toy", first_run(place)
    whole = (study / "study.json").read_text()
    for content in ("[]", "{", "null", whole.replace("folder/birds", "folder/words")):
        (study / "study.json").write_text(content)
        for words in (("status", study), ("report", study, "--out", "r")):
            refused(program(*words, cwd=place), "study.json", "rerun the grid")
    found = program("grid", "toy.gin", "--jobs", 1, "--no-track", cwd=place)
    assert found[0] == 0 and (study / "study.json").read_text() == whole
    edit_manifest(study, schema_version=99)
    refused(program("grid", "toy.gin", "--jobs", 1, "--no-track", cwd=place), "version 99")
    (study / "study.json").write_text(whole)
    path = run_dir / "predictions.json"
    text = path.read_text()
    path.write_text(re.sub(r'("confidences": "\w)(\w)', lambda m: m[1] + "AB"[m[2] == "A"], text))
    found = program("report", study, "--out", "r", cwd=place)
    assert "Traceback" not in found[2]
    assert "predictions.json" in found[1] + found[2] + (place / "r" / "index.html").read_text()
