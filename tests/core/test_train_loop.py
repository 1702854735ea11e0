"""Training: schedule, pairing of variants, selection of the epoch, and what cannot be trained."""

import math

import pytest
import torch
from safetensors.torch import save_file

from core.clip.features import FeatureStore
from core.config import registered_classes
from core.data.catalog import load_dataset
from core.data.fewshot import few_shot
from core.finite import NotFiniteError
from core.seeding import Seeds
from core.train.batches import FeatureSource, PixelSource
from core.train.checkpoints import copy_state, load_checkpoint, restore_state, save_checkpoint
from core.train.evaluate import accuracy, predict
from core.train.fit import Budget, DivergedError, fit
from core.train.optimizers import SGD, Adam, AdamW, Constant, ConstantThenCosine
from tests.helpers.tiny_clip import (
    ListBatches,
    batch,
    logits,
    make_method,
    make_model,
    objective_of,
    part,
    shared_tiny_clip,
    training,
)

CPU = torch.device("cpu")


def coop(seed=0):
    return make_model(make_method("CoOp", shared_tiny_clip(), seed=seed, ctx_init=""), seed=seed)


# schedule and optimizers


def test_the_released_schedule():
    """Epoch 1 at 1e-5; epoch e at lr / 2 (1 + cos(pi (e - 2) / E)); the last of 10 is 1.9e-4."""
    rates = [ConstantThenCosine().at(epoch, 10, 0.002) for epoch in range(1, 11)]
    assert rates[0] == 1e-5 and rates[1] == 0.002
    assert rates[6] == pytest.approx(0.001)
    assert rates[9] == pytest.approx(0.001 * (1 + math.cos(0.8 * math.pi)))
    assert round(rates[9], 5) == 1.9e-4
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_the_schedule_without_warm_up_and_the_constant_one():
    assert ConstantThenCosine(warmup_epochs=0).at(1, 5, 0.1) == pytest.approx(0.1)
    assert ConstantThenCosine(warmup_epochs=2, warmup_lr=0.5).at(2, 5, 0.1) == 0.5
    assert {Constant().at(epoch, 9, 0.25) for epoch in range(1, 10)} == {0.25}


def test_the_loop_uses_the_rates_and_logs_the_mean_of_every_term():
    _, log = training(coop(), epochs=3, lr=0.03)
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert [line["lr"] for line in log] == [0.03] * 3
    assert all(line["loss"] == pytest.approx(line["ce"]) for line in log)
    model = coop()
    model.train()
    terms = [
        float(objective_of(model)(model(b), b.labels)["ce"].detach())
        for b in (batch(seed=3), batch(seed=4))
    ]
    _, first = training(coop(), epochs=1, lr=1e-12)
    assert first[0]["ce"] == pytest.approx(sum(terms) / 2, rel=1e-5)


@pytest.mark.parametrize("patience", [0, 1])
def test_an_epoch_is_begun_in_the_last_step_of_the_one_before(patience):
    """All but the first, and none after the last; that an early stop comes is not known before."""
    model, called = coop(), []

    class Noting(ListBatches):
        def epoch(self, epoch, seeds):
            for step, given in enumerate(self.batches):
                called.append(("step", epoch, step))
                yield given

        def begin(self, epoch, seeds):
            called.append(("begin", epoch))

    budget = Budget(epochs=3, optimizer=SGD(lr=0.1), schedule=Constant())
    data, objective = Noting([batch(seed=3), batch(seed=4)]), objective_of(model)
    settings = {"patience": patience, "select": (lambda _: 0.0) if patience else None}
    fit(model, objective, data, budget, Seeds(0), log=lambda _: None, **settings)
    epochs = [[("step", n, 0), ("step", n, 1), ("begin", n + 1)] for n in (1, 2, 3)]
    expected = epochs[0] + epochs[1] + ([] if patience else epochs[2][:2])
    assert [call for call in called if call[1]] == expected


@pytest.mark.parametrize("entry", registered_classes("optimizer"), ids=lambda entry: entry.name)
def test_every_optimizer_lowers_the_loss(entry):
    model = coop()
    data = ListBatches([batch()])
    log = []
    budget = Budget(epochs=4, optimizer=entry.cls(lr=0.01), schedule=Constant())
    fit(model, objective_of(model), data, budget, Seeds(0), log=log.append)
    losses = [line["loss"] for line in log]
    assert losses[-1] < losses[0]


