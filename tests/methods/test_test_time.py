"""The contract of every registered method that adapts at test time, whoever wrote it."""

from dataclasses import replace

import pytest
import torch

from core.config import config_from_text, lookup, registered_classes
from core.store.predictions import read_predictions
from core.store.record import write_record
from core.train.checkpoints import learned_state
from core.train.evaluate import predict
from experiments.configs import config_path, read_config_file
from experiments.run.run import reload, score_images
from experiments.run.runtime import Runtime
from experiments.study.planner import plan
from tests.helpers.preset_runs import few_test_images
from tests.helpers.tiny_clip import (
    CLASSES,
    OTHER_CLASSES,
    PARTS_ON,
    make_method,
    make_model,
    shared_tiny_clip,
    training,
    with_views,
)
from tests.helpers.two_step_runs import built, run_text, two_steps

ADAPTING = {
    entry.name: entry.cls.adapts_to for entry in registered_classes("method") if entry.cls.adapts_to
}
IMAGE = [name for name, to in ADAPTING.items() if to == "image"]
STREAM = [name for name, to in ADAPTING.items() if to == "stream"]
# Fewer views than by default, where a run has many images.
FEW_VIEWS = {"TPT": "TPT.test_views = 5\nTPT.selection = 0.4"}
each_method = pytest.mark.parametrize("name", ADAPTING)


def model_of(name, **parts):
    return make_model(make_method(name, shared_tiny_clip()), **parts).eval()


def data_of(name, count=6):
    return with_views(count, make_method(name, shared_tiny_clip()).test_views)


def rows(data, index):
    """Images of a batch, in this order, with their views."""
    views = tuple(rows(view, index) for view in data.views)
    return replace(
        data,
        labels=data.labels[index],
        pixels=data.pixels[index],
        index=data.index[index],
        views=views,
    )


def one_by_one(data, order):
    return [rows(data, [i]) for i in order]


def walk(name, data):
    """The batches of an evaluation: single images for a stream."""
    return one_by_one(data, range(len(data))) if name in STREAM else [data]


def test_both_kinds_are_registered():
    assert set(ADAPTING.values()) == {"image", "stream"}


@each_method
def test_what_it_depends_on_is_declared(name):
    method = make_method(name, shared_tiny_clip())
    assert method.batch_coupled == (name in STREAM)
    if method.test_views:
        assert method.image_input == "pixels" and lookup(name).cls.test_views


@each_method
def test_adaptation_matters_and_is_forgotten(name):
    model, data = model_of(name), data_of(name)
    with torch.no_grad():
        before = model(data).logits()
    first = predict(model, walk(name, data))
    with torch.no_grad():
        assert torch.equal(model(data).logits(), before)
    again = predict(model, walk(name, data))
    assert torch.equal(first.predicted_N, again.predicted_N)
    assert torch.equal(first.confidence_N, again.confidence_N)
    plain_N = before.softmax(dim=-1).amax(dim=-1)
    assert (first.confidence_N - plain_N).abs().max() > 1e-5


@each_method
def test_what_was_kept_is_forgotten_with_the_classes(name):
    model, data = model_of(name), data_of(name)
    with torch.no_grad():
        before = model(data).logits()
        for one in walk(name, data):
            with torch.enable_grad():
                model.method.adapt(one, model)
        model.set_classes(OTHER_CLASSES)
        assert model(data).logits().shape == (len(data), len(OTHER_CLASSES))
        model.set_classes(CLASSES)
        assert torch.equal(model(data).logits(), before)


@pytest.mark.parametrize("parts", [{}, PARTS_ON], ids=["alone", "refined"])
@each_method
def test_nothing_learned_changes_in_an_evaluation(name, parts):
    model, data = model_of(name, **parts), data_of(name)
    if parts:
        training(model)
    state = model.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    learned, gradients = set(learned_state(model)), [p.grad for p in model.parameters()]
    gradients = [None if g is None else g.clone() for g in gradients]
    for one in walk(name, data):
        model.method.adapt(one, model)
    assert set(learned_state(model)) == learned
    predict(model, walk(name, data))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


@each_method
def test_training_something_on_top_sees_no_adaptation(name):
    """What a refiner learns is the same whether or not an evaluation comes first."""
    states = []
    for evaluated in (False, True):
        model = model_of(name, **PARTS_ON)
        if evaluated:
            predict(model, walk(name, data_of(name)))
        training(model)
        states.append(learned_state(model))
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@each_method
def test_labels_are_never_read(name):
    """They are replaced by numbers that no class has: using one to look something up would fail."""
    model, data = model_of(name), data_of(name)
    nonsense = torch.full_like(data.labels, 10**9)
    poisoned = replace(
        data, labels=nonsense, views=tuple(replace(v, labels=nonsense) for v in data.views)
    )
    honest, blind = (predict(model, walk(name, one)) for one in (data, poisoned))
    assert torch.equal(honest.predicted_N, blind.predicted_N)
    assert torch.equal(honest.confidence_N, blind.confidence_N)


