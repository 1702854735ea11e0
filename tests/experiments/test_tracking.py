"""The mirror in MLflow: complete, without duplicates, and never in the way."""

import importlib.util
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict, replace
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

import experiments.run.experiment
import methods.zero_shot
import refiners.null_refiner
from core.store.epochs import epoch_log
from core.store.names import INSPECTION_NAME, OUTPUT_NAME, RECORD_NAME
from core.store.own_files import file_checksums
from core.store.record import Evaluation, RunRecord, read_record, write_record
from core.store.settings import Operative, write_config, write_operative
from experiments.cli.app import main
from experiments.study.driver import rerun, run_study
from experiments.study.mirror import NullTracker
from experiments.study.progress import NoProgress
from experiments.study.trackers import make_tracker
from experiments.study.tracking import (
    IDENTITY_TAG,
    VARIANT_TAG,
    MlflowMirror,
    MlflowTracker,
    metrics_of,
    params_of,
    sync,
    tracking_uri,
    ui_command,
)
from experiments.study.wandb_mirror import WandbTracker, sync_wandb
from experiments.workers.local import InlineExecutor
from tests.helpers.fake_runs import CONFIG, fake_plan, fake_record
from tests.helpers.wandb_files import wandb_records

REGISTERED = (experiments.run.experiment, methods.zero_shot, refiners.null_refiner)
FAKE = "tests.helpers.fake_runs:fake_run"
RUNTIME = SimpleNamespace(cache_dir="cache", data_root=None, device="cpu")
PLAN = fake_plan(["ok a", "diverge", "refuse"], seeds=[1])


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    """A runs folder whose database serves all tests here: making its schema takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", autouse=True)
def patience():
    """A busy machine may need long for an import, and longer for processes that give way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.study.driver.CLOSE_SECONDS", 600.0)
        patch.setattr(MlflowTracker.close, "__kwdefaults__", {"seconds": 600.0})
        patch.setattr("experiments.study.tracking.NICENESS", 0)
        yield


@pytest.fixture(autouse=True)
def no_tracking_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def mirrored(runs_dir):
    """A study that was run with a tracker, and what closing it said."""
    study_dir = runs_dir / "mirrored"
    notes, progress = noting()
    tracker = MlflowTracker(study_dir)
    run_study(
        PLAN, study_dir, InlineExecutor(FAKE), runtime=RUNTIME, tracker=tracker, progress=progress
    )
    return study_dir, [note for note in notes if "MLflow" in note]


@pytest.fixture(scope="module")
def database(mirrored, runs_dir, tmp_path_factory):
    """A database with its schema, for tests whose runs are in a folder of their own."""
    del mirrored  # made it
    return shutil.copy(runs_dir / "mlflow.db", tmp_path_factory.mktemp("database"))


class MirrorHere:
    """A mirror process whose work is done in this process: importing mlflow takes seconds."""

    returncode = 0

    def __init__(self, make):
        self.make = make

    def communicate(self, timeout=None):
        mirror = self.make()
        report = mirror.run_pass()
        mirror.close()
        return json.dumps(asdict(report)).encode(), None


@pytest.fixture
def mirrored_here(monkeypatch):
    """Mirrors of MLflow work in this process; tests without this fixture start the real one."""

    def start(study_dir, uri, *, niceness, **folders):
        return MirrorHere(lambda: MlflowMirror(study_dir.absolute(), uri, **folders))

    monkeypatch.setattr("experiments.study.tracking._start_mirror", start)


def noting():
    """A progress that only keeps notes, and its notes."""

    class Notes(NoProgress):
        def note(self, text):
            notes.append(text)

    notes = []
    return notes, Notes()


