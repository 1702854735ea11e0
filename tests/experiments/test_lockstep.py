"""Runs that train in lockstep end bit for bit as alone, and share what they decode and encode."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.clip.image_towers import NativeViT
from core.config import config_from_text
from core.data.pixels import PixelsAhead
from core.lockstep import ALONE, Companion, Same, SharedParts, Stopwatch, finish
from core.mosaic.reader import MosaicReader
from core.store.names import TRAINING_NAME
from core.store.record import read_record
from core.train.resume import TrainingCheckpoints
from experiments.run.bundles import bundle_of
from experiments.run.run import fingerprints
from experiments.run.runtime import Runtime
from experiments.study.driver import run_study
from experiments.study.planner import plan
from experiments.workers.local import InlineExecutor
from experiments.workers.worker import ENTRY, Task, answers
from tests.helpers.mosaic_presets import on_mosaic, preset_names
from tests.helpers.preset_runs import few_test_images
from tests.helpers.two_step_runs import ON, two_steps

pytestmark = pytest.mark.usefixtures("tiny_backbone")

FRESH = "experiment.num_views = 1\nexperiment.fresh_views = True\n"
EPOCHS = 2
REFINERS = {
    "coop": "experiment.refiner = @NullRefiner",
    "whole": ON,
    "plain cache": ON.replace("@EmaCache", "@NoCache").replace(
        "@LinearAggregation", "@NoAggregation"
    ),
    "loss off": ON.replace("@SemanticLoss", "@NoLoss"),
}
FILES = ("log.jsonl", "weights.safetensors", "correct.json", "predictions.json", "shots.json")


def fresh(refiner="coop", method="CoOp", *lines):
    """A run that decodes and encodes the images of every step anew."""
    text = two_steps(method, FRESH + "\n".join(lines), REFINERS[refiner])
    text = text.replace("experiment.epochs = 1", f"experiment.epochs = {EPOCHS}")
    return config_from_text(text)


def tasks_of(configs, folder, cache_dir, size=None, on_progress=lambda epoch: None):
    """What a worker is given for these runs; each is named by its key."""
    tasks = []
    for name, config in configs.items():
        run_dir = folder / name
        run_dir.mkdir(parents=True, exist_ok=True)
        payload = {
            "config": config.text(),
            "run_dir": str(run_dir),
            "identity": "0123456789ab",
            "variant": name,
            "factors": {},
            "cache_dir": str(cache_dir),
            "data_root": None,
            "device": "cpu",
        }
        tasks.append(Task(ENTRY, name, payload, on_progress, size=size or len(configs)))
    return tasks


def together(configs, folder, cache_dir):
    """The answers of runs in lockstep, by key."""
    found = map(json.loads, answers(tasks_of(configs, folder, cache_dir)))
    return {answer["key"]: answer for answer in found}


def alone(configs, folder, cache_dir):
    """The same, one run after the other."""
    found = {}
    for name, config in configs.items():
        found |= together({name: config}, folder, cache_dir)
    return found


def outcome(folder, answer):
    """Everything that must not depend on what ran beside it."""
    assert answer["kind"] == "done", answer
    record = answer["result"]
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    facts = ("status", "message", "selected_epoch", "stopped_epoch", "weights_sha256")
    return files | {name: record[name] for name in facts} | {"scores": record["evaluations"]}


def check_same(configs, tmp_path, cache_dir):
    """Runs in lockstep end as alone; returns the answers of both."""
    one = alone(configs, tmp_path / "alone", cache_dir)
    all_of_them = together(configs, tmp_path / "together", cache_dir)
    for name in configs:
        expected = outcome(tmp_path / "alone" / name, one[name])
        assert outcome(tmp_path / "together" / name, all_of_them[name]) == expected, name
    return one, all_of_them


@pytest.fixture
def counted(monkeypatch):
    """How often each image is opened, and how many batches the frozen tower takes."""
    counts = Counter()
    read, tower = MosaicReader.read, NativeViT._before_last

    def reads(self, path):
        counts["decoded"] += 1
        return read(self, path)

    def encodes(self, image_BCHW, hook):
        counts["encoded"] += 1
        return tower(self, image_BCHW, hook)

    monkeypatch.setattr(MosaicReader, "read", reads)
    monkeypatch.setattr(NativeViT, "_before_last", encodes)
    return counts


def test_refiners_on_fresh_views_share_decoding_and_the_image_tower(
    small_mosaic, tmp_path, counted
):
    configs = {name: fresh(name) for name in REFINERS}
    alone(configs, tmp_path / "warm", small_mosaic)  # the features of test images are cached
    counted.clear()
    alone({"coop": configs["coop"]}, tmp_path / "one", small_mosaic)
    of_one = dict(counted)
    assert of_one["encoded"] > 1 and of_one["decoded"] > of_one["encoded"]
    counted.clear()
    one, found = check_same(configs, tmp_path, small_mosaic)
    assert counted == {name: (1 + len(configs)) * number for name, number in of_one.items()}
    assert "lockstep" not in one["coop"]["result"]["environment"]
    assert {a["result"]["environment"]["lockstep"] for a in found.values()} == {len(configs)}


def test_methods_on_pixels_and_on_fresh_views_share_what_they_have_in_common(
    small_mosaic, tmp_path, monkeypatch
):
    """SEP, PromptSRC and CoOp read the same views through the frozen tower, PromptKD a teacher's
    logits, CoCoOp a text for every image.
    """
    few_test_images(monkeypatch)
    decoded = []

    def counted(*args, **settings):
        if settings.get("key"):  # of a training step
            decoded.append(settings["seeds"])
        return PixelsAhead(*args, **settings)

    monkeypatch.setattr("core.train.batches.PixelsAhead", counted)
    names = ("methods/sep", "methods/promptsrc", "methods/promptkd_mosaic", "methods/cocoop")
    views = {"experiment.num_views": 1, "experiment.fresh_views": True}
    configs = {name: on_mosaic(name, epochs=EPOCHS, batch_size=12) for name in names}
    configs = {n: c.with_bindings(views | {"experiment.shots": 2}, "t") for n, c in configs.items()}
    configs = {name.rpartition("/")[2]: config for name, config in configs.items()}
    configs |= {"coop": fresh().with_bindings({"experiment.batch_size": 12}, "test")}
    configs |= {"refined": fresh("whole").with_bindings({"experiment.batch_size": 12}, "test")}
    check_same(configs, tmp_path, small_mosaic)
    seeds = Counter(map(tuple, decoded))
    assert max(seeds.values()) <= len(configs) + 2  # alone, together, and what is learned before


@pytest.mark.slow
@pytest.mark.parametrize("preset", [n for n in preset_names() if not n.startswith("published/")])
def test_every_preset_beside_another_run_ends_bitwise_the_same(
    preset, small_mosaic, tmp_path, monkeypatch
):
    few_test_images(monkeypatch)
    config = on_mosaic(preset, epochs=EPOCHS, batch_size=12)
    values = config.canonical("experiment")
    if values["experiment.optimizer"] is None:
        pytest.skip("it takes no steps")
    config = config.with_bindings({"experiment.num_views": 1, "experiment.fresh_views": True}, "t")
    other = fresh("whole").with_bindings({"experiment.batch_size": 12}, "test")
    check_same({"it": config, "other": other}, tmp_path, small_mosaic)


def test_mixed_precision_is_that_of_the_runs(small_mosaic, tmp_path):
    configs = {name: fresh(name) for name in ("coop", "whole")}
    mixed = {"experiment.precision": "bfloat16"}
    configs = {name: config.with_bindings(mixed, "test") for name, config in configs.items()}
    check_same(configs | {"full": fresh("loss off")}, tmp_path, small_mosaic)


def test_features_have_the_precision_that_each_run_asks_for(small_mosaic, tmp_path):
    mixed = {"experiment.feature_precision": "bfloat16"}
    low = fresh("coop").with_bindings(mixed, "test")
    check_same({"low": low, "full": fresh("whole")}, tmp_path, small_mosaic)


def test_the_best_epoch_and_an_early_stop_are_those_of_the_run(small_mosaic, tmp_path):
    lines = ("experiment.selection = 'val'", "experiment.patience = 1")
    configs = {"val": fresh("coop", "CoOp", *lines), "last": fresh("whole")}
    check_same(
        {n: c.with_bindings({"experiment.epochs": 4}, "t") for n, c in configs.items()},
        tmp_path,
        small_mosaic,
    )


def test_runs_of_other_images_are_not_mixed_up(small_mosaic, tmp_path):
    """What is shared is looked up by the images: a wrong bundle is slow, not wrong."""
    seeds = {f"seed {n}": fresh("whole").with_bindings({"experiment.seed": n}, "t") for n in (1, 2)}
    plain = {
        "plain": fresh().with_bindings(
            {"experiment.num_views": 0, "experiment.fresh_views": False}, "t"
        )
    }
    longer = {"longer": fresh().with_bindings({"experiment.epochs": 3}, "t")}
    smaller = {"smaller": fresh().with_bindings({"experiment.batch_size": 4}, "t")}
    check_same(seeds | plain | longer | smaller, tmp_path, small_mosaic)


def test_a_run_that_diverges_ends_alone(small_mosaic, tmp_path):
    lost = fresh().with_bindings({"SGD.lr": 1e30}, "test")
    configs = {"lost": lost, "whole": fresh("whole"), "coop": fresh()}
    one, found = check_same(configs, tmp_path, small_mosaic)
    assert found["lost"]["result"]["status"] == "diverged"
    assert found["lost"]["result"]["message"] == one["lost"]["result"]["message"]
    assert found["coop"]["result"]["status"] == "finished"


def test_a_refused_run_ends_alone_before_any_step(small_mosaic, tmp_path):
    refused = fresh().with_bindings({"experiment.shots_file": "/nowhere/shots.json"}, "test")
    found = together({"refused": refused, "coop": fresh()}, tmp_path, small_mosaic)
    assert found["refused"]["fatal"] and "/nowhere/shots.json" in found["refused"]["message"]
    assert found["coop"]["kind"] == "done" and list(found) == ["refused", "coop"]


def test_runs_that_were_killed_at_different_epochs_go_on_together(
    small_mosaic, tmp_path, monkeypatch
):
    """One has trained two epochs of four, one three, one none: the others catch up."""
    often = {"experiment.epochs": 4, "experiment.checkpoint_every": 1}
    configs = {name: fresh(name).with_bindings(often, "test") for name in REFINERS}
    expected = alone(configs, tmp_path / "alone", small_mosaic)
    for name, epoch in {"coop": 2, "whole": 3}.items():
        with monkeypatch.context() as patch:
            patch.setattr(TrainingCheckpoints, "save", dying_after(epoch))
            answer = together({name: configs[name]}, tmp_path / "killed", small_mosaic)[name]
        assert answer["kind"] == "failed"
        assert (tmp_path / "killed" / name / TRAINING_NAME).is_file()
    found = together(configs, tmp_path / "killed", small_mosaic)
    for name in configs:
        of_one = outcome(tmp_path / "alone" / name, expected[name])
        assert outcome(tmp_path / "killed" / name, found[name]) == of_one, name


def dying_after(epoch, save=TrainingCheckpoints.save):
    """The checkpoint of this epoch is written, and nothing after it."""

    def save_and_die(self, state):
        save(self, state)
        if state.epoch == epoch:
            raise RuntimeError("killed")

    return save_and_die


def test_a_run_counts_what_it_was_spared_as_if_it_were_alone():
    shared = SharedParts()
    waits = []
    first, second = (Companion(shared, 2, lambda: waits.append(1)) for _ in range(2))
    with first, second:
        for run in (first, second):
            run.at("step 1")
            assert run.once("pixels", lambda: [1]) == [1]
        assert shared.made["pixels"][0] == [1]
        assert second.spared_seconds > 0
        assert second.balance_seconds == pytest.approx(second.spared_seconds / 2)
        assert first.balance_seconds == pytest.approx(-second.spared_seconds / 2)
        before = second.spared_seconds
        second.at("step 2")
        assert second.once("pixels", lambda: [2]) == [2] and second.spared_seconds == before
    assert not shared.made and len(waits) == 2
    assert first.balance_seconds < 0 and first.spared_seconds == 0.0


def test_a_run_alone_keeps_nothing():
    with ALONE as share:
        share.at("step")
        assert share.once("pixels", lambda: [1]) is not share.once("pixels", lambda: [1])
        assert (share.size, share.spared_seconds) == (1, 0.0)


def test_a_key_is_the_object_itself_and_keeps_it():
    one, other = [1], [1]
    assert Same(one) == Same(one) and Same(one) != Same(other) and Same(one).thing is one


def test_a_watch_stands_still_while_others_advance():
    watch = Stopwatch()
    steps = watch.around(iter_of("abc"))
    next(steps)
    watch.started -= 100
    before = watch.seconds()
    assert finish(steps) == "end" and 100 <= before <= watch.seconds() < before + 50


def iter_of(values):
    yield from values
    return "end"


SAME = {
    "method": fresh("coop", "KgCoOp"),
    "refiner": fresh("whole"),
    "rate": fresh().with_bindings({"SGD.lr": 0.5}, "t"),
    "budget": fresh().with_bindings({"experiment.epochs": 9}, "t"),
    "selection": fresh().with_bindings({"experiment.selection": "val"}, "t"),
    "checkpoints": fresh().with_bindings({"experiment.checkpoint_every": 1}, "t"),
    "views": fresh().with_bindings({"experiment.num_views": 4}, "t"),
    "pixels": fresh("coop", "SEP"),
    "pixels without fresh views": fresh("coop", "SEP").with_bindings(
        {"experiment.fresh_views": False}, "t"
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_runs_of_one_bundle_see_the_same_pixels(what):
    assert bundle_of(SAME[what]) == bundle_of(fresh()) != ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("experiment.seed", 2),
        ("experiment.dataset", "mosaic/land"),
        ("experiment.shots", 4),
        ("experiment.batch_size", 4),
        ("experiment.drop_last", False),
        ("experiment.precision", "bfloat16"),
        ("experiment.feature_precision", "bfloat16"),
        ("experiment.crop_scale", (0.5, 1.0)),
        ("experiment.protocol", "few_shot"),
        ("experiment.backbone", "ViT-B-16-quickgelu"),
        ("experiment.shots_file", "drawn.json"),
    ],
)
def test_runs_of_other_images_or_towers_are_of_another_bundle(key, value):
    other = fresh().with_bindings({key: value}, "test")
    assert bundle_of(other) not in ("", bundle_of(fresh()))


def test_fixed_views_are_counted():
    """A method on pixels that keeps to its fixed views sees others than one that draws them."""
    fixed = {"experiment.fresh_views": False, "experiment.fixed_views": True}
    views = [fixed | {"experiment.num_views": number} for number in (1, 4)]
    pixels = fresh("coop", "SEP")
    assert len({bundle_of(pixels.with_bindings(more, "t")) for more in [{}, *views]} - {""}) == 3


@pytest.mark.parametrize(
    "config",
    [
        config_from_text(two_steps("CoOp")),
        config_from_text(two_steps("CoOp", "experiment.num_views = 4")),
        config_from_text(two_steps("ZeroShot", FRESH)),
        config_from_text(two_steps("TipAdapter", FRESH)),
        config_from_text(two_steps("CoOp", "", REFINERS["whole"])),
        fresh().with_bindings({"experiment.optimizer": None, "experiment.schedule": None}, "t"),
    ],
)
def test_runs_that_gain_nothing_are_single(config):
    assert bundle_of(config) == ""


PARTS = "\n".join(line for line in ON.splitlines() if not line.startswith("experiment."))
GRID = f"""{PARTS}
experiment.method = @CoOp
experiment.refiner = @NullRefiner
experiment.optimizer = @SGD
experiment.schedule = @Constant
experiment.shots = 2
experiment.epochs = 1
experiment.batch_size = 8
experiment.num_views = 1
experiment.fresh_views = True
grid.study = 'side_by_side'
grid.datasets = ('mosaic/vehicles', 'mosaic/land')
grid.seeds = (1, 2)
grid.baseline = 'CoOp'
grid.variants = {{
    'CoOp': {{}},
    'lost': {{'SGD.lr': 1e30}},
    'refined': {{'experiment.refiner': @TextRefiner}},
    'cached': {{'experiment.fresh_views': False}},
}}
"""


def test_a_study_in_lockstep_has_the_records_of_one_without(small_mosaic, tmp_path, monkeypatch):
    few_test_images(monkeypatch)
    runtime = Runtime(cache_dir=small_mosaic, data_root=None, device="cpu")
    fingerprint_of = partial(fingerprints, cache_dir=small_mosaic, data_root=None)
    made = plan(config_from_text(GRID), fingerprint_of)
    sizes = Counter(cell.bundle for cell in made.runs)
    assert sizes.pop("") == 4 and sorted(sizes.values()) == [3] * 4
    found = {}
    for lockstep in (1, 8):
        executor = InlineExecutor(lockstep=lockstep)
        folder = tmp_path / f"{lockstep}"
        outcome_of_all = run_study(made, folder, executor, runtime=runtime)
        assert (len(outcome_of_all.done), len(outcome_of_all.diverged)) == (12, 4)
        records = [read_record(folder / cell.identity) for cell in made.runs]
        beside = [record.environment.get("lockstep", 1) for record in records]
        assert Counter(beside) == ({1: 16} if lockstep == 1 else {1: 4, 3: 12})
        found[lockstep] = [replace(r, cost=None, environment={}) for r in records]
    assert found[1] == found[8]
