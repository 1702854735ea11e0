"""The four protocols: what is trained on, what selection may see, what is scored and refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import core.train.fit
from core.data.catalog import load_dataset
from core.data.dataset import Dataset
from core.data.fewshot import few_shot
from core.data.splits import class_subset
from core.train.batches import FeatureSource
from experiments.cli.list import listing
from experiments.cli.train import describe_run
from experiments.configs import config_path, read_config_file
from experiments.run.data_inputs import read_data_inputs
from experiments.run.protocols import FEW_SHOTS, PROTOCOLS, SEARCH_PROTOCOLS
from experiments.run.run import assemble, fingerprints
from experiments.run.runtime import Runtime
from experiments.run.standalone import evaluate_run, train_one
from methods.zero_shot import ZeroShot

SHORT = ("experiment.epochs=2", "experiment.shots=2", "experiment.batch_size=4")
VEHICLES, LAND, CRITTERS = "mosaic/vehicles", "mosaic/land", "mosaic/critters"
SHAPES = "mosaic/shapes"
SHIFTS = ("mosaic/shapes-sketch", "mosaic/shapes-tint")
PROTOCOL = {
    "base_to_new": (VEHICLES, ()),
    "cross_dataset": (VEHICLES, (LAND, CRITTERS)),
    "domain_generalization": (SHAPES, SHIFTS),
    "few_shot": (VEHICLES, ()),
}


@pytest.fixture
def place(small_mosaic):
    return Runtime(cache_dir=small_mosaic)


def settings_of(protocol, config="coop", *overrides):
    dataset, targets = PROTOCOL[protocol]
    own = [f"experiment.protocol={protocol}", f"experiment.dataset={dataset}"]
    own += [f"experiment.targets={targets}"] if targets else []
    changed = {text.split("=")[0] for text in overrides}
    kept = [text for text in (*SHORT, *own) if text.split("=")[0] not in changed]
    return [config_path(config), [*kept, *overrides]]


@pytest.fixture
def train(place, tmp_path):
    """Trains a short run of a protocol; gives its folder and record."""

    def start(protocol, config="coop", *overrides, name="run"):
        file, chosen = settings_of(protocol, config, *overrides)
        return train_one(
            file, chosen, tmp_path / name, tmp_path, place, on_progress=lambda epoch: None
        )

    return start


def inputs_of(place, protocol, config="coop", *overrides):
    file, chosen = settings_of(protocol, config, *overrides)
    return read_data_inputs(read_config_file(file, chosen), place)


# what is trained on and scored


@pytest.mark.parametrize("protocol", PROTOCOL)
def test_a_record_has_what_the_protocol_scores_in_whole_numbers(train, place, protocol):
    _, record = train(protocol)
    assert record.protocol == protocol
    dataset, targets = PROTOCOL[protocol]
    own = ["base", "new"] if protocol == "base_to_new" else ["all"]
    assert [e.target for e in record.evaluations] == [*own, *targets]
    for scored in record.evaluations:
        whole = load_dataset(scored.dataset, root=None, cache_dir=place.cache_dir)
        expected = class_subset(whole, scored.classes)
        assert scored.class_names == expected.class_names  # each among its own classes
        assert scored.total == (5,) * len(scored.class_names)
        assert all(type(n) is int and 0 <= n <= 5 for n in scored.correct)
    assert [e.dataset for e in record.evaluations] == [dataset] * len(own) + list(targets)


@pytest.mark.parametrize("protocol", PROTOCOL)
def test_training_sees_the_labeled_classes_of_the_source_alone(place, protocol):
    file, chosen = settings_of(protocol)
    built = assemble(read_config_file(file, chosen), place)
    half = "base" if protocol == "base_to_new" else "all"
    assert built.trained_subset == built.selected_subset == half
    assert built.dataset.name == PROTOCOL[protocol][0]
    part = class_subset(built.dataset, half)
    assert built.model.method.classes.names == part.class_names
    whole = load_dataset(built.dataset.name, root=None, cache_dir=place.cache_dir)
    drawn = few_shot(whole, shots=2, seed=1)
    assert (built.dataset.train, built.dataset.val) == (drawn.train, drawn.val)


@pytest.mark.parametrize("protocol", ["cross_dataset", "domain_generalization"])
def test_a_score_on_a_target_is_what_evaluate_says(train, place, protocol):
    folder, record = train(protocol, "text_refiner")
    assert evaluate_run(folder, "", "", place) == list(record.evaluations)
    for scored in record.evaluations[1:]:
        assert evaluate_run(folder, scored.dataset, "", place) == [scored]
    rows = dict(describe_run(record))
    others = [e.accuracy for e in record.evaluations[1:]]
    assert rows["average over 2 targets %"] == f"{100 * sum(others) / 2:.2f}"
    assert "harmonic mean %" not in rows


def test_each_target_is_scored_with_its_own_template(tmp_path, trees, monkeypatch):
    asked = []
    set_classes = ZeroShot.set_classes
    monkeypatch.setattr(
        ZeroShot,
        "set_classes",
        lambda self, classes: asked.append(classes.template) or set_classes(self, classes),
    )
    place = Runtime(cache_dir=tmp_path / "cache", data_root=trees)

    def templates(*overrides):
        asked.clear()
        train_one(
            config_path("zero_shot"),
            ["experiment.protocol=cross_dataset", "experiment.dataset=eurosat",
             "experiment.targets=('dtd',)", *overrides],
            tmp_path / "run", tmp_path, place, on_progress=lambda epoch: None,
        )  # fmt: skip
        return set(asked)

    assert templates() == {"a centered satellite photo of {}.", "{} texture."}
    assert templates("experiment.template='a {}.'") == {"a {}."}


# evaluation never trains


@pytest.mark.parametrize("protocol", PROTOCOL)
def test_evaluation_takes_no_step_and_moves_no_weight(train, place, protocol, monkeypatch):
    steps = []
    step = core.train.fit.train_step
    monkeypatch.setattr(core.train.fit, "train_step", lambda *a: steps.append(1) or step(*a))
    folder, record = train(protocol)
    classes = len(record.evaluations[0].class_names)
    assert len(steps) == 2 * (2 * classes // 4)  # two epochs, however many targets there are
    weights = (folder / "weights.safetensors").read_bytes()
    steps.clear()
    evaluate_run(folder, "", "", place)
    evaluate_run(folder, CRITTERS, "all", place)
    assert not steps and (folder / "weights.safetensors").read_bytes() == weights


def test_targets_do_not_move_training(train):
    few, _ = train("cross_dataset", "coop", f"experiment.targets=('{LAND}',)", name="few")
    many, _ = train("cross_dataset", name="many")
    alone, _ = train("few_shot", name="alone")
    learned = [(f / "weights.safetensors").read_bytes() for f in (few, many, alone)]
    assert learned[0] == learned[1] == learned[2]


# selection


@pytest.mark.parametrize("protocol", PROTOCOL)
@pytest.mark.parametrize("rule", ["val", "oracle-test"])
def test_selection_sees_what_its_rule_says_and_no_target(train, place, monkeypatch, protocol, rule):
    seen = []
    evaluation = FeatureSource.evaluation

    def watched(self, dataset, items, batch_size, **options):
        seen.append((dataset.name, tuple(items)))
        return evaluation(self, dataset, items, batch_size, **options)

    monkeypatch.setattr(FeatureSource, "evaluation", watched)
    _, record = train(protocol, "coop", f"experiment.selection={rule}")
    inputs = inputs_of(place, protocol)
    known = class_subset(inputs.dataset, PROTOCOLS[protocol].labeled)
    allowed = known.val if rule == "val" else known.test
    scored = len(record.evaluations)
    assert [items for _, items in seen[:-scored]] == [allowed, allowed]  # after each epoch
    assert {name for name, _ in seen[:-scored]} == {PROTOCOL[protocol][0]}
    said = dict(describe_run(record))["selection"]
    assert said == f"{rule}: sees {PROTOCOLS[protocol].selections[rule]}"


def test_validation_images_that_are_test_images_are_not_called_validation(tmp_path, trees):
    place = Runtime(cache_dir=tmp_path / "cache", data_root=trees)
    overrides = [*SHORT, "experiment.dataset=imagenet", "experiment.selection=val"]
    with pytest.raises(ValueError, match="imagenet has none of its own: they are its test images"):
        train_one(
            config_path("coop"), overrides, tmp_path / "run", tmp_path, place,
            on_progress=lambda epoch: None,
        )  # fmt: skip


# regimes


def test_without_labels_one_student_a_target_is_trained(train, place):
    kd = ("PromptKD.regime=transductive", "experiment.shots=0", "experiment.epochs=1",
          "experiment.batch_size=32", "experiment.targets=()")  # fmt: skip
    _, record = train("cross_dataset", "promptkd", *kd)
    assert (record.regime, record.protocol) == ("transductive", "cross_dataset")
    assert [e.target for e in record.evaluations] == ["all"]
    said = dict(describe_run(record))["regime"]
    assert "all training images of one target, which is experiment.dataset" in said


REFUSED = [
    (
        "base_to_new",
        ("experiment.targets=('mosaic/land',)",),
        "only the dataset it trains on, got experiment.targets",
    ),
    ("few_shot", ("experiment.targets=('mosaic/land',)",), "leave them empty"),
    ("cross_dataset", ("experiment.targets=()",), "name them in experiment.targets"),
    ("domain_generalization", ("experiment.targets=()",), "name them in experiment.targets"),
    ("cross_dataset", (f"experiment.targets=('{VEHICLES}',)",), "must not hold the source"),
    ("cross_dataset", (f"experiment.targets=('{LAND}', '{LAND}')",), "must not repeat"),
    ("cross_dataset", ("experiment.targets=('mosaic/lands',)",), "did you mean 'mosaic/land'"),
    (
        "domain_generalization",
        (f"experiment.targets=('{SHIFTS[0]}', '{LAND}')",),
        "24 of the 24 classes of mosaic/land are not in mosaic/shapes: 'desert",
    ),
    ("few_shot", ("experiment.crop_scale=(0.5, 0.2)",), "0 < low <= high <= 1"),
    ("few_shot", ("experiment.crop_scale=[0.5]",), "0 < low <= high <= 1"),
    ("few_shot", ("experiment.fresh_views=True",), "set it to 1"),
    ("few_shot", ("experiment.shots_file=nowhere.txt",), "nowhere.txt does not exist"),
    ("all_classes", (), "must be one of 'base_to_new', 'cross_dataset'"),
]


@pytest.mark.parametrize(("protocol", "overrides", "message"), REFUSED)
def test_what_breaks_a_protocol_is_refused_before_anything_is_built(
    place, protocol, overrides, message
):
    known = protocol if protocol in PROTOCOL else "few_shot"
    extra = () if protocol in PROTOCOL else (f"experiment.protocol={protocol}",)
    file, chosen = settings_of(known, "coop", *overrides, *extra)
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
        fingerprints(read_config_file(file, chosen), cache_dir=place.cache_dir, data_root=None)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("protocol", "overrides", "message"),
    [
        ("few_shot", ("PromptKD.regime=transductive",), "allows the regimes inductive, limited"),
        ("base_to_new", ("PromptKD.regime=transductive",), "use 0, or the regime 'limited'"),
        ("cross_dataset", (), "trains one student per target, which is experiment.dataset"),
    ],
)
def test_regimes_have_rules(place, protocol, overrides, message):
    with pytest.raises(ValueError, match=message):
        inputs_of(place, protocol, "promptkd", *overrides)


def test_a_test_set_is_never_trained_on_with_labels(tmp_path, trees):
    place = Runtime(cache_dir=tmp_path / "cache", data_root=trees)

    def read(config, protocol, *overrides):
        own = [f"experiment.protocol={protocol}", "experiment.dataset=imagenet_a", *overrides]
        return read_data_inputs(read_config_file(config_path(config), own), place)

    with pytest.raises(ValueError, match="imagenet_a has test images only"):
        read("coop", "few_shot")
    with pytest.raises(ValueError, match="imagenet_a has test images only"):
        read("zero_shot", "base_to_new")
    assert read("zero_shot", "few_shot").dataset.test
    limited = read("promptkd", "domain_generalization", "PromptKD.regime=transductive",
                   "experiment.shots=0")  # fmt: skip
    assert limited.dataset.train == limited.dataset.test  # as published


# label subsets


def named(name, *class_names):
    return Dataset(
        name=name, class_names=class_names, template="{}", train=(), val=(), test=(), reader=None
    )


def test_names_that_stand_for_two_classes_are_counted():
    source = named("source", "missile", "missile", "tench")
    rule = PROTOCOLS["domain_generalization"]
    rule.check_classes(source, [named("a", "missile"), named("b", "tench", "missile", "missile")])
    with pytest.raises(ValueError, match="1 of the 2 classes of c are not in source: 'tench'"):
        rule.check_classes(source, [named("c", "tench", "tench")])
    PROTOCOLS["cross_dataset"].check_classes(source, [named("c", "shark")])


def test_every_class_of_imagenet_v2_must_be_there(tmp_path, trees):
    place = Runtime(cache_dir=tmp_path / "cache", data_root=trees)
    own = ["experiment.protocol=domain_generalization", "experiment.dataset=imagenet"]
    full = read_config_file(config_path("coop"), [*own, "experiment.targets=('imagenetv2',)"])
    with pytest.raises(ValueError, match="994 of the 1000 classes of imagenetv2 are not in"):
        read_data_inputs(full, place)
    (sketch,) = read_data_inputs(
        read_config_file(config_path("coop"), [*own, "experiment.targets=('imagenet_sketch',)"]),
        place,
    ).targets
    assert sketch.class_names.count("missile") == 2


# identity


def identity(place, protocol, config="coop", *overrides):
    file, chosen = settings_of(protocol, config, *overrides)
    made = read_config_file(file, chosen)
    prints = fingerprints(made, cache_dir=place.cache_dir, data_root=None)
    return made.identity("experiment", prints), prints


def test_targets_are_part_of_the_identity_with_their_content(place, train, monkeypatch):
    first, prints = identity(place, "cross_dataset")
    assert set(prints) == {"dataset", "backbone", f"target {LAND}", f"target {CRITTERS}"}
    _, record = train("cross_dataset")
    assert record.identity == first
    assert {key: record.fingerprints[key] for key in prints} == prints
    assert identity(place, "cross_dataset", "coop", f"experiment.targets=('{LAND}',)")[0] != first
    monkeypatch.setattr(
        "experiments.run.data_inputs.load_dataset",
        lambda name, **place: replace(load_dataset(name, **place), content=f"other {name}"),
    )
    monkeypatch.setattr("experiments.run.data_inputs._dataset", uncached())
    assert identity(place, "cross_dataset")[1][f"target {LAND}"] != prints[f"target {LAND}"]


def uncached():
    import experiments.run.data_inputs

    return experiments.run.data_inputs._dataset.__wrapped__


def test_a_crop_that_is_not_used_is_no_difference(place):
    plain = identity(place, "few_shot")[0]
    assert identity(place, "few_shot", "coop", "experiment.crop_scale=(0.5, 1.0)")[0] == plain
    views = ("coop", "experiment.num_views=1")
    one = identity(place, "few_shot", *views)[0]
    assert identity(place, "few_shot", *views, "experiment.crop_scale=(0.5, 1.0)")[0] != one
    assert identity(place, "few_shot", *views, "experiment.fresh_views=True")[0] != one
    assert identity(place, "few_shot", "coop", "experiment.drop_last=False")[0] != plain


# the exact images


def test_every_run_writes_its_images_and_others_can_be_taken_over(train, place, tmp_path):
    folder, record = train("base_to_new", "coop", "experiment.seed=3", name="first")
    written = json.loads((folder / "shots.json").read_text())
    drawn = inputs_of(place, "base_to_new", "coop", "experiment.seed=3").dataset
    assert written["train"] == [[item.path, item.label] for item in drawn.train]
    assert not any(Path(path).is_absolute() for path, _ in written["train"])
    taken = f"experiment.shots_file='{folder}/shots.json'"
    inputs = inputs_of(place, "base_to_new", "coop", "experiment.seed=1", taken)
    assert (inputs.dataset.train, inputs.dataset.val) == (drawn.train, drawn.val)
    assert inputs.fingerprints["shots file"]
    same, other = train("base_to_new", "coop", "experiment.seed=3", taken, name="second")
    learned = [(f / "weights.safetensors").read_bytes() for f in (folder, same)]
    assert learned[0] == learned[1] and other.identity != record.identity
    with pytest.raises(ValueError, match=r"lists up to 2 training images per class; set"):
        inputs_of(place, "base_to_new", "coop", "experiment.shots=4", taken)


def test_the_content_of_a_shots_file_is_part_of_the_identity(train, place, tmp_path):
    folder, _ = train("few_shot")
    taken = f"experiment.shots_file='{tmp_path}/list.json'"
    text = (folder / "shots.json").read_text()
    found = []
    for content in (text, text + "\n"):
        (tmp_path / "list.json").write_text(content)
        found.append(identity(place, "few_shot", "coop", taken)[0])
    assert found[0] != found[1]


# printed


def test_the_rules_are_typed_and_printed(monkeypatch, capsys):
    rows = {row["name"]: row for row in listing("protocols")}
    assert set(PROTOCOLS) == set(PROTOCOL)
    assert set(rows) == {*PROTOCOLS, *SEARCH_PROTOCOLS}
    import main as command_line

    monkeypatch.setattr("sys.argv", ["main.py", "list", "protocols"])
    assert command_line.main() == 0
    shown = capsys.readouterr().out
    for name, protocol in PROTOCOLS.items():
        assert set(protocol.selections) == {"last", "val", "oracle-test"}
        assert "inductive" in protocol.regimes and "arXiv" in protocol.source
        for term, text in protocol.rules().items():
            assert f"{name}: {term}: {text}" in shown
    assert FEW_SHOTS == (1, 2, 4, 8, 16)


def test_a_run_says_by_which_rules_it_was_made(train):
    _, record = train("base_to_new", "text_refiner")
    rows = dict(describe_run(record))
    assert rows["protocol"].startswith("base_to_new: train on the first half")
    assert rows["regime"] == "inductive: training sees " + (
        "the few-shot images of the base classes, with labels"
    )
    assert rows["selection"] == "last: sees nothing: the last epoch is reported"
    assert "ceil(n / 2)" in rows["scored"] and "template" in rows["templates"]