def test_optimizers_are_those_of_torch_in_one_group():
    parameter = torch.nn.Parameter(torch.zeros(2))
    sgd = SGD(lr=0.3).build([parameter]).param_groups
    assert len(sgd) == 1 and not sgd[0]["nesterov"]
    assert (sgd[0]["lr"], sgd[0]["momentum"], sgd[0]["weight_decay"]) == (0.3, 0.9, 5e-4)
    adam = Adam(eps=1e-3).build([parameter])
    assert type(adam).__base__ is torch.optim.Adam and adam.param_groups[0]["eps"] == 1e-3
    assert type(AdamW().build([parameter])).__base__ is torch.optim.AdamW


# batches


@pytest.fixture(scope="module")
def vehicles(small_mosaic):
    return load_dataset("mosaic/vehicles", root=None, cache_dir=small_mosaic)


@pytest.fixture(scope="module")
def source(small_mosaic):
    store = FeatureStore(small_mosaic / "tiny-features", shared_tiny_clip())
    return FeatureSource(store, CPU, torch.float32)


def drawn(source, dataset, *, epoch=1, seed=1, need=("pooled",), num_views=0, batch_size=8):
    batches = source.training(
        dataset, need=frozenset(need), num_views=num_views, batch_size=batch_size
    )
    return list(batches.epoch(epoch, Seeds(seed).at("batches")))


def test_every_variant_of_a_seed_sees_the_same_batches(source, vehicles):
    dataset = few_shot(vehicles, shots=2, seed=1)
    for num_views in (0, 2):
        plain = drawn(source, dataset, num_views=num_views)
        rich = drawn(source, dataset, num_views=num_views, need=("pooled", "local", "attention"))
        assert len(plain) == len(rich) == len(dataset.train) // 8
        for a, b in zip(plain, rich, strict=True):
            assert torch.equal(a.labels, b.labels) and torch.equal(a.index, b.index)
            assert torch.equal(a.features.pooled, b.features.pooled)
            assert a.features.local is None and b.features.local.shape[1] == 1 + 16


def test_order_depends_on_seed_and_epoch(source, vehicles):
    dataset = few_shot(vehicles, shots=2, seed=1)

    def order(**changes):
        return torch.cat([b.index for b in drawn(source, dataset, **changes)]).tolist()

    assert order() == order()
    assert order() != order(epoch=2) and order() != order(seed=2)
    assert len(set(order())) == len(order())
    assert few_shot(vehicles, shots=2, seed=1).train == dataset.train
    assert few_shot(vehicles, shots=2, seed=2).train != dataset.train


@pytest.mark.parametrize(
    ("num_images", "batch_size", "sizes"), [(7, 3, [3, 3]), (6, 3, [3, 3]), (2, 3, [2])]
)
def test_the_last_incomplete_batch_is_dropped_unless_it_is_the_only_one(
    source, vehicles, num_images, batch_size, sizes
):
    dataset = vehicles.with_splits(train=vehicles.train[:num_images], val=())
    got = drawn(source, dataset, batch_size=batch_size)
    assert [len(b) for b in got] == sizes


def test_each_image_shows_one_of_its_fixed_views(source, vehicles):
    dataset = few_shot(vehicles, shots=1, seed=1)
    views = [source.store.get(dataset, dataset.train, view=view).pooled for view in range(3)]
    seen = set()
    for epoch in (1, 2, 3):
        for got in drawn(source, dataset, epoch=epoch, num_views=3, batch_size=4):
            for row, image in zip(got.features.pooled, got.index.tolist(), strict=True):
                match = [v for v in range(3) if torch.equal(row, views[v][image])]
                assert len(match) == 1
                seen.add(match[0])
    assert seen == {0, 1, 2}


def test_pixels_come_in_the_same_order_as_features(source, vehicles):
    dataset = few_shot(vehicles, shots=1, seed=1)
    pixels = PixelSource(shared_tiny_clip(), CPU, torch.float32)
    from_pixels, from_features = drawn(pixels, dataset), drawn(source, dataset)
    for a, b in zip(from_pixels, from_features, strict=True):
        assert torch.equal(a.labels, b.labels) and a.pixels.shape == (8, 3, 32, 32)
        pooled = shared_tiny_clip().encode_image(a.pixels).pooled
        torch.testing.assert_close(pooled, b.features.pooled, atol=1e-4, rtol=1e-4)
    augmented = [drawn(pixels, dataset, num_views=1, epoch=e)[0].pixels for e in (1, 1, 2)]
    assert torch.equal(augmented[0], augmented[1])
    assert not torch.equal(augmented[0], augmented[2])


# which epoch is reported


