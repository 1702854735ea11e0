"""Every setting matters or leaves the identity: two steps of every method and part, one setting
changed at a time. The identity of a run changes exactly if what is learned or scored does.
"""

import pytest
import torch

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.clip.templates import IMAGENET_TEMPLATES_7
from core.config import config_from_text, lookup, registered_classes
from experiments.run.run import train
from tests.helpers.two_step_runs import ON, built, logits_of, two_steps

ROOT = "experiment"
KINDS = (
    *("method", "refiner", "alignment", "cache", "aggregation", "loss", "optimizer", "schedule"),
    *("teacher", "augmentation", "experiment"),
)
NONE = "experiment.refiner = @NullRefiner"

HOSTS = {
    "CoOp": ("CoOp", "CoOp.ctx_init = ''", NONE),
    "CoCoOp": ("CoCoOp", "CoCoOp.ctx_init = ''", NONE),
    "SEP": ("SEP", "SEP.ctx_init = ''", NONE),
    "IVLP": ("IVLP", "", NONE),
    "PromptSRC": ("PromptSRC", "PromptSRC.average_mean = 1.0\nPromptSRC.num_ctx_text = 2", NONE),
    "PromptKD": ("PromptKD", "", NONE),
    "KgCoOp": ("KgCoOp", "KgCoOp.ctx_init = ''", NONE),
    "MaPLe": ("MaPLe", "", NONE),
    "ProGrad": ("ProGrad", "", NONE),
    "TCP": ("TCP", "", NONE),
    "ZeroShot": ("ZeroShot", "", NONE),
    "CoPrompt": ("CoPrompt", "experiment.num_views = 1", NONE),
    "TDA": ("TDA", "", NONE),
    "TPT": ("TPT", "TPT.ctx_init = ''\nTPT.test_views = 7\nTPT.selection = 0.4", NONE),
    "DePT": ("CoOp", "", "experiment.refiner = @DePT"),
    "ClipAdapter": ("ClipAdapter", "", NONE),
    "ClipLoRA": ("ClipLoRA", "experiment.optimizer = @AdamW\nAdamW.lr = 0.01", NONE),
    "TipAdapter": ("TipAdapter", "", NONE),
    "TipAdapterF": ("TipAdapterF", "", NONE),
    "TaskRes": ("TaskRes", "", NONE),
    "LinearProbe": ("LinearProbe", "LinearProbe.constraint = 'class_adaptive'", NONE),
    "NearestClassMean": ("NearestClassMean", "", NONE),
    "ZeroShotTeacher": ("PromptKD", "PromptKD.teacher = @ZeroShotTeacher", NONE),
    "Adam": ("CoOp", "experiment.optimizer = @Adam", NONE),
    "AdamW": ("CoOp", "experiment.optimizer = @AdamW", NONE),
    "SGD": ("CoOp", "", NONE),
    "ConstantThenCosine": ("CoOp", "experiment.schedule = @ConstantThenCosine", NONE),
    **{
        name: ("CoOp", f"experiment.num_views = 1\nexperiment.augmentation = @{name}", NONE)
        for name in ("RandomResizedCropFlip", "ColorJitter", "RandAugment", "NoAugmentation")
    },
    ROOT: ("CoOp", "experiment.num_views = 1", NONE),
}
"""Where a class is plugged in and has an effect: method, further settings, refiner."""

