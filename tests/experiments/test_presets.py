"""The published presets: one a method and protocol, complete, with the published numbers."""

import math
import re

import pytest

import experiments.run.registered  # noqa: F401
from core.config import config_from_text, lookup
from core.data.benchmarks.definitions import BENCHMARKS
from core.train import fit
from experiments.configs import SHIPPED, config_path, config_rows, read_config_file
from experiments.run.protocols import PROTOCOLS
from experiments.run.run import run
from experiments.study.planner import ROOT, plan
from tests.helpers.mosaic_presets import on_mosaic, preset_names
from tests.helpers.preset_runs import few_test_images

METHODS = (
    "zero_shot",
    "coop",
    "cocoop",
    "text_refiner",
    "promptkd",
    "text_refiner_on_promptkd",
    "sep",
    "promptsrc",
    "ivlp",
    "tda",
    "tpt",
    "dept",
    "coprompt",
    "kgcoop",
    "maple",
    "prograd",
    "tcp",
)
PARTS = ("common", *PROTOCOLS)
FILES = sorted(path.stem for path in (SHIPPED.folder / "published").glob("*.gin"))
GRIDS = tuple(name for name in FILES if name.startswith("grid_"))
PRESETS = tuple(name for name in FILES if name not in (*PARTS, *GRIDS))
SOURCE = "imagenet"
SHIFTED = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
TEN = tuple(name for name in BENCHMARKS if name not in (SOURCE, *SHIFTED))


def config_of(name, *overrides):
    """A preset with what only its user can know: the dataset, and the teacher's file."""
    path = config_path(f"published/{name}")
    bound = read_config_file(path).bindings
    given = [] if "experiment.dataset" in bound else ["experiment.dataset=dtd"]
    if "PublishedTeacher.backbone" in bound and "PublishedTeacher.path" not in bound:
        given.append("PublishedTeacher.path=teacher.pth.tar")
    return read_config_file(path, [*given, *overrides])


def values_of(name):
    return {**config_of(name).operative(ROOT)}


def test_every_method_has_a_preset_for_every_protocol():
    assert {f"{method}_{protocol}" for method in METHODS for protocol in PROTOCOLS} <= set(PRESETS)
    families = [name for name in PRESETS if name.split("_")[0] in ("coop", "sep", "promptsrc")]
    assert len(families) > 3 * len(PROTOCOLS)
    listed = {row["name"] for row in config_rows()}
    assert {f"published/{name}" for name in FILES} <= listed


@pytest.mark.parametrize("name", FILES)
def test_a_preset_says_where_it_is_from(name):
    comment = [
        line for line in (SHIPPED.folder / "published" / f"{name}.gin").read_text().splitlines()
        if line.startswith("#")
    ]  # fmt: skip
    text = " ".join(comment)
    assert re.search(r"Sources?: \S", text) and len(comment) >= 2
    assert all(len(line) <= 125 for line in comment)
    if "No few-shot setting" in text or "was found" in text:
        assert "ours" in text


VIEW_KEYS = ("experiment.crop_scale", "experiment.num_views", "experiment.fresh_views")
NEW_VIEWS = dict(zip(VIEW_KEYS, ((0.08, 1.0), 1, True), strict=True))
TEN_OF_HALF = dict(zip(VIEW_KEYS, ((0.5, 1.0), 10, False), strict=True))
TWENTY = dict(zip(VIEW_KEYS, ((0.08, 1.0), 20, False), strict=True))
AS_TESTED = dict(zip(VIEW_KEYS, ((0.08, 1.0), 0, False), strict=True))
VIEWS = {
    "tip_adapter": TEN_OF_HALF, "tip_adapter_f": TEN_OF_HALF, "linear_probe": TWENTY,
    "clap": TWENTY, "nearest_class_mean": AS_TESTED,
}  # fmt: skip
"""Views of training images, where they are not one that is new in every epoch."""


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_complete_and_nothing_in_it_is_idle(name):
    config = config_of(name)
    config.check_used([ROOT])
    values = config.operative(ROOT)
    (protocol,) = [p for p in PROTOCOLS if f"_{p}" in name]
    assert values["experiment.protocol"] == protocol
    assert values["experiment.backbone"] == "ViT-B-16-quickgelu"
    assert values["experiment.weights"] == "openai"
    assert values["experiment.selection"] in ("last", "val")  # never chosen on test images
    views = {**values, **VIEWS.get(name.partition(f"_{protocol}")[0], NEW_VIEWS)}
    assert views == values
    distils = "PromptKD" in str(values["experiment.method"]) and protocol != "few_shot"
    if protocol in ("cross_dataset", "domain_generalization") and not distils:
        assert values["experiment.dataset"] == SOURCE
        assert set(values["experiment.targets"]) == set(
            TEN if protocol == "cross_dataset" else SHIFTED
        )
    else:
        assert values["experiment.targets"] == ()


