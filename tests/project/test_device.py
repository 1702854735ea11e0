"""Every registered method, alone and with every part of a refiner, on a pretended GPU: no tensor
forgets its device, the host waits for the device no more often than it must, and nothing is added
in an order that is not fixed.
"""

import copy
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import core.clip.backbone as backbone
from core.config import lookup, registered_classes
from experiments.run.method_presets import method_presets
from experiments.run.run import fingerprints, run
from tests.helpers.paths import ROOT
from tests.helpers.pretended_cuda import PretendedCuda, forget
from tests.helpers.recorded_steps import record_on_cpu
from tests.helpers.tiny_clip import shared_tiny_clip

PRESETS = method_presets()
# Behind the name of a method other settings to cover too.
OTHER_SETTINGS = {
    "CoOp": {
        "class-specific": ("CoOp.class_specific=True", "experiment.protocol='few_shot'"),
        "middle": ("CoOp.class_position='middle'",),
    },
    "CoCoOp": {"in chunks": ("CoCoOp.max_text_memory_mb=0.001",)},
    "PromptKD": {"each step": ("PromptKD.teacher_logits='each_step'",)},
    "SEP": {"released": ("SEP.selection_scope='batch'", "SEP.fusion_axis='batch'")},
}
PRECISIONS = {name: (f"experiment.precision='{name}'",) for name in ("bfloat16", "float16")}
WITH_PARTS = {
    "alignment": "MlpAlignment",
    "cache": "EmaCache",
    "aggregation": "LinearAggregation",
    "semantic": "SemanticLoss",
    "regularization": "L1Regularization",
}
SLOTS = {"alignment": "alignment", "cache": "cache", "aggregation": "aggregation"}


def text_refiner(**parts):
    """TextRefiner with these parts in place of the published ones."""
    slots = {f"TextRefiner.{slot}=@{part}" for slot, part in (WITH_PARTS | parts).items()}
    return ("experiment.refiner=@TextRefiner", *sorted(slots))


def slot_of(part):
    """Where a part of TextRefiner is plugged in."""
    return SLOTS.get(part.kind) or ("semantic" if part.name == "SemanticLoss" else "regularization")