CHANGED = {
    "num_ctx": "3", "ctx_init": "'an image of'", "class_position": "'front'",
    "class_specific": "True", "meta_reduction": "8", "num_ctx_vision": "3", "text_layers": "(1,)",
    "vision_layers": "(1,)", "selection_scope": "'batch'", "fusion_axis": "'batch'",
    "fusion_hidden": "32", "fusion_init": "'independent'", "text_weight": "1.0",
    "vision_weight": "1.0", "prototype_weight": "0.5", "prototype_scale": "5.0",
    "num_ctx_text": "3", "depth_text": "2", "depth_vision": "2", "ctx_init_tokens": "'all'",
    "prompt_dtype": "'float16'", "image_weight": "1.0", "kl_weight": "0.5",
    "kl_reduction": "'batchmean'", "templates": "('one {}',)", "template_average": "'unit'",
    "average": "'none'", "average_mean": "2.0", "average_std": "3.0", "average_starts_at": "2",
    "temperature": "2.0", "kd_weight": "10.0", "num_slots": "7", "momentum": "0.5",
    "read_temperature": "0.1", "write_reduce": "'mean'", "initial": "'normal'",
    "reset_after": "1", "topk": "2", "alpha": "0.5", "renormalise": "True",
    "initial_gate": "0.5", "hidden_width": "16", "initial_mix": "0.5", "weight": "0.5",
    "local_rows": "('cls',)", "pooling": "'max'", "normalise_rows": "True", "l1_weight": "1.0",
    "cosine_weight": "1.0", "lr": "0.03", "eps": "0.001", "weight_decay": "0.1",
    "warmup_epochs": "0", "warmup_lr": "0.1", "shots": "1", "seed": "2", "epochs": "3",
    "batch_size": "4", "num_views": "2", "fresh_views": "True", "crop_scale": "(0.5, 1.0)",
    "drop_last": "False", "precision": "'bfloat16'", "protocol": "'few_shot'",
    "feature_precision": "'bfloat16'", "feature_storage": "'float16'",
    "positive": "False", "positive_capacity": "1",
    "positive_alpha": "1.0", "positive_beta": "2.0", "negative": "False", "negative_capacity": "1",
    "negative_alpha": "0.5", "negative_beta": "2.0", "entropy_lower": "0.3",
    "entropy_upper": "0.4", "mask_lower": "0.1", "mask_upper": "0.5", "entropy_unit": "'nats'",
    "test_views": "6", "selection": "0.7", "steps": "2", "lr_factor": "2.0", "adjust": "False",
    "fusion": "'probabilities'", "feature_scale": "5.0",
    "reduction": "2", "image_mix": "0.3", "text_mix": "0.4", "ratio": "0.6", "beta": "2.0",
    "init": "'random'", "constraint": "'constant'",
    "dataset": "'mosaic/shapes'", "flip": "1.0", "brightness": "1.0",
    "contrast": "1.0", "saturation": "2.0", "hue": "0.5", "num_ops": "4", "magnitude": "20",
    "distance": "'squared'", "depth": "2", "coupling": "'shared'",
    "coupling_bias": "False", "coupling_init": "'independent'",
    "prompt_template": "'X X X X X {}.'", "strength": "0.5", "projection_scope": "'vector'",
    "class_prompt_length": "2", "injection_block": "2", "injection_weight": "0.5",
    "meta_hidden": "5", "meta_activation": "'relu'",
    "rank": "3", "dropout": "0.5", "scaling": "'rank'", "encoder": "'image'", "matrices": "('q',)",
}  # fmt: skip
"""Another value of each parameter, by its name."""

ELSEWHERE = {
    "RandomResizedCropFlip.ratio": "(1.0, 2.0)",
    "ProGrad.num_ctx": "8",
    "FusionAggregation.renormalise": "False",
    "LearnedCache.initial": "'positive'",
    "TaskRes.alpha": "1.0",
    "RandomCache.initial": "'normal'",
}

