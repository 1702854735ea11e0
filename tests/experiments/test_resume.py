"""A training that was killed goes on from its checkpoint and ends as if it had not been."""

import json
import logging
from dataclasses import replace
from functools import partialmethod

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import core.train.resume
import experiments.run.registered  # noqa: F401  (fills the registry)
from core.config import config_from_text
from core.interfaces import Method
from core.store.code import read_code
from core.store.epochs import read_epochs
from core.store.names import TRAINING_NAME
from core.store.record import read_record, write_record
from core.store.run_facts import devices_of
from core.train import loss_scale
from core.train.loss_scale import LossScale
from core.train.resume import TrainingCheckpoints, TrainingState
from experiments.run.code import code_of
from experiments.run.run import run
from tests.helpers.mosaic_presets import on_mosaic, preset_names
from tests.helpers.preset_runs import few_test_images
from tests.helpers.two_step_runs import two_steps

pytestmark = pytest.mark.usefixtures("tiny_backbone")

EPOCHS, KILLED_AFTER = 3, 2


class KilledError(RuntimeError):
    """Stands for kill -9 right after a checkpoint."""


def run_in(folder, config, cache_dir, identity="0123456789ab"):
    folder.mkdir(parents=True, exist_ok=True)
    return run(
        config,
        folder,
        identity=identity,
        variant="v",
        factors={},
        cache_dir=cache_dir,
        data_root=None,
        device="cpu",
        on_progress=lambda epoch: None,
    )


def kill_after(monkeypatch, epoch):
    """The checkpoint of this epoch is written, and nothing after it."""
    save = TrainingCheckpoints.save

    def save_then_die(self, state):
        save(self, state)
        if state.epoch == epoch:
            raise KilledError

    monkeypatch.setattr(TrainingCheckpoints, "save", save_then_die)


def killed(folder, config, cache_dir, after=KILLED_AFTER):
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, after)
        with pytest.raises(KilledError):
            run_in(folder, config, cache_dir)
    assert (folder / TRAINING_NAME).is_file()


def outcome(folder, record):
    """Everything that must not depend on a kill."""
    files = ("log.jsonl", "weights.safetensors", "correct.json", "predictions.json")
    return {
        **{name: (folder / name).read_bytes() for name in files},
        "selected": (record.selected_epoch, record.stopped_epoch),
        "correct": [e.correct for e in record.evaluations],
    }


def has_steps(config):
    values = config.canonical("experiment")
    return values["experiment.optimizer"] is not None


@pytest.mark.parametrize("preset", [n for n in preset_names() if not n.startswith("published/")])
def test_every_preset_ends_bitwise_the_same(preset, small_mosaic, tmp_path, monkeypatch):
    few_test_images(monkeypatch)
    config = on_mosaic(preset, epochs=EPOCHS, batch_size=12)
    if not has_steps(config):
        pytest.skip("it takes no steps")
    whole = run_in(tmp_path / "whole", config, small_mosaic)
    checkpointed = config.with_bindings({"experiment.checkpoint_every": 1}, "test")
    assert checkpointed.identity("experiment") == config.identity("experiment")
    killed(tmp_path / "killed", checkpointed, small_mosaic)
    again = run_in(tmp_path / "killed", checkpointed, small_mosaic)
    assert outcome(tmp_path / "killed", again) == outcome(tmp_path / "whole", whole)
    assert not (tmp_path / "killed" / TRAINING_NAME).exists()
    assert again.cost.images_per_second > 0
    assert again.cost.total_seconds >= again.cost.train_seconds


def coop(*lines):
    keys = {line.partition("=")[0].strip() for line in lines}
    text = [
        line
        for line in two_steps("CoOp", "experiment.epochs = 6").splitlines()
        if line.partition(" = ")[0] not in keys
    ]
    unique = {line.partition(" = ")[0]: line for line in text if line}
    return config_from_text("\n".join([*unique.values(), *lines]))


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("after", [1, 3, 5, 6])
def test_optimizers_and_the_best_epoch_so_far_go_on(optimizer, after, small_mosaic, tmp_path):
    lines = [
        f"experiment.optimizer = @{optimizer}",
        f"{optimizer}.lr = 0.05",
        "experiment.selection = 'val'",
    ]
    plain = coop(*lines).without(["SGD.lr"] if optimizer != "SGD" else [])
    config = plain.with_bindings({"experiment.checkpoint_every": 1}, "test")
    whole = run_in(tmp_path / "whole", plain, small_mosaic)
    killed(tmp_path / "killed", config, small_mosaic, after)
    again = run_in(tmp_path / "killed", config, small_mosaic)
    assert outcome(tmp_path / "killed", again) == outcome(tmp_path / "whole", whole)