@pytest.mark.parametrize(
    ("scores", "expected"), [([0.1, 0.5, 0.3], 2), ([0.5, 0.5, 0.5], 1), ([0.1, 0.2, 0.9], 3)]
)
def test_the_first_epoch_with_the_highest_score_is_kept(scores, expected):
    model, snapshots = coop(), []

    def score(trained):
        assert not trained.training
        snapshots.append(copy_state(trained))
        return scores[len(snapshots) - 1]

    budget = Budget(epochs=3, optimizer=SGD(lr=0.1), schedule=Constant())
    data = ListBatches([batch()])
    result = fit(
        model, objective_of(model), data, budget, Seeds(0), log=lambda _: None, select=score
    )
    assert result.selected_epoch == expected and result.scores == scores
    kept = copy_state(model)
    assert all(torch.equal(kept[key], snapshots[expected - 1][key]) for key in kept)
    assert not torch.equal(snapshots[0]["method.ctx"], snapshots[2]["method.ctx"])
    assert not model.training


def test_selection_moves_nothing_in_training():
    logs = []
    for select in (None, lambda model: float(logits(model, batch()).sum())):
        model, log = coop(), []
        budget = Budget(epochs=3, optimizer=SGD(lr=0.1), schedule=Constant())
        data = ListBatches([batch()])
        fit(model, objective_of(model), data, budget, Seeds(0), log=log.append, select=select)
        logs.append(log)
    assert logs[0] == logs[1] and logs[0][2]["loss"] < logs[0][0]["loss"]


def test_nothing_to_learn_is_no_training():
    model = make_model(make_method("ZeroShot", shared_tiny_clip()))
    result, log = training(model)
    assert log == [] and result.seconds == 0 and result.images == 0


def test_a_loss_that_is_not_finite_stops_the_run():
    model = coop()
    with torch.no_grad():
        model.method.ctx[0, 0] = float("nan")
    with pytest.raises(DivergedError, match="epoch 1; try a lower lr"):
        training(model)


# checkpoints


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_checkpoint(path, coop())
    refined = make_model(make_method("CoOp", shared_tiny_clip(), ctx_init=""), cache="EmaCache")
    longer = make_model(make_method("CoOp", shared_tiny_clip(), ctx_init="", num_ctx=7))
    with pytest.raises(ValueError, match="lacks"):
        load_checkpoint(path, refined)
    with pytest.raises(ValueError, match="wrong shapes"):
        load_checkpoint(path, longer)
    with pytest.raises(ValueError, match="unknown"):
        restore_state(coop(), {**copy_state(coop()), "stray": torch.zeros(1)})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(path, coop())
    with pytest.raises(ValueError, match="does not exist"):
        load_checkpoint(tmp_path / "none.safetensors", coop())


def test_a_checkpoint_holds_no_backbone(tmp_path):
    model = make_model(make_method("CoOp", shared_tiny_clip()), cache=part("EmaCache", num_slots=3))
    names = set(copy_state(model))
    assert {"method.ctx", "refiner.cache.slots_MD"} <= names
    assert not any("clip" in name or "prompts" in name for name in names)


# scoring