DECLARED = {
    "CoCoOp.max_text_memory_mb": "how much is computed at a time",
    "PromptKD.teacher_logits": "exact for unaugmented images",
    "PromptKD.regime": "decides about images and is checked against the protocol",
    "PromptKD.teacher": "a part",
    "TCP.long_context": "lets a run happen or refuses it",
    "ZeroShotTeacher.backbone": "other weights",
    "ZeroShotTeacher.weights": "other weights",
    "experiment.backbone": "other weights",
    "experiment.weights": "other weights",
    "experiment.targets": "checked against the protocol",
    "experiment.template": "refused where nobody reads it, see below",
    "experiment.shots_file": "a file",
    "experiment.overlap": "lets a run happen or refuses it",
    "experiment.selection": "the same epoch may be the best one",
    "experiment.patience": "the same epoch may be the best one",
    "experiment.checkpoint_every": "changes no result",
    "experiment.crop_cache_gb": "changes no result",
    "experiment.cuda_graphs": "changes no result",
    "experiment.tf32": "of a GPU alone",
    "experiment.deterministic": "of a GPU alone",
    "experiment.fixed_views": "for methods that train on pixels",
    "experiment.augmentation": "a part",
    "experiment.split_fractions": "for plain folders",
    "experiment.split_seed": "for plain folders",
    **dict.fromkeys((f"experiment.{part}" for part in ("method", "refiner", "optimizer")), "parts"),
    "experiment.schedule": "a part",
    **dict.fromkeys(
        (f"TextRefiner.{part}" for part in ("alignment", "cache", "aggregation")), "parts"
    ),
    "TextRefiner.semantic": "a part",
    "TextRefiner.losses": "parts",
    "TextRefiner.regularization": "a part",
}
"""Parameters that this test does not change, and why."""

SLOTS = {
    "alignment": "TextRefiner.alignment",
    "cache": "TextRefiner.cache",
    "aggregation": "TextRefiner.aggregation",
    "loss": "TextRefiner.regularization",
}


def first_of(texts):
    """One binding a key: later lines replace earlier ones."""
    lines = "\n".join(texts).splitlines()
    return config_from_text(
        "\n".join({line.partition(" = ")[0]: line for line in lines if line}.values())
    )


def host(entry):
    """A configuration in which a class is plugged in."""
    if entry.name in HOSTS:
        method, settings, refiner = HOSTS[entry.name]
    else:
        slot = "TextRefiner.semantic" if entry.name == "SemanticLoss" else SLOTS[entry.kind]
        lines = [line for line in ON.splitlines() if not line.startswith(slot)]
        method, settings, refiner = "CoOp", f"{slot} = @{entry.name}", "\n".join(lines)
    config = first_of([two_steps(method, "", refiner), settings, "experiment.epochs = 2"])
    return config.without(config.unused((ROOT,)))


LIVE = [
    f"{entry.name}.{name}"
    for kind in KINDS
    for entry in registered_classes(kind)
    for name in entry.parameters
    if f"{entry.name}.{name}" not in DECLARED
    and entry.name not in ("RunTeacher", "PublishedTeacher")
]


def outcome(config, cache_dir):
    """What a run learns and answers, and its loss."""
    assembly = built(config.text(), cache_dir)
    losses = []
    train(assembly, lambda values: losses.append(values.get("loss", 0.0)))
    state = {k: v.detach().clone() for k, v in assembly.model.state_dict().items()}
    return {**state, "logits": logits_of(assembly), "loss": torch.tensor(losses)}


def agree(first, second):
    """Whether two outcomes are the same but for rounding."""
    return first.keys() == second.keys() and all(
        first[k].shape == second[k].shape and torch.allclose(first[k], second[k], atol=1e-6)
        for k in first
    )


@pytest.fixture(autouse=True)
def backbone(request):
    """The tiny CLIP; that of Mosaic for TDA, which keeps answers by how certain they are."""
    parameters = getattr(request.node, "callspec", None)
    if parameters and any("TDA" in str(value) for value in parameters.params.values()):
        return "mosaic"
    request.getfixturevalue("tiny_backbone")
    return "tiny"


@pytest.fixture(scope="module")
def outcomes_of_backbones():
    return {"tiny": {}, "mosaic": {}}


@pytest.fixture
def outcomes(backbone, outcomes_of_backbones):
    """Outcomes of configurations that several settings are compared with."""
    return outcomes_of_backbones[backbone]


def outcome_of(config, outcomes, cache_dir):
    """The outcome of a configuration, computed once."""
    if config.text() not in outcomes:
        outcomes[config.text()] = outcome(config, cache_dir)
    return outcomes[config.text()]


def compared(config, changed, outcomes, cache_dir):
    same = agree(*(outcome_of(one, outcomes, cache_dir) for one in (config, changed)))
    return same, config.identity(ROOT) == changed.identity(ROOT)