def stored(runs_dir, experiment):
    """The live runs of one experiment: status, metrics, params and tags by identity."""
    with sqlite3.connect(runs_dir / "mlflow.db") as db:
        rows = db.execute(
            "select r.run_uuid, r.status from runs r join experiments e using (experiment_id) "
            "where e.name = ? and r.lifecycle_stage = 'active'",
            (experiment,),
        ).fetchall()
        found = {}
        for run_id, status in rows:
            tags, params, metrics = (
                dict(db.execute(f"select key, value from {table} where run_uuid = ?", (run_id,)))
                for table in ("tags", "params", "metrics")
            )
            if IDENTITY_TAG not in tags:
                continue  # the parent run of a variant
            assert tags[IDENTITY_TAG] not in found, "one run was mirrored twice"
            found[tags[IDENTITY_TAG]] = SimpleNamespace(
                status=status, metrics=metrics, params=params, tags=tags
            )
    return found


def parents(runs_dir, experiment):
    """The parent runs of one experiment: variant by identifier."""
    with sqlite3.connect(runs_dir / "mlflow.db") as db:
        return dict(
            db.execute(
                "select t.run_uuid, t.value from tags t join runs r using (run_uuid) "
                "join experiments e using (experiment_id) "
                "where e.name = ? and t.key = ? and r.lifecycle_stage = 'active'",
                (experiment, VARIANT_TAG),
            )
        )


def files_of(study_dir):
    """The artifacts of every run by their path below it."""
    found = {}
    for path in sorted((study_dir / "artifacts").rglob("*")):
        if path.is_file():
            name = path.relative_to(study_dir / "artifacts").as_posix()
            run_id, _, below = name.partition("/artifacts/")
            found.setdefault(run_id, {})[below] = path
    return found


def test_every_run_is_mirrored_with_what_it_is(mirrored, runs_dir):
    study_dir, warnings = mirrored
    assert warnings == []
    runs = stored(runs_dir, "mirrored")
    assert set(runs) == {cell.identity for cell in PLAN.cells}
    for cell in PLAN.cells:
        run, record = runs[cell.identity], read_record(study_dir / cell.identity)
        assert run.status == ("FINISHED" if record.status == "finished" else "FAILED")
        assert run.metrics == pytest.approx(metrics_of(record))
        assert run.params == params_of(study_dir / cell.identity, record)
        assert (run.tags["variant"], run.tags["status"]) == (cell.variant, record.status)
    good = runs[PLAN.cells[0].identity]
    assert {"base", "new", "hm", "cost.total_seconds"} <= set(good.metrics)
    assert good.params["experiment.method"] == "@ZeroShot"
    assert good.params["Fake.variant"] == "ok a"
    assert good.params["experiment.dataset"] == "alpha"


def test_the_runs_of_a_variant_are_nested_in_one(mirrored, runs_dir):
    variant_of = parents(runs_dir, "mirrored")
    assert sorted(variant_of.values()) == ["diverge", "ok a", "refuse"]
    for run in stored(runs_dir, "mirrored").values():
        assert variant_of[run.tags["mlflow.parentRunId"]] == run.tags["variant"]


def trained(folder, **settings):
    """A finished run with a log of epochs; its secrets are not for others."""
    folder.mkdir(parents=True)
    text = "experiment.method = @ZeroShot\nexperiment.dataset = 'alpha'\n"
    values = {"experiment.lr": "0.002", "experiment.targets": "('a', 'b')", **settings}
    config = write_config(folder, text)
    write_operative(folder, Operative(settings=values, sources={"ZeroShot": "X, 2021"}))
    with epoch_log(folder, lambda epoch: None) as log:
        for epoch in (1, 2, 3):
            log({"epoch": epoch, "epochs": 3, "lr": 0.1, "loss": 1 / epoch, "kl": math.nan})
    (folder / OUTPUT_NAME).write_text("postgresql://me:geheim77@host/db")
    record = fake_record(
        {"identity": folder.name, "variant": "v", "factors": {}, "config": CONFIG}, "finished"
    )
    record = replace(record, config_sha256=config, files_sha256=file_checksums(folder))
    write_record(folder, record)
    return record


