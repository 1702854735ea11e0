"""Every registered base method with every registered refiner and part: real runs on a tiny CLIP.

Nothing here lists methods or parts: what is registered is covered. Each run goes through the
ordinary door: it trains for two steps, is recorded, and is restored from its folder.
"""

import itertools
import re
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

import experiments.run.registered
import experiments.run.run
from core.config import REQUIRED, Part, isolated_registry, lookup, register, registered_classes
from core.store.record import from_json, read_record, to_json, write_record
from experiments.configs import config_path, read_config_file
from experiments.run.run import reload
from experiments.run.runtime import Runtime
from refiners.cache import NoCache
from tests.helpers.tiny_clip import EVERYTHING

pytestmark = pytest.mark.usefixtures("tiny_backbone")

# Bindings without which a class cannot run here, or behind its name other settings to cover too.
# A class that is not named runs with its defaults.
NEEDED: dict[str, tuple[str, ...]] = {"TPT": ("TPT.test_views=3",)}
OTHER_SETTINGS = {
    "SEP": {"released": ("SEP.selection_scope='batch'", "SEP.fusion_axis='batch'")},
}
# These two work on the same rows, so that all their levels are combined.
COMBINED = ("cache", "aggregation")
PARTS_PRESET = "text_refiner"
TWO_STEPS = ("experiment.batch_size=6", "experiment.epochs=1")
NUM_CLASSES = 6


def named(kind):
    """The names that are registered as a kind."""
    return [entry.name for entry in registered_classes(kind)]


def off(kind):
    """The part of a kind that does nothing."""
    (name,) = [name for name in named(kind) if re.match(r"No[A-Z]", name)]
    return name


def slots(refiner):
    """The kind of every part that a refiner has, by parameter."""
    found = {}
    for name, parameter in lookup(refiner, "refiner").parameters.items():
        for mark in get_args(parameter.annotation)[1:]:
            if isinstance(mark, Part):
                found[name] = mark.kind
    return found


def usual(refiner):
    """The part in every slot: that of the preset, or of the class, or any that does something."""
    preset = read_config_file(config_path(PARTS_PRESET)).bindings
    parts = {}
    for slot, kind in slots(refiner).items():
        default = lookup(refiner, "refiner").parameters[slot].default
        bound = preset.get(f"{refiner}.{slot}", default)
        any_on = next((name for name in named(kind) if name != off(kind)), off(kind))
        parts[slot] = any_on if bound is REQUIRED else bound.name
    return parts


def variants():
    """Parts by slot for each run of a refiner: the usual ones, and every other in its slot."""
    for refiner in named("refiner"):
        kinds, parts = slots(refiner), usual(refiner)
        chosen = [parts]
        for slot, kind in kinds.items():
            for name in named(kind):
                # two loss terms of one name are refused: the other slot is off meanwhile
                same = [s for s in parts if s != slot and parts[s] == name]
                chosen.append({**parts, **dict.fromkeys(same, off(kind)), slot: name})
        if set(COMBINED) <= kinds.keys():
            levels = (named(kinds[slot]) for slot in COMBINED)
            pairs = itertools.product(*levels)
            chosen += [{**parts, **dict(zip(COMBINED, pair, strict=True))} for pair in pairs]
        for number, choice in enumerate(chosen):
            if choice not in chosen[:number]:
                yield refiner, choice


def bindings(refiner, parts):
    """The overrides that choose a refiner with these parts."""
    return [
        f"experiment.refiner=@{refiner}",
        *(f"{refiner}.{slot}=@{name}" for slot, name in parts.items()),
        *(b for name in (refiner, *parts.values()) for b in NEEDED.get(name, ())),
    ]


def differences(refiner, parts):
    """What a test is called after: the parts that are not the usual ones."""
    ordinary = usual(refiner)
    return " ".join([refiner, *(f"{s}={n}" for s, n in parts.items() if n != ordinary[s])])


METHODS = {
    name if not label else f"{name}, {label}": (name, settings)
    for name in named("method")
    for label, settings in {"": (), **OTHER_SETTINGS.get(name, {})}.items()
}
VARIANTS = {differences(*variant): variant for variant in variants()}
REFINERS_WITH_PARTS = [refiner for refiner in named("refiner") if slots(refiner)]
each_method = pytest.mark.parametrize("method", METHODS)
KINDS_OF_METHODS = ("CoOp", "CoCoOp", "IVLP", "PromptKD", "TipAdapterF", "TDA")
"""One of each kind: texts for all images, texts per image, prompts in the image tower, a teacher, a
closed set with logits of its own, adaptation at test time. The quick tests run every variant on
these, and every refiner as shipped on all methods; ``make test-slow`` runs the rest.
"""