def changed_by(config, *lines):
    text = "\n".join(lines)
    return config.with_bindings(config_from_text(text).bindings, "test")


def is_closed_set(config):
    """Whether the method of a configuration scores only what it was trained on."""
    values = config.operative(ROOT)
    entry = lookup(values["experiment.method"].name)
    return entry.cls.closed_set({name: values[f"{entry.name}.{name}"] for name in entry.parameters})


@pytest.mark.parametrize("key", LIVE)
def test_a_setting_changes_the_outcome_and_the_identity(key, outcomes, small_mosaic):
    name, _, parameter = key.partition(".")
    entry = next(e for kind in KINDS for e in registered_classes(kind) if e.name == name)
    config = host(entry)
    value = ELSEWHERE.get(key, CHANGED.get(parameter))
    assert value is not None, f"{key}: name another value in CHANGED, or declare it"
    changed = changed_by(config, f"{key} = {value}")
    if is_closed_set(config) or is_closed_set(changed):
        config, changed = (
            changed_by(c, "experiment.protocol = 'few_shot'") for c in (config, changed)
        )
    same, identical = compared(config, changed, outcomes, small_mosaic)
    assert not same and not identical


CLOSED = "experiment.protocol = 'few_shot'"
WORDS = "CoOp.ctx_init = 'a photo of a'"
DEAD = [
    ("CoOp", WORDS, "CoOp.num_ctx = 4"),
    ("CoOp", WORDS, "CoOp.ctx_init = 'a_photo  of a '"),
    ("CoOp", "CoOp.ctx_init = ''\nCoOp.num_ctx = 1\nCoOp.class_position = 'front'",
     "CoOp.class_position = 'middle'"),
    ("CoCoOp", "CoCoOp.ctx_init = 'a photo of'", "CoCoOp.num_ctx = 3"),
    ("SEP", "SEP.ctx_init = 'a photo of'", "SEP.num_ctx = 3"),
    ("SEP", "SEP.prototype_weight = 0.0", "SEP.prototype_scale = 3.0"),
    ("SEP", "SEP.vision_layers = ()", "SEP.selection_scope = 'batch'"),
    ("SEP", "SEP.vision_layers = ()\nSEP.text_layers = ()", "SEP.fusion_hidden = 8"),
    ("IVLP", "IVLP.num_ctx_vision = 0", "IVLP.depth_vision = 3"),
    ("IVLP", "IVLP.depth_vision = 0", "IVLP.num_ctx_vision = 3"),
    ("IVLP", "IVLP.ctx_init_tokens = 'all'", "IVLP.num_ctx_text = 3"),
    ("IVLP", "IVLP.ctx_init = ''", "IVLP.ctx_init_tokens = 'all'"),
    ("IVLP", "IVLP.depth_vision = 0\nIVLP.depth_text = 1", "IVLP.prompt_dtype = 'float16'"),
    ("PromptSRC", "PromptSRC.average = 'none'", "PromptSRC.average_std = 2.0"),
    ("PromptSRC", "PromptSRC.average_std = 2.0", "PromptSRC.average = 'none'"),
    ("PromptSRC", "PromptSRC.kl_weight = 0.0", "PromptSRC.kl_reduction = 'batchmean'"),
    ("PromptSRC", "PromptSRC.kl_weight = 0.0\nPromptSRC.text_weight = 0.0",
     "PromptSRC.templates = 'dataset'"),
    ("PromptKD", "PromptKD.depth_vision = 0", "PromptKD.num_ctx_vision = 2"),
    ("CoOp", "experiment.schedule = @ConstantThenCosine", "SGD.lr = 0.5"),
    ("CoOp", "experiment.schedule = @ConstantThenCosine", "ConstantThenCosine.warmup_epochs = 5"),
    ("CoOp", "experiment.schedule = @ConstantThenCosine\nConstantThenCosine.warmup_epochs = 0",
     "experiment.schedule = @Constant"),
    ("CoOp", "experiment.schedule = @ConstantThenCosine\nConstantThenCosine.warmup_epochs = 0",
     "ConstantThenCosine.warmup_lr = 0.5"),
    ("KgCoOp", "KgCoOp.ctx_init = 'a photo of'", "KgCoOp.num_ctx = 3"),
    ("KgCoOp", "KgCoOp.weight = 0.0", "KgCoOp.distance = 'squared'"),
    ("KgCoOp", "KgCoOp.weight = 0.0", "experiment.template = 'one {} of many.'"),
    ("MaPLe", "MaPLe.depth = 1", "MaPLe.coupling = 'shared'"),
    ("MaPLe", "MaPLe.depth = 2", "MaPLe.coupling_init = 'independent'"),
    ("MaPLe", "MaPLe.coupling = 'shared'", "MaPLe.coupling_init = 'independent'"),
    ("MaPLe", "MaPLe.ctx_init = 'a photo of a'", "MaPLe.ctx_init = 'a_photo  of a '"),
    ("ClipLoRA", "ClipLoRA.rank = 1", "ClipLoRA.scaling = 'rank'"),
    ("ClipLoRA", "ClipLoRA.matrices = ('q', 'v')", "ClipLoRA.matrices = ('v', 'q')"),
    ("ProGrad", "ProGrad.strength = 0.0", "ProGrad.temperature = 2.0"),
    ("ProGrad", "ProGrad.ctx_init = 'a photo of'", "ProGrad.num_ctx = 3"),
    ("ProGrad", "ProGrad.ctx_init = ''", "ProGrad.num_ctx = 4"),
    ("ProGrad", "ProGrad.strength = 0.0", "ProGrad.projection_scope = 'vector'"),
    ("ProGrad", "ProGrad.ctx_init = 'a photo of'", "ProGrad.ctx_init = 'a_photo  of '"),
    ("ProGrad", "ProGrad.ctx_init = ''\nProGrad.num_ctx = 1\nProGrad.class_position = 'front'",
     "ProGrad.class_position = 'middle'"),
    ("ProGrad", "ProGrad.ctx_init = ''\nProGrad.num_ctx = 1",
     "ProGrad.projection_scope = 'vector'"),
    ("TCP", "", "TCP.long_context = 'overwrite'"),
    ("TCP", "TCP.ctx_init = 'a photo of'", "TCP.num_ctx = 3"),
    ("TCP", "TCP.num_ctx = 3", "TCP.class_prompt_length = 3"),
    ("TCP", "TCP.injection_weight = 0.0", "TCP.meta_hidden = 3"),
    ("TCP", "TCP.injection_weight = 0.0", "TCP.injection_block = 2"),
    ("TCP", "TCP.injection_weight = 0.0", "TCP.class_prompt_length = 2"),
    ("ZeroShot", "", "experiment.shots = 7"),
    ("CoPrompt", "experiment.num_views = 1\nCoPrompt.weight = 0.0",
     "CoPrompt.templates = ('one {}',)"),
    ("CoPrompt", "experiment.num_views = 1\nCoPrompt.ctx_init = 'a photo of a'",
     "CoPrompt.ctx_init = 'a_photo  of a '"),
    ("TDA", "", "experiment.shots = 7"),
    ("TDA", "TDA.positive = False", "TDA.positive_beta = 2.0"),
    ("TDA", "TDA.negative_alpha = 0.0", "TDA.negative = False"),
    ("TPT", "TPT.ctx_init = 'a photo of'\nTPT.test_views = 3", "TPT.num_ctx = 3"),
    ("ZeroShot", "", "SGD.lr = 0.7"),
    ("ZeroShot", f"ZeroShot.templates = {IMAGENET_TEMPLATES_7}",
     "ZeroShot.templates = 'imagenet7'"),
    ("TaskRes", f"{CLOSED}\nTaskRes.templates = {IMAGENET_TEMPLATES_7}",
     "TaskRes.templates = 'imagenet7'"),
    ("LinearProbe", f"{CLOSED}\nLinearProbe.init = 'random'",
     "LinearProbe.templates = 'imagenet7'"),
    ("TipAdapter", CLOSED, "SGD.lr = 0.7"),
    ("TipAdapter", CLOSED, "experiment.epochs = 7"),
    ("TipAdapter", CLOSED, "experiment.batch_size = 3"),
    ("TipAdapter", CLOSED, "experiment.optimizer = None"),
    ("IVLP", "experiment.num_views = 1", "experiment.num_views = 3"),
    ("CoOp", "experiment.num_views = 1\nexperiment.fresh_views = True",
     "experiment.num_views = 3"),
    ("TDA", "TDA.positive = False\nTDA.negative = False", "experiment.seed = 2"),
    ("TDA", "TDA.positive = False\nTDA.negative = False", "experiment.method = @ZeroShot"),
    ("TDA", "TDA.positive = False\nTDA.negative = False\nTDA.templates = ('one {}',)\n"
     "ZeroShot.templates = ('one {}',)", "experiment.method = @ZeroShot"),
    ("TPT", "TPT.test_views = 3\nexperiment.augmentation = @NoAugmentation",
     "experiment.crop_scale = (0.5, 1.0)"),
    ("TCP", "", "TCP.prompt_template = 'X X X X {}.'"),
    ("TCP", "TCP.ctx_init = 'a photo'", "TCP.prompt_template = 'X X {}.'"),
    ("NearestClassMean", CLOSED, "experiment.batch_size = 3"),
    ("NearestClassMean", CLOSED, "experiment.selection = 'val'"),
]  # fmt: skip
DEPT = "experiment.refiner = @DePT"
DEAD_DEPT = [
    ("CoOp", f"{DEPT}\nexperiment.schedule = @ConstantThenCosine", "DePT.lr_factor = 2.0"),
    ("CoOp", f"{DEPT}\nDePT.weight = 0.0", "DePT.lr_factor = 2.0"),
]
DEAD_PARTS = [
    ("EmaCache.num_slots = 1", "EmaCache.read_temperature = 0.1"),
    ("EmaCache.momentum = 1.0", "EmaCache.write_reduce = 'mean'"),
    ("TextRefiner.aggregation = @FusionAggregation", "EmaCache.read_temperature = 0.1"),
    (
        "LinearAggregation.alpha = 0.0\nLinearAggregation.renormalise = True",
        "EmaCache.num_slots = 7",
    ),
    ("LinearAggregation.alpha = 0.0", "EmaCache.num_slots = 7"),
    ("SemanticLoss.local_rows = ('cls', 'mean')", "SemanticLoss.topk = 2"),
    ("SemanticLoss.local_rows = ('cls', 'mean')", "SemanticLoss.local_rows = ('mean', 'cls')"),
    ("SemanticLoss.local_rows = ('cls',)", "SemanticLoss.pooling = 'max'"),
    ("SemanticLoss.weight = 0.0", "SemanticLoss.topk = 2"),
    ("L1Regularization.weight = 0.0", "TextRefiner.regularization = @NoLoss"),
    *[
        (
            f"TextRefiner.aggregation = @NoAggregation\nTextRefiner.{slot} = @{loss}",
            f"TextRefiner.{slot} = @NoLoss",
        )
        for slot, loss in (
            ("regularization", "L1Regularization"),
            ("regularization", "CosineRegularization"),
            ("semantic", "L1CosineRegularization"),
        )
    ],
    (
        "TextRefiner.aggregation = @NoAggregation\n"
        "TextRefiner.losses = {'further': @CosineRegularization}",
        "TextRefiner.losses = {}",
    ),
]


