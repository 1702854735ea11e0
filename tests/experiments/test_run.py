"""One run from a configuration to a record, on a small Mosaic with the shipped weights."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.clip import products
from core.config import config_from_text
from core.data.catalog import load_dataset
from core.data.splits import class_subset
from core.store import read_correct_images, read_predictions, read_record
from core.store.epochs import read_epochs
from core.store.predictions import CONFIDENCE_STEPS
from experiments.cli.train import describe_run
from experiments.configs import config_path, read_config_file
from experiments.run import runtime
from experiments.run.run import reload, scoring
from experiments.run.runtime import Runtime
from experiments.run.standalone import evaluate_run, train_one

SHORT = ("experiment.epochs=2", "experiment.shots=2", "experiment.batch_size=4")


@pytest.fixture
def place(small_mosaic):
    return Runtime(cache_dir=small_mosaic)


@pytest.fixture
def train(place, tmp_path):
    """Trains a short run of a shipped configuration into a folder of that name."""

    def start(name, config, *overrides, dataset="mosaic/vehicles", seen=None):
        return train_one(
            config_path(config),
            [*SHORT, f"experiment.dataset={dataset}", *overrides],
            tmp_path / name,
            tmp_path,
            place,
            on_progress=lambda epoch: None if seen is None else seen.append(dict(epoch)),
        )

    return start


def counts(record):
    return [(e.classes, e.correct, e.total) for e in record.evaluations]


def test_a_record_says_everything_in_whole_numbers(train):
    seen = []
    folder, record = train("run", "text_refiner", seen=seen)
    assert read_record(folder) == record
    assert record.status == "finished" and record.variant == "text_refiner"
    assert (record.dataset, record.protocol) == ("mosaic/vehicles", "base_to_new")
    assert (record.regime, record.selection) == ("inductive", "last")
    assert (record.seed, record.shots, record.selected_epoch) == (1, 2, 2)
    assert re.fullmatch("[0-9a-f]{12}", record.identity)
    assert [e.target for e in record.evaluations] == ["base", "new"]
    for evaluation in record.evaluations:
        assert evaluation.total == (5,) * len(evaluation.class_names)
        assert all(type(n) is int and 0 <= n <= 5 for n in evaluation.correct)
        assert evaluation.accuracy == sum(evaluation.correct) / sum(evaluation.total)
    assert record.cost.train_seconds > 0 and record.cost.images_per_second > 0
    context, alignment, extractor = 4 * 128, 2 * (128 * 128 + 128) + 2 * 128, 128 * 256
    assert record.cost.trainable_parameters == context + alignment + extractor
    assert {"dataset", "backbone", "few_shot"} <= set(record.fingerprints)
    assert record.environment["packages"]["torch"]
    log = read_epochs(folder)
    assert log == seen and [line["epoch"] for line in log] == [1, 2]
    assert set(log[0]) == {
        "epoch", "epochs", "lr", "loss", "ce", "semantic", "regularization",
    }  # fmt: skip
    assert dict(describe_run(record))["status"] == "finished"


def test_the_images_that_were_right_add_up_to_the_record(train):
    folder, record = train("run", "text_refiner")
    found = read_correct_images(folder)
    assert list(found) == ["base", "new"]
    for evaluation in record.evaluations:
        images = found[evaluation.target]
        assert images.num_images == sum(evaluation.total) > 8
        assert len(images.bits) == -(-images.num_images // 8)
        assert images.num_correct == sum(evaluation.correct)
    assert found["base"].test_list != found["new"].test_list


def test_the_images_stand_in_the_order_of_the_test_list(train, place):
    """Every bit is the answer to the image at its place in the list, asked by itself."""
    folder, _ = train("run", "coop", "experiment.protocol=few_shot")
    images = read_correct_images(folder)["all"]
    bits = np.unpackbits(np.frombuffer(images.bits, np.uint8))[: images.num_images]
    built = reload(folder, place)
    with torch.no_grad():
        part = class_subset(built.dataset, "all")
        assert images.test_list == part.test_fingerprint and 0 < bits.sum() < len(part.test)
        for item, bit in zip(part.test, bits, strict=True):
            (batch,) = built.source.evaluation(part, [item], 1)
            assert (int(built.model(batch).logits().argmax()) == item.label) == bit


def test_every_prediction_is_that_of_its_image(train, place):
    """Class and confidence at a place of the list are those of the image there, asked by itself."""
    folder, record = train("run", "text_refiner")
    stored, images = read_predictions(folder), read_correct_images(folder)
    assert list(stored) == ["base", "new"]
    built = reload(folder, place)
    for target, found in stored.items():
        assert found.bits == images[target].bits
        part = class_subset(built.dataset, target)
        assert list(found.labels) == [item.label for item in part.test]
        with torch.no_grad(), scoring(built, part):
            for i in range(0, len(part.test), 97):
                (batch,) = built.source.evaluation(part, [part.test[i]], 1)
                share = built.model(batch).logits().softmax(dim=-1)[0]
                assert int(share.argmax()) == found.predicted[i]
                assert abs(float(share.max()) - found.confidences[i] / CONFIDENCE_STEPS) < 1e-4
    assert sum(map(len, (e.class_names for e in record.evaluations))) == 24


def test_the_test_list_is_not_that_of_a_draw_or_of_another_order(train, place):
    (first, _), (second, _) = train("one", "coop"), train("two", "coop", "experiment.seed=2")
    lists = [{t: i.test_list for t, i in read_correct_images(f).items()} for f in (first, second)]
    assert lists[0] == lists[1]
    dataset = load_dataset("mosaic/vehicles", root=None, cache_dir=place.cache_dir)
    turned = replace(dataset, test=dataset.test[::-1])
    renamed = replace(dataset, class_names=("x", *dataset.class_names[1:]))
    redrawn = replace(dataset, content="others")
    fewer = replace(dataset, train=dataset.train[:5], val=())
    prints = {d.test_fingerprint for d in (dataset, turned, renamed, redrawn)}
    assert len(prints) == 4 and fewer.test_fingerprint == dataset.test_fingerprint


def test_a_run_without_its_images_or_with_those_of_another_is_told(train, tmp_path):
    folder, _ = train("run", "coop")
    path = folder / "correct.json"
    text = path.read_text()
    for broken in (
        "{",
        text.replace('"bits"', '"bit"'),
        text.replace('_version": 1', '_version": 9'),
    ):
        path.write_text(broken)
        with pytest.raises(ValueError, match=r"correct.json cannot be read: .*; rerun the run"):
            read_correct_images(folder)
    document = json.loads(text)
    first = document["targets"][0]
    first["bits"] = re.sub("[^=]", "A", first["bits"])  # as many bits, none of them set
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="its content was changed after it was written"):
        read_correct_images(folder)
    del document["digest"]  # as an older version wrote it
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="contradicts the record"):
        read_correct_images(folder)
    path.write_text(text + "\n")
    with pytest.raises(ValueError, match=r"correct.json was changed after the run"):
        read_correct_images(folder)
    path.unlink()
    assert read_correct_images(folder) == {} == read_correct_images(tmp_path / "nothing")


def test_the_written_configuration_is_the_run(train):
    folder, record = train("run", "coop", "CoOp.num_ctx=7", "CoOp.ctx_init=''")
    text = (folder / "config.gin").read_text()
    again = config_from_text(text)
    assert again.text() == text
    prints = {key: record.fingerprints[key] for key in ("dataset", "backbone")}
    assert again.identity("experiment", prints) == record.identity
    assert again.bindings["CoOp.num_ctx"] == 7
    assert read_config_file(folder / "config.gin").bindings == again.bindings


def test_the_same_run_twice_is_the_same_to_the_byte(train):
    (first, a), (second, b) = train("first", "text_refiner"), train("second", "text_refiner")
    weights = [(f / "weights.safetensors").read_bytes() for f in (first, second)]
    assert weights[0] == weights[1]
    for name in ("correct.json", "predictions.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert a.identity == b.identity and counts(a) == counts(b)
    other, c = train("other", "text_refiner", "experiment.seed=2")
    assert (other / "weights.safetensors").read_bytes() != weights[0]
    assert c.identity != a.identity and c.seed == 2


def test_scoring_again_gives_the_record(train, place):
    folder, record = train("run", "text_refiner")
    assert evaluate_run(folder, "", "", place) == list(record.evaluations)
    assert evaluate_run(folder, "mosaic/vehicles", "new", place) == [record.evaluations[1]]
    (everything,) = evaluate_run(folder, "", "all", place)
    assert sum(everything.total) == sum(sum(e.total) for e in record.evaluations)
    with pytest.raises(ValueError, match="all, base, new"):
        evaluate_run(folder, "", "old", place)
    with pytest.raises(ValueError, match="did you mean"):
        evaluate_run(folder, "mosaic/vehicle", "", place)


def test_a_shifted_set_is_scored_without_training_again(train, place):
    folder, _ = train("run", "coop", "experiment.protocol=few_shot", dataset="mosaic/shapes")
    before = (folder / "weights.safetensors").read_bytes()
    (shifted,) = evaluate_run(folder, "mosaic/shapes-sketch", "", place)
    (own,) = evaluate_run(folder, "mosaic/shapes", "", place)
    assert shifted.dataset == "mosaic/shapes-sketch" and shifted.target != own.target
    assert shifted.class_names == own.class_names and shifted.total == own.total
    assert shifted.correct != own.correct
    assert (folder / "weights.safetensors").read_bytes() == before


def test_an_exported_tree_trains_to_the_same_bytes(train, place, tmp_path):
    from core.data.export import export_dataset

    drawn = load_dataset("mosaic/vehicles", root=None, cache_dir=place.cache_dir)
    export_dataset(drawn, tmp_path / "tree")
    read = load_dataset(f"folder/{tmp_path}/tree", root=None, cache_dir=place.cache_dir)
    assert (read.train, read.val, read.test) == (drawn.train, drawn.val, drawn.test)
    assert (read.class_names, read.template) == (drawn.class_names, drawn.template)
    views = "experiment.num_views=2"
    first, a = train("drawn", "text_refiner", views)
    second, b = train("files", "text_refiner", views, dataset=f"folder/{tmp_path}/tree")
    assert counts(a) == counts(b)
    weights = [(f / "weights.safetensors").read_bytes() for f in (first, second)]
    assert weights[0] == weights[1]
    assert evaluate_run(second, "", "", place) == list(b.evaluations)


def test_selection_on_validation_and_on_test(train):
    for rule in ("val", "oracle-test"):
        _, record = train(rule, "coop", f"experiment.selection={rule}", "SGD.lr=0.5")
        assert record.selection == rule and record.selected_epoch in (1, 2)


def test_selection_needs_validation_images(train, tmp_path, place):
    from core.data.export import export_dataset

    drawn = load_dataset("mosaic/vehicles", root=None, cache_dir=place.cache_dir)
    export_dataset(drawn.with_splits(train=drawn.train, val=()), tmp_path / "tree")
    with pytest.raises(ValueError, match="needs validation images"):
        train("run", "coop", "experiment.selection=val", dataset=f"folder/{tmp_path}/tree")


def test_a_huge_rate_is_a_named_status(train):
    folder, record = train(
        "run", "text_refiner", "SGD.lr=1e30", "ConstantThenCosine.warmup_lr=1e30"
    )
    assert record.status == "diverged" and "try a lower lr" in record.message
    assert record.evaluations == () and record.cost is None
    assert read_record(folder) == record
    assert not (folder / "weights.safetensors").exists()
    assert not (folder / "correct.json").exists() and read_correct_images(folder) == {}
    assert not (folder / "predictions.json").exists() and read_predictions(folder) == {}


@pytest.mark.parametrize("precision", ["float64", "bfloat16", "float16"])
def test_other_precisions_train_and_score(train, place, precision):
    folder, record = train("run", "text_refiner", f"experiment.precision={precision}")
    assert record.status == "finished"
    wanted = "torch.float64" if precision == "float64" else "torch.float32"
    learned = load_file(folder / "weights.safetensors")
    assert {str(v.dtype) for v in learned.values() if v.is_floating_point()} == {wanted}
    assert record.environment.get("skipped_steps") == (0 if precision == "float16" else None)
    assert evaluate_run(folder, "", "", place) == list(record.evaluations)


def test_a_device_without_operators_in_half_precision_is_told_before_any_work(train, monkeypatch):
    def refuse(*args, **named):
        raise RuntimeError("\"linear_kernel\" not implemented for 'Half'\nmore lines")

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    runtime._missing_kernel.cache_clear()
    with pytest.raises(
        ValueError, match=r"^experiment\.precision = 'float16' does not work on cpu"
    ):
        train("run", "coop", "experiment.precision=float16")
    runtime._missing_kernel.cache_clear()


@pytest.mark.skipif(not products.is_available(), reason="no oneDNN product")
def test_a_record_names_the_matrix_product_and_its_identity_does_not(train, place, monkeypatch):
    _, default = train("default", "text_refiner")
    monkeypatch.setenv("REFINELAB_ONEDNN", "on")
    folder, record = train("onednn", "text_refiner")
    assert default.environment["matrix_product"] == "default"
    assert record.environment["matrix_product"] == "oneDNN"
    assert record.environment["threads"] == torch.get_num_threads()
    assert record.identity == default.identity and counts(record) == counts(default)
    losses = [read_epochs(folder.parent / name) for name in ("default", "onednn")]
    for one, other in zip(*losses, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    monkeypatch.setenv("REFINELAB_ONEDNN", "off")
    assert evaluate_run(folder, "", "", place) == list(record.evaluations)
    _, again = train("again", "text_refiner")
    assert again.weights_sha256 == default.weights_sha256


@pytest.mark.parametrize("setting", ["feature_precision=bfloat16", "feature_storage=float16"])
def test_features_in_low_precision_are_of_another_run(train, place, setting):
    _, full = train("full", "text_refiner")
    folder, low = train("low", "text_refiner", f"experiment.{setting}")
    assert low.identity != full.identity and low.weights_sha256 != full.weights_sha256
    assert evaluate_run(folder, "", "", place) == list(low.evaluations)
    learned = load_file(folder / "weights.safetensors")
    assert {v.dtype for v in learned.values() if v.is_floating_point()} == {torch.float32}


def test_zero_shot_is_one_measurement(train):
    folder, record = train("run", "zero_shot", "experiment.seed=5")
    assert record.seed is None and record.shots == 0
    assert record.cost.trainable_parameters == 0 and record.cost.train_seconds == 0
    assert (folder / "weights.safetensors").is_file()
    assert sum(sum(e.correct) for e in record.evaluations) > 0


def test_real_digits_train_on_all_classes(train, place):
    folder, record = train("run", "coop", "experiment.protocol=few_shot", dataset="sklearn/digits")
    (scored,) = record.evaluations
    assert scored.target == "all" and len(scored.class_names) == 10
    assert sum(scored.total) > 400
    assert evaluate_run(folder, "", "", place) == [scored]


def test_another_template_is_another_zero_shot(train):
    _, own = train("own", "zero_shot")
    _, other = train("other", "zero_shot", "experiment.template='{} x y z.'")
    assert own.identity != other.identity and counts(own) != counts(other)


def test_a_folder_that_is_no_run_is_refused(place, tmp_path):
    with pytest.raises(ValueError, match="not a run folder"):
        evaluate_run(tmp_path, "", "", place)
    (tmp_path / "config.gin").write_text("experiment.method = @Path\n")
    with pytest.raises(ValueError, match="Path"):
        evaluate_run(tmp_path, "", "", place)


def test_a_run_without_weights_cannot_be_scored(train, place):
    folder, _ = train("run", "coop")
    Path(folder / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match="does not exist"):
        evaluate_run(folder, "", "", place)
