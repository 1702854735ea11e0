"""Runs of a plan are done where a study has them, and take as long as those of their settings."""

import json
import shutil
from dataclasses import replace

import pytest

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.config import config_from_text
from core.store.names import CONFIG_NAME, RECORD_NAME
from core.store.record import Cost, read_records, write_record
from experiments.cli.app import app
from experiments.cli.grid import make_plan
from experiments.configs import read_config_file
from experiments.run.runtime import Runtime
from experiments.study.dry_run import dry_run
from experiments.study.past_costs import PastRuns, read_past
from tests.helpers.tiny_clip import shared_tiny_clip

GRID = """
experiment.method = @CoOp
experiment.refiner = @NullRefiner
experiment.optimizer = @SGD
experiment.schedule = @ConstantThenCosine
experiment.backbone = 'mosaic'
experiment.protocol = 'few_shot'
experiment.epochs = 2
experiment.batch_size = 4
grid.study = 'mini'
grid.datasets = ('mosaic/vehicles',)
grid.shots = (1,)
grid.seeds = (1, 2)
grid.baseline = 'CoOp'
grid.variants = {
    'CoOp': {},
    'ZeroShot': {'experiment.method': @ZeroShot, 'experiment.optimizer': None,
                 'experiment.schedule': None},
}
"""
CHANGES = (
    (),
    ("experiment.epochs=50",),
    ("grid.shots=(1, 16)",),
    ("grid.seeds=(1, 2, 3)",),
    ("experiment.batch_size=2",),
    ("SGD.lr=0.5",),
    ("grid.variants={'CoOp': {}, 'other': {'CoOp.num_ctx': 7, 'CoOp.ctx_init': ''}}",),
    ("grid.variants={'renamed': {}}", "grid.baseline='renamed'"),
    ("grid.datasets=('mosaic/vehicles', 'mosaic/land')",),
)


def call(capsys, *words):
    assert app([*words], standalone_mode=False) in (None, 0)
    return capsys.readouterr().out


def planned(capsys, grid, changes=(), *words):
    sets = [word for change in changes for word in ("--set", change)]
    fixed = ("--decode-rate", "1", "--json", *words)
    return json.loads(call(capsys, "plan", str(grid), *sets, *fixed))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the file of a grid and its finished study of three runs."""
    home = tmp_path_factory.mktemp("mini")
    (home / "mini.gin").write_text(GRID)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr("experiments.run.run.shared_clip", lambda *_: shared_tiny_clip())
        patch.setattr("experiments.run.image_source.shared_clip", lambda *_: shared_tiny_clip())
        with pytest.raises(SystemExit, match="0"):
            app(["grid", "mini.gin", "--jobs", "0", "--no-track"])
    return home


@pytest.fixture
def mini(finished, tmp_path, monkeypatch, tiny_backbone):
    """A copy of it, in the current folder; returns the file of the grid."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mini.gin"


def test_a_plan_counts_as_done_what_the_study_would_not_run(mini, capsys, tmp_path):
    runtime, study = Runtime(cache_dir=tmp_path / "runs" / "cache"), tmp_path / "runs" / "mini"
    for changes in CHANGES:
        made = make_plan(read_config_file(mini, list(changes)), runtime, yes=False)
        expected = dry_run(made, study, jobs=1)
        found = planned(capsys, mini, changes)
        assert (found["runs"], found["done"]) == (expected.to_do, expected.done), changes
    assert planned(capsys, mini)["done"] == 3
    (record, *_) = [r for r in read_records(study) if r.seed == 1]
    torn = study / record.identity / RECORD_NAME
    text = torn.read_text()
    torn.write_text(text[:-9])
    assert planned(capsys, mini)["runs"] == 1  # as for the study: a damaged record is none
    write_record(study / record.identity, replace(record, status="diverged", evaluations=()))
    found = planned(capsys, mini)
    assert (found["runs"], found["done"], found["failed"]) == (0, 2, 1)
    changed = dict.fromkeys(record.code, "0" * 64)
    write_record(study / record.identity, replace(record, code=changed))
    assert planned(capsys, mini)["runs"] == 1  # stale: made by other code