EPOCHS, BATCH, SHOTS = "experiment.epochs", "experiment.batch_size", "experiment.shots"
REGIME, WEIGHT = "PromptKD.regime", "PromptKD.kd_weight"
MEAN, STD = "PromptSRC.average_mean", "PromptSRC.average_std"
SEMANTIC, L1 = "SemanticLoss.weight", "L1Regularization.weight"
PUBLISHED = {
    "coop_base_to_new": {EPOCHS: 200, BATCH: 32, "SGD.lr": 0.002, SHOTS: 16},
    "coop_base_to_new_imagenet": {EPOCHS: 50},
    "coop_cross_dataset": {EPOCHS: 50, "CoOp.ctx_init": "a photo of a"},
    "coop_few_shot": {EPOCHS: 200, "CoOp.num_ctx": 16, "CoOp.ctx_init": ""},
    "coop_few_shot_1_shot": {EPOCHS: 50, SHOTS: 1},
    "coop_few_shot_2_4_shots": {EPOCHS: 100, SHOTS: 4},
    "coop_few_shot_imagenet": {EPOCHS: 50},
    "cocoop_base_to_new": {EPOCHS: 10, BATCH: 1, "SGD.lr": 0.002},
    "cocoop_cross_dataset": {EPOCHS: 10, BATCH: 1},
    "text_refiner_base_to_new": {EPOCHS: 10, BATCH: 32, "experiment.selection": "val"},
    "text_refiner_base_to_new_imagenet": {EPOCHS: 10, "experiment.selection": "last"},
    "text_refiner_cross_dataset": {EPOCHS: 10, "EmaCache.num_slots": 25, SEMANTIC: 0.02, L1: 20.0},
    "promptkd_base_to_new": {
        EPOCHS: 20, BATCH: 8, "SGD.lr": 0.005, SHOTS: 0, REGIME: "transductive", WEIGHT: 1000.0,
    },
    "promptkd_base_to_new_aircraft_flowers_dtd": {WEIGHT: 200.0, EPOCHS: 20},
    "promptkd_cross_dataset": {SHOTS: 0, REGIME: "transductive", "PromptKD.depth_vision": 3},
    "promptkd_domain_generalization": {SHOTS: 0, "PromptKD.depth_vision": 3, WEIGHT: 1000.0},
    "text_refiner_on_promptkd_base_to_new": {
        SHOTS: 16, REGIME: "limited", SEMANTIC: 10.0, L1: 20.0,
    },
    "text_refiner_on_promptkd_base_to_new_aircraft_flowers_dtd": {
        WEIGHT: 200.0, SEMANTIC: 2.0, L1: 4.0,
    },
    "text_refiner_on_promptkd_cross_dataset": {SHOTS: 0, REGIME: "transductive", SEMANTIC: 10.0},
    "sep_base_to_new": {
        EPOCHS: 50, BATCH: 32, "Adam.lr": 0.0025, "Adam.eps": 0.001, "experiment.drop_last": False,
        "SEP.selection_scope": "batch", "SEP.num_ctx": 6, "SEP.num_ctx_vision": 4,
    },
    "sep_base_to_new_sun397_imagenet": {EPOCHS: 10, BATCH: 128, "Adam.eps": 0.001},
    "sep_cross_dataset": {EPOCHS: 3, "experiment.drop_last": False},
    "promptsrc_base_to_new": {EPOCHS: 20, BATCH: 4, "SGD.lr": 0.0025, MEAN: 15.0, STD: 1.0},
    "promptsrc_cross_dataset": {EPOCHS: 20, MEAN: 6.0, STD: 10.0, "PromptSRC.depth_text": 3},
    "promptsrc_few_shot": {EPOCHS: 50, MEAN: 30.0, STD: 30.0},
    "promptsrc_few_shot_cars_flowers_aircraft_dtd_eurosat": {EPOCHS: 50, MEAN: 45.0, STD: 5.0},
    "tda_few_shot": {
        "TDA.positive_capacity": 3, "TDA.positive_alpha": 2.0, "TDA.positive_beta": 5.0,
        "TDA.negative_capacity": 2, "TDA.negative_alpha": 0.117, "TDA.negative_beta": 1.0,
        "TDA.entropy_lower": 0.2, "TDA.entropy_upper": 0.5, "TDA.mask_lower": 0.03,
        "TDA.mask_upper": 1.0,
    },
    "tda_few_shot_caltech101": {"TDA.positive_alpha": 5.0, "TDA.positive_beta": 5.0},
    "tda_few_shot_imagenet_sketch": {"TDA.positive_alpha": 2.363, "TDA.positive_beta": 7.45},
    "tpt_few_shot": {
        "TPT.test_views": 63, "TPT.selection": 0.1, "TPT.steps": 1, "TPT.lr": 0.005,
        "TPT.ctx_init": "a photo of a",
    },
    "coprompt_base_to_new": {
        EPOCHS: 8, BATCH: 4, "SGD.lr": 0.0035, "CoPrompt.num_ctx": 2, "CoPrompt.weight": 8.0,
    },
    "coprompt_base_to_new_food101": {EPOCHS: 5, "CoPrompt.weight": 0.5, "CoPrompt.depth": 9},
    "coprompt_cross_dataset": {EPOCHS: 8, "CoPrompt.num_ctx": 4, "CoPrompt.depth": 12},
    "dept_base_to_new": {
        EPOCHS: 10, BATCH: 4, "SGD.lr": 0.0035, "DePT.weight": 0.7, "DePT.lr_factor": 6.5,
        "CoOp.num_ctx": 16, "CoOp.ctx_init": "",
    },
    "ivlp_base_to_new": {EPOCHS: 5, BATCH: 4, "SGD.lr": 0.0035, "IVLP.num_ctx_text": 2},
    "kgcoop_base_to_new": {
        EPOCHS: 100, BATCH: 128, "SGD.lr": 0.002, SHOTS: 16, "KgCoOp.weight": 8.0,
    },
    "kgcoop_cross_dataset": {EPOCHS: 100, SHOTS: 4},
    "kgcoop_few_shot": {EPOCHS: 100, SHOTS: 4, BATCH: 128},
    "maple_base_to_new": {EPOCHS: 5, BATCH: 4, "SGD.lr": 0.0035, "MaPLe.num_ctx": 2},
    "maple_cross_dataset": {EPOCHS: 2, BATCH: 4, "SGD.lr": 0.0026, "MaPLe.depth": 3},
    "prograd_base_to_new": {
        EPOCHS: 100, BATCH: 32, "SGD.lr": 0.002, SHOTS: 4, "ProGrad.num_ctx": 16,
        "ProGrad.ctx_init": None, "ProGrad.strength": 1.0, "ProGrad.temperature": 1.0,
    },
    "prograd_base_to_new_imagenet": {EPOCHS: 50, SHOTS: 4},
    "prograd_cross_dataset": {EPOCHS: 50, SHOTS: 4},
    "prograd_few_shot": {EPOCHS: 200, SHOTS: 16, "ProGrad.strength": 1.0},
    "tcp_base_to_new": {
        EPOCHS: 50, BATCH: 32, "Adam.lr": 0.002, "Adam.eps": 0.001, "TCP.num_ctx": 4,
        "TCP.ctx_init": "", "TCP.weight": 8.0,
    },
    "tcp_base_to_new_sun397_imagenet": {EPOCHS: 25, "Adam.eps": 0.001},
    "ivlp_base_to_new_promptsrc": {EPOCHS: 20, "SGD.lr": 0.0025, "IVLP.depth_text": 9},
    "clip_adapter_few_shot": {EPOCHS: 200, BATCH: 32, "SGD.lr": 1e-5, "ClipAdapter.ratio": 0.2},
    "clip_adapter_few_shot_dtd": {"ClipAdapter.ratio": 0.6, "experiment.dataset": "dtd"},
    "tip_adapter_few_shot": {"TipAdapter.alpha": 1.0, "TipAdapter.beta": 5.5},
    "tip_adapter_few_shot_imagenet": {"TipAdapter.templates": "imagenet7"},
    "tip_adapter_f_few_shot": {
        EPOCHS: 20, BATCH: 256, "AdamW.lr": 0.001, "AdamW.eps": 1e-4, "AdamW.weight_decay": 0.01,
        "ConstantThenCosine.warmup_epochs": 0,
    },
    "tip_adapter_f_few_shot_eurosat": {EPOCHS: 100, "experiment.dataset": "eurosat"},
    "taskres_few_shot": {EPOCHS: 200, BATCH: 256, "Adam.lr": 0.002, "TaskRes.alpha": 0.5},
    "taskres_few_shot_1_2_4_shots": {EPOCHS: 100, SHOTS: 4},
    "taskres_few_shot_flowers": {"TaskRes.alpha": 1.0, "experiment.dataset": "oxford_flowers"},
    "taskres_domain_generalization": {EPOCHS: 200, "Adam.lr": 0.0002},
    "linear_probe_few_shot": {
        EPOCHS: 300, BATCH: 256, "SGD.lr": 0.1, "SGD.weight_decay": 0.0,
        "LinearProbe.constraint": "none",
    },
    "clap_few_shot": {EPOCHS: 300, "LinearProbe.constraint": "class_adaptive"},
    "zero_shot_ensemble_few_shot": {"ZeroShot.templates": "imagenet80"},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers_are_in_force(name):
    values = values_of(name)
    assert {key: values[key] for key in PUBLISHED[name]} == PUBLISHED[name]


def test_the_last_short_batch_is_kept_by_sep_and_tip_adapter_f_alone():
    kept = {name for name in PRESETS if not values_of(name)["experiment.drop_last"]}
    assert kept == {name for name in PRESETS if name.startswith(("sep_", "tip_adapter_f_"))}


def planned(name, *overrides):
    return plan(read_config_file(config_path(f"published/{name}"), overrides), lambda config: {})


def bound(made, variant, dataset, shots=None):
    """The configuration of the first cell there."""
    from core.config import config_from_text

    text = next(
        c.config_text
        for c in made.cells
        if (c.variant, c.dataset, c.shots) == (variant, dataset, shots)
    )
    return config_from_text(text).operative(ROOT)


@pytest.mark.parametrize("name", GRIDS)
def test_published_grids_cover_the_data_sets_and_seeds(name):
    made = planned(name)
    assert made.grid.seeds == (1, 2, 3)
    transfer = any(p in name for p in ("cross_dataset", "domain_generalization"))
    assert set(made.grid.datasets) == ({SOURCE} if transfer else {SOURCE, *TEN})
    selections = {}
    for cell in made.cells:
        values = bound(made, cell.variant, cell.dataset, cell.shots)
        selections.setdefault(cell.variant, set()).add(values["experiment.selection"])
    assert all(rules == {"last"} for rules in selections.values())  # rows can be ranked


def test_epochs_and_weights_of_a_data_set_are_its_own():
    made = planned("grid_base_to_new")
    assert bound(made, "CoOp, 200 epochs", "imagenet")[EPOCHS] == 50
    assert bound(made, "CoOp, 200 epochs", "dtd")[EPOCHS] == 200
    assert {bound(made, "CoOp", d)[EPOCHS] for d in ("imagenet", "dtd")} == {10}
    made = planned("grid_base_to_new_promptkd")
    assert bound(made, "PromptKD", "dtd")[WEIGHT] == 200.0
    assert bound(made, "PromptKD", "eurosat")[WEIGHT] == 1000.0
    refined = bound(made, "PromptKD+TextRefiner", "fgvc_aircraft")
    assert (refined[SEMANTIC], refined[L1]) == (2.0, 4.0)
    made = planned("grid_base_to_new_sep")
    for dataset, budget in {"sun397": (10, 128), "imagenet": (10, 128), "dtd": (50, 32)}.items():
        values = bound(made, "SEP", dataset)
        assert (values[EPOCHS], values[BATCH]) == budget
    assert "a type of pet, " in bound(made, "SEP", "oxford_pets")["experiment.template"]


def test_a_few_shot_grid_has_the_epochs_of_each_number_of_shots():
    made = planned("grid_few_shot")
    assert made.grid.shots == (1, 2, 4, 8, 16)
    found = {n: bound(made, "CoOp", "dtd", n)[EPOCHS] for n in made.grid.shots}
    assert found == {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}
    assert {bound(made, "CoOp", "imagenet", n)[EPOCHS] for n in made.grid.shots} == {50}
    made = planned("grid_few_shot_promptsrc")
    assert {bound(made, "PromptSRC", d, 1)[MEAN] for d in ("dtd", "eurosat")} == {45.0}
    assert bound(made, "PromptSRC", "food101", 1)[MEAN] == 30.0


ADAPTERS = {
    "NearestClassMean": "nearest_class_mean_few_shot",
    "Tip-Adapter": "tip_adapter_few_shot",
    "Tip-Adapter-F": "tip_adapter_f_few_shot",
    "TaskRes": "taskres_few_shot",
    "ZS-LP": "linear_probe_few_shot",
    "CLAP": "clap_few_shot",
}
OF_A_DATASET = {
    ("Tip-Adapter", "imagenet"): "tip_adapter_few_shot_imagenet",
    ("Tip-Adapter-F", "imagenet"): "tip_adapter_f_few_shot_imagenet",
    ("Tip-Adapter-F", "eurosat"): "tip_adapter_f_few_shot_eurosat",
    ("TaskRes", "imagenet"): "taskres_few_shot_imagenet",
    ("TaskRes", "oxford_flowers"): "taskres_few_shot_flowers",
    ("ZS-LP", "imagenet"): "linear_probe_few_shot_imagenet",
    ("CLAP", "imagenet"): "clap_few_shot_imagenet",
}


@pytest.mark.parametrize("variant", ADAPTERS)
@pytest.mark.parametrize("dataset", ["imagenet", "eurosat", "oxford_flowers", "dtd"])
def test_a_grid_of_several_methods_has_the_settings_of_their_presets(variant, dataset):
    made = planned("grid_few_shot_adapters", f"grid.datasets=('{dataset}',)", "grid.shots=(16,)")
    name = OF_A_DATASET.get((variant, dataset), ADAPTERS[variant])
    own = read_config_file(
        config_path(f"published/{name}"), [f"experiment.dataset={dataset}", "experiment.seed=1"]
    )
    expected = own.identity(ROOT)
    texts = {c.config_text for c in made.cells if c.variant == variant and c.seed == 1}
    assert {config_from_text(text).identity(ROOT) for text in texts} == {expected}


def test_a_published_grid_can_be_narrowed():
    made = planned("grid_few_shot", "grid.datasets=('dtd',)", "grid.shots=(1, 16)")
    assert {(c.dataset, c.shots) for c in made.cells} == {("dtd", 1), ("dtd", 16)}


@pytest.mark.parametrize("name", ["cross_dataset", "domain_generalization", "few_shot"])
def test_mosaic_grids_run_the_same_protocols(name):
    made = plan(read_config_file(config_path(f"mosaic_{name}")), lambda config: {})
    assert [v.name for v in made.variants] == ["ZeroShot", "CoOp", "CoOp+TextRefiner"]
    from core.config import config_from_text

    values = config_from_text(made.cells[0].config_text).operative(ROOT)
    assert values["experiment.protocol"] == name and values["experiment.backbone"] == "mosaic"
    if name == "domain_generalization":
        assert all(t.startswith("mosaic/shapes-") for t in values["experiment.targets"])
        assert len(values["experiment.targets"]) == 4


def presets():
    """All presets; those of the published settings are many, and ``make test-slow`` runs them."""
    for name in preset_names():
        published = name.startswith("published/")
        yield pytest.param(name, marks=pytest.mark.slow if published else ())


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("preset", [*presets()])
def test_every_preset_trains_two_steps(preset, small_mosaic, tmp_path, monkeypatch):
    few_test_images(monkeypatch)
    steps = counted_steps(monkeypatch)
    config = on_mosaic(preset)
    if config.operative(ROOT)["experiment.shots"] == 0:  # all images of both halves
        config = on_mosaic(preset, batch_size=60)
    record = run(
        config,
        tmp_path,
        identity="test",
        variant=preset,
        factors={},
        cache_dir=small_mosaic,
        data_root=None,
        device="cpu",
        on_progress=lambda epoch: None,
    )
    assert (record.status, record.message) == ("finished", "")
    method = lookup(config.operative(ROOT)["experiment.method"].name).cls
    trained = method.trains and method.trains_by_gradient
    assert len(steps) >= 2 if trained else not steps
    assert all(math.isfinite(loss) for loss in steps)
    assert {e.target for e in record.evaluations} == scored_by(config)


def scored_by(config):
    values = config.operative(ROOT)
    own = PROTOCOLS[values["experiment.protocol"]].scored
    return {*own, *values["experiment.targets"]}


def counted_steps(monkeypatch):
    """The loss of every training step from now on."""
    step, losses = fit.train_step, []

    def counted(*arguments):
        terms = step(*arguments)
        losses.append(float(terms["loss"]))
        return terms

    monkeypatch.setattr(fit, "train_step", counted)
    return losses
