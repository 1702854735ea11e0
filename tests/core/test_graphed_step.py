"""Steps that are replayed from a recording: the same training, or plain steps and the reason."""

import gc
import logging
import warnings
from contextlib import nullcontext
from dataclasses import replace
from unittest import mock

import pytest
import torch

import core.train.graphed_step as module
from core.config import registered_classes
from core.seeding import Seeds
from core.train.checkpoints import copy_state
from core.train.fit import Budget, fit
from core.train.graphed_step import TOO_FEW_STEPS, USED, CudaRecorder
from core.train.optimizers import SGD, Adam, AdamW, Constant, ConstantThenCosine, set_rate
from tests.helpers.recorded_steps import Clock, RecordedOnCpu
from tests.helpers.tiny_clip import (
    CLASSES,
    EVERYTHING,
    OTHER_CLASSES,
    ListBatches,
    batch,
    make_method,
    make_model,
    objective_of,
    shared_tiny_clip,
)

METHODS = sorted(
    entry.name
    for entry in registered_classes("method")
    if entry.cls.image_input == "features" and entry.cls.trains_by_gradient and entry.cls.trains
)
# What a step of these does on the host, in the words of the log.
PLAIN = {
    "ProGrad": "a step replaces the content of a list",  # the cosines of an epoch
    "QueueCache": "a step replaces '_v",  # how many slots are filled
}


class ResidentBatches(ListBatches):
    resident = True


def cached(seed, count=6):
    """A batch of cached features."""
    given = batch(count, seed=seed)
    features = shared_tiny_clip().encode_image(given.pixels, need=EVERYTHING)
    return replace(given, features=features, pixels=None, positions=tuple(range(count)))


class TensorRate(SGD):
    """SGD whose learning rate is a tensor, as on a GPU."""

    kind, settings = torch.optim.SGD, {"momentum": 0.9, "weight_decay": 5e-4}

    def build(self, parameters):
        given = [{**group, "lr": torch.tensor(self.lr)} for group in parameters]
        return self.kind(given, fused=True, **self.settings)


class TensorRateAdam(TensorRate):
    kind, settings = torch.optim.Adam, {"weight_decay": 5e-4}


@pytest.fixture
def fitted(monkeypatch):
    """Trains a model for some epochs of five steps, with a recorder or without."""
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", clock)
    data = [cached(seed) for seed in range(3, 8)]

    def run(
        model, *, optimizer=None, schedule=None, epochs=3, given=None, recorded=True, **options
    ):
        recorder = RecordedOnCpu(clock, **options) if recorded else None
        log = []
        result = fit(
            model,
            objective_of(model),
            ResidentBatches(given or data),
            Budget(
                epochs=epochs, optimizer=optimizer or TensorRate(lr=0.05),
                schedule=schedule or ConstantThenCosine(),
            ),
            Seeds(0),
            log=lambda line: log.append(dict(line)),
            recorder=recorder,
        )  # fmt: skip
        return result.graph, log, copy_state(model), recorder

    return run


def assert_same(one, other):
    assert one[1] == other[1]
    assert one[2].keys() == other[2].keys()
    assert all(torch.equal(one[2][name], value) for name, value in other[2].items())


def model_of(name, **parts):
    return make_model(make_method(name, shared_tiny_clip()), **parts)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("parts", [{}, {"cache": "EmaCache"}], ids=["alone", "TextRefiner"])
def test_every_method_on_cached_features_trains_the_same(fitted, name, parts):
    """The rate changes from epoch to epoch, momentum is kept, the cache is written."""
    plain = fitted(model_of(name, **parts), recorded=False)
    graphed = fitted(model_of(name, **parts))
    assert_same(graphed, plain)
    assert plain[0] == ""
    expected = f"not used: {PLAIN[name]}" if name in PLAIN else USED
    assert graphed[0].startswith(expected)
    if expected == USED:
        # of 15 steps three are plain, then one beside the recording and one to compare with,
        # one in each of the other epochs; the replays are those of the comparisons, and the rest
        assert (graphed[3].rehearsed, graphed[3].recorded, graphed[3].replayed) == (3, 1, 11)