@pytest.mark.parametrize(
    ("method", "state", "line"),
    [*DEAD, *DEAD_DEPT, *[("CoOp", state, line) for state, line in DEAD_PARTS]],
)
def test_a_setting_without_effect_leaves_the_identity(method, state, line, outcomes, small_mosaic):
    refiner = ON if (state, line) in DEAD_PARTS else NONE
    config = first_of([two_steps(method, "", refiner), state])
    changed = first_of([config.text(), line])
    first, second = (
        outcome_of(one.without(one.unused((ROOT,))), outcomes, small_mosaic)
        for one in (config, changed)
    )
    common = min(len(one["logits"]) for one in (first, second))  # of a stream there are all images
    assert torch.allclose(first["logits"][:common], second["logits"][:common], atol=1e-5)
    assert config.identity(ROOT) == changed.identity(ROOT)


ALIVE = [
    ("CoOp", f"TextRefiner.aggregation = @NoAggregation\nTextRefiner.regularization = @{loss}",
     "TextRefiner.regularization = @NoLoss")
    for loss in ("SpreadLoss", "SemanticLoss")
] + [
    ("CoOp", "LinearAggregation.alpha = 0.0\nTextRefiner.regularization = @SpreadLoss",
     "SpreadLoss.weight = 3.0"),
    ("CoOp", "TextRefiner.aggregation = @NoAggregation\n"
     "TextRefiner.losses = {'further': @SpreadLoss}", "SpreadLoss.weight = 3.0"),
]  # fmt: skip
"""With all parts of a refiner on: settings that look as if they had no effect, but have one."""