def test_answers_keep_the_order_of_the_batches_and_counts_are_their_sums():
    model = coop().eval()
    parts = [batch(5, seed=8), batch(4, seed=9), batch(2, seed=10)]
    given = predict(model, iter(parts))
    alone = [predict(model, [part]) for part in parts]
    assert torch.equal(given.correct_N, torch.cat([one.correct_N for one in alone]))
    assert torch.equal(given.labels_N, torch.cat([part.labels for part in parts]))
    correct, total = given.counts(50)
    assert len(correct) == len(total) == 50 and sum(total) == 11
    assert sum(correct) == int(given.correct_N.sum()) and 0 < sum(correct) < 11
    assert accuracy(model, parts) == sum(correct) / 11
    right = {i for i in range(11) if given.bits()[i // 8] >> (7 - i % 8) & 1}
    assert right == set(given.correct_N.nonzero().flatten().tolist()) and len(given.bits()) == 2


def test_no_image_is_no_answer():
    given = predict(coop().eval(), [])
    assert given.bits() == b"" and given.counts(2) == ((0, 0), (0, 0))


# finite or failed


@torch.no_grad()
def spoiled(model, name="method.ctx", value=float("nan")):
    model.get_parameter(name).view(-1)[3] = value
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_state_that_is_not_finite_is_neither_saved_nor_read(tmp_path, value):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(NotFiniteError, match=r"the learned state .*'method\.ctx'"):
        save_checkpoint(path, spoiled(coop(), value=value))
    assert not path.exists()
    save_file({**copy_state(coop()), "method.ctx": torch.full((4, 32), value)}, path)
    with pytest.raises(ValueError, match=r"safetensors holds .* in the tensor 'method\.ctx'"):
        load_checkpoint(path, coop())


def test_a_checkpoint_with_a_flipped_bit_is_refused(tmp_path):
    path, model = tmp_path / "weights.safetensors", coop()
    sha256 = save_checkpoint(path, model)
    load_checkpoint(path, coop(), sha256=sha256)
    good = path.read_bytes()
    for place in (-5, 20):  # a number, the header
        path.write_bytes(bytes(b ^ (i == place % len(good)) for i, b in enumerate(good)))
        with pytest.raises(ValueError, match="damaged or was replaced: its sha256 is not the one"):
            load_checkpoint(path, coop(), sha256=sha256)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    load_checkpoint(path, coop())  # still a good safetensors file


def one_step_of(model, lr):
    """The whole training is one step, whose loss is still finite."""
    budget, log = Budget(epochs=1, optimizer=SGD(lr=lr), schedule=Constant()), []
    batches = ListBatches([batch(seed=3)])
    try:
        fit(model, objective_of(model), batches, budget, Seeds(0), log=log.append)
    finally:
        assert math.isfinite(log[0]["loss"])


def test_a_last_step_that_leaves_no_number_is_divergence():
    with pytest.raises(DivergedError, match="the loss 'ce' was nan after the last step"):
        one_step_of(coop(), 1e30)
    with pytest.raises(ValueError, match=r"SGD\.lr = 1e\+39 is more than float32 holds"):
        one_step_of(coop(), 1e39)


def test_a_part_that_only_training_uses_diverges_too():
    """Test images would still be scored: every one as the same class."""
    model = make_model(make_method("CoOp", shared_tiny_clip(), ctx_init=""), cache="EmaCache")
    with pytest.raises(DivergedError, match=r"the loss '.*' was nan after the last step"):
        one_step_of(model, 1e18)
    model.eval()
    assert bool(model(batch()).logits().isfinite().all())


def test_the_check_of_the_last_step_changes_nothing(monkeypatch):
    made = [make_model(make_method("CoOp", shared_tiny_clip(), ctx_init=""), cache="EmaCache")]
    made.append(make_model(make_method("CoOp", shared_tiny_clip(), ctx_init=""), cache="EmaCache"))
    results = [training(made[0])]
    monkeypatch.setattr("core.train.fit._check_last_step", lambda *given: None)
    results.append(training(made[1]))
    assert results[0][1] == results[1][1]
    one, two = (copy_state(model) for model in made)
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_a_learned_number_that_is_not_finite_ends_the_training(monkeypatch):
    model = coop()
    step = {"loss": torch.ones(())}
    monkeypatch.setattr("core.train.fit.train_step", lambda *given: (spoiled(model), step)[1])
    with pytest.raises(DivergedError, match=r"method\.ctx was not finite after epoch 1"):
        training(model, epochs=3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_prediction(value):
    model = spoiled(coop(), value=value).eval()
    data = batch()
    with pytest.raises(NotFiniteError, match="the logits of 6 of 6 images are not finite"):
        predict(model, [data])
    with pytest.raises(NotFiniteError, match="not finite"):
        accuracy(model, [data])


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_images_that_prefer_no_class_are_no_prediction(monkeypatch, value):
    model, data = coop().eval(), batch()
    assert len(predict(model, [data]).correct_N) == 6
    level = torch.full_like(model(data).logits(), value)
    monkeypatch.setattr(type(model(data)), "logits", lambda output: level)
    with pytest.raises(NotFiniteError, match="of each of 6 images are the same for all classes"):
        predict(model, [data])
    level[0, 0] += 1  # one image that prefers a class is a prediction
    assert len(predict(model, [data]).correct_N) == 6


def test_selection_does_not_choose_an_epoch_without_numbers():
    model, seen = coop(), []

    def select(model):
        seen.append(accuracy(spoiled(model), [batch()]))
        return seen[-1]

    budget = Budget(epochs=2, optimizer=SGD(lr=0.1), schedule=Constant())
    batches = ListBatches([batch(seed=3)])
    with pytest.raises(NotFiniteError):
        fit(model, objective_of(model), batches, budget, Seeds(0), log=seen.append, select=select)
    assert len(seen) == 1  # the log of the epoch, no score