@pytest.mark.parametrize("after", [1, 3])
def test_the_loss_scale_goes_on(after, small_mosaic, tmp_path, monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWS_AFTER", 3)  # it grows and is halved all the time
    monkeypatch.setattr(LossScale, "__init__", partialmethod(LossScale.__init__, 2.0**18))
    plain = coop("experiment.precision = 'float16'")
    config = plain.with_bindings({"experiment.checkpoint_every": 1}, "test")
    whole = run_in(tmp_path / "whole", plain, small_mosaic)
    killed(tmp_path / "killed", config, small_mosaic, after)
    again = run_in(tmp_path / "killed", config, small_mosaic)
    assert outcome(tmp_path / "killed", again) == outcome(tmp_path / "whole", whole)
    skipped = [record.environment["skipped_steps"] for record in (whole, again)]
    assert skipped[0] == skipped[1] > 0


def test_nothing_is_trained_twice(small_mosaic, tmp_path, monkeypatch):
    config = coop("experiment.checkpoint_every = 2")
    killed(tmp_path, config, small_mosaic, 4)
    trained = []
    begin = Method.begin_training
    monkeypatch.setattr(
        Method, "begin_training", lambda self, *a: (trained.append("begin"), begin(self, *a))[1]
    )
    monkeypatch.setattr(Method, "end_epoch", lambda self, epoch: trained.append(epoch))
    run_in(tmp_path, config, small_mosaic)
    assert trained == ["begin", 5, 6]
    assert [line["epoch"] for line in read_epochs(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_training_does_not_go_on_with_other_code(small_mosaic, tmp_path, monkeypatch, caplog):
    config = coop("experiment.checkpoint_every = 2")
    killed(tmp_path, config, small_mosaic, 4)
    edited = replace(code_of(config), classes={"methods.coop:CoOp": "0" * 16})
    monkeypatch.setattr("experiments.run.run.code_of", lambda config: edited)
    trained = []
    monkeypatch.setattr(Method, "end_epoch", lambda self, epoch: trained.append(epoch))
    with caplog.at_level(logging.WARNING):
        record = run_in(tmp_path, config, small_mosaic)
    assert trained == [1, 2, 3, 4, 5, 6] and "of a run with another code" in caplog.text
    assert record.code == edited.classes == read_code(tmp_path).classes


def test_a_training_that_goes_on_on_another_device_says_so(small_mosaic, tmp_path, monkeypatch):
    """It is not refused; an earlier version's file names no device, and nothing is made up."""
    config = coop("experiment.checkpoint_every = 2")
    places = [{"gpu": {"name": name, "driver": "550"}} for name in ("A100", "H100", "L4")]

    def on(number):
        monkeypatch.setattr(
            "experiments.run.kept_training.device_facts", lambda device: places[number]
        )

    whole = run_in(tmp_path / "whole", config, small_mosaic)
    assert "devices" not in whole.environment
    for number, epoch in ((0, 2), (1, 4), (1, 6)):
        on(number)
        killed(tmp_path / "moved", config, small_mosaic, epoch)
    on(2)
    moved = run_in(tmp_path / "moved", config, small_mosaic)
    assert moved.environment["devices"] == places
    write_record(tmp_path / "moved", moved)
    assert devices_of(read_record(tmp_path / "moved")) == ("A100", "H100", "L4")
    assert outcome(tmp_path / "moved", moved) == outcome(tmp_path / "whole", whole)
    on(0)
    killed(tmp_path / "same", config, small_mosaic, 4)
    assert "devices" not in run_in(tmp_path / "same", config, small_mosaic).environment
    killed(tmp_path / "older", config, small_mosaic, 4)
    path = tmp_path / "older" / TRAINING_NAME
    with safe_open(path, framework="pt") as file:
        sealed = json.loads(file.metadata()[core.train.resume.HEADER])
    header, tensors = json.loads(sealed["content"]), load_file(path)
    assert header.pop("devices") == [places[0]]
    text = json.dumps(header)
    sealed = json.dumps({"content": text, "digest": core.train.resume._digest(text, tensors)})
    save_file(tensors, path, metadata={core.train.resume.HEADER: sealed})
    on(1)
    trained = []
    monkeypatch.setattr(Method, "end_epoch", lambda self, epoch: trained.append(epoch))
    assert "devices" not in run_in(tmp_path / "older", config, small_mosaic).environment
    assert trained == [5, 6]


def test_without_the_setting_nothing_is_kept(small_mosaic, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingCheckpoints, "save", lambda *_: pytest.fail("kept a state"))
    run_in(tmp_path, coop(), small_mosaic)


def flipped(path):
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(bytes(raw))


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def pickled(path):
    torch.save({"epoch": 2}, path)


def without_header(path):
    save_file(load_file(path), path)


def emptied(path):
    path.write_bytes(b"")


def other_header(path):
    save_file(load_file(path), path, metadata={core.train.resume.HEADER: "[]"})


@pytest.mark.parametrize("harm", [flipped, cut, pickled, without_header, emptied, other_header])
def test_a_damaged_checkpoint_is_told_and_training_starts_again(
    harm, small_mosaic, tmp_path, caplog
):
    config = coop("experiment.checkpoint_every = 1")
    whole = run_in(tmp_path / "whole", config, small_mosaic)
    killed(tmp_path / "killed", config, small_mosaic)
    harm(tmp_path / "killed" / TRAINING_NAME)
    with caplog.at_level(logging.WARNING):
        again = run_in(tmp_path / "killed", config, small_mosaic)
    (told,) = [m for m in caplog.messages if TRAINING_NAME in m]
    assert "training starts again from epoch 1" in told and "\n" not in told
    assert outcome(tmp_path / "killed", again) == outcome(tmp_path / "whole", whole)


def test_a_checkpoint_of_another_run_is_told(small_mosaic, tmp_path, caplog):
    config = coop("experiment.checkpoint_every = 1")
    killed(tmp_path, config, small_mosaic)
    with caplog.at_level(logging.WARNING):
        run_in(tmp_path, config, small_mosaic, identity="f" * 12)
    (told,) = [m for m in caplog.messages if TRAINING_NAME in m]
    assert "is of a run with another identity: training starts again from epoch 1" in told


def test_a_kill_while_the_log_is_written_again_loses_nothing(small_mosaic, tmp_path):
    config = coop("experiment.checkpoint_every = 1")
    whole = run_in(tmp_path / "whole", config, small_mosaic)
    killed(tmp_path / "killed", config, small_mosaic, 4)
    (tmp_path / "killed" / "log.jsonl").write_text("")
    again = run_in(tmp_path / "killed", config, small_mosaic)
    assert outcome(tmp_path / "killed", again) == outcome(tmp_path / "whole", whole)


def test_a_diverged_training_leaves_no_checkpoint(small_mosaic, tmp_path):
    config = coop("experiment.checkpoint_every = 1", "SGD.lr = 1e30").without([])
    record = run_in(tmp_path, config, small_mosaic)
    assert record.status == "diverged"
    assert not list(tmp_path.glob(f"*{TRAINING_NAME}*"))


# early stopping


def scripted(monkeypatch, scores):
    """Validation accuracies that are these, one per epoch."""
    from core.train import fit as module

    left = list(scores)
    keep = module._keep_best

    def by_script(model, select, epoch, result, best):
        return keep(model, lambda model: left.pop(0), epoch, result, best)

    monkeypatch.setattr(module, "_keep_best", by_script)


@pytest.mark.parametrize(
    ("scores", "patience", "selected", "stopped"),
    [
        ([0.5, 0.6, 0.6, 0.5, 0.9, 0.9], 2, 2, 4),
        ([0.5, 0.6, 0.6, 0.5, 0.9, 0.9], 3, 5, None),
        ([0.9, 0.1, 0.1, 0.1, 0.1, 0.1], 1, 1, 2),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 6, None),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.5], 1, 5, None),  # all six epochs were trained
        ([0.5, 0.6, 0.6, 0.5, 0.9, 0.9], 0, 5, None),
    ],
)
def test_training_stops_when_its_patience_ends(
    scores, patience, selected, stopped, small_mosaic, tmp_path, monkeypatch
):
    scripted(monkeypatch, scores)
    config = coop("experiment.selection = 'val'", f"experiment.patience = {patience}")
    record = run_in(tmp_path, config, small_mosaic)
    assert (record.selected_epoch, record.stopped_epoch) == (selected, stopped)
    epochs = read_epochs(tmp_path)
    assert len(epochs) == (stopped or 6)
    assert all(line["epochs"] == 6 for line in epochs)  # the schedule is that of the budget
    write_record(tmp_path, record)
    assert json.loads((tmp_path / "record.json").read_text())["stopped_epoch"] == stopped