@pytest.mark.parametrize("name", IMAGE)
def test_an_image_is_adapted_to_alone(name):
    model, data = model_of(name), data_of(name)
    together = predict(model, [data])
    order = [4, 1, 5, 0, 3, 2]
    for batches in (
        one_by_one(data, order),
        [rows(data, order)],
        [rows(data, [2, 0]), rows(data, [5, 1, 3, 4])],
    ):
        other = predict(model, batches)
        torch.testing.assert_close(other.confidence_N, together.confidence_N, atol=1e-4, rtol=1e-4)
        assert torch.equal(other.predicted_N, together.predicted_N)


@pytest.mark.parametrize("name", STREAM)
def test_a_stream_depends_on_its_order_and_results_are_in_the_order_of_the_images(name):
    model, data = model_of(name), data_of(name)
    ahead, back = (
        predict(model, one_by_one(data, order)) for order in (range(6), reversed(range(6)))
    )
    assert torch.equal(ahead.labels_N, data.labels) and torch.equal(back.labels_N, data.labels)
    assert (ahead.confidence_N - back.confidence_N).abs().max() > 1e-6
    # the first image of a stream has nobody before it
    first = predict(model, one_by_one(rows(replace(data, index=torch.arange(6)), [0]), [0]))
    torch.testing.assert_close(first.confidence_N[0], ahead.confidence_N[0])


# runs


def text_of(name, *lines):
    return two_steps(name, "\n".join((*lines, FEW_VIEWS.get(name, ""))))


@each_method
def test_a_run_keeps_its_seed_and_repeats(name, small_mosaic, tmp_path, monkeypatch):
    few_test_images(monkeypatch, 5)
    records, predicted = {}, {}
    for label, seed in (("one", 1), ("again", 1), ("other", 2)):
        folder = tmp_path / label
        record = run_text(text_of(name, f"experiment.seed = {seed}"), folder, small_mosaic)
        write_record(folder, record)
        assert (record.status, record.seed, record.shots) == ("finished", seed, 0)
        assert record.batch_coupled == (name in STREAM)
        records[label], predicted[label] = record, read_predictions(folder)
    assert records["one"].evaluations == records["again"].evaluations
    assert predicted["one"] == predicted["again"]
    assert predicted["one"] != predicted["other"]  # another order, or other views
    for target, one in predicted["one"].items():
        assert one.labels == predicted["other"][target].labels

    restored = reload(tmp_path / "one", Runtime(cache_dir=small_mosaic))
    for subset, before in predicted["one"].items():
        found = score_images(restored, restored.dataset, subset).predicted
        assert found.predicted == list(before.predicted)
        assert found.confidences == list(before.confidences)


@each_method
def test_the_identity_keeps_the_seed_and_nothing_of_training(name):
    def identity(**values):
        bound = {f"experiment.{key}": value for key, value in values.items()}
        return config_from_text(text_of(name)).with_bindings(bound, "test").identity("experiment")

    assert identity(seed=1) != identity(seed=2)
    assert identity() == identity(shots=7) == identity(num_views=3) == identity(epochs=9)
    crop = identity(crop_scale=(0.5, 1.0))
    assert (identity() != crop) == bool(make_method(name, shared_tiny_clip()).test_views)


@each_method
def test_every_target_starts_anew(name, small_mosaic, tmp_path, monkeypatch):
    """What is scored before a target makes no difference."""
    few_test_images(monkeypatch, 5)
    lines = (
        "experiment.protocol = 'cross_dataset'",
        "experiment.targets = ('mosaic/land',)",
    )
    record = run_text(text_of(name, *lines), tmp_path / "run", small_mosaic)
    assert [e.target for e in record.evaluations] == ["all", "mosaic/land"]
    alone = built(text_of(name, *lines), small_mosaic)
    (last,) = [scored for scored in alone.scored() if scored[0].name == "mosaic/land"]
    alone.model.eval()
    assert score_images(alone, *last).evaluation.correct == record.evaluations[-1].correct


@each_method
def test_a_study_runs_every_seed_and_zero_shot_once(name):
    config = read_config_file(
        config_path("zero_shot"),
        [
            "grid.study='seeds'",
            "grid.datasets=('mosaic/vehicles',)",
            "grid.seeds=(1, 2, 3)",
            "grid.baseline='ZeroShot'",
            f"grid.variants={{'ZeroShot': {{}}, '{name}': {{'experiment.method': @{name}}}}}",
        ],
    )
    made = plan(config, lambda config: {})
    identities = {}
    for cell in made.cells:
        identities.setdefault(cell.variant, set()).add(cell.identity)
    assert len(identities["ZeroShot"]) == 1 and len(identities[name]) == 3