def test_seconds_count_for_the_same_settings_only(mini, capsys, tmp_path):
    cost = Cost(
        train_seconds=100.0,
        evaluate_seconds=5.0,
        total_seconds=136.0,
        images_per_second=1.0,
        peak_memory_mb=2048.0,
        trainable_parameters=1,
    )
    study = tmp_path / "runs" / "mini"
    for record in list(read_records(study)):
        write_record(study / record.identity, replace(record, cost=cost))
    more_seeds = planned(capsys, mini, ["grid.seeds=(1, 2, 3)"])
    assert more_seeds["device_hours"] == pytest.approx(136 / 3600)
    (row,) = more_seeds["variants"]
    assert row["measured"].startswith("finished runs on cpu") and more_seeds["complete"]
    assert row["peak MiB"] == "unknown"  # the memory of a process is not that of a GPU
    longer = planned(capsys, mini, ["experiment.epochs=50"])
    assert longer["device_hours"] == pytest.approx(2 * (36 + 100 * 50 / 2) / 3600)
    assert "in proportion to their epochs" in longer["notes"][-1]
    wider = "grid.variants={'CoOp': {'CoOp.num_ctx': 7, 'CoOp.ctx_init': ''}}"
    for other in ("grid.shots=(16,)", "experiment.batch_size=2", wider):
        rows = planned(capsys, mini, [other])["variants"]
        assert "step_costs.json" in next(r for r in rows if r["variant"] == "CoOp")["measured"]


def test_seconds_are_those_of_the_device_of_the_records(mini, capsys, tmp_path):
    study = tmp_path / "runs" / "mini"
    (record, *_) = [r for r in read_records(study) if r.seed == 1]
    cost = replace(record.cost, total_seconds=36.0, peak_memory_mb=5000.0)
    gpu = {"device": "cuda:0 (A Card)", "gpu": {"name": "A Card"}}

    def rewrite(**environment):
        own = {**record.environment, **environment}
        write_record(study / record.identity, replace(record, cost=cost, environment=own))

    seeds = ["grid.seeds=(1, 2, 3)"]
    rewrite(**gpu, devices=[{"device": "cpu (x86_64)"}, gpu])
    assert planned(capsys, mini, seeds)["unit"] == "core"  # its seconds are of both, and of neither
    rewrite(**gpu)
    found = planned(capsys, mini, seeds)  # of a CPU and a GPU, that of the GPU counts
    assert (found["unit"], found["peak_mib"]) == ("GPU", 5000.0)
    assert found["variants"][0]["GPU hours"] == pytest.approx(36 / 3600)
    assert found["variants"][0]["measured"] == "finished runs on A Card"
    assert any(note.startswith("GPU memory: 4.9 GiB for 1") for note in found["notes"])
    both = planned(capsys, mini, [*seeds, "grid.datasets=('mosaic/vehicles', 'mosaic/land')"])
    assert both["unit"] == "device" and "device hours" in both["variants"][0]
    other = planned(capsys, mini, seeds, "--device-name", "H200")
    assert other["unit"] == "core"  # no run of the study ran on an H200


def test_a_run_whose_settings_cannot_be_read_tells_no_seconds(mini, tmp_path):
    study = tmp_path / "runs" / "mini"
    (record, *_) = [r for r in read_records(study) if r.seed == 1]
    config = config_from_text((study / record.identity / CONFIG_NAME).read_text(), "a run")
    assert read_past(study).cost_of(config) is not None
    for folder in filter(lambda path: (path / CONFIG_NAME).exists(), study.iterdir()):
        (folder / CONFIG_NAME).write_text("experiment.method = @Gone\n")
    assert read_past(study).cost_of(config) is None
    assert read_past(tmp_path / "nothing").cost_of(config) is None
    assert PastRuns([record]).cost_of(config) is None