@pytest.mark.parametrize("cache", [c.name for c in registered_classes("cache")])
def test_a_cache_that_needs_the_host_is_written_in_plain_steps(fitted, cache, caplog):
    plain = fitted(model_of("CoOp", cache=cache), recorded=False)
    with caplog.at_level(logging.WARNING):
        graphed = fitted(model_of("CoOp", cache=cache))
    assert_same(graphed, plain)
    assert graphed[0].startswith(f"not used: {PLAIN[cache]}" if cache in PLAIN else USED)
    said = [r.getMessage() for r in caplog.records if "CUDA graph" in r.getMessage()]
    assert len(said) == (cache in PLAIN) and all("\n" not in line for line in said)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "outcome"),
    [
        (TensorRateAdam(lr=0.01), ConstantThenCosine(), USED),
        (SGD(lr=0.05), Constant(), USED),
        # on a CPU these count steps, or keep the rate, on the host: a replay repeats the old ones
        (SGD(lr=0.05), ConstantThenCosine(), "gives other numbers"),
        (Adam(lr=0.01), Constant(), "the host waits"),
        (AdamW(lr=0.01), Constant(), "the host waits"),
    ],
)
def test_what_an_optimizer_keeps_on_the_host_is_found_out(fitted, optimizer, schedule, outcome):
    settings = {"optimizer": optimizer, "schedule": schedule}
    graphed = fitted(model_of("CoOp"), **settings)
    assert_same(graphed, fitted(model_of("CoOp"), recorded=False, **settings))
    assert outcome in graphed[0]


def test_batches_of_another_size_are_plain_steps(fitted):
    given = [cached(3), cached(4), cached(5), cached(6), cached(7, count=4)]
    graphed = fitted(model_of("CoOp"), given=given)
    assert_same(graphed, fitted(model_of("CoOp"), given=given, recorded=False))
    assert graphed[0] == USED and graphed[3].replayed == 8


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({"epochs": 1}, TOO_FEW_STEPS),
        ({"speed": 1.01}, "not used: a replayed step is 1.01 times as fast as a plain one"),
        ({"speed": 0.5}, "not used: a replayed step is 0.50 times as fast as a plain one"),
    ],
)
def test_replays_are_used_where_they_win(fitted, options, outcome):
    graphed = fitted(model_of("CoOp"), **options)
    plain = fitted(model_of("CoOp"), recorded=False, epochs=options.get("epochs", 3))
    assert_same(graphed, plain)
    assert graphed[0] == outcome


def changed(model, act):
    """The model, whose method does something in every step."""
    forward = model.method.forward

    def with_act(given):
        act(model.method)
        return forward(given)

    model.method.forward = with_act
    return model


ACTS = {
    "a number": (lambda m: setattr(m, "seen", m.__dict__.get("seen", 0) + 1), "replaces 'seen'"),
    "a tensor": (
        lambda m: setattr(m, "mean", m.__dict__.get("mean", torch.zeros(())) + 1),
        "replaces 'mean'",
    ),
    "a list": (
        lambda m: m.__dict__.setdefault("kept", []).append(0), "replaces the content of a list",
    ),
    "a wait": (lambda m: m.ctx.sum().item(), "the host waits"),
}  # fmt: skip


@pytest.mark.parametrize("act", ACTS)
def test_what_a_step_does_beside_changing_tensors_in_place_is_found_out(fitted, act):
    do, reason = ACTS[act]
    model = changed(model_of("CoOp"), do)
    graphed = fitted(model)
    assert_same(graphed, fitted(changed(model_of("CoOp"), do), recorded=False))
    assert reason in graphed[0]
    if act == "a number":
        assert model.method.seen == 15 + 1  # once a step, and in the check after the last one
    if act == "a list":
        assert len(model.method.kept) == 15 + 1


def test_a_step_that_reads_what_the_host_alone_knows_of_a_batch_stays_plain(fitted):
    """A recorded step is given no positions, and fails there in a way of its own."""

    def made():
        model, seen = model_of("CoOp"), []
        forward = model.method.forward
        model.method.forward = lambda given: (seen.append(sum(given.positions)), forward(given))[1]
        return model, seen

    (model, seen), (plain, expected) = made(), made()
    graphed = fitted(model)
    assert_same(graphed, fitted(plain, recorded=False))
    assert "a step cannot be recorded ('NoneType' object is not iterable)" in graphed[0]
    assert seen == expected and len(seen) > 15