@pytest.mark.parametrize(("method", "state", "line"), ALIVE)
def test_a_setting_that_only_looks_inert(method, state, line, outcomes, small_mosaic):
    text = two_steps(method, "", ON)
    config = first_of([text, "TextRefiner.semantic = @NoLoss", "experiment.epochs = 2", state])
    changed = first_of([config.text(), line])
    pair = (one.without(one.unused((ROOT,))) for one in (config, changed))
    same, identical = compared(*pair, outcomes, small_mosaic)
    assert not same and not identical


def test_without_weight_of_the_method_both_fusions_predict_the_same(outcomes, small_mosaic):
    config = first_of([two_steps("CoOp", "", DEPT), "DePT.weight = 1.0"])
    changed = first_of([config.text(), "DePT.fusion = 'probabilities'"])
    first, second = (outcome(one, small_mosaic)["logits"] for one in (config, changed))
    assert torch.allclose(first.softmax(dim=-1), second.softmax(dim=-1), atol=1e-5)
    assert config.identity(ROOT) == changed.identity(ROOT)


IDLE = [
    ("CoOp", "CoOp.num_ctx = 16", "CoOp.ctx_init = '' for 16 random vectors"),
    ("CoOp", "CoOp.num_ctx = 3", "set CoOp.num_ctx = 4"),
    ("CoCoOp", "CoCoOp.num_ctx = 16", "starts from the 4 words of CoCoOp.ctx_init"),
    ("SEP", "SEP.ctx_init = 'a photo'\nSEP.num_ctx = 6", "set SEP.num_ctx = 2"),
    ("CoOp", "experiment.template = 'one {}.'", "CoOp makes its own prompts"),
    ("CoCoOp", "experiment.template = 'one {}.'", "CoCoOp makes its own prompts"),
    ("IVLP", "experiment.template = 'one {}.'", "IVLP makes its own prompts"),
    ("TPT", "experiment.template = 'one {}.'", "TPT makes its own prompts"),
    ("PromptSRC", "experiment.template = 'one {}.'", "PromptSRC makes its own prompts"),
    ("KgCoOp", "KgCoOp.num_ctx = 16", "KgCoOp.ctx_init = '' for 16 random vectors"),
    ("KgCoOp", "experiment.template = 'one {}.'\nKgCoOp.weight = 0.0", "KgCoOp makes its own"),
    ("MaPLe", "experiment.template = 'one {}.'", "MaPLe makes its own prompts"),
    (
        "CoPrompt",
        "experiment.template = 'one {}.'\nCoPrompt.templates = ('a {}.',)",
        "CoPrompt makes its own prompts",
    ),
    (
        "ProGrad",
        "experiment.template = 'one {}.'\nProGrad.ctx_init = 'a'\nProGrad.strength = 0.0",
        "ProGrad makes its own prompts",
    ),
    ("TCP", "TCP.ctx_init = 'a photo'\nTCP.num_ctx = 6", "set TCP.num_ctx = 2"),
    ("ZeroShot", "experiment.template = 'one {}.'\nZeroShot.templates = ('a {}.',)", "ZeroShot"),
    ("ZeroShot", "experiment.template = 'one {}.'\nZeroShot.templates = 'clip60'", "ZeroShot"),
    (
        "TipAdapter",
        "experiment.template = 'one {}.'\nTipAdapter.templates = 'clip60'",
        "TipAdapter makes its own prompts",
    ),
    ("NearestClassMean", "experiment.template = 'one {}.'", "reads no template"),
    (
        "PromptKD",
        "experiment.template = 'one {}.'\nPromptKD.teacher = @ZeroShotTeacher\n"
        "ZeroShotTeacher.templates = ('a {}.',)",
        "PromptKD makes its own prompts",
    ),
]