def test_settings_in_force_epochs_and_files_are_mirrored(runs_dir):
    study_dir = runs_dir / "whole"
    record = trained(study_dir / ("a" * 12), **{"CoOp.ctx_init": "'a photo of a'"})
    (study_dir / record.identity / INSPECTION_NAME).mkdir()
    (study_dir / record.identity / INSPECTION_NAME / "index.html").write_text("<p>")
    uri = tracking_uri(runs_dir)
    mirror = MlflowMirror(study_dir, uri)
    assert mirror.run_pass().written == 1
    (run,) = [r for r in mirror.client.search_runs([mirror.experiment]) if r.data.params]
    assert run.data.params == {
        "CoOp.ctx_init": "a photo of a",
        "experiment.lr": "0.002",
        "experiment.targets": "(a, b)",
        **record.factors,
    }
    history = mirror.client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    files = files_of(study_dir)[run.info.run_id]
    assert set(files) == {
        *("config.gin", "log.jsonl", "output.log"),
        *("figures/index.html", "figures/training.svg"),
    }
    assert "geheim77" not in files["output.log"].read_text()
    curves = ElementTree.parse(files["figures/training.svg"]).getroot()
    lines = curves.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2  # lr and loss: nothing of kl is finite
    assert len(lines[1].attrib["points"].split()) == 3
    (study_dir / record.identity / INSPECTION_NAME / "index.html").write_text("<p>more")
    mirror.close()
    again = MlflowMirror(study_dir, uri)
    assert again.run_pass().written == 1 and len(stored(runs_dir, "whole")) == 1
    again.close()


def test_the_figures_of_a_report_belong_to_the_variants(runs_dir):
    study_dir = runs_dir / "reported"
    trained(study_dir / ("b" * 12))
    figures = study_dir / "report" / "figures"
    figures.mkdir(parents=True)
    (figures / "forest.png").write_bytes(b"png")
    mirror = MlflowMirror(study_dir, tracking_uri(runs_dir))
    mirror.run_pass()
    mirror.close()
    (parent,) = parents(runs_dir, "reported")
    assert set(files_of(study_dir)[parent]) == {"figures/forest.png"}


def test_a_changed_log_leaves_out_one_run_and_is_named(runs_dir):
    study_dir = runs_dir / "changed"
    for name in ("c" * 12, "d" * 12):
        trained(study_dir / name)
    (study_dir / ("c" * 12) / "log.jsonl").write_text('{"epoch": 1}\n')
    mirror = MlflowMirror(study_dir, tracking_uri(runs_dir))
    report = mirror.run_pass()
    mirror.close()
    assert (report.written, report.left) == (1, 1) and "was changed after the run" in report.error


def test_a_run_outside_the_folder_of_runs_is_mirrored_beside_its_twin(runs_dir, tmp_path):
    study_dir = runs_dir / "twins"
    trained(study_dir / ("e" * 12))
    (tmp_path / "mine").mkdir()
    outside = trained(tmp_path / "mine" / ("e" * 12))
    for _ in range(2):
        mirror = MlflowMirror(
            study_dir, tracking_uri(runs_dir), [tmp_path / "mine" / "eeeeeeeeeeee"]
        )
        report = mirror.run_pass()
        runs = mirror.client.search_runs([mirror.experiment])
        found = [r for r in runs if r.data.tags.get(IDENTITY_TAG) == outside.identity]
        mirror.close()
        assert len(found) == 2
    assert (report.written, report.present) == (0, 2)


def test_wandb_holds_the_same_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    study_dir = tmp_path / "a study"
    record = trained(study_dir / ("f" * 12), **{"CoOp.ctx_init": "'a photo of a'"})
    report = sync_wandb(study_dir)
    assert (report.written, report.left, report.error) == (1, 0, "")
    assert str(report) == "1 runs written, 0 already in W&B, 0 not written"
    (stored_run,) = study_dir.glob("wandb/offline-run-*/*.wandb")
    told = wandb_records(stored_run)
    (started,) = [r.run for r in told if r.WhichOneof("record_type") == "run"]
    assert (started.project, started.run_group) == ("a_study", "v")
    config = {c.key: json.loads(c.value_json) for c in started.config.update}
    assert config["CoOp.ctx_init"] == "a photo of a"
    steps = [
        {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}
        for r in told
        if r.WhichOneof("record_type") == "history"
    ]
    assert [step["train/loss"] for step in steps] == [1.0, 0.5, pytest.approx(1 / 3)]
    summary = {}
    for r in told:
        if r.WhichOneof("record_type") == "summary":
            summary |= {".".join(i.nested_key) or i.key: i.value_json for i in r.summary.update}
    for name, value in metrics_of(record).items():
        assert json.loads(summary[name]) == pytest.approx(value)
    (files,) = [r for r in told if r.WhichOneof("record_type") in ("artifact", "request")
                and "config.gin" in str(r)]  # fmt: skip
    assert "training.svg" in str(files) and "log.jsonl" in str(files)
    assert sync_wandb(study_dir).present == 1
    write_record(study_dir / record.identity, replace(record, message="again"))
    assert sync_wandb(study_dir).written == 1