def cells():
    """Every method with every variant."""
    for method in METHODS:
        for variant in VARIANTS:
            quick = variant in named("refiner") or method in KINDS_OF_METHODS
            yield pytest.param(method, variant, marks=() if quick else pytest.mark.slow)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Six classes of twelve noisy images each."""
    root = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for label in range(NUM_CLASSES):
        folder = root / f"kind {label}"
        folder.mkdir()
        for number in range(12):
            pixels = noise.integers(0, 160, (32, 32, 3), dtype=np.uint8)
            pixels[..., label % 3] += 40 + 8 * label
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def run_variant(method, folder, tree, *overrides):
    """The record of a run, which is also in its folder."""
    name, own = METHODS[method]
    sees_all_classes = lookup(name, "method").cls.regime != "inductive"
    settings = [
        f"experiment.dataset='folder/{tree}'",
        f"experiment.method=@{name}",
        f"experiment.shots={2 if sees_all_classes else 4}",
        f"experiment.num_views={lookup(name, 'method').cls.views_per_image - 1}",
        *(["experiment.protocol=few_shot"] if closed_set(name) else []),
        *(*TWO_STEPS, *NEEDED.get(name, ()), *own, *overrides),
    ]
    folder.mkdir(parents=True)
    record = experiments.run.run.run(
        read_config_file(config_path(PARTS_PRESET), settings),
        folder,
        identity="test",
        variant=method,
        factors={},
        cache_dir=tree.with_name("cache"),
        data_root=None,
        device="cpu",
        on_progress=lambda epoch: None,
    )
    write_record(folder, record)
    return record


def closed_set(method):
    """Whether a method, with its defaults, scores only the classes that it was trained on."""
    entry = lookup(method, "method")
    return bool(entry.cls.closed_set({name: p.default for name, p in entry.parameters.items()}))


def check_restored(method, folder, tree):
    """Finished, finite, recorded, and the same when restored."""
    record = read_record(folder)
    assert record.status == "finished", record.message
    scored = ["all"] if closed_set(METHODS[method][0]) else ["base", "new"]
    assert [e.target for e in record.evaluations] == scored
    assert from_json(to_json(record)) == record
    built = reload(folder, Runtime(cache_dir=tree.with_name("cache")))
    state = built.model.state_dict().values()
    assert all(bool(torch.isfinite(value).all()) for value in state)
    again = [
        experiments.run.run.evaluate(built, built.dataset, subset)
        for subset in built.scored_subsets()
    ]
    assert [e.correct for e in again] == [e.correct for e in record.evaluations]


@pytest.mark.parametrize(("method", "variant"), [*cells()])
def test_every_variant_trains_is_recorded_and_restored(method, variant, tree, tmp_path):
    refiner, parts = VARIANTS[variant]
    provided = lookup(METHODS[method][0], "method").cls.provides
    try:
        run_variant(method, tmp_path / "run", tree, *bindings(refiner, parts))
    except ValueError as refusal:
        if provided >= EVERYTHING or "does not provide" not in str(refusal):
            raise
        return
    check_restored(method, tmp_path / "run", tree)


@pytest.mark.parametrize("refiner", REFINERS_WITH_PARTS)
@each_method
def test_all_parts_off_is_the_method_alone_bit_for_bit(method, refiner, tree, tmp_path):
    parts_off = {slot: off(kind) for slot, kind in slots(refiner).items()}
    alone, without, on = (tmp_path / name for name in ("alone", "off", "on"))
    run_variant(method, alone, tree, "experiment.refiner=@NullRefiner")
    run_variant(method, without, tree, *bindings(refiner, parts_off))
    check_restored(method, without, tree)
    for name in ("log.jsonl", "weights.safetensors"):
        assert (alone / name).read_bytes() == (without / name).read_bytes()
    scores = [read_record(folder).evaluations for folder in (alone, without)]
    assert scores[0] == scores[1]
    if lookup(METHODS[method][0], "method").cls.provides >= EVERYTHING:
        run_variant(method, on, tree, *bindings(refiner, usual(refiner)))
        for name in ("log.jsonl", "weights.safetensors"):
            assert (alone / name).read_bytes() != (on / name).read_bytes()


def test_the_matrix_holds_everything_that_is_registered():
    """Each part in its slot at least once, caches and aggregations in every combination."""
    assert {name for name, _ in METHODS.values()} == set(named("method"))
    assert {refiner for refiner, _ in VARIANTS.values()} == set(named("refiner"))
    for refiner in REFINERS_WITH_PARTS:
        runs = [parts for name, parts in VARIANTS.values() if name == refiner]
        for slot, kind in slots(refiner).items():
            assert {parts[slot] for parts in runs} == set(named(kind))
        if set(COMBINED) <= slots(refiner).keys():
            pairs = {tuple(parts[slot] for slot in COMBINED) for parts in runs}
            assert len(pairs) == len(named("cache")) * len(named("aggregation"))


def test_a_new_part_is_in_the_matrix_at_once():
    before = len(VARIANTS)
    with isolated_registry():

        @register("cache")
        class NewCache(NoCache):
            """A cache that nobody has told this file about."""

        now = {differences(*variant): variant for variant in variants()}
    new = [parts for _, parts in now.values() if parts.get("cache") == "NewCache"]
    assert {parts["aggregation"] for parts in new} == set(named("aggregation"))
    assert len(now) == before + len(new)