@pytest.mark.parametrize(("method", "settings", "message"), IDLE)
def test_contradicting_settings_are_refused_with_the_way_out(method, settings, message):
    config = first_of([two_steps(method), settings])
    with pytest.raises(ValueError, match=message) as caught:
        config.check_used((ROOT,))
    assert "\n" not in str(caught.value)
    (key,) = (k for k in config.unused((ROOT,)) if not k.startswith("SGD"))
    assert config.identity(ROOT) == config.without([key]).identity(ROOT)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("CoOp", "CoOp.num_ctx = 4"),
        ("CoOp", "CoOp.num_ctx = 16\nCoOp.ctx_init = ''"),
        ("CoOp", "CoOp.num_ctx = 16\nCoOp.ctx_init = '_ '"),
        ("SEP", "SEP.ctx_init = 'a photo of a'"),
        ("ZeroShot", "experiment.template = 'one {}.'"),
        ("SEP", "experiment.template = 'one {}.'"),
        ("PromptSRC", "experiment.template = 'one {}.'\nPromptSRC.templates = 'dataset'"),
        ("PromptKD", "experiment.template = 'one {}.'"),
        ("KgCoOp", "experiment.template = 'one {}.'"),
        ("ProGrad", "experiment.template = 'one {}.'"),
        ("ProGrad", "experiment.template = 'one {}.'\nProGrad.ctx_init = 'a photo of a'"),
        ("TCP", "experiment.template = 'one {}.'"),
    ],
)
def test_settings_that_agree_are_accepted(method, settings):
    first_of([two_steps(method), settings]).check_used((ROOT,))