def test_a_hook_between_epochs_that_changes_the_step_is_found_out(fitted):
    """A factor that the host knows is part of the recording."""

    def made():
        model = model_of("CoOp")
        model.method.factor, forward = 1.0, model.method.forward
        model.method.end_epoch = lambda epoch: setattr(model.method, "factor", 0.5)
        model.method.forward = lambda given: replace(
            (out := forward(given)), text=out.text * model.method.factor
        )
        return model

    graphed = fitted(made())
    assert_same(graphed, fitted(made(), recorded=False))
    assert "gives other numbers" in graphed[0]


@pytest.mark.parametrize("name", ["CoOp", "KgCoOp", "TCP"])
def test_classes_that_are_scored_between_epochs_leave_the_recording_right(fitted, name):
    """The constants of the trained classes are made anew; those that were recorded live on."""

    def made():
        model = model_of(name, cache="EmaCache")

        def scored(epoch):
            for classes in (OTHER_CLASSES, CLASSES):
                model.set_classes(classes)
            gc.collect()

        model.method.end_epoch = scored
        return model

    graphed = fitted(made())
    assert_same(graphed, fitted(made(), recorded=False))
    assert graphed[0] == USED


def test_a_method_may_say_that_its_steps_are_not_to_be_replayed(fitted):
    model = model_of("CoOp")
    type(model.method).graphed_steps, before = False, type(model.method).graphed_steps
    try:
        graph, _, _, recorder = fitted(model)
    finally:
        type(model.method).graphed_steps = before
    assert graph == "" and recorder.recorded == 0


def test_rates_are_set_where_they_are_kept():
    kept = torch.tensor(0.1)
    for group in ({"lr": 0.1}, {"lr": kept}):
        set_rate(group, 0.25)
        assert group["lr"] == 0.25
    assert kept == 0.25


@pytest.fixture
def cuda(monkeypatch):
    """torch.cuda with a mock for everything that records; ``current`` is the current stream."""
    mocked = mock.MagicMock()
    for name in ("Stream", "CUDAGraph", "graph", "synchronize", "set_sync_debug_mode"):
        monkeypatch.setattr(torch.cuda, name, getattr(mocked, name))
    mocked.current = mock.MagicMock()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: mocked.current)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_stream", mocked.set_stream)
    return mocked


def test_a_recording_that_fails_leaves_the_stream_that_was_current(cuda):
    recorder, weight = CudaRecorder(torch.device("cuda")), torch.ones(3)
    recording = recorder.record(lambda: {"loss": (weight * 2).sum()})
    graph, held = recording.held
    assert recording.replay is graph.replay and recording.terms["loss"] == 6
    assert [tensor.data_ptr() for tensor in held.values()] == [weight.data_ptr()]
    cuda.graph.assert_called_once_with(graph, stream=recorder.stream)
    cuda.graph.return_value.__exit__.side_effect = RuntimeError("capture invalidated")
    with pytest.raises(RuntimeError, match="capture invalidated"):
        recorder.record(lambda: {})
    assert cuda.set_stream.call_args_list == [mock.call(cuda.current)] * 2


def test_a_rehearsal_tells_what_the_host_waited_for_and_nothing_else(cuda):
    recorder = CudaRecorder(torch.device("cuda"))

    def step():
        warnings.warn("deprecated", stacklevel=1)
        warnings.warn("called a synchronizing CUDA operation (item)", stacklevel=1)
        return {"loss": torch.ones(())}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        terms, waited = recorder.rehearse(step)
        assert terms["loss"] == 1 and waited == "called a synchronizing CUDA operation (item)"
        assert recorder.rehearse(lambda: {})[1] == ""
        with pytest.raises(ValueError, match="bad"):
            recorder.rehearse(lambda: (_ for _ in ()).throw(ValueError("bad")))
    given = [call.args[0] for call in cuda.set_sync_debug_mode.call_args_list]
    assert given == ["warn", 0] * 3
    assert recorder.stream.wait_stream.call_args_list == [mock.call(cuda.current)] * 3