def test_a_stopped_training_that_was_killed_stays_stopped(small_mosaic, tmp_path, monkeypatch):
    config = coop(
        "experiment.selection = 'val'",
        "experiment.patience = 1",
        "experiment.checkpoint_every = 1",
    )
    scripted(monkeypatch, [0.9, 0.1])
    killed(tmp_path, config, small_mosaic, 2)
    record = run_in(tmp_path, config, small_mosaic)  # no score is asked for any more
    assert (record.selected_epoch, record.stopped_epoch) == (1, 2)


@pytest.mark.parametrize("rule", ["last", "oracle-test"])
def test_patience_needs_validation_images(rule):
    from experiments.run.data_inputs import planned

    config = coop(f"experiment.selection = '{rule}'", "experiment.patience = 2")
    with pytest.raises(ValueError, match=r"experiment\.patience stops training by the accuracy"):
        planned(config)


def test_patience_is_part_of_the_identity_only_where_it_can_matter():
    def identity(*lines):
        return coop("experiment.selection = 'val'", *lines).identity("experiment")

    assert identity("experiment.patience = 0") == identity()
    assert identity("experiment.patience = 5") == identity()  # six epochs: it ends with the budget
    assert identity("experiment.patience = 4") != identity()
    assert identity("experiment.checkpoint_every = 3") == identity()


def test_a_state_is_split_by_part():
    state = TrainingState(epoch=1, tensors={"a.b.c": torch.ones(1), "ab.c": torch.zeros(1)})
    assert state.part("a").keys() == {"b.c"} and state.part("ab").keys() == {"c"}