@pytest.mark.parametrize(
    "method",
    [
        *("SEP", "ZeroShot", "PromptKD", "CoOp", "CoCoOp", "IVLP", "PromptSRC"),
        *("KgCoOp", "MaPLe", "ProGrad", "TCP"),
        *("ClipAdapter", "TipAdapter", "TipAdapterF", "TaskRes", "LinearProbe"),
        "NearestClassMean",
    ],
)
def test_a_method_reads_the_template_if_it_says_so(method, outcomes, small_mosaic):
    config = first_of([two_steps(method)])
    if is_closed_set(config):
        config = first_of([config.text(), CLOSED])
    changed = first_of([config.text(), "experiment.template = 'one {} of many.'"])
    reads = "experiment.template" not in changed.unused((ROOT,))
    same, _ = compared(config, changed, outcomes, small_mosaic)
    assert same is not reads


TEMPLATES = [
    "", "a photo.", "a {} and a {}.", "a {0}.", "a {name}.", "a {", "a {} {", "}{", "{} }", "{{}}",
    "{!r}", "{:>9}", " {} ", "{}\t",
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "key",
    [
        "experiment.template",
        "ZeroShot.templates",
        "PromptSRC.templates",
        "TDA.templates",
        "CoPrompt.templates",
        "ZeroShotTeacher.templates",
        "TCP.prompt_template",
    ],
)
def test_templates_are_checked_where_they_are_given(key, template):
    value = ("a {}.", template) if key.endswith("templates") else template
    with pytest.raises(ValueError, match=r"\{\} exactly once"):
        config_from_text(f"{key} = {value!r}")


@pytest.mark.parametrize("template", ["{}", "a {}.", "{} texture.", 'a "{}".', "ein Foto von {}."])
def test_right_templates_are_accepted(template):
    assert config_from_text(f"experiment.template = {template!r}").bindings