REFINERS = {
    "none": ("experiment.refiner=@NullRefiner",),
    "TextRefiner": text_refiner(),
    "EmaCache that resets": (*text_refiner(), "EmaCache.reset_after=1"),
    "DePT": ("experiment.refiner=@DePT",),
    **{
        part.name: text_refiner(**{slot_of(part): part.name})
        for kind in (*SLOTS, "loss")
        for part in registered_classes(kind)
        if part.name not in WITH_PARTS.values()
    },
}
# The plain method, other settings and other parts run in the slow suite: TextRefiner on a method
# covers most of them. These parts have code of their own for what a host would wait for.
QUICK_PRECISION = {("CoOp", "bfloat16"), ("IVLP", "float16")}
QUICK = {("CoOp", "ClassCache"), ("CoOp", "QueueCache"), ("PromptKD", "ClassCache")}
CASES = [
    pytest.param(
        *(name, label, refiner),
        marks=[]
        if (not label and (refiner == "TextRefiner" or (name, refiner) in QUICK))
        or ((name, label) in QUICK_PRECISION and refiner == "TextRefiner")
        else [pytest.mark.slow],
        id=", ".join(part for part in (name, label, refiner) if part),
    )
    for name in PRESETS
    for label in ("", *OTHER_SETTINGS.get(name, ()), *PRECISIONS)
    for refiner in REFINERS
    if not label or refiner in ("none", "TextRefiner")
]
EPOCHS = 2
STEPS = 3  # an epoch: 4 shots of 3 classes in batches of 4
# Waits of the second epoch by the innermost file: exactly these, so that they can only shrink. The
# one of an epoch reads its losses, its metrics and whether what was learned is finite.
WAITS = {"core/host_number.py": 1}
# In float16 the host decides in each step whether it is made; where it is not, it looks twice.
SKIPPED = {"PromptKD": 1}  # its loss is multiplied by 1000
# Where sums are made by ``index_add``, once before the first step: torch fixes its order in runs
# that are deterministic, as they are unless asked otherwise.
ORDERED_BY_TORCH = {
    "NearestClassMean": {"methods/nearest_class_mean.py"},
    "SEP": {"methods/sep.py"},
}
# Copies of the second epoch from the host beyond one that says which images come, and the pixels.
MORE_COPIES = {
    "PromptKD": STEPS,  # which of the teacher's logits
    "ClipLoRA": 21 * STEPS,  # a mask for each matrix of a tower, drawn on the host
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Six classes of sixteen noisy images each."""
    root = tmp_path_factory.mktemp("tree") / "images"
    noise = np.random.default_rng(0)
    for label in range(6):
        folder = root / f"kind {label}"
        folder.mkdir(parents=True)
        for number in range(16):
            pixels = noise.integers(0, 160, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
    """Runs load a tiny CLIP through the ordinary door: on the CPU, then to the device."""
    made = shared_tiny_clip()
    monkeypatch.setattr(backbone, "load_clip", lambda *_: copy.deepcopy(made))
    forget()
    yield
    forget()


def run_on(device, name, settings, tree, folder, after_epoch=lambda values: None, epochs=EPOCHS):
    """The record of a short run of a method's preset, with settings on top."""
    method = lookup(name, "method").cls
    sees_all, compared = method.regime != "inductive", method.views_per_image
    common = {
        "experiment.dataset": f"'folder/{tree}'",
        "experiment.shots": 2 if sees_all else 4,
        "experiment.batch_size": 4,
        "experiment.epochs": epochs,
        "experiment.num_views": compared if compared > 1 else 0,
        "experiment.split_fractions": (0.5, 0.25, 0.25),
    }
    overrides = [f"{key}={value}" for key, value in common.items()]
    folder.mkdir(parents=True)
    return run(
        PRESETS[name].read_scorable(*overrides, *settings),
        folder,
        identity="test",
        variant="test",
        factors={},
        cache_dir=tree.with_name("cache"),
        data_root=None,
        device=device,
        on_progress=after_epoch,
    )


def by_file(counted):
    """How often something happened, by the innermost file of the product."""
    found = Counter()
    for text, count in counted.items():
        found[text.rpartition(" at ")[2].partition(":")[0]] += count
    return found


@pytest.mark.parametrize(("name", "label", "refiner"), CASES)
def test_no_tensor_forgets_its_device(name, label, refiner, tree, tmp_path):
    own = (OTHER_SETTINGS.get(name, {}) | PRECISIONS)[label] if label else ()
    settings = (*own, *REFINERS[refiner])
    on_cpu = run_on("cpu", name, settings, tree, tmp_path / "cpu")
    forget()
    seen = []
    with PretendedCuda(ROOT, sites=20) as gpu:
        record = run_on(
            "cuda",
            name,
            settings,
            tree,
            tmp_path / "cuda",
            lambda _: seen.append((gpu.waits.copy(), gpu.pageable.copy(), gpu.copies.copy())),
        )
    assert record.status == "finished", record.message
    assert record.environment["device"] == "cuda (pretended)"
    assert record.environment["gpu"]["name"] == "pretended" and record.environment["deterministic"]
    assert [e.correct for e in record.evaluations] == [e.correct for e in on_cpu.evaluations]
    logs = [(tmp_path / device / "log.jsonl").read_text() for device in ("cpu", "cuda")]
    assert logs[0] == logs[1]
    if not seen:
        return  # nothing is trained
    waits, pageable, copies = (after - before for before, after in zip(*seen, strict=True))
    halves = 2 if record.protocol == "few_shot" else 1  # of the classes are trained on
    scaled = {"core/finite.py": halves * STEPS + SKIPPED.get(name, 0)}
    assert by_file(waits) == WAITS | (scaled if label == "float16" else {})
    assert by_file(gpu.unordered).keys() == ORDERED_BY_TORCH.get(name, set())
    steps = STEPS if lookup(name, "method").cls.image_input == "pixels" else 0
    most = 1 + steps + MORE_COPIES.get(name, 0)  # which images, and their pixels
    assert sum(copies.values()) <= most and not pageable


@pytest.mark.parametrize("rule", ["val", pytest.param("oracle-test", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "pixels"), [("CoOp", 0), pytest.param("SEP", STEPS + 1, marks=pytest.mark.slow)]
)
def test_images_that_choose_the_epoch_are_sent_once(name, pixels, rule, tree, tmp_path):
    """After the first scored epoch, scoring sends pixels and which images come, as training does:
    neither features nor labels. Its answers are read back at once.
    """
    settings, seen = (f"experiment.selection='{rule}'",), []
    on_cpu = run_on("cpu", name, settings, tree, tmp_path / "cpu", epochs=3)
    forget()
    with PretendedCuda(ROOT, sites=20) as gpu:
        record = run_on(
            *("cuda", name, settings, tree, tmp_path / "cuda"),
            lambda _: seen.append((gpu.copies.copy(), gpu.waits.copy())),
            epochs=3,
        )
    assert record.status == "finished", record.message
    assert record.selected_epoch == on_cpu.selected_epoch
    copies, waits = zip(*seen, strict=True)
    first, second = (after - before for before, after in itertools.pairwise(copies))
    assert sum(second.values()) == 2 + pixels
    assert by_file(waits[-1] - waits[-2]) == WAITS | {"core/train/evaluate.py": 1}
    assert by_file(first - second).keys() >= {"core/train/feeding.py", "core/devices.py"}


def test_a_run_replays_its_steps_and_ends_the_same(tree, tmp_path, monkeypatch):
    """A recorder of the CPU takes the place of CUDA graphs; optimizers are those of a real GPU."""
    settings = (*REFINERS["TextRefiner"], "experiment.cuda_graphs=True")
    plain = run_on("cpu", "CoOp", settings, tree, tmp_path / "cpu", epochs=4)
    assert "cuda_graph" not in plain.environment
    forget()
    record_on_cpu(monkeypatch)
    with PretendedCuda(ROOT, sites=20) as gpu:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        record = run_on("cuda", "CoOp", settings, tree, tmp_path / "cuda", epochs=4)
    assert record.environment["cuda_graph"] == "used" and not gpu.mixed
    logs = [(tmp_path / device / "log.jsonl").read_text() for device in ("cpu", "cuda")]
    assert logs[0] == logs[1] and record.weights_sha256 == plain.weights_sha256


def test_a_process_loads_a_clip_once_for_each_device(tree, tmp_path, monkeypatch):
    loaded = []
    made = shared_tiny_clip()
    monkeypatch.setattr(
        backbone, "load_clip", lambda name, *_: loaded.append(name) or copy.deepcopy(made)
    )
    clips = (
        "experiment.backbone='ViT-B-16'",
        "experiment.weights='openai'",
        "PromptKD.teacher=@ZeroShotTeacher",
        "ZeroShotTeacher.backbone='ViT-L-14'",
        "ZeroShotTeacher.weights='openai'",
    )
    config = PRESETS["PromptKD"].read(f"experiment.dataset='folder/{tree}'", *clips)
    with PretendedCuda(ROOT):
        for number in range(3):
            fingerprints(config, cache_dir=tree.with_name("cache"), data_root=None)
            run_on("cuda", "PromptKD", clips, tree, tmp_path / str(number))
    # Twice, because the planning before is done on the CPU.
    assert Counter(loaded) == {"ViT-B-16": 2, "ViT-L-14": 2}
