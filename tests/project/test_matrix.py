"""Every base method with every variant of the refiner: real runs of two steps on a tiny CLIP.

Each run goes through the ordinary door: trains, is recorded, is restored from its folder. The
matrix that comes out is printed and is the one that the README shows.
"""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

import experiments.run.image_source
import experiments.run.run
from core.config import registered_classes
from core.store.record import from_json, read_record, to_json, write_record
from experiments.configs import config_path, read_config_file
from experiments.run.run import reload
from experiments.run.runtime import Runtime
from tests.helpers.paths import ROOT
from tests.helpers.preset_runs import ALL_OFF
from tests.helpers.tiny_clip import shared_tiny_clip

METHODS = {
    "ZeroShot": ("text_refiner", "experiment.method=@ZeroShot"),
    "CoOp": ("text_refiner",),
    "CoCoOp": ("text_refiner_on_cocoop",),
    "IVLP": ("text_refiner_on_ivlp",),
    "PromptSRC": ("text_refiner_on_promptsrc",),
    "PromptKD": ("text_refiner_on_promptkd",),
    "SEP": ("text_refiner_on_sep",),
    "SEP, released": (
        "text_refiner_on_sep",
        "SEP.selection_scope='batch'",
        "SEP.fusion_axis='batch'",
    ),
}
TWO_STEPS = (
    "experiment.batch_size=6",
    "experiment.epochs=1",
    "experiment.num_views=0",
)
NUM_CLASSES = 6
SLOTS = {
    "cache": [entry.name for entry in registered_classes("cache")],
    "aggregation": [entry.name for entry in registered_classes("aggregation")],
    "alignment": [entry.name for entry in registered_classes("alignment")],
    "semantic": ["SemanticLoss", "NoLoss"],
    "regularization": [e.name for e in registered_classes("loss") if e.name != "SemanticLoss"],
}
ROWS = [(slot, name) for slot, names in SLOTS.items() for name in names]
OFF_ROW = ("refiner", "all parts off: the method alone, bit for bit")
VARIANTS = [
    *({"cache": c, "aggregation": a} for c, a in itertools.product(*list(SLOTS.values())[:2])),
    *({"alignment": name} for name in SLOTS["alignment"]),
    *({"semantic": name} for name in SLOTS["semantic"]),
    *({"regularization": name} for name in SLOTS["regularization"]),
]
README = ROOT / "README.md"

# rows of the matrix that passed, a set a method
passed: dict[str, set[tuple[str, str]]] = {method: set() for method in METHODS}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Six classes of twelve noisy pictures each."""
    root = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0)
    for label in range(NUM_CLASSES):
        folder = root / f"kind {label}"
        folder.mkdir()
        for number in range(12):
            pixels = noise.integers(0, 160, (32, 32, 3), dtype=np.uint8)
            pixels[..., label % 3] += 40 + 8 * label
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
    clip = shared_tiny_clip()
    for module in (experiments.run.run, experiments.run.image_source):
        monkeypatch.setattr(module, "shared_clip", lambda *_: clip)


def run_variant(method, folder, tree, *overrides):
    """The record of a run, which is also in its folder."""
    preset, *own = METHODS[method]
    shots = 2 if method == "PromptKD" else 4  # it sees both halves of the classes
    settings = [f"experiment.dataset='folder/{tree}'", f"experiment.shots={shots}"]
    settings += [*TWO_STEPS, *own, *overrides]
    folder.mkdir(parents=True)
    record = experiments.run.run.run(
        read_config_file(config_path(preset), settings),
        folder,
        identity="test",
        variant=method,
        factors={},
        cache_dir=tree / "cache",
        data_root=None,
        device="cpu",
        on_progress=lambda epoch: None,
    )
    write_record(folder, record)
    return record


def check(folder, tree):
    """Finished, finite, recorded, and the same when restored."""
    record = read_record(folder)
    assert record.status == "finished", record.message
    assert [e.target for e in record.evaluations] == ["base", "new"]
    assert from_json(to_json(record)) == record
    built = reload(folder, Runtime(cache_dir=tree / "cache"))
    state = built.model.state_dict().values()
    assert all(bool(torch.isfinite(value).all()) for value in state)
    again = [
        experiments.run.run.evaluate(built, built.dataset, subset)
        for subset in built.scored_subsets()
    ]
    assert [e.correct for e in again] == [e.correct for e in record.evaluations]


@pytest.mark.parametrize("method", METHODS)
def test_every_variant_trains_is_recorded_and_restored(method, tree, tmp_path):
    for number, parts in enumerate(VARIANTS):
        folder = tmp_path / str(number)
        run_variant(method, folder, tree, *(f"TextRefiner.{k}=@{v}" for k, v in parts.items()))
        check(folder, tree)
    passed[method] |= {row for parts in VARIANTS for row in parts.items()}


@pytest.mark.parametrize("method", METHODS)
def test_all_parts_off_is_the_method_alone_bit_for_bit(method, tree, tmp_path):
    alone, off, on = tmp_path / "alone", tmp_path / "off", tmp_path / "on"
    run_variant(method, alone, tree, "experiment.refiner=@NullRefiner")
    run_variant(method, off, tree, *ALL_OFF)
    run_variant(method, on, tree)
    check(off, tree)
    for name in ("log.jsonl", "weights.safetensors"):
        assert (alone / name).read_bytes() == (off / name).read_bytes()
        assert (alone / name).read_bytes() != (on / name).read_bytes()
    scores = [read_record(folder).evaluations for folder in (alone, off)]
    assert scores[0] == scores[1]
    passed[method].add(OFF_ROW)


def matrix():
    """What passed in this process, as a Markdown table."""
    head = ["", *METHODS]
    rows = [[f"{slot}: `{name}`", *marks((slot, name))] for slot, name in ROWS]
    lines = [head, ["---"] * len(head), [OFF_ROW[1], *marks(OFF_ROW)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def marks(row):
    return ["yes" if row in passed[method] else "no" for method in METHODS]


def test_the_matrix_is_printed_and_the_readme_shows_it(capsys):
    """The last of this file, which makes the matrix as a whole."""
    assert all(passed.values()), "run the whole file: its other tests make the matrix"
    with capsys.disabled():
        print(f"\n{matrix()}")
    assert matrix() in README.read_text()