def test_a_ledger_that_was_cut_off_writes_its_last_run_again(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    trained(tmp_path / "s" / ("f" * 12))
    assert sync_wandb(tmp_path / "s").written == 1
    ledger = tmp_path / "s" / "wandb" / "mirrored.jsonl"
    ledger.write_text(ledger.read_text()[:20])
    assert sync_wandb(tmp_path / "s").written == 1


@pytest.mark.parametrize(
    ("track", "kinds"),
    [
        ("mlflow", ["MlflowTracker"]),
        ("wandb", ["WandbTracker"]),
        ("both", ["MlflowTracker", "WandbTracker"]),
    ],
)
def test_a_choice_of_mirrors(tmp_path, track, kinds):
    made = make_tracker(tmp_path, track)
    assert [type(tracker).__name__ for tracker in made.trackers] == kinds
    assert made.close() == "" and list(tmp_path.iterdir()) == []


def test_no_mirror_and_one_that_does_not_exist(tmp_path, monkeypatch):
    assert type(make_tracker(tmp_path, "none")) is NullTracker
    with pytest.raises(ValueError, match="must be one of mlflow, wandb, both, none, got 'wanbd'"):
        make_tracker(tmp_path, "wanbd")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for track in ("wandb", "both"):
        with pytest.raises(ValueError, match="needs the package wandb, which is not installed"):
            make_tracker(tmp_path, track)


def test_a_wandb_that_cannot_be_reached_is_one_warning(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    trained(tmp_path / "s" / ("f" * 12))
    tracker = WandbTracker(tmp_path / "s")
    tracker.finished(tmp_path / "s" / ("f" * 12))
    warning = tracker.close(seconds=600.0)
    assert warning.startswith("W&B is behind, 1 runs are missing (") and "\n" not in warning
    assert warning.endswith(f"python main.py sync {tmp_path / 's'} --track wandb")


def test_sync_adds_nothing_that_is_there_and_replaces_what_changed(mirrored, runs_dir):
    study_dir, _ = mirrored
    mirror = MlflowMirror(study_dir, tracking_uri(runs_dir))
    report = mirror.run_pass()
    assert (report.written, report.present, report.left) == (0, 6, 0)
    cell = PLAN.cells[0]
    rerun(study_dir, cell.identity, InlineExecutor(FAKE), runtime=RUNTIME)
    assert mirror.run_pass().written == 0
    record = read_record(study_dir / cell.identity)
    write_record(study_dir / cell.identity, replace(record, message="again"))
    report = mirror.run_pass()
    mirror.close()
    assert (report.written, report.left) == (1, 0)
    runs = stored(runs_dir, "mirrored")
    assert len(runs) == 6 and runs[cell.identity].tags["message"] == "again"


def test_a_half_written_run_is_replaced(mirrored, runs_dir):
    study_dir, _ = mirrored
    with sqlite3.connect(runs_dir / "mlflow.db") as db:
        db.execute(
            "update runs set status = 'RUNNING' where lifecycle_stage = 'active' and run_uuid in "
            "(select run_uuid from tags where key = ? and value = ?)",
            (IDENTITY_TAG, PLAN.cells[1].identity),
        )
    mirror = MlflowMirror(study_dir, tracking_uri(runs_dir))
    report = mirror.run_pass()
    mirror.close()
    assert (report.written, report.present) == (1, 5)
    assert len(stored(runs_dir, "mirrored")) == 6


def test_sync_catches_up_with_a_study_that_had_no_tracker(runs_dir):
    study_dir = runs_dir / "late"
    run_study(PLAN, study_dir, InlineExecutor(FAKE), runtime=RUNTIME)
    report = sync(study_dir)
    assert (report.written, report.left, report.error) == (6, 0, "")
    assert len(stored(runs_dir, "late")) == 6


def test_broken_tracking_is_one_warning_and_the_study_goes_on(tmp_path):
    notes, progress = noting()
    tracker = MlflowTracker(tmp_path / "s", "http://127.0.0.1:9")
    outcome = run_study(
        fake_plan(["ok"]),
        tmp_path / "s",
        InlineExecutor(FAKE),
        runtime=RUNTIME,
        tracker=tracker,
        progress=progress,
    )
    assert outcome.exit_code == 0 and len(outcome.done) == 4
    (warning,) = notes
    assert warning.startswith("MLflow is behind, 4 runs are missing")
    assert warning.endswith(f"python main.py sync {tmp_path / 's'}")
    assert "\n" not in warning


@pytest.mark.parametrize("uri", ["sqlite:////proc/none/mlflow.db", "nonsense://x"])
def test_other_ways_to_be_broken_are_reported_alike(tmp_path, uri):
    run_study(fake_plan(["ok"]), tmp_path, InlineExecutor(FAKE), runtime=RUNTIME)
    mirror = MlflowMirror(tmp_path, uri)
    report = mirror.run_pass()
    assert (report.written, report.left) == (0, 4) and report.error and "\n" not in report.error
    assert mirror.run_pass() == report
    mirror.close()


def test_a_damaged_record_is_named_and_the_others_are_mirrored(runs_dir):
    study_dir = runs_dir / "damaged"
    run_study(fake_plan(["ok"]), study_dir, InlineExecutor(FAKE), runtime=RUNTIME)
    path = sorted(study_dir.glob(f"*/{RECORD_NAME}"))[0]
    path.write_text("{")
    mirror = MlflowMirror(study_dir, tracking_uri(runs_dir))
    report = mirror.run_pass()
    mirror.close()
    assert (report.written, report.left) == (3, 1)
    assert str(
        path
    ) in report.error and "3 runs written, 0 already in MLflow, 1 not written" in str(report)


def test_only_a_folder_can_be_synchronized(tmp_path):
    with pytest.raises(ValueError, match="is not a study folder: it does not exist"):
        sync(tmp_path / "nothing")


def test_a_mirror_that_hangs_is_given_up(tmp_path, monkeypatch):
    started = []

    def hang(study_dir, uri, *, niceness):
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe))
        return started[0]

    monkeypatch.setattr("experiments.study.tracking._start_mirror", hang)
    tracker = MlflowTracker(tmp_path / "s")
    for _ in range(100_000):
        tracker.finished(tmp_path / "s" / "run")
    began = time.monotonic()
    assert "not finished after 0.5 seconds" in tracker.close(seconds=0.5)
    assert time.monotonic() - began < 5 and started[0].poll() is not None


def test_a_tracker_without_runs_starts_nothing(tmp_path):
    assert MlflowTracker(tmp_path).close() == ""
    assert list(tmp_path.iterdir()) == []


def test_the_driver_does_not_import_mlflow_and_leaves_the_environment_alone(mirrored):
    assert not any(name.startswith("MLFLOW_") for name in os.environ)
    code = (
        "import sys, experiments.study.driver, experiments.study.tracking; "
        "print('mlflow' in sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "False"


def test_illegal_keys_and_long_values_are_made_legal(tmp_path):
    (tmp_path / "config.gin").write_text("a.b = " + "x" * 9000 + "\nscope/C.d = @E\n")
    run_study(fake_plan(["ok"]), tmp_path / "s", InlineExecutor(FAKE), runtime=RUNTIME)
    path = next((tmp_path / "s").glob(f"*/{RECORD_NAME}"))
    record = replace(read_record(path.parent), factors={"a@[b]=": "1", "k" * 300: "2"})
    params = params_of(tmp_path, record)
    assert len(params["a.b"]) == 6000
    assert params["scope/C.d"] == "@E"
    assert params["a__b__"] == "1" and params["k" * 250] == "2"


def test_the_uri_is_absolute_and_the_environment_variable_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(tmp_path / "runs") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:1234")
    assert tracking_uri(tmp_path) == "http://tracking:1234"


def test_the_pages_are_for_this_machine_at_a_free_port(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = ui_command(tmp_path, port=port)
    assert command.url.startswith("http://127.0.0.1:") and not command.url.endswith(f":{port}")
    words = list(command.argv)
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--workers") + 1] == "1"
    assert command.env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert command.env["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.slow
def test_the_pages_are_served(mirrored, runs_dir):
    command = ui_command(runs_dir, port=5600)
    server = subprocess.Popen(command.argv, env=command.env, process_group=0)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{command.url}/version", timeout=5) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.5)
        body = json.dumps({"max_results": 10}).encode()
        request = urllib.request.Request(
            f"{command.url}/api/2.0/mlflow/experiments/search",
            body,
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            names = {e["name"] for e in json.load(answer)["experiments"]}
        assert "mirrored" in names
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def test_every_target_has_a_metric_of_its_own_that_mlflow_accepts():
    from mlflow.utils.validation import _validate_metric_name

    names = ["all", "folder//disk/v1/birds", "folder/disk/v1/birds", "folder/vögel", "folder/vägel"]
    names += ["folder/" + "x" * 300, "folder/" + "x" * 301]
    scores = [
        Evaluation(
            target=name,
            dataset=name,
            classes="all",
            class_names=("a",),
            correct=(n,),
            total=(len(names),),
        )
        for n, name in enumerate(names)
    ]
    record = RunRecord(
        identity="0" * 12,
        variant="v",
        factors={},
        dataset="d",
        protocol="cross_dataset",
        regime="inductive",
        selection="last",
        seed=1,
        shots=1,
        status="finished",
        evaluations=tuple(scores),
    )
    found = metrics_of(record)
    assert list(found.values()) == [n / len(names) for n in range(len(names))]
    for name in found:
        _validate_metric_name(name)
    assert list(found)[:3] == ["all", "folder__disk_v1_birds", "folder/disk/v1/birds"]


@pytest.mark.parametrize("name", ["per%cent", "per%20cent", "ques?tion", "ha#sh", "bl ank ü"])
def test_the_database_is_in_its_folder_whatever_its_name(tmp_path, name):
    from sqlalchemy.engine import make_url

    url = make_url(tracking_uri(tmp_path / name))
    assert url.database == str(tmp_path / name / "mlflow.db") and not url.query


def test_what_mlflow_cannot_hold_is_kept_whole(tmp_path):
    study_dir = tmp_path / "a % b?#" / "s"
    run_study(
        fake_plan(["ok"], seeds=[1], datasets=["alpha"]),
        study_dir,
        InlineExecutor(FAKE),
        runtime=RUNTIME,
    )
    path = next(study_dir.glob(f"*/{RECORD_NAME}"))
    long = {
        "a//b": "1",
        "../up": "2",
        "long": "x" * 7000,
        "ü" * 300: "3",
        "é" * 300: "4",
        "short": "5",
    }
    write_record(path.parent, replace(read_record(path.parent), factors=long))
    uri = tracking_uri(study_dir.parent)
    mirror = MlflowMirror(study_dir, uri)
    report = mirror.run_pass()
    mirror.close()
    assert (report.written, report.error) == (1, "")
    runs = mirror.client.search_runs([mirror.experiment])
    (run,) = [run for run in runs if IDENTITY_TAG in run.data.tags]
    assert len(run.data.params["long"]) == 6000 and run.data.params["short"] == "5"
    assert {"3", "4"} <= set(run.data.params.values())
    assert "5 parameters are whole only in parameters.json" in run.data.tags["mlflow.note.content"]
    (kept,) = study_dir.rglob("parameters.json")
    assert json.loads(kept.read_text()) == {k: v for k, v in long.items() if k != "short"}
    assert (study_dir.parent / "mlflow.db").is_file() and len(list(tmp_path.iterdir())) == 1


# the commands


def command(capsys, *words):
    """Exit code, output and errors of a command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main.py", *map(str, words)])
        code = main()
    out, err = capsys.readouterr()
    return code, out, err


def test_train_is_mirrored_and_sync_knows_its_folder(
    runs_dir, tmp_path, small_mosaic, capsys, monkeypatch, request
):
    del small_mosaic  # its images are drawn; other caches are of this folder
    monkeypatch.setenv("REFINELAB_TRACK", "none")
    monkeypatch.chdir(tmp_path)
    settings = ["experiment.dataset=mosaic/vehicles", "experiment.shots=1", "experiment.epochs=2"]
    words = ["train", "coop", *(w for s in settings for w in ("--set", s)), "--runs", runs_dir]
    code, out, err = command(capsys, *words)
    assert code == 0, err
    assert not (runs_dir / "train" / "mirror.log").exists()  # as the variable says
    code, out, err = command(capsys, *words, "--track", "mlflow")
    assert (code, err) == (0, "")
    ((identity, run),) = [
        pair for pair in stored(runs_dir, "train").items() if pair[1].tags["variant"] == "coop"
    ]
    assert run.params["SGD.lr"] == "0.002"  # a default that nobody bound
    assert run.params["experiment.epochs"] == "2" and "train/loss" in run.metrics
    assert set(parents(runs_dir, "train").values()) >= {"coop"}
    request.getfixturevalue("mirrored_here")
    for folder in (runs_dir / "train", runs_dir / "train" / identity):
        code, out, err = command(capsys, "sync", folder, "--runs", runs_dir)
        assert (code, err) == (0, "") and out.startswith("0 runs written, ")


@pytest.mark.parametrize(
    "words",
    [
        ("grid", "demo", "--dry-run", "--track", "nothing"),
        ("train", "coop", "--track", "mlflo"),
        ("search", "search_text_refiner", "--dry-run", "--track", ""),
        ("rerun", ".", "abc", "--track", "--jobs"),
        ("sync", ".", "--track", "no"),
    ],
)
def test_an_unknown_mirror_is_refused_before_anything_runs(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(capsys, *words)
    assert code == 2 and "--track must be one of mlflow, wandb, both, none, got" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("track", ["mlflow", "wandb"])
@pytest.mark.parametrize("home", ["train", "mine"])
def test_sync_of_one_run_folder_writes_one_run(
    home, track, tmp_path, capsys, monkeypatch, database, mirrored_here
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    names = ("a" * 12, "b" * 12, "c" * 12)
    for name in names:
        (tmp_path / "runs" / home).mkdir(parents=True, exist_ok=True)
        trained(tmp_path / "runs" / home / name)
    shutil.copy(database, tmp_path / "runs")
    for written, present in ((1, 0), (0, 1)):
        words = ("sync", f"runs/{home}/{names[1]}", "--runs", "runs", "--track", track)
        code, out, err = command(capsys, *words)
        assert (code, err) == (0, "")
        assert out.startswith(f"{written} runs written, {present} already in ")
    code, out, err = command(capsys, "sync", f"runs/{home}", "--track", track)
    left = 2 if home == "train" else 3  # one from elsewhere is noted among the runs of train
    assert (code, err) == (0, "") and out.startswith(f"{left} runs written, {3 - left} already")


def test_sync_of_a_run_of_a_study_writes_it_among_those_of_the_study(runs_dir, tmp_path, capsys):
    study_dir = runs_dir / "several"
    plan = fake_plan(["ok a", "ok b"], seeds=[1], datasets=["alpha"])
    run_study(plan, study_dir, InlineExecutor(FAKE), runtime=RUNTIME)
    identity = plan.runs[0].identity
    code, out, err = command(capsys, "sync", study_dir / identity)
    assert (code, err) == (0, "") and out.startswith("1 runs written, 0 already in MLflow, 0 not")
    assert list(stored(runs_dir, "several")) == [identity]


def test_sync_with_none_is_refused(tmp_path, capsys):
    code, _, err = command(capsys, "sync", tmp_path, "--track", "none")
    assert code == 2 and "leaves sync nothing to do" in err
